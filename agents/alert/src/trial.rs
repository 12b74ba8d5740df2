//! `bellwether alert test`: one incident that begins and ends, over every bridge of a file, and what
//! came back. It needs no mesh, keeps nothing on disk, and tries once. On GitHub a test could not be
//! taken back, so there is only a look.

use std::io::Write;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use bellwether_protocol::alert::{Alert, IncidentKind, Proof, Severity};
use bellwether_protocol::id::{IdError, IncidentId, Ordinal, RolloutId};
use bellwether_protocol::time::{Span, Timestamp};
use bellwether_runtime::load_config;
use serde::Serialize;

use crate::agent::AlertError;
use crate::bridge::{Bridge, Delivery, DeliveryError};
use crate::config::Config;
use crate::courier::{Notes, Shelf};
use crate::github::Github;
use crate::outbox::{Outbox, Waiting};

/// Send one of each and say what came back
#[derive(Debug, clap::Args)]
pub struct TestArgs {
    /// The alert agent's file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Only this bridge, by its name or its kind
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
}

/// What came back from one bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    Failed,
    Ok,
    /// It was taken, and what became of it cannot be seen.
    Unproven,
}

#[derive(Debug, Serialize)]
struct Line {
    bridge: String,
    kind: &'static str,
    outcome: Outcome,
    said: String,
}

impl TestArgs {
    /// Tries the bridges, prints a line for each and a count, and returns the exit code: 2 when one failed, 4
    /// when there is none, for then nothing is known.
    ///
    /// # Errors
    /// When the file cannot be used, or names no such bridge.
    pub async fn run(&self, json: bool) -> Result<u8, AlertError> {
        let lines = self.lines().await?;
        let code = code(&lines);
        let json_text = || serde_json::json!({ "bridges": lines, "exit": code }).to_string() + "\n";
        let text = if json { json_text() } else { shown(&lines, code) };
        // Whoever closed the pipe has seen enough.
        let _ = std::io::stdout().lock().write_all(text.as_bytes());
        Ok(code)
    }

    async fn lines(&self) -> Result<Vec<Line>, AlertError> {
        let config: Config = load_config(&self.config)?;
        config.alert.check()?;
        let client = bellwether_runtime::http()?;
        let mut lines = Vec::new();
        for (name, entry) in &config.alert.bridges {
            let kind = entry.word();
            if self.only.as_ref().is_some_and(|only| only != name.as_str() && only != kind) {
                continue;
            }
            let tried = match Bridge::new(name.as_str(), entry, &config.alert.link, &config.agent.prefix, &client) {
                Ok(bridge) => try_out(&bridge).await?,
                Err(flaw) => Err(flaw.why),
            };
            let (outcome, said) = match tried {
                Ok(said) if kind == "email" => {
                    (Outcome::Unproven, format!("{said}; delivery cannot be seen from here"))
                }
                Ok(said) => (Outcome::Ok, said),
                Err(why) => (Outcome::Failed, why),
            };
            lines.push(Line { bridge: name.to_string(), kind, outcome, said });
        }
        for (service, entry) in &config.alert.github {
            let kind = "github";
            if self.only.as_ref().is_some_and(|only| only != service.as_str() && only != kind) {
                continue;
            }
            let state_dir = &config.agent.state_dir;
            let tried = match Github::new(service, entry, &config.alert.link, client.clone(), state_dir) {
                Ok(github) => github.try_out().await.map_err(|error| why(error) + ". fix: `repository`, or the token"),
                Err(flaw) => Err(flaw.why),
            };
            let (outcome, said) = tried.map_or_else(|why| (Outcome::Failed, why), |said| (Outcome::Unproven, said));
            lines.push(Line { bridge: service.to_string(), kind, outcome, said });
        }
        match &self.only {
            Some(only) if lines.is_empty() => Err(AlertError::NoSuchBridge(only.clone())),
            _ => Ok(lines),
        }
    }
}

