//! Publishing with a proof: every message has an id, and is repeated with it until it is known
//! to be stored, known to be refused, or the deadline has passed.

use std::time::Duration;

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::publish::PublishAck;
use bellwether_protocol::cloud_event::CloudEvent;
use tokio::time::Instant;

use crate::connect::{Bus, backoff};
use crate::kv::KEYS;
use crate::metrics::{self, KeyValue};
use crate::trace::{self, Hop, SpanKind, TRACEPARENT, Told, Trace};

/// How long an unanswered publish is repeated before it is given up.
pub const PUBLISH_DEADLINE: Duration = Duration::from_secs(30);

/// Where a message was stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    /// Its sequence in its stream.
    pub seq: u64,
    /// Whether it had been stored before.
    pub duplicate: bool,
    /// Whether NATS was away meanwhile, or did not answer at first: what it acknowledged before may be lost.
    pub repeated: bool,
}

/// Why a message is not known to be stored.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// We may not publish there.
    #[error("NATS does not let us publish to `{subject}`: {said}")]
    Forbidden {
        /// Where.
        subject: String,
        /// What the server said.
        said: String,
    },
    /// The server will not store it.
    #[error("NATS refused a message for `{subject}`: {said}")]
    Refused {
        /// Where.
        subject: String,
        /// What the server said, such as `maximum bytes exceeded`.
        said: String,
    },
    /// No answer before the deadline. It may be stored, now or later; a repeat with the same id is safe.
    #[error("no acknowledgement for `{subject}` in {} s{}", PUBLISH_DEADLINE.as_secs(), hint(.said))]
    Unknown {
        /// Where.
        subject: String,
        /// What the server said lately, if anything.
        said: Option<String>,
    },
}

/// Why a message was not appended, or is not known to be.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// The subject has moved on: someone else appended.
    #[error("`{subject}` has moved on from sequence {expected}")]
    Conflict {
        /// Where.
        subject: String,
        /// What we expected to be last.
        expected: u64,
    },
    /// Not stored: the server, or its permissions, said no.
    #[error(transparent)]
    Refused(PublishError),
    /// It may be stored or not. Read the subject before anything else is appended.
    #[error("whether `{subject}` took the message is not known{}", hint(.said))]
    Unknown {
        /// Where.
        subject: String,
        /// What the server said lately, if anything.
        said: Option<String>,
    },
}

impl PublishError {
    /// In one word, for figures.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Forbidden { .. } => "forbidden",
            Self::Refused { .. } => "refused",
            Self::Unknown { .. } => "unknown",
        }
    }
}

impl AppendError {
    /// In one word, for figures.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Conflict { .. } => "conflict",
            Self::Refused(error) => error.kind(),
            Self::Unknown { .. } => "unknown",
        }
    }
}

fn hint(said: &Option<String>) -> String {
    // A server whose disk is full answers to everything but what it would have to store.
    let nothing = || " (is NATS there, and has its disk room? its log and its `/healthz` say)".to_owned();
    said.as_ref().map_or_else(nothing, |said| format!(" (NATS said lately: {said})"))
}

/// What one attempt came to.
enum Attempt {
    Conflict,
    Forbidden(String),
    Refused(String),
    Stored(PublishAck),
    Unknown,
}

impl Bus {
    /// Publishes `body` and waits for the stream's acknowledgement. Repeats with the same `id`
    /// while the outcome is unknown, for up to [`PUBLISH_DEADLINE`]. A hop of the trace that we are in.
    ///
    /// # Errors
    /// When the message is refused, or not known to be stored at the deadline.
    pub async fn publish(&self, subject: String, id: &str, body: Vec<u8>) -> Result<Stored, PublishError> {
        self.publish_with(subject, id, &[], body).await
    }

    /// As [`Bus::publish`], with headers that say what the body is.
    ///
    /// # Errors
    /// As [`Bus::publish`].
    pub async fn publish_with(
        &self,
        subject: String,
        id: &str,
        headers: &[(&str, String)],
        body: Vec<u8>,
    ) -> Result<Stored, PublishError> {
        let hop = sending("publish", &subject, id, body.len());
        let (begun, word) = (Instant::now(), trace::word(&subject).to_owned());
        let sent = self.store(subject, id, message(body, headers, &hop)).await;
        count("publish", word, begun, &hop, sent.as_ref().err().map(|error| (error.kind(), error.to_string())));
        sent
    }

