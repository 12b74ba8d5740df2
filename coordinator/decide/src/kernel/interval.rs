//! Which shares the data still allow, at every moment at once. For display: verdicts have their own tests.
//!
//! A beta mixture of likelihood ratios, `ln M(p) = ln B(a+s, b+n-s) - ln B(a,b) - s ln p - (n-s) ln(1-p)`;
//! the interval is where it stays below `ln(1/alpha)`.

use super::threshold::Counts;

/// The prior of the mixture, and the chance that the interval ever misses the truth.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mixture {
    /// First parameter of the beta distribution.
    pub a: f64,
    /// Second parameter.
    pub b: f64,
    /// The chance.
    pub alpha: f64,
}

impl Mixture {
    /// What people are shown: 95 %, with the prior that favours neither end much.
    pub const SHOWN: Self = Self { a: 0.5, b: 0.5, alpha: 0.05 };

    /// Logarithm of the evidence against the share `p`, between 0 and 1.
    pub fn ln_e(&self, counts: Counts, p: f64) -> f64 {
        self.ln_marginal(counts) - ln_likelihood(counts, p)
    }

    /// The smallest and the largest share that the data still allow.
    pub fn interval(&self, counts: Counts) -> (f64, f64) {
        if counts.n() == 0 {
            return (0.0, 1.0);
        }
        let seen = counts.bad as f64 / counts.n() as f64;
        let least = self.ln_marginal(counts) + libm::log(self.alpha);
        let is_allowed = |p: f64| ln_likelihood(counts, p) > least;
        let low = if counts.bad == 0 { 0.0 } else { edge(0.0, seen, is_allowed) };
        let high = if counts.good == 0 { 1.0 } else { edge(1.0, seen, is_allowed) };
        (low, high)
    }

    fn ln_marginal(&self, counts: Counts) -> f64 {
        let (bad, good) = (counts.bad as f64, counts.good as f64);
        ln_beta(self.a + bad, self.b + good) - ln_beta(self.a, self.b)
    }
}

/// Between an end of the scale that may be ruled out and a share that is allowed, where the one
/// becomes the other. A hundred halvings: to the last bit, near 0 as well.
fn edge(end: f64, seen: f64, is_allowed: impl Fn(f64) -> bool) -> f64 {
    let (mut out, mut inside) = (end, seen);
    for _ in 0..100 {
        let middle = f64::midpoint(out, inside);
        if is_allowed(middle) {
            inside = middle;
        } else {
            out = middle;
        }
    }
    out
}

fn ln_likelihood(counts: Counts, p: f64) -> f64 {
    let times = |count: u64, ln: f64| if count == 0 { 0.0 } else { count as f64 * ln };
    times(counts.bad, libm::log(p)) + times(counts.good, libm::log1p(-p))
}

fn ln_beta(a: f64, b: f64) -> f64 {
    libm::lgamma(a) + libm::lgamma(b) - libm::lgamma(a + b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_hold_what_was_seen_and_shrink() {
        let mut width = 1.0;
        for n in [10, 100, 1_000, 100_000, 1_000_000_000_000] {
            let (low, high) = Mixture::SHOWN.interval(Counts::new(n / 10, n));
            assert!(low < 0.1 && 0.1 < high && high - low < width, "{n}: {low} {high}");
            width = high - low;
        }
        assert_eq!(Mixture::SHOWN.interval(Counts::new(0, 0)), (0.0, 1.0));
        assert!(Mixture::SHOWN.interval(Counts::new(0, 10)).0 == 0.0);
        assert!(Mixture::SHOWN.interval(Counts::new(10, 10)).1 > 0.999_999);
    }
}
