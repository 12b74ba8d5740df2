//! The promises, checked beside the run: from the log, and from truths that the product cannot see.

use std::collections::{BTreeMap, BTreeSet};

use bellwether_coordinator::offline::replay;
use bellwether_protocol::alert::{IncidentKind, Severity};
use bellwether_protocol::id::{CriterionName, Region};
use bellwether_protocol::reason::{Cause, Ending, Lack, Reason, Verdict};
use bellwether_protocol::record::{ClosedSlot, Input, Record};
use bellwether_protocol::sample::Cohort;
use bellwether_protocol::time::{Span, Timestamp};

use crate::seed::{Kind, Run};

/// As in the plan of the simulation.
const SLOT: Span = Span::from_secs(5);
const GRACE: Span = Span::from_secs(2);
/// How far an agent's clock may run ahead.
const SKEW: Span = Span::from_ms(200);
/// How long a hard failure may wait for the baseline's same slots: they close a grace after their
/// end, once the samples stream was heard so far, and a message may take nine seconds.
const BLAME_WITHIN: Span = Span::from_secs(18);

/// Everything that was promised and not kept: by which checker, and how.
pub(crate) fn check(run: &mut Run) -> Vec<(&'static str, String)> {
    let mut found = std::mem::take(&mut run.world.watch.complaints);
    if let Err(error) = replay(run.world.broker.log.iter().cloned()) {
        found.push(("chain", format!("{error}: {:?}", std::error::Error::source(&error).map(ToString::to_string))));
        return found;
    }
    let records: Vec<Record> = run.world.broker.records().collect();
    let mut say = |checker, what: String| found.push((checker, what));
    promoted(run, &records, &mut say);
    taken_back(run, &records, &mut say);
    blamed(&records, &mut say);
    closed(run, &records, &mut say);
    relayed(run, &records, &mut say);
    incidents(&records, &mut say);
    outcomes(run, &records, &mut say);
    ended(run, &records, &mut say);
    found
}

type Say<'a> = dyn FnMut(&'static str, String) + 'a;

/// No stage is passed without its whole soak really seen on the right release, nor with a Fail.
fn promoted(run: &Run, records: &[Record], say: &mut Say<'_>) {
    let mut from = Timestamp::default();
    let mut verdicts = BTreeMap::new();
    for record in records {
        for reason in &record.reasons {
            match reason {
                Reason::StageEntered { .. } => verdicts.clear(),
                Reason::Looking { from: at, .. } => from = *at,
                Reason::VerdictChanged { judgement } if judgement.cohort == Cohort::Canary => {
                    verdicts.insert((judgement.criterion.clone(), judgement.region.clone()), judgement.verdict);
                }
                Reason::StagePassed { stage, .. } => {
                    let lets_go =
                        |verdict: &Verdict| matches!(verdict, Verdict::Pass | Verdict::Inconclusive(Lack::NotProven));
                    if let Some((what, verdict)) = verdicts.iter().find(|(_, verdict)| !lets_go(verdict)) {
                        say("no_blind_promotion", format!("{stage} was passed with {what:?} at {verdict}"));
                    }
                    let needed = if stage.as_str() == "canary" { 6 } else { 4 };
                    let release = Some("v2".parse().unwrap());
                    for region in ["east", "west"] {
                        let seen = run.world.watch.looked.iter().filter(|((series, slot), seen)| {
                            let ours = series.region.as_str() == region && series.cohort == Cohort::Canary;
                            ours && *slot >= from && *slot + SLOT <= record.now + SKEW && seen.contains_key(&release)
                        });
                        let seen = seen.count();
                        if seen < needed {
                            let what = format!("{stage} was passed after {seen} of {needed} slots of {region}");
                            say("no_blind_promotion", what);
                        }
                    }
                }
                _ => {}
            }
        }
    }
}

