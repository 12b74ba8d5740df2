//! A plan as a timeline, and what each failure would do, in sentences.

use std::collections::BTreeMap;
use std::fmt::Display;

use bellwether_protocol::id::LeverName;
use bellwether_protocol::plan::{
    FailStep, OnFail, Plan, Require, RollbackPoint, Set, SetTo, Stage, StageTime, Timeline,
};
use bellwether_protocol::time::Span;

use super::table::columns;
use super::{Line, span};

/// When each stage would be entered and left, and from where a release would be taken back how.
pub(crate) fn timeline_lines(plan: &Plan, timeline: &Timeline) -> Vec<String> {
    let head = ["day", "stage", "not before", "lasts", "leaves when", "rollback point"];
    let rows = timeline.stages.iter().zip(&plan.stages).map(|(time, stage)| {
        [
            time.day.to_string(),
            time.stage.to_string(),
            time.not_before.weekday_clock(),
            span(time.lasts),
            leaves_when(plan, stage),
            rollback_point(time),
        ]
    });
    let mut lines = columns(&head.map(str::to_owned), rows.collect());
    lines.extend(plan.freeze.iter().map(|freeze| {
        Line::of(format!("frozen {} to {} ({}): no stage is entered in it", freeze.from, freeze.to, freeze.zone))
    }));
    lines.push(Line::of(format!(
        "ends {} at the earliest, {} after its start; each uncovered slot adds {}",
        timeline.ends.weekday_clock(),
        span(timeline.ends.since(timeline.starts)),
        span(plan.slot)
    )));
    lines.iter().map(Line::plain).collect()
}

