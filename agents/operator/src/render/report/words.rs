//! What a report says, section by section, from its data alone.

use bellwether_protocol::id::Region;
use bellwether_protocol::reason::{Cause, Ending, Judgement, Reason};
use bellwether_protocol::report::{Answered, EvidenceRow, Gap, Issue, Met, Priority, Report, RowNumber};
use bellwether_protocol::status::{State, TakeBackStatus};
use bellwether_protocol::time::{Timestamp, slot_start};

use super::deployment::deployment;
use super::seen::{criteria, endpoints, proves};
use super::{Block, Cell, Chart, Document, Face, Row, Section, Table};
use crate::render::explain::headline;
use crate::render::{Look, count, hold_words, plural, reason_event, span};

const LOOK: Look = Look { colour: false, ascii: false };
/// More seldom than this says nothing more to people.
const LUCK_TOLD_MAX: u64 = 1_000_000;
/// The row of evidence that is the log itself.
pub(super) const LOG: RowNumber = RowNumber(1);

impl<'a> Document<'a> {
    /// What a report says.
    pub(super) fn of(report: &'a Report) -> Self {
        let status = &report.explanation.status;
        let answer = &report.answer;
        let word = match answer.verdict {
            Answered::No => "NO",
            Answered::NotYet => "NOT YET",
            Answered::Yes => "YES",
        };
        let from = status.previous.as_ref().map(|previous| format!("{previous} -> ")).unwrap_or_default();
        let (release, rollout, decided) = (&status.release, &status.rollout, dated(status.decided_at));
        let section = |title, blocks| Section { title, blocks };
        let sections = vec![
            section("Summary", vec![Block::Sentences(summary(report))]),
            section("Deployment", deployment(report)),
            section("Endpoints", endpoints(report)),
            section("Criteria", vec![Block::Chart(Chart::Scales), Block::Table(criteria(report))]),
            section("Issues", issues(report)),
            section("Risks, exclusions, late and missing slots", vec![Block::Table(risks(report))]),
            section("Next", next(report)),
            section("Evidence", evidence(report)),
        ];
        Self {
            report,
            subject: format!("{} {from}{release}, rollout {rollout}, as of {decided}", rollout.service),
            answer: format!("{word}: {} met, {} not met, {} unknown", answer.met, answer.not_met, answer.unknown),
            at: format!("at {} of {}", span(answer.soaked), span(answer.soak)),
            sections,
        }
    }
}

/// An instant, with its date.
pub(super) fn dated(at: Timestamp) -> String {
    at.seconds().replace('T', " ")
}

/// An instant, with its date unless that is the date of the report.
pub(super) fn moment(report: &Report, at: Timestamp) -> String {
    after(report.explanation.status.decided_at, at)
}

/// An instant, with its date unless that is the date of another one.
fn after(other: Timestamp, at: Timestamp) -> String {
    let day = |at: Timestamp| at.seconds().chars().take(10).collect::<String>();
    if day(at) == day(other) { at.clock() } else { dated(at) }
}

fn summary(report: &Report) -> Vec<Cell> {
    let why = &report.explanation;
    let first = Cell::from(headline(why)).resting_on(LOG);
    let judged = why.decided.as_ref().and_then(|decided| decided.cause.judgement());
    let row = |judged: &Judgement| report.criteria.iter().find(|row| row.criterion == judged.criterion);
    let second = match (judged, &why.decided) {
        (Some(judged), _) => {
            let luck = judged.grounds.as_ref().map_or(1, |grounds| grounds.luck_one_in);
            let luck = luck.min(LUCK_TOLD_MAX);
            let luck = if luck > 1 { format!("; by luck at most 1 in {}", count(luck)) } else { String::new() };
            let text = format!(
                "{} failed{}: {} ({} of {}), limit {}{luck}.",
                judged.criterion,
                region_words(judged.region.as_ref()),
                judged.numbers.value,
                count(judged.numbers.bad),
                count(judged.numbers.n),
                judged.numbers.limit
            );
            Cell::from(text).resting_on(row(judged).map_or(LOG, |row| row.evidence))
        }
        (None, Some(decided)) => {
            let cause = match &decided.cause {
                Cause::Command { verb, principal } => format!("{principal} asked for {verb}"),
                Cause::Criterion { judgement } => format!("{} failed", judgement.criterion),
                Cause::Drift { lever, to } => format!("lever {lever} was read at {to}"),
                Cause::Lever { lever, outcome } => format!("lever {lever} could not be set ({outcome})"),
            };
            Cell::from(format!("{cause} at {}.", decided.at.clock())).resting_on(LOG)
        }
        (None, None) => standing(report),
    };
    vec![first, second, coverage(report)]
}

