//! The task driver: a lever that *runs* something, such as a backup or a smoke test, instead of holding a state.
//!
//! Each run is a value of its own. Where the lever "stands" is the last run that ended well, kept in
//! the agent's own directory, so that a repeat of a run that is over does nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bellwether_protocol::id::{ActionId, LeverName, LeverValue};
use bellwether_protocol::presence::Target;
use bellwether_protocol::time::Span;
use futures_util::future::BoxFuture;
use secrecy::SecretString;
use serde::Deserialize;

use crate::command;
use crate::driver::{Driver, DriverError, Reading};
use crate::exec::{DESCRIPTION_LEN_MAX, ExecError, secrets};
use crate::secret::SecretRef;
use crate::store;
use crate::web::redact;

/// Where a lever stands that never ran.
const NEVER: &str = "never";

/// What a lever runs, as the agent's configuration says it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskConfig {
    /// The command; it gets the action's id in `BELLWETHER_ACTION`. Exit 0: it ended well.
    pub command: Vec<String>,
    /// How long it may take. Default 10 min.
    #[serde(default = "default_timeout")]
    pub timeout: Span,
    /// Environment variables of the command, each from a secret.
    #[serde(default)]
    pub env: BTreeMap<String, SecretRef>,
}

fn default_timeout() -> Span {
    Span::from_secs(600)
}

/// A lever that runs a command.
#[derive(Debug)]
pub struct Task {
    command: Vec<String>,
    timeout: Duration,
    env: BTreeMap<String, SecretString>,
    done: PathBuf,
}

impl Task {
    /// Checks a configuration and resolves its secrets. What was run last is kept in `state_dir`.
    ///
    /// # Errors
    /// When the configuration could never work, or a secret is missing.
    pub fn new(config: &TaskConfig, state_dir: &Path, lever: &LeverName) -> Result<Self, ExecError> {
        if config.command.first().is_none_or(String::is_empty) {
            return Err(ExecError::Empty("command"));
        }
        if config.timeout == Span::ZERO {
            return Err(ExecError::Timeout);
        }
        let done = state_dir.join(format!("task-{lever}.json"));
        Ok(Self { command: config.command.clone(), timeout: config.timeout.to_std(), env: secrets(&config.env)?, done })
    }
}

impl Driver for Task {
    fn set<'a>(&'a self, to: &'a LeverValue, action: &'a ActionId) -> BoxFuture<'a, Result<String, DriverError>> {
        Box::pin(async move {
            let said = command::run(&self.command, &self.env, Some(action), self.timeout).await?;
            // It ran: when that cannot be written down, it must not be run again without a look.
            store::save(&self.done, to)
                .map_err(|error| DriverError::Unknown(format!("cannot note the run: {error}")))?;
            Ok(said.detail())
        })
    }

    fn describe(&self) -> String {
        format!("runs {}", redact(&self.command.join(" "), &[], DESCRIPTION_LEN_MAX))
    }

    fn read_back(&self) -> BoxFuture<'_, Result<Reading, DriverError>> {
        Box::pin(async {
            let unread = |error| DriverError::Unknown(format!("cannot read what was run: {error}"));
            let last = store::load::<LeverValue>(&self.done).map_err(unread)?;
            let value = last.or_else(|| NEVER.parse().ok());
            Ok(Reading::of(vec![Target { id: "here".to_owned(), value }]))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_run_that_ended_well_is_where_the_lever_stands() {
        let dir = tempfile::tempdir().unwrap();
        let task = |command: &[&str]| {
            let command = command.iter().map(|part| (*part).to_owned()).collect();
            let config = TaskConfig { command, timeout: Span::from_secs(5), env: BTreeMap::new() };
            Task::new(&config, dir.path(), &"paths".parse().unwrap())
        };
        let action: ActionId = "shop/1/2/0".parse().unwrap();
        let stands = async |task: &Task| task.read_back().await.unwrap().value.unwrap().to_string();
        let good = task(&["true"]).unwrap();
        assert_eq!(stands(&good).await, NEVER);
        good.set(&"1-1-1".parse().unwrap(), &action).await.unwrap();
        assert_eq!(stands(&good).await, "1-1-1");
        let bad = task(&["false"]).unwrap();
        assert!(bad.set(&"1-1-2".parse().unwrap(), &action).await.is_err());
        assert_eq!(stands(&bad).await, "1-1-1", "a run that failed is not where it stands");
        assert!(task(&[]).is_err());
    }
}
