//! The agent's own file. What load may be put where is said here, never in a plan.
//!
//! ```yaml
//! agent: { region: sjc, name: load-1, state_dir: /var/lib/bellwether, nats: { url: "nats://127.0.0.1:4222" } }
//! load:
//!   allow: ["shop.example.com", "127.0.0.1:8080"]   # nothing else gets load
//!   control: http://127.0.0.1:8222/healthz          # tells a sick agent from a sick service
//!   ca: file:/etc/bellwether/ca.pem                 # trusted besides the public ones
//!   rate_max: 200/s        # requests, of all loads together
//!   connections_max: 100   # of all loads together; a user has one
//!   duration_max: 48h      # of each load
//! ```

use std::path::PathBuf;

use bellwether_protocol::time::Span;
use bellwether_runtime::AgentConfig;
use bellwether_runtime::web::{Allow, ControlTarget};
use serde::{Deserialize, Deserializer, de};

use crate::course::{Course, Level, Unit};
use crate::settings::Load;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    pub(crate) agent: AgentConfig,
    pub(crate) load: LoadConfig,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LoadConfig {
    /// What may get load.
    pub(crate) allow: Allow,
    /// A target that answers whenever this agent's own network does.
    #[serde(default)]
    pub(crate) control: Option<ControlTarget>,
    /// Certificates that are trusted besides the public ones.
    #[serde(default, deserialize_with = "bellwether_runtime::file_reference")]
    pub(crate) ca: Option<PathBuf>,
    /// Most requests in a second, of all loads together.
    #[serde(deserialize_with = "rate")]
    rate_max: f64,
    /// Most connections, of all loads together.
    connections_max: usize,
    /// Longest load.
    pub(crate) duration_max: Span,
}

/// What one load takes of what this agent may give.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Share {
    /// Requests per second at the peak. Users are bounded by their thinking alone: without it there is no bound.
    rate: f64,
    connections: usize,
}

impl Share {
    /// What a load takes.
    pub(crate) fn of(load: &Load) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "a chain has at most 50 steps")]
        let each = load.course.peak() * load.steps.len() as f64;
        let rate = if load.course.unit == Unit::PerSecond { each } else { each / load.think.as_secs_f64() };
        Self { rate, connections: load.connections }
    }
}

impl LoadConfig {
    /// Refuses loads that together are more than this agent may give.
    ///
    /// # Errors
    /// What is too much, with both numbers.
    pub(crate) fn check(&self, shares: impl Iterator<Item = Share>) -> Result<(), String> {
        let (mut rate, mut connections) = (0.0, 0);
        for share in shares {
            rate += share.rate;
            connections += share.connections;
        }
        if rate.is_infinite() {
            return Err(format!(
                "users without `think` may exceed this agent's `load.rate_max` of {}/s",
                self.rate_max
            ));
        }
        if rate > self.rate_max {
            return Err(format!("{rate} requests/s are over this agent's `load.rate_max` of {}/s", self.rate_max));
        }
        if connections > self.connections_max {
            let max = self.connections_max;
            return Err(format!("{connections} connections are over this agent's `load.connections_max` of {max}"));
        }
        Ok(())
    }

    /// Refuses a course that takes longer than this agent may give.
    ///
    /// # Errors
    /// Both numbers.
    pub(crate) fn check_duration(&self, course: &Course) -> Result<(), String> {
        let (lasts, max) = (course.lasts(), self.duration_max);
        if lasts <= max.to_std() {
            return Ok(());
        }
        let lasts = Span::from_ms(u64::try_from(lasts.as_millis()).unwrap_or(u64::MAX));
        Err(format!("stages of {lasts} are over this agent's `load.duration_max` of {max}"))
    }
}

fn rate<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let level: Level = String::deserialize(deserializer)?.parse().map_err(de::Error::custom)?;
    match level.unit {
        Unit::PerSecond => Ok(level.amount),
        Unit::Users => Err(de::Error::custom("a rate has a unit: write `50/s`")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const AGENT: &str =
        "agent:\n  region: sjc\n  name: load-1\n  state_dir: /var/lib/bw\n  nats: { url: nats://127.0.0.1:4222 }\n";

    fn read(load: &str) -> Result<LoadConfig, String> {
        let config = bellwether_runtime::parse_config::<Config>("load.yaml", &format!("{AGENT}load: {load}\n"));
        config.map(|config| config.load).map_err(|error| error.to_string())
    }

    #[test]
    fn what_exceeds_a_cap_is_refused_with_both_numbers() {
        let config = read("{ allow: [], rate_max: 100/s, connections_max: 60, duration_max: 1h }").unwrap();
        let check = |loads: &[serde_json::Value], expected: Result<(), &str>| {
            let loads: Vec<Load> = loads.iter().map(|settings| Load::read(settings).unwrap()).collect();
            let found = config.check(loads.iter().map(Share::of));
            let found = loads.iter().try_for_each(|load| config.check_duration(&load.course)).and(found);
            assert_eq!(found.as_ref().map_err(String::as_str), expected.as_ref().map_err(|why| *why));
        };
        let rate = |rate: &str| json!({"path": "/", "rate": rate, "connections": 10});
        check(&[rate("100/s")], Ok(()));
        check(&[rate("101/s")], Err("101 requests/s are over this agent's `load.rate_max` of 100/s"));
        check(&[rate("60/s"), rate("50/s")], Err("110 requests/s are over this agent's `load.rate_max` of 100/s"));
        let chain = json!({"chain": [{"path": "/a"}, {"path": "/b"}], "rate": "51/s"});
        check(&[chain], Err("102 requests/s are over this agent's `load.rate_max` of 100/s"));
        check(
            &[json!({"path": "/", "users": 61})],
            Err("61 connections are over this agent's `load.connections_max` of 60"),
        );
        let users = |think: &str| json!({"path": "/", "users": 50, "think": think});
        check(&[users("400ms")], Err("125 requests/s are over this agent's `load.rate_max` of 100/s"));
        check(&[users("0s")], Err("users without `think` may exceed this agent's `load.rate_max` of 100/s"));
        check(
            &[json!({"path": "/", "stages": ["5 for 40m", "to 9 in 21m"]})],
            Err("stages of 1h1m are over this agent's `load.duration_max` of 1h"),
        );
    }

    #[test]
    fn a_file_without_caps_is_refused() {
        for (load, word) in [
            ("{ allow: [] }", "rate_max"),
            ("{ allow: [], rate_max: 5, connections_max: 1, duration_max: 1h }", "50/s"),
            ("{ allow: [], rate_max: '5', connections_max: 1, duration_max: 1h }", "50/s"),
            ("{ allow: [], rate_max: 5/s, connections_max: 1, duration_max: 1 }", "unit"),
            ("{ allow: [], rate_max: 5/s, connections_max: 1, duration_max: 1h, control: a }", "http://"),
        ] {
            let error = read(load).expect_err(load);
            assert!(error.starts_with("load.yaml:6:") && error.contains(word), "{error}");
        }
    }
}
