//! The test behind one track: which kernel or rule, fed with which counts.
//!
//! The only file that knows both what criteria are and what kernels want.

use bellwether_protocol::plan::{Criterion, Objective};
use bellwether_protocol::ratio::{ONE_PPB, Ratio};
use bellwether_protocol::sample::LATENCY_EDGES_MS;
use bellwether_protocol::time::{Span, Timestamp};
use serde::{Deserialize, Serialize};

use crate::judge::percent;
use crate::kernel::edges::{Anywhere, AtQuantile, Slower};
use crate::kernel::share::{self, Batch, Ratios};
use crate::kernel::starts::Weights;
use crate::kernel::threshold::{self, Counts};
use crate::rule::burn::Burn;
use crate::rule::stability::Stability;
use crate::tally::Tally;
use crate::track::Pair;

/// What one track remembers beyond counts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Test {
    /// The canary's latencies against the baseline's, anywhere.
    Anywhere(Box<Anywhere>),
    /// The same at one quantile.
    AtQuantile(Box<AtQuantile>),
    /// The error budget of an SLO, in windows.
    Burn(Box<Burn>),
    /// The canary's share of bad answers against the baseline's.
    Share {
        /// Evidence that it is larger.
        fail: Box<share::Fail>,
        /// Evidence that it is not.
        pass: share::Pass,
    },
    /// A level, at planned looks.
    Stability(Box<Stability>),
    /// A share of bad answers against a limit.
    Threshold {
        /// Evidence that it is beyond the limit.
        fail: Box<threshold::Fail>,
        /// Evidence that it is within the target.
        pass: Option<threshold::Pass>,
    },
}

/// What a Pass of a comparison proves: that the canary is bad less than so many times as often as
/// what is tolerated, and at least twice the baseline.
const PASS_TIMES: f64 = 2.0;

impl Test {
    /// The test that a criterion asks for; none where counts alone decide.
    pub fn new(criterion: &Criterion, planned: u64, slot: Span) -> Option<Self> {
        let weights = Weights::Spread;
        let threshold = |limit: Ratio, target: Ratio| {
            // A limit of nothing, or of everything, leaves no alternative to test.
            let is_limit = |ratio: Ratio| ratio > Ratio::ZERO && ratio < Ratio::ZERO.complement();
            is_limit(limit).then(|| Self::Threshold {
                fail: Box::new(threshold::Fail::new(share_of(limit), planned, weights)),
                pass: is_limit(target).then(|| threshold::Pass::new(share_of(target))),
            })
        };
        match &criterion.objective {
            Objective::Compare { times, .. } => Some(Self::Share {
                fail: Box::new(share::Fail::new(times.factor(), Ratios::ERRORS, planned, weights)),
                pass: share::Pass::new(times.factor().max(PASS_TIMES)),
            }),
            Objective::CompareLatency { quantile: None, .. } => {
                Some(Self::Anywhere(Box::new(Anywhere::new(LATENCY_EDGES_MS.len(), planned, weights))))
            }
            Objective::CompareLatency { quantile: Some(quantile), .. } => {
                Some(Self::AtQuantile(Box::new(AtQuantile::new(share_of(*quantile), PASS_TIMES, planned, weights))))
            }
            Objective::Quantile { quantile, .. } => threshold(quantile.complement(), quantile.complement()),
            Objective::Ratio { max, target, .. } => threshold(*max, target.unwrap_or(*max)),
            Objective::Burn { slo, period, spend, .. } => {
                Some(Self::Burn(Box::new(Burn::new(share_of(*slo), *period, share_of(*spend), slot, planned))))
            }
            Objective::Stable { within, .. } => {
                Some(Self::Stability(Box::new(Stability::new(share_of(*within), slot, planned))))
            }
            Objective::Consecutive { .. }
            | Objective::Number { .. }
            | Objective::Rising { .. }
            | Objective::Zero { .. } => None,
        }
    }

    /// Folds one slot. What was seen of one that is not covered proves nothing good.
    pub fn fold(&mut self, slot: Timestamp, tally: &Tally, pairs: &[Pair], is_covered: bool) {
        match self {
            Self::Anywhere(test) => test.fold(pairs.iter().map(slower)),
            Self::AtQuantile(test) => test.fold(pairs.iter().map(slower), is_covered),
            Self::Burn(burn) => burn.fold(tally.counts()),
            Self::Share { fail, pass } => {
                let batch = |pair: &Pair| Batch { canary: pair.canary.counts(), baseline: pair.baseline.counts() };
                fail.fold(pairs.iter().map(batch));
                pass.fold(pairs.iter().map(batch), is_covered);
            }
            Self::Stability(stability) => stability.fold(slot, tally.value, tally.uptime),
            Self::Threshold { fail, pass } => {
                fail.fold(tally.counts());
                pass.iter_mut().for_each(|pass| pass.fold(Counts::new(tally.over_target, tally.n), is_covered));
            }
        }
    }

