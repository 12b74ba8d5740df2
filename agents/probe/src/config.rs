//! The agent's own file. What may be looked at is said here, never in a plan.
//!
//! ```yaml
//! agent: { region: sjc, name: probe-1, state_dir: /var/lib/bellwether, nats: { url: "nats://127.0.0.1:4222" } }
//! probe:
//!   allow: ["shop.example.com", "10.0.0.0/8", "127.0.0.1:8080"]   # nothing else is looked at
//!   control: http://127.0.0.1:8222/healthz    # tells a sick agent from a sick service
//!   ca: file:/etc/bellwether/ca.pem           # trusted besides the public ones
//!   every_min: 1s                             # no plan may look more often; 100ms
//! ```

use std::path::PathBuf;

use bellwether_protocol::time::Span;
use bellwether_runtime::AgentConfig;
use bellwether_runtime::web::{Allow, ControlTarget};
use serde::Deserialize;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    pub(crate) agent: AgentConfig,
    pub(crate) probe: ProbeConfig,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ProbeConfig {
    /// What may be looked at.
    pub(crate) allow: Allow,
    /// A target that answers whenever this agent's own network does.
    #[serde(default)]
    pub(crate) control: Option<ControlTarget>,
    /// Certificates that are trusted besides the public ones.
    #[serde(default, deserialize_with = "bellwether_runtime::file_reference")]
    pub(crate) ca: Option<PathBuf>,
    /// Looks more often than this are refused.
    #[serde(default = "every_min")]
    pub(crate) every_min: Span,
}

fn every_min() -> Span {
    Span::from_ms(100)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str =
        "agent:\n  region: sjc\n  name: probe-1\n  state_dir: /var/lib/bw\n  nats: { url: nats://127.0.0.1:4222 }\n";

    fn read(probe: &str) -> Result<Config, String> {
        bellwether_runtime::parse_config("probe.yaml", &format!("{GOOD}probe: {probe}\n")).map_err(|e| e.to_string())
    }

    #[test]
    fn a_good_file_is_read() {
        let config =
            read("{ allow: ['127.0.0.1:80'], control: 'http://127.0.0.1/up', ca: 'file:/a', every_min: 2s }").unwrap();
        assert_eq!(config.probe.every_min, Span::from_secs(2));
        assert_eq!(config.probe.ca, Some("/a".into()));
        assert!(config.probe.control.is_some() && read("{ allow: [] }").unwrap().probe.control.is_none());
    }

    #[test]
    fn a_file_without_sense_is_refused() {
        for (probe, word) in [
            ("{ }", "allow"),
            ("{ allow: ['http://a'] }", "http://a"),
            ("{ allow: [], ca: /a }", "file:PATH"),
            ("{ allow: [], every: 1s }", "every"),
            ("{ allow: [], every_min: 5 }", "unit"),
            ("{ allow: [], control: 'ftp://a' }", "must begin with http:// or https://"),
        ] {
            let error = read(probe).expect_err(probe);
            assert!(error.starts_with("probe.yaml:6:") && error.contains(word), "{error}");
        }
    }
}
