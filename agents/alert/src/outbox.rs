//! What is still to be told, on disk, so that a restart goes on where it stopped.
//!
//! One file holds both the position in the stream and every message that is not yet delivered. It
//! is replaced as a whole, so that the two cannot disagree: a message is either before the
//! position and in the list, or will be read again.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use bellwether_protocol::alert::{Alert, Severity};
use bellwether_protocol::time::Timestamp;
use serde::{Deserialize, Serialize};

/// Most messages that wait. At an alert every few seconds this is hours of a dead receiver.
const WAITING_MAX: usize = 1_000;
/// Longest file that is read back, in bytes.
const FILE_LEN_MAX: u64 = 64 * 1024 * 1024;

/// One message for one bridge.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Waiting {
    /// Counts up; names the entry.
    pub(crate) number: u64,
    pub(crate) bridge: String,
    pub(crate) alert: Alert,
    /// Failed tries so far.
    pub(crate) tries: u32,
    /// Not to be tried before.
    pub(crate) not_before: Timestamp,
    /// Another agent has claimed it: to be told only when that one has not.
    pub(crate) standby: bool,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Contents {
    /// The last message of the stream that is dealt with, or is in `waiting`.
    position: u64,
    next_number: u64,
    waiting: VecDeque<Waiting>,
}

/// The outbox.
#[derive(Debug)]
pub(crate) struct Outbox {
    path: PathBuf,
    /// Whether there was none before.
    is_new: bool,
    contents: Contents,
}

