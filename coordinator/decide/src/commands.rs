//! What people ask: done, or refused with a reason. Either is recorded.

use bellwether_protocol::command::{Amend, Ask, Command, Excluded, Outcome, Start};
use bellwether_protocol::id::{AgentId, Entry, GateVersion, LeverName, Release, RolloutId};
use bellwether_protocol::plan::{Plan, SetTo};
use bellwether_protocol::reason::{Cause, Ending, Reason};
use bellwether_protocol::record::{AgentHere, Hash};
use bellwether_protocol::time::Timestamp;

use crate::during;
use crate::evidence::Evidence;
use crate::gate::promotion_refusal;
use crate::stages::{PREPARE_WITHIN, begin_epoch, end};
use crate::state::{COMMANDS_REMEMBERED, Desk, Exclusion, LeverState, Phase, Rollout};
use crate::step::Out;
use crate::take_back;

/// Folds one command: does it or refuses it. One with an id that was seen before changes nothing.
pub(crate) fn fold(desk: &mut Desk, command: &Command, out: &mut Out) {
    desk.inbox = desk.inbox.max(command.seq);
    if desk.commands.contains(&command.id) {
        return;
    }
    desk.commands.push_back(command.id.clone());
    while desk.commands.len() > COMMANDS_REMEMBERED {
        desk.commands.pop_front();
    }
    let refused = attempt(desk, command, out).err();
    let (id, verb, principal) = (command.id.clone(), command.ask.verb(), command.principal.clone());
    out.reasons.push(match &refused {
        None => Reason::CommandDone {
            command: id.clone(),
            verb,
            principal: principal.clone(),
            reason: command.reason.clone(),
        },
        Some(why) => {
            Reason::CommandRefused { command: id.clone(), verb, principal: principal.clone(), why: why.clone() }
        }
    });
    let rollout = desk.rollout.as_ref().map(|rollout| rollout.id.clone());
    let (record, at) = (out.ordinal, out.now);
    out.outcomes.push(Outcome { command: id, verb, principal, rollout, refused, record, at });
}

fn attempt(desk: &mut Desk, command: &Command, out: &mut Out) -> Result<(), String> {
    if out.now > command.not_after {
        return Err(format!("it was valid until {}, now it is {}", command.not_after, out.now));
    }
    match &command.ask {
        Ask::Malformed { error, .. } => return Err(error.clone()),
        Ask::Start(start_ask) => return start(desk, command, start_ask, out),
        _ => {}
    }
    // Taken out while it is changed, so that the desk can be looked at meanwhile; it is always put back.
    let Some(mut rollout) = desk.rollout.take() else {
        return Err(format!("{} has no rollout", desk.service));
    };
    let result = match &command.rollout {
        Some(named) if *named != rollout.id => Err(format!("the current rollout is {}, not {named}", rollout.id)),
        _ => change(desk, &mut rollout, command, out),
    };
    desk.rollout = Some(rollout);
    result
}

