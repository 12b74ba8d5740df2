//! One record of the log: how it is made of a decision, and how a reader makes sure of it.
//!
//! Hashed is what is stored, never a re-encoding.

use bellwether_decide::{DECIDE_VERSION, Desk, Step, step};
use bellwether_protocol::codec;
use bellwether_protocol::id::{CoordinatorId, Ordinal, Service};
use bellwether_protocol::record::{Hash, Input, Positions, RECORD_VERSION, Record};
use bellwether_protocol::time::Timestamp;

/// Makes the record of a decision.
pub fn record(
    desk: &Desk,
    previous: Hash,
    coordinator: &CoordinatorId,
    inputs: Vec<Input>,
    positions: Positions,
    now: Timestamp,
    step: &Step,
) -> Record {
    Record {
        version: RECORD_VERSION,
        decide_version: DECIDE_VERSION,
        service: desk.service.clone(),
        ordinal: step.desk.ordinal,
        previous,
        coordinator: coordinator.clone(),
        now,
        inputs,
        positions,
        reasons: step.reasons.clone(),
        actions: step.actions.clone(),
        alerts: step.alerts.clone(),
        outcomes: step.outcomes.clone(),
        wake_at: step.wake_at,
        state: step.desk.hash(),
    }
}

/// Why a stored record is not the next one of its log.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Not a record at all.
    #[error("the message after record {after} of {service} is not a record")]
    Broken {
        /// Whose log.
        service: Service,
        /// After which record.
        after: Ordinal,
        /// Why.
        #[source]
        source: codec::DecodeError,
    },
    /// Its place in the chain is another one.
    #[error(
        "{service}: found record {found} after record {after}; the log was cut, rewound or written to by someone else"
    )]
    OutOfPlace {
        /// Whose log.
        service: Service,
        /// Which record was found.
        found: Ordinal,
        /// After which.
        after: Ordinal,
    },
    /// It does not continue the chain.
    #[error("{service}: record {ordinal} does not continue the hash chain; an earlier record was changed")]
    Chain {
        /// Whose log.
        service: Service,
        /// Which record.
        ordinal: Ordinal,
    },
    /// The judge, given the same inputs, decides otherwise.
    #[error("{service}: record {ordinal} replays to another decision: {what} differ")]
    Decision {
        /// Whose log.
        service: Service,
        /// Which record.
        ordinal: Ordinal,
        /// What differs.
        what: &'static str,
    },
    /// Written by a version that this one cannot replay.
    #[error(
        "{service}: record {ordinal} is of version {found}, this program replays {RECORD_VERSION}.{DECIDE_VERSION}: ask the bellwether that wrote it"
    )]
    Version {
        /// Whose log.
        service: Service,
        /// Which record.
        ordinal: Ordinal,
        /// Its version.
        found: String,
    },
}

/// Makes sure that `body` is the record after `desk` and `previous`, by deciding it again.
///
/// # Errors
/// The first thing that is not as it should be.
pub fn verify(desk: &Desk, previous: Hash, body: &[u8]) -> Result<(Record, Desk), RecordError> {
    let service = || desk.service.clone();
    let record: Record = codec::from_json("record", body).map_err(|source| RecordError::Broken {
        service: service(),
        after: desk.ordinal,
        source,
    })?;
    let ordinal = record.ordinal;
    if (record.version, record.decide_version) != (RECORD_VERSION, DECIDE_VERSION) {
        let found = format!("{}.{}", record.version, record.decide_version);
        return Err(RecordError::Version { service: service(), ordinal, found });
    }
    if ordinal != desk.ordinal.next() || record.service != desk.service {
        return Err(RecordError::OutOfPlace { service: service(), found: ordinal, after: desk.ordinal });
    }
    if record.previous != previous {
        return Err(RecordError::Chain { service: service(), ordinal });
    }
    let again = step(desk, &record.inputs, record.now);
    let differs = [
        ("reasons", again.reasons != record.reasons),
        ("actions", again.actions != record.actions),
        ("alerts", again.alerts != record.alerts),
        ("outcomes", again.outcomes != record.outcomes),
        ("wake-ups", again.wake_at != record.wake_at),
        ("states", again.desk.hash() != record.state),
    ];
    match differs.into_iter().find(|(_, differs)| *differs) {
        Some((what, _)) => Err(RecordError::Decision { service: service(), ordinal, what }),
        None => Ok((record, again.desk)),
    }
}
