//! What went wrong, what to try next, and with which exit code the program ends.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use bellwether_bus::server::{InstallError, StartServerError};
use bellwether_bus::{ConnectError, KvError, ProvisionError, PublishError, ReadError};
use bellwether_protocol::codec::{DecodeError, EncodeError};
use bellwether_protocol::id::{IdError, RolloutId, Service};
use bellwether_runtime::{AskError, SecretError};

use crate::out::outln;

/// Exit codes, as CI reads them.
pub mod exit {
    /// Completed, or done.
    pub const DONE: u8 = 0;
    /// Failed and taken back.
    pub const TAKEN_BACK: u8 = 1;
    /// Fix the plan, the flags or the setup.
    pub const USAGE: u8 = 2;
    /// Held or undecided: ask a person.
    pub const HELD: u8 = 3;
    /// Could not tell. Never a pass.
    pub const UNKNOWN: u8 = 4;
    /// Failed and not taken back.
    pub const NOT_TAKEN_BACK: u8 = 5;
}

/// The exit codes, for whoever asks for help.
pub const EXITS: &str = "Exit codes: 0 completed; 1 failed and taken back; 2 fix plan, flags or setup; 3 held, ask a \
    person; 4 could not tell, never a pass; 5 failed and NOT taken back";

/// Why a verb did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum VerbError {
    /// Several rollouts, and none was named.
    #[error("there are rollouts of {} services: name one", .0.len())]
    Ambiguous(Vec<Service>),
    /// The plan, the agent's file and what was asked do not fit together.
    #[error("{0}")]
    Assess(String),
    /// NATS cannot be used.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// Something on the mesh cannot be understood.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The demo did not go as it should.
    #[error("{0}")]
    Demo(String),
    /// Something of ours cannot be written down.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// A file is there already.
    #[error("{} exists", .0.display())]
    Exists(PathBuf),
    /// A file cannot be used.
    #[error("cannot {doing} {}", path.display())]
    File {
        /// Read, write or make.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A name is not one.
    #[error(transparent)]
    Id(#[from] IdError),
    /// There is no nats-server to start.
    #[error(transparent)]
    Install(#[from] InstallError),
    /// A bucket cannot be used.
    #[error(transparent)]
    Kv(#[from] KvError),
    /// The log does not verify, or cannot be understood.
    #[error(transparent)]
    Log(Box<dyn std::error::Error + Send + Sync>),
    /// There is no such rollout.
    #[error("there is no rollout {0}")]
    NoRollout(RolloutId),
    /// There is no rollout at all.
    #[error("no rollouts yet")]
    NoRollouts,
    /// No rollout of that service was ever started.
    #[error("there is no rollout of {0}")]
    NoService(Service),
    /// Another rollout of the service came after the one that was asked for.
    #[error("the current rollout of {} is {current}; of {asked} only the log is left", current.service)]
    Past {
        /// The one that was asked for.
        asked: RolloutId,
        /// The one whose status is kept.
        current: RolloutId,
    },
    /// The plan has errors, which were shown.
    #[error("the plan is refused")]
    PlanRefused,
    /// The streams are not as they must be.
    #[error(transparent)]
    Provision(#[from] ProvisionError),
    /// It is not known to be stored.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// A stream cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A samples file cannot be used.
    #[error(transparent)]
    Samples(Box<dyn std::error::Error + Send + Sync>),
    /// The credentials are not there.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The local server does not start.
    #[error(transparent)]
    Server(#[from] StartServerError),
    /// What was asked does not fit what is there.
    #[error("{0}")]
    Setup(String),
    /// A child process does not start.
    #[error("cannot start {name}")]
    Spawn {
        /// Which.
        name: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The terminal, or this machine, does not play along.
    #[error("cannot use this terminal or process")]
    System(#[source] io::Error),
    /// An instant is none of the forms.
    #[error("`{0}` is no instant: write `14:00Z`, `2026-05-05T14:00:00Z`, or `2h` from now")]
    Until(String),
}

impl VerbError {
    /// What to try next, when the message does not say it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Ambiguous(services) => services.first().map(|one| format!("bellwether rollout status {one}")),
            Self::Exists(_) => Some("--force replaces it".to_owned()),
            Self::NoRollout(_) | Self::NoService(_) => Some("bellwether rollout list".to_owned()),
            Self::NoRollouts => Some("bellwether rollout start PLAN --release RELEASE".to_owned()),
            Self::Past { asked, .. } => Some(format!("bellwether rollout explain {asked}")),
            Self::Connect(ConnectError::Unreachable { .. }) => Some(
                "bellwether up, which starts one on this machine; or name the one that is meant with --nats or BELLWETHER_NATS"
                    .to_owned(),
            ),
            Self::Install(_) => {
                Some("bellwether demo, which installs one into your cache; or --nats-server PATH".to_owned())
            }
            Self::Connect(ConnectError::Credentials { .. } | ConnectError::Refused { .. }) => {
                Some("--credentials FILE, or BELLWETHER_CREDENTIALS".to_owned())
            }
            Self::Kv(_) | Self::Read(_) => {
                Some("bellwether doctor, which says what is missing; a coordinator makes the streams".to_owned())
            }
            Self::Server(StartServerError::PortInUse(_)) => {
                Some("--port of `up`, then `nats.url` in the agents' files and BELLWETHER_NATS".to_owned())
            }
            Self::Publish(_) => {
                Some("the command may be stored: bellwether rollout list shows what came of it".to_owned())
            }
            Self::Assess(_)
            | Self::Connect(_)
            | Self::Decode(_)
            | Self::Demo(_)
            | Self::Encode(_)
            | Self::File { .. }
            | Self::Id(_)
            | Self::Log(_)
            | Self::PlanRefused
            | Self::Provision(_)
            | Self::Samples(_)
            | Self::Server(_)
            | Self::Secret(_)
            | Self::Setup(_)
            | Self::Spawn { .. }
            | Self::System(_)
            | Self::Until(_) => None,
        }
    }

    /// The exit code of a program that ends with this.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Decode(_)
            | Self::Demo(_)
            | Self::Kv(_)
            | Self::Log(_)
            | Self::Publish(_)
            | Self::Read(_)
            | Self::System(_) => exit::UNKNOWN,
            Self::Ambiguous(_)
            | Self::Assess(_)
            | Self::Connect(_)
            | Self::Encode(_)
            | Self::Exists(_)
            | Self::File { .. }
            | Self::Id(_)
            | Self::Install(_)
            | Self::NoRollout(_)
            | Self::NoRollouts
            | Self::NoService(_)
            | Self::Past { .. }
            | Self::PlanRefused
            | Self::Provision(_)
            | Self::Samples(_)
            | Self::Server(_)
            | Self::Secret(_)
            | Self::Setup(_)
            | Self::Spawn { .. }
            | Self::Until(_) => exit::USAGE,
        }
    }
}

impl From<AskError> for VerbError {
    fn from(error: AskError) -> Self {
        match error {
            AskError::Decode(error) => Self::Decode(error),
            AskError::Encode(error) => Self::Encode(error),
            AskError::Publish(error) => Self::Publish(error),
        }
    }
}

/// The message, its causes, and what to try: for people on standard error, for programs on standard output.
pub fn complain(error: &anyhow::Error, json: bool) -> ExitCode {
    let verb = error.downcast_ref::<VerbError>();
    let (text, hint) = (told(error.chain()), verb.and_then(VerbError::hint));
    let code = verb.map_or(exit::USAGE, VerbError::exit_code);
    // Why a plan is refused was printed as its findings.
    if json && !matches!(verb, Some(VerbError::PlanRefused)) {
        outln!("{}", serde_json::json!({ "error": text, "try": hint, "exit": code }));
        return ExitCode::from(code);
    }
    eprintln!("error: {text}");
    if let Some(hint) = hint {
        eprintln!("  try: {hint}");
    }
    ExitCode::from(code)
}

/// Each cause once: some errors of others end with the words of their own cause.
pub(crate) fn told<'a>(chain: impl Iterator<Item = &'a (dyn std::error::Error + 'static)>) -> String {
    chain.fold(String::new(), |said, cause| {
        let cause = cause.to_string();
        match said.as_str() {
            "" => cause,
            said if said.ends_with(&cause) => said.to_owned(),
            said => format!("{said}: {cause}"),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_cause_is_told_twice() {
        let refused = || io::Error::other("connection refused");
        for (causes, expected) in [
            (vec![refused()], "connection refused"),
            (
                vec![io::Error::other("cannot reach it: connection refused"), refused()],
                "cannot reach it: connection refused",
            ),
            (vec![io::Error::other("cannot reach it"), refused()], "cannot reach it: connection refused"),
        ] {
            let causes: Vec<&(dyn std::error::Error + 'static)> = causes.iter().map(|cause| cause as _).collect();
            assert_eq!(told(causes.into_iter()), expected);
        }
    }
}