fn change(desk: &Desk, rollout: &mut Rollout, command: &Command, out: &mut Out) -> Result<(), String> {
    let cause = Cause::Command { verb: command.ask.verb(), principal: command.principal.clone() };
    let is_taking_back = matches!(rollout.phase, Phase::TakingBack(_));
    let over = || Err(format!("{} has ended", rollout.id));
    match &command.ask {
        Ask::Rollback if is_taking_back => return Err("it is being taken back already".to_owned()),
        Ask::Rollback if rollout.entry == Entry(0) => return Err("it moved nothing yet; use `abort`".to_owned()),
        Ask::Rollback if rollout.plan.take_back.levels.iter().all(|level| level.set.is_empty()) => {
            return Err("the plan sets no lever to take it back".to_owned());
        }
        Ask::Rollback => {
            take_back::begin(rollout, cause, out);
            return Ok(());
        }
        Ask::FlagOff => return flag_off(rollout, out),
        _ if rollout.is_over() => return over(),
        _ => {}
    }
    match &command.ask {
        Ask::Abort if is_taking_back => Err("it is being taken back already".to_owned()),
        Ask::Abort => {
            take_back::begin_abort(rollout, cause, out);
            Ok(())
        }
        Ask::Amend(_) if is_taking_back => Err("it is being taken back".to_owned()),
        Ask::Amend(asked) => amend(desk, rollout, asked, out),
        Ask::Approve { .. } if is_taking_back => Err("it is being taken back".to_owned()),
        Ask::Approve { entry, gate } => approve(rollout, *entry, *gate),
        Ask::Exclude { what, until } => exclude(rollout, what, *until, command, out),
        Ask::Pause if rollout.paused => Err("it is paused already".to_owned()),
        Ask::Pause => {
            rollout.paused = true;
            Ok(())
        }
        Ask::Promote if is_taking_back => Err("it is being taken back".to_owned()),
        Ask::Promote => match promotion_refusal(rollout, out.now) {
            Some(why) => Err(why),
            None => {
                rollout.skip_soak = true;
                Ok(())
            }
        },
        Ask::Resume if !rollout.paused => Err("it is not paused".to_owned()),
        Ask::Resume => {
            rollout.paused = false;
            Ok(())
        }
        Ask::FlagOff | Ask::Malformed { .. } | Ask::Rollback | Ask::Start(_) => Ok(()),
    }
}

fn approve(rollout: &mut Rollout, entry: Entry, gate: GateVersion) -> Result<(), String> {
    let Some(stage) = rollout.stage().filter(|_| rollout.entry != Entry(0)) else {
        return Err("no stage was entered yet".to_owned());
    };
    if !stage.approval {
        return Err(format!("stage {} needs no approval", stage.name));
    }
    if (entry, gate) != (rollout.entry, rollout.gate) {
        return Err(format!(
            "it names entry {entry} gate {gate}, now it is entry {} gate {}: look again",
            rollout.entry, rollout.gate
        ));
    }
    rollout.approved = true;
    Ok(())
}

fn exclude(
    rollout: &mut Rollout,
    what: &Excluded,
    until: Timestamp,
    command: &Command,
    out: &mut Out,
) -> Result<(), String> {
    let Some(why) = command.reason.clone().filter(|why| !why.trim().is_empty()) else {
        return Err("an exclusion needs a reason".to_owned());
    };
    if until <= out.now {
        return Err(format!("it would end at {until}, which is past"));
    }
    let is_known = match what {
        Excluded::Criterion(name) => rollout.plan.criterion(name).is_some(),
        Excluded::Region(name) => rollout.plan.regions.contains_key(name),
    };
    if !is_known {
        return Err(format!("the plan has no {what}"));
    }
    rollout.excluded.retain(|exclusion| exclusion.what != *what);
    rollout.excluded.push(Exclusion { what: what.clone(), until });
    out.reasons.push(Reason::Excluded { what: what.clone(), until, why });
    Ok(())
}

fn flag_off(rollout: &mut Rollout, out: &mut Out) -> Result<(), String> {
    let flags = rollout.plan.levers.iter().filter_map(|(name, lever)| Some((name.clone(), lever.off.clone()?)));
    let flags: Vec<_> = flags.collect();
    if flags.is_empty() {
        return Err("the plan has no lever with an `off` value".to_owned());
    }
    let within = rollout.plan.take_back.levels.first().map(|level| level.apply_within).unwrap_or_default();
    let due = out.now + within;
    for (name, off) in flags {
        out.ask(rollout, &name, &off, due);
        rollout.levers.entry(name).or_default().is_owed = true;
    }
    Ok(())
}

