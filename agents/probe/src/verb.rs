//! `bellwether probe once`: one look by hand, without a mesh, phase by phase.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use bellwether_protocol::sample::class;
use bellwether_protocol::time::Span;
use bellwether_runtime::web::{Allow, Answer, ByHand, Dialer, Origin, Phases, ask, secrets, without_query_values};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::ProbeError;
use crate::config::Config;
use crate::http::{BODY_LEN_MAX, Http};
use crate::observation::Observation;

/// Look at a target by hand
#[derive(Debug, clap::Subcommand)]
pub enum ProbeVerb {
    /// Look once: exit 0 as expected, 1 not as expected, 4 could not look
    Once(OnceArgs),
}

/// One look by hand.
#[derive(Debug, clap::Args)]
pub struct OnceArgs {
    /// What to look at
    url: String,
    #[command(flatten)]
    asked: ByHand,
    /// For how long at most
    #[arg(long, default_value = "5s", value_name = "SPAN")]
    timeout: Span,
    /// Look as the probe agent of this file may; without one, only at this URL's host
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

const AS_EXPECTED: u8 = 0;
const NOT_AS_EXPECTED: u8 = 1;
const COULD_NOT_LOOK: u8 = 4;

struct Seen {
    url: String,
    status: Option<u16>,
    took: Duration,
    phases: Phases,
    observation: Observation,
    /// Each condition, and what was found instead when it did not hold.
    conditions: Vec<(String, Result<(), String>)>,
}

impl ProbeVerb {
    /// Does it, and gives the exit code.
    ///
    /// # Errors
    /// When what was asked for makes no sense, or is over the limits of `--config`.
    pub async fn run(&self, json: bool) -> Result<u8, ProbeError> {
        let Self::Once(args) = self;
        let seen = args.see().await?;
        let code = match seen.observation.class {
            class::OK => AS_EXPECTED,
            class::RESOLVE | class::CONNECT | class::TLS => COULD_NOT_LOOK,
            _ => NOT_AS_EXPECTED,
        };
        let text = if json { format!("{}\n", seen.json(code)) } else { seen.text(code) };
        // Nobody may read it any more; the exit code still tells.
        let _ = std::io::stdout().lock().write_all(text.as_bytes());
        Ok(code)
    }
}

impl OnceArgs {
    async fn see(&self) -> Result<Seen, ProbeError> {
        let refused = ProbeError::Refused;
        let (origin, path) = Origin::split(&self.url).map_err(refused)?;
        let question = self.asked.question(&path).map_err(refused)?;
        let (allow, tls) = match &self.config {
            None => (Allow::only(std::slice::from_ref(&origin)).map_err(refused)?, bellwether_runtime::tls()),
            Some(file) => {
                let Config { probe, .. } = bellwether_runtime::load_config(file)?;
                let tls = probe.ca.as_deref().map(bellwether_runtime::tls_with_ca).transpose()?;
                (probe.allow, tls.unwrap_or_else(bellwether_runtime::tls))
            }
        };
        let dialer = Dialer::new(allow, tls);
        dialer.check(&origin).map_err(refused)?;
        let target = self.asked.target(origin, self.timeout).map_err(refused)?;
        let begin = Instant::now();
        let request = target.request(question.method.clone(), &path, &question.headers, question.body.clone());
        let own = secrets(request.headers());
        let received = ask(&dialer, &target.origin, request, begin + self.timeout.to_std(), BODY_LEN_MAX).await;
        let took = begin.elapsed();
        let answer = received.head.clone().zip(received.body.clone().ok()).map(|((status, headers), body)| Answer {
            status,
            headers,
            json: serde_json::from_slice(&body).ok(),
            text: String::from_utf8_lossy(&body).into_owned(),
            secrets: own.clone(),
        });
        let found = answer.iter().flat_map(|answer| question.expect.iter().map(move |one| one.check(answer)));
        Ok(Seen {
            url: without_query_values(&self.url),
            status: received.head.as_ref().map(|(status, _)| *status),
            took,
            phases: received.phases,
            conditions: self.asked.expect.iter().cloned().zip(found).collect(),
            observation: Http { question, ..Http::default() }.judge(&target, received, &own),
        })
    }
}

impl Seen {
    fn phases(&self) -> impl Iterator<Item = (&'static str, Duration)> {
        let Phases { resolve, connect, tls, first_byte, transfer } = self.phases;
        let all = [
            ("resolve", resolve),
            ("connect", connect),
            ("tls", tls),
            ("first byte", first_byte),
            ("transfer", transfer),
        ];
        all.into_iter().filter_map(|(name, took)| Some((name, took?)))
    }

