//! Kernel 2 on latencies: "bad" is slower than an edge of the histogram.
//!
//! Both cohorts are compared in the same slot, so a slow hour is nobody's fault. A tolerance on
//! latencies themselves ("at most 1.5 times as slow") is the caller's: it counts the canary at edges
//! that lie as many times further out.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::share::{Batch, Costs, Fail, Grid, Ratios};
use super::starts::{Tempered, Weights};
use super::threshold::Counts;
use super::{ln_sum_exp, share};

/// One slot of one region: answers, and how many were slower than each edge, in both cohorts.
#[derive(Debug, Clone, Copy)]
pub struct Slower<'a> {
    /// The canary's answers.
    pub canary_n: u64,
    /// Of these, slower than each edge.
    pub canary: &'a [u64],
    /// The baseline's answers.
    pub baseline_n: u64,
    /// Of these, slower than each edge.
    pub baseline: &'a [u64],
}

impl Slower<'_> {
    fn at(&self, edge: usize) -> Batch {
        let count = |of: &[u64]| of.get(edge).copied().unwrap_or(0);
        Batch {
            canary: Counts::new(count(self.canary), self.canary_n),
            baseline: Counts::new(count(self.baseline), self.baseline_n),
        }
    }
}

/// Evidence that the canary is slower somewhere: one test per edge, averaged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Anywhere {
    ratios: Grid,
    edges: Vec<Tempered>,
    ln_e_max: f64,
}

impl Anywhere {
    /// A test at `edges` edges, fixed in advance, in a stage of `planned` slots.
    pub fn new(edges: usize, planned: u64, weights: Weights) -> Self {
        let ratios = Grid::from(Ratios::LATENCIES);
        Self { edges: vec![Tempered::new(ratios.len(), planned, weights); edges], ratios, ln_e_max: 0.0 }
    }

    /// Folds one slot, region by region.
    pub fn fold<'a>(&mut self, slot: impl Iterator<Item = Slower<'a>>) {
        // Costs depend on traffic alone, and all edges see the same traffic.
        let of = |region: Slower<'a>| Some((self.ratios.costs(1.0, region.canary_n, region.baseline_n)?, region));
        let regions: Vec<(Costs, Slower<'a>)> = slot.filter_map(of).collect();
        for (edge, starts) in self.edges.iter_mut().enumerate() {
            let bad = |(_, region): &(Costs, Slower<'a>)| {
                let Batch { canary, baseline } = region.at(edge);
                [canary.bad as f64, canary.bad as f64 + baseline.bad as f64]
            };
            starts.fold(self.ratios.increments(regions.iter().map(|region| (&region.0, bad(region)))));
        }
        self.ln_e_max = self.ln_e_max.max(self.ln_e());
    }

    /// Logarithm of the evidence now.
    pub fn ln_e(&self) -> f64 {
        ln_sum_exp(self.edges.iter().map(Tempered::ln_e)) - libm::log(self.edges.len().max(1) as f64)
    }

    /// The most that it ever was, at least 0.
    pub fn ln_e_max(&self) -> f64 {
        self.ln_e_max
    }

    /// The edge that says most.
    pub fn best(&self) -> usize {
        let ln_e = |edge: usize| self.edges.get(edge).map(Tempered::ln_e);
        (0..self.edges.len()).reduce(|best, next| if ln_e(next) > ln_e(best) { next } else { best }).unwrap_or(0)
    }
}

/// Evidence that the canary is slower at a quantile, at whichever edge the baseline's own last slots
/// put it. The edge is known before the slot is, and so the test stays valid.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AtQuantile {
    /// The share that may be slower: one minus the quantile.
    exceeding: f64,
    fail: Fail,
    pass: share::Pass,
    /// The baseline's last slots that had answers: how many, and how many slower than each edge.
    last: VecDeque<(u64, Vec<u64>)>,
    edge: Option<usize>,
}

/// How many slots of the baseline choose the edge.
const SLOTS: usize = 5;

impl AtQuantile {
    /// A test at `quantile`, above 0 and below 1; it passes what is shown to be under `r1` times as often slower.
    pub fn new(quantile: f64, r1: f64, planned: u64, weights: Weights) -> Self {
        Self {
            exceeding: 1.0 - quantile,
            fail: Fail::new(1.0, Ratios::LATENCIES, planned, weights),
            pass: share::Pass::new(r1),
            last: VecDeque::new(),
            edge: None,
        }
    }

