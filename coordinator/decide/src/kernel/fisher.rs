//! Fisher's noncentral hypergeometric distribution: how likely it is that of all bad answers of a
//! batch so many are the canary's, given the odds ratio of the two cohorts.
//!
//! `P(c) = t(c) / sum_k t(k)` with `t(k) = C(n_canary, k) C(n_baseline, bad - k) odds^k`. The terms have
//! one peak, so they are added outward from it until they no longer matter; no term is computed by
//! factorials of large numbers, whose differences would lose what they have in common.

use super::share::Batch;

/// Most terms that one distribution may cost: enough for 3 billion bad answers in one slot, and under
/// 10 ms. Only counts that no slot has cost more.
const TERMS_MAX: u32 = 1 << 19;
/// A term this much smaller than the sum ends it. The rest falls faster than a geometric series.
const NEGLIGIBLE: f64 = 1e-19;
/// Whole numbers up to here are exact as floats.
const EXACT_MAX: u64 = 1 << 53;

/// One batch, as the numbers that its distribution needs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fisher {
    canary: f64,
    baseline: f64,
    bad: f64,
    seen: f64,
    /// The least and the most that may be the canary's.
    low: f64,
    high: f64,
}

impl Fisher {
    /// None where a batch cannot say anything: a cohort without traffic, nothing bad or everything, or
    /// counts beyond 2^53.
    pub(super) fn new(batch: Batch) -> Option<Self> {
        let Batch { canary, baseline } = batch;
        let bad = canary.bad.checked_add(baseline.bad)?;
        let is_exact = canary.n().checked_add(baseline.n())? <= EXACT_MAX;
        let (low, high) = (bad.saturating_sub(baseline.n()), bad.min(canary.n()));
        (is_exact && low < high).then_some(Self {
            canary: canary.n() as f64,
            baseline: baseline.n() as f64,
            bad: bad as f64,
            seen: canary.bad as f64,
            low: low as f64,
            high: high as f64,
        })
    }

    /// Logarithm of the probability of what was seen. None above [`TERMS_MAX`] terms.
    pub(super) fn ln_probability(&self, odds: f64) -> Option<f64> {
        let peak = libm::rint(self.mean(odds)).clamp(self.low, self.high);
        // Both directions begin with the peak's own term, which is the unit.
        let (mut sum, mut terms, mut of_seen) = (1.0, 0, None);
        if self.is_seen(peak) {
            of_seen = Some(1.0);
        }
        for direction in [1.0, -1.0] {
            let (mut k, mut term) = (peak, 1.0);
            let end = if direction > 0.0 { self.high } else { self.low };
            while (end - k) * direction > 0.5 && term > NEGLIGIBLE * sum {
                terms += 1;
                if terms > TERMS_MAX {
                    return None;
                }
                term *= if direction > 0.0 { self.ratio(k, odds) } else { 1.0 / self.ratio(k - 1.0, odds) };
                k += direction;
                sum += term;
                if self.is_seen(k) {
                    of_seen = Some(term);
                }
            }
        }
        let ln_of_seen = match of_seen.filter(|term| *term > 0.0) {
            Some(term) => libm::log(term),
            None => self.ln_ratio_to(peak, odds),
        };
        Some(ln_of_seen - libm::log(sum))
    }

    /// The term of `k + 1` over the term of `k`.
    fn ratio(&self, k: f64, odds: f64) -> f64 {
        odds * (self.canary - k) * (self.bad - k) / ((k + 1.0) * (self.baseline - self.bad + k + 1.0))
    }

    fn is_seen(&self, k: f64) -> bool {
        (self.seen - k).abs() < 0.5
    }

    /// About the mean, and so the peak: where the odds of the expected counts are in the ratio `odds`
    /// (Cornfield). The root of a quadratic, by whichever form does not cancel.
    fn mean(&self, odds: f64) -> f64 {
        let a = 1.0 - odds;
        let b = self.baseline - self.bad + odds * (self.canary + self.bad);
        let c = odds * self.canary * self.bad;
        let root = libm::sqrt((b * b + 4.0 * a * c).max(0.0));
        if b > 0.0 { 2.0 * c / (b + root) } else { (root - b) / (2.0 * a) }
    }

