//! Who must be told, once per problem: an incident opens, is updated, and is resolved.

use bellwether_protocol::alert::{Alert, IncidentKind, NextStep, Numbers, Proof, Severity};
use bellwether_protocol::id::{AgentId, Audience, CriterionName, IncidentId, LeverName, LeverValue, Region};
use bellwether_protocol::plan::{LeverUse, OnFail};
use bellwether_protocol::reason::{DataFault, Ending, Hold, Judgement};
use bellwether_protocol::record::Source;

use crate::drift::{self, Drift};
use crate::project;
use crate::state::{Incident, Phase, Rollout};
use crate::step::Out;

/// What is told of an incident.
pub(crate) struct Tell {
    pub(crate) cause: CriterionName,
    /// What is done about it, which is what the plan names people for.
    pub(crate) act: OnFail,
    pub(crate) severity: Severity,
    pub(crate) state: &'static str,
    pub(crate) regions: Vec<Region>,
    pub(crate) headline: String,
    pub(crate) numbers: Option<Numbers>,
}

impl Tell {
    /// Something that holds, and asks for somebody today.
    pub(crate) fn new(cause: CriterionName, state: &'static str, headline: String) -> Self {
        let (act, severity) = (OnFail::Hold, Severity::Warn);
        Self { cause, act, severity, state, regions: Vec::new(), headline, numbers: None }
    }

    /// With the numbers and the region of what was judged.
    pub(crate) fn on(self, judgement: &Judgement) -> Self {
        let (regions, numbers) = (judgement.region.iter().cloned().collect(), Some(judgement.numbers.clone()));
        Self { regions, numbers, ..self }
    }

    /// A criterion that fails; what follows from that is to be added.
    pub(crate) fn of_judgement(rollout: &Rollout, judgement: &Judgement) -> Self {
        let (criterion, numbers) = (&judgement.criterion, &judgement.numbers);
        let region = judgement.region.as_ref().map(|region| format!(" ({region})")).unwrap_or_default();
        let headline = format!("{} {}: {criterion} {numbers}{region}", rollout.release, stage(rollout));
        Self::new(criterion.clone(), "", headline).on(judgement)
    }

    /// A lever that is elsewhere; what follows from that is to be added.
    pub(crate) fn of_drift(rollout: &Rollout, lever: &LeverName, drift: &Drift) -> Self {
        let what = drift::text(lever, &drift.to);
        Self::new(cause(lever.as_str()), "", format!("{} {}: {what}", rollout.release, stage(rollout)))
    }

    /// With what follows from it.
    pub(crate) fn and(self, act: OnFail, state: &'static str, what: &str) -> Self {
        Self { act, state, headline: format!("{}; {what}", self.headline), ..self }
    }
}

/// A cause from text that is a token already.
#[expect(clippy::expect_used, reason = "every caller passes a token: a name of ours, or one that was parsed as such")]
pub(crate) fn cause(text: &str) -> CriterionName {
    let cut: String = text.chars().take(bellwether_protocol::id::TOKEN_LEN_MAX).collect();
    cut.parse().expect("a cut token is a token")
}

/// Opens an incident, or says that its state changed.
pub(crate) fn open(rollout: &mut Rollout, tell: Tell, out: &mut Out) {
    let open = rollout.incidents.get(&tell.cause).filter(|incident| !incident.resolved);
    if open.is_none_or(|incident| incident.state != tell.state) {
        update(rollout, tell, out);
    }
}

/// Opens an incident, or says what changed about it.
pub(crate) fn update(rollout: &mut Rollout, tell: Tell, out: &mut Out) {
    let is_open = rollout.incidents.get(&tell.cause).is_some_and(|incident| !incident.resolved);
    say(rollout, if is_open { IncidentKind::Updated } else { IncidentKind::Opened }, tell, out);
}

/// Resolves an incident, if it is open.
pub(crate) fn resolve(rollout: &mut Rollout, tell: Tell, out: &mut Out) {
    let is_open = rollout.incidents.get(&tell.cause).is_some_and(|incident| !incident.resolved);
    if is_open {
        say(rollout, IncidentKind::Resolved, tell, out);
    }
}

/// Tells of an agent that sent something wrong. Open until the rollout ends: people must look at it.
pub(crate) fn tell_fault(rollout: &mut Rollout, agent: &AgentId, fault: DataFault, out: &mut Out) {
    let headline = format!("{}: {agent} sent {fault}; it is left out, look at that agent", rollout.release);
    let (cause, regions) = (fault_cause(agent), vec![agent.region.clone()]);
    open(rollout, Tell { regions, ..Tell::new(cause, "data_fault", headline) }, out);
}

/// Tells of a stream that was lost: what nobody had read of it is gone.
pub(crate) fn tell_reset(rollout: &mut Rollout, source: Source, out: &mut Out) {
    let what = match source {
        Source::Inbox => "commands and results sent meanwhile may be lost: ask again",
        Source::Samples => "agents send the last minutes again, what stays missing holds",
    };
    let headline = format!("{}: the {source} stream was created anew or cut off; {what}", rollout.release);
    update(rollout, Tell::new(reset_cause(source), "stream_reset", headline), out);
}