/// Tells a beginning and an end. `Ok(Err(…))`: why the bridge did not take one of them.
async fn try_out(bridge: &Bridge) -> Result<Result<String, String>, AlertError> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = Timestamp::from_ms(i64::try_from(now.as_millis()).unwrap_or(i64::MAX));
    let shelf = Shelf::new(Outbox::in_memory());
    let mut said: Vec<String> = Vec::new();
    for alert in alerts(now)? {
        let batch = {
            let mut outbox = shelf.lock();
            outbox.case_mut(&alert).fold(&alert);
            outbox.take_up(vec![Waiting::new(&bridge.name, alert.clone(), now)], None)?;
            outbox.next(&bridge.name, false, now)
        };
        let Ok(batch) = batch else { break };
        let notes = Notes { shelf: shelf.clone(), alert, bridge: bridge.name.clone() };
        match bridge.deliver(&Delivery { batch: &batch, notes: &notes, now }).await {
            Ok(receipt) => {
                shelf.lock().done(&batch, true, None)?;
                said.push(receipt.said);
            }
            Err(error) => return Ok(Err(why(error))),
        }
    }
    said.dedup();
    Ok(Ok(said.join("; ")))
}

/// Why nothing was taken, and for how long it wants to be left alone.
fn why(error: DeliveryError) -> String {
    match error {
        DeliveryError::Refused { why } | DeliveryError::Retry { why, after: None } => why,
        DeliveryError::Retry { why, after: Some(after) } => format!("{why}. It asks to wait {}s", after.as_secs()),
    }
}

fn alerts(now: Timestamp) -> Result<[Alert; 2], IdError> {
    let rollout = RolloutId { service: "bellwether".parse()?, number: u64::try_from(now.as_ms() / 1_000).unwrap_or(0) };
    let opened = Alert {
        kind: IncidentKind::Opened,
        incident: IncidentId { rollout: rollout.clone(), cause: "test".parse()? },
        seq: 1,
        severity: Severity::Info,
        state: "test".to_owned(),
        service: rollout.service,
        release: env!("CARGO_PKG_VERSION").parse()?,
        stage: None,
        regions: Vec::new(),
        headline: "a test by `bellwether alert test`: nothing happened".to_owned(),
        numbers: None,
        record: Ordinal(0),
        proof: Proof::default(),
        next: Vec::new(),
        tell: Vec::new(),
        at: now,
    };
    let (kind, seq, headline) = (IncidentKind::Resolved, 2, "the test is over".to_owned());
    let resolved = Alert { kind, seq, headline, at: now + Span::from_ms(1), ..opened.clone() };
    Ok([opened, resolved])
}

fn code(lines: &[Line]) -> u8 {
    match lines {
        [] => 4,
        lines if lines.iter().any(|line| line.outcome == Outcome::Failed) => 2,
        _ => 0,
    }
}

fn shown(lines: &[Line], code: u8) -> String {
    if lines.is_empty() {
        return format!(
            "no bridge is configured: nothing was sent, and people are told by the agent's console alone. exit {code}\n"
        );
    }
    let width = lines.iter().map(|line| line.bridge.len()).max().unwrap_or(0);
    let mut text = String::new();
    for Line { bridge, kind, outcome, said } in lines {
        let glyph = match outcome {
            Outcome::Failed => "✗",
            Outcome::Ok => "✓",
            Outcome::Unproven => "!",
        };
        let kind = if bridge == kind { String::new() } else { format!("{kind}: ") };
        text.push_str(&format!("{bridge:<width$}  {glyph} {kind}{said}\n"));
    }
    let count = |outcome| lines.iter().filter(|line| line.outcome == outcome).count();
    let (failed, unproven, ok) = (count(Outcome::Failed), count(Outcome::Unproven), count(Outcome::Ok));
    text.push_str(&format!("{failed} failed, {unproven} unproven, {ok} ok."));
    if lines.iter().any(|line| line.kind == "pagerduty") {
        text.push_str(" Whether `info` rings is PagerDuty's setting.");
    }
    text.push_str(&format!(" exit {code}\n"));
    text
}

#[cfg(test)]
mod tests {
    use bellwether_fakes::github::Github as GithubFake;
    use bellwether_fakes::pagerduty::Pagerduty;
    use bellwether_fakes::slack::Slack;
    use bellwether_fakes::{Fake, Fault};

