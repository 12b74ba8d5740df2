//! Why a rollout went as it did, from its records alone.

use std::collections::{BTreeMap, BTreeSet};

use bellwether_decide::evidence::Counted;
use bellwether_decide::{Desk, Rollout, project};
use bellwether_protocol::command::{Ask, Command};
use bellwether_protocol::explanation::{
    Coverage, Decided, Explanation, MISSED_MAX, Missed, Move, SlotCounts, Standing, Users,
};
use bellwether_protocol::id::{CriterionName, LeverName, LeverValue, Region};
use bellwether_protocol::plan::{Plan, files};
use bellwether_protocol::presence::Gap;
use bellwether_protocol::reason::{Judgement, Reason};
use bellwether_protocol::record::{AgentSeen, ClosedSlot, Hash, Input, Record};
use bellwether_protocol::sample::{Cohort, EVIDENCE_MAX, Evidence};
use bellwether_protocol::time::Timestamp;

use crate::offline::{Gather, ReplayError, Which, gather};

/// Most slots that are told one by one.
const SLOTS_MAX: usize = 6;
/// Bad slots that are remembered on the way.
const KEPT_MAX: usize = 10_000;

/// Explains one rollout; `None` when the log does not hold it.
///
/// # Errors
/// When the log does not replay: what cannot be verified is not explained.
pub fn explain(lines: impl IntoIterator<Item = Vec<u8>>, which: Which<'_>) -> Result<Option<Explanation>, ReplayError> {
    Ok(gather(lines, which, Why::default)?.and_then(|all| explanation(all.all, &all.desk, all.now, all.records)))
}

/// What is gathered record by record.
#[derive(Default)]
pub(crate) struct Why {
    /// The plan that was judged by.
    plan_text: String,
    pub(crate) decided: Option<(Decided, Vec<Standing>, Vec<Coverage>)>,
    /// Slots with bad answers: the criterion that counts them, and which cohort's.
    slots: Vec<(CriterionName, Cohort, SlotCounts)>,
    last_set: BTreeMap<LeverName, LeverValue>,
    missed: Vec<Missed>,
    moves: Vec<Move>,
    applied: Option<Timestamp>,
    unseen: bool,
    recovered: Option<(Timestamp, u32)>,
    evidence: Vec<Evidence>,
}

