//! Kernel 1: is the probability of a bad answer beyond a limit?
//!
//! Likelihood ratios of fixed alternatives `theta_j` against the limit, averaged. The null hypothesis
//! is that *every* answer, given all before it, is bad with a probability of at most `p0` (Fail) or at
//! least `p1` (Pass): nothing about independence or a constant rate. A short burst may therefore fail
//! though the day's mean is within the limit; that a mean is kept is what a burn rate asks.

use serde::{Deserialize, Serialize};

use super::ln_sum_exp;
use super::proof::Proof;
use super::starts::{Starts, Weights};

/// Events of one slot or many: more bad ones than events cannot be said.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Good events.
    pub good: u64,
    /// Bad ones.
    pub bad: u64,
}

impl Counts {
    /// `bad` of `n` events. Every bad one counts: where `n` is less than `bad`, none was good.
    pub const fn new(bad: u64, n: u64) -> Self {
        Self { good: n.saturating_sub(bad), bad }
    }

    /// All events.
    pub const fn n(self) -> u64 {
        self.good.saturating_add(self.bad)
    }

    /// Those of two slots, or more.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self { good: self.good.saturating_add(other.good), bad: self.bad.saturating_add(other.bad) }
    }
}

/// Evidence that more than a share `p0` is bad.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fail {
    grid: Grid,
    starts: Starts,
}

/// The alternatives of a Fail test, with the logarithms that each slot needs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(from = "f64", into = "f64")]
struct Grid {
    p0: f64,
    thetas: Vec<f64>,
    /// Logarithms of the likelihood ratio of one bad and one good answer.
    ratios: Vec<(f64, f64)>,
}

impl From<f64> for Grid {
    fn from(p0: f64) -> Self {
        let thetas = fail_grid(p0);
        let ratios = thetas.iter().map(|theta| ln_ratios(*theta, p0)).collect();
        Self { p0, thetas, ratios }
    }
}

impl From<Grid> for f64 {
    fn from(grid: Grid) -> Self {
        grid.p0
    }
}

impl Fail {
    /// A test of `p0`, above 0 and below 1, in a stage of `planned` slots.
    pub fn new(p0: f64, planned: u64, weights: Weights) -> Self {
        let grid = Grid::from(p0);
        Self { starts: Starts::new(grid.thetas.len(), planned, weights), grid }
    }

    /// Folds one slot.
    pub fn fold(&mut self, slot: Counts) {
        self.starts.fold(self.grid.ratios.iter().map(|ratios| ln_ratio(slot, *ratios)));
    }

    /// Logarithm of the evidence now.
    pub fn ln_e(&self) -> f64 {
        self.starts.ln_e()
    }

    /// The most that it ever was, at least 0.
    pub fn ln_e_max(&self) -> f64 {
        self.starts.ln_e_max()
    }

    /// The share that explains the data best, of those beyond the limit.
    pub fn best(&self) -> f64 {
        self.grid.thetas.get(self.starts.best()).copied().unwrap_or(self.grid.p0)
    }
}

/// Evidence that less than a share `p1` is bad.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pass {
    grid: PassGrid,
    proof: Proof,
}

/// The logarithms that each slot needs of a Pass test's alternatives.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(from = "f64", into = "f64")]
struct PassGrid(f64, Vec<(f64, f64)>);

impl From<f64> for PassGrid {
    fn from(p1: f64) -> Self {
        Self(p1, pass_grid(p1).map(|theta| ln_ratios(theta, p1)).collect())
    }
}

impl From<PassGrid> for f64 {
    fn from(PassGrid(p1, _): PassGrid) -> Self {
        p1
    }
}

impl Pass {
    /// A test of `p1`, above 0 and below 1.
    pub fn new(p1: f64) -> Self {
        let grid = PassGrid::from(p1);
        Self { proof: Proof::new(grid.1.len()), grid }
    }

    /// Folds one slot.
    pub fn fold(&mut self, slot: Counts, is_covered: bool) {
        self.proof.fold(self.grid.1.iter().map(|ratios| ln_ratio(slot, *ratios)), is_covered);
    }

