//! Why a rollout went as it did, from its records alone.

use std::collections::BTreeMap;

use bellwether_decide::project;
use bellwether_decide::tally::{Attributed, Count, Tally};
use bellwether_protocol::command::Ask;
use bellwether_protocol::explanation::{Coverage, Decided, Explanation, Move, SlotCounts};
use bellwether_protocol::id::{LeverName, LeverValue, RolloutId};
use bellwether_protocol::plan::Plan;
use bellwether_protocol::reason::{Judgement, Reason};
use bellwether_protocol::record::{ClosedSlot, Input, Record};
use bellwether_protocol::sample::Cohort;
use bellwether_protocol::status::Status;
use bellwether_protocol::time::Timestamp;

use crate::offline::{ReplayError, replay_each};

/// Most slots that are told one by one.
const SLOTS_MAX: usize = 6;
/// Bad slots that are remembered on the way.
const KEPT_MAX: usize = 10_000;

/// Explains one rollout; `None` when the log does not hold it.
///
/// # Errors
/// When the log does not replay: what cannot be verified is not explained.
pub fn explain(
    lines: impl IntoIterator<Item = Vec<u8>>,
    rollout: &RolloutId,
) -> Result<Option<Explanation>, ReplayError> {
    let mut gathered = Gathered::default();
    replay_each(lines, |record, desk| {
        gathered.records += 1;
        let Some(status) = project::status(desk, record.now).filter(|status| status.rollout == *rollout) else {
            return;
        };
        let plan = desk.rollout.as_ref().map(|rollout| &rollout.plan);
        gathered.take(record, status, plan);
    })?;
    Ok(gathered.explanation())
}

/// What is gathered record by record.
#[derive(Default)]
struct Gathered {
    records: usize,
    status: Option<Status>,
    plan_text: String,
    decided: Option<(Decided, Vec<Judgement>, Vec<Coverage>)>,
    slots: Vec<(ClosedSlot, u64, u64, String)>,
    last_set: BTreeMap<LeverName, LeverValue>,
    moves: Vec<Move>,
    applied: Option<Timestamp>,
    recovered: Option<(Timestamp, u32)>,
    evidence: Vec<bellwether_protocol::sample::Evidence>,
}

impl Gathered {
    fn take(&mut self, record: &Record, status: Status, plan: Option<&Plan>) {
        for input in &record.inputs {
            match input {
                Input::Command(command) => {
                    if let Ask::Start(start) = &command.ask {
                        start.text.clone_into(&mut self.plan_text);
                    }
                }
                Input::Closed(slot) if self.decided.is_none() => self.note_slot(slot, plan),
                _ => {}
            }
        }
        if self.decided.is_none() && !status.evidence.is_empty() {
            self.evidence.clone_from(&status.evidence);
        }
        for reason in &record.reasons {
            self.note(record, reason);
        }
        self.status = Some(status);
    }

    fn note(&mut self, record: &Record, reason: &Reason) {
        match reason {
            Reason::StageEntered { .. } => self.slots.clear(),
            Reason::TakingBack { cause, .. } => {
                let before = self.status.as_ref();
                let mut verdicts = before.map(|status| status.criteria.clone()).unwrap_or_default();
                for changed in record.reasons.iter().filter_map(verdict) {
                    verdicts.retain(|own| !is_same(own, changed));
                    verdicts.push(changed.clone());
                }
                let covered = before.map(coverage).unwrap_or_default();
                let decided = Decided { at: record.now, record: record.ordinal, cause: cause.clone() };
                self.decided.get_or_insert((decided, verdicts, covered));
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
            Reason::Applied { .. } => self.applied = Some(record.now),
            Reason::Recovered { green, .. } => self.recovered = Some((record.now, *green)),
            _ => {}
        }
    }

    /// Remembers what a slot of the canary says of each criterion that counts bad answers.
    fn note_slot(&mut self, slot: &ClosedSlot, plan: Option<&Plan>) {
        let Some(plan) = plan.filter(|_| slot.series.cohort == Cohort::Canary) else { return };
        for criterion in plan.criteria.iter().filter(|criterion| criterion.sli == slot.series.sli) {
            let seen: Vec<Attributed<'_>> = slot
                .portions
                .iter()
                .map(|portion| Attributed { portion, only_bad: portion.release.is_none() })
                .collect();
            let tally = Tally::of(criterion, &seen, Count::Alone);
            if tally.bad > 0 && self.slots.len() < KEPT_MAX {
                let slot = ClosedSlot { portions: Vec::new(), evidence: Vec::new(), ..slot.clone() };
                self.slots.push((slot, tally.n, tally.bad, criterion.name.to_string()));
            }
        }
    }

    fn explanation(self) -> Option<Explanation> {
        let status = self.status?;
        let (decided, verdicts, covered) = match self.decided {
            Some((decided, verdicts, covered)) => (Some(decided), verdicts, covered),
            None => (None, status.criteria.clone(), coverage(&status)),
        };
        let judged = decided.as_ref().and_then(|decided| decided.cause.judgement());
        let mut slots = Vec::new();
        if let Some(judged) = judged {
            let since = judged.grounds.as_ref().and_then(|grounds| grounds.since).unwrap_or_default();
            let is_its = |slot: &ClosedSlot| judged.region.as_ref().is_none_or(|region| slot.series.region == *region);
            let its = self.slots.iter().filter(|(slot, _, _, criterion)| {
                *criterion == judged.criterion.as_str() && slot.slot >= since && is_its(slot)
            });
            slots.extend(its.map(|(slot, n, bad, _)| SlotCounts {
                slot: slot.slot,
                region: slot.series.region.clone(),
                n: *n,
                bad: *bad,
                unwell: slot.unwell,
            }));
            let excess = slots.len().saturating_sub(SLOTS_MAX);
            slots.drain(..excess);
        }
        let plan_line = judged.and_then(|judged| line_of(&self.plan_text, judged.criterion.as_str()));
        Some(Explanation {
            status,
            decided,
            verdicts,
            plan_line,
            slots,
            covered,
            moves: self.moves,
            applied: self.applied,
            recovered: self.recovered,
            evidence: self.evidence,
            records: self.records,
        })
    }
}

fn verdict(reason: &Reason) -> Option<&Judgement> {
    match reason {
        Reason::VerdictChanged { judgement } => Some(judgement),
        _ => None,
    }
}

fn is_same(a: &Judgement, b: &Judgement) -> bool {
    (&a.criterion, a.cohort, &a.region) == (&b.criterion, b.cohort, &b.region)
}

fn coverage(status: &Status) -> Vec<Coverage> {
    let of = |region: &bellwether_protocol::status::RegionStatus| Coverage {
        region: region.region.clone(),
        covered: region.covered,
        slots: region.slots,
    };
    status.regions.iter().map(of).collect()
}

/// The line on which a plan names a criterion, from 1.
fn line_of(plan: &str, criterion: &str) -> Option<usize> {
    let names = |line: &str| {
        let after = line.split_once("name:").map(|(_, rest)| rest.trim_start());
        after.is_some_and(|rest| rest.split([',', ' ', '}', '#']).next() == Some(criterion))
    };
    plan.lines().position(names).map(|index| index + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_criterion_is_found_where_the_plan_names_it() {
        let plan =
            "service: shop\ncriteria:\n  - { name: error_rate_old, hard: true }\n  - name: error_rate # the one\n";
        assert_eq!(line_of(plan, "error_rate"), Some(4));
        assert_eq!(line_of(plan, "error_rate_old"), Some(3));
        assert_eq!(line_of(plan, "p99"), None);
    }
}
