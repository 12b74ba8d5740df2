//! Kernel 2: is the canary bad more often per request than the baseline beside it?
//!
//! Given how many were bad in a slot, only the canary's share of them speaks; so whatever befalls both
//! cohorts (a slow database, the hour of the day) cancels. Shares of traffic may change from slot to
//! slot. The Fail test bounds the exact distribution of that share by a binomial one (Hoeffding), so it
//! is valid as it stands; the Pass test cannot be bounded so, and uses the exact one (Fisher's
//! noncentral hypergeometric distribution).
//!
//! Its units must be exchangeable within a slot: cohorts that differ by themselves, such as one
//! canary machine with its own noise, look like a regression. Hence `times: 1.5x` as the default.

use serde::{Deserialize, Serialize};

use super::fisher::Fisher;
use super::proof::Proof;
use super::starts::{Tempered, Weights};
use super::threshold::Counts;

/// One slot of one region: both cohorts.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Batch {
    /// The canary's events.
    pub canary: Counts,
    /// The baseline's.
    pub baseline: Counts,
}

/// Which ratios are the alternatives: `2^(j/steps)` times the tolerated one, j from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ratios {
    /// How many to each doubling.
    pub steps: u8,
    /// How many in all.
    pub count: u8,
}

impl Ratios {
    /// For errors: up to 64 times the tolerated ratio.
    pub const ERRORS: Self = Self { steps: 2, count: 12 };
    /// For answers slower than an edge: up to 16 times.
    pub const LATENCIES: Self = Self { steps: 4, count: 16 };
}

/// The alternatives of a Fail test, with the numbers that each slot needs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(from = "Ratios", into = "Ratios")]
pub(super) struct Grid {
    ratios: Ratios,
    factors: Vec<Factor>,
}

/// An alternative: how many times the tolerated ratio.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Factor {
    ratio: f64,
    ln: f64,
}

impl From<Ratios> for Grid {
    fn from(ratios: Ratios) -> Self {
        let factor = |j: u8| {
            let twos = f64::from(j) / f64::from(ratios.steps);
            Factor { ratio: libm::exp2(twos), ln: twos * std::f64::consts::LN_2 }
        };
        Self { ratios, factors: (1..=ratios.count).map(factor).collect() }
    }
}

impl From<Grid> for Ratios {
    fn from(grid: Grid) -> Self {
        grid.ratios
    }
}

/// What a bad answer costs each alternative in one batch, whosever it is. It depends on traffic alone.
pub(super) type Costs = Vec<f64>;

impl Grid {
    /// How many alternatives there are.
    pub(super) fn len(&self) -> usize {
        self.factors.len()
    }

    /// The costs at the tolerated ratio `r0`; none when one cohort had no traffic, which says nothing.
    pub(super) fn costs(&self, r0: f64, n_canary: u64, n_baseline: u64) -> Option<Costs> {
        if n_canary == 0 || n_baseline == 0 {
            return None;
        }
        let (canary, baseline) = (n_canary as f64 * r0, n_baseline as f64);
        let null_share = canary / (canary + baseline);
        Some(self.factors.iter().map(|factor| libm::log1p(null_share * (factor.ratio - 1.0))).collect())
    }

    /// Logarithms of the likelihood ratio of one slot, one per alternative: the sum over its regions,
    /// each with its costs, the canary's bad answers and all bad answers.
    pub(super) fn increments<'a>(
        &self,
        regions: impl Iterator<Item = (&'a Costs, [f64; 2])> + Clone,
    ) -> impl Iterator<Item = f64> + Clone {
        self.factors.iter().enumerate().map(move |(j, factor)| {
            let of =
                |(costs, [canary, all]): (&Costs, [f64; 2])| canary * factor.ln - all * costs.get(j).unwrap_or(&0.0);
            regions.clone().map(of).sum()
        })
    }

    /// An alternative's factor.
    pub(super) fn ratio(&self, index: usize) -> f64 {
        self.factors.get(index).map_or(1.0, |factor| factor.ratio)
    }
}

/// Evidence that the canary is bad more than `r0` times as often per request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fail {
    r0: f64,
    ratios: Grid,
    starts: Tempered,
}

