//! What people are told. One incident per rollout and cause; bridges thread or edit, never repeat.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::id::{Audience, IncidentId, Ordinal, Region, Release, Service, StageName};
use crate::time::Timestamp;

/// What is asked of people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Nothing.
    Info,
    /// Somebody, today.
    Warn,
    /// Somebody, now.
    Page,
}

impl fmt::Display for Severity {
    /// As in JSON and as a subject token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// Where in its life an incident is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum IncidentKind {
    /// It began.
    #[serde(rename = "incident.opened")]
    Opened,
    /// It ended.
    #[serde(rename = "incident.resolved")]
    Resolved,
    /// Something changed.
    #[serde(rename = "incident.updated")]
    Updated,
}

/// One message about one incident.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Alert {
    /// What happened to the incident.
    #[serde(rename = "type")]
    pub kind: IncidentKind,
    /// Which incident.
    pub incident: IncidentId,
    /// Number of this message within the incident, from 1.
    pub seq: u32,
    /// What is asked of people.
    pub severity: Severity,
    /// State of the rollout, in one word of `ux` such as `taking_back`, `applied`, `recovered`.
    pub state: String,
    /// The service.
    pub service: Service,
    /// The release that is being brought out.
    pub release: Release,
    /// The stage, if one was entered.
    pub stage: Option<StageName>,
    /// The regions concerned; empty means all.
    pub regions: Vec<Region>,
    /// One sentence: what happened, on which numbers, what is being done.
    pub headline: String,
    /// The numbers behind it.
    pub numbers: Option<Numbers>,
    /// The record that holds the decision.
    pub record: Ordinal,
    /// When the take-back was seen to be applied and recovered.
    pub proof: Proof,
    /// What a person can do next.
    pub next: Vec<NextStep>,
    /// Who the plan wants told, besides whom the alert agents' own routes tell.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tell: Vec<Audience>,
    /// When it was decided.
    pub at: Timestamp,
}

/// Somebody has taken an incident up. Who, the subject says; whom it stops waking, every alert agent reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Acknowledgement {
    /// Which incident.
    pub incident: IncidentId,
}

/// Counts against a limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Numbers {
    /// How many bad.
    pub bad: u64,
    /// Out of how many.
    pub n: u64,
    /// What was seen, in the plan's units.
    pub value: String,
    /// The limit, in the plan's units.
    pub limit: String,
}

impl fmt::Display for Numbers {
    /// What was seen, and on which side of the limit that is not allowed: `40 > 0`, `3 < 4`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.limit.strip_prefix("at least ") {
            Some(least) => write!(f, "{} < {least}", self.value),
            None => write!(f, "{} > {}", self.value, self.limit),
        }
    }
}

/// What has been seen of a take-back.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Proof {
    /// Every lever read back, and the old release seen by probes.
    pub applied: Option<Timestamp>,
    /// Green again.
    pub recovered: Option<Timestamp>,
}

/// A step that a person can take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct NextStep {
    /// What for.
    pub why: String,
    /// The exact command.
    pub run: String,
}