impl Gather for Why {
    fn take(&mut self, record: &Record, before: Option<&Rollout>, slots: &[(&ClosedSlot, Counted<'_>)]) {
        for input in &record.inputs {
            if let Input::Presence(seen) = input {
                self.note_gaps(seen, record.now);
            }
        }
        if self.decided.is_none() {
            self.note_slots(slots);
        }
        for reason in &record.reasons {
            self.note(record, before, reason);
        }
    }
}

impl Why {
    fn note(&mut self, record: &Record, before: Option<&Rollout>, reason: &Reason) {
        match reason {
            Reason::Started { plan_hash, .. } | Reason::Amended { plan_hash } if self.decided.is_none() => {
                // Of several that were asked for, the one that was taken.
                let text = record
                    .inputs
                    .iter()
                    .filter_map(plan_text)
                    .find(|text| Hash::of(text.as_bytes()).short() == *plan_hash);
                self.plan_text = text.unwrap_or_default().to_owned();
            }
            Reason::StageEntered { .. } => {
                self.slots.clear();
                self.evidence.clear();
            }
            Reason::TakingBack { cause, .. } if self.decided.is_none() => {
                let decided = Decided { at: record.now, record: record.ordinal, cause: cause.clone() };
                let folded = before.map(|before| project::folded(before, &record.inputs));
                let standings = folded.as_ref().map(|folded| standings(folded, record.now)).unwrap_or_default();
                self.decided = Some((decided, standings, folded.as_ref().map(covered).unwrap_or_default()));
            }
            Reason::Asked { lever, to, .. } => {
                let from = self.last_set.insert(lever.clone(), to.clone());
                self.moves.push(Move {
                    lever: lever.clone(),
                    from,
                    to: to.clone(),
                    asked: record.now,
                    answered: None,
                    outcome: None,
                    done: 0,
                    targets: 0,
                    is_back: self.decided.is_some(),
                });
            }
            Reason::Answered { lever, outcome, done, targets, .. } => {
                if let Some(own) = self.moves.iter_mut().rfind(|own| own.lever == *lever) {
                    own.answered = Some(record.now);
                    own.outcome = Some(*outcome);
                    (own.done, own.targets) = (*done, *targets);
                }
            }
            Reason::Applied { unseen, .. } => (self.applied, self.unseen) = (Some(record.now), *unseen),
            Reason::Recovered { green, .. } => self.recovered = Some((record.now, *green)),
            _ => {}
        }
    }

    /// Remembers what an agent says that it cannot measure, and when it no longer says so.
    fn note_gaps(&mut self, seen: &AgentSeen, now: Timestamp) {
        let gaps = seen.here.iter().flat_map(|here| &here.watching).flat_map(|watching| &watching.gaps);
        let mut gaps: Vec<_> = gaps.cloned().collect();
        for open in self.missed.iter_mut().filter(|own| own.agent == seen.agent && own.until.is_none()) {
            let key = |gap: &Gap| (gap.sli.clone(), gap.cohort, gap.since);
            match gaps.iter().position(|gap| key(gap) == key(&open.gap)) {
                Some(at) => open.gap = gaps.remove(at),
                None => open.until = Some(now),
            }
        }
        let agent = &seen.agent;
        self.missed.extend(gaps.into_iter().map(|gap| Missed { agent: agent.clone(), gap, until: None }));
        self.missed.drain(..self.missed.len().saturating_sub(MISSED_MAX));
    }

    /// Remembers the slots in which a criterion counted bad answers, as the judge counted them.
    fn note_slots(&mut self, slots: &[(&ClosedSlot, Counted<'_>)]) {
        for (slot, counted) in slots {
            let room = EVIDENCE_MAX.saturating_sub(self.evidence.len());
            self.evidence.extend(slot.evidence.iter().take(room).cloned());
            for (criterion, tally) in counted.tallies.iter().filter(|(_, tally)| tally.bad > 0) {
                if self.slots.len() < KEPT_MAX {
                    let ClosedSlot { series, slot, unwell, .. } = slot;
                    let (slot, region, unwell) = (*slot, series.region.clone(), *unwell);
                    let counts = SlotCounts { slot, region, n: tally.n, bad: tally.bad, unwell };
                    self.slots.push((criterion.name.clone(), series.cohort, counts));
                }
            }
        }
    }

    /// Whom the failure of what was judged had reached.
    fn users(&self, judged: &Judgement, plan: &Plan) -> Option<Users> {
        plan.criterion(&judged.criterion).filter(|criterion| criterion.objective.counts_failures())?;
        let is_its = |(criterion, cohort, _): &&(CriterionName, Cohort, SlotCounts)| {
            (criterion, *cohort) == (&judged.criterion, Cohort::Canary)
        };
        let slots = || self.slots.iter().filter(is_its).map(|(_, _, slot)| slot);
        let regions: BTreeSet<&Region> = slots().map(|slot| &slot.region).collect();
        Some(Users {
            failed: slots().map(|slot| slot.bad).fold(0, u64::saturating_add),
            regions: regions.into_iter().cloned().collect(),
            from: slots().map(|slot| slot.slot).min()?,
            to: slots().map(|slot| slot.slot).max()? + plan.slot,
        })
    }

    /// The last slots that speak against what was judged.
    fn slots_of(&self, judged: &Judgement) -> Vec<SlotCounts> {
        let since = judged.grounds.as_ref().and_then(|grounds| grounds.since).unwrap_or_default();
        let is_its = |(criterion, cohort, slot): &&(CriterionName, Cohort, SlotCounts)| {
            let is_there = judged.region.as_ref().is_none_or(|region| slot.region == *region);
            (criterion, *cohort) == (&judged.criterion, judged.cohort) && slot.slot >= since && is_there
        };
        let mut slots: Vec<SlotCounts> = self.slots.iter().filter(is_its).map(|(_, _, slot)| slot.clone()).collect();
        slots.drain(..slots.len().saturating_sub(SLOTS_MAX));
        slots
    }
}

/// What was gathered, told by how a desk stood after the last record.
pub(crate) fn explanation(all: Why, desk: &Desk, now: Timestamp, records: usize) -> Option<Explanation> {
    let status = project::status(desk, now)?;
    let decided = all.decided.as_ref().map(|(decided, ..)| decided);
    let judged = decided.and_then(|decided| decided.cause.judgement());
    let slots = judged.map(|judged| all.slots_of(judged)).unwrap_or_default();
    let plan = desk.rollout.as_ref().map(|rollout| &rollout.plan);
    let users = judged.zip(plan).and_then(|(judged, plan)| all.users(judged, plan));
    let (plan_file, plan_line) = judged.and_then(|judged| line_of(&all.plan_text, judged.criterion.as_str())).unzip();
    let (decided, verdicts, covered) = match all.decided {
        Some((decided, verdicts, covered)) => (Some(decided), verdicts, covered),
        None => (None, desk.rollout.as_ref().map(|own| standings(own, now))?, desk.rollout.as_ref().map(covered)?),
    };
    Some(Explanation {
        status,
        decided,
        verdicts,
        plan_file: plan_file.flatten(),
        plan_line,
        slots,
        users,
        covered,
        missed: all.missed,
        moves: all.moves,
        applied: all.applied,
        unseen: all.unseen,
        recovered: all.recovered,
        evidence: all.evidence,
        records,
    })
}

/// The plan that a command brings along.
fn plan_text(input: &Input) -> Option<&str> {
    match input {
        Input::Command(Command { ask: Ask::Amend(amend), .. }) => Some(&amend.text),
        Input::Command(Command { ask: Ask::Start(start), .. }) => Some(&start.text),
        _ => None,
    }
}

/// Every verdict, each with the end of its last slot.
fn standings(rollout: &Rollout, now: Timestamp) -> Vec<Standing> {
    project::judged(rollout, now).into_iter().map(|(judgement, upto)| Standing { judgement, upto }).collect()
}

fn covered(rollout: &Rollout) -> Vec<Coverage> {
    let regions = rollout.stage().map(|stage| stage.regions.as_slice()).unwrap_or_default();
    let of = |region: &Region| {
        let own = || rollout.evidence.series.iter().filter(|(series, _)| series.region == *region).map(|(_, own)| own);
        let covered = own().map(|series| series.covered).min().unwrap_or(0);
        Coverage { region: region.clone(), covered, slots: own().map(|series| series.slots).max().unwrap_or(0) }
    };
    regions.iter().map(of).collect()
}

/// The line on which a plan names a criterion, from 1, and the file where there are several: that which
/// is laid over the others.
fn line_of(plan: &str, criterion: &str) -> Option<(Option<String>, usize)> {
    let names = |line: &str| {
        let after = line.split_once("name:").map(|(_, rest)| rest.trim_start());
        after.is_some_and(|rest| rest.split([',', ' ', '}', '#']).next() == Some(criterion))
    };
    let found = files("", plan).into_iter().rev().find_map(|(file, text)| Some((file, text.lines().position(names)?)));
    found.map(|(file, index)| (Some(file).filter(|file| !file.is_empty()), index + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_criterion_is_found_where_the_plan_names_it() {
        let plan =
            "service: shop\ncriteria:\n  - { name: error_rate_old, hard: true }\n  - name: error_rate # the one\n";
        assert_eq!(line_of(plan, "error_rate"), Some((None, 4)));
        assert_eq!(line_of(plan, "error_rate_old"), Some((None, 3)));
        assert_eq!(line_of(plan, "p99"), None);
        let layers = format!("--- # file: ../all.yaml\n{plan}--- # file: shop.yaml\n- {{ name: error_rate }}\n");
        let found = |name: &str| line_of(&layers, name).map(|(file, line)| (file.unwrap_or_default(), line));
        assert_eq!(found("error_rate"), Some(("shop.yaml".to_owned(), 1)));
        assert_eq!(found("error_rate_old"), Some(("../all.yaml".to_owned(), 3)));
    }
}