fn leaves_when(plan: &Plan, stage: &Stage) -> String {
    let criteria: Vec<_> = stage.criteria.iter().filter_map(|name| plan.criterion(name)).collect();
    let proven = criteria.iter().filter(|criterion| criterion.require == Require::Proven).count();
    let judged = criteria.iter().any(|criterion| criterion.on_fail.iter().any(|step| step.act != OnFail::Warn));
    let parts = [
        Some("all covered".to_owned()),
        judged.then(|| "no Fail".to_owned()),
        (proven > 0).then(|| format!("{proven} proven")),
        (!stage.during.is_empty()).then(|| "runs done".to_owned()),
        stage.approval.then(|| "you approve".to_owned()),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn rollback_point(time: &StageTime) -> String {
    match time.rollback {
        RollbackPoint::Level { level: 1, apply_within } => format!("within {}", span(apply_within)),
        RollbackPoint::Level { level, apply_within } => format!("level {level}, within {}", span(apply_within)),
        RollbackPoint::NotNeeded => "none needed".to_owned(),
        RollbackPoint::Person => "none by itself".to_owned(),
    }
}

/// What follows each thing that can go wrong.
pub(crate) fn failure_lines(plan: &Plan) -> Vec<String> {
    let criteria = plan.criteria.iter().map(|criterion| {
        let lasts = Some(criterion.hold_for).filter(|lasts| *lasts > Span::ZERO);
        let lasts = lasts.map(|lasts| format!(" for {}", span(lasts))).unwrap_or_default();
        (format!("if {} fails{lasts}", criterion.name), steps(&criterion.on_fail))
    });
    let runs = plan.stages.iter().flat_map(|stage| &stage.during).map(|run| {
        let how = format!("{} (every {}, within {})", act(run.on_fail), span(run.every), span(run.within));
        (format!("if {} is not done", run.run), how)
    });
    let mut rows: Vec<(String, String)> = criteria.chain(runs).collect();
    if plan.levers.is_empty() {
        rows.push(("taking back".to_owned(), "nothing: the plan has no levers".to_owned()));
    } else {
        rows.push(("if a lever is not set in time".to_owned(), act(OnFail::Rollback).to_owned()));
        rows.extend(drifts(plan));
        rows.extend(levels(plan));
        rows.extend(irreversible(plan));
    }
    let width = rows.iter().map(|(left, _)| left.chars().count()).max().unwrap_or(0).min(LEFT_MAX);
    rows.iter().map(|(left, right)| Line::of(format!("{left:width$}  {right}")).plain()).collect()
}

/// Widest left column; what is longer pushes its own line.
const LEFT_MAX: usize = 38;

/// What follows when somebody else moves a lever, by what follows.
fn drifts(plan: &Plan) -> Vec<(String, String)> {
    let mut drifts: BTreeMap<String, Vec<&LeverName>> = BTreeMap::new();
    for (name, lever) in plan.levers.iter().filter(|(_, lever)| !lever.runs) {
        drifts.entry(steps(&lever.on_drift)).or_default().push(name);
    }
    let row =
        |(does, names): (String, Vec<_>)| ("if others move a lever".to_owned(), format!("{does} ({})", list(&names)));
    drifts.into_iter().map(row).collect()
}

fn steps(steps: &[FailStep]) -> String {
    let one = |step: &FailStep| {
        let after = if step.after == Span::ZERO { String::new() } else { format!("after {}: ", span(step.after)) };
        let tell = if step.tell.is_empty() { String::new() } else { format!(", tells {}", list(&step.tell)) };
        format!("{after}{}{tell}", act(step.act))
    };
    steps.iter().map(one).collect::<Vec<_>>().join("; ")
}

fn act(act: OnFail) -> &'static str {
    match act {
        OnFail::Hold => "holds: nothing is promoted",
        OnFail::Reapply => "sets the stage's levers again, once",
        OnFail::Rollback => "takes the release back",
        OnFail::Warn => "warns",
    }
}

fn levels(plan: &Plan) -> Vec<(String, String)> {
    let back = &plan.take_back;
    let is_release = |set: &Set| Some(&set.lever) == plan.release_lever();
    let mut rows = Vec::new();
    let mut is_back = plan.release_lever().is_none();
    for (level, number) in back.levels.iter().zip(1..) {
        is_back |= level.set.iter().any(is_release);
        let otherwise = match back.levels.get(number) {
            Some(next) if next.automatic || !is_back => format!("level {}", number + 1),
            Some(_) => format!("a page: level {} waits for a person", number + 1),
            None => "a page".to_owned(),
        };
        let refused =
            if level.refuses.is_empty() { String::new() } else { format!(", {} refused", list(&level.refuses)) };
        rows.push((
            format!("taking back, level {number}"),
            format!("{}{refused}; {} to apply, else {otherwise}", sets(&level.set), span(level.apply_within)),
        ));
    }
    let within = plan.slot.times(u64::from(back.within));
    rows.push((
        "recovered".to_owned(),
        format!("{} green slots of {} afterwards ({}), else a page", back.green, back.within, span(within)),
    ));
    rows
}

/// What is set, as people say it.
pub(crate) fn sets(sets: &[Set]) -> String {
    let one = |set: &Set| match &set.to {
        SetTo::Previous => format!("{} {{previous}}", set.lever),
        SetTo::Release => format!("{} {{release}}", set.lever),
        SetTo::Run => format!("run {}", set.lever),
        SetTo::Value(value) => format!("{} {value}", set.lever),
    };
    sets.iter().map(one).collect::<Vec<_>>().join(" + ")
}

fn irreversible(plan: &Plan) -> Option<(String, String)> {
    let first = plan.stages.iter().find(|stage| stage.irreversible)?;
    let automatic = plan.take_back.levels.iter().zip(1..).filter(|(level, _)| level.automatic);
    let automatic: Vec<usize> = automatic.map(|(_, number)| number).collect();
    let then = match automatic.as_slice() {
        [] => "a failure is paged, and nothing is moved by itself".to_owned(),
        [one] => format!("only level {one} begins by itself"),
        several => format!("only levels {} begin by themselves", list(several)),
    };
    Some(("irreversible".to_owned(), format!("from {} on, {then}", first.name)))
}

fn list<T: Display>(all: &[T]) -> String {
    all.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use bellwether_protocol::plan::read_plan;

    use super::*;

    const SHOP: &str = include_str!("../../../../tests/plans/shop.yaml");

    fn shop(changes: &[(&str, &str)]) -> Plan {
        let text = changes.iter().fold(SHOP.to_owned(), |text, (from, to)| {
            assert!(text.contains(from), "{from}");
            text.replacen(from, to, 1)
        });
        let read = read_plan("shop.yaml", &text, &[], &Default::default());
        read.unwrap_or_else(|findings| panic!("{findings:?}")).0
    }

    fn timeline(plan: &Plan, start: &str) -> String {
        timeline_lines(plan, &plan.timeline(start.parse().unwrap())).join("\n")
    }

    #[test]
    fn every_stage_says_when_and_how_it_is_left() {
        let expected = "\
day  stage       not before  lasts  leaves when                        rollback point
1    staging     Mon 09:00Z  1h     all covered, no Fail               within 2m
1    canary      Mon 10:00Z  4h     all covered, no Fail, you approve  within 2m
1    production  Mon 14:00Z  24h    all covered, no Fail               within 2m
ends Tue 14:00Z at the earliest, 29h after its start; each uncovered slot adds 30s";
        assert_eq!(timeline(&shop(&[]), "2026-05-04T09:00:00Z"), expected);
    }

    #[test]
    fn a_freeze_and_a_step_without_return_move_the_timeline() {
        let plan = shop(&[
            ("    soak: 24h\n", "    soak: 24h\n    irreversible: true\n"),
            ("    - set:\n        - { set: traffic", "    - automatic: true\n      set:\n        - { set: traffic"),
            ("take_back:\n", "freeze:\n  - { from: Mon 09:30, to: Wed 00:00 }\ntake_back:\n"),
            ("    enter:\n      - { set: staging, to: \"{release}\" }\n", ""),
        ]);
        let expected = "\
day  stage       not before  lasts  leaves when                        rollback point
1    staging     Mon 09:00Z  1h     all covered, no Fail               none needed
3    canary      Wed 00:00Z  4h     all covered, no Fail, you approve  within 2m
3    production  Wed 04:00Z  24h    all covered, no Fail               within 2m
frozen Mon 09:30 to Wed 00:00 (UTC): no stage is entered in it
ends Thu 04:00Z at the earliest, 67h after its start; each uncovered slot adds 30s";
        assert_eq!(timeline(&plan, "2026-05-04T09:00:00Z"), expected);
        let irreversible = failure_lines(&plan).pop().unwrap();
        assert_eq!(irreversible.split_once("  ").unwrap().0, "irreversible");
        assert!(irreversible.ends_with("from production on, only level 1 begins by itself"), "{irreversible}");
    }

    #[test]
    fn every_failure_says_what_follows() {
        let plan = shop(&[
            (
                "    hard: true\n    min_events: 20\n",
                "    on_fail: [{ do: warn, tell: [ops] }, { for: 2m, do: rollback }]\n",
            ),
            ("  traffic: {} ", "  golden: { runs: true }\n  traffic: {} "),
            ("    soak: 4h\n", "    soak: 4h\n    during: [{ every: 6m, run: golden }]\n"),
            ("      apply_within: 2m\n", "      apply_within: 2m\n    - { set: [{ set: traffic, to: 1% }] }\n"),
        ]);
        let expected = "\
if error_rate fails            warns, tells ops; after 2m: takes the release back
if slow_checkouts fails        holds: nothing is promoted
if down fails                  takes the release back
if golden is not done          holds: nothing is promoted (every 6m, within 2m)
if a lever is not set in time  takes the release back
if others move a lever         holds: nothing is promoted (new_checkout, release, stable, staging, traffic)
taking back, level 1           traffic 0% + release {previous} + stable {previous} + new_checkout off + staging {previous}; 2m to apply, else a page: level 2 waits for a person
taking back, level 2           traffic 1%; 2m to apply, else a page
recovered                      3 green slots of 10 afterwards (5m), else a page";
        assert_eq!(failure_lines(&plan).join("\n"), expected);
    }
}