impl Fail {
    /// A test of the tolerated ratio `r0`, above 0, in a stage of `planned` slots.
    pub fn new(r0: f64, ratios: Ratios, planned: u64, weights: Weights) -> Self {
        let ratios = Grid::from(ratios);
        Self { r0, starts: Tempered::new(ratios.len(), planned, weights), ratios }
    }

    /// Folds one slot: one batch per region.
    pub fn fold(&mut self, batches: impl Iterator<Item = Batch>) {
        let telling = batches.filter(|batch| batch.canary.bad > 0 || batch.baseline.bad > 0);
        let regions: Vec<(Costs, [f64; 2])> = telling
            .filter_map(|Batch { canary, baseline }| {
                let costs = self.ratios.costs(self.r0, canary.n(), baseline.n())?;
                Some((costs, [canary.bad as f64, canary.bad as f64 + baseline.bad as f64]))
            })
            .collect();
        self.starts.fold(self.ratios.increments(regions.iter().map(|(costs, bad)| (costs, *bad))));
    }

    /// Logarithm of the evidence now: half of it has started with the first slot.
    pub fn ln_e(&self) -> f64 {
        self.starts.ln_e()
    }

    /// The most that it ever was, at least 0.
    pub fn ln_e_max(&self) -> f64 {
        self.starts.ln_e_max()
    }

    /// The ratio of the canary to the baseline that explains the data best, of those beyond the limit.
    pub fn best(&self) -> f64 {
        self.r0 * self.ratios.ratio(self.starts.best())
    }
}

/// Evidence that the canary's odds of being bad are less than `r1` times the baseline's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pass {
    r1: f64,
    /// Of the alternatives `r1 2^(-j/2)`, j from 1 to 6.
    proof: Proof,
}

const ALTERNATIVES: usize = 6;

impl Pass {
    /// A test of the ratio `r1`, above 1.
    pub fn new(r1: f64) -> Self {
        Self { r1, proof: Proof::new(ALTERNATIVES) }
    }

    /// Folds one slot, one batch per region. The work for a batch grows with the root of how many were
    /// bad, and is bounded: one beyond the bound, of billions, counts as nothing.
    pub fn fold(&mut self, slot: impl Iterator<Item = Batch>, is_covered: bool) {
        let mut sums = [0.0; ALTERNATIVES];
        for increments in slot.filter_map(|batch| self.increments(batch)) {
            sums.iter_mut().zip(increments).for_each(|(sum, increment)| *sum += increment);
        }
        self.proof.fold(sums.into_iter(), is_covered);
    }

    fn increments(&self, batch: Batch) -> Option<[f64; ALTERNATIVES]> {
        let distribution = Fisher::new(batch)?;
        let null = distribution.ln_probability(self.r1)?;
        let mut increments = [0.0; ALTERNATIVES];
        for (j, increment) in (1..).zip(&mut increments) {
            *increment = distribution.ln_probability(self.r1 * libm::exp2(-f64::from(j) / 2.0))? - null;
        }
        Some(increments)
    }