    /// Folds one slot, region by region. Without a slot of the baseline before it, it says nothing.
    pub fn fold<'a>(&mut self, slot: impl Iterator<Item = Slower<'a>> + Clone, is_covered: bool) {
        self.edge = self.choose();
        let batches = self.edge.into_iter().flat_map(|edge| slot.clone().map(move |region| region.at(edge)));
        self.fail.fold(batches.clone());
        self.pass.fold(batches, is_covered);
        let n = slot.clone().fold(0_u64, |sum, region| sum.saturating_add(region.baseline_n));
        if n == 0 {
            return;
        }
        let mut slower: Vec<u64> = Vec::new();
        for region in slot {
            slower.resize(slower.len().max(region.baseline.len()), 0);
            for (own, count) in slower.iter_mut().zip(region.baseline) {
                *own = own.saturating_add(*count);
            }
        }
        self.last.push_back((n, slower));
        if self.last.len() > SLOTS {
            self.last.pop_front();
        }
    }

    /// Logarithm of the evidence that it is slower.
    pub fn ln_e(&self) -> f64 {
        self.fail.ln_e()
    }

    /// The most that it ever was, at least 0.
    pub fn ln_e_max(&self) -> f64 {
        self.fail.ln_e_max()
    }

    /// Logarithm of the evidence that it is not.
    pub fn ln_e_pass(&self) -> f64 {
        self.pass.ln_e()
    }

    /// The edge of the last slot.
    pub fn edge(&self) -> Option<usize> {
        self.edge
    }

    /// How many times as often the canary is slower, by the alternative that explains the data best.
    pub fn best(&self) -> f64 {
        self.fail.best()
    }

    fn choose(&self) -> Option<usize> {
        let n: u64 = self.last.iter().fold(0, |sum, (n, _)| sum.saturating_add(*n));
        let edges = self.last.iter().map(|(_, slower)| slower.len()).max()?;
        let slower = |edge: usize| {
            let counts = self.last.iter().map(|(_, slower)| slower.get(edge).copied().unwrap_or(0));
            counts.fold(0_u64, u64::saturating_add)
        };
        (0..edges).find(|edge| slower(*edge) as f64 <= self.exceeding * n as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASELINE: [u64; 3] = [500, 100, 9];

    fn slot(canary: &[u64; 3]) -> Slower<'_> {
        Slower { canary_n: 100, canary, baseline_n: 1_000, baseline: &BASELINE }
    }

    #[test]
    fn a_slow_tail_is_found_at_its_edge() {
        let mut anywhere = Anywhere::new(3, 100, Weights::First);
        let mut at_quantile = AtQuantile::new(0.99, 2.0, 100, Weights::First);
        for _ in 0..40 {
            anywhere.fold([slot(&[50, 10, 5])].into_iter());
            at_quantile.fold([slot(&[50, 10, 5])].into_iter(), true);
        }
        assert_eq!((anywhere.best(), at_quantile.edge()), (2, Some(2)));
        assert!(anywhere.ln_e() > 20.0 && at_quantile.ln_e() > 20.0);
        assert!((at_quantile.best() - 5.66).abs() < 1.0, "{}", at_quantile.best());
    }

    #[test]
    fn the_same_latencies_are_no_evidence() {
        let mut anywhere = Anywhere::new(3, 100, Weights::First);
        let mut at_quantile = AtQuantile::new(0.99, 2.0, 100, Weights::First);
        for _ in 0..40 {
            anywhere.fold([slot(&[50, 10, 1])].into_iter());
            at_quantile.fold([slot(&[50, 10, 1])].into_iter(), true);
        }
        assert!(anywhere.ln_e() < 0.0 && at_quantile.ln_e() < 0.0 && at_quantile.ln_e_pass() > 0.0);
    }

    #[test]
    fn without_a_baseline_before_it_a_slot_says_nothing() {
        let mut at_quantile = AtQuantile::new(0.99, 2.0, 100, Weights::First);
        at_quantile.fold([slot(&[100, 100, 100])].into_iter(), true);
        assert_eq!((at_quantile.edge(), at_quantile.ln_e()), (None, 0.0));
    }
}
