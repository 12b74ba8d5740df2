//! Buckets: the latest value of each key, and its changes.
//!
//! A bucket is a stream, `KV_<bucket>`, with one subject per key; so reading, watching and
//! compare-and-set are those of any stream, with the same retries. Entries are aged out by their
//! bucket alone; a key that ages out is not announced, so who cares must check [`KvEntry::at`].

use async_nats::jetstream::message::PublishMessage;
use bellwether_protocol::subject::Bucket;
use bellwether_protocol::time::Timestamp;
use futures_util::stream::{self, StreamExt, TryStreamExt};

use crate::connect::Bus;
use crate::publish::{AppendError, PublishError};
use crate::read::{Delivered, Position, ReadError, Reader};

/// One bucket.
#[derive(Debug, Clone)]
pub struct Kv {
    bus: Bus,
    bucket: String,
}

/// A key's latest value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KvEntry {
    /// The key.
    pub key: String,
    /// Its revision: the sequence of its last change.
    pub revision: u64,
    /// When it was last changed.
    pub at: Timestamp,
    /// Its value; `None` when it was deleted.
    pub value: Option<Vec<u8>>,
}

/// Why a bucket did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum KvError {
    /// Another writer came first.
    #[error("`{key}` was changed by another writer")]
    Conflict {
        /// The key.
        key: String,
    },
    /// A key that NATS does not take.
    #[error("`{0}` cannot be a key: use letters, digits, `-`, `_`, `/`, `=` and inner dots")]
    Key(String),
    /// It could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// It could not be written, or may have been.
    #[error(transparent)]
    Write(#[from] PublishError),
}

/// Current values first, then changes.
#[derive(Debug)]
pub struct KvWatch {
    reader: Reader,
    bucket: String,
}

impl Bus {
    /// The bucket.
    pub fn kv(&self, bucket: Bucket) -> Kv {
        Kv { bus: self.clone(), bucket: self.prefix().bucket(bucket) }
    }
}

impl Kv {
    /// The latest value of `key`; `None` when there is none, or it was deleted.
    ///
    /// # Errors
    /// When the bucket cannot be asked.
    pub async fn get(&self, key: &str) -> Result<Option<KvEntry>, KvError> {
        Ok(self.last(key).await?.filter(|entry| entry.value.is_some()))
    }

    /// Sets `key`, whatever it was, and returns its revision.
    ///
    /// # Errors
    /// When it is not known to be stored.
    pub async fn put(&self, key: &str, value: Vec<u8>) -> Result<u64, KvError> {
        let subject = self.subject(key)?;
        Ok(self.bus.publish_quietly(subject, &unique_id(), value).await?.seq)
    }

    /// Sets `key` if it has no value, and returns its revision.
    ///
    /// # Errors
    /// [`KvError::Conflict`] when it has one.
    pub async fn create(&self, key: &str, value: Vec<u8>) -> Result<u64, KvError> {
        // A deleted key still has a revision, which must be named to follow it.
        let last = self.last(key).await?;
        if last.as_ref().is_some_and(|entry| entry.value.is_some()) {
            return Err(KvError::Conflict { key: key.to_owned() });
        }
        self.update(key, value, last.map_or(0, |entry| entry.revision)).await
    }

    /// Sets `key` if its revision is `revision`, and returns the new one.
    ///
    /// # Errors
    /// [`KvError::Conflict`] when it is another.
    pub async fn update(&self, key: &str, value: Vec<u8>, revision: u64) -> Result<u64, KvError> {
        self.write(key, PublishMessage::build().payload(value.into()), revision).await
    }

    /// Deletes `key`, whatever it was. Harmless when it is not there.
    ///
    /// # Errors
    /// When it is not known to be deleted.
    pub async fn delete(&self, key: &str) -> Result<(), KvError> {
        loop {
            let Some(entry) = self.get(key).await? else { return Ok(()) };
            let message = PublishMessage::build().header(OPERATION, "DEL");
            match self.write(key, message, entry.revision).await {
                Err(KvError::Conflict { .. }) => {}
                other => return other.map(drop),
            }
        }
    }

    /// The latest value of every key that has one, in the order of the keys.
    ///
    /// # Errors
    /// When the bucket cannot be asked.
    pub async fn entries(&self) -> Result<Vec<KvEntry>, KvError> {
        self.entries_of(">").await
    }

    /// As [`Kv::entries`], of the keys that match `filter`, such as `*.coordinator.*`.
    ///
    /// # Errors
    /// As [`Kv::entries`].
    pub async fn entries_of(&self, filter: &str) -> Result<Vec<KvEntry>, KvError> {
        let wrong = |source| ReadError { stream: stream_name(&self.bucket), source };
        let stream = self.bus.jetstream.get_stream_no_info(stream_name(&self.bucket)).await;
        let stream = stream.map_err(|error| wrong(error.into()))?;
        let mut subjects =
            stream.info_with_subjects(subject(&self.bucket, filter)).await.map_err(|e| wrong(e.into()))?;
        let mut keys = Vec::new();
        while let Some(found) = subjects.next().await {
            let (subject, _) = found.map_err(|error| wrong(error.into()))?;
            keys.extend(self.key_of(&subject).map(ToOwned::to_owned));
        }
        keys.sort();
        // Many at once: a far hub costs a round trip for all of them, not for each.
        let entries = stream::iter(keys).map(|key| async move { self.get(&key).await }).buffered(GETS_AT_ONCE);
        entries.try_filter_map(async |entry| Ok(entry)).try_collect().await
    }

