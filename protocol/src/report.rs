//! What a rollout has shown so far, and whether what comes next may follow: gathered from its
//! records alone, bounded whatever their number. Every number names the row of evidence behind it.

use std::collections::BTreeMap;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::explanation::Explanation;
use crate::id::{Class, CriterionName, NumberName, Ordinal, Principal, Region, Release, SliName, StageName};
use crate::reason::{Judgement, Reason};
use crate::record::{Hash, Series};
use crate::sample::{Cohort, Evidence, Level, Portion};
use crate::time::{Span, TimeError, Timestamp, slot_start};

/// A rollout, reported.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// May what comes next follow?
    pub answer: Answer,
    /// What it came to, and why.
    pub explanation: Explanation,
    /// Who started it.
    pub started_by: Option<Principal>,
    /// Where the service is.
    pub regions: BTreeMap<Region, String>,
    /// When stages were entered and left, in that order.
    pub entries: Vec<StageTimes>,
    /// What was looked at in the stage that was judged.
    pub endpoints: Vec<Endpoint>,
    /// What is judged, and how it stands.
    pub criteria: Vec<CriterionRow>,
    /// What went wrong, the most pressing first.
    pub issues: Vec<Issue>,
    /// How many more issues there were than are listed.
    pub issues_left_out: u64,
    /// What was not seen, or seen too late, by region.
    pub gaps: Vec<Gap>,
    /// What was left out by hand, with the record that says so.
    pub exclusions: Vec<(Ordinal, Reason)>,
    /// Every region's slots, from the first to the last.
    pub strips: Vec<Strip>,
    /// What the numbers rest on; row `E1` is the first.
    pub evidence: Vec<EvidenceRow>,
    /// The hash of the last record of the log.
    pub head: Hash,
}

/// May what comes next follow?
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The question, such as `May production follow?`
    pub question: String,
    /// The answer.
    pub verdict: Answered,
    /// Criteria that are met.
    pub met: usize,
    /// Criteria that are not.
    pub not_met: usize,
    /// Criteria of which it is not known; unknown is not met.
    pub unknown: usize,
    /// How long the stage has soaked, in covered slots.
    pub soaked: Span,
    /// How long it must.
    pub soak: Span,
    /// Its evidence.
    pub evidence: RowNumber,
}

/// An answer to that question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answered {
    /// It may not.
    No,
    /// Not all is met so far.
    NotYet,
    /// It may.
    Yes,
}

/// The number of a row of evidence, from 1. Written `E1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RowNumber(pub usize);

impl std::fmt::Display for RowNumber {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "E{}", self.0)
    }
}

/// When a stage was entered and left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageTimes {
    /// Which.
    pub stage: StageName,
    /// When it was entered.
    pub entered: Timestamp,
    /// When it was left, forwards or backwards.
    pub left: Option<Timestamp>,
    /// The record that says that it was entered.
    pub record: Ordinal,
}

/// What was looked at in one region, and what came back from the new release.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Endpoint {
    /// The SLI.
    pub sli: SliName,
    /// What is asked, such as `/checkout`.
    pub path: Option<String>,
    /// Where from.
    pub region: Region,
    /// Its answers of the last slot that had any: when it began, and how many of each class.
    pub last: Option<(Timestamp, BTreeMap<Class, u64>)>,
    /// The 95th percentile of the time to answer, at most; absent without answers.
    pub p95: Option<Percentile>,
    /// Covered slots.
    pub covered: u64,
    /// Slots.
    pub slots: u64,
    /// Answers, or looks that got none.
    pub n: u64,
    /// Of these, other than `ok`.
    pub not_ok: u64,
    /// Numbers that the last slot's answers held.
    pub numbers: BTreeMap<NumberName, Level>,
    /// The first failure.
    pub first_bad: Option<Evidence>,
    /// Words of agents that were not well themselves, and did not count.
    pub unwell: u64,
    /// Its evidence.
    pub evidence: RowNumber,
}

/// A percentile, read off a histogram.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Percentile {
    /// At most so long.
    AtMost(Span),
    /// Longer than the last edge.
    Over(Span),
}

/// One criterion, and how it stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CriterionRow {
    /// Which.
    pub criterion: CriterionName,
    /// What must hold, as a plan says it.
    pub must: String,
    /// Whether it is hard.
    pub hard: bool,
    /// Whether it is met.
    pub result: Met,
    /// The verdict that says most: one that fails, then one without data, then all regions together.
    pub judgement: Option<Judgement>,
    /// The end of the last slot in it.
    pub upto: Option<Timestamp>,
    /// Its value against its limit, where both are numbers.
    pub scale: Option<Scale>,
    /// The first failure of what it judges.
    pub first_bad: Option<Evidence>,
    /// Until when it is left out by hand, if it is.
    pub excluded_until: Option<Timestamp>,
    /// Its evidence.
    pub evidence: RowNumber,
}

/// Whether a criterion is met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Met {
    /// It holds.
    Met,
    /// It did not fail in the whole soak, and the plan asks for no more; it was not proven.
    NotFailed,
    /// It does not hold.
    NotMet,
    /// It is not known. Never to be taken for met.
    Unknown,
}

impl Met {
    /// Whether the plan's demand is satisfied.
    pub fn is_met(self) -> bool {
        matches!(self, Self::Met | Self::NotFailed)
    }
}

