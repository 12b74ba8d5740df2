//! The agent's file: who it is, and which bridges it serves.

use bellwether_protocol::alert::Severity;
use bellwether_runtime::{AgentConfig, SecretRef};
use serde::Deserialize;

/// The whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    pub(crate) agent: AgentConfig,
    pub(crate) alert: Bridges,
}

/// Which bridges the agent serves.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bridges {
    /// Whether alerts are written to standard output. Default true.
    #[serde(default = "yes")]
    pub console: bool,
    /// Where alerts are posted.
    #[serde(default)]
    pub webhooks: Vec<WebhookConfig>,
    /// Whether this agent pages by itself when no coordinator is there. Default true.
    #[serde(default = "yes")]
    pub pages_when_silent: bool,
}

/// One receiver of [Standard Webhooks](https://www.standardwebhooks.com).
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebhookConfig {
    /// Its final address. Redirects are not followed.
    pub url: String,
    /// Where the signing secret `whsec_…` is: `env:NAME` or `file:PATH`.
    pub secret: SecretRef,
    /// Alerts that ask less than this are not posted. Default `warn`.
    #[serde(default = "warn")]
    pub min_severity: Severity,
}

/// Most webhooks of one agent; each has a queue and a task.
const WEBHOOKS_MAX: usize = 16;

/// What is wrong with an agent's file, beyond its shape.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigFlaw {
    /// Nobody would be told.
    #[error("`alert` has no bridge: set `console: true` or add one of `webhooks`")]
    NoBridge,
    /// More than the agent serves.
    #[error("`alert.webhooks` has {0} entries; at most {WEBHOOKS_MAX} are served")]
    TooManyWebhooks(usize),
    /// The same receiver twice: it would be told twice.
    #[error("`alert.webhooks` names {0} twice")]
    Twice(String),
}

impl Bridges {
    pub(crate) fn check(&self) -> Result<(), ConfigFlaw> {
        if !self.console && self.webhooks.is_empty() {
            return Err(ConfigFlaw::NoBridge);
        }
        if self.webhooks.len() > WEBHOOKS_MAX {
            return Err(ConfigFlaw::TooManyWebhooks(self.webhooks.len()));
        }
        let mut seen = std::collections::BTreeSet::new();
        match self.webhooks.iter().find(|webhook| !seen.insert(&webhook.url)) {
            Some(twice) => Err(ConfigFlaw::Twice(crate::webhook::shown(&twice.url))),
            None => Ok(()),
        }
    }
}

fn yes() -> bool {
    true
}

fn warn() -> Severity {
    Severity::Warn
}
