//! What a plan's looks can show, before anything is started.

use serde::Serialize;

use crate::id::{CriterionName, StageName};
use crate::plan::Require;
use crate::ratio::Ratio;
use crate::time::Span;

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
    /// What each criterion that judges shares can show.
    pub criteria: Vec<CriterionPower>,
}

/// What one criterion can show in one stage.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CriterionPower {
    /// The criterion.
    pub criterion: CriterionName,
    /// Requests a minute of one cohort in one region, by the plan's own looks or as given.
    pub per_minute: f64,
    /// The share beyond which it fails.
    pub limit: Ratio,
    /// A regression to this share, in one region.
    pub jump: Ratio,
    /// How often such a test cries wolf: once in so many.
    pub one_in: u64,
    /// Half of the time it is seen within this; absent when that is longer than the soak.
    pub seen_half: Option<Span>,
    /// Nine times of ten it is.
    pub seen_most: Option<Span>,
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