/// Only a bad release is taken back for a criterion, and "taken back" is true of the site.
fn taken_back(run: &Run, records: &[Record], say: &mut Say<'_>) {
    for record in records {
        for reason in &record.reasons {
            if let Reason::TakingBack { cause: Cause::Criterion { judgement }, .. } = reason
                && matches!(run.kind, Kind::Good | Kind::BadDay)
            {
                let why = format!("{:?} was taken back at {} for {judgement:?}", run.kind, record.now);
                say("own_fault_never_takes_back", why);
            }
        }
    }
    // What an earlier rollout did, and how an ending looked before a person asked again, is no longer the word.
    let began = |record: &Record| record.reasons.iter().any(|reason| matches!(reason, Reason::Started { .. }));
    let records = &records[records.iter().rposition(began).unwrap_or(0)..];
    let mut ending = None;
    for reason in records.iter().flat_map(|record| &record.reasons) {
        match reason {
            Reason::Ended { ending: own, .. } => ending = Some(*own),
            Reason::Started { .. } | Reason::TakingBack { .. } => ending = None,
            _ => {}
        }
    }
    let mut really = BTreeMap::new();
    for (lever, wanted) in [("release", "v1"), ("new_checkout", "off")] {
        let reading = run.world.site.read(&lever.parse().unwrap());
        really.insert(lever, reading.is_all_at(&wanted.parse().unwrap()));
    }
    match ending {
        Some(Ending::Aborted | Ending::RolledBack) => {
            let release_is_back = really["release"] || levels(records) == 1;
            if !release_is_back || !really["new_checkout"] {
                say("taken_back_is_true", format!("it ended as back, and on the site: {really:?}"));
            }
        }
        Some(Ending::NotTakenBack) if !run.world.broker.alerts.iter().any(|a| a.severity == Severity::Page) => {
            say("failed_is_back_or_paged", "it was not taken back, and nobody was paged".to_owned());
        }
        Some(Ending::Completed)
            if matches!(run.kind, Kind::Bad | Kind::BadFlag | Kind::BadDay) && !flag_was_off(records) =>
        {
            say("failed_is_back_or_paged", format!("{:?} was completed", run.kind));
        }
        _ => {}
    }
}

/// A hard failure that the baseline does not share is taken back by the first record that is made
/// once the two could be compared.
fn blamed(records: &[Record], say: &mut Say<'_>) {
    let mut failing: BTreeSet<(Cohort, CriterionName, Option<Region>)> = BTreeSet::new();
    let mut alone = BTreeMap::new();
    for record in records {
        for reason in &record.reasons {
            match reason {
                Reason::VerdictChanged { judgement } if judgement.hard => {
                    let what = (judgement.cohort, judgement.criterion.clone(), judgement.region.clone());
                    match judgement.verdict {
                        Verdict::Fail => _ = failing.insert(what),
                        Verdict::Inconclusive(_) | Verdict::Pass => _ = failing.remove(&what),
                    }
                }
                Reason::Ended { .. } | Reason::StageEntered { .. } | Reason::TakingBack { .. } => failing.clear(),
                _ => {}
            }
        }
        let is_shared = |(_, criterion, region): &(Cohort, CriterionName, Option<Region>)| {
            failing.contains(&(Cohort::Baseline, criterion.clone(), region.clone()))
        };
        alone.retain(|what, _| failing.contains(what) && !is_shared(what));
        for what in failing.iter().filter(|what| what.0 == Cohort::Canary && !is_shared(what)) {
            let since: &mut Timestamp = alone.entry(what.clone()).or_insert(record.now);
            if record.now.since(*since) > BLAME_WITHIN {
                say(
                    "fail_is_taken_back_in_time",
                    format!("{what:?} failed at {since}, and still did at {}", record.now),
                );
            }
        }
    }
}

/// The highest level that was asked; an abort has one that restores everything moved.
fn levels(records: &[Record]) -> u32 {
    let reasons = records.iter().flat_map(|record| &record.reasons);
    let levels = reasons.filter_map(|reason| match reason {
        Reason::TakingBack { level, levels, .. } if *levels > 1 => Some(*level),
        Reason::TakingBack { .. } => Some(2),
        _ => None,
    });
    levels.max().unwrap_or(1)
}

