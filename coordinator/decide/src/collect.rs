//! Samples to closed slots. Which slots are closed is a pure rule; whose word counts is another.
//!
//! A slot closes when every assigned reporter is in, or when everything stored until its end plus
//! grace has been read. Before that, permutations and duplicates change nothing. What arrives after
//! is late. Nothing here forgets a sample before the log holds it.

use std::collections::{BTreeMap, BTreeSet};

use bellwether_protocol::id::{AgentId, Region, Release, Role};
use bellwether_protocol::reason::DataFault;
use bellwether_protocol::record::{ClosedSlot, Input, Series};
use bellwether_protocol::sample::{Control, EVIDENCE_MAX, PORTIONS_MAX, Portion, SAMPLES_MAX, Sample, Tick, class};
use bellwether_protocol::time::{Span, Timestamp, slot_start};

use crate::state::{Desk, Rollout};

/// Most slots that one record closes; the rest goes into the next one, so that records stay small.
pub const CLOSED_MAX: usize = 400;
/// Most messages that wait for the log, the newest ones.
const EARLY_MAX: usize = 1_000;
/// How far ahead of the next slot to close a sample may be: coordinators are not away for longer, and a clock that is
/// wrong by as much must not fill memory.
const AHEAD_MAX: Span = Span::from_secs(24 * 3_600);

/// How far the samples stream was read, and when.
#[derive(Debug, Clone, Copy)]
pub struct Heard {
    /// An instant before which every stored sample has been offered.
    pub upto: Timestamp,
    /// The time.
    pub now: Timestamp,
}

/// Samples of one service that the log does not hold yet.
#[derive(Debug, Default, Clone)]
pub struct Collector {
    open: BTreeMap<(Timestamp, Series), Open>,
    late: BTreeMap<u64, Vec<ClosedSlot>>,
    /// Samples of an assignment that the log, as far as it was read, does not hold yet.
    early: BTreeMap<u64, Tick>,
    /// The first fault of each agent that is still to be told.
    faults: BTreeMap<AgentId, DataFault>,
    read_upto: u64,
}

type Open = BTreeMap<AgentId, Report>;

#[derive(Debug, Clone)]
struct Report {
    seq: u64,
    sample: Sample,
    clock_adrift: bool,
}

impl Collector {
    /// Takes in one message of the samples stream. What does not belong to the rollout that is on is
    /// left out; so is what cannot be right, and that is told.
    pub fn offer(&mut self, desk: &Desk, seq: u64, tick: &Tick) {
        self.read_upto = self.read_upto.max(seq);
        // The log is read by another reader, which may be behind.
        if tick.samples.iter().any(|sample| is_early(desk, &tick.agent.region, sample)) {
            let mut early = tick.clone();
            early.samples.retain(|sample| is_early(desk, &tick.agent.region, sample));
            self.early.insert(seq, early);
            if self.early.len() > EARLY_MAX {
                self.early.pop_first();
            }
        }
        let Some(rollout) = desk.running() else { return };
        let own = tick.samples.iter().filter(|sample| sample.rollout == rollout.id);
        for sample in own.take(SAMPLES_MAX) {
            self.take(desk, rollout, seq, tick, sample);
        }
    }

    /// Takes note of a message of the samples stream that is not one of `agent`'s samples.
    pub fn offer_unreadable(&mut self, desk: &Desk, seq: u64, agent: &AgentId) {
        self.read_upto = self.read_upto.max(seq);
        if desk.running().is_some_and(|rollout| reporters(desk, rollout, &agent.region, None).contains(agent)) {
            self.faults.entry(agent.clone()).or_insert(DataFault::Unreadable);
        }
    }

    fn take(&mut self, desk: &Desk, rollout: &Rollout, seq: u64, tick: &Tick, sample: &Sample) {
        let region = &tick.agent.region;
        let series = Series { sli: sample.sli.clone(), cohort: sample.cohort, region: region.clone() };
        let Some(state) = rollout.evidence.series.get(&series) else { return };
        let is_ours = rollout.revisions.get(region) == Some(&sample.revision);
        let is_placed = slot_start(sample.slot, rollout.plan.slot) == sample.slot;
        if !is_ours || !is_placed || sample.slot >= state.next + AHEAD_MAX {
            return;
        }
        if !sample.is_sound() {
            self.faults.entry(tick.agent.clone()).or_insert(DataFault::Impossible);
            return;
        }
        let report = Report { seq, sample: sample.clone(), clock_adrift: tick.clock_adrift };
        if sample.slot >= state.next {
            let open = self.open.entry((sample.slot, series)).or_default();
            // The same key again is a repeat; with other content it is a fault of the agent, and the first word stands.
            let first = open.entry(tick.agent.clone()).or_insert_with(|| report.clone());
            if first.sample != report.sample {
                self.faults.entry(tick.agent.clone()).or_insert(DataFault::Contradiction);
            }
        } else if seq > desk.read {
            self.put_late(&series, tick.agent.clone(), report);
        }
    }

