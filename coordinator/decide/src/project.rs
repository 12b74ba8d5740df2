//! What agents watch and what people see: pure projections of a desk. Nothing here decides.

use std::collections::{BTreeMap, BTreeSet};

use bellwether_protocol::assignment::{Assignment, Look};
use bellwether_protocol::id::{LeverName, Region, RolloutId};
use bellwether_protocol::plan::{Objective, Plan, Sli};
use bellwether_protocol::reason::{Cause, Ending, Hold, Judgement};
use bellwether_protocol::record::{ClosedSlot, Input, Series};
use bellwether_protocol::sample::{Cohort, LATENCY_EDGES_MS};
use bellwether_protocol::status::{
    Budget, LeverStatus, NeedsYou, RegionStatus, StageMark, StageStatus, State, Status, TakeBackStatus,
};
use bellwether_protocol::time::{Span, Timestamp};

use crate::evidence::{Counted, STRIP_LEN, SeriesState, series_of};
use crate::judge::Finding;
use crate::state::{Desk, Phase, Rollout, TakeBack};
use crate::tally::stretched;
use crate::{budget, gate, power, stages, step};

/// What each region looks at for one rollout.
#[derive(Debug, Clone, PartialEq)]
pub struct Looks {
    /// The rollout.
    pub rollout: RolloutId,
    /// Width of a slot.
    pub slot: Span,
    /// What is looked at, per region of the plan; empty where nothing is.
    pub by_region: BTreeMap<Region, Vec<Look>>,
}

/// What a rollout looks at now.
pub fn looks(rollout: &Rollout) -> Looks {
    let mut by_region: BTreeMap<Region, Vec<Look>> =
        rollout.plan.regions.keys().map(|region| (region.clone(), Vec::new())).collect();
    if let Some(stage) = rollout.stage().filter(|_| !rollout.is_over()) {
        for series in series_of(&rollout.plan, stage) {
            if let Some(look) = look(&rollout.plan, &series) {
                by_region.entry(series.region).or_default().push(look);
            }
        }
    }
    Looks { rollout: rollout.id.clone(), slot: rollout.plan.slot, by_region }
}

fn look(plan: &Plan, series: &Series) -> Option<Look> {
    let sli: &Sli = plan.sli(&series.sli)?;
    let headers = match series.cohort {
        Cohort::Baseline => plan.baseline.clone().unwrap_or_default(),
        Cohort::Canary => plan.canary.clone(),
    };
    let mut edges: BTreeSet<u64> = LATENCY_EDGES_MS.into_iter().collect();
    for criterion in plan.criteria.iter().filter(|criterion| criterion.sli == series.sli) {
        match &criterion.objective {
            // The canary is counted at edges that lie so many times further out.
            Objective::CompareLatency { times, .. } => {
                edges.extend(LATENCY_EDGES_MS.map(|edge| stretched(edge, *times)));
            }
            Objective::Quantile { max, target, .. } => {
                edges.insert(max.as_ms());
                edges.extend(target.map(|target| target.as_ms()));
            }
            _ => {}
        }
    }
    Some(Look {
        sli: sli.name.clone(),
        cohort: series.cohort,
        url: plan.regions.get(&series.region)?.clone(),
        kind: sli.kind.clone(),
        settings: sli.settings.clone(),
        every: sli.every,
        timeout: sli.timeout,
        headers,
        fingerprint: plan.fingerprint.clone(),
        edges_ms: edges.into_iter().collect(),
    })
}

/// The assignments of a desk's rollout, one per region of its plan.
pub fn assignments(desk: &Desk) -> Vec<Assignment> {
    let Some(rollout) = &desk.rollout else { return Vec::new() };
    let looks = looks(rollout);
    let assignment = |(region, looks): (Region, Vec<Look>)| {
        let revision = rollout.revisions.get(&region).copied().unwrap_or_default();
        Assignment { rollout: rollout.id.clone(), revision, region, slot: rollout.plan.slot, looks }
    };
    looks.by_region.into_iter().map(assignment).collect()
}

