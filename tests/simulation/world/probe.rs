//! Probe agents: they take up assignments, look, and send one tick per slot. May be silent, dead,
//! without DNS, or cut off, and then backfill.

use std::collections::BTreeMap;

use bellwether_protocol::assignment::Assignment;
use bellwether_protocol::id::{AgentId, SliName};
use bellwether_protocol::presence::{PRESENCE_EVERY, Watching};
use bellwether_protocol::record::{Series, Source};
use bellwether_protocol::sample::{Cohort, Control, Portion, Sample, Tick, class};
use bellwether_protocol::time::{Span, Timestamp, slot_start};

use super::{Bug, World, presence};

/// Looks per slot, and answers per look.
const LOOKS: u64 = 6;
const ANSWERS: u64 = 10;
/// How far off a clock is that nothing vouches for.
const ADRIFT_MS: i64 = 20_000;

/// One probe agent.
#[derive(Debug)]
pub(crate) struct Probe {
    pub(crate) id: AgentId,
    assignment: Option<Assignment>,
    slot: Timestamp,
    samples: BTreeMap<(SliName, Cohort), Sample>,
    spool: Vec<Tick>,
    /// What was sent, and into which stream: sent again into another one.
    sent: Vec<Tick>,
    sent_to: Option<Timestamp>,
    seq: u64,
    /// Alive, but looks at nothing.
    pub(crate) is_silent: bool,
    /// Gone.
    pub(crate) is_dead: bool,
    /// Resolves no name, and knows it by its control target.
    pub(crate) is_sick: bool,
    pub(crate) is_cut_off: bool,
    /// Its clock is far off, and it knows.
    pub(crate) is_adrift: bool,
    was_adrift: bool,
    /// How far its clock is off when it is well, in milliseconds.
    skew: i64,
    handed_over: Timestamp,
}

impl Probe {
    pub(crate) fn new(id: &str, skew: i64) -> Self {
        Self {
            id: id.parse().unwrap(),
            assignment: None,
            slot: Timestamp::default(),
            samples: BTreeMap::new(),
            spool: Vec::new(),
            sent: Vec::new(),
            sent_to: None,
            seq: 0,
            is_silent: false,
            is_dead: false,
            is_sick: false,
            is_cut_off: false,
            is_adrift: false,
            was_adrift: false,
            skew,
            handed_over: Timestamp::default(),
        }
    }
}

impl World {
    pub(crate) fn probes_hear(&mut self) {
        for i in 0..self.probes.len() {
            let lag = self.lag();
            self.after(lag, move |world| world.take_up(i));
        }
    }

    /// Takes up the newest assignment of its region; never goes back.
    fn take_up(&mut self, i: usize) {
        let probe = &mut self.probes[i];
        let Some(new) = self.broker.assignments.get(&probe.id.region).filter(|_| !probe.is_dead && !probe.is_cut_off)
        else {
            return;
        };
        if probe.assignment.as_ref() != Some(new) {
            probe.assignment = Some(new.clone());
            probe.samples.clear();
            self.say_present(i);
        }
    }

    fn say_present(&mut self, i: usize) {
        let probe = &self.probes[i];
        if probe.is_dead || probe.is_cut_off {
            return;
        }
        let mut presence = presence(&probe.id, self.now);
        if let Some(assignment) = &probe.assignment {
            let watching = Watching { revision: assignment.revision, refused: None, gaps: Vec::new() };
            presence.watching.insert(self.service.clone(), watching);
        }
        self.present(presence);
    }

    pub(crate) fn probe_beats(&mut self, i: usize) {
        self.take_up(i);
        self.say_present(i);
        self.after(PRESENCE_EVERY, move |world| world.probe_beats(i));
    }

    pub(crate) fn looks_begin(&mut self, i: usize) {
        // Near the edge of a slot where the clock is off, so that some looks fall into another one.
        let half = i64::try_from(self.slot.as_ms() / LOOKS / 2).unwrap();
        let first = Timestamp::from_ms(self.now.as_ms() + half + 2 * self.probes[i].skew);
        self.at(first, move |world| world.look(i));
    }