    fn put_late(&mut self, series: &Series, agent: AgentId, report: Report) {
        let (seq, slot) = (report.seq, report.sample.slot);
        let closed = merge(series, slot, &BTreeMap::from([(agent, report)]));
        self.late.entry(seq).or_default().push(closed);
    }

    /// Everything that can be folded now: late slots, then closed ones in slot order; at most `most`
    /// slots are taken. Changes nothing: what is not logged is offered again.
    pub fn inputs(&self, desk: &Desk, heard: Heard, most: usize) -> Vec<Input> {
        let Some(rollout) = desk.running() else { return Vec::new() };
        let untold = self.faults.iter().filter(|(agent, _)| !rollout.faulty.contains(*agent));
        let faults = untold.take(most).map(|(agent, fault)| Input::DataFault { agent: agent.clone(), fault: *fault });
        let mut inputs = Vec::new();
        let mut read = self.read_upto.max(desk.read);
        for (seq, slots) in self.late.range(desk.read.saturating_add(1)..) {
            if inputs.len() >= most {
                break;
            }
            inputs.extend(slots.iter().cloned().map(Input::Late));
            read = if inputs.len() >= most { *seq } else { read };
        }
        let mut closed = Vec::new();
        for (series, state) in &rollout.evidence.series {
            let kind = rollout.plan.sli(&series.sli).map(|sli| sli.kind.as_str());
            let reporters = reporters(desk, rollout, &series.region, kind);
            let mut slot = state.next;
            while closed.len() < most {
                let open = self.open.get(&(slot, series.clone()));
                let end = slot + rollout.plan.slot;
                // Whoever is ahead of the time must not shorten a soak; clocks that differ a little may.
                let is_over = end <= heard.now + rollout.plan.grace;
                let all_in = is_over
                    && !reporters.is_empty()
                    && open.is_some_and(|open| reporters.iter().all(|agent| open.contains_key(agent)));
                if !all_in && heard.upto < end + rollout.plan.grace {
                    break;
                }
                closed.push(merge(series, slot, open.unwrap_or(&Open::new())));
                slot = end;
            }
        }
        closed.sort_by(|a, b| (a.slot, &a.series).cmp(&(b.slot, &b.series)));
        inputs.extend(closed.into_iter().map(Input::Closed));
        if !inputs.is_empty() {
            inputs.insert(0, Input::Read { seq: read });
        }
        inputs.extend(faults);
        inputs
    }

    /// Forgets what the log now holds, and takes in what was early.
    pub fn prune(&mut self, desk: &Desk) {
        self.forget(desk);
        for (seq, tick) in std::mem::take(&mut self.early) {
            self.offer(desk, seq, &tick);
        }
    }

    fn forget(&mut self, desk: &Desk) {
        let Some(rollout) = desk.running() else {
            self.open.clear();
            self.late.clear();
            self.faults.clear();
            return;
        };
        let next = |series: &Series| rollout.evidence.series.get(series).map(|state| state.next);
        let open = std::mem::take(&mut self.open);
        for ((slot, series), reports) in open {
            match next(&series) {
                Some(next) if slot >= next => {
                    self.open.insert((slot, series), reports);
                }
                // Another coordinator closed this slot before it had read these: they are late now.
                Some(_) => {
                    for (agent, report) in reports.into_iter().filter(|(_, report)| report.seq > desk.read) {
                        self.put_late(&series, agent, report);
                    }
                }
                None => {}
            }
        }
        self.late = self.late.split_off(&desk.read.saturating_add(1));
        self.faults.retain(|agent, _| !rollout.faulty.contains(agent));
    }

    /// The stream is read from its start, under new numbers. What is held cannot be read again.
    pub fn begin_anew(&mut self) {
        self.read_upto = 0;
        self.late.clear();
        self.early.clear();
        self.open.values_mut().flat_map(BTreeMap::values_mut).for_each(|report| report.seq = 0);
    }

    /// The last sequence that was offered.
    pub fn read_upto(&self) -> u64 {
        self.read_upto
    }

    /// When the next slot closes at the latest.
    pub fn next_close(&self, desk: &Desk) -> Option<Timestamp> {
        let rollout = desk.running()?;
        let next = rollout.evidence.series.values().map(|state| state.next).min()?;
        Some(next + rollout.plan.slot + rollout.plan.grace)
    }

