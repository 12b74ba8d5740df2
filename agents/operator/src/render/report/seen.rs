//! What was looked at, and how it stands against the plan.

use bellwether_protocol::id::Region;
use bellwether_protocol::plan::number::shorten;
use bellwether_protocol::reason::{Lack, Verdict};
use bellwether_protocol::report::{CriterionRow, Endpoint, Met, Percentile, Report, Scale};
use bellwether_protocol::sample::class;

use super::words::{moment, region_words};
use super::{Block, Cell, Chart, Face, Row, Table};
use crate::render::amount::percent_down;
use crate::render::{count, span};

pub(super) fn endpoints(report: &Report) -> Vec<Block> {
    let rows = report.endpoints.iter().map(endpoint_row).collect();
    let table = Table {
        head: &["endpoint", "region", "status", "response p95", "seen", "notes"],
        rows,
        empty: "Nothing was looked at yet.",
    };
    let looked_at = report.regions.iter().filter(|(name, _)| report.gaps.iter().any(|gap| gap.region == **name));
    let regions = Table {
        head: &["region", "address", "slots seen, all stages", "answering"],
        rows: looked_at.map(|(name, address)| region_row(report, name, address)).collect(),
        empty: "No region was looked at yet.",
    };
    vec![Block::Table(table), Block::Chart(Chart::Strips), Block::Table(regions)]
}

fn region_row(report: &Report, name: &Region, address: &str) -> Row {
    let seen = report.gaps.iter().find(|gap| gap.region == *name).map(|gap| {
        let face = if gap.missing > 0 { Face::NoData } else { Face::Plain };
        Cell::faced(face, format!("{} of {}", count(gap.slots.saturating_sub(gap.missing)), count(gap.slots)))
    });
    // Of a region that the stage does not look at, nothing is known now.
    let status = report.explanation.status.regions.iter().find(|status| status.region == *name);
    let answering = status.map_or_else(
        || Cell::from("-"),
        |status| match status.silent_since {
            Some(since) => Cell::faced(Face::NoData, format!("silent since {}", moment(report, since))),
            None if status.answering.is_empty() => "no release named".into(),
            None => status.answering.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ").into(),
        },
    );
    let none = || Cell::faced(Face::NoData, "no slot yet");
    let cells: [Cell; 4] = [name.to_string().into(), Cell::code(address), seen.unwrap_or_else(none), answering];
    Row::of(cells).resting_on(report.answer.evidence)
}

fn endpoint_row(own: &Endpoint) -> Row {
    let name = own.path.as_ref().map_or_else(|| own.sli.to_string(), |path| format!("{} {path}", own.sli));
    let last = match &own.last {
        None => Cell::faced(Face::NoData, "no data"),
        Some((_, classes)) => {
            let bad: Vec<String> = classes
                .iter()
                .filter(|(name, _)| !class::is_ok(name))
                .map(|(name, n)| format!("{name} {}", count(*n)))
                .collect();
            let n = count(classes.values().sum());
            if bad.is_empty() {
                Cell::faced(Face::Pass, format!("ok, {n} of {n}"))
            } else {
                Cell::faced(Face::Warn, format!("{}, of {n}", bad.join(", ")))
            }
        }
    };
    let p95 = match own.p95 {
        None => Cell::faced(Face::NoData, "no data"),
        Some(Percentile::AtMost(edge)) => format!("at most {}", span(edge)).into(),
        Some(Percentile::Over(edge)) => Cell::faced(Face::Warn, format!("over {}", span(edge))),
    };
    let face = if own.covered < own.slots || own.slots == 0 { Face::NoData } else { Face::Plain };
    let seen = Cell::faced(face, format!("{}/{}", count(own.covered), count(own.slots)));
    let mut notes: Vec<String> =
        own.numbers.iter().map(|(name, level)| format!("{name} {}", shorten(level.last))).collect();
    if own.not_ok > 0 {
        notes.push(format!("{} of {} answers not ok", count(own.not_ok), count(own.n)));
    }
    notes.extend(own.first_bad.iter().map(|bad| format!("first {}: {}", bad.at.clock(), bad.text)));
    if own.unwell > 0 {
        notes.push(format!("{} words of agents not well themselves did not count", count(own.unwell)));
    }
    let notes = if notes.is_empty() { "-".to_owned() } else { notes.join("; ") };
    let cells: [Cell; 6] = [Cell::code(name), own.region.to_string().into(), last, p95, seen, notes.into()];
    Row::of(cells).resting_on(own.evidence)
}

pub(super) fn criteria(report: &Report) -> Table {
    let rows = report.criteria.iter().map(|own| {
        let kind = if own.hard { "hard" } else { "soft" };
        let cells: [Cell; 5] = [
            format!("{} ({kind})", own.criterion).into(),
            Cell::code(&own.must),
            current(own).into(),
            proves(report, own).into(),
            result(own),
        ];
        Row::of(cells).resting_on(own.evidence)
    });
    let head = &["metric", "target", "current", "proves", "result"];
    Table { head, rows: rows.collect(), empty: "The plan has no criterion for this stage." }
}

fn current(own: &CriterionRow) -> String {
    match &own.judgement {
        Some(judgement) if judgement.numbers.n > 0 => {
            let region = region_words(judgement.region.as_ref());
            let first = own.first_bad.as_ref().map(|bad| format!("; first {} {}", bad.at.clock(), bad.class));
            format!("{}{region}{}", judgement.numbers.value, first.unwrap_or_default())
        }
        _ => "no data".to_owned(),
    }
}

pub(super) fn proves(report: &Report, own: &CriterionRow) -> String {
    let Some(judgement) = own.judgement.as_ref().filter(|own| own.numbers.n > 0) else { return "nothing".to_owned() };
    let row = own.evidence.0.checked_sub(1).and_then(|index| report.evidence.get(index));
    if let (Some(Scale { is_share: false, .. }), Some(range)) = (own.scale, row.and_then(|row| row.slots)) {
        return format!("the last of {} slots", count(range.covered));
    }
    let counts = format!("{} of {} bad", count(judgement.numbers.bad), count(judgement.numbers.n));
    match &judgement.grounds {
        // Of a failure it is the least that counts.
        Some(grounds) if own.result == Met::NotMet => format!("over {}; {counts}", percent_down(grounds.low)),
        Some(grounds) => format!("under {}; {counts}", grounds.high.rounded_up()),
        None => counts,
    }
}

/// Whether it is met: a glyph and a word, and why where that is not known.
pub(super) fn result(own: &CriterionRow) -> Cell {
    let over = own.judgement.as_ref().is_some_and(|judgement| judgement.over_target);
    let verdict = own.judgement.as_ref().map(|judgement| judgement.verdict);
    match (own.result, verdict) {
        (Met::Met | Met::NotFailed, _) if over => Cell::faced(Face::Warn, "met, over target"),
        (Met::Met, _) => Cell::faced(Face::Pass, "met"),
        (Met::NotFailed, _) => Cell::faced(Face::NotProven, "met: did not fail; not proven"),
        (Met::NotMet, _) => Cell::faced(Face::Fail, "not met"),
        (Met::Unknown, _) if own.excluded_until.is_some() => Cell::faced(Face::NoData, "unknown: left out by hand"),
        (Met::Unknown, Some(Verdict::Inconclusive(Lack::NotProven))) => {
            Cell::faced(Face::NotProven, "unknown: not proven yet")
        }
        (Met::Unknown, _) => Cell::faced(Face::NoData, "unknown: no data"),
    }
}
