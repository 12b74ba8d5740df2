//! Reading a stream in order, across lost connections and restarts of the server.
//!
//! A [`Reader`] owns a task that keeps a short-lived consumer. Whatever goes wrong with it, it is
//! thrown away and made anew behind the last message that was delivered: there are no
//! acknowledgements that could be lost.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, PullConsumer, pull};
use async_nats::jetstream::stream::LastRawMessageErrorKind;
use bellwether_protocol::subject::Stream;
use bellwether_protocol::time::Timestamp;
use futures_util::{FutureExt, StreamExt};
use tokio::sync::mpsc;

use crate::connect::{Bus, backoff};
use crate::health::Health;
use crate::trace::{Hop, SpanKind, Told, Trace};

/// Where a reader begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// With what is published after the reader has reached the server.
    New,
    /// At this sequence, or at the first one behind it that still exists. Where the stream ends more
    /// than one before it, the stream has lost its end: then with whatever comes next, lest new
    /// messages under old numbers be missed.
    Sequence(u64),
    /// At the oldest message that still exists.
    Start,
}

/// A message as its stream holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Its subject.
    pub subject: String,
    /// Its sequence in the stream.
    pub seq: u64,
    /// When the stream stored it.
    pub at: Timestamp,
    /// Its `Nats-Msg-Id`.
    pub id: Option<String>,
    /// Where it stands in a trace.
    pub trace: Trace,
    /// Its body.
    pub body: Vec<u8>,
}

/// How far a stream goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamState {
    /// When it was created. Another instant means another stream, whatever its name.
    pub created: Timestamp,
    /// The first sequence that still exists.
    pub first: u64,
    /// The last sequence.
    pub last: u64,
}

/// Why a stream could not be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read stream `{stream}`")]
pub struct ReadError {
    /// Which.
    pub stream: String,
    /// Why.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// What a reader comes upon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// The next message.
    Message(Message),
    /// The stream was created anew, or had lost its end: sequences count anew. What follows is read
    /// from its start, without what this reader has delivered already.
    Reset(StreamState),
}

/// Messages of one stream, in order. Stops reading when dropped.
#[derive(Debug)]
pub struct Reader {
    messages: mpsc::Receiver<Found>,
    task: tokio::task::JoinHandle<()>,
}

#[derive(Debug)]
enum Found {
    Delivered(Delivered),
    Reset(StreamState),
}

/// A message, and whether it deletes a key.
#[derive(Debug)]
pub(crate) struct Delivered {
    pub(crate) message: Message,
    pub(crate) is_deletion: bool,
}

impl Message {
    /// Begins the hop of what is done because of it; `operation` is what we call that.
    pub fn process(&self, operation: &'static str) -> Hop {
        let id = self.id.as_deref().unwrap_or_default();
        let told = Told { operation, is: "process", subject: &self.subject, id, len: self.body.len() };
        told.hop(&self.trace, &[], SpanKind::Consumer)
    }
}

impl Bus {
    /// Reads `stream` from `from` on; only subjects that match one of `filters`, or all without any.
    pub fn read(&self, stream: Stream, filters: Vec<String>, from: From) -> Reader {
        let position = match from {
            From::New => Position::New,
            From::Sequence(seq) => Position::At(seq.max(1)),
            From::Start => Position::At(1),
        };
        self.read_named(self.prefix().stream(stream), filters, position)
    }

    /// The last message of `subject`, as the stream's leader has it.
    ///
    /// # Errors
    /// When the stream cannot be asked.
    pub async fn last(&self, stream: Stream, subject: &str) -> Result<Option<Message>, ReadError> {
        self.last_in(&self.prefix().stream(stream), subject).await
    }

