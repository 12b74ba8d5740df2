//! Three pictures, each beside the table that says the same: how far the stages are, which slots of
//! a region were seen, and each value against its limit with what the data still allow.
//!
//! Words stand beside the drawings, not in them, so that they stay readable on a phone.

use bellwether_protocol::plan::number::shorten;
use bellwether_protocol::report::{Cell, CriterionRow, Report, Scale, Strip};
use bellwether_protocol::status::{StageMark, StageStatus};

use super::deployment::soaked;
use super::html::Escaped;
use super::seen::result;
use super::words::moment;
use super::{Chart, Face};
use crate::render::span;

/// Hatchings, used by all drawings. Colours come from the style sheet.
pub(super) const DEFS: &str = "<svg class=\"defs\" aria-hidden=\"true\"><defs>\
    <pattern id=\"red\" width=\"4\" height=\"4\" patternUnits=\"userSpaceOnUse\" patternTransform=\"rotate(45)\">\
    <path class=\"hatch-red\" d=\"M0 0V4\" stroke-width=\"5\"/></pattern>\
    <pattern id=\"missing\" width=\"5\" height=\"5\" patternUnits=\"userSpaceOnUse\" patternTransform=\"rotate(-45)\">\
    <path class=\"hatch-grey\" d=\"M0 0V5\" stroke-width=\"2\"/></pattern>\
    <pattern id=\"beyond\" width=\"6\" height=\"6\" patternUnits=\"userSpaceOnUse\" patternTransform=\"rotate(45)\">\
    <path class=\"hatch-beyond\" d=\"M0 0V6\" stroke-width=\"2\"/></pattern>\
    <pattern id=\"dense\" width=\"3\" height=\"3\" patternUnits=\"userSpaceOnUse\" patternTransform=\"rotate(45)\">\
    <path d=\"M0 0V3\" stroke=\"#000\" stroke-width=\"2\"/></pattern></defs></svg>";

/// How wide every drawing is, in its own units.
const WIDTH: f64 = 600.0;
/// A stage is drawn at least so wide: one of an hour beside one of days is still seen.
const STAGE_WIDTH_MIN: f64 = 48.0;

/// Draws one.
pub(super) fn chart(chart: Chart, report: &Report) -> String {
    let drawn = match chart {
        Chart::Scales => scales(report),
        Chart::Stages => stages(report),
        Chart::Strips => strips(report),
    };
    drawn.map(|drawn| format!("<figure>\n{drawn}</figure>\n")).unwrap_or_default()
}

fn drawing(height: f64, says: &str, shapes: &str) -> String {
    let says = Escaped(says);
    format!(
        "<svg viewBox=\"0 0 {WIDTH} {height}\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"{says}\"><title>{says}</title>{shapes}</svg>\n"
    )
}

fn rect(class: &str, (x, y): (f64, f64), (width, height): (f64, f64)) -> String {
    format!("<rect class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\"/>")
}

fn upright(class: &str, x: f64, (from, to): (f64, f64)) -> String {
    format!("<path class=\"{class}\" d=\"M{x:.1} {from:.1}V{to:.1}\"/>")
}

fn key(class: &str, name: &str) -> String {
    format!(
        "<span><svg viewBox=\"0 0 16 12\" aria-hidden=\"true\">{}</svg>{name}</span>",
        rect(class, (1.0, 1.0), (14.0, 10.0))
    )
}

/// A share with three digits.
fn percent(share: f64) -> String {
    let hundred = share * 100.0;
    let digits = if hundred > 0.0 { (2.0 - hundred.log10().floor()).clamp(0.0, 6.0) as usize } else { 0 };
    let text = format!("{hundred:.digits$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}%")
}

/// A part of a whole, between 0 and 1.
fn part(of: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { (of as f64 / whole as f64).clamp(0.0, 1.0) }
}