/// A value, its limit, and what the data still allow.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Scale {
    /// What was seen: a share between 0 and 1, or the number itself.
    pub value: f64,
    /// What it must not pass.
    pub limit: f64,
    /// What it should not pass.
    pub target: Option<f64>,
    /// The least and the most that the data still allow, at 95 % and at every moment.
    pub band: Option<(f64, f64)>,
    /// Whether these are shares.
    pub is_share: bool,
    /// Whether it must not be below the limit, rather than above.
    pub is_floor: bool,
}

/// How pressing an issue is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// Now.
    High,
    /// Today.
    Medium,
    /// Nothing is asked.
    Low,
}

/// Something that went wrong.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Issue {
    /// How pressing it is.
    pub priority: Priority,
    /// When it began.
    pub since: Timestamp,
    /// When it was over, if it is.
    pub until: Option<Timestamp>,
    /// What it is, as it was last told.
    pub what: Reason,
    /// How often it began.
    pub times: u32,
    /// Its evidence.
    pub evidence: RowNumber,
}

/// What was not seen of a region, or seen too late.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// Which region.
    pub region: Region,
    /// Slots that were looked at, of all stages.
    pub slots: u64,
    /// Of these, not covered.
    pub missing: u64,
    /// The first and the last of them.
    pub between: Option<(Timestamp, Timestamp)>,
    /// Slots of one series that came after they had closed.
    pub late: u64,
    /// Words of agents that were not well themselves.
    pub unwell: u64,
}

/// A region's slots, down-sampled so that no gap is lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Strip {
    /// Which region.
    pub region: Region,
    /// Where the first cell begins.
    pub from: Timestamp,
    /// How long a cell is: a whole number of slots.
    pub cell: Span,
    /// The cells, oldest first.
    pub cells: Vec<Cell>,
}

/// Some slots in a row. None at all: nothing was looked at.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cell {
    /// Slots.
    pub slots: u32,
    /// Of these, over a hard limit.
    pub red: u32,
    /// Of these, not covered.
    pub missing: u32,
}

/// What some numbers rest on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvidenceRow {
    /// What it is evidence of.
    pub of: String,
    /// The first and the last record that hold it.
    pub records: (Ordinal, Ordinal),
    /// The start of the first slot and the end of the last one, and how many are covered, of how many.
    pub slots: Option<SlotRange>,
    /// Events.
    pub n: Option<u64>,
    /// Of these, bad.
    pub bad: Option<u64>,
    /// First 12 hexadecimal digits of the SHA-256 of the criterion and its test's share.
    pub parameters: Option<String>,
    /// The command that shows it.
    pub run: String,
}

/// Slots in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotRange {
    /// The start of the first.
    pub from: Timestamp,
    /// The end of the last.
    pub upto: Timestamp,
    /// Covered slots.
    pub covered: u64,
    /// Slots.
    pub slots: u64,
}

/// An instant, such as `2026-05-05T13:50:30Z`, or a time of every day, such as `13:50:30Z`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// So long after midnight, in UTC.
    Daily(Span),
    /// Once.
    Once(Timestamp),
}

impl At {
    /// Whether the slot of that width which begins at `slot` holds it.
    pub fn is_in(self, slot: Timestamp, width: Span) -> bool {
        let midnight = slot_start(slot, Span::from_secs(86_400));
        let at = match self {
            Self::Daily(time) => midnight + time,
            Self::Once(at) => at,
        };
        slot_start(at, width) == slot
    }
}

impl FromStr for At {
    type Err = TimeError;

    fn from_str(text: &str) -> Result<Self, TimeError> {
        let daily = || format!("1970-01-01T{text}").parse().ok().map(|at: Timestamp| at.since(Timestamp::default()));
        text.parse().map(Self::Once).or_else(|error| daily().map(Self::Daily).ok_or(error))
    }
}

/// Which slots are asked for. What is absent is not asked about.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The slot that holds this instant.
    pub slot: Option<At>,
    /// Slots that this criterion counts.
    pub criterion: Option<CriterionName>,
    /// Slots of this region.
    pub region: Option<Region>,
}

/// Slots that were folded, the last ones of them.
#[derive(Debug, Default, Clone, PartialEq, Serialize)]
pub struct Folded {
    /// The slots, in the order in which they were folded.
    pub slots: Vec<FoldedSlot>,
    /// How many there are in all.
    pub total: u64,
}

/// One slot as it was folded.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FoldedSlot {
    /// The record that holds it.
    pub record: Ordinal,
    /// Start of the slot.
    pub slot: Timestamp,
    /// Of what.
    pub series: Series,
    /// `.` green, `x` red, `?` not covered.
    pub mark: char,
    /// What each criterion counted: events, and of these bad.
    pub counted: Vec<(CriterionName, u64, u64)>,
    /// Agents whose word counts.
    pub reporters: u32,
    /// Agents that were not well.
    pub unwell: u32,
    /// What was seen, by the release that answered.
    pub portions: Vec<Portion>,
    /// The first failures.
    pub evidence: Vec<Evidence>,
}

impl FoldedSlot {
    /// The releases that answered.
    pub fn releases(&self) -> impl Iterator<Item = &Release> {
        self.portions.iter().filter_map(|portion| portion.release.as_ref())
    }

    /// Whose it is.
    pub fn cohort(&self) -> Cohort {
        self.series.cohort
    }
}
