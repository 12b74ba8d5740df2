//! One decision: fold first, decide second.

use std::collections::{BTreeMap, BTreeSet};

use bellwether_protocol::action::{Action, ActionResult};
use bellwether_protocol::alert::Alert;
use bellwether_protocol::command::{COMMAND_BY_SEQ, Outcome};
use bellwether_protocol::id::{ActionId, AgentId, LeverName, LeverValue, Ordinal};
use bellwether_protocol::reason::{DataFault, Hold, Reason};
use bellwether_protocol::record::{AgentSeen, Input, Source};
use bellwether_protocol::time::{Span, Timestamp};

use crate::evidence::{Expected, Frame};
use crate::state::{Answer, Desk, Phase, Rollout};
use crate::{commands, drift, during, incidents, project, stages, take_back};

/// How long after an action's deadline its agent may still answer.
pub(crate) const ANSWER_GRACE: Span = Span::from_secs(5);

/// Most transitions in one step. Each either moves on in the plan or ends it, so this is never
/// reached; it only keeps a mistake of ours from becoming an endless loop.
const TRANSITIONS_MAX: usize = 1_000;

/// What one decision leads to.
#[must_use]
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// The state afterwards.
    pub desk: Desk,
    /// What agents are told.
    pub actions: Vec<Action>,
    /// What people are told.
    pub alerts: Vec<Alert>,
    /// What became of commands.
    pub outcomes: Vec<Outcome>,
    /// When to decide again, if nothing comes in before. Closing slots are the collector's to time.
    pub wake_at: Option<Timestamp>,
    /// Why.
    pub reasons: Vec<Reason>,
    /// Whether the rollout stands otherwise than before, counts aside.
    moved: bool,
}

impl Step {
    /// Whether nothing follows from it but counts, which may wait to be written down.
    pub fn is_quiet(&self) -> bool {
        let says_nothing =
            self.actions.is_empty() && self.alerts.is_empty() && self.outcomes.is_empty() && self.reasons.is_empty();
        says_nothing && !self.moved
    }
}

/// Folds `inputs` into what is known of a service, and decides what follows at `now`.
pub fn step(desk: &Desk, inputs: &[Input], now: Timestamp) -> Step {
    let old = desk;
    let mut desk = desk.clone();
    let before = desk.rollout.as_ref().map(project::looks);
    let mut out = Out::new(now, desk.ordinal.next());
    // Results and commands share one inbox, and are not folded in its order: what counts as read
    // is what was read before this step.
    let inbox = desk.inbox;
    let (mut asked, mut reset) = (Vec::new(), BTreeSet::new());
    if let Some(rollout) = desk.rollout.as_mut().filter(|rollout| !rollout.is_over()) {
        fold_slots(rollout, inputs);
    }
    for input in inputs {
        match input {
            Input::Closed(_) | Input::Late(_) => {}
            Input::Command(command) if command.seq > inbox => asked.push(command),
            Input::Command(_) => {}
            Input::DataFault { agent, fault } => fold_fault(&mut desk, agent, *fault, &mut out),
            Input::Presence(seen) => fold_presence(&mut desk, seen),
            Input::Read { seq } => desk.read = desk.read.max(*seq),
            Input::Result { seq, result } if *seq > inbox => {
                desk.inbox = desk.inbox.max(*seq);
                fold_result(&mut desk, result, &mut out);
            }
            Input::Result { .. } => {}
            Input::StreamReset { source } => _ = reset.insert(*source),
        }
    }
    for command in asked {
        commands::fold(&mut desk, command, &mut out);
    }
    // What was read before is folded above, by its old number.
    for source in reset {
        fold_reset(&mut desk, source, &mut out);
    }
    if let Some(mut rollout) = desk.rollout.take() {
        drift::note(&desk, &mut rollout, &mut out);
        incidents::tell_owed(&mut rollout, &mut out);
        rollout.agents_most = rollout.agents_most.max(desk.agents.len());
        for _ in 0..TRANSITIONS_MAX {
            if !advance(&desk, &mut rollout, &mut out) {
                break;
            }
        }
        desk.remember(&rollout);
        desk.rollout = Some(rollout);
    }
    revise(&mut desk, before, out.ordinal);
    desk.ordinal = out.ordinal;
    let wake_at = desk.rollout.as_ref().and_then(|rollout| wake_at(rollout, now));
    let moved = old.rollout.as_ref().map(standing) != desk.rollout.as_ref().map(standing);
    let Out { actions, alerts, outcomes, reasons, .. } = out;
    Step { desk, actions, alerts, outcomes, wake_at, reasons, moved }
}