fn stages(report: &Report) -> Option<String> {
    let stages = &report.explanation.status.stages;
    let total: u64 = stages.iter().map(|stage| stage.soak.as_ms()).sum();
    let wanted: Vec<f64> =
        stages.iter().map(|stage| (WIDTH * part(stage.soak.as_ms(), total)).max(STAGE_WIDTH_MIN)).collect();
    let scale = WIDTH / wanted.iter().sum::<f64>();
    let mut x = 0.0;
    let mut shapes = String::new();
    for (stage, wanted) in stages.iter().zip(wanted) {
        let width = wanted * scale - 4.0;
        let is_failed = stage.mark == StageMark::Failed;
        let done = match stage.mark {
            StageMark::Passed => 1.0,
            _ => part(soaked(report, stage).as_ms(), stage.soak.as_ms()),
        };
        let class = if is_failed { "failed" } else { "done" };
        shapes.push_str(&rect(class, (x + 1.0, 1.0), (width * done, 18.0)));
        shapes.push_str(&rect("frame", (x + 1.0, 1.0), (width, 18.0)));
        x += wanted * scale;
    }
    let words: Vec<String> = stages.iter().map(|stage| stage_words(report, stage)).collect();
    let says = format!("stages: {}", words.join(", "));
    let legend: String = words.iter().map(|words| format!("<span>{}</span> ", Escaped(words))).collect();
    let drawn = || format!("{}<p class=\"legend\">{legend}</p>\n", drawing(20.0, &says, &shapes));
    (!stages.is_empty()).then(drawn)
}

fn stage_words(report: &Report, stage: &StageStatus) -> String {
    let StageStatus { name, mark, soak, .. } = stage;
    let so_far = span(soaked(report, stage));
    let of = span(*soak);
    match mark {
        StageMark::Failed => format!("✗ {name} {so_far} of {of}"),
        StageMark::Later => format!(". {name} {of}"),
        StageMark::Now => format!("> {name} {so_far} of {of}"),
        StageMark::Passed => format!("✓ {name} {so_far}"),
        StageMark::Skipped => format!("- {name}"),
    }
}

fn strips(report: &Report) -> Option<String> {
    let end = |strip: &Strip| strip.from + strip.cell.times(strip.cells.len() as u64);
    let from = report.strips.iter().filter(|strip| !strip.cells.is_empty()).map(|strip| strip.from).min()?;
    let upto = report.strips.iter().map(end).max()?;
    let whole = upto.since(from).as_ms();
    let mut text = format!(
        "<p class=\"legend\">{}{}{}{}</p>\n",
        key("seen", "seen"),
        key("red", "over a hard limit"),
        key("missing", "not seen"),
        "<span>blank: nothing was looked at</span>"
    );
    for strip in &report.strips {
        let at = |index: usize| {
            let before = strip.from.since(from).as_ms() + strip.cell.times(index as u64).as_ms();
            WIDTH * part(before, whole)
        };
        let cells = strip.cells.iter().enumerate().map(|(index, cell)| cell_shapes(cell, at(index), at(index + 1)));
        let sum = |of: fn(&Cell) -> u32| strip.cells.iter().map(|cell| u64::from(of(cell))).sum::<u64>();
        let (slots, red, missing) = (sum(|cell| cell.slots), sum(|cell| cell.red), sum(|cell| cell.missing));
        let says = format!("{}: {slots} slots, {missing} not seen, {red} over a hard limit", strip.region);
        let drawn = drawing(24.0, &says, &cells.collect::<String>());
        let words = format!("{missing} of {slots} not seen; a cell is {}", span(strip.cell));
        text.push_str(&format!(
            "<div class=\"row\"><div class=\"name\"><span>{}</span><span class=\"scale\">{words}</span></div>{drawn}</div>\n",
            Escaped(strip.region.as_str())
        ));
    }
    text.push_str(&format!(
        "<div class=\"row\"><div class=\"name scale ends\"><span>{}</span><span>{}</span></div></div>\n",
        moment(report, from),
        moment(report, upto)
    ));
    Some(text)
}