    /// Logarithm of the term of what was seen over that of `peak`, however far away that is.
    ///
    /// The product of two binomial distributions whose odds are in the ratio `odds` is proportional to
    /// the terms, whatever the odds themselves. Those are chosen so that it peaks where the terms do.
    fn ln_ratio_to(&self, peak: f64, odds: f64) -> f64 {
        let theirs = (self.bad - peak).max(0.5) / (self.baseline - self.bad + peak).max(0.5);
        let ln_term = |k: f64| {
            ln_binomial(k, self.canary - k, odds * theirs)
                + ln_binomial(self.bad - k, self.baseline - self.bad + k, theirs)
        };
        ln_term(self.seen) - ln_term(peak)
    }
}

/// Logarithm of the binomial probability of `bad` and `good` answers at the given odds, up to what
/// only depends on their sum, by deviances (Loader's saddle-point form): nothing large cancels.
fn ln_binomial(bad: f64, good: f64, odds: f64) -> f64 {
    let n = bad + good;
    let (p, q) = (odds / (1.0 + odds), 1.0 / (1.0 + odds));
    -deviance(bad, n * p) - deviance(good, n * q) - ln_spread(bad) - ln_spread(good)
}

/// `x ln(x/mean) + mean - x`, also where `x` is close to the mean.
fn deviance(x: f64, mean: f64) -> f64 {
    if x < 0.5 {
        return mean;
    }
    let off = (x - mean) / mean;
    if off.abs() > 0.1 {
        return x * libm::log(x / mean) + mean - x;
    }
    // x ln(x/mean) - (x - mean) = mean ((1 + u) ln(1 + u) - u) with u = (x - mean)/mean, as a series in
    // v = u/(2 + u): ln(1 + u) = 2 (v + v^3/3 + ...), so that u^2 is taken out and nothing cancels.
    let v = off / (2.0 + off);
    let (mut power, mut tail) = (2.0 * x * v, 0.0);
    for odd in (3..20).step_by(2) {
        power *= v * v;
        tail += power / f64::from(odd);
    }
    (x - mean) * v + tail
}

/// The part of `ln x!` beyond `x ln x - x`: half the logarithm of `2 pi x`, and Stirling's series.
fn ln_spread(x: f64) -> f64 {
    if x < 0.5 {
        return 0.0;
    }
    if x < 16.0 {
        return libm::lgamma(x + 1.0) - x * libm::log(x) + x;
    }
    let xx = x * x;
    let series = (1.0 / 12.0 - (1.0 / 360.0 - (1.0 / 1_260.0 - 1.0 / (1_680.0 * xx)) / xx) / xx) / x;
    0.5 * libm::log(2.0 * std::f64::consts::PI * x) + series
}

#[cfg(test)]
mod tests {
    use super::super::share::Pass;
    use super::super::threshold::Counts;
    use super::*;

    fn batch([n_canary, n_baseline, bad, baseline_bad]: [u64; 4]) -> Batch {
        Batch { canary: Counts::new(bad, n_canary), baseline: Counts::new(baseline_bad, n_baseline) }
    }