    fn look(&mut self, i: usize) {
        let every = Span::from_ms(self.slot.as_ms() / LOOKS);
        self.after(every, move |world| world.look(i));
        let is_adrift = self.probes[i].is_adrift;
        let skew = if is_adrift { ADRIFT_MS } else { self.probes[i].skew };
        let width = self.probes[i].assignment.as_ref().map_or(self.slot, |assignment| assignment.slot);
        let slot = slot_start(Timestamp::from_ms(self.now.as_ms() + skew), width);
        if self.probes[i].slot != slot {
            self.send(i);
            self.probes[i].slot = slot;
        }
        // A clock that was set back makes no second sample of one slot.
        if slot <= self.probes[i].handed_over {
            return;
        }
        self.probes[i].was_adrift |= is_adrift;
        let Some(assignment) = self.probes[i].assignment.clone().filter(|_| !self.probes[i].is_dead) else { return };
        let is_silent = self.probes[i].is_silent;
        if is_silent && self.bug != Some(Bug::SilentIsGreen) {
            return;
        }
        let is_sick = self.probes[i].is_sick;
        for look in &assignment.looks {
            let release = self.site.release(look.cohort, &assignment.region).filter(|_| !is_sick);
            let bad = self.site.bad_of(ANSWERS, release.as_ref(), &assignment.region, &mut self.rng);
            let bad = if is_sick { BTreeMap::from([(class::RESOLVE, ANSWERS)]) } else { bad };
            if !is_sick && !is_silent && !is_adrift {
                let series = Series { sli: look.sli.clone(), cohort: look.cohort, region: assignment.region.clone() };
                let seen = self.watch.looked.entry((series, slot)).or_default();
                *seen.entry(release.clone()).or_default() += ANSWERS;
            }
            let mut classes = if is_silent { BTreeMap::new() } else { bad };
            classes.insert(class::OK, ANSWERS - classes.values().sum::<u64>());
            let sample = self.probes[i].samples.entry((look.sli.clone(), look.cohort)).or_insert_with(|| Sample {
                rollout: assignment.rollout.clone(),
                revision: assignment.revision,
                sli: look.sli.clone(),
                cohort: look.cohort,
                slot,
                portions: Vec::new(),
                control: if is_sick { Control::Sick } else { Control::Well },
                evidence: Vec::new(),
                source: None,
            });
            if is_sick {
                sample.control = Control::Sick;
            }
            let mut portion = Portion { release, ..Portion::default() };
            for (class, count) in classes {
                if count > 0 {
                    portion.classes.insert(class.parse().unwrap(), count);
                }
            }
            if !is_sick {
                portion.latency.0.insert(50, ANSWERS);
            }
            match sample.portions.iter_mut().find(|own| own.release == portion.release) {
                Some(own) => own.merge(&portion),
                None => sample.portions.push(portion),
            }
        }
    }

    /// Sends the slot that is over, or spools it.
    fn send(&mut self, i: usize) {
        let probe = &mut self.probes[i];
        if probe.is_dead {
            probe.samples.clear();
            return;
        }
        if !probe.samples.is_empty() {
            probe.seq += 1;
            probe.handed_over = probe.handed_over.max(probe.slot);
            let clock_adrift = std::mem::take(&mut probe.was_adrift);
            let samples = std::mem::take(&mut probe.samples).into_values().collect();
            probe.spool.push(Tick { agent: probe.id.clone(), seq: probe.seq, clock_adrift, samples });
        }
        if probe.is_cut_off {
            return;
        }
        let created = self.broker.created.get(&Source::Samples).copied();
        if probe.sent_to != created {
            probe.sent_to = created;
            probe.spool.splice(0..0, std::mem::take(&mut probe.sent));
        }
        probe.sent.extend(probe.spool.iter().cloned());
        for tick in std::mem::take(&mut probe.spool) {
            let (lost, late, twice) = (self.faults.sample_lost, self.faults.sample_late, self.faults.sample_twice);
            if self.strikes(lost) {
                continue;
            }
            let times = if self.strikes(twice) { 2 } else { 1 };
            for _ in 0..times {
                let late = if self.strikes(late) { self.some(500, 15_000) } else { Span::ZERO };
                let (lag, tick) = (self.lag(), tick.clone());
                self.at(self.now + lag + late, move |world| world.store_tick(tick));
            }
        }
    }
}