/// Seen over the whole height; what was red or missing on top of it, never less than a third of it.
fn cell_shapes(cell: &Cell, from: f64, to: f64) -> String {
    if cell.slots == 0 {
        return String::new();
    }
    let width = (to - from - 0.6).max(0.6);
    let mut shapes = rect("seen", (from, 0.0), (width, 24.0));
    let tall = |of: u32| if of == 0 { 0.0 } else { (24.0 * part(of.into(), cell.slots.into())).max(8.0) };
    let (red, missing) =
        (tall(cell.red), tall(cell.missing).min(24.0 - tall(cell.red)).max(if cell.missing > 0 { 8.0 } else { 0.0 }));
    if cell.missing > 0 {
        shapes.push_str(&rect("missing", (from, 0.0), (width, missing)));
    }
    if cell.red > 0 {
        shapes.push_str(&rect("red", (from, 24.0 - red), (width, red)));
    }
    shapes
}

fn scales(report: &Report) -> Option<String> {
    let rows: String = report.criteria.iter().filter_map(|own| Some(scale_row(own, own.scale?))).collect();
    let legend = format!(
        "<p class=\"legend\">{}{}{}{}<span>hatched: beyond the limit</span></p>\n",
        line_key("value", "value"),
        key("band", "what the data still allow"),
        line_key("limit", "limit"),
        line_key("target", "target")
    );
    (!rows.is_empty()).then(|| legend + &rows)
}

fn line_key(class: &str, name: &str) -> String {
    format!(
        "<span><svg viewBox=\"0 0 16 12\" aria-hidden=\"true\">{}</svg>{name}</span>",
        upright(class, 8.0, (0.0, 12.0))
    )
}

fn scale_row(own: &CriterionRow, scale: Scale) -> String {
    let Scale { value, limit, target, band, is_share, is_floor } = scale;
    let end = (limit * 2.0).max(value * 1.2).max(f64::MIN_POSITIVE);
    let at = |value: f64| (WIDTH * value / end).clamp(0.0, WIDTH);
    let beyond = if is_floor { (0.0, at(limit)) } else { (at(limit), WIDTH - at(limit)) };
    let mut shapes = rect("beyond", (beyond.0, 3.0), (beyond.1, 16.0));
    if let Some((low, high)) = band {
        shapes.push_str(&rect("band", (at(low), 3.0), (at(high) - at(low), 16.0)));
    }
    shapes.push_str(&rect("frame", (0.5, 3.0), (WIDTH - 1.0, 16.0)));
    shapes.extend(target.map(|target| upright("target", at(target), (0.0, 22.0))));
    shapes.push_str(&upright("limit", at(limit).clamp(1.0, WIDTH - 1.0), (0.0, 22.0)));
    shapes.push_str(&upright("value", at(value).clamp(2.0, WIDTH - 2.0), (3.0, 19.0)));
    let shown = |value: f64| if is_share { percent(value) } else { shorten(value) };
    let word = if is_floor { "at least" } else { "limit" };
    let allowed = band.map(|(low, high)| {
        let off = if high > end { ", off the scale" } else { "" };
        format!("; the data allow {} to {}{off}", shown(low), shown(high))
    });
    let words = format!("{}, {word} {}{}", shown(value), shown(limit), allowed.unwrap_or_default());
    let face = result(own);
    let (glyph, class) = face.face.glyph();
    let says = format!("{}: {words}; {}", own.criterion, face.text);
    debug_assert!(face.face != Face::Plain, "every result has a glyph");
    format!(
        "<div class=\"row\"><div class=\"name\"><span>{} <span class=\"{class}\">{glyph}</span></span>\
         <a class=\"n scale\" href=\"#{row}\">{}</a></div>{}</div>\n",
        Escaped(own.criterion.as_str()),
        Escaped(&words),
        drawing(22.0, &says, &shapes),
        row = own.evidence
    )
}