    /// Sums of all terms, or outward from the peak until 1e-40, in decimal arithmetic of 50 digits.
    #[test]
    fn proofs_agree_with_fifty_digits_at_any_count() {
        const E6: u64 = 1_000_000;
        const E9: u64 = 1_000 * E6;
        const E12: u64 = 1_000 * E9;
        for (counts, expected) in [
            ([10, 90, 0, 1], 1.270_065_455_425_527_3e-1),
            ([10, 90, 3, 57], 3.913_379_581_206_124_7),
            ([100, 100, 60, 40], -2.942_897_301_189_894_4),
            ([360, 3_240, 5, 21], -1.529_735_691_189_290_6),
            ([40, 360, 40, 12], -1.299_783_957_477_114_1e1),
            ([1, 999, 1, 400], -6.493_987_953_829_518e-1),
            ([999, 1, 400, 1], 7.431_073_749_633_567e-1),
            ([90, 10, 60, 8], 1.465_844_066_734_680_2),
            ([E6, 9 * E6, 0, 1_000], 1.714_792_168_313_995_5e2),
            ([E6, 9 * E6, 1_000, 0], -2.936_446_426_999_604_3e2),
            ([360_000, 3_240_000, 2_001, 18_000], 5.133_966_059_958_076e2),
            ([E6, E6, 123_456, 654_321], 4.687_014_989_065_719_3e5),
            ([E12, E12, 500, 700], 1.549_226_054_639_131_6e2),
            ([E12, 9 * E12, 100_000, 900_000], 2.599_366_626_985_671e4),
            ([E12, 8 * E12, 100 * E6, 900 * E6], 3.604_135_155_657_311e7),
            ([E12, 8 * E12, 300 * E6, 700 * E6], -4.361_119_809_401_823e7),
            ([E12, 8 * E12, E9, 1], -2.862_127_112_296_418e8),
            ([E9, E9, 900 * E6, 100 * E6], -1.162_479_196_519_908_1e8),
            ([E12, E12, 500 * E6, 500 * E6 + 100_000], 5.890_427_767_022_993e7),
        ] {
            let mut pass = Pass::new(2.0);
            pass.fold([batch(counts)].into_iter(), true);
            let off = (pass.ln_e() - expected).abs();
            assert!(off <= 1e-9_f64.max(1e-12 * expected.abs()), "{counts:?}: {} instead of {expected}", pass.ln_e());
        }
    }

    #[test]
    fn nothing_is_lost_where_evidence_for_and_against_cancels() {
        // Odds of 2 and of 1/2 lie as far on either side of what was seen, all but 100,000 answers.
        let half = 500_000_000;
        let seen = Fisher::new(batch([1_000_000_000_000, 1_000_000_000_000, half, half + 100_000])).unwrap();
        let ln_ratio = seen.ln_probability(0.5).unwrap() - seen.ln_probability(2.0).unwrap();
        assert!((ln_ratio - 69_314.718_055_99).abs() < 1e-5, "{ln_ratio}");
    }

    #[test]
    fn what_replaces_factorials_agrees_with_them() {
        for x in 1..100 {
            let x = f64::from(x);
            let expected = libm::lgamma(x + 1.0) - x * libm::log(x) + x;
            assert!((ln_spread(x) - expected).abs() < 1e-12, "{x}: {} {expected}", ln_spread(x));
            for mean in [0.3 * x, 0.89 * x, 0.95 * x, x, 1.02 * x, 1.2 * x] {
                let expected = x * libm::log(x / mean) + mean - x;
                assert!((deviance(x, mean) - expected).abs() < 1e-13 * x, "{x} {mean}");
            }
        }
        // (1 + u) ln(1 + u) - u is u^2/2 where u is small; the plain form has lost all of it here.
        assert!((deviance(1e12, 1e12 - 100.0) / 5e-9 - 1.0).abs() < 1e-9);
    }

    #[test]
    fn probabilities_of_all_outcomes_add_up_to_one() {
        for (n_canary, n_baseline, bad) in [(10, 90, 5), (90, 10, 60), (30, 30, 30), (3, 500, 400), (500, 3, 400)] {
            for odds in [0.01, 0.25, 1.0, 2.0, 100.0] {
                let outcomes = u64::saturating_sub(bad, n_baseline)..=bad.min(n_canary);
                let one = |seen| Fisher::new(batch([n_canary, n_baseline, seen, bad - seen])).unwrap();
                let sum: f64 = outcomes.map(|seen| libm::exp(one(seen).ln_probability(odds).unwrap())).sum();
                assert!((sum - 1.0).abs() < 1e-13, "{n_canary} {n_baseline} {bad} {odds}: {sum}");
            }
        }
    }

    #[test]
    fn what_is_one_sided_or_too_much_says_nothing() {
        for counts in [[10, 90, 0, 0], [10, 90, 10, 90], [0, 90, 0, 5], [10, 0, 5, 0], [u64::MAX, 9, 1, 1]] {
            assert!(Fisher::new(batch(counts)).is_none(), "{counts:?}");
        }
        let n = 1 << 52;
        let most = Fisher::new(batch([n, n, n / 2, n / 2])).unwrap();
        assert_eq!(most.ln_probability(1.0), None);
    }
}