    /// The message of that number, as the stream's leader has it.
    ///
    /// # Errors
    /// When the stream cannot be asked.
    pub async fn at(&self, stream: Stream, seq: u64) -> Result<Option<Message>, ReadError> {
        let name = self.prefix().stream(stream);
        let wrong = |source: BoxError| ReadError { stream: name.clone(), source };
        let stream = self.jetstream.get_stream_no_info(&name).await.map_err(|error| wrong(error.into()))?;
        let found = match stream.get_raw_message(seq).await {
            Ok(raw) => Some(raw_delivered(raw).message),
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => None,
            Err(error) => return Err(wrong(error.into())),
        };
        self.health.answered();
        Ok(found)
    }

    /// How far `stream` goes.
    ///
    /// # Errors
    /// When the stream cannot be asked.
    pub async fn state(&self, stream: Stream) -> Result<StreamState, ReadError> {
        let name = self.prefix().stream(stream);
        let state = stream_state(&self.jetstream, &name).await;
        state.inspect(|_| self.health.answered()).map_err(|source| ReadError { stream: name, source })
    }

    pub(crate) async fn last_in(&self, name: &str, subject: &str) -> Result<Option<Message>, ReadError> {
        Ok(self.last_delivered(name, subject).await?.map(|last| last.message))
    }

    pub(crate) async fn last_delivered(&self, name: &str, subject: &str) -> Result<Option<Delivered>, ReadError> {
        let wrong = |source: BoxError| ReadError { stream: name.to_owned(), source };
        let stream = self.jetstream.get_stream_no_info(name).await.map_err(|error| wrong(error.into()))?;
        // Asked of the leader, not of any replica: this answers "was my message stored?".
        let last = stream.get_last_raw_message_by_subject(subject).await;
        if last.as_ref().map_or_else(|error| error.kind() == LastRawMessageErrorKind::NoMessageFound, |_| true) {
            self.health.answered();
        }
        match last {
            Ok(raw) => Ok(Some(raw_delivered(raw))),
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
            Err(error) => Err(wrong(error.into())),
        }
    }

    pub(crate) fn read_named(&self, stream: String, filters: Vec<String>, position: Position) -> Reader {
        let (sender, messages) = mpsc::channel(READ_AHEAD);
        let jetstream = self.jetstream.clone();
        let health = Arc::clone(&self.health);
        let source =
            Source { jetstream, health, stream, filters, position, created: None, seen_upto: None, again_below: 0 };
        Reader { messages, task: tokio::spawn(source.run(sender)) }
    }
}

impl Reader {
    /// The next message. Never ends, and loses nothing when cancelled: while NATS is away it waits.
    pub async fn next(&mut self) -> Message {
        self.next_delivered().await.message
    }

    /// The next message, or that the stream was lost. As [`Reader::next`] otherwise.
    pub async fn next_or_reset(&mut self) -> Next {
        match self.next_found().await {
            Found::Delivered(delivered) => Next::Message(delivered.message),
            Found::Reset(state) => Next::Reset(state),
        }
    }

    pub(crate) async fn next_delivered(&mut self) -> Delivered {
        loop {
            if let Found::Delivered(delivered) = self.next_found().await {
                return delivered;
            }
        }
    }

