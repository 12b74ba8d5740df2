//! What the agents of one region are to watch for one service. Agents reconcile to it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::id::{Region, Revision, RolloutId, SliName};
use crate::plan::Fingerprint;
use crate::sample::Cohort;
use crate::time::Span;

/// All that one region watches for one service. An empty list of looks means: watch nothing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Assignment {
    /// For which rollout. Its service is part of the key.
    pub rollout: RolloutId,
    /// Ordinal of the last change of content. An agent never goes back to an older one.
    pub revision: Revision,
    /// Where.
    pub region: Region,
    /// Width of a slot.
    pub slot: Span,
    /// What to look at.
    pub looks: Vec<Look>,
}

/// One SLI of one cohort.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Look {
    /// The SLI.
    pub sli: SliName,
    /// The cohort, which decides the headers.
    pub cohort: Cohort,
    /// Where the service is in this region, such as `https://sjc.example.com`.
    pub url: String,
    /// Which kind of probe.
    pub kind: String,
    /// That probe's own settings; the probe checks them.
    pub settings: serde_json::Value,
    /// How often.
    pub every: Span,
    /// For how long at most.
    pub timeout: Span,
    /// Headers that address the cohort.
    pub headers: BTreeMap<String, String>,
    /// How the release is read out of an answer.
    pub fingerprint: Option<Fingerprint>,
    /// Upper edges of latency buckets, ascending, in milliseconds.
    pub edges_ms: Vec<u64>,
}
