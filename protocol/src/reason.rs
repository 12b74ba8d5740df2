//! Why, as data. The same reasons feed the log, `rollout status`, `watch` and the alerts.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::action::ActionOutcome;
use crate::alert::Numbers;
use crate::command::{Excluded, Verb};
use crate::id::{
    ActionId, AgentId, CommandId, CriterionName, Entry, LeverName, LeverValue, Principal, Region, Release, StageName,
};
use crate::ratio::Ratio;
use crate::record::Source;
use crate::sample::Cohort;
use crate::time::{Span, Timestamp};

/// What the evidence says of one criterion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It holds.
    Pass,
    /// It could not be told.
    Inconclusive(Lack),
    /// It does not hold.
    Fail,
}

/// Why it could not be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Lack {
    /// Complete data, nothing bad, proof not reached.
    NotProven,
    /// Missing, stale, broken, unattributable, or too few events.
    NoData,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Pass => "pass",
            Self::Inconclusive(Lack::NotProven) => "not proven",
            Self::Inconclusive(Lack::NoData) => "no data",
            Self::Fail => "FAIL",
        })
    }
}

/// A verdict with what it rests on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Judgement {
    /// Which criterion.
    pub criterion: CriterionName,
    /// Whether it is hard.
    pub hard: bool,
    /// For which cohort.
    pub cohort: Cohort,
    /// For which region; absent when all were pooled.
    pub region: Option<Region>,
    /// The verdict.
    pub verdict: Verdict,
    /// Within the limit, but over the target.
    pub over_target: bool,
    /// The numbers.
    pub numbers: Numbers,
    /// Since when it has failed without a break.
    pub failing_since: Option<Timestamp>,
    /// What a statistical verdict rests on; absent for a rule that needs no proof.
    pub grounds: Option<Box<Grounds>>,
}

/// What a statistical verdict rests on: enough to recompute it from the closed slots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Grounds {
    /// Natural logarithm of the evidence against the release, an e-value.
    pub ln_e_fail: Nats,
    /// The same of the evidence for it; absent where no Pass test is run.
    pub ln_e_pass: Option<Nats>,
    /// What `ln_e_fail` must reach: `ln(1/alpha)` of this test's share.
    pub bar: Nats,
    /// A release at the limit looks as bad as this at most once in so many rollouts, whenever one looks.
    pub luck_one_in: u64,
    /// Shares that the data still allow, at 95 % and at every moment: no less than `low`.
    pub low: Ratio,
    /// And no more than `high`.
    pub high: Ratio,
    /// What explains the data best, such as `2.8%`, `5.6x` or `over 512ms`.
    pub best: String,
    /// The numbers are those of the slots from here on, which say most; absent for the whole stage.
    pub since: Option<Timestamp>,
    /// The slot in which the bar was first reached.
    pub crossed: Option<Timestamp>,
    /// End of the last slot that was not covered: what spoke for a Pass before counts no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anew_from: Option<Timestamp>,
    /// Covered slots.
    pub covered: u64,
    /// Slots.
    pub slots: u64,
    /// First 12 hexadecimal digits of the SHA-256 of the criterion and this test's share.
    pub parameters: String,
}

/// Natural logarithm of an e-value. Finite; compared to the bit.
#[derive(Debug, Default, Clone, Copy, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(transparent)]
pub struct Nats(pub f64);

impl PartialEq for Nats {
    fn eq(&self, other: &Self) -> bool {
        self.0.to_bits() == other.0.to_bits()
    }
}

impl Eq for Nats {}

