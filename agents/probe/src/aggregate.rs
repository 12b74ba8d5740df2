//! Looks to samples: one per slot and watch, with one portion per release that was seen to answer.
//!
//! A look belongs to the slot in which it *started*. A slot is handed over at its end, or when the look
//! that runs across its end is over, at the latest after that look's timeout. A slot without looks is
//! handed over too: nothing seen is told, so that silence means a gap.
//!
//! This module never reads a clock and never waits; every instant is an argument.

use std::collections::BTreeMap;

use bellwether_bus::Trace;
use bellwether_protocol::id::Revision;
use bellwether_protocol::sample::{Control, Level, Sample, class};
use bellwether_protocol::time::{Span, Timestamp, slot_start};
use bellwether_runtime::web::ControlLooks;
use bellwether_runtime::{Gathered, Watch};

use crate::observation::Observation;

/// How long after its timeout a look may still report, for a machine that is busy.
const REPORT_LAG_MAX: Span = Span::from_ms(500);
/// Most slots of one watch that wait for their looks. A look's timeout is bounded, so only a clock that jumps needs more.
const OPEN_MAX: usize = 100;

/// Names one watch for as long as it lasts; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct WatchId(u64);

/// One look that has begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(crate) struct Ticket {
    watch: WatchId,
    slot: Timestamp,
}

/// All open slots of all watches.
#[derive(Debug, Default)]
pub(crate) struct Aggregate {
    watches: BTreeMap<WatchId, Open>,
    next: u64,
    control: Option<ControlLooks>,
    /// The first bad look among the slots that were handed over and not yet sent.
    blamed: Trace,
}

#[derive(Debug)]
struct Open {
    watch: Watch,
    slots: BTreeMap<Timestamp, Slot>,
    handed_over: Option<Timestamp>,
}

#[derive(Debug, Default)]
struct Slot {
    running_since: Option<Timestamp>,
    /// Where its first bad look stands in a trace.
    blamed: Trace,
    gathered: Gathered,
}

impl Aggregate {
    /// With what is seen of the control target, if there is one.
    pub(crate) fn new(control: Option<ControlLooks>) -> Self {
        Self { control, ..Self::default() }
    }

    /// Begins to collect.
    pub(crate) fn add(&mut self, watch: Watch, now: Timestamp) -> WatchId {
        let id = WatchId(self.next);
        self.next += 1;
        let mut open = Open { watch, slots: BTreeMap::new(), handed_over: None };
        open.touch(now);
        self.watches.insert(id, open);
        id
    }

    /// The same watch, under a later assignment. Its open slots go on.
    pub(crate) fn renew(&mut self, id: WatchId, revision: Revision) {
        if let Some(open) = self.watches.get_mut(&id) {
            open.watch.revision = revision;
        }
    }

    /// Ends a watch. Its open slots are dropped: they were of an assignment that no longer holds.
    pub(crate) fn remove(&mut self, id: WatchId) {
        self.watches.remove(&id);
    }

    /// A look begins. `None` when it must not: the watch has ended, or its slot was already handed over.
    pub(crate) fn begin(&mut self, id: WatchId, now: Timestamp) -> Option<Ticket> {
        let open = self.watches.get_mut(&id)?;
        let start = open.touch(now)?;
        open.slots.get_mut(&start)?.running_since = Some(now);
        Some(Ticket { watch: id, slot: start })
    }

    /// A look is over. What comes after its slot was handed over is dropped.
    pub(crate) fn end(&mut self, ticket: Ticket, seen: Observation, now: Timestamp) {
        let Some(open) = self.watches.get_mut(&ticket.watch) else { return };
        if let Some(slot) = open.slots.get_mut(&ticket.slot) {
            slot.running_since = None;
            slot.count(&open.watch.edges_ms, seen, now);
        }
    }

