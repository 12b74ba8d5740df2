//! What one rollout came to and why, gathered from its records, for people to read.

use serde::{Deserialize, Serialize};

use crate::action::ActionOutcome;
use crate::id::{AgentId, LeverName, LeverValue, Ordinal, Region};
use crate::presence::Gap;
use crate::reason::{Cause, Judgement};
use crate::sample::Evidence;
use crate::status::Status;
use crate::time::Timestamp;

/// A rollout, explained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// Where it stands by its last record.
    pub status: Status,
    /// The decision to take it back, if there was one.
    pub decided: Option<Decided>,
    /// Every verdict as it stood at that decision; without one, as it stands now.
    pub verdicts: Vec<Standing>,
    /// The file of the plan that names the criterion, when it has several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan_file: Option<String>,
    /// The line of the plan, or of that file, that names the criterion.
    pub plan_line: Option<usize>,
    /// The slots that say most against it, oldest first.
    pub slots: Vec<SlotCounts>,
    /// Whom that had reached by then, where the criterion counts answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub users: Option<Users>,
    /// Coverage of each region at the decision.
    pub covered: Vec<Coverage>,
    /// What agents could not measure, and why, in the order that it was told; the last [`MISSED_MAX`].
    #[serde(default)]
    pub missed: Vec<Missed>,
    /// What was done to levers, in the order it was asked.
    pub moves: Vec<Move>,
    /// When the old release was seen to be back.
    pub applied: Option<Timestamp>,
    /// It was read back only: no answer names its release.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unseen: bool,
    /// When it was seen to be green again, and in how many slots.
    pub recovered: Option<(Timestamp, u32)>,
    /// The first failures, as they were seen.
    pub evidence: Vec<Evidence>,
    /// How many records were decided again to say this, each the same to the byte.
    pub records: usize,
}

/// Most gaps that are told one by one.
pub const MISSED_MAX: usize = 20;

/// What an agent could not measure for a while.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missed {
    /// Who.
    pub agent: AgentId,
    /// What, since when, and why as it was last told.
    #[serde(flatten)]
    pub gap: Gap,
    /// When that was over; absent while it is not.
    pub until: Option<Timestamp>,
}

/// The decision to take back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Decided {
    /// When.
    pub at: Timestamp,
    /// In which record.
    pub record: Ordinal,
    /// Why.
    pub cause: Cause,
}

/// A verdict, and how far its evidence went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// The verdict.
    #[serde(flatten)]
    pub judgement: Judgement,
    /// The end of the last slot in it.
    pub upto: Timestamp,
}

/// One slot of one region.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotCounts {
    /// Its start.
    pub slot: Timestamp,
    /// Where.
    pub region: Region,
    /// Answers.
    pub n: u64,
    /// Of these, bad.
    pub bad: u64,
    /// Agents that were not well themselves, and whose word did not count.
    pub unwell: u32,
}

/// Requests that failed, of those that were seen: of the others nothing is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Users {
    /// At least so many.
    pub failed: u64,
    /// Where.
    pub regions: Vec<Region>,
    /// Start of the first slot that holds one.
    pub from: Timestamp,
    /// End of the last.
    pub to: Timestamp,
}

/// How well a region was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coverage {
    /// Where.
    pub region: Region,
    /// Covered slots.
    pub covered: u64,
    /// Out of how many.
    pub slots: u64,
}

/// What was done to one lever.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    /// Which.
    pub lever: LeverName,
    /// What this rollout had set it to before.
    pub from: Option<LeverValue>,
    /// To what.
    pub to: LeverValue,
    /// When it was asked.
    pub asked: Timestamp,
    /// When its agent answered.
    pub answered: Option<Timestamp>,
    /// How it went.
    pub outcome: Option<ActionOutcome>,
    /// Targets read back at the asked value.
    pub done: u32,
    /// Out of how many.
    pub targets: u32,
    /// Whether it was on the way back.
    pub is_back: bool,
}