fn start(desk: &mut Desk, command: &Command, start: &Start, out: &mut Out) -> Result<(), String> {
    may_start(desk, start)?;
    let plan = start.plan.clone();
    let superseded = desk.running();
    if let Some(lost) = superseded.and_then(|old| lost_lever(old, &plan)) {
        return Err(format!("lever {lost} was moved by the rollout that is on, and the new plan does not know it"));
    }
    missing_agents(desk, &plan, start.shadow)?;
    let levers = plan.levers.iter().map(|(name, own)| {
        // What a superseded rollout moved stands where that one put it, and goes back to where it found it.
        let old = superseded.and_then(|old| old.levers.get(name));
        let mut lever = match old.filter(|lever| lever.set_to.is_some()) {
            Some(moved) => moved.clone(),
            None => found(desk, name),
        };
        let earlier = old.and_then(|lever| lever.previous.clone()).filter(|release| *release != start.release);
        lever.previous = match earlier {
            _ if !own.holds_release => None,
            None => previous(desk, name, &start.release, start.shadow)?,
            earlier => earlier,
        };
        Ok((name.clone(), lever))
    });
    let levers = levers.collect::<Result<_, String>>()?;
    desk.rollouts = desk.rollouts.saturating_add(1);
    let mut rollout = Rollout {
        id: RolloutId { service: desk.service.clone(), number: desk.rollouts },
        release: start.release.clone(),
        plan,
        plan_hash: Hash::of(start.text.as_bytes()),
        overrides: start.overrides.clone(),
        principal: command.principal.clone(),
        started_at: out.now,
        phase: Phase::Preparing { until: out.now + PREPARE_WITHIN },
        stage: 0,
        entry: Entry(0),
        gate: GateVersion(0),
        approved: false,
        skip_soak: false,
        paused: false,
        is_shadow: start.shadow,
        reapplied: None,
        runs: Vec::new(),
        levers,
        evidence: Evidence::default(),
        revisions: Default::default(),
        excluded: Vec::new(),
        holds: Vec::new(),
        faulty: Default::default(),
        incidents: Default::default(),
        soaked: Vec::new(),
        agents_most: desk.agents.len(),
    };
    if !start.shadow {
        unknown_previous(&rollout)?;
    }
    if let Some(old) = desk.rollout.as_mut().filter(|old| !old.is_over()) {
        // What a person asked of its levers is the new one's to tell now.
        old.levers.values_mut().for_each(|lever| lever.is_owed = false);
        let summary = format!("{} gave way to {} ({})", old.release, rollout.release, rollout.id);
        end(old, Ending::Superseded, summary, out);
    }
    begin_epoch(&mut rollout, out.now);
    out.reasons.push(Reason::Started {
        release: start.release.clone(),
        previous: rollout.previous().cloned(),
        plan_hash: rollout.plan_hash.short(),
        principal: command.principal.clone(),
    });
    desk.rollout = Some(rollout);
    Ok(())
}

fn may_start(desk: &Desk, start: &Start) -> Result<(), String> {
    if let Some(running) = desk.running().filter(|_| !start.supersede) {
        return Err(format!("{} is running; one rollout at a time: abort it first, or `--supersede`", running.id));
    }
    if start.shadow && start.supersede {
        return Err("a shadow moves nothing, so it takes nobody's place".to_owned());
    }
    if start.plan.service != desk.service {
        return Err(format!("the plan is for service {}", start.plan.service));
    }
    Ok(())
}

/// The release that a lever goes back to. The shadow moves nothing, and needs none.
fn previous(desk: &Desk, name: &LeverName, new: &Release, is_shadow: bool) -> Result<Option<Release>, String> {
    desk.previous(name, new).or_else(|why| if is_shadow { Ok(None) } else { Err(why) })
}

/// A lever as it was found.
fn found(desk: &Desk, name: &LeverName) -> LeverState {
    let origin = desk.reading(name).and_then(|reading| reading.value.clone());
    LeverState { origin, ..LeverState::default() }
}