    /// A look was bad, and this is its place in a trace: what is sent of its slot follows it.
    pub(crate) fn blame(&mut self, ticket: &Ticket, trace: Trace) {
        let open = self.watches.get_mut(&ticket.watch);
        if let Some(slot) = open.and_then(|open| open.slots.get_mut(&ticket.slot)).filter(|slot| slot.blamed.is_none())
        {
            slot.blamed = trace;
        }
    }

    /// What the slots follow that were handed over.
    pub(crate) fn take_blamed(&mut self) -> Trace {
        std::mem::take(&mut self.blamed)
    }

    /// A look at the control target begins.
    pub(crate) fn control_begins(&mut self, now: Timestamp) {
        if let Some(control) = &mut self.control {
            control.begins(now);
        }
    }

    /// The look at the control target is over; gives how long to wait for the next.
    pub(crate) fn control_ends(&mut self, is_well: bool) -> Span {
        if let Some(control) = &mut self.control {
            control.ends(is_well);
        }
        ControlLooks::every(self.watches.values().map(|open| open.watch.slot))
    }

    /// Hands over every slot that is over, and opens the ones of `now`.
    pub(crate) fn close(&mut self, now: Timestamp) -> Vec<Sample> {
        let (control, blamed) = (self.control.as_ref(), &mut self.blamed);
        self.watches.values_mut().flat_map(|open| open.close(control, blamed, now)).collect()
    }
}

impl Open {
    /// Opens the slot of `now`, unless it was already handed over: a clock that was set back must not
    /// make a second sample of one slot.
    fn touch(&mut self, now: Timestamp) -> Option<Timestamp> {
        let start = slot_start(now, self.watch.slot);
        if self.handed_over.is_some_and(|last| start <= last) {
            return None;
        }
        if !self.slots.contains_key(&start) && self.slots.len() >= OPEN_MAX {
            self.slots.pop_first();
        }
        self.slots.entry(start).or_default();
        Some(start)
    }

    fn close(&mut self, control: Option<&ControlLooks>, blamed: &mut Trace, now: Timestamp) -> Vec<Sample> {
        self.touch(now);
        let watch = &self.watch;
        let control = |start| control.map_or(Some(Control::Absent), |own| own.during(start, watch.slot, now));
        let is_over = |start: Timestamp, slot: &Slot| {
            let late = |since: Timestamp| now >= since + watch.timeout + REPORT_LAG_MAX;
            start + watch.slot <= now && slot.running_since.is_none_or(late) && control(start).is_some()
        };
        let over: Vec<Timestamp> =
            self.slots.iter().filter(|(start, slot)| is_over(**start, slot)).map(|(start, _)| *start).collect();
        self.handed_over = self.handed_over.max(over.last().copied());
        let slots = over.into_iter().filter_map(|start| Some((start, self.slots.remove(&start)?)));
        let slots = slots.inspect(|(_, slot)| {
            if blamed.is_none() {
                *blamed = slot.blamed.clone();
            }
        });
        let sample = |(start, slot): (_, Slot)| Some(slot.gathered.sample(watch, start, control(start)?));
        slots.filter_map(sample).collect()
    }
}

impl Slot {
    fn count(&mut self, edges_ms: &[u64], seen: Observation, now: Timestamp) {
        let class = class::known(seen.class);
        if let Some(text) = seen.evidence {
            self.gathered.note(now, class.clone(), text);
        }
        let portion = self.gathered.portion(seen.release);
        let count = portion.classes.entry(class).or_default();
        *count = count.saturating_add(1);
        if let Some(latency) = seen.latency {
            portion.latency.record(edges_ms, latency);
        }
        for (name, value) in seen.numbers {
            let level = Level::one(value);
            portion.numbers.entry(name).and_modify(|own| own.merge(&level)).or_insert(level);
        }
    }
}

#[cfg(test)]
mod tests {
    use bellwether_protocol::sample::{Cohort, PORTIONS_MAX, Portion};

    use super::*;

    const SLOT: u64 = 30_000;