fn reset_cause(source: Source) -> CriterionName {
    cause(&format!("stream-{source}"))
}

fn fault_cause(agent: &AgentId) -> CriterionName {
    cause(&format!("data-{}-{}", agent.name, agent.region))
}

/// Tells of a lever that a person asked to be set, and that is not where it was asked to be.
pub(crate) fn tell_owed(rollout: &mut Rollout, out: &mut Out) {
    let owed = rollout.levers.iter().filter(|(_, lever)| lever.is_owed);
    let owed: Vec<_> = owed.map(|(name, lever)| (name.clone(), lever.set_to.clone(), lever.answer.clone())).collect();
    for (name, to, answer) in owed {
        let asked = format!("{} {}: lever {name} was asked to be {}", rollout.release, stage(rollout), told(&to));
        let tell = |state, what: &str| Tell {
            severity: Severity::Page,
            ..Tell::new(owed_cause(&name), state, format!("{asked}{what}"))
        };
        let failed = rollout.levers.get(&name).and_then(|lever| lever.failed(out.now));
        if let Some(why) = failed {
            open(rollout, tell("not_set", &format!(": {why}; it may be where it was")), out);
        } else if answer.is_some() {
            resolve(rollout, tell("set", ", and was read back there"), out);
            rollout.levers.entry(name).or_default().is_owed = false;
        }
    }
}

fn told(to: &Option<LeverValue>) -> &str {
    to.as_ref().map_or("set", LeverValue::as_str)
}

fn owed_cause(lever: &LeverName) -> CriterionName {
    cause(&format!("asked-{lever}"))
}

/// Tells of holds that ask for people, and resolves those that are over.
pub(crate) fn tell_holds(
    rollout: &mut Rollout,
    warned: &[Judgement],
    awaited: Option<CriterionName>,
    silent_slots: u64,
    out: &mut Out,
) {
    let patience = rollout.plan.slot.times(silent_slots);
    let mut on: Vec<CriterionName> = rollout.faulty.iter().map(fault_cause).collect();
    on.extend([Source::Inbox, Source::Samples].map(reset_cause));
    on.extend(awaited);
    let moved = drift::drifted(rollout, out.now).filter(|(.., act)| *act == OnFail::Warn);
    let moved: Vec<Tell> = moved.map(|(lever, drift, _)| Tell::of_drift(rollout, lever, drift)).collect();
    for tell in warned.iter().map(|judgement| Tell::of_judgement(rollout, judgement)).chain(moved).collect::<Vec<_>>() {
        on.push(tell.cause.clone());
        open(rollout, tell.and(OnFail::Warn, "warned", "the plan asks for a warning only"), out);
    }
    for hold in rollout.holds.clone() {
        let told = match &hold {
            Hold::Approval => Some(("approval".to_owned(), Vec::new(), "waits for approval".to_owned())),
            Hold::Lever { lever } => {
                let drift = rollout.levers.get(lever).and_then(|lever| lever.drifted.as_ref());
                drift.map(|drift| (lever.to_string(), Vec::new(), drift::text(lever, &drift.to)))
            }
            Hold::NoData { region, since } if out.now.since(*since) >= patience => Some((
                format!("no-data-{region}"),
                vec![region.clone()],
                format!("no data from {region} since {}; nothing is promoted", since.clock()),
            )),
            Hold::SoftRed { criterion } => Some((
                criterion.to_string(),
                Vec::new(),
                format!("{criterion} is over its limit; the soak's count stands still"),
            )),
            Hold::TooFewEvents { criterion } => Some((
                criterion.to_string(),
                Vec::new(),
                format!("too few events for {criterion}; nothing is promoted"),
            )),
            Hold::BaselineAsRed { criterion } => {
                on.push(cause(criterion.as_str()));
                None
            }
            Hold::NotProven { criterion } => Some((
                criterion.to_string(),
                Vec::new(),
                format!("{criterion} is not proven by the data of the whole soak; nothing is promoted"),
            )),
            Hold::Activity { lever } => {
                let text = format!("the run of {lever} was not done in time; nothing is promoted");
                Some((format!("run-{lever}"), Vec::new(), text))
            }
            Hold::Frozen { .. } | Hold::NoData { .. } | Hold::NotRecovered | Hold::Paused => None,
        };
        if let Some((name, regions, text)) = told {
            let cause = cause(&name);
            on.push(cause.clone());
            let headline = format!("{} {}: {text}", rollout.release, stage(rollout));
            open(rollout, Tell { regions, ..Tell::new(cause, "holding", headline) }, out);
        }
    }
    resolve_all_but(rollout, &on, "is over", out);
}

/// What a rollout leaves open at its end: nobody looks whether it goes on.
const LEFT: &str = "is no longer watched: the rollout ended";