    /// Logarithm of the evidence now.
    pub fn ln_e(&self) -> f64 {
        self.proof.ln_e()
    }
}

/// The alternatives of a Fail test: `p0 2^(j/2)` below 0.95, at least one.
pub fn fail_grid(p0: f64) -> Vec<f64> {
    let grid: Vec<f64> =
        (1..200).map(|j| p0 * libm::exp2(f64::from(j) / 2.0)).take_while(|theta| *theta < 0.95).collect();
    if grid.is_empty() { vec![f64::midpoint(p0, 1.0)] } else { grid }
}

/// The alternatives of a Pass test: `p1 2^(-j/2)` for j up to 10, and 0.
pub fn pass_grid(p1: f64) -> impl Iterator<Item = f64> + Clone {
    (1..=10).map(move |j| p1 * libm::exp2(-f64::from(j) / 2.0)).chain([0.0])
}

/// Logarithm of the evidence that more than `p0` is bad, all starting with the first answer.
pub fn ln_e_fail(counts: Counts, p0: f64) -> f64 {
    ln_e(counts, p0, fail_grid(p0).into_iter())
}

/// The same, with half of the weight on the share `theta`.
pub fn ln_e_fail_as(counts: Counts, p0: f64, theta: f64) -> f64 {
    let halves = [ln_e_fail(counts, p0), ln_ratio(counts, ln_ratios(theta, p0))];
    ln_sum_exp(halves.into_iter()) - std::f64::consts::LN_2
}

/// Logarithm of the evidence that less than `p1` is bad, without gaps. A function of totals alone.
pub fn ln_e_pass(counts: Counts, p1: f64) -> f64 {
    ln_e(counts, p1, pass_grid(p1))
}

/// The most events among which `bad` bad ones still fail `p0` at `bar` nats; `None` when they never do.
pub fn fails_within(bad: u64, p0: f64, bar: f64) -> Option<u64> {
    let fails = |n: u64| ln_e_fail(Counts::new(bad, n), p0) >= bar;
    largest(bad, fails)
}

/// How many events without one bad prove `p1` at `bar` nats, by the alternative 0 alone.
pub fn clean_needed(p1: f64, bar: f64) -> u64 {
    libm::ceil(bar / -libm::log1p(-p1)) as u64
}

/// The upper limit of a share of which `n` events showed none, with confidence `1 - alpha`.
pub fn bound_of_silence(n: u64, alpha: f64) -> f64 {
    if n == 0 { 1.0 } else { -libm::expm1(libm::log(alpha) / n as f64) }
}

/// The largest number from `from` on for which `holds`, given that it holds up to some point only.
fn largest(from: u64, holds: impl Fn(u64) -> bool) -> Option<u64> {
    if !holds(from) {
        return None;
    }
    let (mut yes, mut step) = (from, 1_u64);
    while let Some(next) = yes.checked_add(step).filter(|next| holds(*next)) {
        yes = next;
        step = step.saturating_mul(2);
    }
    while step > 0 {
        yes = yes.checked_add(step).filter(|next| holds(*next)).unwrap_or(yes);
        step /= 2;
    }
    Some(yes)
}

fn ln_e(counts: Counts, p: f64, thetas: impl Iterator<Item = f64> + Clone) -> f64 {
    let terms = thetas.clone().map(|theta| ln_ratio(counts, ln_ratios(theta, p)));
    ln_sum_exp(terms) - libm::log(thetas.count() as f64)
}

/// Logarithm of the likelihood ratio of all that was counted.
pub(crate) fn ln_ratio(counts: Counts, (hit, miss): (f64, f64)) -> f64 {
    let (bad, good) = (counts.bad as f64, counts.good as f64);
    // One bad answer rules out a share of 0; none leaves it as it is.
    if counts.bad == 0 { good * miss } else { bad * hit + good * miss }
}

