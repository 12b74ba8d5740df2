//! Verbs that need the judge without a mesh: a log is replayed from its records alone.

use std::collections::BTreeMap;

pub use bellwether_decide::power::power;
use bellwether_decide::{Desk, project};
use bellwether_protocol::codec;
use bellwether_protocol::id::{Ordinal, Service};
use bellwether_protocol::record::{Hash, Record};
use bellwether_protocol::status::Status;

use crate::log::{self, RecordError};

/// What a replay came to.
#[derive(Debug)]
pub struct Replayed {
    /// Every record, in the order of the log, each decided again and found equal.
    pub records: Vec<Record>,
    /// The last status of each service.
    pub status: BTreeMap<Service, Status>,
    /// The last record of each service, and its hash.
    pub heads: BTreeMap<Service, (Ordinal, Hash)>,
}

impl Replayed {
    /// The records and the heads.
    pub fn parts(self) -> (Vec<Record>, BTreeMap<Service, (Ordinal, Hash)>) {
        (self.records, self.heads)
    }
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
    let heads = replay_each(lines, |record, desk| {
        if let Some(now) = project::status(desk, record.now) {
            status.insert(record.service.clone(), now);
        }
        records.push(record.clone());
    })?;
    Ok(Replayed { records, status, heads })
}

/// Decides every record again, and hands each over with the state after it. Gives the last record of
/// each service and its hash.
///
/// # Errors
/// As [`replay`].
pub fn replay_each(
    lines: impl IntoIterator<Item = Vec<u8>>,
    mut each: impl FnMut(&Record, &Desk),
) -> Result<BTreeMap<Service, (Ordinal, Hash)>, ReplayError> {
    let mut desks: BTreeMap<Service, (Desk, Hash)> = BTreeMap::new();
    let mut heads = BTreeMap::new();
    for (index, body) in lines.into_iter().enumerate() {
        let line = index + 1;
        let record: Record = codec::from_json("record", &body).map_err(|source| ReplayError::Line { line, source })?;
        let service = record.service.clone();
        let (desk, hash) =
            desks.entry(service.clone()).or_insert_with(|| (Desk::new(service.clone()), Hash::default()));
        let (record, next) = log::verify(desk, *hash, &body).map_err(|source| ReplayError::Record { line, source })?;
        *desk = next;
        *hash = hash.chain(&body);
        heads.insert(service, (record.ordinal, *hash));
        each(&record, desk);
    }
    Ok(heads)
}

/// Decides every record again, and keeps nothing but the heads.
///
/// # Errors
/// As [`replay`].
pub fn verify(lines: impl IntoIterator<Item = Vec<u8>>) -> Result<BTreeMap<Service, (Ordinal, Hash)>, ReplayError> {
    replay_each(lines, |_, _| ())
}
