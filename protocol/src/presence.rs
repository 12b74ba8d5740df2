//! That a process is there, what it holds, and where its levers stand. Written every few seconds.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::id::{AgentId, LeverName, LeverValue, Release, Revision, Service, SliName};
use crate::sample::Cohort;
use crate::time::{Span, Timestamp};

/// How often a process writes its presence.
pub const PRESENCE_EVERY: Span = Span::from_secs(5);
/// A process not heard for this long is gone, unless it has said that it ends.
pub const PRESENCE_TTL: Span = Span::from_secs(15);

/// One process, alive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Presence {
    /// Who.
    pub agent: AgentId,
    /// Its program version.
    pub version: String,
    /// When it was written, by the writer's anchored clock.
    pub at: Timestamp,
    /// Local clock minus NATS clock, in milliseconds.
    pub clock_offset_ms: i64,
    /// Messages that wait on disk for the bus.
    pub spooled: u64,
    /// Kinds of look that it can do, such as `http`; it leaves out those of other kinds.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub kinds: BTreeSet<String>,
    /// Assignments it has taken up, by service.
    pub watching: BTreeMap<Service, Watching>,
    /// Levers it holds, by service.
    pub levers: BTreeMap<Service, Vec<LeverReading>>,
    /// What moves these levers, by service.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub hands: BTreeMap<Service, BTreeMap<LeverName, Hand>>,
    /// The revision of the flag store that its OFREP endpoint serves, by flag store key.
    pub serving: BTreeMap<String, u64>,
    /// Of a coordinator: why it decides nothing, if so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stuck: Option<Stuck>,
}

impl Presence {
    /// Of a process that holds nothing yet.
    pub fn new(agent: AgentId, version: &str, at: Timestamp) -> Self {
        Self {
            agent,
            version: version.to_owned(),
            at,
            clock_offset_ms: 0,
            spooled: 0,
            kinds: BTreeSet::new(),
            watching: BTreeMap::new(),
            levers: BTreeMap::new(),
            hands: BTreeMap::new(),
            serving: BTreeMap::new(),
            stuck: None,
        }
    }
}

/// That nothing is decided, and why. Until it passes every rollout holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Stuck {
    /// Since when.
    pub since: Timestamp,
    /// What is the matter, in a few words.
    pub what: String,
    /// What is known of the reason.
    pub why: String,
    /// What mends it.
    pub fix: String,
}

/// An assignment as an agent took it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Watching {
    /// Which revision.
    pub revision: Revision,
    /// Why the agent will not do it, if so.
    pub refused: Option<String>,
    /// What it cannot measure now, at most [`GAPS_MAX`] of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gaps: Vec<Gap>,
}

/// What moves a lever, and whether it could be read.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Hand {
    /// What setting it does, without secrets, such as its command.
    pub does: String,
    /// Why it could not be read back the last time, if so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Something that is not measured, and why. Words for people: as evidence, the slots without a sample
/// are the gap.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Gap {
    /// Which SLI.
    pub sli: SliName,
    /// Of which cohort.
    pub cohort: Cohort,
    /// Since when.
    pub since: Timestamp,
    /// Why, redacted, in at most [`GAP_LEN_MAX`] characters.
    pub why: String,
}

/// Most gaps that an agent tells of one service: the first few say what is wrong with the rest.
pub const GAPS_MAX: usize = 16;
/// Longest reason of a gap, in characters.
pub const GAP_LEN_MAX: usize = 200;

/// A lever as its agent last read it back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct LeverReading {
    /// Which lever.
    pub lever: LeverName,
    /// Its value; `None` when it could not be read, or its targets do not agree.
    pub value: Option<LeverValue>,
    /// Every target behind it, read one by one.
    pub targets: Vec<Target>,
    /// Releases it has held, newest first, where the platform tells.
    pub history: Vec<Release>,
}

/// One thing behind a lever: a machine, a region, an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Target {
    /// Its name.
    pub id: String,
    /// What it was read to be at; `None` when it could not be read.
    pub value: Option<LeverValue>,
}