    use super::*;

    #[tokio::test]
    async fn each_bridge_says_what_came_back() {
        let dir = tempfile::tempdir().unwrap();
        let secret = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            format!("\"file:{}\"", path.display())
        };
        let token = secret("token", "xoxb-hidden");
        let key = secret("key", "hidden00000000000000000000hidden");
        let hook = secret("hook", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
        let slack = Fake::start(Slack::new("C0123456789", "xoxb-hidden")).await.unwrap();
        let pagerduty = Fake::start(Pagerduty::new("hidden00000000000000000000hidden")).await.unwrap();
        let github = Fake::start(GithubFake::new("acme/shop", "ghp_hidden", &[])).await.unwrap();
        let github_token = secret("github", "ghp_hidden");
        let other = Fake::start(Pagerduty::new("")).await.unwrap();
        other.fault(Fault::status("/hook", 301, 9));
        let echo = "hidden00000000000000000000hidden".to_owned();
        other.fault(Fault { body: echo, ..Fault::status("/v2/enqueue", 400, 9) });
        let yaml = format!(
            "agent: {{ region: sjc, name: alert-1, nats: {{ url: \"nats://127.0.0.1:1\" }}, state_dir: x }}\n\
             alert:\n  bridges:\n    \
             releases: {{ slack: {{ url: \"{}/api\", token: {token}, channel: C0123456789 }} }}\n    \
             pagerduty: {{ pagerduty: {{ url: \"{}\", routing_key: {key} }} }}\n    \
             echo: {{ pagerduty: {{ url: \"{}\", routing_key: {key} }} }}\n    \
             webhook: {{ webhook: {{ url: \"{}/hook?sig=hidden\", secret: {hook} }} }}\n    \
             unset: {{ slack_webhook: {{ url: \"env:BELLWETHER_TEST_NOT_SET\" }} }}\n  \
             github:\n    \
             shop: {{ repository: acme/shop, token: {github_token}, url: \"{}\" }}\n    \
             tills: {{ repository: acme/shop, token: {token}, url: \"{}\" }}\n",
            slack.url, pagerduty.url, other.url, other.url, github.url, github.url
        );
        let config = dir.path().join("alert.yaml");
        std::fs::write(&config, yaml).unwrap();
        let run = async |only: Option<&str>| {
            let args = TestArgs { config: config.clone(), only: only.map(str::to_owned) };
            args.lines().await.map(|lines| shown(&lines, 2))
        };
        let text = run(None).await.unwrap();
        let expected = [
            "echo       ✗ pagerduty: it answered 400: ***",
            "pagerduty  ✓ triggered (severity info); resolved",
            "releases   ✓ slack: C0123456789: posted ",
            "unset      ✗ slack_webhook: the secret env:BELLWETHER_TEST_NOT_SET is not set",
            "webhook    ✗ it answered 301, not followed. fix: set the final URL",
            "shop       ! github: acme/shop: deployments read; a rollout would become one of `{release}` in production,",
            "tills      ✗ github: it answered 401: ",
            "4 failed, 1 unproven, 2 ok. Whether `info` rings is PagerDuty's setting. exit 2",
        ];
        for (line, expected) in text.lines().zip(expected) {
            assert!(line.starts_with(expected), "{text}");
        }
        assert_eq!(text.lines().count(), expected.len());
        assert!(text.contains("ms, thread ok; C0123456789: edited "), "{text}");
        assert!(!text.contains("hidden"), "{text}");
        assert_eq!(code(&[]), 4);
        assert!(shown(&[], 4).starts_with("no bridge is configured: nothing was sent"));
        assert_eq!(run(Some("slack")).await.unwrap().lines().count(), 2);
        assert_eq!(run(Some("github")).await.unwrap().lines().count(), 3);
        assert!(github.log().iter().all(|seen| seen.method == "GET"), "a test made a deployment");
        assert!(matches!(run(Some("mail")).await, Err(AlertError::NoSuchBridge(_))));
        assert_eq!(slack.with(|slack| (slack.roots().len(), slack.edits)), (2, 2));
    }
}
