//! A stream on its expected path, slot by slot, through the very track that judges a rollout.

use bellwether_protocol::plan::{Criterion, Objective, Plan, Stage};
use bellwether_protocol::ratio::Ratio;
use bellwether_protocol::sample::LATENCY_EDGES_MS;
use bellwether_protocol::time::{Span, Timestamp};

use super::ratio;
use crate::budget;
use crate::kernel::threshold::Counts;
use crate::rule::stability::Stability;
use crate::tally::Tally;
use crate::track::{Pair, Track};

/// One criterion of one stage, and the traffic of one cohort in one region.
#[derive(Debug, Clone, Copy)]
pub(super) struct Path<'a> {
    pub(super) plan: &'a Plan,
    pub(super) stage: &'a Stage,
    pub(super) criterion: &'a Criterion,
    pub(super) per_minute: f64,
}

/// Climbs are found to this part of themselves.
const CLIMB_STEP: f64 = 1.05;

impl Path<'_> {
    /// When it fails of which a share `p` is bad from the start, within the soak.
    pub(super) fn fails(&self, p: f64) -> Option<Span> {
        self.first(|slot| (self.slot(slot, p, |_| 0.0), Vec::new()))
    }

    /// When a canary fails that is bad `times` as often as a baseline with a share `p` of bad answers.
    pub(super) fn fails_beside(&self, p: f64, times: f64, deviates: f64) -> Option<Span> {
        // The logarithm of the ratio of two counts has the variance 1/a + 1/b: it is least likely to be
        // so small where each is off by as many, the one less and the other more.
        let off = |n: f64| deviates * libm::sqrt(n * p * times / (1.0 + times));
        self.first(|slot| {
            let canary = self.slot(slot, (p * times).min(1.0), |n| -off(n));
            let baseline = self.slot(slot, p, off);
            (Tally::default(), vec![Pair { canary, baseline }])
        })
    }

    /// Each planned look that shows a climb of at most 100 % a day: when it is, and the smallest.
    pub(super) fn climbs(&self, within: f64) -> Vec<(Span, Ratio)> {
        let planned = self.planned();
        let look = |climb: f64| self.climb(within, climb, planned);
        let mut shown: Vec<(Span, Ratio)> = Vec::new();
        // The steeper, the earlier the look that shows it.
        let mut climb = 1.0;
        while climb > within {
            let Some(at) = look(climb) else { break };
            match shown.last_mut() {
                Some((own, least)) if *own == at => *least = ratio(climb),
                _ => shown.push((at, ratio(climb))),
            }
            climb /= CLIMB_STEP;
        }
        shown
    }

    /// The look that shows a climb of such a share a day, in a level that scatters as widely as it may.
    fn climb(&self, within: f64, climb: f64, planned: u64) -> Option<Span> {
        let slot = self.plan.slot;
        let mut stability = Stability::new(within, slot, planned);
        let bucket = stability.bucket_slots();
        (1..=planned).find_map(|seen| {
            let day = slot.times(seen).as_ms() as f64 / 86_400_000.0;
            // The fractional parts of multiples of the golden ratio: as even as can be, in no order.
            let scatter = ((seen / bucket) as f64 * 0.618_033_988_749_895).fract() - 0.5;
            let level = 1.0 + climb * day + within * scatter;
            stability.fold(Timestamp::default(), Some(level), None);
            stability.is_broken().then(|| slot.times(seen))
        })
    }

    /// The end of the first slot after which the criterion fails.
    fn first(&self, of_slot: impl Fn(u64) -> (Tally, Vec<Pair>)) -> Option<Span> {
        let (slot, start) = (self.plan.slot, Timestamp::default());
        let share = budget::share(self.plan, self.stage, self.criterion, false);
        let mut track = Track::new(self.criterion, share, slot, start);
        (0..share.planned).find_map(|index| {
            let (tally, pairs) = of_slot(index);
            let sum = pairs.first().map_or(&tally, |pair| &pair.canary);
            track.push(self.criterion, start + slot.times(index), sum, &pairs, true);
            track.fails(self.criterion).then(|| slot.times(index + 1))
        })
    }

    /// What one slot holds where a share `p` is bad, and of so many events so many more.
    fn slot(&self, slot: u64, p: f64, off: impl Fn(f64) -> f64) -> Tally {
        let per_slot = self.per_minute * self.plan.slot.as_ms() as f64 / 60_000.0;
        let upto = |slots: u64| {
            let n = libm::floor(per_slot * slots as f64);
            counts(n, n * p + off(n))
        };
        let (before, after) = (upto(slot), upto(slot + 1));
        let (n, bad) = (after.n() - before.n(), after.bad.saturating_sub(before.bad));
        // Every answer is slower than the first edges; of those that are slow, half are so from edge to edge.
        let slower = |edge: usize| match (edge + 1).checked_sub(LATENCY_EDGES_MS.len() / 2) {
            None | Some(0) => n,
            Some(halvings) => (after.bad >> (halvings - 1)).saturating_sub(before.bad >> (halvings - 1)),
        };
        if let Objective::CompareLatency { .. } = self.criterion.objective {
            return Tally { n, slower: (0..LATENCY_EDGES_MS.len()).map(slower).collect(), ..Tally::default() };
        }
        Tally { n, bad, over_target: bad, ..Tally::default() }
    }

    fn planned(&self) -> u64 {
        budget::share(self.plan, self.stage, self.criterion, false).planned
    }
}

/// So many events, and so many bad ones of them, both rounded down.
pub(super) fn counts(n: f64, bad: f64) -> Counts {
    Counts::new(libm::floor(bad).clamp(0.0, n) as u64, n as u64)
}