    /// What time it is where the bucket is kept, to compare [`KvEntry::at`] with; and when something was last
    /// stored in it, if ever.
    ///
    /// # Errors
    /// When the bucket cannot be asked.
    pub async fn time(&self) -> Result<(Timestamp, Option<Timestamp>), KvError> {
        let stream = stream_name(&self.bucket);
        let wrong = |source: Box<dyn std::error::Error + Send + Sync>| ReadError { stream: stream.clone(), source };
        // The client library reads the same answer, but leaves its time out.
        let asked = format!("{}.STREAM.INFO.{stream}", self.bus.api);
        let answer = self.bus.client.request(asked, Vec::new().into()).await.map_err(|error| wrong(error.into()))?;
        let told: Told = serde_json::from_slice(&answer.payload).map_err(|error| wrong(error.into()))?;
        // An empty stream tells the year 1.
        Ok((told.ts, told.state.last_ts.parse().ok()))
    }

    /// Current values first, then changes. After a lost connection the current values come again.
    pub fn watch(&self) -> KvWatch {
        let filter = vec![subject(&self.bucket, ">")];
        let reader = self.bus.read_named(stream_name(&self.bucket), filter, Position::LastPerSubject);
        KvWatch { reader, bucket: self.bucket.clone() }
    }

    async fn last(&self, key: &str) -> Result<Option<KvEntry>, KvError> {
        let subject = self.subject(key)?;
        let last = self.bus.last_delivered(&stream_name(&self.bucket), &subject).await?;
        Ok(last.map(|last| entry(key.to_owned(), last)))
    }

    async fn write(&self, key: &str, message: PublishMessage, revision: u64) -> Result<u64, KvError> {
        let subject = self.subject(key)?;
        let id = unique_id();
        let message = message.message_id(&id);
        let written = self.bus.append_in(&stream_name(&self.bucket), subject, revision, &id, message).await;
        written.map_err(|error| match error {
            AppendError::Conflict { .. } => KvError::Conflict { key: key.to_owned() },
            AppendError::Refused(error) => KvError::Write(error),
            AppendError::Unknown { subject, said } => KvError::Write(PublishError::Unknown { subject, said }),
        })
    }

    fn subject(&self, key: &str) -> Result<String, KvError> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-/_=.".contains(&byte);
        let is_key = !key.is_empty() && key.bytes().all(is_plain) && key.split('.').all(|token| !token.is_empty());
        if is_key { Ok(subject(&self.bucket, key)) } else { Err(KvError::Key(key.chars().take(80).collect())) }
    }

    fn key_of<'a>(&self, subject: &'a str) -> Option<&'a str> {
        key_of(&self.bucket, subject)
    }
}

impl KvWatch {
    /// The next value. Never ends, and loses nothing when cancelled.
    pub async fn next(&mut self) -> KvEntry {
        loop {
            let delivered = self.reader.next_delivered().await;
            if let Some(key) = key_of(&self.bucket, &delivered.message.subject).map(ToOwned::to_owned) {
                return entry(key, delivered);
            }
        }
    }
}

/// When the server answered.
#[derive(serde::Deserialize)]
struct Told {
    ts: Timestamp,
    state: ToldState,
}

#[derive(serde::Deserialize)]
struct ToldState {
    last_ts: String,
}

/// Reads of a bucket that are under way at once.
const GETS_AT_ONCE: usize = 32;
/// The header in which clients say that a key is deleted.
pub(crate) const OPERATION: &str = "KV-Operation";

/// The stream behind a bucket, by NATS's convention.
pub(crate) fn stream_name(bucket: &str) -> String {
    format!("KV_{bucket}")
}

/// How the subject of every key begins.
pub(crate) const KEYS: &str = "$KV.";

/// The subject of a key, by NATS's convention.
pub(crate) fn subject(bucket: &str, key: &str) -> String {
    format!("{KEYS}{bucket}.{key}")
}

fn key_of<'a>(bucket: &str, subject: &'a str) -> Option<&'a str> {
    subject.strip_prefix(KEYS)?.strip_prefix(bucket)?.strip_prefix('.')
}

fn entry(key: String, last: Delivered) -> KvEntry {
    let Delivered { message, is_deletion } = last;
    KvEntry { key, revision: message.seq, at: message.at, value: (!is_deletion).then_some(message.body) }
}

/// Writes to a bucket are told apart by chance: nobody repeats them later with the same id.
fn unique_id() -> String {
    format!("{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..))
}