    /// As [`Bus::publish`], for what is sent all day and is no hop of a trace.
    ///
    /// # Errors
    /// As [`Bus::publish`].
    pub async fn publish_quietly(&self, subject: String, id: &str, body: Vec<u8>) -> Result<Stored, PublishError> {
        self.store(subject, id, PublishMessage::build().payload(body.into())).await
    }

    async fn store(&self, subject: String, id: &str, message: PublishMessage) -> Result<Stored, PublishError> {
        let message = message.message_id(id);
        let deadline = Instant::now() + PUBLISH_DEADLINE;
        let was_away = !self.is_connected();
        for attempts in 0.. {
            if !self.wait_until_connected(deadline).await {
                break;
            }
            match self.attempt(&subject, message.clone()).await {
                Attempt::Stored(ack) => {
                    let repeated = was_away || attempts > 0;
                    return Ok(Stored { seq: ack.sequence, duplicate: ack.duplicate, repeated });
                }
                Attempt::Forbidden(said) => return Err(PublishError::Forbidden { subject, said }),
                Attempt::Refused(said) => return Err(PublishError::Refused { subject, said }),
                // Nothing is expected here, so a conflict would be the server's confusion.
                Attempt::Conflict | Attempt::Unknown => {}
            }
            if !sleep_within(backoff(attempts), deadline).await {
                break;
            }
        }
        Err(PublishError::Unknown { subject, said: self.health.recent_error() })
    }

    /// Appends `body` if the last message of `subject` has the sequence `expected_last` (0: there
    /// is none), and returns its own sequence. After an unknown outcome it looks whether the
    /// message is there before it tries again, so that a caller's own message is never a conflict.
    ///
    /// # Errors
    /// [`AppendError::Conflict`] when another message came first; the others as they say.
    pub async fn append(
        &self,
        subject: String,
        expected_last: u64,
        event: &CloudEvent,
        body: Vec<u8>,
    ) -> Result<u64, AppendError> {
        let hop = sending("append", &subject, &event.id, body.len());
        let message = message(body, &event.headers(), &hop).message_id(&event.id);
        let stream = self.prefix().stream_of(&subject).map(|stream| self.prefix().stream(stream));
        let (begun, word) = (Instant::now(), trace::word(&subject).to_owned());
        let stored = self.append_in(&stream.unwrap_or_default(), subject, expected_last, &event.id, message).await;
        count("append", word, begun, &hop, stored.as_ref().err().map(|error| (error.kind(), error.to_string())));
        stored
    }

    pub(crate) async fn append_in(
        &self,
        stream: &str,
        subject: String,
        expected_last: u64,
        id: &str,
        message: PublishMessage,
    ) -> Result<u64, AppendError> {
        let message = message.expected_last_subject_sequence(expected_last);
        let deadline = Instant::now() + PUBLISH_DEADLINE;
        for attempts in 0.. {
            if !self.wait_until_connected(deadline).await {
                break;
            }
            match self.attempt(&subject, message.clone()).await {
                Attempt::Stored(ack) => return Ok(ack.sequence),
                Attempt::Forbidden(said) => {
                    return Err(AppendError::Refused(PublishError::Forbidden { subject, said }));
                }
                Attempt::Refused(said) => return Err(AppendError::Refused(PublishError::Refused { subject, said })),
                Attempt::Conflict | Attempt::Unknown => {}
            }
            // Also after a conflict: it may be our own message, stored by an attempt that went unanswered.
            match self.last_in(stream, &subject).await {
                Ok(Some(last)) if last.id.as_deref() == Some(id) => return Ok(last.seq),
                Ok(last) if last.as_ref().map_or(0, |last| last.seq) != expected_last => {
                    return Err(AppendError::Conflict { subject, expected: expected_last });
                }
                Ok(_) | Err(_) => {}
            }
            if !sleep_within(backoff(attempts), deadline).await {
                break;
            }
        }
        Err(AppendError::Unknown { subject, said: self.health.recent_error() })
    }

