//! What one look came to. "Could not look" is an observation too; a probe never fails.

use std::collections::BTreeMap;
use std::time::Duration;

use bellwether_protocol::id::{NumberName, Release};
use bellwether_protocol::sample::class;
use bellwether_protocol::time::Span;

/// What one look came to.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Observation {
    /// One of the words of [`class`].
    pub(crate) class: &'static str,
    /// How long it took, when an answer came whole, or did not come in time.
    pub(crate) latency: Option<Span>,
    /// The release that was seen to answer.
    pub(crate) release: Option<Release>,
    /// Numbers in the answer, finite.
    pub(crate) numbers: BTreeMap<NumberName, f64>,
    /// What went wrong, redacted.
    pub(crate) evidence: Option<String>,
}

impl Observation {
    /// Whether the target answered at all, however badly.
    pub(crate) fn is_answer(&self) -> bool {
        !matches!(self.class, class::RESOLVE | class::CONNECT | class::TLS | class::TIMEOUT | class::RESET)
    }
}

/// Whole milliseconds, rounded up: what took longer than a limit must not look as if it did not.
pub(crate) fn span(elapsed: Duration) -> Span {
    Span::from_ms(u64::try_from(elapsed.as_micros().div_ceil(1_000)).unwrap_or(u64::MAX))
}
