//! How far a count strays from what is expected, at every moment at once: for charts, and for the
//! interval in which a quantile of latencies lies. Verdicts have their own tests.
//!
//! The beta-binomial mixture for sub-Bernoulli sums (Howard, Ramdas, McAuliffe and Sekhon, *Annals of
//! Statistics* 2021, proposition 7): a sum of steps of at least `-g` and at most `h` stays below the
//! bound for all intrinsic times `v` with a chance of `1 - alpha`.

/// A mixture that is tightest at one intrinsic time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Strays {
    /// The most that one step goes down.
    g: f64,
    /// The most that one step goes up.
    h: f64,
    r: f64,
    ln_norm: f64,
    is_one_sided: bool,
}

impl Strays {
    /// Steps between `-g` and `h`, both above 0; tightest at the intrinsic time `v_opt` for `alpha_opt`.
    pub fn new(g: f64, h: f64, v_opt: f64, alpha_opt: f64, is_one_sided: bool) -> Self {
        // One side of a bound for twice the chance.
        let alpha = if is_one_sided { 2.0 * alpha_opt } else { alpha_opt };
        let bits = -2.0 * libm::log(alpha);
        let r = (v_opt / (bits + libm::log1p(bits)) - g * h).max(1e-3 * g * h);
        let mut strays = Self { g, h, r, ln_norm: 0.0, is_one_sided };
        strays.ln_norm = strays.ln_beta(r / (g * (g + h)), r / (h * (g + h)));
        strays
    }

    /// Logarithm of the evidence that a sum of `s` at intrinsic time `v` strays.
    pub fn ln_e(&self, s: f64, v: f64) -> f64 {
        let Self { g, h, r, .. } = *self;
        let sum = g + h;
        v / (g * h) * libm::log(sum) - (v + h * s) / (h * sum) * libm::log(g) - (v - g * s) / (g * sum) * libm::log(h)
            + self.ln_beta((r + v - g * s) / (g * sum), (r + v + h * s) / (h * sum))
            - self.ln_norm
    }

    /// The largest sum at intrinsic time `v` that is not yet evidence at `alpha`.
    pub fn bound(&self, v: f64, alpha: f64) -> f64 {
        let bar = -libm::log(alpha);
        let (mut low, mut high) = (0.0, v / self.g);
        for _ in 0..100 {
            let middle = f64::midpoint(low, high);
            if self.ln_e(middle, v) < bar { low = middle } else { high = middle }
        }
        low
    }

    fn ln_beta(&self, a: f64, b: f64) -> f64 {
        let whole = libm::lgamma(a) + libm::lgamma(b) - libm::lgamma(a + b);
        if self.is_one_sided { whole + libm::log(beta_part(a, b, self.h / (self.g + self.h), whole)) } else { whole }
    }
}

/// By how much the number of `n` answers below a quantile may stray from `n q`, down and up, at every
/// moment, tightest at `n_opt` answers: the order statistics between which the quantile lies.
pub fn around_quantile(q: f64, n: u64, n_opt: u64, alpha: f64) -> (f64, f64) {
    let variance = q * (1.0 - q);
    let side = |g: f64| {
        let strays = Strays::new(g, 1.0 - g, variance * n_opt as f64, alpha / 2.0, true);
        strays.bound(variance * n as f64, alpha / 2.0)
    };
    (side(1.0 - q), side(q))
}

/// The regularised incomplete beta function, given the logarithm of the whole one: Lentz's continued
/// fraction, on the side where it converges fast.
fn beta_part(a: f64, b: f64, x: f64, ln_whole: f64) -> f64 {
    let front = libm::exp(a * libm::log(x) + b * libm::log1p(-x) - ln_whole);
    if x < (a + 1.0) / (a + b + 2.0) {
        front * fraction(a, b, x) / a
    } else {
        1.0 - front * fraction(b, a, 1.0 - x) / b
    }
}

fn fraction(a: f64, b: f64, x: f64) -> f64 {
    let away_from_zero = |value: f64| if value.abs() < 1e-300 { 1e-300 } else { value };
    let (mut c, mut d) = (1.0, 1.0 / away_from_zero(1.0 - (a + b) * x / (a + 1.0)));
    let mut sum = d;
    for m in 1..20_000 {
        let m = f64::from(m);
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        let mut last = 1.0;
        for term in [even, odd] {
            d = 1.0 / away_from_zero(1.0 + term * d);
            c = away_from_zero(1.0 + term / c);
            last = d * c;
            sum *= last;
        }
        if (last - 1.0_f64).abs() < 1e-15 {
            break;
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_those_that_were_published() {
        // confseq's own unit test: g = .2, h = .8, v = 100, tuned for v = 100 and alpha = .05.
        let one_sided = Strays::new(0.2, 0.8, 100.0, 0.05, true);
        let two_sided = Strays::new(0.2, 0.8, 100.0, 0.05, false);
        assert!((one_sided.ln_e(10.0, 100.0) + 0.071_340_19).abs() < 1e-6);
        assert!((two_sided.ln_e(10.0, 100.0) + 0.694_101_2).abs() < 1e-6);
        assert!((one_sided.bound(100.0, 0.05) - 28.412_38).abs() < 1e-4);
        assert!((two_sided.bound(100.0, 0.05) - 31.430_8).abs() < 1e-4);
    }
}
