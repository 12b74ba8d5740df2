//! The load agent: puts planned load on a service, and tells how it fared.
//!
//! It judges nothing about a release. What it may put load on, and how much at most, is in its own
//! configuration. Latency counts from the instant at which an arrival was *intended*, every planned
//! arrival is either sent or counted as shed, and what this generator was late for is never held against
//! the target: such a window is void.
//!
//! | module | room |
//! |---|---|
//! | `config` | the agent's own file, and its caps |
//! | `settings`, `course`, `chain` | what is done, how much of it, when; pure but for the requests |
//! | `desk`, `window`, `tally`, `valve` | who waits, what became of whom, when to end; pure |
//! | `engine`, `connection`, `pacer` | one load, in a thread of its own |
//! | `agent` | loads as looks of a mesh |
//! | `run`, `threshold`, `show` | one load by hand, without a mesh |

mod agent;
mod chain;
mod config;
mod connection;
mod course;
mod desk;
mod engine;
#[cfg(test)]
mod fixture;
mod pacer;
mod run;
mod settings;
mod show;
mod tally;
mod threshold;
mod valve;
mod window;

use bellwether_protocol::plan::Flaw;
use bellwether_runtime::{ConfigError, HttpError, StartError};
use serde_json::Value;

pub use agent::run;
pub use run::{LoadVerb, RunArgs};

/// Why a load, or the agent, did not start.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Its file cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// What was asked for makes no sense, or is not allowed.
    #[error("{0}")]
    Refused(String),
    /// It cannot take part.
    #[error(transparent)]
    Start(#[from] StartError),
    /// There is no thread to be had.
    #[error("cannot start a thread")]
    Thread(#[source] std::io::Error),
    /// Its certificates cannot be used.
    #[error(transparent)]
    Tls(#[from] HttpError),
}

/// Tells everything that is wrong with the settings of one kind of look.
pub type Validator = fn(&Value) -> Vec<Flaw>;

/// The one kind of look that this agent can do.
const KIND: &str = "load";

/// The checks of each kind's settings, for `plan check`.
pub fn validators() -> [(&'static str, Validator); 1] {
    [(KIND, settings::flaws)]
}
