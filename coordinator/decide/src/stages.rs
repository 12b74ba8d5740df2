//! Forwards: entering a stage, soaking in it, and what must hold before it may be left.
//!
//! Silence holds: a series without evidence never counts as green.

use bellwether_protocol::alert::Severity;
use bellwether_protocol::command::Excluded;
use bellwether_protocol::id::{CriterionName, Entry, GateVersion, Region};
use bellwether_protocol::plan::{Criterion, OnFail};
use bellwether_protocol::reason::{Cause, Ending, Hold, Judgement, Lack, Reason, Verdict};
use bellwether_protocol::sample::Cohort;
use bellwether_protocol::time::{Span, Timestamp};

use crate::collect::reporters;
use crate::evidence::Track;
use crate::incidents::{self, Tell};
use crate::state::{Desk, Phase, Rollout};
use crate::step::{ANSWER_GRACE, Out, frame};
use crate::{judge, take_back};

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
    let missing = regions.iter().find(|region| reporters(desk, rollout, region).len() < quorum);
    match missing {
        None => enter_stage(rollout, 0, out),
        Some(region) if out.now >= until => {
            let why = format!("no agent in region {region} took up the assignment within {PREPARE_WITHIN}");
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
pub(crate) fn enter(desk: &Desk, rollout: &mut Rollout, next: usize, due: Option<Timestamp>, out: &mut Out) -> bool {
    let Some(stage) = rollout.stage().cloned() else { return false };
    let Some(set) = stage.enter.get(next) else {
        let until = out.now + stage.settle;
        rollout.phase = Phase::Settling { until };
        begin_epoch(rollout, until);
        out.reasons.push(Reason::Looking { stage: stage.name, from: until });
        return true;
    };
    let Some(due) = due else {
        // Nothing is asked while it is paused, and people must see why.
        let holds = if rollout.paused { vec![Hold::Paused] } else { Vec::new() };
        set_holds(rollout, holds, out);
        let Some(to) = rollout.value_of(set).filter(|_| !rollout.paused) else { return false };
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
    true
}

/// Looks at the evidence: takes back, holds, or leaves.
pub(crate) fn soak(desk: &Desk, rollout: &mut Rollout, out: &mut Out) -> bool {
    let judgements = judgements(rollout, out.now);
    tell_verdicts(rollout, &judgements, out);
    let blame = blame(rollout, &judgements);
    if let Some(Blame::Release(judgement)) = blame {
        return take_back::begin(rollout, Cause::Criterion { judgement }, out);
    }
    let mut holds = holds(desk, rollout, &judgements, out.now);
    if let Some(Blame::Both(judgement)) = blame {
        tell_as_red(rollout, &judgement, out);
        holds.push(Hold::BaselineAsRed { criterion: judgement.criterion });
    }
    let soaked = rollout.skip_soak || is_soaked(rollout, out.now);
    if soaked {
        holds.extend(too_few(&judgements));
    }
    let is_green = soaked && holds.is_empty();
    let needs_approval = rollout.stage().is_some_and(|stage| stage.approval) && !rollout.approved;
    if is_green && needs_approval {
        holds.push(Hold::Approval);
    }
    set_holds(rollout, holds, out);
    incidents::tell_holds(rollout, SILENT_SLOTS_TOLD, out);
    if is_green && !needs_approval { pass(rollout, out) } else { false }
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

/// Every verdict of the stage, hard and red ones first.
pub(crate) fn judgements(rollout: &Rollout, now: Timestamp) -> Vec<Judgement> {
    let silent = rollout.evidence.silent();
    let mut all = Vec::new();
    let judge = |track: &Track, cohort, region: Option<&Region>, is_silent| {
        let criterion = rollout.plan.criterion(&track.criterion)?;
        let is_out = rollout.is_excluded(&Excluded::Criterion(criterion.name.clone()), now);
        (!is_out).then(|| judge::judgement(criterion, track, cohort, region, is_silent))
    };
    for (series, state) in &rollout.evidence.series {
        if rollout.is_excluded(&Excluded::Region(series.region.clone()), now) {
            continue;
        }
        let is_silent = state.uncovered_since.is_some();
        all.extend(state.tracks.iter().filter_map(|t| judge(t, series.cohort, Some(&series.region), is_silent)));
    }
    // With a region left out, the pool would still hold what that region saw.
    let is_whole = !rollout.excluded.iter().any(|e| matches!(e.what, Excluded::Region(_)) && now < e.until);
    for pool in rollout.evidence.pools.iter().filter(|_| is_whole) {
        all.extend(pool.tracks.iter().filter_map(|t| judge(t, pool.like.cohort, None, !silent.is_empty())));
    }
    all.sort_by_key(|j| (!j.hard, std::cmp::Reverse(j.verdict), j.cohort == Cohort::Baseline));
    all
}

/// Tells what changed, and voids an approval when something worsened.
fn tell_verdicts(rollout: &mut Rollout, judgements: &[Judgement], out: &mut Out) {
    for judgement in judgements {
        let Some(track) = track_mut(rollout, judgement) else { continue };
        if track.told == judgement.verdict && track.told_over_target == judgement.over_target {
            continue;
        }
        let worsened = judgement.verdict > track.told;
        track.told = judgement.verdict;
        track.told_over_target = judgement.over_target;
        if worsened && judgement.cohort == Cohort::Canary {
            rollout.gate = rollout.gate.next();
            rollout.approved = false;
        }
        out.reasons.push(Reason::VerdictChanged { judgement: judgement.clone() });
    }
}

fn track_mut<'a>(rollout: &'a mut Rollout, judgement: &Judgement) -> Option<&'a mut Track> {
    let sli = rollout.plan.criterion(&judgement.criterion).map(|criterion| criterion.sli.clone())?;
    let tracks = match &judgement.region {
        Some(region) => {
            let series = bellwether_protocol::record::Series { sli, cohort: judgement.cohort, region: region.clone() };
            &mut rollout.evidence.series.get_mut(&series)?.tracks
        }
        None => {
            let same = |pool: &&mut crate::evidence::Pool| pool.like.sli == sli && pool.like.cohort == judgement.cohort;
            &mut rollout.evidence.pools.iter_mut().find(same)?.tracks
        }
    };
    tracks.iter_mut().find(|track| track.criterion == judgement.criterion)
}

/// Who is to blame for a red criterion.
enum Blame {
    /// The release.
    Release(Judgement),
    /// Not the release: the baseline is as red.
    Both(Judgement),
}

/// A Fail that takes back, and that the baseline does not share. Where the baseline has not closed
/// the same slots yet, nothing is blamed: it is at most one grace away.
fn blame(rollout: &Rollout, judgements: &[Judgement]) -> Option<Blame> {
    let takes_back = |criterion: &Criterion| criterion.on_fail == OnFail::Rollback;
    let mut shared = None;
    for judgement in judgements.iter().filter(|j| j.cohort == Cohort::Canary && j.verdict == Verdict::Fail) {
        if !rollout.plan.criterion(&judgement.criterion).is_some_and(takes_back) {
            continue;
        }
        let same = |j: &&Judgement| {
            j.cohort == Cohort::Baseline && j.criterion == judgement.criterion && j.region == judgement.region
        };
        match judgements.iter().find(same) {
            None => return Some(Blame::Release(narrowed(judgement, judgements))),
            Some(_) if upto(rollout, judgement, Cohort::Baseline) < upto(rollout, judgement, Cohort::Canary) => {}
            Some(baseline) if baseline.verdict == Verdict::Fail => shared = Some(Blame::Both(judgement.clone())),
            Some(_) => return Some(Blame::Release(narrowed(judgement, judgements))),
        }
    }
    shared
}

/// A pooled failure that all comes from one region is told as that region's: there people must look.
fn narrowed(judgement: &Judgement, judgements: &[Judgement]) -> Judgement {
    let same =
        |j: &&Judgement| j.criterion == judgement.criterion && j.cohort == judgement.cohort && j.region.is_some();
    let mut bad = judgements.iter().filter(same).filter(|j| j.numbers.bad > 0);
    match (&judgement.region, bad.next(), bad.next()) {
        (None, Some(only), None) => {
            Judgement { region: only.region.clone(), numbers: only.numbers.clone(), ..judgement.clone() }
        }
        _ => judgement.clone(),
    }
}

fn upto(rollout: &Rollout, judgement: &Judgement, cohort: Cohort) -> Option<Timestamp> {
    let criterion = rollout.plan.criterion(&judgement.criterion)?;
    let of = |tracks: &[Track]| tracks.iter().find(|t| t.criterion == criterion.name).map(|t| t.upto);
    match &judgement.region {
        Some(region) => {
            let series =
                bellwether_protocol::record::Series { sli: criterion.sli.clone(), cohort, region: region.clone() };
            of(&rollout.evidence.series.get(&series)?.tracks)
        }
        None => {
            let pools = &rollout.evidence.pools;
            of(&pools.iter().find(|pool| pool.like.sli == criterion.sli && pool.like.cohort == cohort)?.tracks)
        }
    }
}

fn tell_as_red(rollout: &mut Rollout, judgement: &Judgement, out: &mut Out) {
    let headline = format!(
        "{} {}: {} {} > {}, and the baseline is as red: the release is not the cause, nothing is taken back",
        rollout.release,
        rollout.stage_name().map(|s| s.to_string()).unwrap_or_default(),
        judgement.criterion,
        judgement.numbers.value,
        judgement.numbers.limit,
    );
    let tell = Tell {
        cause: judgement.criterion.clone(),
        severity: Severity::Page,
        state: "holding",
        regions: judgement.region.iter().cloned().collect(),
        headline,
        numbers: Some(judgement.numbers.clone()),
    };
    incidents::open(rollout, tell, out);
}

fn holds(desk: &Desk, rollout: &Rollout, judgements: &[Judgement], now: Timestamp) -> Vec<Hold> {
    let mut holds = Vec::new();
    if rollout.paused {
        holds.push(Hold::Paused);
    }
    for (region, since) in rollout.evidence.silent() {
        if !rollout.is_excluded(&Excluded::Region(region.clone()), now) {
            holds.push(Hold::NoData { region, since });
        }
    }
    for (name, lever) in &rollout.levers {
        if lever.is_wrong(desk.reading(name)) {
            holds.push(Hold::Lever { lever: name.clone() });
        }
    }
    let failing = |j: &&Judgement| j.cohort == Cohort::Canary && j.verdict == Verdict::Fail;
    for judgement in judgements.iter().filter(failing) {
        let criterion = rollout.plan.criterion(&judgement.criterion);
        if criterion.is_some_and(|criterion| criterion.on_fail == OnFail::Hold) {
            holds.push(Hold::SoftRed { criterion: judgement.criterion.clone() });
        }
    }
    holds.dedup();
    holds
}

/// Criteria that could not be told for want of events. Those failing are dealt with elsewhere.
fn too_few(judgements: &[Judgement]) -> Vec<Hold> {
    let lacking = |j: &&Judgement| {
        j.cohort == Cohort::Canary && j.region.is_some() && j.verdict == Verdict::Inconclusive(Lack::NoData)
    };
    let mut names: Vec<CriterionName> = judgements.iter().filter(lacking).map(|j| j.criterion.clone()).collect();
    names.sort();
    names.dedup();
    names.into_iter().map(|criterion| Hold::TooFewEvents { criterion }).collect()
}

fn is_soaked(rollout: &Rollout, now: Timestamp) -> bool {
    let soak = rollout.stage().map(|stage| stage.soak).unwrap_or_default();
    rollout.plan.slot.times(soaked_slots(rollout, now)) >= soak
}

/// The soak is that of the slowest series.
pub(crate) fn soaked_slots(rollout: &Rollout, now: Timestamp) -> u64 {
    let counted = rollout
        .evidence
        .series
        .iter()
        .filter(|(series, _)| !rollout.is_excluded(&Excluded::Region(series.region.clone()), now));
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

/// Why a promotion must be refused now: a Fail, or missing evidence.
pub(crate) fn promotion_refusal(desk: &Desk, rollout: &Rollout, now: Timestamp) -> Option<String> {
    if rollout.phase != Phase::Soaking {
        return Some(format!("the stage is not soaking yet (entry {})", Entry(rollout.entry.0)));
    }
    let judgements = judgements(rollout, now);
    let canary = |j: &&Judgement| j.cohort == Cohort::Canary;
    if let Some(bad) = judgements.iter().filter(canary).find(|j| j.verdict == Verdict::Fail) {
        return Some(format!("{} fails: {}, limit {}", bad.criterion, bad.numbers.value, bad.numbers.limit));
    }
    let lacking = holds(desk, rollout, &judgements, now).into_iter().chain(too_few(&judgements));
    let lacking = lacking.into_iter().find_map(|hold| match hold {
        Hold::NoData { region, since } => Some(format!("no data from {region} since {}", since.clock())),
        Hold::TooFewEvents { criterion } => Some(format!("too few events for {criterion}")),
        _ => None,
    })?;
    Some(format!("{lacking}; to go on without it, use `exclude`"))
}
