//! What one slot, or many, say of one criterion: counts, and nothing that is decided.

use bellwether_protocol::id::Class;
use bellwether_protocol::plan::{Criterion, Objective};
use bellwether_protocol::ratio::Times;
use bellwether_protocol::sample::{LATENCY_EDGES_MS, Portion, class};
use bellwether_protocol::time::Span;
use serde::{Deserialize, Serialize};

use crate::kernel::threshold::Counts;

/// Counts of one slot or many, of one cohort.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tally {
    /// Events: answers, or for a number the answers that held it.
    pub n: u64,
    /// Of these, over the limit for certain.
    pub bad: u64,
    /// Of these, over the target, or not certain to be within it.
    pub over_target: u64,
    /// The value furthest out for a number, the last one for a level.
    pub value: Option<f64>,
    /// How long the process has run, where the criterion asks for it.
    pub uptime: Option<f64>,
    /// Answers slower than each of [`LATENCY_EDGES_MS`]; empty unless latencies are compared.
    pub slower: Vec<u64>,
}

/// A portion of a slot that is evidence for its cohort.
#[derive(Debug, Clone, Copy)]
pub struct Attributed<'a> {
    /// The portion.
    pub portion: &'a Portion,
    /// Only its bad answers count: it named no release.
    pub only_bad: bool,
}

/// What a slot is counted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    /// For its own cohort alone.
    Alone,
    /// As the baseline that a canary is compared with: an answer that may be slower than an edge counts.
    Baseline,
    /// As the canary: only an answer that is slower for certain counts, than edges so many times as far out.
    Canary {
        /// How many times as slow as the baseline it may be.
        times: Times,
    },
}

impl Tally {
    /// What the portions that are evidence say.
    pub fn of(criterion: &Criterion, seen: &[Attributed<'_>], count: Count) -> Self {
        let mut tally = Self::default();
        for portion in seen {
            tally.add(&Self::of_portion(criterion, portion, count));
        }
        tally
    }

    fn of_portion(criterion: &Criterion, seen: &Attributed<'_>, count: Count) -> Self {
        let Attributed { portion, only_bad } = *seen;
        let counted = |is_counted: &dyn Fn(&Class) -> bool| {
            let counts = portion.classes.iter().filter(|(name, _)| is_counted(name)).map(|(_, count)| *count);
            counts.fold(0, u64::saturating_add)
        };
        let n = || counted(&|name| !only_bad || !class::is_ok(name));
        let bad = |bad: &[Class]| {
            counted(&|name| match bad {
                [] => !class::is_ok(name),
                bad => bad.contains(name) || class::is_unclassed(name),
            })
        };
        let ratio = |classes: &[Class]| {
            let bad = bad(classes);
            Self { n: n(), bad, over_target: bad, ..Self::default() }
        };
        match &criterion.objective {
            Objective::Consecutive { .. } => ratio(&[]),
            Objective::Burn { bad, .. }
            | Objective::Compare { bad, .. }
            | Objective::Ratio { bad, .. }
            | Objective::Zero { bad } => ratio(bad),
            // An answer that named no release has neither a latency nor a number of the release.
            Objective::CompareLatency { .. }
            | Objective::Number { .. }
            | Objective::Quantile { .. }
            | Objective::Rising { .. }
            | Objective::Stable { .. }
                if only_bad =>
            {
                Self::default()
            }
            Objective::CompareLatency { .. } => Self {
                n: portion.latency.n(),
                slower: LATENCY_EDGES_MS.iter().map(|edge| slower(portion, *edge, count)).collect(),
                ..Self::default()
            },
            Objective::Number { number, min, max, target } => {
                let Some(level) = portion.numbers.get(number) else { return Self::default() };
                let outside = min.is_some_and(|min| level.min < min) || max.is_some_and(|max| level.max > max);
                let over = target.is_some_and(|target| level.max > target);
                let value = if max.is_some() || target.is_some() { level.max } else { level.min };
                let all_if = |yes: bool| if yes { level.n } else { 0 };
                let (bad, over_target) = (all_if(outside), all_if(over));
                Self { n: level.n, bad, over_target, value: Some(value), ..Self::default() }
            }
            Objective::Quantile { max, target, .. } => Self {
                n: portion.latency.n(),
                bad: portion.latency.surely_over(*max),
                over_target: portion.latency.over(target.unwrap_or(*max)),
                ..Self::default()
            },
            // What it fell from, the track knows.
            Objective::Rising { number } => {
                let Some(level) = portion.numbers.get(number) else { return Self::default() };
                let bad = u64::from(level.last < level.max);
                Self { n: level.n, bad, over_target: bad, value: Some(level.last), ..Self::default() }
            }
            Objective::Stable { number, uptime, .. } => {
                let Some(level) = portion.numbers.get(number) else { return Self::default() };
                let uptime = uptime.as_ref().and_then(|name| portion.numbers.get(name)).map(|level| level.min);
                Self { n: level.n, value: Some(level.last), uptime, ..Self::default() }
            }
        }
    }

    /// Its events, good and bad.
    pub fn counts(&self) -> Counts {
        Counts::new(self.bad, self.n)
    }

    /// Adds another slot or region. Of two numbers the larger deviation cannot be told apart here
    /// from the smaller, so the larger value is kept; a limit from below keeps its own in `bad`.
    pub fn add(&mut self, other: &Self) {
        self.n = self.n.saturating_add(other.n);
        self.bad = self.bad.saturating_add(other.bad);
        self.over_target = self.over_target.saturating_add(other.over_target);
        self.value = either(self.value, other.value, f64::max);
        self.uptime = either(self.uptime, other.uptime, f64::min);
        if self.slower.len() < other.slower.len() {
            self.slower.resize(other.slower.len(), 0);
        }
        for (own, theirs) in self.slower.iter_mut().zip(&other.slower) {
            *own = own.saturating_add(*theirs);
        }
    }
}

fn slower(portion: &Portion, edge_ms: u64, count: Count) -> u64 {
    match count {
        Count::Alone | Count::Baseline => portion.latency.over(Span::from_ms(edge_ms)),
        Count::Canary { times } => portion.latency.surely_over(Span::from_ms(stretched(edge_ms, times))),
    }
}

/// An edge that lies so many times further out, in whole milliseconds, rounded up.
pub(crate) fn stretched(edge_ms: u64, times: Times) -> u64 {
    edge_ms.saturating_mul(u64::from(times.milli())).div_ceil(1_000)
}

fn either(own: Option<f64>, theirs: Option<f64>, pick: fn(f64, f64) -> f64) -> Option<f64> {
    match (own, theirs) {
        (Some(own), Some(theirs)) => Some(pick(own, theirs)),
        (own, theirs) => own.or(theirs),
    }
}