    fn at(ms: u64) -> Timestamp {
        Timestamp::from_ms(i64::try_from(ms).unwrap())
    }

    fn watch() -> Watch {
        Watch {
            rollout: "shop/1".parse().unwrap(),
            revision: Revision(7),
            sli: "errors".parse().unwrap(),
            cohort: Cohort::Canary,
            slot: Span::from_ms(SLOT),
            timeout: Span::from_secs(10),
            edges_ms: vec![10, 100],
        }
    }

    fn seen(class: &'static str, release: Option<&str>) -> Observation {
        Observation {
            class,
            latency: (class == class::OK).then_some(Span::from_ms(42)),
            release: release.map(|text| text.parse().unwrap()),
            numbers: BTreeMap::new(),
            evidence: (class != class::OK).then(|| "because".to_owned()),
        }
    }

    fn start(control: Option<ControlLooks>) -> (Aggregate, WatchId) {
        let mut aggregate = Aggregate::new(control);
        let id = aggregate.add(watch(), at(0));
        (aggregate, id)
    }

    fn look(aggregate: &mut Aggregate, id: WatchId, ms: u64, seen: Observation) {
        let ticket = aggregate.begin(id, at(ms)).expect("an open slot");
        aggregate.end(ticket, seen, at(ms + 5));
    }

    /// (slot, n) of each sample.
    fn handed(samples: &[Sample]) -> Vec<(i64, u64)> {
        samples.iter().map(|s| (s.slot.as_ms(), s.portions.iter().map(Portion::n).sum())).collect()
    }

    #[test]
    fn every_known_class_is_a_token() {
        for name in class::ALL {
            assert_eq!(class::known(name).as_str(), name);
        }
    }

    #[test]
    fn a_slot_is_handed_over_once_at_its_end() {
        let (mut aggregate, id) = start(None);
        look(&mut aggregate, id, 1_000, seen(class::OK, Some("v1")));
        look(&mut aggregate, id, 29_990, seen(class::HTTP_5XX, Some("v1")));
        assert!(aggregate.close(at(SLOT - 1)).is_empty());
        let samples = aggregate.close(at(SLOT));
        assert_eq!(handed(&samples), [(0, 2)]);
        assert_eq!((samples[0].revision, samples[0].control), (Revision(7), Control::Absent));
        assert_eq!(samples[0].portions[0].latency.0, BTreeMap::from([(10, 0), (100, 1)]));
        assert_eq!(samples[0].evidence.len(), 1);
        assert!(aggregate.close(at(SLOT + 1)).is_empty());
        assert_eq!(handed(&aggregate.close(at(2 * SLOT))), [(30_000, 0)], "an empty slot is told too");
    }

    #[test]
    fn a_look_belongs_to_the_slot_in_which_it_started() {
        let (mut aggregate, id) = start(None);
        let ticket = aggregate.begin(id, at(SLOT - 1)).expect("a look");
        assert!(aggregate.close(at(SLOT)).is_empty(), "the slot waits for its look");
        aggregate.end(ticket, seen(class::TIMEOUT, None), at(SLOT + 9_000));
        assert_eq!(handed(&aggregate.close(at(SLOT + 9_001))), [(0, 1)]);
    }

    #[test]
    fn a_look_that_never_reports_holds_a_slot_only_for_its_timeout() {
        let (mut aggregate, id) = start(None);
        let ticket = aggregate.begin(id, at(SLOT - 1)).expect("a look");
        let end = SLOT - 1 + 10_000 + REPORT_LAG_MAX.as_ms();
        assert!(aggregate.close(at(end - 1)).is_empty());
        assert_eq!(handed(&aggregate.close(at(end))), [(0, 0)]);
        aggregate.end(ticket, seen(class::OK, None), at(end + 1));
        assert_eq!(handed(&aggregate.close(at(2 * SLOT))), [(30_000, 0)], "what comes late is in no slot");
    }