fn resolve_all_but(rollout: &mut Rollout, on: &[CriterionName], why: &str, out: &mut Out) {
    let owed = rollout.levers.iter().filter(|(_, lever)| lever.is_owed);
    let on: Vec<CriterionName> = on.iter().cloned().chain(owed.map(|(name, _)| owed_cause(name))).collect();
    let over = rollout.incidents.iter().filter(|(cause, incident)| !incident.resolved && !on.contains(cause));
    let over: Vec<(CriterionName, Severity)> =
        over.map(|(cause, incident)| (cause.clone(), incident.severity)).collect();
    for (cause, severity) in over {
        let headline = format!("{} {}: {cause} {why}", rollout.release, stage(rollout));
        resolve(rollout, Tell { severity, ..Tell::new(cause, "over", headline) }, out);
    }
}

/// Tells how the rollout ended. What failed and was not taken back stays open for people to close.
pub(crate) fn tell_end(rollout: &mut Rollout, ending: Ending, out: &mut Out) {
    let Phase::Ended { summary, .. } = &rollout.phase else { return };
    let headline = summary.clone();
    let tell = |name: &str, severity, state| Tell { severity, ..Tell::new(cause(name), state, headline.clone()) };
    match ending {
        Ending::Aborted => {
            resolve_all_but(rollout, &[], LEFT, out);
            say(rollout, IncidentKind::Resolved, tell("aborted", Severity::Info, "aborted"), out);
        }
        Ending::Completed => {
            resolve_all_but(rollout, &[], LEFT, out);
            say(rollout, IncidentKind::Resolved, tell("completed", Severity::Info, "completed"), out);
        }
        Ending::NotStarted => {
            say(rollout, IncidentKind::Opened, tell("not-started", Severity::Warn, "not_started"), out)
        }
        Ending::RolledBack | Ending::Superseded | Ending::WouldTakeBack => resolve_all_but(rollout, &[], LEFT, out),
        Ending::NotTakenBack => {}
    }
}

fn say(rollout: &mut Rollout, kind: IncidentKind, tell: Tell, out: &mut Out) {
    let resolved = kind == IncidentKind::Resolved;
    let audience = audience(rollout, &tell);
    let new = || Incident { seq: 0, severity: tell.severity, state: String::new(), resolved };
    let incident = rollout.incidents.entry(tell.cause.clone()).or_insert_with(new);
    incident.seq = incident.seq.saturating_add(1);
    incident.severity = incident.severity.max(tell.severity);
    incident.resolved = resolved;
    tell.state.clone_into(&mut incident.state);
    let seq = incident.seq;
    // A resolution reaches whoever was woken: it goes out at the most that was asked.
    let severity = if resolved { incident.severity } else { tell.severity };
    let proof = match &rollout.phase {
        Phase::TakingBack(back) => Proof { applied: back.applied_at, recovered: back.recovered_at },
        _ => Proof::default(),
    };
    out.alerts.push(Alert {
        kind,
        incident: IncidentId { rollout: rollout.id.clone(), cause: tell.cause },
        seq,
        severity,
        state: tell.state.to_owned(),
        service: rollout.id.service.clone(),
        release: rollout.release.clone(),
        stage: rollout.stage_name(),
        regions: tell.regions,
        headline: if rollout.is_shadow { format!("shadow: {}", tell.headline) } else { tell.headline },
        numbers: tell.numbers,
        record: out.ordinal,
        proof,
        next: next_steps(rollout, tell.state),
        tell: audience,
        at: out.now,
    });
}

/// Whom the plan names for what is done about it. Who is told that the levers are set again is also
/// told when that did not help, and it holds.
fn audience(rollout: &Rollout, tell: &Tell) -> Vec<Audience> {
    let is_its = |(lever, _): &(&LeverName, &LeverUse)| cause(lever.as_str()) == tell.cause;
    let lever = rollout.plan.levers.iter().find(is_its).map(|(_, lever)| &lever.on_drift);
    let criterion = rollout.plan.criterion(&tell.cause).map(|criterion| &criterion.on_fail);
    let steps = criterion.into_iter().chain(lever).flatten();
    let is_done = |act: OnFail| act == tell.act || (act == OnFail::Reapply && tell.act == OnFail::Hold);
    let mut audience: Vec<Audience> =
        steps.filter(|step| is_done(step.act)).flat_map(|step| step.tell.clone()).collect();
    audience.dedup();
    audience
}

fn next_steps(rollout: &Rollout, state: &str) -> Vec<NextStep> {
    let service = &rollout.id.service;
    let step = |why: &str, run: String| NextStep { why: why.to_owned(), run };
    let mut next = Vec::new();
    if rollout.holds.contains(&Hold::Approval) {
        next.push(step("approve", project::approve(rollout)));
    }
    if state == "not_taken_back" {
        next.push(step("try again", format!("bellwether command rollback {service}")));
    }
    if state == "not_set" {
        next.push(step("ask again", format!("bellwether command flag-off {service}")));
    }
    next.push(step("see where it stands", format!("bellwether rollout status {}", rollout.id)));
    next
}

fn stage(rollout: &Rollout) -> String {
    rollout.stage_name().map(|stage| stage.to_string()).unwrap_or_default()
}
