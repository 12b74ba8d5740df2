//! What a run came to, as people would tell it: one line per fact, in the order that it was decided in.

use std::collections::BTreeMap;

use bellwether_protocol::reason::{Cause, Hold, Judgement, Reason, Verdict};
use bellwether_protocol::record::Record;

/// What one record says.
pub(crate) fn lines(record: &Record) -> Vec<String> {
    let mut lines = Vec::new();
    let mut verdicts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for reason in &record.reasons {
        if let Reason::VerdictChanged { judgement } = reason {
            verdicts.entry(verdict(judgement)).or_default().push(place(judgement));
        }
    }
    lines.extend(verdicts.into_iter().map(|(verdict, places)| format!("verdict   {verdict}: {}", places.join(", "))));
    lines.extend(record.reasons.iter().filter_map(told));
    for alert in &record.alerts {
        let kind = format!("{:?}", alert.kind).to_lowercase();
        let tell: Vec<&str> = alert.tell.iter().map(|name| name.as_str()).collect();
        let tell = if tell.is_empty() { String::new() } else { format!(" (for {})", tell.join(", ")) };
        lines.push(format!("alert     {} {kind} [{}] {}{tell}", alert.severity, alert.incident.cause, alert.headline));
    }
    lines
}

fn verdict(judgement: &Judgement) -> String {
    let numbers = &judgement.numbers;
    let over = if judgement.over_target { ", over target" } else { "" };
    match judgement.verdict {
        Verdict::Fail => format!("{} FAIL {} of {}", judgement.criterion, numbers.value, numbers.limit),
        other => format!("{} {other}{over}", judgement.criterion),
    }
}

fn place(judgement: &Judgement) -> String {
    let region = judgement.region.as_ref().map_or_else(|| "all".to_owned(), ToString::to_string);
    format!("{} {region}", judgement.cohort)
}

fn told(reason: &Reason) -> Option<String> {
    Some(match reason {
        Reason::Amended { .. } => "amended   evidence begins anew".to_owned(),
        Reason::Answered { lever, outcome, done, targets, detail, .. } => {
            format!("answered  {lever} {outcome}, {done} of {targets}: {detail}")
        }
        Reason::Applied { after, unseen: true, .. } => format!("applied   after {}, unseen", after.rounded()),
        Reason::Applied { after, seen, unseen: false } => format!("applied   after {}, {seen} seen", after.rounded()),
        Reason::Asked { action, lever, to, .. } => format!("action    {action}: set {lever} to {to}"),
        Reason::CommandDone { verb, principal, .. } => format!("command   {verb} by {principal}: done"),
        Reason::CommandRefused { verb, principal, why, .. } => {
            format!("command   {verb} by {principal} refused: {why}")
        }
        Reason::DataFault { agent, fault } => format!("fault     {agent} sent {fault}"),
        Reason::Drifted { lever, from, to } => format!("drifted   {lever} from {from} to {to}"),
        Reason::Ended { ending, summary } => format!("ended     {ending:?}: {summary}"),
        Reason::Excluded { what, why, .. } => format!("excluded  {what}: {why}"),
        Reason::Held { hold } => format!("held      {}", hold_text(hold)),
        Reason::LevelGaveWay { level, why } => format!("level     {level} gave way: {why}"),
        Reason::Looking { stage, .. } => format!("looking   {stage}"),
        Reason::ReadBack { level, after } => format!("read back level {level}, after {}", after.rounded()),
        Reason::Reapplied { cause } => format!("reapplied for {cause}"),
        Reason::Recovered { green, after } => {
            format!("recovered {green} green slots, {} after applied", after.rounded())
        }
        Reason::Released { hold } => format!("released  {}", hold_text(hold)),
        Reason::StageEntered { stage, entry } => format!("stage     {stage} entered (entry {entry})"),
        Reason::StagePassed { stage, soaked } => format!("stage     {stage} passed, soaked {soaked}"),
        Reason::Started { release, previous, .. } => {
            let previous = previous.as_ref().map_or_else(|| "nothing".to_owned(), ToString::to_string);
            format!("started   {release}, goes back to {previous}")
        }
        Reason::StreamReset { source } => format!("stream    {source} was lost"),
        Reason::TakingBack { cause, level, levels, .. } => {
            format!("takes     back, level {level} of {levels}, for {}", cause_text(cause))
        }
        Reason::VerdictChanged { .. } => return None,
        Reason::WouldSet { lever, to } => format!("would     set {lever} to {to}"),
    })
}

fn hold_text(hold: &Hold) -> String {
    match hold {
        Hold::Approval => "for approval".to_owned(),
        Hold::BaselineAsRed { criterion } => format!("baseline as red: {criterion}"),
        Hold::Activity { lever } => format!("run of {lever} not done"),
        Hold::Frozen { until } => format!("frozen until {}", until.seconds()),
        Hold::Lever { lever } => format!("lever {lever} is elsewhere"),
        Hold::NoData { region, .. } => format!("no data from {region}"),
        Hold::NotRecovered => "not recovered".to_owned(),
        Hold::Paused => "paused".to_owned(),
        Hold::SoftRed { criterion } => format!("soft red: {criterion}"),
        Hold::NotProven { criterion } => format!("not proven: {criterion}"),
        Hold::TooFewEvents { criterion } => format!("too few events: {criterion}"),
    }
}

fn cause_text(cause: &Cause) -> String {
    match cause {
        Cause::Command { verb, principal } => format!("{verb} by {principal}"),
        Cause::Criterion { judgement } => format!("{} {}", judgement.criterion, place(judgement)),
        Cause::Drift { lever, to } => format!("lever {lever} was read at {to}"),
        Cause::Lever { lever, outcome } => format!("lever {lever} {outcome}"),
    }
}
