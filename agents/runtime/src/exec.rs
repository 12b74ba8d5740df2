//! The exec driver: a lever moved by a command whose line is fixed in the agent's own configuration.
//!
//! It refuses to run a shell, to set a value that it was not told it may set, and to guess at a
//! reading that is not exactly what was agreed. See the rollback agent's README for the command's side of it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bellwether_protocol::id::{ActionId, LeverValue, Release};
use bellwether_protocol::presence::Target;
use bellwether_protocol::time::Span;
use futures_util::future::BoxFuture;
use secrecy::SecretString;
use serde::{Deserialize, Deserializer};

use crate::allowed::Allowed;
use crate::command::{self, Said};
use crate::driver::{Driver, DriverError, Reading};
use crate::secret::SecretRef;
use crate::web::redact;

/// Targets behind one lever.
const TARGETS_MAX: usize = 256;
/// Releases that are taken from a history.
const HISTORY_LEN_MAX: usize = 100;
/// Longest name of a target, in bytes.
const TARGET_ID_LEN_MAX: usize = 128;
/// Most of a command line that people are shown, in characters.
pub(crate) const DESCRIPTION_LEN_MAX: usize = 200;
/// What the value stands for in the configured line.
const PLACEHOLDER: &str = "{value}";

/// How a lever is moved by commands, as the agent's configuration says it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExecConfig {
    /// The command that sets the lever; `{value}` stands for the value, within one argument.
    pub set: Vec<String>,
    /// The command that prints where the lever stands.
    pub read_back: Vec<String>,
    /// The command that prints the releases the lever has held.
    #[serde(default)]
    pub history: Option<Vec<String>>,
    /// How long each command may take. Default 30 s.
    #[serde(default = "default_timeout")]
    pub timeout: Span,
    /// Environment variables of the commands, each from a secret.
    #[serde(default)]
    pub env: BTreeMap<String, SecretRef>,
    /// The only values that may be set.
    #[serde(default)]
    pub values: Option<Vec<LeverValue>>,
    /// A regular expression that the whole value must match to be set.
    #[serde(default)]
    pub pattern: Option<String>,
}

fn default_timeout() -> Span {
    Span::from_secs(30)
}

/// Why a configured lever cannot work.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// A command without a program.
    #[error("`{0}` names no program")]
    Empty(&'static str),
    /// Not a regular expression.
    #[error("`pattern` is not a regular expression")]
    Pattern(#[source] Box<regex::Error>),
    /// The value is missing where it belongs, or stands where it does not.
    #[error("`{0}`: {1}")]
    Placeholder(&'static str, &'static str),
    /// A secret that is not there.
    #[error("environment variable `{0}` of the command has no value")]
    Secret(String, #[source] Box<dyn std::error::Error + Send + Sync>),
    /// No time at all.
    #[error("`timeout` must be longer than 0s")]
    Timeout,
}

/// A lever that commands move.
#[derive(Debug)]
pub struct Exec {
    set: Vec<String>,
    read_back: Vec<String>,
    history: Option<Vec<String>>,
    timeout: Duration,
    env: BTreeMap<String, SecretString>,
    allowed: Allowed,
}

impl Exec {
    /// Checks a configuration and resolves its secrets.
    ///
    /// # Errors
    /// When the configuration could never work, or a secret is missing.
    pub fn new(config: &ExecConfig) -> Result<Self, ExecError> {
        check_set(&config.set)?;
        check_reader("read_back", &config.read_back)?;
        config.history.as_deref().map_or(Ok(()), |line| check_reader("history", line))?;
        if config.timeout == Span::ZERO {
            return Err(ExecError::Timeout);
        }
        let allowed = Allowed::new(config.values.as_deref(), config.pattern.as_deref());
        Ok(Self {
            set: config.set.clone(),
            read_back: config.read_back.clone(),
            history: config.history.clone(),
            timeout: config.timeout.to_std(),
            env: secrets(&config.env)?,
            allowed: allowed.map_err(ExecError::Pattern)?,
        })
    }

    async fn run(&self, line: &[String], action: Option<&ActionId>) -> Result<Said, DriverError> {
        command::run(line, &self.env, action, self.timeout).await
    }
}

impl Driver for Exec {
    fn set<'a>(&'a self, to: &'a LeverValue, action: &'a ActionId) -> BoxFuture<'a, Result<String, DriverError>> {
        Box::pin(async move {
            if !self.allowed.allows(to) {
                return Err(DriverError::Refused(format!("`{to}` is not a value that this agent may set")));
            }
            let line: Vec<String> = self.set.iter().map(|part| part.replace(PLACEHOLDER, to.as_str())).collect();
            Ok(self.run(&line, Some(action)).await?.detail())
        })
    }

    fn describe(&self) -> String {
        redact(&self.set.join(" "), &[], DESCRIPTION_LEN_MAX)
    }

    fn read_back(&self) -> BoxFuture<'_, Result<Reading, DriverError>> {
        Box::pin(async move { reading(&self.run(&self.read_back, None).await?) })
    }

    fn history(&self) -> BoxFuture<'_, Result<Vec<Release>, DriverError>> {
        Box::pin(async move {
            let Some(line) = &self.history else { return Ok(Vec::new()) };
            let mut releases: Vec<Release> = self.run(line, None).await?.parse("a list of releases")?;
            releases.truncate(HISTORY_LEN_MAX);
            Ok(releases)
        })
    }
}

