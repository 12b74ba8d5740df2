//! What was brought out where, and how far it is.

use bellwether_protocol::report::Report;
use bellwether_protocol::status::{StageMark, StageStatus};
use bellwether_protocol::time::{Span, Timestamp};

use super::words::{LOG, dated, moment};
use super::{Block, Cell, Chart, Face, Row, Table};
use crate::render::power::spent;
use crate::render::span;

pub(super) fn deployment(report: &Report) -> Vec<Block> {
    let status = &report.explanation.status;
    let by = report.started_by.as_ref().map(|by| format!(" by {by}")).unwrap_or_default();
    let previous = status.previous.as_ref().map(|previous| format!(", before it {previous}")).unwrap_or_default();
    let overrides = match status.overrides.len() {
        0 => Cell::from("none"),
        n => Cell::faced(Face::Warn, format!("{n} of the plan's values, listed under risks")),
    };
    let is_short = status.agents_live < status.agents_known;
    let fact = |name: &str, value: Cell| Row::of([name.into(), value]).resting_on(LOG);
    let mut facts = vec![
        fact("version", format!("{}{previous}", status.release).into()),
        fact("started", format!("{}{by}", dated(status.started_at)).into()),
        fact("plan", Cell::code(&status.plan_hash)),
        fact("overrides", overrides),
        fact(
            "agents",
            Cell::faced(
                if is_short { Face::Warn } else { Face::Plain },
                format!("{} of {} here", status.agents_live, status.agents_known),
            ),
        ),
    ];
    if let Some(budget) = status.budget.as_ref().filter(|budget| budget.tests > 0) {
        let said = format!("{}, here {}", budget.alpha, spent(budget.stage, budget.tests));
        facts.push(fact("error budget", said.into()));
    }
    let facts = Table { head: &["what", "value"], rows: facts, empty: "" };
    let levers = status.levers.iter().map(|lever| {
        let text = |value: &Option<_>| value.as_ref().map_or_else(|| "?".to_owned(), ToString::to_string);
        let is_right = lever.set_to.is_none() || (lever.set_to == lever.value && lever.done == lever.targets);
        let read = format!("{}, {} of {}", text(&lever.value), lever.done, lever.targets);
        let read = if lever.set_to.is_none() { text(&lever.value) } else { read };
        let set_to = lever.set_to.as_ref().map_or_else(|| "untouched".to_owned(), ToString::to_string);
        let cells: [Cell; 3] = [
            Cell::code(lever.lever.as_str()),
            set_to.into(),
            Cell::faced(if is_right { Face::Plain } else { Face::Warn }, read),
        ];
        Row::of(cells).resting_on(LOG)
    });
    let levers =
        Table { head: &["lever", "set to", "read back"], rows: levers.collect(), empty: "The plan moves no lever." };
    let stages = status.stages.iter().map(|stage| stage_row(report, stage)).collect();
    let stages = Table { head: &["stage", "how far", "entered", "left"], rows: stages, empty: "No stage." };
    vec![Block::Chart(Chart::Stages), Block::Table(stages), Block::Table(facts), Block::Table(levers)]
}

fn stage_row(report: &Report, stage: &StageStatus) -> Row {
    let of = format!("{} of {}", span(soaked(report, stage)), span(stage.soak));
    let (face, text) = match stage.mark {
        StageMark::Failed => (Face::Fail, format!("failed at {of}")),
        StageMark::Later => (Face::Plain, format!("later, {}", span(stage.soak))),
        StageMark::Now => (Face::Plain, format!("now, {of}")),
        StageMark::Passed => (Face::Pass, format!("passed, {of}")),
        StageMark::Skipped => (Face::Plain, "skipped".to_owned()),
    };
    let times = report.entries.iter().rfind(|times| times.stage == stage.name);
    let at = |at: Option<Timestamp>| at.map_or_else(|| "-".to_owned(), |at| moment(report, at));
    let cells: [Cell; 4] = [
        stage.name.to_string().into(),
        Cell::faced(face, text),
        at(times.map(|times| times.entered)).into(),
        at(times.and_then(|times| times.left)).into(),
    ];
    Row::of(cells).resting_on(report.answer.evidence)
}

/// How long a stage was covered; of a failed one the report itself knows.
pub(super) fn soaked(report: &Report, stage: &StageStatus) -> Span {
    if stage.mark == StageMark::Failed { report.answer.soaked } else { stage.soaked }
}
