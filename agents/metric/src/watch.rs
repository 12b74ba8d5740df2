//! One look, read again and again, and handed over slot by slot.
//!
//! A slot of which nothing was read has no sample: silence is a gap. What is read belongs to the slot
//! of its own instant while that is open, else to the slot in which it came.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bellwether_bus::trace::SpanKind;
use bellwether_bus::{Hop, Trace};
use bellwether_protocol::id::Revision;
use bellwether_protocol::sample::{Control, Sample};
use bellwether_protocol::time::{Span, Timestamp, slot_start};
use bellwether_runtime::{Gathered, Place, Watch};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use crate::Source;
use crate::found::{Found, Reading};

/// Tells the time that slots are made of.
pub(crate) type Now = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// When a source is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pace {
    /// Whole slots, this long after their end.
    AfterSlot(Span),
    /// Again and again, each time at `phase` of the interval `every`; slots wait for `hold` after their end.
    Every { every: Span, phase: Span, hold: Span },
}

/// A look that goes on until this is dropped.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) revision: Arc<AtomicU64>,
    pub(crate) task: AbortHandle,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Longest sleep: a clock that jumps is noticed after it.
const SLEEP_MAX: Duration = Duration::from_millis(500);

/// Everything one look needs.
pub(crate) struct Look {
    pub(crate) watch: Watch,
    pub(crate) revision: Arc<AtomicU64>,
    pub(crate) source: Source,
    pub(crate) pace: Pace,
    /// Who counted, when every agent that reads there sees the same.
    pub(crate) counted_by: Option<String>,
    pub(crate) now: Now,
    /// Where it says what it misses.
    pub(crate) place: Place,
    pub(crate) samples: mpsc::Sender<(Sample, Trace)>,
}

impl Look {
    /// Reads for ever, or until nobody takes the samples.
    pub(crate) async fn repeat(mut self) {
        let mut slots = Slots::new(self.watch.slot, self.pace, (self.now)());
        let mut read_at = (self.now)();
        let mut follows = Trace::default();
        loop {
            let due = self.pace.after(read_at, self.watch.slot);
            self.sleep_until(slots.next_close((self.now)()).map_or(due, |close| close.min(due))).await;
            let now = (self.now)();
            if now >= due {
                read_at = now;
                let reading;
                (reading, follows) = self.read(now).await;
                self.tell(&reading, now);
                slots.take(reading.unwrap_or_default(), (self.now)());
            }
            self.watch.revision = Revision(self.revision.load(Ordering::Relaxed));
            for (slot, gathered) in slots.close((self.now)()) {
                let sample = gathered.sample(&self.watch, slot, Control::Absent);
                let sample = Sample { source: self.counted_by.clone(), ..sample };
                if self.samples.send((sample, follows.clone())).await.is_err() {
                    return;
                }
            }
        }
    }

    /// Reads, and tells where that stands in a trace: what is sent of it follows it, as the questions do.
    async fn read(&mut self, now: Timestamp) -> (Reading, Trace) {
        let to = slot_start(now, self.watch.slot);
        let is_asked = self.source.is_asked();
        let reading = self.source.read(to - self.watch.slot, to, now, self.watch.timeout);
        if !is_asked {
            return (reading.await, Trace::default());
        }
        let hop = Hop::begin(SpanKind::Internal, "look", Vec::new());
        let reading = hop.run(reading).await;
        if let Err(why) = &reading {
            hop.fail("missing", why.0.clone());
        }
        (reading, hop.trace())
    }

    async fn sleep_until(&self, due: Timestamp) {
        loop {
            let wait = due.since((self.now)()).to_std();
            if wait.is_zero() {
                return;
            }
            tokio::time::sleep(wait.min(SLEEP_MAX)).await;
        }
    }

    /// One line when a gap begins and one when it ends, not one every slot.
    fn tell(&self, reading: &Reading, now: Timestamp) {
        let (rollout, sli, cohort) = (&self.watch.rollout, &self.watch.sli, self.watch.cohort);
        match reading {
            Err(why) if self.place.open(&why.0, now) => {
                tracing::warn!(%rollout, %sli, %cohort, %why, "nothing measured, no sample");
            }
            Ok(found) if !found.is_empty() && self.place.fill() => {
                tracing::info!(%rollout, %sli, %cohort, "measured again");
            }
            Err(_) | Ok(_) => {}
        }
    }
}

impl Pace {
    /// The first instant after `read_at` at which to read.
    fn after(self, read_at: Timestamp, slot: Span) -> Timestamp {
        let (interval, phase) = match self {
            Self::AfterSlot(settle) => (slot, settle),
            Self::Every { every, phase, .. } => (every, phase),
        };
        let interval = Span::from_ms(interval.as_ms().max(1));
        let due = slot_start(read_at, interval) + Span::from_ms(phase.as_ms() % interval.as_ms());
        if due > read_at { due } else { due + interval }
    }
}

/// The open slots of one look.
#[derive(Debug)]
struct Slots {
    width: Span,
    /// How long after its end a slot is open; `None`: until it was read.
    hold: Option<Span>,
    open: BTreeMap<Timestamp, Gathered>,
    /// The first slot that was not handed over: a clock that was set back must not make a second sample.
    first: Timestamp,
}

