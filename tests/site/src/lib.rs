//! The sample site: versions, a fingerprint, and faults on demand.
