//! What is still to be told, on disk, so that a restart goes on where it stopped.
//!
//! One file holds the position in the stream, every message that is not yet delivered, and what is
//! known of each incident. It is replaced as a whole, so that they cannot disagree: a message is
//! either before the position and in the list, or will be read again.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};

use bellwether_bus::Trace;
use bellwether_protocol::alert::{Alert, Severity};
use bellwether_protocol::time::Timestamp;
use bellwether_runtime::store;
use serde::{Deserialize, Serialize};

use crate::case::{Case, Occasion, Thread};

/// Most messages that wait. At an alert every few seconds this is hours of a dead receiver.
const WAITING_MAX: usize = 1_000;
/// Most incidents that are known; those that are over are forgotten first.
const CASES_MAX: usize = 200;
/// Longest file that is read back, in bytes.
const FILE_LEN_MAX: u64 = 64 * 1024 * 1024;

/// One message for one bridge.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Waiting {
    /// Counts up from when it is taken up; names the entry.
    pub(crate) number: u64,
    pub(crate) bridge: String,
    pub(crate) alert: Alert,
    #[serde(default)]
    pub(crate) occasion: Occasion,
    /// Failed tries so far.
    pub(crate) tries: u32,
    /// Not to be tried before.
    pub(crate) not_before: Timestamp,
    /// Another agent has claimed it: to be told only when that one has not.
    pub(crate) standby: bool,
    /// Only a figure has changed: the next of these takes its place.
    #[serde(default)]
    pub(crate) figure: bool,
    /// Where it stands in a trace: telling it follows that.
    #[serde(default)]
    pub(crate) trace: Trace,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Contents {
    /// Whether it does not know yet where in the stream it begins.
    #[serde(default)]
    is_new: bool,
    /// The last message of the stream that is dealt with, or is in `waiting`.
    position: u64,
    next_number: u64,
    waiting: VecDeque<Waiting>,
    /// By the id of the incident.
    #[serde(default)]
    cases: BTreeMap<String, Case>,
}

impl Waiting {
    /// News for `bridge`, told once an outbox has taken it up.
    pub(crate) fn new(bridge: &str, alert: Alert, not_before: Timestamp) -> Self {
        let (bridge, occasion, trace) = (bridge.to_owned(), Occasion::News, Trace::default());
        Self { number: 0, bridge, alert, occasion, tries: 0, not_before, standby: false, figure: false, trace }
    }
}

/// What waits for one bridge and is told at once: all of one incident, oldest first, never empty.
#[derive(Debug, Clone)]
pub(crate) struct Batch {
    pub(crate) waiting: Vec<Waiting>,
    pub(crate) newest: Waiting,
    pub(crate) case: Case,
}

