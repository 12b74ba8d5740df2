//! What a plan's looks can show, before anything is started.

use serde::Serialize;

use crate::id::{CriterionName, StageName};
use crate::plan::Require;
use crate::ratio::{ONE_PPB, Ratio, Times};
use crate::time::Span;

/// Kernel 1's Pass test at 1 in 20, on events without one bad: it passes a limit `p` once
/// `-n ln(1 - p)` is this much. Where `x` is that, its alternatives `p 2^(-j/2)` have likelihood ratios
/// of `exp(x (1 - 2^(-j/2)))`, that of 0 has `exp(x)`, and the mean of all eleven is 20. The judge's own
/// tests hold this against the test itself.
const CLEAN: f64 = 3.534_986_556_112_6;

/// Events without one bad that prove that less than `limit` is bad; none do for a limit of 0.
pub fn clean_needed(limit: Ratio) -> u64 {
    (CLEAN / -(-part(limit)).ln_1p()).ceil().max(1.0) as u64
}

/// The smallest share that so many events without one bad prove it to be less than.
pub fn proven_by(clean: u64) -> Ratio {
    let bound = -(-CLEAN / clean.max(1) as f64).exp_m1();
    Ratio::from_ppb((bound * f64::from(ONE_PPB)).ceil() as u32).rounded_up()
}

fn part(ratio: Ratio) -> f64 {
    f64::from(ratio.ppb()) / f64::from(ONE_PPB)
}

/// What one stage can show.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StagePower {
    /// The stage.
    pub stage: StageName,
    /// How long it soaks.
    pub soak: Span,
    /// Its part of the rollout's error budget.
    pub alpha: Ratio,
    /// How many tests share it.
    pub tests: u64,
    /// Criteria that may take the release back outside the budget: they count, and ask for no proof.
    pub outside: Vec<CriterionName>,
    /// What each criterion can show.
    pub criteria: Vec<CriterionPower>,
}

/// What one criterion can show in one stage.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CriterionPower {
    /// The criterion.
    pub criterion: CriterionName,
    /// What it judges, as a sentence.
    pub must: String,
    /// Requests a minute of one cohort in one region, by the plan's own looks or as given; 0 when not known.
    pub per_minute: f64,
    /// What can be shown of it.
    #[serde(flatten)]
    pub shows: Shows,
}

/// What can be shown, by what is judged. A length of time is absent when it is longer than the soak.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "shows", rename_all = "snake_case")]
pub enum Shows {
    /// How soon an SLO's error budget is seen to burn.
    Burn {
        /// How many times as fast as the SLO allows.
        times: Times,
        /// When that is seen.
        fast: Option<Span>,
        /// When an outage is.
        outage: Option<Span>,
    },
    /// How soon a canary is seen to be worse than the baseline, in one region.
    Compared {
        /// The share of the baseline's answers that is taken to be bad, or slow.
        baseline: Ratio,
        /// So many times that, and when it is seen.
        jumps: Vec<(Times, Seen)>,
    },
    /// How steep a climb a level's planned looks show, when it scatters as widely as it may.
    Climb {
        /// Each look that shows one within 100 % a day: when it is, and the smallest share a day.
        looks: Vec<(Span, Ratio)>,
    },
    /// After how many slots in a row beyond the limit it fails, and when that is.
    Lasting {
        /// Slots, and how long they take.
        slots: Option<(u64, Span)>,
    },
    /// Of a share against a limit.
    Share(SharePower),
    /// What a soak without one bad proves.
    Silence {
        /// Events of a whole soak, all regions together.
        clean: u64,
        /// A share of more than this is ruled out, with 95 %.
        rules_out: Ratio,
    },
    /// Nothing, for only the traffic would say: as many requests come as the load's users make.
    Unknown,
}

/// When a regression is seen.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Seen {
    /// Half of the time it is within this; absent when that is longer than the soak.
    pub half: Option<Span>,
    /// Nine times of ten it is.
    pub most: Option<Span>,
}

/// What can be shown of a share against a limit.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SharePower {
    /// The share beyond which it fails.
    pub limit: Ratio,
    /// The latency beyond which a request counts as bad, where that is what is judged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub over: Option<Span>,
    /// A regression to this share, in one region.
    pub jump: Ratio,
    /// How often such a test cries wolf: once in so many.
    pub one_in: u64,
    /// When the regression is seen.
    pub seen: Seen,
    /// The share that a Pass proves.
    pub target: Ratio,
    /// Requests without one bad that prove it, all regions together.
    pub clean_needed: u64,
    /// How long these take; absent when that is longer than the soak.
    pub proven_in: Option<Span>,
    /// What a whole soak without one bad rules out: a share of more than this.
    pub rules_out: Ratio,
    /// What the plan wants.
    pub require: Require,
}