fn flag_was_off(records: &[Record]) -> bool {
    let asked = records.iter().flat_map(|record| &record.actions);
    asked.into_iter().any(|action| action.to.as_str() == "off")
}

/// A slot is closed with everything that was stored in time.
fn closed(run: &Run, records: &[Record], say: &mut Say<'_>) {
    for record in records {
        for input in &record.inputs {
            let Input::Closed(slot) = input else { continue };
            if slot.reporters + slot.unwell == 0 && stored_in_time(run, record, slot) {
                let (series, at) = (&slot.series, slot.slot);
                say("closed_with_all_stored", format!("record {}: {series} {at} was closed empty", record.ordinal));
            }
        }
    }
}

fn stored_in_time(run: &Run, record: &Record, slot: &ClosedSlot) -> bool {
    let due = (slot.slot + SLOT + GRACE).min(record.now);
    // Only the last assignment is known here; slots of earlier ones are left alone.
    let held = run.world.broker.assignments.get(&slot.series.region);
    let in_time = run.world.broker.samples.iter().filter(|(stored, _)| *stored < due);
    in_time.filter(|(_, tick)| tick.agent.region == slot.series.region).any(|(_, tick)| {
        tick.samples.iter().any(|sample| sample.slot == slot.slot && sample.cohort == slot.series.cohort)
            && tick.samples.iter().all(|sample| held.is_some_and(|held| held.revision == sample.revision))
    })
}

/// What left is what the log holds, and all of it left.
fn relayed(run: &Run, records: &[Record], say: &mut Say<'_>) {
    let broker = &run.world.broker;
    for action in &broker.actions {
        if !records.iter().any(|record| record.actions.contains(action)) {
            say("append_before_relay", format!("action {} is in no record", action.id));
        }
    }
    for alert in &broker.alerts {
        if !records.iter().any(|record| record.alerts.contains(alert)) {
            say("append_before_relay", format!("alert {} {} is in no record", alert.incident, alert.seq));
        }
    }
    for record in records {
        let all_left = record.actions.iter().all(|action| broker.actions.contains(action))
            && record.alerts.iter().all(|alert| broker.alerts.contains(alert))
            && record.outcomes.iter().all(|outcome| broker.outcomes.contains(outcome));
        if !all_left {
            say("all_is_relayed", format!("something of record {} was never relayed", record.ordinal));
        }
    }
}

/// An incident opens once before it is resolved, and its messages are numbered without a gap.
fn incidents(records: &[Record], say: &mut Say<'_>) {
    let mut known = BTreeMap::new();
    for alert in records.iter().flat_map(|record| &record.alerts) {
        let (seq, is_open) = known.get(&alert.incident).copied().unwrap_or((0, false));
        if alert.seq != seq + 1 || (alert.kind == IncidentKind::Opened && is_open) {
            say("one_incident_one_story", format!("{} {} after {seq}, open: {is_open}", alert.incident, alert.seq));
        }
        known.insert(alert.incident.clone(), (alert.seq, alert.kind != IncidentKind::Resolved));
    }
}

/// Every command that was stored is answered once.
fn outcomes(run: &Run, records: &[Record], say: &mut Say<'_>) {
    let mut answered = BTreeSet::new();
    for outcome in records.iter().flat_map(|record| &record.outcomes) {
        if !answered.insert(outcome.command.clone()) {
            say("one_command_one_outcome", format!("{} was answered twice", outcome.command));
        }
    }
    for command in run.world.watch.asked.difference(&answered) {
        say("one_command_one_outcome", format!("{command} was never answered"));
    }
}

/// Once healed, everything comes to an end, or to a person.
fn ended(run: &Run, records: &[Record], say: &mut Say<'_>) {
    let status = run.world.watch.status.as_ref();
    let ended = status.is_some_and(|status| status.ending.is_some());
    let paged = run.world.broker.alerts.iter().any(|alert| alert.severity == Severity::Page);
    if !ended && !paged {
        let state = status.map(|status| (status.state, status.holds.clone()));
        say("comes_to_an_end", format!("at {} after {} records: {state:?}", run.world.now, records.len()));
    }
}