/// The status of a desk's rollout, as decided at `now`.
pub fn status(desk: &Desk, now: Timestamp) -> Option<Status> {
    let rollout = desk.rollout.as_ref()?;
    let (ending, summary) = match &rollout.phase {
        Phase::Ended { ending, summary, .. } => (Some(*ending), Some(summary.clone())),
        Phase::TakingBack(back) => (None, Some(why(&back.cause))),
        _ => (None, None),
    };
    let open = rollout.incidents.iter().filter(|(_, incident)| !incident.resolved).map(|(cause, _)| cause.clone());
    let incident = |cause| bellwether_protocol::id::IncidentId { rollout: rollout.id.clone(), cause };
    let here = desk.agents.len();
    Some(Status {
        rollout: rollout.id.clone(),
        release: rollout.release.clone(),
        previous: rollout.previous().cloned(),
        plan_hash: rollout.plan_hash.short(),
        overrides: rollout.overrides.clone(),
        is_shadow: rollout.is_shadow,
        started_at: rollout.started_at,
        decided_at: now,
        record: desk.ordinal,
        state: state(rollout),
        ending,
        summary,
        holds: rollout.holds.clone(),
        needs_you: needs_you(rollout, now),
        stages: stage_statuses(rollout, now),
        entry: rollout.entry,
        gate: rollout.gate,
        leaves_at: leaves_at(rollout, now),
        criteria: criteria(rollout, now),
        budget: spent(rollout),
        regions: regions(desk, rollout),
        levers: rollout.levers.keys().map(|lever| lever_status(desk, rollout, lever)).collect(),
        stays: matches!(rollout.phase, Phase::Ended { .. }) && rollout.stays(),
        take_back: match &rollout.phase {
            Phase::TakingBack(back) => Some(take_back_status(rollout, back, now)),
            _ => None,
        },
        evidence: rollout.evidence.first_bad.clone(),
        agents_live: u32::try_from(here).unwrap_or(u32::MAX),
        agents_known: u32::try_from(here.max(rollout.agents_most)).unwrap_or(u32::MAX),
        incidents: open.map(incident).collect(),
        excluded: rollout.excluded.iter().filter(|e| now < e.until).map(|e| (e.what.clone(), e.until)).collect(),
        slot: rollout.plan.slot,
        stuck: None,
    })
}

/// What people look at: the verdicts of the stage, or the one that it is being taken back for.
fn criteria(rollout: &Rollout, now: Timestamp) -> Vec<Judgement> {
    match &rollout.phase {
        Phase::TakingBack(back) => back.cause.judgement().into_iter().cloned().collect(),
        Phase::Preparing { .. } | Phase::Ended { .. } => Vec::new(),
        Phase::Entering { .. } | Phase::Settling { .. } | Phase::Soaking => {
            gate::findings(rollout, now).iter().map(Finding::judgement).collect()
        }
    }
}

/// A rollout once the slots among `inputs` are folded, before anything follows from them: what a
/// decision has rested on.
pub fn folded(rollout: &Rollout, inputs: &[Input]) -> Rollout {
    let mut rollout = rollout.clone();
    step::fold_slots(&mut rollout, inputs);
    rollout
}

/// Every verdict of a rollout's stage at `now`, each with the end of its last slot.
pub fn judged(rollout: &Rollout, now: Timestamp) -> Vec<(Judgement, Timestamp)> {
    gate::findings(rollout, now).iter().map(|finding| (finding.judgement(), finding.track.upto)).collect()
}

/// The slots among `inputs` that are evidence in the stage and phase of a rollout, each once, and
/// what each says.
pub fn counted<'a>(rollout: &'a Rollout, inputs: &'a [Input]) -> Vec<(&'a ClosedSlot, Counted<'a>)> {
    let Some(frame) = step::frame(rollout).filter(|_| !rollout.is_over()) else { return Vec::new() };
    let series = &rollout.evidence.series;
    let mut next: BTreeMap<&Series, Timestamp> = series.iter().map(|(series, state)| (series, state.next)).collect();
    let closed = inputs.iter().filter_map(|input| match input {
        Input::Closed(slot) => Some(slot),
        _ => None,
    });
    let counted = closed.filter_map(|slot| {
        let next = next.get_mut(&slot.series).filter(|next| **next == slot.slot)?;
        *next = slot.slot + rollout.plan.slot;
        (slot.slot >= rollout.evidence.from).then(|| (slot, frame.counted(slot)))
    });
    counted.collect()
}

fn spent(rollout: &Rollout) -> Option<Budget> {
    let stage = rollout.stage().filter(|_| rollout.entry.0 > 0 && !rollout.is_over())?;
    Some(Budget {
        alpha: rollout.plan.alpha,
        stage: power::ratio(budget::alpha(&rollout.plan, stage)),
        tests: budget::tests(&rollout.plan, stage),
        outside: budget::outside(&rollout.plan, stage).map(|criterion| criterion.name.clone()).collect(),
    })
}

fn state(rollout: &Rollout) -> State {
    match &rollout.phase {
        Phase::Preparing { .. } => State::Preparing,
        Phase::Entering { .. } => State::Entering,
        Phase::Settling { .. } => State::Settling,
        Phase::Soaking if rollout.holds.contains(&Hold::Approval) => State::Waiting,
        Phase::Soaking => State::Soaking,
        Phase::TakingBack(back) if back.applied_at.is_some() => State::Applied,
        Phase::TakingBack(_) => State::TakingBack,
        Phase::Ended { .. } => State::Ended,
    }
}