    /// Logarithm of the evidence that the criterion does not hold.
    pub fn ln_e_fail(&self) -> Option<f64> {
        match self {
            Self::Anywhere(test) => Some(test.ln_e()),
            Self::AtQuantile(test) => Some(test.ln_e()),
            Self::Burn(_) | Self::Stability(_) => None,
            Self::Share { fail, .. } => Some(fail.ln_e()),
            Self::Threshold { fail, .. } => Some(fail.ln_e()),
        }
    }

    /// The most that it ever was.
    pub fn ln_e_fail_max(&self) -> Option<f64> {
        match self {
            Self::Anywhere(test) => Some(test.ln_e_max()),
            Self::AtQuantile(test) => Some(test.ln_e_max()),
            Self::Burn(_) | Self::Stability(_) => None,
            Self::Share { fail, .. } => Some(fail.ln_e_max()),
            Self::Threshold { fail, .. } => Some(fail.ln_e_max()),
        }
    }

    /// Logarithm of the evidence that it holds; none where nothing can prove that.
    pub fn ln_e_pass(&self) -> Option<f64> {
        match self {
            Self::AtQuantile(test) => Some(test.ln_e_pass()),
            Self::Share { pass, .. } => Some(pass.ln_e()),
            Self::Threshold { pass, .. } => pass.as_ref().map(threshold::Pass::ln_e),
            Self::Anywhere(_) | Self::Burn(_) | Self::Stability(_) => None,
        }
    }

    /// Takes back from what was proven: bad answers that came too late for their slot.
    pub fn fold_late(&mut self, tally: &Tally) {
        if let Self::Threshold { pass: Some(pass), .. } = self {
            pass.fold(Counts::new(tally.over_target, tally.over_target), false);
        }
    }

    /// The share that explains the data best, of those beyond the limit.
    pub fn alternative(&self) -> Option<f64> {
        match self {
            Self::Threshold { fail, .. } => Some(fail.best()),
            _ => None,
        }
    }

    /// What explains the data best.
    pub fn best(&self) -> String {
        let edge = |edge: Option<usize>| {
            let edge = edge.and_then(|edge| LATENCY_EDGES_MS.get(edge)).copied().unwrap_or_default();
            Span::from_ms(edge)
        };
        match self {
            Self::Anywhere(test) => format!("slower over {}", edge(Some(test.best()))),
            Self::AtQuantile(test) => format!("{} as often over {}", times(test.best()), edge(test.edge())),
            Self::Burn(burn) => burn.rate().map_or_else(String::new, |rate| {
                format!("{} budget over {}, limit {}", times(rate.rate), rate.long, times(rate.factor))
            }),
            Self::Share { fail, .. } => times(fail.best()),
            Self::Stability(stability) => match &stability.last_look {
                Some(look) => format!("{:+.1}% a day, spread {:.1}%", look.slope * 100.0, look.spread * 100.0),
                None => "not looked at yet".to_owned(),
            },
            Self::Threshold { fail, .. } => percent((fail.best() * f64::from(ONE_PPB)) as u64, u64::from(ONE_PPB)),
        }
    }

    /// Whether a rule says that it does not hold.
    pub fn is_broken(&self) -> bool {
        match self {
            Self::Burn(burn) => burn.is_broken(),
            Self::Stability(stability) => stability.is_broken(),
            _ => false,
        }
    }

    /// Whether a rule says that it holds.
    pub fn is_kept(&self) -> bool {
        match self {
            Self::Burn(burn) => burn.is_kept(),
            Self::Stability(stability) => stability.is_kept(),
            _ => false,
        }
    }
}

fn slower(pair: &Pair) -> Slower<'_> {
    Slower {
        canary_n: pair.canary.n,
        canary: &pair.canary.slower,
        baseline_n: pair.baseline.n,
        baseline: &pair.baseline.slower,
    }
}

/// A factor as people read it.
pub(crate) fn times(factor: f64) -> String {
    format!("{factor:.1}x")
}

/// As a number from 0 to 1.
pub(crate) fn share_of(ratio: Ratio) -> f64 {
    f64::from(ratio.ppb()) / f64::from(ONE_PPB)
}