    /// The lowest samples sequence that a restart from `desk` must read again.
    pub fn lowest_needed(&self, desk: &Desk) -> u64 {
        let next = |series: &Series| desk.running().and_then(|r| r.evidence.series.get(series)).map(|state| state.next);
        let open = self.open.iter().filter(|((slot, series), _)| next(series).is_some_and(|next| *slot >= next));
        let open = open.flat_map(|(_, reports)| reports.values()).map(|report| report.seq).filter(|seq| *seq > 0);
        let late = self.late.keys().copied().filter(|seq| *seq > desk.read);
        open.chain(late).chain(self.early.keys().copied()).min().unwrap_or(self.read_upto.saturating_add(1))
    }
}

/// Whether a sample is of an assignment that comes after those that are known.
fn is_early(desk: &Desk, region: &Region, sample: &Sample) -> bool {
    let known = desk.rollout.as_ref().map(|rollout| (rollout.id.number, rollout.revisions.get(region).copied()));
    let known = known.map(|(number, revision)| (number, revision.unwrap_or_default()));
    sample.rollout.service == desk.service && known.is_none_or(|known| known < (sample.rollout.number, sample.revision))
}

/// Agents that can do looks of a kind, or of any kind, and have taken up a region's assignment: they
/// are waited for.
pub fn reporters(desk: &Desk, rollout: &Rollout, region: &Region, kind: Option<&str>) -> BTreeSet<AgentId> {
    // Before the region was given an assignment, nobody has taken it up.
    let Some(revision) = rollout.revisions.get(region) else { return BTreeSet::new() };
    let watching = desk.agents.iter().filter(|(agent, here)| {
        let watching = here.watching.as_ref().filter(|watching| watching.refused.is_none());
        agent.region == *region
            && kind.map_or(!here.kinds.is_empty(), |kind| here.kinds.contains(kind))
            && watching.is_some_and(|watching| watching.revision == *revision)
    });
    watching.map(|(agent, _)| agent.clone()).collect()
}

/// The slot that these samples close, each of another nameless agent of the series' region; by the same rules.
pub fn closed_by(series: &Series, slot: Timestamp, samples: &[Sample]) -> ClosedSlot {
    let reports = samples.iter().enumerate().filter_map(|(number, sample)| {
        let name = format!("agent-{number}").parse().ok()?;
        let agent = AgentId { region: series.region.clone(), role: Role::Probe, name };
        Some((agent, Report { seq: 0, sample: sample.clone(), clock_adrift: false }))
    });
    merge(series, slot, &reports.collect())
}

fn merge(series: &Series, slot: Timestamp, by_agent: &BTreeMap<AgentId, Report>) -> ClosedSlot {
    let mut closed = ClosedSlot {
        series: series.clone(),
        slot,
        reporters: 0,
        unwell: 0,
        portions: Vec::new(),
        evidence: Vec::new(),
    };
    let mut portions: BTreeMap<Option<Release>, Portion> = BTreeMap::new();
    let mut sources = BTreeSet::new();
    for (agent, report) in by_agent {
        if !is_well(agent, by_agent) {
            closed.unwell += 1;
            continue;
        }
        closed.reporters += 1;
        if report.sample.source.as_ref().is_some_and(|source| !sources.insert(source)) {
            continue; // another agent read the same events
        }
        for portion in report.sample.portions.iter().take(PORTIONS_MAX) {
            let empty = || Portion { release: portion.release.clone(), ..Portion::default() };
            portions.entry(portion.release.clone()).or_insert_with(empty).merge(portion);
        }
        closed.evidence.extend(report.sample.evidence.iter().cloned());
    }
    closed.portions = portions.into_values().collect();
    closed.evidence.sort_by_key(|evidence| evidence.at);
    closed.evidence.truncate(EVIDENCE_MAX);
    closed
}

/// Whether an agent's word counts in this slot.
///
/// A failure before any response byte counts only when the agent's own control target answered, or
/// when another agent, not itself sick, saw such a failure too. Else the agent may be the cause.
fn is_well(agent: &AgentId, by_agent: &BTreeMap<AgentId, Report>) -> bool {
    let Some(report) = by_agent.get(agent) else { return false };
    if report.clock_adrift {
        return false;
    }
    let failed_early = |report: &Report| {
        let classes = report.sample.portions.iter().flat_map(|portion| &portion.classes);
        classes.into_iter().any(|(class, count)| *count > 0 && class::is_before_response(class))
    };
    if !failed_early(report) {
        return true;
    }
    match report.sample.control {
        Control::Well => true,
        Control::Sick => false,
        Control::Absent => by_agent.iter().any(|(other, second)| {
            other != agent && !second.clock_adrift && second.sample.control != Control::Sick && failed_early(second)
        }),
    }
}
