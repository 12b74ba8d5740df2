//! The projection of one service's rollout that people read. Rebuildable from the log at any time.

use serde::{Deserialize, Serialize};

use crate::command::Excluded;
use crate::id::{
    AgentId, CriterionName, Entry, GateVersion, IncidentId, LeverName, LeverValue, Ordinal, Region, Release, RolloutId,
    StageName,
};
use crate::presence::{Gap, Stuck};
use crate::ratio::Ratio;
use crate::reason::{Ending, Hold, Judgement};
use crate::sample::Evidence;
use crate::time::{Span, Timestamp};

/// Where a rollout is, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Agents take up their assignments; nothing has moved.
    Preparing,
    /// Entry actions are being read back.
    Entering,
    /// Entered; nothing is judged yet.
    Settling,
    /// Looking.
    Soaking,
    /// Everything but a human holds.
    Waiting,
    /// Levers are being set back; not yet applied.
    TakingBack,
    /// Levers are back; not yet green.
    Applied,
    /// Over.
    Ended,
}

/// One rollout, as people see it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Status {
    /// Which rollout.
    pub rollout: RolloutId,
    /// The new release.
    pub release: Release,
    /// The release it would go back to.
    pub previous: Option<Release>,
    /// SHA-256 of the plan text, 12 hexadecimal digits.
    pub plan_hash: String,
    /// Overrides of the plan.
    pub overrides: Vec<String>,
    /// Whether it is in the shadow: nothing is moved.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_shadow: bool,
    /// When it started.
    pub started_at: Timestamp,
    /// When this was decided.
    pub decided_at: Timestamp,
    /// The record behind it.
    pub record: Ordinal,
    /// Where it is.
    pub state: State,
    /// How it ended, if it did.
    pub ending: Option<Ending>,
    /// One sentence, once it ended or is being taken back.
    pub summary: Option<String>,
    /// Why it does not go on.
    pub holds: Vec<Hold>,
    /// What people must do.
    pub needs_you: Option<NeedsYou>,
    /// Its stages.
    pub stages: Vec<StageStatus>,
    /// The stage entry and gate version that an approval names.
    pub entry: Entry,
    /// See `entry`.
    pub gate: GateVersion,
    /// The earliest instant at which the stage can be left.
    pub leaves_at: Option<Timestamp>,
    /// Criteria, worst first.
    pub criteria: Vec<Judgement>,
    /// What the tests of the stage may spend; absent before the first stage and after the end.
    #[serde(default)]
    pub budget: Option<Budget>,
    /// Regions of the stage.
    pub regions: Vec<RegionStatus>,
    /// Levers that this rollout moves.
    pub levers: Vec<LeverStatus>,
    /// Whether it is over and the new release is still deployed, such as behind a flag that went off.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stays: bool,
    /// Take-back, if one is on.
    pub take_back: Option<TakeBackStatus>,
    /// The first failures of the current stage.
    pub evidence: Vec<Evidence>,
    /// Agents that are here.
    pub agents_live: u32,
    /// Agents that were here since the rollout began.
    pub agents_known: u32,
    /// Incidents that are open.
    pub incidents: Vec<IncidentId>,
    /// What was left out by hand, and until when.
    pub excluded: Vec<(Excluded, Timestamp)>,
    /// Width of a slot.
    pub slot: Span,
    /// Why nothing is decided now. Whoever reads a status finds that out; no coordinator writes it here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stuck: Option<Stuck>,
}

/// The error budget: the chance that a release within every limit is taken back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Budget {
    /// Of the whole rollout.
    pub alpha: Ratio,
    /// The part of the stage that is on.
    pub stage: Ratio,
    /// How many tests share that part.
    pub tests: u64,
    /// Criteria that may take the release back outside it: they count, and ask for no proof.
    pub outside: Vec<CriterionName>,
}

/// What people must do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct NeedsYou {
    /// In a few words, such as `look at iad`.
    pub what: String,
    /// The exact command, if one helps.
    pub run: Option<String>,
}

/// One stage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct StageStatus {
    /// Its name.
    pub name: StageName,
    /// How far it is.
    pub mark: StageMark,
    /// How long it has soaked, in covered slots.
    pub soaked: Span,
    /// How long it must.
    pub soak: Span,
}

/// How far a stage is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StageMark {
    /// It failed.
    Failed,
    /// Still to come.
    Later,
    /// It is on.
    Now,
    /// It was left as the plan wants.
    Passed,
    /// It will not come.
    Skipped,
}

/// One region.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct RegionStatus {
    /// Which.
    pub region: Region,
    /// The last 20 slots, oldest first: `.` green, `x` red, `?` not covered.
    pub strip: String,
    /// How many slots of the stage are covered.
    pub covered: u64,
    /// Out of how many.
    pub slots: u64,
    /// The releases that answered in the last closed slot.
    pub answering: Vec<Release>,
    /// Agents that look here and are alive.
    pub agents_live: u32,
    /// Since when nothing was heard, if so.
    pub silent_since: Option<Timestamp>,
    /// What its agents cannot measure now, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gaps: Vec<(AgentId, Gap)>,
}

/// One lever.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct LeverStatus {
    /// Which.
    pub lever: LeverName,
    /// What it was last asked to be.
    pub set_to: Option<LeverValue>,
    /// What it was last read to be.
    pub value: Option<LeverValue>,
    /// Targets read back at the asked value.
    pub done: u32,
    /// Out of how many.
    pub targets: u32,
    /// How its agent stands to the last action: `asked`, `done`, `refused` and so on.
    pub answer: String,
}

/// A take-back that is on, or was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct TakeBackStatus {
    /// Which level, from 1.
    pub level: u32,
    /// Of how many.
    pub levels: u32,
    /// When it was asked.
    pub asked_at: Timestamp,
    /// By when it must be applied.
    pub due: Timestamp,
    /// When it was seen to be applied.
    pub applied_at: Option<Timestamp>,
    /// When it was seen to be green.
    pub recovered_at: Option<Timestamp>,
    /// Green slots so far.
    pub green: u32,
    /// Out of how many.
    pub green_needed: u32,
}