/// Why a rollout does not go on, though nothing is taken back.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Hold {
    /// A human must approve.
    Approval,
    /// The baseline fails as the canary does: the cause is not the release.
    BaselineAsRed {
        /// The criterion that both fail.
        criterion: CriterionName,
    },
    /// A lever does not stand where the rollout put it, or cannot be read.
    Lever {
        /// Which lever.
        lever: LeverName,
    },
    /// Evidence is missing.
    NoData {
        /// Where.
        region: Region,
        /// Since when.
        since: Timestamp,
    },
    /// The plan wants a criterion proven, and the data do not prove it yet.
    NotProven {
        /// Which.
        criterion: CriterionName,
    },
    /// Every lever is back and it is still not green: the cause is elsewhere.
    NotRecovered,
    /// What is run while the stage soaks was not done in time.
    Activity {
        /// The lever that runs it.
        lever: LeverName,
    },
    /// The plan enters no stage now.
    Frozen {
        /// When that ends.
        until: Timestamp,
    },
    /// A human paused it.
    Paused,
    /// A soft criterion fails.
    SoftRed {
        /// Which.
        criterion: CriterionName,
    },
    /// Too few events for a criterion that needs more.
    TooFewEvents {
        /// Which.
        criterion: CriterionName,
    },
}

/// What is wrong with what an agent sent. It is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DataFault {
    /// A second, different sample of the same slot. The first one stands.
    Contradiction,
    /// Numbers that cannot be: not finite, out of order, or counted more often than there were looks.
    Impossible,
    /// Not a message of samples at all, or one that names another agent.
    Unreadable,
}

impl fmt::Display for DataFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Contradiction => "two different samples of one slot",
            Self::Impossible => "numbers that cannot be",
            Self::Unreadable => "a message that is not samples of its own",
        })
    }
}

/// How a rollout ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// A human ended it, and its levers were restored.
    Aborted,
    /// Every stage was left as the plan wants.
    Completed,
    /// It did not begin: nothing was moved.
    NotStarted,
    /// It failed, and was not seen to be back.
    NotTakenBack,
    /// It failed, and was seen to be back and green.
    RolledBack,
    /// Another rollout began in its place, from where it stood.
    Superseded,
    /// It failed in the shadow: nothing was moved.
    WouldTakeBack,
}

impl Ending {
    /// The exit code of a verb that waited for this ending.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Completed => 0,
            Self::Aborted | Self::RolledBack | Self::WouldTakeBack => 1,
            Self::NotStarted => 2,
            Self::Superseded => 3,
            Self::NotTakenBack => 5,
        }
    }
}

/// Why a rollout is taken back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// A person asked.
    Command {
        /// With which verb.
        verb: Verb,
        /// Who.
        principal: Principal,
    },
    /// A criterion failed.
    Criterion {
        /// On which numbers.
        judgement: Judgement,
    },
    /// A lever was read elsewhere, and the plan does not bear that.
    Drift {
        /// Which lever.
        lever: LeverName,
        /// What it was read to be, in words where that is not one value.
        to: String,
    },
    /// A lever could not be set on the way forward.
    Lever {
        /// Which lever.
        lever: LeverName,
        /// How it went.
        outcome: ActionOutcome,
    },
}

impl Cause {
    /// The numbers of a criterion that failed.
    pub fn judgement(&self) -> Option<&Judgement> {
        if let Self::Criterion { judgement } = self { Some(judgement) } else { None }
    }
}