    /// Logarithm of the evidence now.
    pub fn ln_e(&self) -> f64 {
        self.proof.ln_e()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(bad: u64, n: u64, baseline_bad: u64, baseline_n: u64) -> Batch {
        Batch { canary: Counts::new(bad, n), baseline: Counts::new(baseline_bad, baseline_n) }
    }

    fn fail(r0: f64) -> Fail {
        Fail::new(r0, Ratios::ERRORS, 1_000, Weights::First)
    }

    #[test]
    fn one_cohort_alone_says_nothing() {
        let (mut fail, mut pass) = (fail(1.0), Pass::new(2.0));
        for one in [batch(10, 100, 0, 0), batch(0, 0, 10, 100), batch(0, 100, 0, 900)] {
            fail.fold([one].into_iter());
            pass.fold([one].into_iter(), true);
        }
        assert!(fail.ln_e().abs() < 1e-12 && pass.ln_e().abs() < 1e-12);
    }

    #[test]
    fn what_befalls_both_cohorts_cancels() {
        let (mut fail, mut pass) = (fail(1.0), Pass::new(2.0));
        for _ in 0..20 {
            fail.fold([batch(30, 100, 270, 900)].into_iter());
            pass.fold([batch(30, 100, 270, 900)].into_iter(), true);
        }
        assert!(fail.ln_e() < 0.0 && pass.ln_e() > 3.0, "{} {}", fail.ln_e(), pass.ln_e());
    }

    #[test]
    fn a_worse_canary_fails_beyond_what_is_tolerated() {
        let told = |r0: f64| {
            let mut fail = fail(r0);
            (0..10).for_each(|_| fail.fold([batch(5, 100, 9, 900)].into_iter()));
            (fail.ln_e(), fail.best())
        };
        assert!(told(1.0).0 > 10.0 && told(8.0).0 < 0.0);
        assert!((told(1.0).1 - 5.66).abs() < 0.01);
    }

    /// By every outcome of a batch, with the probabilities that it has at the tolerated ratio of odds.
    #[test]
    fn no_factor_expects_more_than_one_while_its_null_is_true() {
        for (n, n_baseline, bad) in
            [(10, 90, 1), (10, 90, 9), (50, 50, 60), (90, 10, 30), (5, 500, 100), (360, 3_240, 40)]
        {
            let batches =
                || (u64::saturating_sub(bad, n_baseline)..=bad.min(n)).map(|c| batch(c, n, bad - c, n_baseline));
            let chance = |batch, odds| libm::exp(Fisher::new(batch).unwrap().ln_probability(odds).unwrap());
            for r0 in [1.0, 1.5, 2.0] {
                let grid = Grid::from(Ratios::ERRORS);
                let costs = grid.costs(r0, n, n_baseline).unwrap();
                let mut expectations = [0.0; 12];
                for batch in batches() {
                    let seen = [batch.canary.bad as f64, bad as f64];
                    let increments = grid.increments([(&costs, seen)].into_iter());
                    for (sum, increment) in expectations.iter_mut().zip(increments) {
                        *sum += chance(batch, r0) * libm::exp(increment);
                    }
                }
                for expectation in expectations {
                    assert!(expectation <= 1.0 + 1e-12, "{n} {n_baseline} {bad} {r0}: {expectation}");
                }
            }
            // The Pass test's factors are exact likelihood ratios, and so expect exactly 1.
            let mut expectation = 0.0;
            for batch in batches() {
                let mut pass = Pass::new(2.0);
                pass.fold([batch].into_iter(), true);
                expectation += chance(batch, 2.0) * libm::exp(pass.ln_e());
            }
            assert!((expectation - 1.0).abs() < 1e-12, "{n} {n_baseline} {bad}: {expectation}");
        }
    }

    #[test]
    fn regions_of_one_slot_add_up_before_the_next_start() {
        let regions = [batch(5, 100, 9, 900), batch(1, 0, 3, 50), batch(2, 400, 30, 600)];
        let spread = || Fail::new(1.0, Ratios::ERRORS, 10, Weights::Spread);
        let (mut together, mut apart) = (spread(), spread());
        (0..3).for_each(|_| together.fold(regions.into_iter()));
        (0..3).for_each(|_| regions.into_iter().for_each(|region| apart.fold([region].into_iter())));
        assert!((together.ln_e() - apart.ln_e()).abs() > 0.01, "slots were counted by regions");
        let first = || Fail::new(1.0, Ratios::ERRORS, 10, Weights::First);
        let (mut together, mut apart) = (first(), first());
        together.fold(regions.into_iter());
        regions.into_iter().for_each(|region| apart.fold([region].into_iter()));
        assert!((together.ln_e() - apart.ln_e()).abs() < 1e-12);
    }

    #[test]
    fn huge_counts_stay_finite() {
        let mut fail = fail(1.5);
        let mut pass = Pass::new(2.0);
        let huge = 1_000_000_000_000;
        for one in [batch(huge, huge, huge, huge), batch(0, huge, 3, huge), batch(huge / 2, huge, 1, huge)] {
            fail.fold([one].into_iter());
            pass.fold([one].into_iter(), true);
            assert!(fail.ln_e().is_finite() && pass.ln_e().is_finite());
        }
    }
}
