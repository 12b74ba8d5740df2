//! The agent's own file. What may be read is said here, never in a plan: a plan only has names.

use std::collections::BTreeMap;
use std::path::PathBuf;

use bellwether_runtime::AgentConfig;
use serde::Deserialize;

use crate::prometheus::ServerConfig;

/// The whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// What every agent has.
    pub(crate) agent: AgentConfig,
    /// What a metric agent has.
    pub(crate) metric: MetricConfig,
}

/// What a metric agent has.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MetricConfig {
    /// A path on the file system that `host` measures.
    #[serde(default = "root")]
    pub(crate) disk: PathBuf,
    /// Prometheus servers, by name.
    #[serde(default)]
    pub(crate) prometheus: BTreeMap<String, ServerConfig>,
}

fn root() -> PathBuf {
    "/".into()
}
