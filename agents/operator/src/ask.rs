//! A command, from the publish to what became of it.
//!
//! The acknowledgement of the stream means *stored*: the command will not be lost. What was
//! decided about it is read from its outcome, which a coordinator publishes.

use std::time::Duration;

use bellwether_bus::{Bus, From as Begin};
use bellwether_protocol::codec;
use bellwether_protocol::command::{CommandBody, Outcome, Verb};
use bellwether_protocol::id::{CommandId, Principal, Service};
use bellwether_protocol::subject::Stream;
use serde::Serialize;

use crate::error::{VerbError, exit};
use crate::out::outln;

/// How long a coordinator may take to decide, when the caller does not say.
pub(crate) const DECIDED_WITHIN: Duration = Duration::from_secs(15);

/// What is asked, of whom, by whom.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) service: Service,
    pub(crate) verb: Verb,
    pub(crate) principal: Principal,
    pub(crate) body: CommandBody,
}

/// A command that is stored, and what became of it, if that is known.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Answer {
    pub(crate) command: CommandId,
    /// Its sequence in the inbox.
    pub(crate) stored: u64,
    pub(crate) outcome: Option<Outcome>,
}

impl Answer {
    /// In one line.
    pub(crate) fn words(&self) -> String {
        match &self.outcome {
            None => "stored, not yet decided: is a coordinator running?".to_owned(),
            Some(Outcome { refused: Some(why), .. }) => format!("refused: {why}"),
            Some(Outcome { rollout: Some(rollout), verb, .. }) => format!("done: {verb} {rollout}"),
            Some(Outcome { verb, .. }) => format!("done: {verb}"),
        }
    }

    pub(crate) fn exit_code(&self) -> u8 {
        match &self.outcome {
            None => exit::HELD,
            Some(Outcome { refused: Some(_), .. }) => exit::USAGE,
            Some(_) => exit::DONE,
        }
    }
}

/// Publishes a command, calls `stored` once it is, and waits for its outcome.
pub(crate) async fn ask(
    bus: &Bus,
    asked: &Asked,
    within: Duration,
    stored: impl FnOnce(&CommandId),
) -> Result<Answer, VerbError> {
    let command: CommandId = uuid::Uuid::now_v7().to_string().parse()?;
    let subject = bus.prefix().command(&asked.service, asked.verb, &asked.principal);
    let body = codec::to_json("command", &asked.body)?;
    let seq = bus.publish(subject, command.as_str(), body).await?.seq;
    stored(&command);
    // The subject holds the id, so that reading from the start finds this outcome and no other.
    let filter = bus.prefix().outcome(&asked.service, &command);
    let mut outcomes = bus.read(Stream::Alerts, vec![filter], Begin::Start);
    let outcome = match tokio::time::timeout(within, outcomes.next()).await {
        Ok(message) => Some(codec::from_json("outcome", &message.body)?),
        Err(_) => None,
    };
    Ok(Answer { command, stored: seq, outcome })
}

/// Says how it went, on standard output.
pub(crate) fn say(answer: &Answer, json: bool) -> Result<u8, VerbError> {
    if json {
        let text = codec::to_json("answer", answer)?;
        outln!("{}", String::from_utf8_lossy(&text));
    } else {
        outln!("{}", crate::render::Line::of(answer.words()).plain());
    }
    Ok(answer.exit_code())
}
