//! One run of one command: bounded in time and output, redacted, and never left behind.
//!
//! It refuses to pass the agent's own environment on and to take an exit code for a proof.

use std::collections::BTreeMap;
use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use bellwether_bus::Trace;
use bellwether_protocol::id::ActionId;
use rustix::process::{Pid, Signal, kill_process_group};
use secrecy::{ExposeSecret, SecretString};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};

use crate::driver::DriverError;

/// The command said: nothing happened, try again.
const EXIT_RETRY: i32 = 75;
/// The command said: refused.
const EXIT_REFUSED: i32 = 64;
/// Bytes of each of the command's outputs that are kept; the rest is read and thrown away.
const OUTPUT_LEN_MAX: usize = 64 * 1024;
/// Characters of the command's words that go into a result.
const DETAIL_LEN_MAX: usize = 1_000;
/// How long outputs are still read after the command ended: something it started may hold them open.
const DRAIN_WITHIN: Duration = Duration::from_millis(500);
/// Tells the command which action it runs for, so that it can recognise a repeat.
const ACTION_VARIABLE: &str = "BELLWETHER_ACTION";
/// Tells the command where it stands in a trace, under OpenTelemetry's own name for it.
const TRACE_VARIABLE: &str = "TRACEPARENT";

/// Runs one command to its end and answers with what it printed, if it exited with 0.
pub(crate) async fn run(
    line: &[String],
    env: &BTreeMap<String, SecretString>,
    action: Option<&ActionId>,
    timeout: Duration,
) -> Result<Said, DriverError> {
    let mut group = Group::spawn(line, env, action)?;
    let mut said = Said::default();
    let ended = tokio::time::timeout(timeout, group.finish(&mut said)).await;
    // Dropping the group kills what is left of it, so nothing outlives its timeout.
    drop(group);
    said.out.redact(env);
    said.err.redact(env);
    match ended {
        Ok(Ok(status)) => said.judge(status),
        Ok(Err(e)) => Err(DriverError::Unknown(format!("lost the command: {e}"))),
        Err(_) => Err(DriverError::Unknown(format!("stopped after {timeout:?}; {}", said.detail()))),
    }
}

/// A command and whatever it starts. Dropping it ends them all.
struct Group(Child);

impl Group {
    fn spawn(
        line: &[String],
        env: &BTreeMap<String, SecretString>,
        action: Option<&ActionId>,
    ) -> Result<Self, DriverError> {
        let Some((program, arguments)) = line.split_first() else {
            return Err(DriverError::Refused("the command names no program".to_owned()));
        };
        let mut command = Command::new(program);
        command.args(arguments).env_clear().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
        command.envs(env.iter().map(|(name, secret)| (name, secret.expose_secret())));
        command.envs(action.map(|action| (ACTION_VARIABLE, action.to_string())));
        let trace = Some(Trace::current()).filter(|trace| !trace.is_none());
        command.envs(trace.map(|trace| (TRACE_VARIABLE, trace.to_string())));
        // A group of its own, so that a timeout also ends what the command started.
        command.process_group(0).kill_on_drop(true);
        command.spawn().map(Self).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied => {
                DriverError::Refused(format!("cannot run `{program}`: {e}"))
            }
            // It never started, so nothing happened.
            _ => DriverError::Retry(format!("cannot run `{program}` now: {e}")),
        })
    }

    async fn finish(&mut self, said: &mut Said) -> io::Result<ExitStatus> {
        let (out, err) = (self.0.stdout.take(), self.0.stderr.take());
        let mut reading = std::pin::pin!(async { tokio::join!(said.out.fill(out), said.err.fill(err)) });
        let mut ending = std::pin::pin!(self.0.wait());
        let status = tokio::select! {
            status = &mut ending => status,
            _ = &mut reading => return ending.await,
        };
        // Being late here only shortens what is quoted; the command itself has ended.
        let _ = tokio::time::timeout(DRAIN_WITHIN, reading).await;
        status
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // There is an id only until the command was waited for; after that the number may be another's.
        let id = self.0.id().and_then(|id| Pid::from_raw(id.try_into().ok()?));
        if let Some(id) = id {
            // It may have ended by itself in this moment, which is as good.
            let _ = kill_process_group(id, Signal::KILL);
        }
    }
}

/// What a command printed.
#[derive(Debug, Default)]
pub(crate) struct Said {
    out: Capture,
    err: Capture,
}

#[derive(Debug, Default)]
struct Capture {
    bytes: Vec<u8>,
    text: String,
    cut: bool,
}

impl Capture {
    async fn fill(&mut self, from: Option<impl AsyncRead + Unpin>) {
        let Some(mut from) = from else { return };
        let mut chunk = [0; 4_096];
        // Read on past the limit: a full pipe would stop the command half-way.
        while let Ok(len @ 1..) = from.read(&mut chunk).await {
            let room = OUTPUT_LEN_MAX.saturating_sub(self.bytes.len());
            self.cut |= len > room;
            self.bytes.extend(chunk.iter().take(len.min(room)));
        }
    }

    fn redact(&mut self, secrets: &BTreeMap<String, SecretString>) {
        if self.cut {
            // The cut may have gone through a secret, which would then not be recognised.
            let longest = secrets.values().map(|secret| secret.expose_secret().len()).max().unwrap_or_default();
            self.bytes.truncate(self.bytes.len().saturating_sub(longest));
        }
        self.text = String::from_utf8_lossy(&self.bytes).into_owned();
        let mut shown: Vec<&str> = secrets.values().map(ExposeSecret::expose_secret).collect();
        // Longest first, or a secret that holds another would be left in pieces.
        shown.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        for secret in shown.into_iter().filter(|secret| !secret.is_empty()) {
            self.text = self.text.replace(secret, "***");
        }
    }
}

impl Said {
    fn judge(self, status: ExitStatus) -> Result<Self, DriverError> {
        match status.code() {
            Some(0) => Ok(self),
            Some(EXIT_RETRY) => Err(DriverError::Retry(self.detail())),
            Some(EXIT_REFUSED) => Err(DriverError::Refused(self.detail())),
            Some(_) | None => Err(DriverError::Unknown(format!("{status}; {}", self.detail()))),
        }
    }

    /// Its last words: what it complained of, else what it said.
    pub(crate) fn detail(&self) -> String {
        let (out, err) = (self.out.text.trim(), self.err.text.trim());
        if err.is_empty() { out } else { err }.chars().take(DETAIL_LEN_MAX).collect()
    }

    /// What it printed, as JSON, whole.
    pub(crate) fn parse<T: DeserializeOwned>(&self, what: &str) -> Result<T, DriverError> {
        if self.out.cut {
            return Err(DriverError::Unknown(format!("printed more than {OUTPUT_LEN_MAX} bytes, which is not {what}")));
        }
        serde_json::from_str(&self.out.text).map_err(|e| DriverError::Unknown(format!("did not print {what}: {e}")))
    }
}
