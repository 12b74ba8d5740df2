//! Forwards: entering a stage, soaking in it, and what must hold before it may be left.
//!
//! Silence holds: a series without evidence never counts as green.

use bellwether_protocol::alert::Severity;
use bellwether_protocol::id::{CriterionName, GateVersion, Region};
use bellwether_protocol::plan::OnFail;
use bellwether_protocol::reason::{Cause, Ending, Hold, Judgement, Lack, Reason, Verdict};
use bellwether_protocol::sample::Cohort;
use bellwether_protocol::time::{Span, Timestamp};

use crate::collect::reporters;
use crate::drift;
use crate::during;
use crate::gate::{self, Blame};
use crate::incidents::{self, Tell};
use crate::judge::Finding;
use crate::state::{Desk, Phase, Rollout};
use crate::step::{ANSWER_GRACE, Out, frame};
use crate::take_back;

/// How long agents may take to take up their assignments.
pub(crate) const PREPARE_WITHIN: Span = Span::from_secs(30);
/// How many slots a region may be silent before people are told.
const SILENT_SLOTS_TOLD: u64 = 3;

/// Waits until every region of the first stage is watched. Nothing has moved yet.
pub(crate) fn prepare(desk: &Desk, rollout: &mut Rollout, until: Timestamp, out: &mut Out) -> bool {
    let regions = rollout.stage().map(|stage| stage.regions.clone()).unwrap_or_default();
    let refusal = desk.agents.iter().find_map(|(agent, here)| {
        let watching = here.watching.as_ref()?;
        let is_ours = rollout.revisions.get(&agent.region) == Some(&watching.revision);
        watching.refused.as_ref().filter(|_| is_ours).map(|why| format!("{agent} refused its assignment: {why}"))
    });
    if let Some(why) = refusal {
        return end(rollout, Ending::NotStarted, why, out);
    }
    let quorum = usize::try_from(rollout.plan.quorum).unwrap_or(usize::MAX);
    let kinds = rollout.plan.kinds();
    let looks = regions.iter().flat_map(|region| kinds.iter().map(move |kind| (region, (*kind).to_owned())));
    let few = |(region, kind): &(&Region, String)| reporters(desk, rollout, region, Some(kind)).len() < quorum;
    let missing = looks.into_iter().find(few);
    match missing {
        None if is_frozen(rollout, out) => false,
        None => enter_stage(rollout, 0, out),
        // All were there when the freeze began to hold it: who is missing since has until it is over, and as long
        // as ever from then on.
        Some(_) if rollout.holds.iter().any(|hold| matches!(hold, Hold::Frozen { .. })) => {
            let from = rollout.plan.frozen_until(out.now).unwrap_or(out.now);
            rollout.phase = Phase::Preparing { until: from + PREPARE_WITHIN };
            is_frozen(rollout, out);
            false
        }
        Some((region, kind)) if out.now >= until => {
            let why = format!("too few agents in region {region} took up looks of kind {kind} within {PREPARE_WITHIN}");
            end(rollout, Ending::NotStarted, why, out)
        }
        Some(_) => false,
    }
}

fn enter_stage(rollout: &mut Rollout, index: usize, out: &mut Out) -> bool {
    rollout.stage = index;
    rollout.entry = rollout.entry.next();
    rollout.gate = GateVersion(1);
    rollout.approved = false;
    rollout.skip_soak = false;
    rollout.reapplied = None;
    rollout.runs.clear();
    rollout.phase = Phase::Entering { next: 0, due: None };
    begin_epoch(rollout, out.now);
    let stage = rollout.stage().map(|stage| stage.name.clone());
    out.reasons.extend(stage.map(|stage| Reason::StageEntered { stage, entry: rollout.entry }));
    true
}