/// All of a rollout that decisions change, but for what is only counted. What is not written down
/// at once may be decided otherwise after a restart, so a new field says here on which side it is.
fn standing(rollout: &Rollout) -> impl PartialEq + '_ {
    let Rollout {
        id,
        phase,
        stage,
        entry,
        gate,
        approved,
        skip_soak,
        paused,
        reapplied,
        runs,
        levers,
        revisions,
        excluded,
        faulty,
        holds,
        incidents,
        soaked,
        // Given at the start.
        release: _,
        plan: _,
        plan_hash: _,
        overrides: _,
        principal: _,
        is_shadow: _,
        started_at: _,
        // Counts.
        agents_most: _,
        evidence: _,
    } = rollout;
    let gates = (stage, entry, gate, approved, skip_soak, paused, reapplied, runs);
    (id, phase, gates, levers, revisions, excluded, faulty, holds, incidents, soaked)
}

/// What a step has led to so far.
pub(crate) struct Out {
    pub(crate) now: Timestamp,
    pub(crate) ordinal: Ordinal,
    pub(crate) actions: Vec<Action>,
    pub(crate) alerts: Vec<Alert>,
    pub(crate) outcomes: Vec<Outcome>,
    pub(crate) reasons: Vec<Reason>,
}

impl Out {
    pub(crate) fn new(now: Timestamp, ordinal: Ordinal) -> Self {
        let (actions, alerts, outcomes, reasons) = Default::default();
        Self { now, ordinal, actions, alerts, outcomes, reasons }
    }

    /// Says what would be set, were this not the shadow.
    pub(crate) fn would(&mut self, lever: &LeverName, to: &LeverValue) {
        self.reasons.push(Reason::WouldSet { lever: lever.clone(), to: to.clone() });
    }

    /// Tells the agent that holds a lever to set it.
    pub(crate) fn ask(&mut self, rollout: &mut Rollout, lever: &LeverName, to: &LeverValue, due: Timestamp) {
        let index = u32::try_from(self.actions.len()).unwrap_or(u32::MAX);
        let id = ActionId { rollout: rollout.id.clone(), generation: self.ordinal, index };
        let state = rollout.levers.entry(lever.clone()).or_default();
        state.set_to = Some(to.clone());
        state.action = Some(id.clone());
        state.due = Some(due);
        state.is_owed = false;
        state.answer = None;
        state.seen_right = false;
        state.drifted = None;
        self.reasons.push(Reason::Asked { action: id.clone(), lever: lever.clone(), to: to.clone(), due });
        self.actions.push(Action {
            id,
            service: rollout.id.service.clone(),
            lever: lever.clone(),
            to: to.clone(),
            generation: self.ordinal,
            deadline: due,
        });
    }
}

/// Makes one transition, if one is due. The answer depends on evidence, plan and `now` alone.
fn advance(desk: &Desk, rollout: &mut Rollout, out: &mut Out) -> bool {
    match rollout.phase.clone() {
        Phase::Preparing { until } => stages::prepare(desk, rollout, until, out),
        Phase::Entering { next, due } => stages::enter(desk, rollout, next, due, out),
        Phase::Settling { until } => stages::settle(rollout, until, out),
        Phase::Soaking => stages::soak(desk, rollout, out),
        Phase::TakingBack(_) => take_back::advance(desk, rollout, out),
        Phase::Ended { .. } => false,
    }
}

/// Folds the slots among `inputs`, which is what verdicts are made of.
pub(crate) fn fold_slots(rollout: &mut Rollout, inputs: &[Input]) {
    let mut evidence = std::mem::take(&mut rollout.evidence);
    if let Some(frame) = frame(rollout) {
        for input in inputs {
            match input {
                Input::Closed(slot) => evidence.fold(&frame, slot),
                Input::Late(slot) => evidence.fold_late(&frame, slot),
                _ => {}
            }
        }
    }
    rollout.evidence = evidence;
}

/// What slots are judged against in the current stage and phase.
pub(crate) fn frame(rollout: &Rollout) -> Option<Frame<'_>> {
    let named = rollout.plan.fingerprint.is_some();
    let level = match &rollout.phase {
        Phase::TakingBack(back) => back.levels.get(back.level).map(|level| (back, level)),
        _ => None,
    };
    let stage = rollout.stage()?;
    let baseline = stage.regions.iter().filter_map(|region| Some((region, rollout.previous_in(region)?)));
    let baseline: BTreeMap<_, _> = baseline.filter(|_| named).collect();
    // Flags that are switched off leave the release where it is.
    let canary = match level {
        Some((back, _)) if back.moves_release(&rollout.plan) => baseline.clone(),
        _ => stage.regions.iter().map(|region| (region, &rollout.release)).filter(|_| named).collect(),
    };
    let refuses = level.map_or(&[][..], |(_, level)| &level.refuses);
    let is_entering = matches!(rollout.phase, Phase::Entering { .. });
    let frame = Frame::new(&rollout.plan, stage, Expected { canary, baseline }, is_entering, refuses);
    Some(frame.without(&rollout.excluded))
}