#[derive(Debug)]
pub(crate) struct Outbox {
    /// `None`: what is in it ends with this process.
    path: Option<PathBuf>,
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
        let contents = match std::fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Contents { is_new: true, ..Contents::default() },
            Err(error) => return Err(read(error)),
            Ok(metadata) if metadata.len() > FILE_LEN_MAX => {
                return Err(read(io::Error::other("longer than any outbox")));
            }
            Ok(_) => {
                let bytes = std::fs::read(&path).map_err(read)?;
                let unreadable = |source| OutboxError::Unreadable { path: path.clone(), source };
                serde_json::from_slice(&bytes).map_err(unreadable)?
            }
        };
        Ok(Self { path: Some(path), contents })
    }

    /// One that is not kept, to try bridges with.
    pub(crate) fn in_memory() -> Self {
        Self { path: None, contents: Contents::default() }
    }

    /// How much waits, by bridge.
    pub(crate) fn waiting(&self) -> BTreeMap<String, usize> {
        self.contents.waiting.iter().fold(BTreeMap::new(), |mut count, waiting| {
            *count.entry(waiting.bridge.clone()).or_default() += 1;
            count
        })
    }

    pub(crate) fn position(&self) -> u64 {
        self.contents.position
    }

    pub(crate) fn is_new(&self) -> bool {
        self.contents.is_new
    }

    /// Everything up to `position` is dealt with, or will never be.
    pub(crate) fn skip_to(&mut self, position: u64) -> Result<(), OutboxError> {
        (self.contents.is_new, self.contents.position) = (false, position);
        self.save()
    }

    /// Gives up what waits for bridges that are no longer there.
    pub(crate) fn keep_only(&mut self, bridges: &[String]) -> Result<(), OutboxError> {
        self.contents.waiting.retain(|waiting| {
            let is_there = bridges.contains(&waiting.bridge);
            if !is_there {
                let Waiting { bridge, alert, .. } = waiting;
                tracing::error!(incident = %alert.incident, seq = alert.seq, bridge, "no such bridge any more, alert given up");
            }
            is_there
        });
        self.save()
    }

    pub(crate) fn case(&self, alert: &Alert) -> Option<&Case> {
        self.contents.cases.get(&alert.incident.to_string())
    }

    pub(crate) fn cases(&self) -> impl Iterator<Item = &Case> {
        self.contents.cases.values()
    }

    /// What is known of the incident of `alert`, to be changed; saved with what is taken up next.
    pub(crate) fn case_mut(&mut self, alert: &Alert) -> &mut Case {
        let cases = &mut self.contents.cases;
        let key = alert.incident.to_string();
        if cases.len() >= CASES_MAX && !cases.contains_key(&key) {
            let oldest =
                cases.iter().min_by_key(|(_, case)| (case.is_open(), case.last.at)).map(|(key, _)| key.clone());
            oldest.and_then(|oldest| cases.remove(&oldest));
        }
        cases.entry(key).or_insert_with(|| Case::new(alert))
    }

    /// Takes up what is `new`, and moves the position to `position` if given.
    pub(crate) fn take_up(&mut self, new: Vec<Waiting>, position: Option<u64>) -> Result<(), OutboxError> {
        for new in new {
            let is_same = |old: &Waiting| old.bridge == new.bridge && old.alert.incident == new.alert.incident;
            if new.figure {
                self.contents.waiting.retain(|old| !(old.figure && is_same(old)));
            }
            self.make_room();
            // What was only held back goes with what follows it; what another agent was to tell is looked
            // at before this agent tells what follows.
            let held = self.contents.waiting.iter_mut().filter(|held| held.tries == 0 && held.standby >= new.standby);
            for held in held.filter(|held| is_same(held)) {
                held.not_before = held.not_before.min(new.not_before);
            }
            let number = self.contents.next_number;
            self.contents.next_number += 1;
            self.contents.waiting.push_back(Waiting { number, ..new });
        }
        if let Some(position) = position {
            return self.skip_to(position);
        }
        self.save()
    }

    /// What may be told to `bridge` at `now`, or when to ask again. `together`: with all that waits of the incident.
    pub(crate) fn next(&self, bridge: &str, together: bool, now: Timestamp) -> Result<Batch, Option<Timestamp>> {
        let own = || self.contents.waiting.iter().filter(|waiting| waiting.bridge == bridge);
        // Messages of one incident go out in their order; another incident does not wait for it.
        let is_first = |waiting: &&Waiting| {
            !own().any(|other| other.number < waiting.number && other.alert.incident == waiting.alert.incident)
        };
        let first = own().filter(is_first).min_by_key(|waiting| (waiting.not_before, waiting.number));
        let Some(first) = first else { return Err(None) };
        if first.not_before > now {
            return Err(Some(first.not_before));
        }
        let same = own().filter(|other| other.alert.incident == first.alert.incident);
        let same =
            same.take_while(|other| other.number == first.number || (together && other.standby == first.standby));
        let waiting: Vec<Waiting> = same.cloned().collect();
        let newest = waiting.last().unwrap_or(first).clone();
        let case = self.case(&first.alert).cloned().unwrap_or_else(|| Case::new(&first.alert));
        Ok(Batch { waiting, newest, case })
    }

    /// Changes what `bridge` keeps of the incident of `alert`.
    pub(crate) fn note(
        &mut self,
        alert: &Alert,
        bridge: &str,
        note: impl FnOnce(&mut Thread),
    ) -> Result<(), OutboxError> {
        note(self.case_mut(alert).threads.entry(bridge.to_owned()).or_default());
        self.save()
    }

    /// A batch is dealt with: told, refused, or too late. `told`: what the bridge told last.
    /// `again_at`: the newest is to be told again then.
    pub(crate) fn done(&mut self, batch: &Batch, told: bool, again_at: Option<Timestamp>) -> Result<(), OutboxError> {
        let Waiting { number: newest, bridge, alert, .. } = &batch.newest;
        let is_in = |number: u64| batch.waiting.iter().any(|waiting| waiting.number == number);
        self.contents
            .waiting
            .retain(|waiting| !is_in(waiting.number) || (again_at.is_some() && waiting.number == *newest));
        if let (Some(at), Some(kept)) = (again_at, self.contents.waiting.iter_mut().find(|kept| kept.number == *newest))
        {
            (kept.tries, kept.not_before) = (0, at);
        }
        if told {
            self.case_mut(alert).threads.entry(bridge.clone()).or_default().last = Some(alert.clone());
        }
        self.save()
    }

    /// A try of `batch` failed; the next one is not before `at`.
    pub(crate) fn again(&mut self, batch: &Batch, at: Timestamp) -> Result<(), OutboxError> {
        let numbers: Vec<u64> = batch.waiting.iter().map(|waiting| waiting.number).collect();
        for waiting in self.contents.waiting.iter_mut().filter(|waiting| numbers.contains(&waiting.number)) {
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
        self.path.as_ref().map_or(Ok(()), |path| replace(path, &self.contents))
    }
}

