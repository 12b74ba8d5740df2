//! What every agent shares: who it is, that it is there, what it is told, how it answers.
//!
//! This crate knows no vendor and no kind of look, and it decides nothing about a release. A role gets a
//! [`Runtime`], looks at its [`Runtime::assignments`], sends samples through a [`SampleSender`],
//! or hands its [`Lever`]s to [`Runtime::serve_levers`].
//!
//! | module | room |
//! |---|---|
//! | `config` | one YAML file per agent, bounded, with errors that name the line |
//! | `secret` | `env:NAME` and `file:PATH` |
//! | `presence` | the heartbeat, and the clock that it anchors |
//! | `ask` | a command, and what became of it |
//! | `assignments` | what this region is to watch, never an older revision |
//! | `looks`, `gather`, `gaps` | assignments to running looks, what a slot of one came to, and why one did not |
//! | `spool` | samples, on disk until NATS has them |
//! | `allowed` | which values a lever may be set to |
//! | `exec`, `task` | the drivers that levers of any role may have: a command that sets, and one that is run |
//! | [`ledger`] | one lever's actions, as a state machine without I/O |
//! | `levers` | the ledger's hands: claims, actions, drivers, results |
//! | `alone` | one action on one lever, without a mesh |
//! | [`store`] | small JSON files that are whole or not there |
//! | `mode` | lines, a live block, or JSON |
//! | `http` | one TLS configuration, HTTP clients made from it |
//! | [`telemetry`] | logs and traces |
//! | [`web`] | looking at what answers over HTTP, and asking platforms |

mod allowed;
mod alone;
mod ask;
mod assignments;
mod claim;
mod command;
mod config;
mod driver;
mod exec;
mod gaps;
mod gather;
mod http;
pub mod ledger;
mod levers;
mod looks;
mod mode;
mod presence;
mod secret;
mod shutdown;
mod spool;
mod start;
pub mod store;
mod task;
pub mod telemetry;
pub mod web;

pub use allowed::Allowed;
pub use alone::act_alone;
pub use ask::{Answer, AskError, Asked, ask, decided};
pub use config::{
    AgentConfig, ConfigError, FILE_LEN_MAX, NatsConfig, file_reference, load_config, parse_config, read_text,
};
pub use driver::{Driver, DriverError, Lever, Reading};
pub use exec::{Exec, ExecConfig, ExecError};
pub use gaps::{Gaps, Place};
pub use gather::{Gathered, Watch};
pub use http::{HttpError, http, http_with_ca, tls, tls_with_ca};
pub use levers::LeverError;
pub use looks::{LOOKS_MAX, Looker, Looks};
pub use mode::Mode;
pub use secret::{SecretError, SecretRef};
pub use shutdown::shutdown;
pub use spool::{SampleSender, SpoolError};
pub use start::{Runtime, StartError};
pub use task::{Task, TaskConfig};