/// The environment of a command, its secrets resolved.
pub(crate) fn secrets(env: &BTreeMap<String, SecretRef>) -> Result<BTreeMap<String, SecretString>, ExecError> {
    let secret = |(name, secret): (&String, &SecretRef)| match secret.resolve() {
        Ok(value) => Ok((name.clone(), value)),
        Err(e) => Err(ExecError::Secret(name.clone(), e.into())),
    };
    env.iter().map(secret).collect()
}

fn check_reader(key: &'static str, line: &[String]) -> Result<(), ExecError> {
    if line.iter().any(|part| part.contains(PLACEHOLDER)) {
        return Err(ExecError::Placeholder(key, "`{value}` has no meaning where nothing is set"));
    }
    line.first().filter(|program| !program.is_empty()).map_or(Err(ExecError::Empty(key)), |_| Ok(()))
}

fn check_set(line: &[String]) -> Result<(), ExecError> {
    let holds = |part: &String| part.contains(PLACEHOLDER);
    let Some(program) = line.first().filter(|program| !program.is_empty()) else {
        return Err(ExecError::Empty("set"));
    };
    let wrong = |why| Err(ExecError::Placeholder("set", why));
    if holds(program) {
        return wrong("`{value}` cannot be the program");
    }
    if line.windows(2).any(|pair| matches!(pair, [flag, script] if flag == "-c" && holds(script))) {
        return wrong("`{value}` inside a script would be run as code; pass it as an argument of its own");
    }
    if line.iter().any(holds) { Ok(()) } else { wrong("`{value}` is missing, so nothing could be set") }
}

fn reading(said: &Said) -> Result<Reading, DriverError> {
    let printed: Printed = said.parse("a reading")?;
    let garbage = |why: &str| Err(DriverError::Unknown(format!("printed a reading that cannot be: {why}")));
    let ids: BTreeSet<&str> = printed.targets.iter().map(|target| target.id.as_str()).collect();
    if printed.targets.is_empty() || printed.targets.len() > TARGETS_MAX {
        return garbage("there must be 1 to 256 targets");
    }
    if ids.len() != printed.targets.len() || ids.iter().any(|id| id.is_empty() || id.len() > TARGET_ID_LEN_MAX) {
        return garbage("each target needs a name of its own, of 1 to 128 bytes");
    }
    if printed.value.is_some() && printed.targets.iter().any(|target| target.value != printed.value) {
        return garbage("the value is not that of every target");
    }
    let targets = printed.targets.into_iter().map(|target| Target { id: target.id, value: target.value });
    Ok(Reading { value: printed.value, targets: targets.collect() })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Printed {
    #[serde(deserialize_with = "present")]
    value: Option<LeverValue>,
    targets: Vec<PrintedTarget>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PrintedTarget {
    id: String,
    #[serde(deserialize_with = "present")]
    value: Option<LeverValue>,
}

// Serde takes a missing key for null; here null is a statement, and leaving it out is a mistake.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<LeverValue>, D::Error> {
    Option::deserialize(deserializer)
}

#[cfg(test)]
mod tests;
