//! The statistics that may be looked at all the time.
//!
//! An e-process is a running number that begins at 1 and whose expectation never exceeds 1 while its
//! null hypothesis is true, whenever one stops. So it reaches `1/alpha` with a chance of at most
//! `alpha`, however often one looks (Ville's inequality). Everything here keeps logarithms of it.
//!
//! | module | null hypothesis |
//! |---|---|
//! | [`threshold`] | kernel 1: each answer is bad with a probability of at most (Pass: at least) so much |
//! | [`share`] | kernel 2: the canary is bad at most (Pass: at least) so many times as often as the baseline |
//! | [`edges`] | kernel 2 on latencies: the canary is no slower, anywhere or at a quantile |
//! | `proof` | how Pass tests go on after a gap |
//! | [`starts`] | how both wait for a regression that comes late |
//! | [`strays`] | none: how far a count, or a quantile, may stray, for display |
//! | [`interval`] | none: which shares the data still allow, for display |
//!
//! Logarithms and exponentials are those of `libm`, so that every machine agrees to the bit.

pub mod edges;
mod fisher;
pub mod interval;
mod proof;
pub mod share;
pub mod starts;
pub mod strays;
pub mod threshold;

/// Logarithm of the sum of exponentials. Negative infinity for no terms.
pub(crate) fn ln_sum_exp(terms: impl Iterator<Item = f64> + Clone) -> f64 {
    let max = terms.clone().fold(f64::NEG_INFINITY, f64::max);
    if max == f64::NEG_INFINITY {
        return max;
    }
    max + libm::log(terms.map(|term| libm::exp(term - max)).sum())
}