/// Begins an epoch of evidence: what was seen before `from` no longer counts.
pub(crate) fn begin_epoch(rollout: &mut Rollout, from: Timestamp) {
    let mut evidence = std::mem::take(&mut rollout.evidence);
    if let Some(frame) = frame(rollout) {
        evidence.begin(&frame, from);
    }
    rollout.evidence = evidence;
}

/// Asks the entry actions one after the other; each must be read back before the next is asked.
///
/// A hard criterion that fails meanwhile takes the release back at once, where the plan can tell by
/// its fingerprint which release answered.
pub(crate) fn enter(desk: &Desk, rollout: &mut Rollout, next: usize, due: Option<Timestamp>, out: &mut Out) -> bool {
    let Some(stage) = rollout.stage().cloned() else { return false };
    if rollout.plan.fingerprint.is_some() {
        let blame = gate::blame(rollout, &gate::findings(rollout, out.now));
        // What the levers are being set again for may fail until they are.
        let is_mended = |judgement: &Judgement| rollout.reapplied.as_ref() == Some(&judgement.criterion);
        if let Some(Blame::Release(judgement)) = blame.filter(|blame| !is_mended(blame.judgement())) {
            tell_verdicts(rollout, vec![judgement.clone()], out);
            return take_back::begin(rollout, Cause::Criterion { judgement }, out);
        }
    }
    let Some(set) = stage.enter.get(next) else {
        let until = out.now + stage.settle;
        rollout.phase = Phase::Settling { until };
        begin_epoch(rollout, until);
        out.reasons.push(Reason::Looking { stage: stage.name, from: until });
        tell_reapplied(rollout, out);
        return true;
    };
    let Some(due) = due else {
        // Nothing is asked while it is paused, and people must see why.
        let holds = if rollout.paused { vec![Hold::Paused] } else { Vec::new() };
        set_holds(rollout, holds, out);
        let Some(to) = rollout.value_of(set).filter(|_| !rollout.paused) else { return false };
        if rollout.is_shadow {
            out.would(&set.lever, &to);
            rollout.phase = Phase::Entering { next: next + 1, due: None };
            return true;
        }
        let due = out.now + stage.enter_within;
        out.ask(rollout, &set.lever, &to, due);
        rollout.phase = Phase::Entering { next, due: Some(due) };
        return true;
    };
    let Some(lever) = rollout.levers.get(&set.lever) else { return false };
    if lever.is_confirmed(desk.reading(&set.lever)) {
        rollout.phase = Phase::Entering { next: next + 1, due: None };
        return true;
    }
    use bellwether_protocol::action::ActionOutcome::{Done, Expired};
    let outcome = match &lever.answer {
        Some(answer) if answer.outcome != Done => answer.outcome,
        None if out.now >= due + ANSWER_GRACE => Expired,
        _ => return false,
    };
    let cause = Cause::Lever { lever: set.lever.clone(), outcome };
    take_back::begin(rollout, cause, out)
}

/// Nothing is judged until a stage has settled.
pub(crate) fn settle(rollout: &mut Rollout, until: Timestamp, out: &mut Out) -> bool {
    if out.now < until {
        return false;
    }
    rollout.phase = Phase::Soaking;
    rollout.runs = during::begin(rollout, out.now);
    true
}