/// Logarithms of the likelihood ratio of one bad and of one good answer.
pub(crate) fn ln_ratios(theta: f64, p: f64) -> (f64, f64) {
    (libm::log(theta / p), libm::log1p(-theta) - libm::log1p(-p))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clean_answers_prove_a_limit_as_the_closed_form_says() {
        let bar = libm::log(20.0);
        assert_eq!((clean_needed(0.001, bar), clean_needed(0.01, bar)), (2_995, 299));
        assert!((bound_of_silence(299, 0.05) - 0.009_969_3).abs() < 1e-6);
        // The mixture spends an eleventh on the share of 0, and a little on the others.
        let proven = |n| ln_e_pass(Counts::new(0, n), 0.001) >= bar;
        assert!(!proven(3_533) && proven(3_534));
    }

    #[test]
    fn few_bad_answers_fail_only_among_few() {
        let bar = libm::log(20.0);
        let within: Vec<_> = [1, 2, 3, 5, 10].map(|bad| fails_within(bad, 0.001, bar)).to_vec();
        assert_eq!(within, [Some(7), Some(91), Some(271), Some(842), Some(2_974)]);
        assert_eq!(fails_within(0, 0.001, bar), None);
    }

    #[test]
    fn slots_add_up_to_totals_when_all_starts_are_at_the_first() {
        let mut test = Fail::new(0.005, 10, Weights::First);
        for (bad, n) in [(0, 360), (3, 350), (1, 0), (40, 1_000_000_000_000), (0, 0)] {
            test.fold(Counts::new(bad, n));
        }
        let expected = ln_e_fail(Counts::new(44, 1_000_000_000_711), 0.005);
        assert!((test.ln_e() / expected - 1.0).abs() < 1e-12, "{} {expected}", test.ln_e());
    }

    #[test]
    fn a_gap_takes_a_proof_and_leaves_what_speaks_against_it() {
        let bar = libm::log(20.0);
        let fold = |slots: &[(u64, u64, bool)]| {
            let mut test = Pass::new(0.001);
            slots.iter().for_each(|(bad, n, is_covered)| test.fold(Counts::new(*bad, *n), *is_covered));
            test.ln_e()
        };
        assert!(fold(&[(0, 3_534, true)]) >= bar && fold(&[(0, 3_533, true)]) < bar);
        assert!(fold(&[(0, 3_000, true), (0, 534, true)]) >= bar);
        // The clean answers of the gap itself count as little as those before it.
        assert!(fold(&[(0, 9_000, true), (0, 300, false), (0, 3_533, true)]) < bar);
        assert!(fold(&[(0, 9_000, true), (0, 0, false), (0, 3_534, true)]) >= bar);
        assert!(fold(&[(5, 100, true), (0, 0, false), (0, 3_534, true)]) < bar);
        assert!(fold(&[(0, 9_000, true), (5, 100, false), (0, 3_534, true)]) < bar);
    }

    #[test]
    fn a_test_goes_on_where_it_was_stored() {
        let mut test = Fail::new(0.01, 100, Weights::Spread);
        (0..40).for_each(|_| test.fold(Counts::new(2, 100)));
        let stored = serde_json::to_string(&test).unwrap();
        let mut again: Fail = serde_json::from_str(&stored).unwrap();
        assert_eq!(again, test);
        for test in [&mut test, &mut again] {
            (0..400).for_each(|_| test.fold(Counts::new(1, 90)));
        }
        assert_eq!(again, test);
    }

    #[test]
    fn a_late_regression_is_seen_in_spite_of_good_hours() {
        let fold = |weights| {
            let mut test = Fail::new(0.005, 1_440, weights);
            (0..720).for_each(|_| test.fold(Counts::new(0, 360)));
            (0..10).for_each(|_| test.fold(Counts::new(18, 360)));
            test.ln_e()
        };
        assert!(fold(Weights::Spread) > 100.0, "{}", fold(Weights::Spread));
        assert!(fold(Weights::First) < -100.0, "{}", fold(Weights::First));
    }
}
