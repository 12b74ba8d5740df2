//! Evidence for a Pass, over gaps: what was not seen might have been bad.
//!
//! The mean of likelihood ratios, one per alternative. In a slot that was not covered each is cut to
//! at most 1: what spoke for a Pass is forgotten and has to be shown anew, what speaks against it
//! stays. That only ever lowers it, so it reaches `1/alpha` with a chance of at most `alpha` while the
//! null is true, however many gaps there are; and it is never more than what the slots since the
//! last gap show by themselves, nor than it would be without the gap.

use serde::{Deserialize, Serialize};

use super::ln_sum_exp;

/// The logarithms of the likelihood ratios, one per alternative.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Proof(Vec<f64>);

impl Proof {
    /// Nothing was seen yet.
    pub(super) fn new(alternatives: usize) -> Self {
        Self(vec![0.0; alternatives])
    }

    /// Folds one slot; `increments` are the logarithms of its likelihood ratios.
    pub(super) fn fold(&mut self, increments: impl Iterator<Item = f64>, is_covered: bool) {
        for (own, increment) in self.0.iter_mut().zip(increments) {
            // An alternative that is ruled out stays a number, so that it can be stored.
            let folded = (*own + increment).max(f64::MIN);
            *own = if is_covered { folded } else { folded.min(*own).min(0.0) };
        }
    }

    /// Logarithm of the evidence now.
    pub(super) fn ln_e(&self) -> f64 {
        ln_sum_exp(self.0.iter().copied()) - libm::log(self.0.len().max(1) as f64)
    }
}