/// Looks at the evidence: takes back, holds, or leaves.
pub(crate) fn soak(desk: &Desk, rollout: &mut Rollout, out: &mut Out) -> bool {
    let findings = gate::findings(rollout, out.now);
    let changed = findings.iter().filter(|finding| finding.is_news()).map(Finding::judgement).collect();
    let blame = gate::blame(rollout, &findings);
    let soaked = rollout.skip_soak || is_soaked(rollout, out.now);
    let mut holds = gate::holds(rollout, &findings, out.now);
    if soaked {
        holds.extend(gate::lacking(&findings));
    }
    let (warned, mended) = (gate::called_for(&findings, OnFail::Warn), gate::called_for(&findings, OnFail::Reapply));
    let awaited = awaited(rollout, &findings);
    tell_verdicts(rollout, changed, out);
    match blame {
        Some(Blame::Release(judgement)) => {
            return take_back::begin(rollout, Cause::Criterion { judgement }, out);
        }
        Some(Blame::Both(judgement)) => {
            share_blame(rollout, &judgement);
            tell_as_red(rollout, &judgement, out);
            holds.push(Hold::BaselineAsRed { criterion: judgement.criterion });
        }
        None => {}
    }
    if let Some(cause) = during::cause(rollout).or_else(|| drift::cause(rollout, out.now)) {
        return take_back::begin(rollout, cause, out);
    }
    if reapply(rollout, &mended, out) {
        return true;
    }
    during::run(desk, rollout, soaked, out);
    holds.extend(during::holds(rollout));
    let stage = rollout.stage();
    let needs_approval = stage.is_some_and(|stage| stage.approval) && !rollout.approved && !rollout.is_shadow;
    let is_last = rollout.stage + 1 == rollout.plan.stages.len();
    let frozen = rollout.plan.frozen_until(out.now).filter(|_| soaked && holds.is_empty() && !is_last);
    holds.extend(frozen.map(|until| Hold::Frozen { until }));
    let is_green = soaked && holds.is_empty() && !during::is_on(rollout);
    if is_green && needs_approval {
        holds.push(Hold::Approval);
    }
    set_holds(rollout, holds, out);
    incidents::tell_holds(rollout, &warned, awaited, SILENT_SLOTS_TOLD, out);
    if is_green && !needs_approval { pass(rollout, out) } else { false }
}

/// Sets the stage's levers again, once: the stage is entered anew, and its evidence
/// begins anew.
fn reapply(rollout: &mut Rollout, mended: &[Judgement], out: &mut Out) -> bool {
    if rollout.reapplied.is_some() || rollout.paused || rollout.is_shadow {
        return false;
    }
    let lever = || {
        let mut levers = drift::drifted(rollout, out.now).filter(|(.., act)| *act == OnFail::Reapply);
        levers.next().map(|(lever, drift, _)| Tell::of_drift(rollout, lever, drift))
    };
    let criterion = mended.first().map(|judgement| Tell::of_judgement(rollout, judgement));
    let Some(tell) = criterion.or_else(lever) else { return false };
    rollout.reapplied = Some(tell.cause.clone());
    rollout.phase = Phase::Entering { next: 0, due: None };
    begin_epoch(rollout, out.now);
    out.reasons.push(Reason::Reapplied { cause: tell.cause.clone() });
    incidents::open(rollout, tell.and(OnFail::Reapply, "reapplying", "the stage's levers are set again"), out);
    true
}