/// How the criteria stand, naming those that are not met.
fn standing(report: &Report) -> Cell {
    let named = |is: fn(Met) -> bool| {
        let its = report.criteria.iter().filter(|row| is(row.result)).map(|row| row.criterion.to_string());
        its.collect::<Vec<_>>()
    };
    let (not_met, unknown) = (named(|met| met == Met::NotMet), named(|met| met == Met::Unknown));
    let mut text = format!("{} of {} criteria are met", report.answer.met, report.criteria.len());
    if !not_met.is_empty() {
        text.push_str(&format!("; not met: {}", not_met.join(", ")));
    }
    if !unknown.is_empty() {
        text.push_str(&format!("; unknown: {}", unknown.join(", ")));
    }
    Cell::from(format!("{text}.")).resting_on(report.answer.evidence)
}

/// What was missing, and what people must do.
fn coverage(report: &Report) -> Cell {
    let missing: Vec<String> = report
        .gaps
        .iter()
        .filter(|gap| gap.missing > 0)
        .map(|gap| format!("{} of {} in {}", count(gap.missing), count(gap.slots), gap.region))
        .collect();
    let total = report.gaps.iter().map(|gap| gap.slots).sum::<u64>();
    let seen = match (total, missing.is_empty()) {
        (0, _) => "no slot was looked at yet".to_owned(),
        (_, true) => {
            format!("every slot was seen ({} in {})", count(total), plural(report.gaps.len() as u64, "region"))
        }
        (_, false) => format!("slots not seen: {}", missing.join(", ")),
    };
    let needs = report.explanation.status.needs_you.as_ref();
    let needs =
        needs.map_or_else(|| "nothing is needed of people".to_owned(), |needs| format!("needed: {}", needs.what));
    let mut text = format!("{seen}; {needs}.");
    if let Some(first) = text.get_mut(0..1) {
        first.make_ascii_uppercase();
    }
    Cell::from(text).resting_on(report.answer.evidence)
}

pub(super) fn region_words(region: Option<&Region>) -> String {
    region.map(|region| format!(" in {region}")).unwrap_or_default()
}

fn issues(report: &Report) -> Vec<Block> {
    let row = |own: &Issue| {
        let (face, word) = match own.priority {
            Priority::High => (Face::Fail, "high"),
            Priority::Medium => (Face::Warn, "medium"),
            Priority::Low => (Face::Plain, "low"),
        };
        let until = own.until.map(|until| format!(" to {}", after(own.since, until))).unwrap_or_default();
        let times = if own.times > 1 { format!(", {} times", own.times) } else { String::new() };
        let cells: [Cell; 3] = [
            Cell::faced(face, word),
            format!("{}{until}{times}", moment(report, own.since)).into(),
            what(&own.what).into(),
        ];
        Row::of(cells).resting_on(own.evidence)
    };
    let rows = report.issues.iter().map(row).collect();
    let table = Table { head: &["priority", "since", "what"], rows, empty: "None." };
    let more = (report.issues_left_out > 0).then(|| {
        let more = format!("{} more in the log.", plural(report.issues_left_out, "issue"));
        Block::Sentences(vec![Cell::from(more).resting_on(LOG)])
    });
    std::iter::once(Block::Table(table)).chain(more).collect()
}

/// A reason as `watch` says it, without its instant.
fn what(reason: &Reason) -> String {
    let line = reason_event(Timestamp::default(), bellwether_protocol::id::Ordinal(0), reason, LOOK).short().plain();
    line.split_once(' ').map_or(line.clone(), |(_, text)| text.to_owned())
}

fn risks(report: &Report) -> Table {
    let status = &report.explanation.status;
    let mut rows = Vec::new();
    let mut risk = |name: &str, text: String, evidence: RowNumber| {
        rows.push(Row::of([Cell::from(name), text.into()]).resting_on(evidence));
    };
    for own in report.criteria.iter().filter(|own| own.result == Met::NotFailed) {
        let text = format!("{} did not fail, and is not proven: {}", own.criterion, proves(report, own));
        risk("not proven", text, own.evidence);
    }
    for own in report.criteria.iter().filter(|own| own.result == Met::Unknown) {
        risk("unknown", format!("{}: nothing tells that it holds", own.criterion), own.evidence);
    }
    if !status.overrides.is_empty() {
        risk("override", status.overrides.join(", "), LOG);
    }
    for (record, exclusion) in &report.exclusions {
        risk("exclusion", format!("{} (record {record})", what(exclusion)), LOG);
    }
    for gap in &report.gaps {
        for (name, text) in gap_words(report, gap) {
            risk(name, text, report.answer.evidence);
        }
    }
    if status.agents_live < status.agents_known {
        let gone = status.agents_known - status.agents_live;
        risk("agents", format!("{gone} of {} not here", plural(status.agents_known.into(), "agent")), LOG);
    }
    Table { head: &["kind", "what"], rows, empty: "None: nothing was left out, late or missing." }
}