/// Replaces a file as a whole: a reader, and whoever starts after a crash, finds the old or the new one.
pub(crate) fn replace(path: &Path, contents: &impl Serialize) -> Result<(), OutboxError> {
    store::save(path, contents).map_err(|source| OutboxError::Io { doing: "write", path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use bellwether_protocol::alert::IncidentKind;

    use super::*;
    use crate::bridge::tests::alert;

    fn ms(ms: i64) -> Timestamp {
        Timestamp::from_ms(ms)
    }

    fn order(bridge: &str, alert: Alert, not_before: i64) -> Waiting {
        Waiting::new(bridge, alert, ms(not_before))
    }

    fn seqs(batch: Result<Batch, Option<Timestamp>>) -> Vec<u32> {
        batch.unwrap().waiting.iter().map(|waiting| waiting.alert.seq).collect()
    }

    #[test]
    fn a_restart_goes_on_where_it_stopped() {
        let dir = tempfile::tempdir().unwrap();
        let mut outbox = Outbox::open(dir.path()).unwrap();
        outbox.take_up(vec![order("a", alert(1), 0), order("b", alert(1), 0)], Some(7)).unwrap();
        let batch = outbox.next("a", false, ms(10)).unwrap();
        outbox.note(&alert(1), "a", |thread| thread.intent = Some("root".into())).unwrap();
        outbox.done(&batch, true, None).unwrap();
        drop(outbox);
        let outbox = Outbox::open(dir.path()).unwrap();
        assert_eq!((outbox.position(), outbox.is_new()), (7, false));
        assert_eq!(outbox.next("a", false, ms(10)).unwrap_err(), None);
        let batch = outbox.next("b", false, ms(10)).unwrap();
        let thread = &batch.case.threads["a"];
        assert_eq!((batch.newest.alert, thread.intent.as_deref()), (alert(1), Some("root")));
        assert_eq!(thread.last, Some(alert(1)));
    }

    #[test]
    fn messages_of_one_incident_keep_their_order_and_do_not_stop_another() {
        let dir = tempfile::tempdir().unwrap();
        let mut outbox = Outbox::open(dir.path()).unwrap();
        let other = Alert { incident: "estimator/42-tti".parse().unwrap(), ..alert(9) };
        outbox.take_up([alert(1), alert(2), other].map(|alert| order("a", alert, 0)).into(), None).unwrap();
        let first = outbox.next("a", false, ms(1)).unwrap();
        assert_eq!(first.newest.alert.seq, 1);
        outbox.again(&first, ms(100)).unwrap();
        let other = outbox.next("a", true, ms(1)).unwrap();
        assert_eq!(other.newest.alert.seq, 9);
        outbox.done(&other, true, None).unwrap();
        assert_eq!(outbox.next("a", true, ms(1)).unwrap_err(), Some(ms(100)));
        assert_eq!(seqs(outbox.next("a", false, ms(100))), [1]);
        assert_eq!(seqs(outbox.next("a", true, ms(100))), [1, 2]);
    }

    #[test]
    fn what_is_held_back_goes_with_what_follows_and_what_is_repeated_stays() {
        let mut outbox = Outbox::in_memory();
        outbox.take_up(vec![order("a", alert(1), 500)], None).unwrap();
        outbox.take_up(vec![order("a", alert(2), 700)], None).unwrap();
        assert_eq!(outbox.next("a", true, ms(1)).unwrap_err(), Some(ms(500)));
        outbox.take_up(vec![order("a", alert(3), 1)], None).unwrap();
        let batch = outbox.next("a", true, ms(1)).unwrap();
        outbox.done(&batch, true, Some(ms(60))).unwrap();
        assert_eq!(outbox.next("a", true, ms(1)).unwrap_err(), Some(ms(60)));
        assert_eq!(seqs(outbox.next("a", true, ms(60))), [3]);
        let standby = Waiting { standby: true, ..order("b", alert(1), 60_000) };
        outbox.take_up(vec![standby, order("b", alert(2), 1)], None).unwrap();
        assert_eq!(seqs(outbox.next("b", true, ms(1))), [1]);
        let figures = [2, 3, 4].map(|seq| Waiting { figure: true, ..order("c", alert(seq), 1) });
        outbox.take_up([vec![order("c", alert(1), 1)], figures.into()].concat(), None).unwrap();
        assert_eq!(seqs(outbox.next("c", true, ms(1))), [1, 4]);
    }

    #[test]
    fn full_it_gives_up_the_least_important_and_what_is_over_first() {
        let mut outbox = Outbox::in_memory();
        let page = Alert { severity: Severity::Page, ..alert(1) };
        outbox.take_up(vec![order("a", page, 0)], None).unwrap();
        outbox.take_up(vec![order("b", alert(2), 0); WAITING_MAX], None).unwrap();
        assert_eq!(outbox.contents.waiting.len(), WAITING_MAX);
        assert!(outbox.next("a", false, ms(1)).is_ok());
        for number in 0..=CASES_MAX {
            let kind = if number == 7 { IncidentKind::Resolved } else { IncidentKind::Opened };
            let incident = format!("estimator/{number}-tti").parse().unwrap();
            outbox.case_mut(&Alert { kind, incident, ..alert(1) });
        }
        assert_eq!(outbox.cases().count(), CASES_MAX);
        assert!(outbox.cases().all(Case::is_open));
    }

    #[test]
    fn a_file_that_is_not_an_outbox_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("outbox.json"), b"{").unwrap();
        assert!(matches!(Outbox::open(dir.path()), Err(OutboxError::Unreadable { .. })));
        assert_eq!(std::fs::read(dir.path().join("outbox.json")).unwrap(), b"{");
    }
}