/// Why the outbox cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OutboxError {
    /// The file cannot be read or written.
    #[error("cannot {doing} the outbox {}", path.display())]
    Io {
        /// Read or write.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file is not an outbox. It may hold undelivered pages, so it is not thrown away.
    #[error("the outbox {} cannot be read: move it away to start afresh, and look into it for undelivered alerts", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

impl Outbox {
    /// Opens the outbox in `dir`, or makes one.
    pub(crate) fn open(dir: &Path) -> Result<Self, OutboxError> {
        let path = dir.join("outbox.json");
        let read = |source| OutboxError::Io { doing: "read", path: path.clone(), source };
        let (is_new, contents) = match std::fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => (true, Contents::default()),
            Err(error) => return Err(read(error)),
            Ok(metadata) if metadata.len() > FILE_LEN_MAX => {
                return Err(read(io::Error::other("longer than any outbox")));
            }
            Ok(_) => {
                let bytes = std::fs::read(&path).map_err(read)?;
                let unreadable = |source| OutboxError::Unreadable { path: path.clone(), source };
                (false, serde_json::from_slice(&bytes).map_err(unreadable)?)
            }
        };
        Ok(Self { path, is_new, contents })
    }

    pub(crate) fn position(&self) -> u64 {
        self.contents.position
    }

    pub(crate) fn is_new(&self) -> bool {
        self.is_new
    }

    /// Everything up to `position` is dealt with, or will never be.
    pub(crate) fn skip_to(&mut self, position: u64) -> Result<(), OutboxError> {
        self.contents.position = position;
        self.save()
    }

    /// Takes up one message for each of `bridges`, and moves the position to `position` if given.
    pub(crate) fn take_up(
        &mut self,
        alert: &Alert,
        bridges: &[&str],
        standby_until: Option<Timestamp>,
        position: Option<u64>,
    ) -> Result<(), OutboxError> {
        for bridge in bridges {
            self.make_room();
            let number = self.contents.next_number;
            self.contents.next_number += 1;
            self.contents.waiting.push_back(Waiting {
                number,
                bridge: (*bridge).to_owned(),
                alert: alert.clone(),
                tries: 0,
                not_before: standby_until.unwrap_or_default(),
                standby: standby_until.is_some(),
            });
        }
        self.contents.position = position.unwrap_or(self.contents.position);
        self.save()
    }

    /// The next message for `bridge` that may be tried at `now`, or when to ask again.
    pub(crate) fn next(&self, bridge: &str, now: Timestamp) -> Result<Waiting, Option<Timestamp>> {
        let own = || self.contents.waiting.iter().filter(|waiting| waiting.bridge == bridge);
        // Messages of one incident go out in their order; another incident does not wait for it.
        let is_first = |waiting: &&Waiting| {
            !own().any(|other| other.number < waiting.number && other.alert.incident == waiting.alert.incident)
        };
        let first = own().filter(is_first).min_by_key(|waiting| (waiting.not_before, waiting.number));
        match first {
            Some(waiting) if waiting.not_before <= now => Ok(waiting.clone()),
            Some(waiting) => Err(Some(waiting.not_before)),
            None => Err(None),
        }
    }

    /// A message is dealt with: told, refused, or too late.
    pub(crate) fn done(&mut self, number: u64) -> Result<(), OutboxError> {
        self.contents.waiting.retain(|waiting| waiting.number != number);
        self.save()
    }

    /// A try failed; the next one is not before `at`.
    pub(crate) fn again(&mut self, number: u64, at: Timestamp) -> Result<(), OutboxError> {
        if let Some(waiting) = self.contents.waiting.iter_mut().find(|waiting| waiting.number == number) {
            waiting.tries = waiting.tries.saturating_add(1);
            waiting.not_before = at;
        }
        self.save()
    }

    // The least important of the oldest goes: a page is the last to be given up.
    fn make_room(&mut self) {
        if self.contents.waiting.len() < WAITING_MAX {
            return;
        }
        let least = self.contents.waiting.iter().map(|waiting| waiting.alert.severity).min().unwrap_or(Severity::Info);
        let first = self.contents.waiting.iter().position(|waiting| waiting.alert.severity == least);
        if let Some(lost) = first.and_then(|at| self.contents.waiting.remove(at)) {
            tracing::error!(incident = %lost.alert.incident, seq = lost.alert.seq, bridge = %lost.bridge, "outbox full, alert given up");
        }
    }

    fn save(&self) -> Result<(), OutboxError> {
        let write = |source| OutboxError::Io { doing: "write", path: self.path.clone(), source };
        let bytes = serde_json::to_vec(&self.contents).map_err(|error| write(error.into()))?;
        let beside = self.path.with_extension("json.new");
        let mut file = std::fs::File::create(&beside).map_err(write)?;
        file.write_all(&bytes).and_then(|()| file.sync_all()).map_err(write)?;
        std::fs::rename(&beside, &self.path).map_err(write)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::webhook::tests::alert;

    fn ms(ms: i64) -> Timestamp {
        Timestamp::from_ms(ms)
    }

    #[test]
    fn a_restart_goes_on_where_it_stopped() {
        let dir = tempfile::tempdir().unwrap();
        let mut outbox = Outbox::open(dir.path()).unwrap();
        outbox.take_up(&alert(1), &["a", "b"], None, Some(7)).unwrap();
        let told = outbox.next("a", ms(10)).unwrap();
        outbox.done(told.number).unwrap();
        drop(outbox);
        let outbox = Outbox::open(dir.path()).unwrap();
        assert_eq!((outbox.position(), outbox.is_new()), (7, false));
        assert_eq!(outbox.next("a", ms(10)), Err(None));
        assert_eq!(outbox.next("b", ms(10)).map(|waiting| waiting.alert.seq), Ok(1));
    }

    #[test]
    fn messages_of_one_incident_keep_their_order_and_do_not_stop_another() {
        let dir = tempfile::tempdir().unwrap();
        let mut outbox = Outbox::open(dir.path()).unwrap();
        for alert in [alert(1), alert(2), Alert { incident: "estimator/42-tti".parse().unwrap(), ..alert(9) }] {
            outbox.take_up(&alert, &["a"], None, None).unwrap();
        }
        let first = outbox.next("a", ms(1)).unwrap();
        assert_eq!(first.alert.seq, 1);
        outbox.again(first.number, ms(100)).unwrap();
        let other = outbox.next("a", ms(1)).unwrap();
        assert_eq!(other.alert.seq, 9);
        outbox.done(other.number).unwrap();
        assert_eq!(outbox.next("a", ms(1)), Err(Some(ms(100))));
        assert_eq!(outbox.next("a", ms(100)).map(|waiting| (waiting.alert.seq, waiting.tries)), Ok((1, 1)));
    }

    #[test]
    fn a_full_outbox_gives_up_the_least_important_first() {
        let dir = tempfile::tempdir().unwrap();
        let mut outbox = Outbox::open(dir.path()).unwrap();
        let page = Alert { severity: Severity::Page, ..alert(1) };
        outbox.take_up(&page, &["a"], None, None).unwrap();
        let many = vec!["b"; WAITING_MAX];
        outbox.take_up(&alert(2), &many, None, None).unwrap();
        assert_eq!(outbox.contents.waiting.len(), WAITING_MAX);
        assert!(outbox.next("a", ms(1)).is_ok());
    }

    #[test]
    fn a_file_that_is_not_an_outbox_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("outbox.json"), b"{").unwrap();
        assert!(matches!(Outbox::open(dir.path()), Err(OutboxError::Unreadable { .. })));
        assert_eq!(std::fs::read(dir.path().join("outbox.json")).unwrap(), b"{");
    }
}
