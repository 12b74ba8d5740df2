//! The trigger agent: starts a rollout when a message names a release, or when a lever is read at a release
//! that no rollout moved it to. What it publishes is the command of `rollout start`.
//!
//! It decides nothing: a coordinator may refuse, and then that is told. It moves no lever, and starts nothing
//! twice, whether it is restarted or another agent has the same triggers.
//!
//! | module | room |
//! |---|---|
//! | `config` | the agent's own file |
//! | `message` | which release a message names |
//! | `lever` | where a lever stands |
//! | `trigger` | when to start, as a state machine without I/O |
//! | `start` | from an intent to the command, and to what became of it |
//! | `desk` | one trigger at work |

mod config;
mod desk;
mod lever;
mod message;
mod start;
mod trigger;

use std::path::Path;

use bellwether_bus::SubscribeError;
use bellwether_protocol::id::Role;
use bellwether_protocol::plan::Validators;
use bellwether_runtime::{ConfigError, Runtime, StartError, load_config};
use futures_util::future::{pending, try_join_all};

use crate::config::Config;
use crate::desk::Desk;

/// Why the agent did not start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum TriggerError {
    /// Its file cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// One of its triggers could never work.
    #[error("`trigger`: {name}: {why}")]
    Flaw {
        /// Which.
        name: String,
        /// Why.
        why: String,
    },
    /// What a trigger remembers cannot be read.
    #[error("cannot read what a trigger remembers: {path}")]
    Memory {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It cannot take part.
    #[error(transparent)]
    Start(#[from] StartError),
    /// A subject cannot be listened to.
    #[error(transparent)]
    Subscribe(#[from] SubscribeError),
}

/// Runs the agent described by the file `config` until the process is told to stop. Plans are checked with
/// `validators`.
///
/// # Errors
/// When its file is not sound, or it cannot take part.
pub async fn run(config: &Path, validators: &Validators) -> Result<(), TriggerError> {
    let config: Config = load_config(config)?;
    if let Some((name, why)) = config.flaw() {
        return Err(TriggerError::Flaw { name, why });
    }
    let runtime = Runtime::start(Role::Trigger, &config.agent).await?;
    let desks = config.trigger.into_iter().map(|own| Desk::open(&runtime, validators, own));
    let desks = desks.collect::<Result<Vec<_>, _>>()?;
    let work = async {
        try_join_all(desks.into_iter().map(Desk::serve)).await?;
        pending().await
    };
    tokio::select! {
        () = bellwether_runtime::shutdown() => Ok(()),
        ended = work => ended,
    }
}
