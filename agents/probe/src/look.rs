//! One look, again and again: on its own phase of its interval, and never two at a time.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bellwether_bus::trace::SpanKind;
use bellwether_bus::{Hop, Trace};
use bellwether_protocol::sample::{Sample, class};
use bellwether_protocol::time::{Span, Timestamp};
use bellwether_runtime::web::{Dialer, Target};
use tokio::time::{Instant, sleep_until};

use crate::Probe;
use crate::aggregate::{Aggregate, Ticket, WatchId};
use crate::observation::Observation;

/// Tells the time that slots are made of.
pub(crate) type Now = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// Where looks report. The clock is read under the same lock under which slots are closed, so that no
/// look can begin in a slot that is just being handed over.
pub(crate) struct Post {
    aggregate: Mutex<Aggregate>,
    now: Now,
}

impl Post {
    /// A post without any watch.
    pub(crate) fn new(aggregate: Aggregate, now: Now) -> Self {
        Self { aggregate: Mutex::new(aggregate), now }
    }

    /// Hands over the slots that are over.
    pub(crate) fn close(&self) -> Vec<Sample> {
        self.with(Aggregate::close)
    }

    /// What the slots follow that were handed over.
    pub(crate) fn take_blamed(&self) -> Trace {
        self.with(|aggregate, _| aggregate.take_blamed())
    }

    /// Does something with the aggregate, at one instant.
    pub(crate) fn with<T>(&self, change: impl FnOnce(&mut Aggregate, Timestamp) -> T) -> T {
        let mut aggregate: MutexGuard<'_, Aggregate> = self.aggregate.lock().unwrap_or_else(PoisonError::into_inner);
        let now = (self.now)();
        change(&mut aggregate, now)
    }

    fn begin(&self, watch: WatchId) -> Option<Ticket> {
        self.with(|aggregate, now| aggregate.begin(watch, now))
    }

    fn end(&self, ticket: Ticket, seen: Observation, trace: Trace) {
        self.with(|aggregate, now| {
            if seen.class != class::OK {
                aggregate.blame(&ticket, trace);
            }
            aggregate.end(ticket, seen, now);
        });
    }

    fn now(&self) -> Timestamp {
        self.with(|_, now| now)
    }
}

/// Everything one look needs.
pub(crate) struct Look {
    /// Under which name it reports.
    pub(crate) watch: WatchId,
    /// What is done.
    pub(crate) probe: Probe,
    /// To whom.
    pub(crate) target: Target,
    /// How often.
    pub(crate) every: Span,
    /// Where in its interval; spread, so that looks do not all fall on the same instant.
    pub(crate) phase: Span,
}

impl Look {
    /// Looks for ever. The interval is kept by a timer that nobody can set back; the clock only names slots.
    pub(crate) async fn repeat(self, dialer: Arc<Dialer>, post: Arc<Post>) {
        let every = self.every.to_std().max(Duration::from_millis(1));
        let mut due = Instant::now() + until(post.now(), self.every, self.phase).to_std();
        let mut was_late = false;
        loop {
            sleep_until(due).await;
            if let Some(ticket) = post.begin(self.watch) {
                let hop = Hop::begin(SpanKind::Internal, "look", Vec::new());
                let seen = hop.run(self.probe.look(&self.target, &dialer)).await;
                tracing::debug!(class = seen.class, host = self.target.origin.host, "looked");
                if seen.class != class::OK {
                    hop.fail(seen.class, seen.evidence.clone().unwrap_or_default());
                }
                post.end(ticket, seen, hop.trace());
            }
            let (next, missed) = following(due, every, Instant::now());
            // The looks that were not made are missing from `n`; they are counted nowhere as good or bad.
            // A target that hangs makes every look late: one line when it begins is enough.
            if missed > 0 && !was_late {
                tracing::warn!(missed, host = self.target.origin.host, "looks missed: the last one took too long");
            }
            was_late = missed > 0;
            due = next;
        }
    }
}

/// How long until the next instant that lies `phase` into a whole number of intervals.
fn until(now: Timestamp, every: Span, phase: Span) -> Span {
    let every = every.as_ms().max(1);
    let into = u64::try_from(now.as_ms()).unwrap_or(0) % every;
    Span::from_ms((phase.as_ms() % every + every - into) % every)
}

/// The first due instant after `now`, and how many were missed before it.
fn following(due: Instant, every: Duration, now: Instant) -> (Instant, u32) {
    let past = now.saturating_duration_since(due).as_nanos() / every.as_nanos().max(1);
    let missed = u32::try_from(past).unwrap_or(u32::MAX);
    (due + every.saturating_mul(missed.saturating_add(1)), missed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_lie_on_their_phase() {
        let check = |now: i64, expected: u64| {
            let wait = until(Timestamp::from_ms(now), Span::from_ms(1_000), Span::from_ms(300));
            assert_eq!(wait.as_ms(), expected, "at {now}");
        };
        check(10_000, 300);
        check(10_300, 0);
        check(10_301, 999);
        check(10_999, 301);
    }

    #[test]
    fn a_slow_look_misses_some_and_keeps_its_grid() {
        let start = Instant::now();
        let every = Duration::from_secs(1);
        let check = |took_ms: u64, next_s: u64, missed: u32| {
            let now = start + Duration::from_millis(took_ms);
            assert_eq!(following(start, every, now), (start + Duration::from_secs(next_s), missed), "{took_ms}");
        };
        check(5, 1, 0);
        check(999, 1, 0);
        check(1_001, 2, 1);
        check(3_500, 4, 3);
    }
}