fn why(cause: &Cause) -> String {
    match cause {
        Cause::Command { verb, principal } => format!("{verb} by {principal}"),
        Cause::Criterion { judgement } => {
            let region = judgement.region.as_ref().map(|region| format!(" in {region}")).unwrap_or_default();
            format!("{} {}{region}", judgement.criterion, judgement.numbers)
        }
        Cause::Drift { lever, to } => format!("lever {lever} was read at {to}"),
        Cause::Lever { lever, outcome } => format!("lever {lever} could not be set ({outcome})"),
    }
}

/// What people must do, the most pressing first.
fn needs_you(rollout: &Rollout, now: Timestamp) -> Option<NeedsYou> {
    let service = &rollout.id.service;
    let ask = |what: String, run: Option<String>| Some(NeedsYou { what, run });
    match &rollout.phase {
        Phase::Ended { ending: Ending::NotTakenBack, .. } => {
            return ask("take it back by hand".to_owned(), Some(format!("bellwether command rollback {service}")));
        }
        Phase::TakingBack(back) if back.told_blind => {
            return ask("probes see nothing; look at the agents".to_owned(), None);
        }
        _ => {}
    }
    let pressing = |hold: &Hold| match hold {
        Hold::BaselineAsRed { .. } => 0,
        Hold::Activity { .. } | Hold::Lever { .. } => 1,
        Hold::NoData { .. } => 2,
        Hold::TooFewEvents { .. } => 3,
        Hold::SoftRed { .. } => 4,
        Hold::NotProven { .. } => 5,
        Hold::NotRecovered => 6,
        Hold::Approval => 7,
        Hold::Paused => 8,
        Hold::Frozen { .. } => 9,
    };
    match rollout.holds.iter().min_by_key(|hold| pressing(hold))? {
        Hold::Approval => ask("approve".to_owned(), Some(approve(rollout))),
        Hold::BaselineAsRed { criterion } => {
            ask(format!("{criterion} fails on the old release too: look elsewhere"), None)
        }
        Hold::Activity { lever } => ask(format!("look at what {lever} runs"), None),
        Hold::Frozen { .. } => None,
        Hold::Lever { lever } if rollout.levers.get(lever).is_some_and(|lever| lever.is_owed) => ask(
            format!("lever {lever} is not where somebody asked it to be"),
            Some(format!("bellwether command flag-off {service}")),
        ),
        Hold::Lever { lever } => ask(format!("somebody moved lever {lever}"), None),
        Hold::NoData { region, .. } => ask(
            format!("look at {region}"),
            Some(format!(
                "bellwether command exclude {service} region {region} --reason TEXT --until {}",
                (now + Span::from_secs(3_600)).seconds()
            )),
        ),
        Hold::NotProven { criterion } => ask(
            format!("{criterion} is not proven yet"),
            Some(format!(
                "bellwether command exclude {service} criterion {criterion} --reason TEXT --until {}",
                (now + Span::from_secs(3_600)).seconds()
            )),
        ),
        Hold::NotRecovered => ask("look elsewhere: everything is back".to_owned(), None),
        Hold::Paused => ask("resume".to_owned(), Some(format!("bellwether command resume {service}"))),
        Hold::SoftRed { criterion } => ask(format!("look at {criterion}"), None),
        Hold::TooFewEvents { criterion } => ask(format!("too few events for {criterion}"), None),
    }
}

fn stage_statuses(rollout: &Rollout, now: Timestamp) -> Vec<StageStatus> {
    let over = match &rollout.phase {
        Phase::Ended { ending, .. } => Some(*ending),
        Phase::TakingBack(_) => Some(Ending::RolledBack),
        _ => None,
    };
    let status = |(index, stage): (usize, &bellwether_protocol::plan::Stage)| {
        let passed = rollout.soaked.get(index);
        let is_current = index == rollout.stage && rollout.entry.0 > 0;
        let mark = match (passed, over) {
            (Some(_), _) => StageMark::Passed,
            (None, Some(Ending::Completed)) => StageMark::Passed,
            (None, Some(_)) if is_current => StageMark::Failed,
            (None, Some(_)) => StageMark::Skipped,
            (None, None) if is_current => StageMark::Now,
            (None, None) => StageMark::Later,
        };
        let slots = match passed {
            Some(slots) => *slots,
            None if is_current && over.is_none() => stages::soaked_slots(rollout, now),
            None => 0,
        };
        StageStatus { name: stage.name.clone(), mark, soaked: rollout.plan.slot.times(slots), soak: stage.soak }
    };
    rollout.plan.stages.iter().enumerate().map(status).collect()
}