    async fn next_found(&mut self) -> Found {
        match self.messages.recv().await {
            Some(found) => found,
            // The task ends only with the whole program.
            None => std::future::pending().await,
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Messages that wait in memory for a slow reader.
const READ_AHEAD: usize = 256;
/// Messages asked for at once.
const BATCH: usize = 200;
/// The server says at least this often that the consumer is alive.
const HEARTBEAT: Duration = Duration::from_secs(3);
/// How long one pull waits for messages.
const PULL_EXPIRES: Duration = Duration::from_secs(30);
/// How long nothing is delivered before the consumer is asked whether something was.
const IDLE: Duration = Duration::from_secs(5);
/// The server forgets a consumer that has not been pulled from for this long.
const FORGET_AFTER: Duration = Duration::from_secs(60);

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Where the next consumer begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Position {
    At(u64),
    /// The last message of each subject, then what follows; again from the top with each consumer.
    LastPerSubject,
    New,
}

/// What the task of a [`Reader`] knows.
struct Source {
    jetstream: jetstream::Context,
    health: Arc<Health>,
    stream: String,
    filters: Vec<String>,
    position: Position,
    created: Option<Timestamp>,
    /// When the last message was stored that was delivered.
    seen_upto: Option<Timestamp>,
    /// Below this, numbers are used again.
    again_below: u64,
}

impl Source {
    async fn run(mut self, sender: mpsc::Sender<Found>) {
        let mut failures = 0;
        loop {
            let mut connects = self.health.connects();
            connects.mark_unchanged();
            let ended = match self.open(&sender).await {
                Ok(consumer) => {
                    let delivered_before = failures;
                    failures = 0;
                    match self.forward(consumer, &sender, &mut connects).await {
                        Forwarded::Closed => return,
                        Forwarded::Reconnected => continue,
                        Forwarded::Failed { error, delivered } => {
                            failures = if delivered { 1 } else { delivered_before + 1 };
                            error
                        }
                    }
                }
                Err(error) => {
                    failures += 1;
                    error
                }
            };
            // Once: while NATS is away this comes every few seconds.
            if failures <= 1 {
                tracing::warn!(stream = self.stream, error = ended, "reader starts anew");
            } else {
                tracing::debug!(stream = self.stream, error = ended, attempt = failures, "reader starts anew");
            }
            // A new connection is a reason to try at once.
            let _ = tokio::time::timeout(backoff(failures), connects.changed()).await;
        }
    }

    async fn open(&mut self, sender: &mpsc::Sender<Found>) -> Result<PullConsumer, String> {
        let state = stream_state(&self.jetstream, &self.stream).await.map_err(|error| chain(&*error))?;
        self.health.answered();
        if self.resume_in(state) {
            // Whoever is gone is noticed when messages are forwarded.
            let _ = sender.send(Found::Reset(state)).await;
        }
        let deliver_policy = match self.position {
            Position::At(start_sequence) => DeliverPolicy::ByStartSequence { start_sequence },
            Position::LastPerSubject => DeliverPolicy::LastPerSubject,
            Position::New => DeliverPolicy::New,
        };
        let config = pull::Config {
            deliver_policy,
            ack_policy: AckPolicy::None,
            filter_subjects: self.filters.clone(),
            inactive_threshold: FORGET_AFTER,
            memory_storage: true,
            num_replicas: 1,
            ..pull::Config::default()
        };
        let consumer = self.jetstream.create_consumer_on_stream(config, self.stream.clone()).await;
        consumer.map_err(|error| chain(&error))
    }

    /// Fits the position to the stream as it is now; tells whether it was lost, or has lost its end.
    fn resume_in(&mut self, state: StreamState) -> bool {
        let is_other = self.created.is_some_and(|created| created != state.created);
        self.created = Some(state.created);
        match self.position {
            Position::New => self.position = Position::At(state.last + 1),
            Position::At(next) if is_other => {
                tracing::warn!(stream = self.stream, next, "the stream was created anew, reading it from its start");
                self.position = Position::At(1);
                return true;
            }
            Position::At(next) if next > state.last + 1 => {
                tracing::warn!(stream = self.stream, next, last = state.last, "the stream has lost its end");
                // Numbers may have been used again already: then what was delivered is told by its time.
                self.again_below = self.again_below.max(next);
                self.position = Position::At(if self.seen_upto.is_some() { 1 } else { state.last + 1 });
                return true;
            }
            Position::At(_) | Position::LastPerSubject => {}
        }
        false
    }

    async fn forward(
        &mut self,
        consumer: PullConsumer,
        sender: &mpsc::Sender<Found>,
        connects: &mut tokio::sync::watch::Receiver<u64>,
    ) -> Forwarded {
        let mut expected = 1;
        let pulled = consumer.stream().max_messages_per_batch(BATCH).heartbeat(HEARTBEAT).expires(PULL_EXPIRES);
        let mut messages = match pulled.messages().await {
            Ok(messages) => messages,
            Err(error) => return Forwarded::Failed { error: chain(&error), delivered: false },
        };
        loop {
            let failed = |error: String| Forwarded::Failed { error, delivered: expected > 1 };
            let next = tokio::select! {
                biased;
                () = sender.closed() => return Forwarded::Closed,
                _ = connects.changed() => return Forwarded::Reconnected,
                next = tokio::time::timeout(IDLE, messages.next()) => next,
            };
            // A link behind our server may have lost the last message that was sent, and be up again
            // before anyone noticed: then heartbeats come as ever, and only the consumer knows.
            let next = match next {
                Ok(next) => next,
                Err(_) => match consumer.get_info().await {
                    Ok(info) if info.delivered.consumer_sequence < expected => {
                        self.health.answered();
                        continue;
                    }
                    // It may have come while we asked.
                    Ok(_) => match messages.next().now_or_never() {
                        Some(next) => next,
                        None => return failed(format!("delivery {expected} was lost on the way")),
                    },
                    Err(error) => return failed(chain(&error)),
                },
            };
            let message = match next {
                Some(Ok(message)) => message,
                Some(Err(error)) => return failed(chain(&error)),
                None => return failed("the consumer ended".to_owned()),
            };
            let (seq, delivery, at) = match message.info() {
                Ok(info) => (info.stream_sequence, info.consumer_sequence, timestamp(info.published)),
                Err(error) => return failed(error.to_string()),
            };
            // The consumer counts its deliveries: a step means that one was lost on the way.
            if delivery != expected {
                return failed(format!("delivery {delivery} came instead of {expected}"));
            }
            expected += 1;
            let is_seen = seq < self.again_below && self.seen_upto.is_some_and(|seen| at <= seen);
            if !is_seen && sender.send(Found::Delivered(delivered(message.message, seq, at))).await.is_err() {
                return Forwarded::Closed;
            }
            self.seen_upto = self.seen_upto.max(Some(at));
            if let Position::At(next) = &mut self.position {
                *next = seq + 1;
            }
        }
    }
}

/// Why a consumer is given up.
enum Forwarded {
    Closed,
    Failed { error: String, delivered: bool },
    Reconnected,
}

async fn stream_state(jetstream: &jetstream::Context, name: &str) -> Result<StreamState, BoxError> {
    let stream = jetstream.get_stream(name).await?;
    let info = stream.cached_info();
    Ok(StreamState {
        created: timestamp(info.created),
        first: info.state.first_sequence,
        last: info.state.last_sequence,
    })
}

fn raw_delivered(raw: jetstream::message::StreamMessage) -> Delivered {
    Delivered {
        is_deletion: is_deletion(&raw.headers),
        message: Message {
            subject: raw.subject.to_string(),
            seq: raw.sequence,
            at: timestamp(raw.time),
            id: header(&raw.headers, async_nats::header::NATS_MESSAGE_ID.as_ref()),
            trace: Trace::of(&raw.headers),
            body: raw.payload.to_vec(),
        },
    }
}

fn delivered(message: async_nats::Message, seq: u64, at: Timestamp) -> Delivered {
    let headers = message.headers.unwrap_or_default();
    Delivered {
        is_deletion: is_deletion(&headers),
        message: Message {
            subject: message.subject.to_string(),
            seq,
            at,
            id: header(&headers, async_nats::header::NATS_MESSAGE_ID.as_ref()),
            trace: Trace::of(&headers),
            body: message.payload.to_vec(),
        },
    }
}

fn header(headers: &async_nats::HeaderMap, name: &str) -> Option<String> {
    headers.get(name).map(|value| value.as_str().to_owned())
}

/// Whether a bucket's message says that its key is gone: deleted by a client, or aged out.
fn is_deletion(headers: &async_nats::HeaderMap) -> bool {
    let operation = header(headers, crate::kv::OPERATION);
    operation.is_some_and(|operation| operation != "PUT") || headers.get("Nats-Marker-Reason").is_some()
}

fn timestamp(at: async_nats::datetime::DateTime) -> Timestamp {
    Timestamp::from_ms(i64::try_from(at.unix_timestamp_nanos() / 1_000_000).unwrap_or(0))
}

/// An error with its causes in one line, for the log.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