    async fn attempt(&self, subject: &str, message: PublishMessage) -> Attempt {
        // Keys of a bucket do not pass a leaf node by their own subject, only through the API.
        let is_key = subject.starts_with(KEYS) && self.api != "$JS.API";
        let to = if is_key { format!("{}.{subject}", self.api) } else { subject.to_owned() };
        let answer = match self.jetstream.send_publish(to, message).await {
            Ok(ack) => ack.await,
            Err(error) => Err(error),
        };
        let error = match answer {
            Ok(ack) => {
                self.health.answered();
                return Attempt::Stored(ack);
            }
            Err(error) => error,
        };
        match error.kind() {
            PublishErrorKind::WrongLastSequence => Attempt::Conflict,
            PublishErrorKind::MaxPayloadExceeded | PublishErrorKind::WrongLastMessageId => {
                Attempt::Refused(reason(&error))
            }
            // "No stream" is also what a cluster says while it elects a leader.
            PublishErrorKind::BrokenPipe | PublishErrorKind::MaxAckPending | PublishErrorKind::StreamNotFound => {
                Attempt::Unknown
            }
            PublishErrorKind::TimedOut => match self.health.recent_error() {
                Some(said) if is_denial(&said, subject) => Attempt::Forbidden(said),
                _ => Attempt::Unknown,
            },
            PublishErrorKind::Other => {
                let said = reason(&error);
                if is_passing(&error) { Attempt::Unknown } else { Attempt::Refused(said) }
            }
        }
    }

    /// Waits for the connection; false when the deadline came first. Publishing while disconnected
    /// would only fill the client's queue, and be sent long after it was given up.
    async fn wait_until_connected(&self, deadline: Instant) -> bool {
        let mut connects = self.health.connects();
        while !self.is_connected() {
            let poll = (Instant::now() + CONNECTED_POLL).min(deadline);
            let _ = tokio::time::timeout_at(poll, connects.changed()).await;
            if Instant::now() >= deadline {
                return false;
            }
        }
        true
    }
}

fn sending(operation: &'static str, subject: &str, id: &str, len: usize) -> Hop {
    Told { operation, is: "send", subject, id, len }.hop(&Trace::default(), &[], SpanKind::Producer)
}

/// Counts what became of a message, and notes it in its hop.
fn count(operation: &'static str, word: String, begun: Instant, hop: &Hop, error: Option<(&'static str, String)>) {
    let labels = [("messaging.operation.name", operation.to_owned()), ("messaging.destination.name", word)];
    let labels = labels.into_iter().chain(error.as_ref().map(|(kind, _)| ("error.type", (*kind).to_owned())));
    let labels: Vec<KeyValue> = labels.map(|(key, value)| KeyValue::new(key, value)).collect();
    metrics::SENT.record(begun.elapsed(), &labels);
    if let Some((kind, why)) = error {
        hop.fail(kind, why);
    }
}

fn message(body: Vec<u8>, headers: &[(&str, String)], hop: &Hop) -> PublishMessage {
    let trace = hop.trace();
    let place = (!trace.is_none()).then(|| (TRACEPARENT, trace.to_string()));
    let headers = headers.iter().map(|(name, value)| (*name, value.clone())).chain(place);
    headers.fold(PublishMessage::build().payload(body.into()), |message, (name, value)| message.header(name, value))
}

/// Events of the connection wake the wait; this only covers one that came between.
const CONNECTED_POLL: Duration = Duration::from_millis(200);

async fn sleep_within(pause: Duration, deadline: Instant) -> bool {
    if Instant::now() + pause >= deadline {
        return false;
    }
    tokio::time::sleep(pause).await;
    true
}

fn reason(error: &async_nats::jetstream::context::PublishError) -> String {
    let source = std::error::Error::source(error);
    source.map_or_else(|| error.to_string(), ToString::to_string)
}

fn is_denial(said: &str, subject: &str) -> bool {
    let said = said.to_lowercase();
    said.contains("permissions violation") && said.contains(&subject.to_lowercase())
}

/// JetStream's own trouble that passes by itself: not available, no leader, cluster not ready.
fn is_passing(error: &async_nats::jetstream::context::PublishError) -> bool {
    const PASSING: [ErrorCode; 3] =
        [ErrorCode::CLUSTER_NOT_ASSIGNED, ErrorCode::CLUSTER_NOT_AVAILABLE, ErrorCode::CLUSTER_NOT_LEADER];
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref());
    source.is_some_and(|error: &async_nats::jetstream::Error| PASSING.contains(&error.error_code()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_denial_explains_only_its_own_subject() {
        let said = "nats: Permissions Violation for Publish to \"bw.command.shop.pause.me\"";
        assert!(is_denial(said, "bw.command.shop.pause.me"));
        assert!(!is_denial(said, "bw.sample.sjc.probe.one"));
    }
}
