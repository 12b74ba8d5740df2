//! The service itself: levers with targets that move some time after they were told to, and
//! answers that depend on the release that is really there.

use std::collections::{BTreeMap, BTreeSet};

use bellwether_protocol::id::{LeverName, LeverValue, Region, Release};
use bellwether_protocol::presence::Target;
use bellwether_protocol::sample::Cohort;
use bellwether_protocol::time::Span;
use bellwether_runtime::Reading;

use super::World;

/// What goes wrong with answers.
#[derive(Debug, Clone)]
pub(crate) struct Fault {
    /// Only of this release; absent: of every release.
    pub(crate) release: Option<Release>,
    /// Only in this region.
    pub(crate) region: Option<Region>,
    /// Only where this lever stands so.
    pub(crate) lever: Option<(LeverName, LeverValue)>,
    /// Of which class the answers are.
    pub(crate) class: &'static str,
    /// How many of the answers.
    pub(crate) share: f64,
    /// Only so many answers in all.
    pub(crate) left: u64,
}

/// One lever, as it really is.
#[derive(Debug, Clone)]
pub(crate) struct Real {
    pub(crate) targets: BTreeMap<String, LeverValue>,
    pub(crate) lag: Span,
    /// What the platform says no with.
    pub(crate) refuses: Option<String>,
    /// Targets that do not move.
    pub(crate) stuck: BTreeSet<String>,
    orders: u64,
}

/// The service.
#[derive(Debug, Default)]
pub(crate) struct Site {
    pub(crate) levers: BTreeMap<LeverName, Real>,
    pub(crate) faults: Vec<Fault>,
    /// Which lever holds the release of the canary in a region; `release` where nothing is said.
    pub(crate) held_by: BTreeMap<Region, LeverName>,
    pub(crate) baseline: Option<Release>,
}

impl Site {
    pub(crate) fn lever(&mut self, name: &str, targets: &[&str], value: &str, lag: Span) {
        let targets = targets.iter().map(|target| ((*target).to_owned(), value.parse().unwrap())).collect();
        let real = Real { targets, lag, refuses: None, stuck: BTreeSet::new(), orders: 0 };
        self.levers.insert(name.parse().unwrap(), real);
    }

    pub(crate) fn real(&mut self, name: &str) -> &mut Real {
        self.levers.get_mut(&name.parse().unwrap()).expect("a lever of the site")
    }

    /// Reads a lever from where it applies.
    pub(crate) fn read(&self, lever: &LeverName) -> Reading {
        let targets = &self.levers[lever].targets;
        let first = targets.values().next();
        let value = first.filter(|first| targets.values().all(|value| value == *first)).cloned();
        let target = |(id, value): (&String, &LeverValue)| Target { id: id.clone(), value: Some(value.clone()) };
        Reading { value, targets: targets.iter().map(target).collect() }
    }

    /// The release that answers this cohort in this region.
    pub(crate) fn release(&self, cohort: Cohort, region: &Region) -> Option<Release> {
        if cohort == Cohort::Baseline {
            return self.baseline.clone();
        }
        let name = self.held_by.get(region).cloned().unwrap_or_else(|| "release".parse().unwrap());
        let targets = &self.levers.get(&name)?.targets;
        let value = targets.get(region.as_str()).or_else(|| targets.values().next())?;
        value.as_str().parse().ok()
    }

    /// How many of `n` answers of `release` are of which bad class. Of two faults the first one hits.
    pub(crate) fn bad_of(
        &mut self,
        n: u64,
        release: Option<&Release>,
        region: &Region,
        rng: &mut fastrand::Rng,
    ) -> BTreeMap<&'static str, u64> {
        let mut bad = BTreeMap::new();
        for fault in &mut self.faults {
            let fits = fault.release.is_none() || fault.release.as_ref() == release;
            let here = fault.region.as_ref().is_none_or(|own| own == region);
            let stands = fault.lever.as_ref().is_none_or(|(name, value)| {
                self.levers.get(name).is_some_and(|real| real.targets.values().any(|own| own == value))
            });
            if fits && here && stands {
                let hits = (0..n).filter(|_| fault.share >= 1.0 || rng.f64() < fault.share).count() as u64;
                let before: u64 = bad.values().sum();
                *bad.entry(fault.class).or_default() += hits.min(fault.left).min(n - before);
                fault.left = fault.left.saturating_sub(hits);
            }
        }
        bad
    }
}

impl World {
    /// Tells the platform; its targets move later, unless a newer order came in between.
    pub(crate) fn order(&mut self, lever: &LeverName, to: &LeverValue) {
        let Some(real) = self.site.levers.get_mut(lever) else { return };
        real.orders += 1;
        let (order, lag) = (real.orders, real.lag);
        let moving: Vec<String> = real.targets.keys().filter(|id| !real.stuck.contains(*id)).cloned().collect();
        for id in moving {
            let (lever, to) = (lever.clone(), to.clone());
            let own = self.some(0, 400);
            self.at(self.now + lag + own, move |world| {
                let Some(real) = world.site.levers.get_mut(&lever).filter(|real| real.orders == order) else { return };
                real.targets.insert(id, to);
            });
        }
    }
}
