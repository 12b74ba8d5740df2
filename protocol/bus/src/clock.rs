//! A clock that every process of the mesh agrees on: monotonic, anchored on the timestamps of NATS.
//!
//! It never runs ahead of NATS, as far as the last anchor can tell, and it never goes backwards.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bellwether_protocol::time::Timestamp;

/// An anchor older than this no longer vouches for the time.
pub const ANCHOR_AGE_MAX: Duration = Duration::from_secs(15);
/// A round trip slower than this says too little about the time to anchor on.
const ROUND_TRIP_MAX: Duration = Duration::from_secs(2);

/// Time as NATS tells it. Cheap to clone; clones share the anchor.
#[derive(Debug, Clone, Default)]
pub struct Clock(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    anchor: Option<Anchor>,
    /// The last instant told.
    floor: Timestamp,
}

#[derive(Debug, Clone, Copy)]
struct Anchor {
    nats: Timestamp,
    local: Instant,
    offset_ms: i64,
}

impl Clock {
    /// A clock without an anchor: it tells the system's time and is adrift.
    pub fn new() -> Self {
        Self::default()
    }

    /// Anchors on a message that NATS stamped `nats_at` between `sent_at` and `received_at`.
    pub fn anchor(&self, nats_at: Timestamp, sent_at: Instant, received_at: Instant) {
        if received_at.saturating_duration_since(sent_at) > ROUND_TRIP_MAX {
            return;
        }
        // The stamp is taken for the moment of receipt, not of the middle: this clock may lag by a
        // round trip, but a decision must never be dated ahead of NATS.
        let system = system_now().as_ms() - ms(received_at.elapsed());
        let anchor = Anchor { nats: nats_at, local: received_at, offset_ms: system.saturating_sub(nats_at.as_ms()) };
        self.lock().anchor = Some(anchor);
    }

    /// The time. Once anchored, never earlier than what it told before; until then it is the host's
    /// own, and a host that runs ahead must not hold the anchored time back.
    pub fn now(&self) -> Timestamp {
        let mut inner = self.lock();
        let Some(anchor) = inner.anchor else { return system_now() };
        let now = Timestamp::from_ms(anchor.nats.as_ms().saturating_add(ms(anchor.local.elapsed())));
        inner.floor = inner.floor.max(now);
        inner.floor
    }

    /// Whether nothing has vouched for the time for [`ANCHOR_AGE_MAX`], or ever.
    pub fn is_adrift(&self) -> bool {
        self.lock().anchor.is_none_or(|anchor| anchor.local.elapsed() > ANCHOR_AGE_MAX)
    }

    /// The system's clock minus NATS's, in milliseconds, at the last anchor; 0 before the first.
    pub fn offset_ms(&self) -> i64 {
        self.lock().anchor.map_or(0, |anchor| anchor.offset_ms)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn ms(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

fn system_now() -> Timestamp {
    Timestamp::from_ms(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_follows_its_anchor_and_never_goes_back() {
        let clock = Clock::new();
        assert!(clock.is_adrift());
        let ahead = Timestamp::from_ms(clock.now().as_ms() + 60_000);
        let here = Instant::now();
        clock.anchor(ahead, here, here);
        assert!(!clock.is_adrift());
        assert!(clock.now() >= ahead && clock.now().since(ahead).as_ms() < 30_000);
        assert!(clock.offset_ms() < -20_000);
        let before = clock.now();
        clock.anchor(Timestamp::from_ms(ahead.as_ms() - 30_000), here, here);
        assert!(clock.now() >= before);
    }

    #[test]
    fn a_slow_round_trip_is_no_anchor() {
        let clock = Clock::new();
        let received = Instant::now();
        let Some(sent) = received.checked_sub(Duration::from_secs(3)) else { return };
        clock.anchor(Timestamp::from_ms(1), sent, received);
        assert!(clock.is_adrift());
    }

    #[test]
    fn an_old_anchor_is_adrift() {
        let clock = Clock::new();
        let Some(old) = Instant::now().checked_sub(ANCHOR_AGE_MAX + Duration::from_secs(1)) else { return };
        clock.anchor(Timestamp::from_ms(1_000_000), old, old);
        assert!(clock.is_adrift());
    }
}