/// What the levers were set again for, while nothing was seen of it since: it is not over yet.
fn awaited(rollout: &Rollout, findings: &[Finding<'_>]) -> Option<CriterionName> {
    let cause = rollout.reapplied.as_ref()?;
    let is_unseen = |f: &Finding<'_>| f.criterion.name == *cause && f.verdict == Verdict::Inconclusive(Lack::NoData);
    findings.iter().any(is_unseen).then(|| cause.clone())
}

/// Tells that the levers which were set again were read back.
fn tell_reapplied(rollout: &mut Rollout, out: &mut Out) {
    let Some(cause) = rollout.reapplied.clone() else { return };
    let stage = rollout.stage_name().map(|stage| stage.to_string()).unwrap_or_default();
    let headline =
        format!("{} {stage}: the stage's levers were set again and read back; looking anew", rollout.release);
    let tell = Tell { act: OnFail::Reapply, ..Tell::new(cause, "reapplied", headline) };
    incidents::open(rollout, tell, out);
}

/// Whether the plan enters no stage now; then people see until when.
fn is_frozen(rollout: &mut Rollout, out: &mut Out) -> bool {
    let frozen = rollout.plan.frozen_until(out.now);
    set_holds(rollout, frozen.map(|until| Hold::Frozen { until }).into_iter().collect(), out);
    frozen.is_some()
}

fn pass(rollout: &mut Rollout, out: &mut Out) -> bool {
    let Some(stage) = rollout.stage() else { return false };
    let slots = soaked_slots(rollout, out.now);
    out.reasons.push(Reason::StagePassed { stage: stage.name.clone(), soaked: rollout.plan.slot.times(slots) });
    rollout.soaked.push(slots);
    if rollout.stage + 1 < rollout.plan.stages.len() {
        return enter_stage(rollout, rollout.stage + 1, out);
    }
    let summary = format!("{} completed in {}", rollout.release, out.now.since(rollout.started_at).rounded());
    end(rollout, Ending::Completed, summary, out)
}

/// Ends the rollout.
pub(crate) fn end(rollout: &mut Rollout, ending: Ending, summary: String, out: &mut Out) -> bool {
    out.reasons.push(Reason::Ended { ending, summary: summary.clone() });
    rollout.phase = Phase::Ended { ending, at: out.now, summary };
    rollout.holds.clear();
    incidents::tell_end(rollout, ending, out);
    true
}

/// Tells what changed, and voids an approval when something worsened.
fn tell_verdicts(rollout: &mut Rollout, changed: Vec<Judgement>, out: &mut Out) {
    for judgement in changed {
        let Some(criterion) = rollout.plan.criterion(&judgement.criterion) else { continue };
        let track = rollout.evidence.track_mut(criterion, judgement.cohort, judgement.region.as_ref());
        let Some(track) = track else { continue };
        let worsened = judgement.verdict > track.told;
        track.told = judgement.verdict;
        track.told_over_target = judgement.over_target;
        if worsened && judgement.cohort == Cohort::Canary {
            rollout.gate = rollout.gate.next();
            rollout.approved = false;
        }
        out.reasons.push(Reason::VerdictChanged { judgement });
    }
}

fn share_blame(rollout: &mut Rollout, judgement: &Judgement) {
    let Some(criterion) = rollout.plan.criterion(&judgement.criterion) else { return };
    for cohort in [Cohort::Canary, Cohort::Baseline] {
        if let Some(track) = rollout.evidence.track_mut(criterion, cohort, judgement.region.as_ref()) {
            track.share_blame();
        }
    }
}

fn tell_as_red(rollout: &mut Rollout, judgement: &Judgement, out: &mut Out) {
    let headline = format!(
        "{} {}: {} {}, and the baseline is as red: the release is not the cause, nothing is taken back",
        rollout.release,
        rollout.stage_name().map(|s| s.to_string()).unwrap_or_default(),
        judgement.criterion,
        judgement.numbers,
    );
    let tell = Tell::new(judgement.criterion.clone(), "holding", headline).on(judgement);
    incidents::open(rollout, Tell { severity: Severity::Page, ..tell }, out);
}

fn is_soaked(rollout: &Rollout, now: Timestamp) -> bool {
    let soak = rollout.stage().map(|stage| stage.soak).unwrap_or_default();
    rollout.plan.slot.times(soaked_slots(rollout, now)) >= soak
}

/// The soak is that of the slowest series.
pub(crate) fn soaked_slots(rollout: &Rollout, now: Timestamp) -> u64 {
    let counted = rollout.evidence.series.iter().filter(|(series, _)| !rollout.is_left_out(series, now));
    counted.map(|(_, state)| state.soaked).min().unwrap_or(0)
}

fn set_holds(rollout: &mut Rollout, holds: Vec<Hold>, out: &mut Out) {
    for hold in holds.iter().filter(|hold| !rollout.holds.contains(hold)) {
        out.reasons.push(Reason::Held { hold: hold.clone() });
    }
    for hold in rollout.holds.iter().filter(|hold| !holds.contains(hold)) {
        out.reasons.push(Reason::Released { hold: hold.clone() });
    }
    rollout.holds = holds;
}
