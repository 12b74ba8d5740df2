//! A command, from the publish to what became of it.
//!
//! The acknowledgement of the stream means *stored*: the command will not be lost. What was
//! decided about it is read from its outcome, which a coordinator publishes.

use std::time::Duration;

use bellwether_bus::{Bus, From as Begin, PublishError};
use bellwether_protocol::codec::{self, DecodeError, EncodeError};
use bellwether_protocol::command::{CommandBody, Outcome, Verb};
use bellwether_protocol::id::{CommandId, Principal, Service};
use bellwether_protocol::subject::Stream;
use serde::Serialize;

/// What is asked, of whom, by whom.
#[derive(Debug, Clone)]
pub struct Asked {
    /// For which service.
    pub service: Service,
    /// What.
    pub verb: Verb,
    /// Who asks.
    pub principal: Principal,
    /// With what.
    pub body: CommandBody,
}

/// A command that is stored, and what became of it, if that is known.
#[derive(Debug, Clone, Serialize)]
pub struct Answer {
    /// Its id.
    pub command: CommandId,
    /// Its sequence in the inbox.
    pub stored: u64,
    /// What was decided; `None` when nobody has, in time.
    pub outcome: Option<Outcome>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// The outcome cannot be understood.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The command cannot be written down.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// It is not known to be stored.
    #[error(transparent)]
    Publish(#[from] PublishError),
}

impl Answer {
    /// In one line.
    pub fn words(&self) -> String {
        match &self.outcome {
            None => "stored, not yet decided: is a coordinator running?".to_owned(),
            Some(Outcome { refused: Some(why), .. }) => format!("refused: {why}"),
            Some(Outcome { rollout: Some(rollout), verb, .. }) => format!("done: {verb} {rollout}"),
            Some(Outcome { verb, .. }) => format!("done: {verb}"),
        }
    }
}

/// Publishes a command, calls `stored` once it is, and waits for its outcome. A repeat with the same id is
/// harmless, and gives the first one's outcome.
///
/// # Errors
/// When the command is not known to be stored, or its outcome cannot be understood.
pub async fn ask(
    bus: &Bus,
    command: CommandId,
    asked: &Asked,
    within: Duration,
    stored: impl FnOnce(&CommandId),
) -> Result<Answer, AskError> {
    let subject = bus.prefix().command(&asked.service, asked.verb, &asked.principal);
    let body = codec::to_json("command", &asked.body)?;
    let seq = bus.publish(subject, command.as_str(), body).await?.seq;
    stored(&command);
    let outcome = tokio::time::timeout(within, decided(bus, &asked.service, &command)).await;
    Ok(Answer { command, stored: seq, outcome: outcome.ok().transpose()? })
}

/// Waits, however long it takes, for what is decided about a command that is stored.
///
/// # Errors
/// When that cannot be understood.
pub async fn decided(bus: &Bus, service: &Service, command: &CommandId) -> Result<Outcome, DecodeError> {
    // The subject holds the id, so that reading from the start finds this outcome and no other.
    let filter = bus.prefix().outcome(service, command);
    let message = bus.read(Stream::Alerts, vec![filter], Begin::Start).next().await;
    codec::from_json("outcome", &message.body)
}
