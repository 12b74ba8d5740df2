//! What one reading came to. What is missing is missing: never zero, never good.

use bellwether_protocol::id::Class;
use bellwether_protocol::sample::Portion;
use bellwether_protocol::time::Timestamp;

/// Something that was measured.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Found {
    /// When: it belongs to the slot of this instant.
    pub(crate) at: Timestamp,
    /// What.
    pub(crate) portion: Portion,
    /// What people should see of it, redacted.
    pub(crate) evidence: Vec<(Timestamp, Class, String)>,
}

impl Found {
    /// Without evidence.
    pub(crate) fn new(at: Timestamp, portion: Portion) -> Self {
        Self { at, portion, evidence: Vec::new() }
    }
}

/// Why nothing was measured.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Missing(pub(crate) String);

/// What a reading came to. An empty list is no evidence of anything: nothing was there to be read.
pub(crate) type Reading = Result<Vec<Found>, Missing>;
