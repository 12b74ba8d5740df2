//! One decision, as the log holds it. The log alone is the truth: replay recomputes every output.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::action::{Action, ActionResult};
use crate::alert::Alert;
use crate::command::{Command, Outcome};
use crate::id::{AgentId, CoordinatorId, IdError, Ordinal, Region, Service, SliName};
use crate::presence::{LeverReading, Watching};
use crate::reason::{DataFault, Reason};
use crate::sample::{Cohort, Evidence, Portion};
use crate::time::Timestamp;

/// Version of the shape of a record.
pub const RECORD_VERSION: u32 = 1;
/// Largest record, in bytes. A longer list of inputs is split over several records.
pub const RECORD_LEN_MAX: usize = 512 * 1024;

/// One decision: what came in, when, what followed, and why.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Record {
    /// Version of this shape.
    pub version: u32,
    /// Version of the judge. A judge replays only records of a version it knows.
    pub decide_version: u32,
    /// The service whose log this is.
    pub service: Service,
    /// Its number in that log, from 1. Its own count: a stream's sequence can rewind.
    pub ordinal: Ordinal,
    /// Hash of the previous record: SHA-256 of *its* `previous` and its stored bytes; zeros for the first.
    pub previous: Hash,
    /// Who wrote it.
    pub coordinator: CoordinatorId,
    /// The instant it was decided at.
    pub now: Timestamp,
    /// Everything that came in since the last record, in the order it is folded.
    pub inputs: Vec<Input>,
    /// Where readers go on after a restart.
    pub positions: Positions,
    /// Why.
    pub reasons: Vec<Reason>,
    /// What agents are told.
    pub actions: Vec<Action>,
    /// What people are told.
    pub alerts: Vec<Alert>,
    /// What became of the commands among the inputs.
    pub outcomes: Vec<Outcome>,
    /// When to decide again, if nothing comes in before.
    pub wake_at: Option<Timestamp>,
    /// SHA-256 of the state after this decision.
    pub state: Hash,
}

/// A stream that a coordinator reads besides the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// Commands and results.
    Inbox,
    /// Samples.
    Samples,
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.serialize(f)
    }
}

/// Where readers go on after a restart.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Positions {
    /// The lowest sequence of the samples stream that an unlogged slot may still need.
    pub samples: u64,
    /// Up to where the inbox need not be read again: all that waits for a record comes after.
    pub inbox: u64,
    /// When each stream that these sequences are of was created: a stream created anew counts anew.
    #[serde(default)]
    pub created: BTreeMap<Source, Timestamp>,
}

/// A SHA-256, written as 64 hexadecimal digits.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, schemars::JsonSchema)]
#[schemars(with = "String", extend("pattern" = "^[0-9a-fA-F]{64}$"))]
pub struct Hash(pub [u8; 32]);

impl Hash {
    /// The hash of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        use sha2::Digest;
        Self(sha2::Sha256::digest(bytes).into())
    }

    /// The hash of this one and of the bytes that follow it in the chain.
    pub fn chain(&self, bytes: &[u8]) -> Self {
        use sha2::Digest;
        Self(sha2::Sha256::new().chain_update(self.0).chain_update(bytes).finalize().into())
    }

    /// The first 12 hexadecimal digits, for people.
    pub fn short(&self) -> String {
        self.to_string().chars().take(12).collect()
    }
}

impl std::fmt::Display for Hash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl std::str::FromStr for Hash {
    type Err = HashError;

    fn from_str(text: &str) -> Result<Self, HashError> {
        let bytes = text.as_bytes();
        if bytes.len() != 64 {
            return Err(HashError);
        }
        let mut hash = [0; 32];
        for (byte, pair) in hash.iter_mut().zip(bytes.chunks_exact(2)) {
            let digit = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok()).ok_or(HashError);
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Ok(Self(hash))
    }
}

crate::id::text_serde!(Hash);

/// A text is not a hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a hash: write 64 hexadecimal digits")]
pub struct HashError;

/// Anything that can move a rollout.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Input {
    /// A slot closed.
    Closed(ClosedSlot),
    /// A person asked.
    Command(Command),
    /// An agent sent something wrong, for the first time in this rollout. It is left out.
    DataFault {
        /// Which agent.
        agent: AgentId,
        /// What is wrong with it.
        fault: DataFault,
    },
    /// A slot arrived after it had closed. It never restores coverage.
    Late(ClosedSlot),
    /// An agent appeared, changed or went.
    Presence(AgentSeen),
    /// The slots here were closed after reading the samples stream up to this sequence. What came
    /// at or before it is in them; what comes after it, for a slot that is closed, is late.
    Read {
        /// The samples sequence.
        seq: u64,
    },
    /// An agent answered an action. Carries its inbox sequence.
    Result {
        /// The inbox sequence.
        seq: u64,
        /// The answer.
        result: ActionResult,
    },
    /// A stream was created anew, or has lost its end, and with it what nobody had read. It is read
    /// again from its start: sequences count anew from here on.
    StreamReset {
        /// Which.
        source: Source,
    },
}

/// One slot of one SLI, cohort and region, merged over the agents that count.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct ClosedSlot {
    /// Which series.
    pub series: Series,
    /// Start of the slot.
    pub slot: Timestamp,
    /// How many agents reported it and were well.
    pub reporters: u32,
    /// How many reported it but were not well: their failures say nothing.
    pub unwell: u32,
    /// One portion per observed release, merged over the reporters.
    pub portions: Vec<Portion>,
    /// The first failures.
    pub evidence: Vec<Evidence>,
}

/// What a series of slots is of. Written `sli/cohort/region`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, schemars::JsonSchema)]
#[schemars(with = "String", extend("pattern" = "^[A-Za-z0-9_-]{1,64}/(baseline|canary)/[A-Za-z0-9_-]{1,64}$", "examples" = ["checkout/canary/sjc"]))]
pub struct Series {
    /// The SLI.
    pub sli: SliName,
    /// The cohort.
    pub cohort: Cohort,
    /// The region.
    pub region: Region,
}

impl std::fmt::Display for Series {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}/{}", self.sli, self.cohort, self.region)
    }
}

impl std::str::FromStr for Series {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let mut parts = text.splitn(3, '/');
        let (Some(sli), Some(cohort), Some(region)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(IdError::new("series", text, "write sli/cohort/region"));
        };
        Ok(Self { sli: sli.parse()?, cohort: cohort.parse()?, region: region.parse()? })
    }
}

crate::id::text_serde!(Series);

/// An agent as the coordinator last saw it; `here: None` when it is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct AgentSeen {
    /// Who.
    pub agent: AgentId,
    /// What it holds for this service; absent when it is gone.
    pub here: Option<AgentHere>,
}

/// What a live agent holds for one service.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct AgentHere {
    /// Kinds of look that it can do.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub kinds: BTreeSet<String>,
    /// The assignment it has taken up.
    pub watching: Option<Watching>,
    /// Its levers, read back.
    pub levers: Vec<LeverReading>,
}

/// Agents by id, as decisions see them.
pub type Agents = BTreeMap<AgentId, AgentHere>;