fn gap_words(report: &Report, gap: &Gap) -> Vec<(&'static str, String)> {
    let mut words = Vec::new();
    if let Some((from, to)) = gap.between {
        let (missing, slots) = (count(gap.missing), count(gap.slots));
        let text = format!("{}: {missing} of {slots}, {} to {}", gap.region, moment(report, from), moment(report, to));
        words.push(("missing slots", text));
    }
    if gap.late > 0 {
        let text = format!("{}: {} came too late to count, and restored nothing", gap.region, plural(gap.late, "slot"));
        words.push(("late slots", text));
    }
    if gap.unwell > 0 {
        let text = format!("{}: {} did not count", gap.region, plural(gap.unwell, "message"));
        words.push(("agents not well", text));
    }
    words
}

fn next(report: &Report) -> Vec<Block> {
    let status = &report.explanation.status;
    let (rollout, service) = (&status.rollout, &status.rollout.service);
    let is_over = status.state == State::Ended;
    let look = slot_start(status.decided_at, status.slot) + status.slot;
    let look = match (is_over, status.leaves_at) {
        (true, _) => "Next look: none, the rollout is over.".to_owned(),
        (false, Some(at)) => format!(
            "Next look: the slot that ends {}; the stage can be left at {} at the earliest.",
            moment(report, look),
            moment(report, at)
        ),
        (false, None) => format!("Next look: the slot that ends {}.", moment(report, look)),
    };
    let holds: Vec<String> = status.holds.iter().map(hold_words).collect();
    let back = status.take_back.as_ref().filter(|_| !is_over).map(back_words);
    let then = match (&status.needs_you, is_over) {
        (None, false) if back.is_some() => format!("What happens next: {}.", back.unwrap_or_default()),
        (Some(needs), _) => format!("What happens next: a person is asked to act: {}.", needs.what),
        (None, true) => "What happens next: nothing by itself.".to_owned(),
        (None, false) if !holds.is_empty() => format!("What happens next: it waits; {}.", holds.join("; ")),
        (None, false) => "What happens next: it goes on by itself once the plan lets it.".to_owned(),
    };
    let mut commands: Vec<(String, String)> = Vec::new();
    if let Some((what, run)) = status.needs_you.as_ref().and_then(|needs| Some((&needs.what, needs.run.clone()?))) {
        commands.push((what.clone(), run));
    }
    for (why, run) in [
        ("how it stands now", format!("bellwether rollout status {service}")),
        ("why", format!("bellwether rollout explain {rollout}")),
        ("take it back", format!("bellwether command rollback {service}")),
        ("this report, as of then", format!("bellwether rollout report {rollout}")),
    ] {
        // What was taken back, or would have been, is gone already.
        if why == "take it back" && !matches!(status.ending, None | Some(Ending::Completed)) {
            continue;
        }
        commands.push((why.to_owned(), run));
    }
    let sentences = [look, then].map(|text| Cell::from(text).resting_on(LOG));
    vec![Block::Sentences(sentences.into()), Block::Commands(commands)]
}

/// What a take-back waits for.
fn back_words(back: &TakeBackStatus) -> String {
    let TakeBackStatus { level, levels, due, applied_at, green, green_needed, .. } = back;
    match applied_at {
        Some(_) => format!("{green} of {green_needed} green slots were seen of the old release, then it is recovered"),
        None => format!(
            "every lever must be read back and the old release seen by {}; this is level {level} of {levels}",
            due.clock()
        ),
    }
}

fn evidence(report: &Report) -> Vec<Block> {
    let row = |(index, own): (usize, &EvidenceRow)| {
        let (first, last) = own.records;
        let records = if first == last { first.to_string() } else { format!("{first} to {last}") };
        let slots = own.slots.map(|range| {
            format!(
                "{} to {}, {}/{}",
                moment(report, range.from),
                moment(report, range.upto),
                count(range.covered),
                count(range.slots)
            )
        });
        let counts = own.n.zip(own.bad).map(|(n, bad)| format!("{} of {}", count(bad), count(n)));
        let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        let is = RowNumber(index + 1);
        let cells: [Cell; 7] = [
            is.to_string().into(),
            own.of.clone().into(),
            records.into(),
            or_none(slots).into(),
            or_none(counts).into(),
            own.parameters.as_ref().map_or_else(|| "-".into(), Cell::code),
            Cell::code(&own.run),
        ];
        Row { cells: cells.into(), evidence: None, is: Some(is) }
    };
    let head = &["row", "of", "records", "slots", "bad of n", "parameters", "shown by"];
    let rows = report.evidence.iter().enumerate().map(row).collect();
    let service = &report.explanation.status.rollout.service;
    let verify = vec![("decide the whole log again, offline".to_owned(), format!("bellwether audit verify {service}"))];
    let said = format!(
        "{} decided again for this report, each the same to the byte; the head of the log is {}.",
        plural(report.explanation.records as u64, "record"),
        report.head
    );
    vec![
        Block::Table(Table { head, rows, empty: "" }),
        Block::Sentences(vec![Cell::from(said).resting_on(LOG)]),
        Block::Commands(verify),
    ]
}