fn fold_presence(desk: &mut Desk, seen: &AgentSeen) {
    match &seen.here {
        Some(here) => desk.agents.insert(seen.agent.clone(), here.clone()),
        None => desk.agents.remove(&seen.agent),
    };
}

/// Tells of an agent that sent something wrong, once.
fn fold_fault(desk: &mut Desk, agent: &AgentId, fault: DataFault, out: &mut Out) {
    let Some(rollout) = desk.rollout.as_mut().filter(|rollout| !rollout.is_over()) else { return };
    if rollout.faulty.insert(agent.clone()) {
        out.reasons.push(Reason::DataFault { agent: agent.clone(), fault });
        incidents::tell_fault(rollout, agent, fault, out);
    }
}

/// Reads a stream from its start: its sequences, and the ids made of them, count anew.
fn fold_reset(desk: &mut Desk, source: Source, out: &mut Out) {
    match source {
        Source::Inbox => {
            desk.inbox = 0;
            desk.commands.retain(|id| !id.as_str().starts_with(COMMAND_BY_SEQ));
        }
        Source::Samples => desk.read = 0,
    }
    out.reasons.push(Reason::StreamReset { source });
    if let Some(rollout) = desk.rollout.as_mut().filter(|rollout| !rollout.is_over()) {
        incidents::tell_reset(rollout, source, out);
    }
}

fn fold_result(desk: &mut Desk, result: &ActionResult, out: &mut Out) {
    let Some(rollout) = &mut desk.rollout else { return };
    let Some(lever) = rollout.levers.get_mut(&result.lever) else { return };
    // An answer to an action that was superseded changes nothing.
    if lever.action.as_ref() != Some(&result.action) {
        return;
    }
    let right = result.targets.iter().filter(|target| target.value == lever.set_to).count();
    let done = u32::try_from(right).unwrap_or(u32::MAX);
    let targets = u32::try_from(result.targets.len()).unwrap_or(u32::MAX);
    let detail: String = result.detail.chars().take(DETAIL_LEN_MAX).collect();
    let answer = Answer { outcome: result.outcome, done, targets, detail: detail.clone() };
    if lever.answer.as_ref() == Some(&answer) {
        return;
    }
    lever.answer = Some(answer);
    out.reasons.push(Reason::Answered {
        action: result.action.clone(),
        lever: result.lever.clone(),
        outcome: result.outcome,
        done,
        targets,
        detail,
    });
}

/// Longest detail of an answer that the state keeps, in characters.
const DETAIL_LEN_MAX: usize = 300;

/// Gives a new revision to each region whose assignment changed.
fn revise(desk: &mut Desk, before: Option<project::Looks>, ordinal: Ordinal) {
    let Some(rollout) = &mut desk.rollout else { return };
    let after = project::looks(rollout);
    for (region, looks) in &after.by_region {
        let unchanged = before.as_ref().is_some_and(|before| {
            let is_same = (&before.rollout, before.slot) == (&after.rollout, after.slot);
            is_same && before.by_region.get(region) == Some(looks)
        });
        if !unchanged {
            rollout.revisions.insert(region.clone(), bellwether_protocol::id::Revision(ordinal.0));
        }
    }
}

fn wake_at(rollout: &Rollout, now: Timestamp) -> Option<Timestamp> {
    let phase = match &rollout.phase {
        Phase::Preparing { until } | Phase::Settling { until } => Some(*until),
        Phase::Entering { due, .. } => due.map(|due| due + ANSWER_GRACE),
        Phase::Soaking => during::wake_at(rollout).chain(drift::wake_at(rollout)).filter(|at| *at > now).min(),
        Phase::TakingBack(back) => Some(back.due + ANSWER_GRACE),
        Phase::Ended { .. } => None,
    };
    let exclusions = rollout.excluded.iter().map(|exclusion| exclusion.until);
    let frozen = rollout.holds.iter().filter_map(|hold| match hold {
        Hold::Frozen { until } => Some(*until),
        _ => None,
    });
    let unanswered = rollout.levers.values().filter(|lever| lever.answer.is_none());
    let unanswered = unanswered.filter(|lever| lever.is_owed || !rollout.is_over());
    let unanswered = unanswered.filter_map(|lever| Some(lever.due? + ANSWER_GRACE));
    let exclusions = exclusions.chain(frozen).filter(|_| !rollout.is_over());
    phase.into_iter().chain(exclusions).chain(unanswered).filter(|at| *at > now).min()
}
