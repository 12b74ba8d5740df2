//! The agent's own file. What may be read is said here, never in a plan: a plan only has names.

use std::collections::BTreeMap;
use std::path::PathBuf;

use bellwether_runtime::AgentConfig;
use bellwether_runtime::web::Allow;
use serde::Deserialize;

use crate::prometheus::ServerConfig;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    pub(crate) agent: AgentConfig,
    pub(crate) metric: MetricConfig,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct MetricConfig {
    /// What endpoints `text` and `json` may read.
    pub(crate) allow: Allow,
    /// Certificates that are trusted besides the public ones.
    #[serde(deserialize_with = "bellwether_runtime::file_reference")]
    pub(crate) ca: Option<PathBuf>,
    /// Commands whose output may be counted, by name: program and arguments.
    pub(crate) commands: BTreeMap<String, Vec<String>>,
    /// A path on the file system that `host` measures. Default `/`.
    pub(crate) disk: Option<PathBuf>,
    /// Files whose lines may be counted, by name.
    pub(crate) files: BTreeMap<String, PathBuf>,
    /// Prometheus servers, by name.
    pub(crate) prometheus: BTreeMap<String, ServerConfig>,
    /// NATS subjects whose messages may be counted, by name.
    pub(crate) subjects: BTreeMap<String, String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGENT: &str =
        "agent:\n  region: sjc\n  name: metric-1\n  state_dir: /var/lib/bw\n  nats: { url: nats://127.0.0.1:4222 }\n";

    fn read(metric: &str) -> Result<MetricConfig, String> {
        let config = bellwether_runtime::parse_config::<Config>("metric.yaml", &format!("{AGENT}metric: {metric}\n"));
        config.map(|config| config.metric).map_err(|error| error.to_string())
    }

    #[test]
    fn what_may_be_read_is_named() {
        let config = read(
            "{ allow: ['127.0.0.1'], ca: 'file:/ca.pem', commands: { unit: [journalctl, -f] }, disk: /var, files: { app: /a.log }, \
             prometheus: { main: { url: 'http://127.0.0.1:9090', token: 'env:TOKEN' } }, subjects: { logs: app.logs } }",
        );
        let config = config.unwrap();
        assert_eq!((config.commands["unit"][0].as_str(), config.subjects["logs"].as_str()), ("journalctl", "app.logs"));
        assert!(config.prometheus["main"].token.is_some());
        assert!(read("{}").is_ok());
        for (metric, word) in [
            ("{ prometheus: { main: { url: 'http://a', token: hunter2 } } }", "env:NAME"),
            ("{ file: {} }", "file"),
            ("{ ca: /ca.pem }", "file:PATH"),
            ("{ allow: ['http://a'] }", "http://a"),
        ] {
            let error = read(metric).expect_err(metric);
            assert!(error.contains(word) && !error.contains("hunter2"), "{error}");
        }
    }
}