impl Slots {
    fn new(width: Span, pace: Pace, now: Timestamp) -> Self {
        let hold = match pace {
            Pace::AfterSlot(_) => None,
            Pace::Every { hold, .. } => Some(hold),
        };
        let first = slot_start(now, width);
        Self { width, hold, open: BTreeMap::new(), first }
    }

    fn take(&mut self, found: Vec<Found>, now: Timestamp) {
        let current = slot_start(now, self.width);
        for Found { at, portion, evidence } in found {
            let own = slot_start(at, self.width);
            let is_open = own >= self.first && own <= current;
            // What was read of a whole slot is of no other one.
            let slot = if is_open || self.hold.is_none() { own } else { current };
            if slot < self.first {
                continue;
            }
            let gathered = self.open.entry(slot).or_default();
            gathered.portion(portion.release.clone()).merge(&portion);
            for (at, class, text) in evidence {
                gathered.note(at, class, text);
            }
        }
    }

    /// When the next slot may have to be handed over, if that does not depend on a reading.
    fn next_close(&self, now: Timestamp) -> Option<Timestamp> {
        let oldest = self.open.keys().next().copied().unwrap_or_else(|| slot_start(now, self.width));
        Some(oldest + self.width + self.hold?)
    }

    fn close(&mut self, now: Timestamp) -> Vec<(Timestamp, Gathered)> {
        let Some(hold) = self.hold else {
            let read = std::mem::take(&mut self.open);
            self.first = read.keys().next_back().map_or(self.first, |last| *last + self.width);
            return read.into_iter().collect();
        };
        self.first = self.first.max(slot_start(now - hold, self.width));
        let later = self.open.split_off(&self.first);
        std::mem::replace(&mut self.open, later).into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use bellwether_protocol::sample::{Portion, class};

    use super::*;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_ms(ms)
    }

    #[test]
    fn readings_lie_on_their_grid() {
        let every = Pace::Every { every: Span::from_ms(1_000), phase: Span::from_ms(300), hold: Span::ZERO };
        let after = Pace::AfterSlot(Span::from_ms(500));
        for (pace, read_at, expected) in [
            (every, 10_000, 10_300),
            (every, 10_300, 11_300),
            (every, 10_999, 11_300),
            (after, 30_000, 30_500),
            (after, 30_500, 60_500),
        ] {
            assert_eq!(pace.after(at(read_at), Span::from_secs(30)), at(expected), "{pace:?} after {read_at}");
        }
    }

    #[test]
    fn a_slot_is_handed_over_once_and_only_when_something_was_read() {
        let found = |ms: i64, n: u64| {
            vec![Found::new(at(ms), Portion { classes: [(class::ok(), n)].into(), ..Portion::default() })]
        };
        let every = Pace::Every { every: Span::from_ms(100), phase: Span::ZERO, hold: Span::from_ms(200) };
        let mut slots = Slots::new(Span::from_ms(1_000), every, at(5_100));
        slots.take(found(5_200, 1), at(5_200));
        slots.take(found(4_900, 2), at(5_300));
        assert!(slots.close(at(6_199)).is_empty());
        slots.take(found(6_100, 4), at(6_150));
        slots.take(found(5_900, 8), at(6_150));
        let closed = |slots: &mut Slots, ms: i64| -> Vec<(i64, u64)> {
            let all = slots.close(at(ms)).into_iter();
            all.map(|(slot, mut gathered)| (slot.as_ms(), gathered.portion(None).n())).collect()
        };
        assert_eq!(
            closed(&mut slots, 6_200),
            [(5_000, 11)],
            "what is of no open slot belongs to the one in which it came"
        );
        assert_eq!(closed(&mut slots, 6_201), []);
        slots.take(found(5_950, 16), at(6_300));
        assert_eq!(closed(&mut slots, 9_000), [(6_000, 20)]);
        slots.take(found(7_500, 1), at(7_500));
        assert_eq!(closed(&mut slots, 20_000), [], "a clock that was set back makes no second sample");
        slots.take(Vec::new(), at(20_500));
        assert_eq!(closed(&mut slots, 30_000), [], "silence is a gap");
    }

    #[test]
    fn a_whole_slot_is_handed_over_as_soon_as_it_was_read() {
        let found = |ms: i64| vec![Found::new(at(ms), Portion::default())];
        let mut slots = Slots::new(Span::from_ms(1_000), Pace::AfterSlot(Span::from_ms(100)), at(5_900));
        let closed = |slots: &mut Slots, ms: i64| -> Vec<i64> {
            slots.close(at(ms)).into_iter().map(|(slot, _)| slot.as_ms()).collect()
        };
        assert_eq!(closed(&mut slots, 6_000), [0; 0]);
        slots.take(found(5_000), at(6_100));
        assert_eq!(closed(&mut slots, 6_100), [5_000]);
        slots.take(found(5_000), at(6_200));
        assert_eq!(closed(&mut slots, 6_200), [0; 0], "a slot has one sample");
        // A reading that took longer than a slot.
        slots.take(found(6_000), at(8_300));
        assert_eq!(closed(&mut slots, 8_300), [6_000]);
    }
}
