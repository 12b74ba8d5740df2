//! Verbs that need the judge without a mesh: a log is replayed from its records alone.

use std::collections::BTreeMap;

use bellwether_decide::evidence::Counted;
pub use bellwether_decide::power::power;
use bellwether_decide::{Desk, Rollout, project};
use bellwether_protocol::codec;
use bellwether_protocol::id::{Ordinal, Service};
use bellwether_protocol::record::{ClosedSlot, Hash, Record};
use bellwether_protocol::status::Status;
use bellwether_protocol::time::Timestamp;

use crate::log::{self, RecordError};

/// What a replay came to.
#[derive(Debug)]
pub struct Replayed {
    /// Every record, in the order of the log, each decided again and found equal.
    pub records: Vec<Record>,
    /// The last status of each service.
    pub status: BTreeMap<Service, Status>,
    /// The last record of each service, and its hash.
    pub heads: Heads,
}

/// Why a log does not replay.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// A line is not a record at all.
    #[error("line {line} is not a record")]
    Line {
        /// Which line, from 1.
        line: usize,
        /// Why.
        #[source]
        source: codec::DecodeError,
    },
    /// A record is not what the judge decides.
    #[error("line {line} does not replay")]
    Record {
        /// Which line, from 1.
        line: usize,
        /// Why.
        #[source]
        source: RecordError,
    },
}

/// Decides every record again, from nothing. Samples are not needed: the records hold the closed slots.
///
/// # Errors
/// The first record that is not the next of its chain, or that is decided otherwise.
pub fn replay(lines: impl IntoIterator<Item = Vec<u8>>) -> Result<Replayed, ReplayError> {
    let (mut records, mut status) = (Vec::new(), BTreeMap::new());
    let desks = replay_each(lines, |record, _, desk| {
        if let Some(now) = project::status(desk, record.now) {
            status.insert(record.service.clone(), now);
        }
        records.push(record.clone());
    })?;
    Ok(Replayed { records, status, heads: heads(desks) })
}

/// Every record, decided again, and the heads.
///
/// # Errors
/// As [`replay`].
pub fn records(lines: impl IntoIterator<Item = Vec<u8>>) -> Result<(Vec<Record>, Heads), ReplayError> {
    replay(lines).map(|all| (all.records, all.heads))
}

/// The last record of each service, and its hash.
pub type Heads = BTreeMap<Service, (Ordinal, Hash)>;

/// The state of each service after its last record, and that record's hash.
type Desks = BTreeMap<Service, (Desk, Hash)>;

/// Decides every record again, and hands each over with the state before and after it.
///
/// # Errors
/// As [`replay`].
pub fn replay_each(
    lines: impl IntoIterator<Item = Vec<u8>>,
    mut each: impl FnMut(&Record, &Desk, &Desk),
) -> Result<Desks, ReplayError> {
    let mut desks = Desks::new();
    for (index, body) in lines.into_iter().enumerate() {
        let line = index + 1;
        let record: Record = codec::from_json("record", &body).map_err(|source| ReplayError::Line { line, source })?;
        let service = record.service;
        let (desk, hash) = desks.entry(service.clone()).or_insert_with(|| (Desk::new(service), Hash::default()));
        let (record, next) = log::verify(desk, *hash, &body).map_err(|source| ReplayError::Record { line, source })?;
        each(&record, desk, &next);
        *desk = next;
        *hash = hash.chain(&body);
    }
    Ok(desks)
}

/// Decides every record again, and keeps nothing but the heads.
///
/// # Errors
/// As [`replay`].
pub fn verify(lines: impl IntoIterator<Item = Vec<u8>>) -> Result<Heads, ReplayError> {
    replay_each(lines, |_, _, _| ()).map(heads)
}

fn heads(desks: Desks) -> Heads {
    desks.into_iter().map(|(service, (desk, hash))| (service, (desk.ordinal, hash))).collect()
}

/// What is gathered of one rollout, record by record.
pub(crate) trait Gather {
    /// Takes one record. `before` is the rollout as it was, unless it began in this one; `slots` are
    /// those of the record that were evidence, as the judge counted them.
    fn take(&mut self, record: &Record, before: Option<&Rollout>, slots: &[(&ClosedSlot, Counted<'_>)]);
}

/// What was gathered of one rollout, and how it stood after its last record.
pub(crate) struct Gathered<G> {
    pub(crate) all: G,
    pub(crate) desk: Desk,
    /// When its last record was decided.
    pub(crate) now: Timestamp,
    /// How many records of the log were decided again.
    pub(crate) records: usize,
    /// The hash of the last one of the service.
    pub(crate) head: Hash,
}

/// Which rollout is meant; the last one without a number.
pub type Which<'a> = (&'a Service, Option<u64>);

/// Gathers one rollout; `None` when the log does not hold it. Keeps one record at a time.
///
/// # Errors
/// When the log does not replay: what cannot be verified is not told.
pub(crate) fn gather<G: Gather>(
    lines: impl IntoIterator<Item = Vec<u8>>,
    (service, number): Which<'_>,
    fresh: impl Fn() -> G,
) -> Result<Option<Gathered<G>>, ReplayError> {
    let mut records = 0;
    let mut all: Option<(G, Timestamp)> = None;
    let mut left = None;
    let id = |desk: &Desk| desk.rollout.as_ref().map(|rollout| rollout.id.number);
    let is_meant = |desk: &Desk| id(desk).is_some_and(|own| number.is_none_or(|number| number == own));
    let desks = replay_each(lines, |record, before, after| {
        records += 1;
        if record.service != *service {
            return;
        }
        let is_same = id(before) == id(after);
        if is_meant(after) {
            let (own, now) = all.get_or_insert_with(|| (fresh(), record.now));
            if !is_same {
                *own = fresh();
            }
            *now = record.now;
            let before = before.rollout.as_ref().filter(|_| is_same);
            let slots = before.map(|before| project::counted(before, &record.inputs)).unwrap_or_default();
            own.take(record, before, &slots);
        } else if is_meant(before) {
            left = Some(before.clone());
        }
    })?;
    let last = desks.into_iter().find(|(own, _)| own == service);
    let gathered = |((all, now), (_, (last, head)))| {
        let desk = left.unwrap_or(last);
        Gathered { all, desk, now, records, head }
    };
    Ok(all.zip(last).map(gathered))
}
