//! What people ask. A command may be refused, and then the refusal is recorded.

use serde::{Deserialize, Serialize};

use crate::id::{CommandId, CriterionName, Entry, GateVersion, Principal, Region, Release, RolloutId, Service};
use crate::plan::Plan;
use crate::time::{Span, Timestamp};

/// The verb of a command: the second but last token of its subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Verb {
    /// End the rollout and restore its levers.
    Abort,
    /// Go on with another plan.
    Amend,
    /// A human agrees that this stage may be left.
    Approve,
    /// Go on without a region or a criterion.
    Exclude,
    /// Turn every flag of the plan off.
    FlagOff,
    /// No transitions; looking and safety go on.
    Pause,
    /// Leave this stage now, skipping the rest of its soak.
    Promote,
    /// End a pause.
    Resume,
    /// Take back to the release recorded at start.
    Rollback,
    /// Begin.
    Start,
}

impl Verb {
    /// Every verb, in order.
    pub const ALL: [Self; 10] = [
        Self::Abort,
        Self::Amend,
        Self::Approve,
        Self::Exclude,
        Self::FlagOff,
        Self::Pause,
        Self::Promote,
        Self::Resume,
        Self::Rollback,
        Self::Start,
    ];

    /// The verb as a subject token.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Abort => "abort",
            Self::Amend => "amend",
            Self::Approve => "approve",
            Self::Exclude => "exclude",
            Self::FlagOff => "flag-off",
            Self::Pause => "pause",
            Self::Promote => "promote",
            Self::Resume => "resume",
            Self::Rollback => "rollback",
            Self::Start => "start",
        }
    }
}

impl std::fmt::Display for Verb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// The JSON body of a command. Every field is optional; which ones a verb needs, [`Ask`] says.
/// An empty body is an empty object, so that `pause` and `abort` can be typed in a hurry.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CommandBody {
    /// The rollout that is meant; without it, the service's current one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rollout: Option<RolloutId>,
    /// Why, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Refused after this instant. Default: 5 minutes after the inbox received it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_after: Option<Timestamp>,
    /// `start`: the release to bring out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub release: Option<Release>,
    /// `start`, `amend`: the text of the plan file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plan: Option<String>,
    /// `start`, `amend`: durations to override, such as `stages.canary.soak=60s`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub overrides: Vec<String>,
    /// `start`: look and decide, and move nothing.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub shadow: bool,
    /// `start`: end a rollout that is on, and go on from where it stands.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub supersede: bool,
    /// `approve`: the stage entry that was looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entry: Option<Entry>,
    /// `approve`: the gate version that was looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gate: Option<GateVersion>,
    /// `exclude`: a region.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<Region>,
    /// `exclude`: a criterion.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub criterion: Option<CriterionName>,
    /// `exclude`: when it ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

/// A command as the log holds it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Command {
    /// Its id: `Nats-Msg-Id`, or made from its inbox sequence.
    pub id: CommandId,
    /// The inbox sequence. What lies at or before the recorded position was already read.
    pub seq: u64,
    /// For which service.
    pub service: Service,
    /// Who asks.
    pub principal: Principal,
    /// When the inbox stored it.
    pub at: Timestamp,
    /// Refused after this instant.
    pub not_after: Timestamp,
    /// The rollout that is meant, if named.
    pub rollout: Option<RolloutId>,
    /// Why, in words.
    pub reason: Option<String>,
    /// What is asked.
    pub ask: Ask,
}

/// With what the id of a command begins that was given none: its inbox sequence follows.
pub const COMMAND_BY_SEQ: &str = "seq-";

/// How long a command stays valid when it does not say.
pub const COMMAND_VALID: Span = Span::from_secs(300);

/// What is asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Ask {
    /// See [`Verb::Abort`].
    Abort,
    /// See [`Verb::Amend`].
    Amend(Box<Amend>),
    /// See [`Verb::Approve`].
    Approve {
        /// The stage entry that was looked at.
        entry: Entry,
        /// The gate version that was looked at.
        gate: GateVersion,
    },
    /// See [`Verb::Exclude`].
    Exclude {
        /// What is left out.
        what: Excluded,
        /// When that ends.
        until: Timestamp,
    },
    /// See [`Verb::FlagOff`].
    FlagOff,
    /// The body could not be understood. Recorded, so that it is refused once and not read again.
    Malformed {
        /// The verb of the subject.
        verb: Verb,
        /// What is wrong.
        error: String,
    },
    /// See [`Verb::Pause`].
    Pause,
    /// See [`Verb::Promote`].
    Promote,
    /// See [`Verb::Resume`].
    Resume,
    /// See [`Verb::Rollback`].
    Rollback,
    /// See [`Verb::Start`].
    Start(Box<Start>),
}

impl Ask {
    /// The verb.
    pub fn verb(&self) -> Verb {
        match self {
            Self::Abort => Verb::Abort,
            Self::Amend(_) => Verb::Amend,
            Self::Approve { .. } => Verb::Approve,
            Self::Exclude { .. } => Verb::Exclude,
            Self::FlagOff => Verb::FlagOff,
            Self::Malformed { verb, .. } => *verb,
            Self::Pause => Verb::Pause,
            Self::Promote => Verb::Promote,
            Self::Resume => Verb::Resume,
            Self::Rollback => Verb::Rollback,
            Self::Start(_) => Verb::Start,
        }
    }
}

/// All that a start needs. The log holds the text that was sent and the plan that was read from it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Start {
    /// The release to bring out.
    pub release: Release,
    /// The plan file as it was sent.
    pub text: String,
    /// Overrides as they were sent; already applied to `plan`.
    pub overrides: Vec<String>,
    /// The plan.
    pub plan: Plan,
    /// Whether nothing is moved: it is only looked and decided.
    #[serde(default)]
    pub shadow: bool,
    /// Whether a rollout that is on is ended first.
    #[serde(default)]
    pub supersede: bool,
}

/// Another plan for a rollout that is on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Amend {
    /// The plan file as it was sent.
    pub text: String,
    /// Overrides as they were sent; already applied to `plan`.
    pub overrides: Vec<String>,
    /// The plan.
    pub plan: Plan,
}

/// What an exclusion leaves out.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Excluded {
    /// One criterion.
    Criterion(CriterionName),
    /// One region.
    Region(Region),
}

impl std::fmt::Display for Excluded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Criterion(name) => write!(f, "criterion {name}"),
            Self::Region(name) => write!(f, "region {name}"),
        }
    }
}

/// What became of a command. Published on the outcome subject, and readable by anyone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Outcome {
    /// Which command.
    pub command: CommandId,
    /// Its verb.
    pub verb: Verb,
    /// Who asked.
    pub principal: Principal,
    /// The rollout it was applied to, or began.
    pub rollout: Option<RolloutId>,
    /// Why not, when it was refused; absent when it was done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// The record that holds it.
    pub record: crate::id::Ordinal,
    /// When that was decided.
    pub at: Timestamp,
}