/// Goes on with another plan: the stage that is on keeps its place, and its evidence begins anew.
fn amend(desk: &Desk, rollout: &mut Rollout, asked: &Amend, out: &mut Out) -> Result<(), String> {
    let plan = &asked.plan;
    if plan.service != desk.service {
        return Err(format!("the plan is for service {}", plan.service));
    }
    missing_agents(desk, plan, rollout.is_shadow)?;
    if matches!(rollout.phase, Phase::Entering { .. }) {
        return Err("a stage is being entered: ask again once it is, or abort".to_owned());
    }
    let passed = rollout.plan.stages.iter().take(rollout.stage + 1).map(|stage| &stage.name);
    let kept = plan.stages.iter().map(|stage| &stage.name);
    if rollout.entry != Entry(0) && !passed.clone().eq(kept.take(rollout.stage + 1)) {
        let passed: Vec<&str> = passed.map(|stage| stage.as_str()).collect();
        return Err(format!("the new plan must begin with the stages that were entered: {}", passed.join(", ")));
    }
    if let Some(lost) = lost_lever(rollout, plan) {
        return Err(format!("lever {lost} was moved, and the new plan does not know it"));
    }
    let mut amended = rollout.clone();
    for (name, own) in &plan.levers {
        let lever = amended.levers.entry(name.clone()).or_insert_with(|| found(desk, name));
        if own.holds_release && lever.previous.is_none() {
            lever.previous = previous(desk, name, &rollout.release, rollout.is_shadow)?;
        }
    }
    amended.levers.retain(|name, _| plan.levers.contains_key(name));
    amended.plan = plan.clone();
    amended.plan_hash = Hash::of(asked.text.as_bytes());
    amended.overrides.clone_from(&asked.overrides);
    unknown_previous(&amended)?;
    amended.gate = amended.gate.next();
    amended.approved = false;
    // Who promoted had seen other evidence, and other criteria.
    amended.skip_soak = false;
    if amended.phase == Phase::Soaking {
        amended.runs = during::begin(&amended, out.now);
    }
    // What was left to settle still is.
    let from = if let Phase::Settling { until } = amended.phase { until.max(out.now) } else { out.now };
    begin_epoch(&mut amended, from);
    out.reasons.push(Reason::Amended { plan_hash: amended.plan_hash.short() });
    *rollout = amended;
    Ok(())
}

/// A lever that was moved, and that another plan would leave where it is.
fn lost_lever<'a>(rollout: &'a Rollout, plan: &Plan) -> Option<&'a LeverName> {
    let mut moved = rollout.levers.iter().filter(|(_, lever)| lever.set_to.is_some()).map(|(name, _)| name);
    moved.find(|name| !plan.levers.contains_key(*name))
}

/// A rollout does not start until each lever it needs has a live agent that has read it back, and
/// each region has agents that look.
fn missing_agents(desk: &Desk, plan: &Plan, is_shadow: bool) -> Result<(), String> {
    let mut missing = Vec::new();
    for lever in plan.levers.keys().filter(|_| !is_shadow) {
        match desk.reading(lever) {
            None => missing.push(format!("no live agent holds lever {lever}")),
            Some(reading) if reading.value.is_none() => missing.push(format!("lever {lever} could not be read back")),
            Some(_) => {}
        }
    }
    let quorum = usize::try_from(plan.quorum).unwrap_or(usize::MAX);
    for region in plan.stages.iter().flat_map(|stage| &stage.regions) {
        for kind in plan.kinds() {
            let can = |(agent, here): &(&AgentId, &AgentHere)| agent.region == *region && here.kinds.contains(kind);
            let live = desk.agents.iter().filter(can).count();
            if live < quorum {
                missing.push(format!("region {region} has {live} of {quorum} agents that look by {kind}"));
            }
        }
    }
    missing.dedup();
    if missing.is_empty() { Ok(()) } else { Err(missing.join("; ")) }
}

/// Every `{previous}` of the plan must stand for something, or taking back would leave a lever out.
fn unknown_previous(rollout: &Rollout) -> Result<(), String> {
    let sets = rollout.plan.take_back.levels.iter().flat_map(|level| &level.set);
    let unknown = sets.filter(|set| set.to == SetTo::Previous).find(|set| rollout.value_of(set).is_none());
    match unknown {
        Some(set) => Err(format!("what lever {} held before is not known, so it could not be taken back", set.lever)),
        None => Ok(()),
    }
}