/// How to approve what waits now. It names the rollout: another may have taken its place when it is typed.
pub(crate) fn approve(rollout: &Rollout) -> String {
    let Rollout { id, entry, gate, .. } = rollout;
    format!("bellwether command approve {} --rollout {id} --entry {entry} --gate {gate}", id.service)
}

fn leaves_at(rollout: &Rollout, now: Timestamp) -> Option<Timestamp> {
    let stage = rollout.stage()?;
    match &rollout.phase {
        Phase::Settling { until } => Some(*until + stage.soak),
        Phase::Soaking => {
            let soaked = rollout.plan.slot.times(stages::soaked_slots(rollout, now));
            let missing = stage.soak.as_ms().saturating_sub(soaked.as_ms());
            let next = rollout.evidence.series.values().map(|state| state.next).min()?;
            Some(next.max(rollout.evidence.from) + Span::from_ms(missing))
        }
        _ => None,
    }
}

fn regions(desk: &Desk, rollout: &Rollout) -> Vec<RegionStatus> {
    let Some(stage) = rollout.stage() else { return Vec::new() };
    let silent = rollout.evidence.silent(|_| false);
    let status = |region: &Region| {
        let all: Vec<&SeriesState> = rollout
            .evidence
            .series
            .iter()
            .filter(|(series, _)| series.region == *region)
            .map(|(_, state)| state)
            .collect();
        let mut answering: Vec<_> = all.iter().flat_map(|state| state.answering.iter().cloned()).collect();
        answering.sort();
        answering.dedup();
        let here = || desk.agents.iter().filter(|(agent, _)| agent.region == *region);
        let live = here().filter(|(_, here)| !here.kinds.is_empty()).count();
        let gaps = here().flat_map(|(agent, here)| {
            here.watching.iter().flat_map(|watching| &watching.gaps).map(|gap| (agent.clone(), gap.clone()))
        });
        RegionStatus {
            region: region.clone(),
            strip: strip(&all),
            covered: all.iter().map(|state| state.covered).min().unwrap_or(0),
            slots: all.iter().map(|state| state.slots).max().unwrap_or(0),
            answering,
            agents_live: u32::try_from(live).unwrap_or(u32::MAX),
            silent_since: silent.get(region).copied(),
            gaps: gaps.collect(),
        }
    };
    stage.regions.iter().map(status).collect()
}

/// The worst of several series, slot by slot, aligned at the newest.
fn strip(series: &[&SeriesState]) -> String {
    let strips: Vec<Vec<char>> = series.iter().map(|state| state.strip.chars().rev().collect()).collect();
    let longest = strips.iter().map(Vec::len).max().unwrap_or(0).min(STRIP_LEN);
    let worst = |age: usize| {
        let marks = || strips.iter().filter_map(|strip| strip.get(age));
        if marks().any(|mark| *mark == 'x') {
            'x'
        } else if marks().any(|mark| *mark == '?') {
            '?'
        } else {
            '.'
        }
    };
    (0..longest).rev().map(worst).collect()
}

fn lever_status(desk: &Desk, rollout: &Rollout, name: &LeverName) -> LeverStatus {
    let lever = rollout.levers.get(name).cloned().unwrap_or_default();
    let reading = desk.reading(name);
    let answer = match (&lever.action, &lever.answer) {
        (None, _) => "untouched".to_owned(),
        (Some(_), None) => "asked".to_owned(),
        (Some(_), Some(answer)) => answer.outcome.to_string(),
    };
    let (done, targets) = match (&lever.answer, reading) {
        (Some(answer), _) => (answer.done, answer.targets),
        (None, Some(reading)) => {
            let right = reading.targets.iter().filter(|t| lever.set_to.is_some() && t.value == lever.set_to).count();
            (u32::try_from(right).unwrap_or(0), u32::try_from(reading.targets.len()).unwrap_or(0))
        }
        (None, None) => (0, 0),
    };
    LeverStatus {
        lever: name.clone(),
        set_to: lever.set_to,
        value: reading.and_then(|reading| reading.value.clone()),
        done,
        targets,
        answer,
    }
}

fn take_back_status(rollout: &Rollout, back: &TakeBack, now: Timestamp) -> TakeBackStatus {
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    TakeBackStatus {
        level: count(back.level + 1),
        levels: count(back.levels.len()),
        asked_at: back.asked_at,
        due: back.due,
        applied_at: back.applied_at,
        recovered_at: back.recovered_at,
        green: rollout.evidence.green_slots(|series| rollout.is_left_out(series, now)),
        green_needed: rollout.plan.take_back.green,
    }
}
