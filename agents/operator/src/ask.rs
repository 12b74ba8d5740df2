//! What a person asks: under a new id, and said on standard output.

use std::time::Duration;

use bellwether_bus::Bus;
use bellwether_protocol::codec;
use bellwether_protocol::command::Outcome;
use bellwether_protocol::id::CommandId;
use bellwether_protocol::subject::Stream;
pub(crate) use bellwether_runtime::{Answer, Asked};

use crate::error::{VerbError, exit};
use crate::out::outln;

/// How long a coordinator may take to decide, when the caller does not say.
pub(crate) const DECIDED_WITHIN: Duration = Duration::from_secs(15);

pub(crate) fn exit_code(answer: &Answer) -> u8 {
    match &answer.outcome {
        None => exit::HELD,
        Some(Outcome { refused: Some(_), .. }) => exit::USAGE,
        Some(_) => exit::DONE,
    }
}

/// Publishes a command, calls `stored` once it is, and waits for its outcome.
pub(crate) async fn ask(
    bus: &Bus,
    asked: &Asked,
    within: Duration,
    stored: impl FnOnce(&CommandId),
) -> Result<Answer, VerbError> {
    // A stream that is not there would be waited for as long as one that has no leader now.
    bus.last(Stream::Inbox, &bus.prefix().command(&asked.service, asked.verb, &asked.principal)).await?;
    let command = uuid::Uuid::now_v7().to_string().parse()?;
    Ok(bellwether_runtime::ask(bus, command, asked, within, stored).await?)
}

/// Says how it went, on standard output.
pub(crate) fn say(answer: &Answer, json: bool) -> Result<u8, VerbError> {
    if json {
        let text = codec::to_json("answer", answer)?;
        outln!("{}", String::from_utf8_lossy(&text));
    } else {
        outln!("{}", crate::render::Line::of(answer.words()).plain());
    }
    Ok(exit_code(answer))
}
