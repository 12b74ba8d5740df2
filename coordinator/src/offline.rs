//! Verbs that need the judge without a mesh: a log is replayed from its records alone.

use std::collections::BTreeMap;

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
    let mut desks: BTreeMap<Service, (Desk, Hash)> = BTreeMap::new();
    let mut replayed = Replayed { records: Vec::new(), status: BTreeMap::new(), heads: BTreeMap::new() };
    for (index, body) in lines.into_iter().enumerate() {
        let line = index + 1;
        let record: Record = codec::from_json("record", &body).map_err(|source| ReplayError::Line { line, source })?;
        let service = record.service.clone();
        let (desk, hash) =
            desks.entry(service.clone()).or_insert_with(|| (Desk::new(service.clone()), Hash::default()));
        let (record, next) = log::verify(desk, *hash, &body).map_err(|source| ReplayError::Record { line, source })?;
        *desk = next;
        *hash = hash.chain(&body);
        replayed.heads.insert(service.clone(), (record.ordinal, *hash));
        if let Some(status) = project::status(desk, record.now) {
            replayed.status.insert(service, status);
        }
        replayed.records.push(record);
    }
    Ok(replayed)
}
