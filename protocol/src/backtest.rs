//! What a backtest says: verdicts look by look, and what they come to.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::id::{CriterionName, Region, StageName};
use crate::reason::{Hold, Judgement, Reason, Verdict};
use crate::time::Timestamp;

/// One criterion at one look.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Look<'a> {
    /// When: the end of the slot.
    pub at: Timestamp,
    /// The stage.
    pub stage: &'a StageName,
    /// The criterion.
    pub criterion: &'a CriterionName,
    /// The region; absent when all are pooled.
    pub region: Option<&'a Region>,
    /// Events since the stage began.
    pub n: u64,
    /// Of these, bad.
    pub bad: u64,
    /// Logarithm of the evidence against the release; absent for a rule without one.
    pub ln_e_fail: Option<f64>,
    /// Logarithm of the evidence for it.
    pub ln_e_pass: Option<f64>,
    /// The verdict.
    pub verdict: Verdict,
}

/// How a backtest ended.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Decision {
    /// What was decided.
    pub decision: Outcome,
    /// When.
    pub at: Timestamp,
    /// The stage it was in.
    pub stage: Option<StageName>,
    /// The verdict behind it, where there is one.
    pub judgement: Option<Judgement>,
    /// What held it when the samples ended.
    pub holds: Vec<Hold>,
    /// How many lines the samples had.
    pub lines: usize,
    /// Lines whose figures cannot be true, by why: how many, and the number of the first.
    pub rejected: BTreeMap<&'static str, (usize, usize)>,
}

/// What a plan would have come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Every stage was left.
    Completed,
    /// The samples ended before a decision.
    Held,
    /// The release was taken back.
    TakenBack,
}

/// What a backtest tells as it goes.
#[derive(Debug)]
pub enum Event<'a> {
    /// Every verdict of one look; only the canary's.
    Looks(&'a [Look<'a>]),
    /// What changed.
    Reason(Timestamp, &'a Reason),
}