    fn text(&self, code: u8) -> String {
        let Observation { class, release, evidence, .. } = &self.observation;
        let status = self.status.map_or("no answer".to_owned(), |status| format!("status {status}"));
        let release = release.as_ref().map_or("release not named".to_owned(), |release| format!("release {release}"));
        let mut lines = vec![format!("{}   {status}   {}   {release}", self.url, ms(self.took))];
        let phases: Vec<String> = self.phases().map(|(name, took)| format!("{name} {}", ms(took))).collect();
        if !phases.is_empty() {
            lines.push(phases.join("   "));
        }
        for (condition, held) in &self.conditions {
            lines.push(match held {
                Ok(()) => format!("✓ {condition}"),
                Err(found) => format!("✗ {found}"),
            });
        }
        let why = evidence.as_deref().unwrap_or("as expected");
        let glyph = match code {
            AS_EXPECTED => "✓",
            COULD_NOT_LOOK => "?",
            _ => "✗",
        };
        lines.push(format!("{glyph} {class}: {why}   exit {code}"));
        lines.iter().map(|line| format!("{line}\n")).collect()
    }

    fn json(&self, code: u8) -> Value {
        let Observation { class, release, evidence, .. } = &self.observation;
        let phases: serde_json::Map<String, Value> =
            self.phases().map(|(name, took)| (name.replace(' ', "_"), json!(us(took)))).collect();
        let conditions: Vec<Value> = self
            .conditions
            .iter()
            .map(|(text, held)| json!({"condition": text, "held": held.is_ok(), "found": held.as_ref().err()}))
            .collect();
        json!({
            "url": self.url, "status": self.status, "class": class, "release": release, "took_us": us(self.took),
            "phases_us": phases, "conditions": conditions, "evidence": evidence, "exit": code,
        })
    }
}

fn us(took: Duration) -> u64 {
    u64::try_from(took.as_micros()).unwrap_or(u64::MAX)
}

fn ms(took: Duration) -> String {
    format!("{:.1}ms", took.as_secs_f64() * 1e3)
}

#[cfg(test)]
mod tests {
    use bellwether_fakes::{Fake, Reply, Seen};

    use super::*;

    async fn look(args: &[&str]) -> (String, Value) {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            args: OnceArgs,
        }
        let line = <Line as clap::Parser>::try_parse_from(std::iter::once(&"once").chain(args)).unwrap();
        let seen = line.args.see().await.unwrap();
        (seen.text(1), seen.json(1))
    }

    #[tokio::test]
    async fn a_look_tells_phases_release_and_every_condition() {
        let answer = |_: &Seen| Reply::json(200, &json!({ "status": "warning" })).with("x-release", "v42");
        let site = Fake::start(answer).await.unwrap();
        let url = format!("{}/health?key=hidden", site.url);
        let (text, json) = look(&[&url, "--expect", "status == 200", "--expect", "$.status == healthy"]).await;
        assert_eq!(
            (&json["status"], &json["class"], &json["release"]),
            (&200.into(), &"unexpected".into(), &"v42".into())
        );
        for phase in ["resolve", "connect", "first_byte", "transfer"] {
            assert!(json["phases_us"][phase].is_u64(), "{phase} is not in {json}");
        }
        assert!(json["phases_us"]["tls"].is_null());
        let lines: Vec<&str> = text.lines().collect();
        assert!(
            lines[0].contains("status 200") && lines[0].ends_with("release v42") && !text.contains("hidden"),
            "{text}"
        );
        assert_eq!((lines[2], lines[3]), ("✓ status == 200", "✗ $.status == healthy: was \"warning\""));
        let (_, json) = look(&[&url]).await;
        assert_eq!((&json["class"], &json["conditions"]), (&"ok".into(), &json!([])));
        let asked: Vec<_> = site.log().into_iter().map(|seen| (seen.method, seen.path, seen.query)).collect();
        assert_eq!(asked, vec![("GET".into(), "/health".into(), "key=hidden".into()); 2]);
    }

    #[tokio::test]
    async fn what_cannot_be_looked_at_is_told_apart() {
        let (text, json) = look(&["http://127.0.0.1:1/"]).await;
        assert_eq!((&json["class"], &json["status"]), (&"connect".into(), &Value::Null));
        assert!(text.starts_with("http://127.0.0.1:1/   no answer"), "{text}");
    }
}
