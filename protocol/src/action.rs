//! What an agent is told to do to a lever, and what it answers. Always "set X to Y", never "add".

use serde::{Deserialize, Serialize};

use crate::id::{ActionId, AgentId, LeverName, LeverValue, Ordinal, Service};
use crate::presence::Target;
use crate::time::Timestamp;

/// Set one lever to one value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Action {
    /// Derived from the record that holds it, so that a repeat has the same id.
    pub id: ActionId,
    /// For which service.
    pub service: Service,
    /// Which lever.
    pub lever: LeverName,
    /// To what.
    pub to: LeverValue,
    /// Makes stale actions harmless: an agent refuses one older than it has seen for this lever.
    pub generation: Ordinal,
    /// After this instant the agent must not begin, and answers `Expired`.
    pub deadline: Timestamp,
}

/// What an agent answers to an action.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct ActionResult {
    /// Which action.
    pub action: ActionId,
    /// Which lever.
    pub lever: LeverName,
    /// Who answers.
    pub agent: AgentId,
    /// How it went.
    pub outcome: ActionOutcome,
    /// Every target, read back.
    pub targets: Vec<Target>,
    /// What the platform or the command said, redacted, at most 1,000 characters.
    pub detail: String,
    /// When the targets were read back, by the agent's anchored clock.
    pub at: Timestamp,
}

/// How an action went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ActionOutcome {
    /// Every target was read back at the asked value.
    Done,
    /// The deadline had passed before it began.
    Expired,
    /// Some targets were read back at the asked value.
    Partial,
    /// The platform, or the agent, will not do it.
    Refused,
    /// It may have happened; it could not be read back.
    Unknown,
}

impl std::fmt::Display for ActionOutcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.serialize(f)
    }
}