/// One reason. A fact in the past tense.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The plan was changed while it was on; what was seen so far no longer counts.
    Amended {
        /// SHA-256 of the new plan text, 12 hexadecimal digits.
        plan_hash: String,
    },
    /// An agent was told to set a lever.
    Asked {
        /// Which action.
        action: ActionId,
        /// Which lever.
        lever: LeverName,
        /// To what.
        to: LeverValue,
        /// By when.
        due: Timestamp,
    },
    /// An agent answered.
    Answered {
        /// Which action.
        action: ActionId,
        /// Which lever.
        lever: LeverName,
        /// How it went.
        outcome: ActionOutcome,
        /// How many targets were read back at the asked value.
        done: u32,
        /// How many targets there are.
        targets: u32,
        /// What the agent said, when it was not done.
        detail: String,
    },
    /// The take-back was seen: every lever read back, and the old release answered probes.
    Applied {
        /// How long after it was asked.
        after: Span,
        /// The release that was seen.
        seen: Release,
        /// It was not seen: no answer names its release, so the levers that were read back are the only proof.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        unseen: bool,
    },
    /// A command was done.
    CommandDone {
        /// Which.
        command: CommandId,
        /// Its verb.
        verb: Verb,
        /// Who asked.
        principal: Principal,
        /// Why they asked.
        reason: Option<String>,
    },
    /// A command was refused.
    CommandRefused {
        /// Which.
        command: CommandId,
        /// Its verb.
        verb: Verb,
        /// Who asked.
        principal: Principal,
        /// Why not.
        why: String,
    },
    /// An agent sent something wrong; told once per agent and rollout.
    DataFault {
        /// Which agent.
        agent: AgentId,
        /// What is wrong with it.
        fault: DataFault,
    },
    /// A lever was read elsewhere than where this rollout put it, or found it.
    Drifted {
        /// Which lever.
        lever: LeverName,
        /// Where it should stand.
        from: String,
        /// What it was read to be, in words where that is not one value.
        to: String,
    },
    /// It ended.
    Ended {
        /// How.
        ending: Ending,
        /// In one sentence.
        summary: String,
    },
    /// Something was left out by hand.
    Excluded {
        /// What.
        what: Excluded,
        /// Until when.
        until: Timestamp,
        /// Why.
        why: String,
    },
    /// It does not go on.
    Held {
        /// Why.
        hold: Hold,
    },
    /// A level of take-back did not work, and the next began.
    LevelGaveWay {
        /// Which level, from 1.
        level: u32,
        /// Why.
        why: String,
    },
    /// The entry actions of a stage were read back.
    Looking {
        /// Which stage.
        stage: StageName,
        /// From when slots count.
        from: Timestamp,
    },
    /// Every lever of a level of take-back was read back where it was put.
    ReadBack {
        /// Which level, from 1.
        level: u32,
        /// How long after the level was asked.
        after: Span,
    },
    /// The levers of the stage were set again, to see whether that helps.
    Reapplied {
        /// Which criterion failed, or which lever was read elsewhere.
        cause: CriterionName,
    },
    /// Green again.
    Recovered {
        /// How many green slots.
        green: u32,
        /// How long after it was applied.
        after: Span,
    },
    /// What held it is over.
    Released {
        /// What it was.
        hold: Hold,
    },
    /// A stage was entered.
    StageEntered {
        /// Which.
        stage: StageName,
        /// Which entry of this rollout.
        entry: Entry,
    },
    /// A stage was left forwards.
    StagePassed {
        /// Which.
        stage: StageName,
        /// How long it soaked, in covered slots.
        soaked: Span,
    },
    /// It began.
    Started {
        /// The new release.
        release: Release,
        /// The release it would go back to.
        previous: Option<Release>,
        /// SHA-256 of the plan text, 12 hexadecimal digits.
        plan_hash: String,
        /// Who asked.
        principal: Principal,
    },
    /// A stream was created anew, or had lost its end; it is read from its start.
    StreamReset {
        /// Which.
        source: Source,
    },
    /// Levers began to be set back.
    TakingBack {
        /// Why.
        cause: Cause,
        /// Which level, from 1.
        level: u32,
        /// Of how many.
        levels: u32,
        /// To what each lever goes.
        set: Vec<(LeverName, LeverValue)>,
        /// By when it must be applied.
        due: Timestamp,
    },
    /// A verdict changed.
    VerdictChanged {
        /// The new verdict and its numbers.
        judgement: Judgement,
    },
    /// A rollout in the shadow would have set a lever.
    WouldSet {
        /// Which lever.
        lever: LeverName,
        /// To what.
        to: LeverValue,
    },
}