    #[test]
    fn time_in_which_nobody_watched_is_a_gap() {
        let (mut aggregate, _) = start(None);
        assert_eq!(handed(&aggregate.close(at(5 * SLOT))), [(0, 0)]);
        assert_eq!(handed(&aggregate.close(at(6 * SLOT))), [(150_000, 0)]);
    }

    #[test]
    fn a_clock_set_back_makes_no_second_sample() {
        let (mut aggregate, id) = start(None);
        assert_eq!(handed(&aggregate.close(at(SLOT))), [(0, 0)]);
        assert_eq!(aggregate.begin(id, at(SLOT - 1)), None);
        assert!(aggregate.close(at(0)).is_empty());
    }

    #[test]
    fn releases_are_kept_apart_and_bounded() {
        let (mut aggregate, id) = start(None);
        for n in 0..20 {
            look(&mut aggregate, id, 100 * n, seen(class::OK, Some(&format!("v{n}"))));
        }
        look(&mut aggregate, id, 5_000, seen(class::CONNECT, None));
        let samples = aggregate.close(at(SLOT));
        assert_eq!(samples[0].portions.len(), PORTIONS_MAX);
        assert_eq!(handed(&samples), [(0, 21)]);
        let unnamed: Vec<u64> = samples[0].portions.iter().filter(|p| p.release.is_none()).map(Portion::n).collect();
        assert_eq!(unnamed, [14]);
    }

    #[test]
    fn evidence_is_the_first_failures() {
        let (mut aggregate, id) = start(None);
        for n in 0..9 {
            look(&mut aggregate, id, 100 * n, seen(class::RESET, None));
        }
        let samples = aggregate.close(at(SLOT));
        let times: Vec<i64> = samples[0].evidence.iter().map(|e| e.at.as_ms()).collect();
        assert_eq!(times, [5, 105, 205]);
    }

    #[test]
    fn numbers_keep_their_extremes_and_the_last() {
        let (mut aggregate, id) = start(None);
        for (n, value) in [5.0, 1.0, 3.0].into_iter().enumerate() {
            let numbers = BTreeMap::from([("memory".parse().unwrap(), value)]);
            look(&mut aggregate, id, n as u64, Observation { numbers, ..seen(class::OK, None) });
        }
        let samples = aggregate.close(at(SLOT));
        let level = samples[0].portions[0].numbers.values().next().copied();
        assert_eq!(level, Some(Level { n: 3, min: 1.0, max: 5.0, last: 3.0 }));
    }

    #[test]
    fn slots_of_an_ended_watch_are_dropped_and_of_a_renewed_one_go_on() {
        let (mut aggregate, id) = start(None);
        look(&mut aggregate, id, 1_000, seen(class::OK, None));
        aggregate.renew(id, Revision(8));
        let other = aggregate.add(watch(), at(2_000));
        let ticket = aggregate.begin(other, at(3_000)).expect("a look");
        aggregate.remove(other);
        aggregate.end(ticket, seen(class::OK, None), at(3_001));
        assert_eq!(aggregate.begin(other, at(3_002)), None);
        let samples = aggregate.close(at(SLOT));
        assert_eq!(handed(&samples), [(0, 1)]);
        assert_eq!(samples[0].revision, Revision(8));
    }

    #[test]
    fn a_slot_waits_for_the_control_look_that_started_in_it() {
        let (mut aggregate, _) = start(Some(ControlLooks::default()));
        aggregate.control_begins(at(SLOT - 1));
        assert!(aggregate.close(at(SLOT)).is_empty());
        assert_eq!(aggregate.control_ends(true), Span::from_secs(5));
        assert_eq!(aggregate.close(at(SLOT + 1))[0].control, Control::Well);
        aggregate.control_begins(at(2 * SLOT - 1));
        assert!(aggregate.close(at(2 * SLOT)).is_empty());
        assert_eq!(aggregate.close(at(2 * SLOT + 2_500))[0].control, Control::Sick, "but not for ever");
    }
}
