//! Slots as they were folded, a line each: what every number can be counted from.

use bellwether_protocol::report::{Folded, FoldedSlot};
use bellwether_protocol::sample::Histogram;

use super::{Line, Style, count, span};
use bellwether_protocol::time::Span;

/// The lines of some slots, the last one telling how many there are.
pub(crate) fn evidence_lines(folded: &Folded) -> Vec<Line> {
    let mut lines: Vec<Line> = folded.slots.iter().flat_map(slot_lines).collect();
    let (shown, total) = (folded.slots.len() as u64, folded.total);
    lines.push(match (shown, total) {
        (_, 0) => {
            Line::of("no slot fits what was asked for; `rollout report` names the criteria and regions there are")
        }
        (shown, total) if shown < total => Line::of(format!(
            "the last {} of {} slots; narrow it with --slot, --criterion or --region",
            count(shown),
            count(total)
        )),
        (_, 1) => Line::of("1 slot"),
        (_, total) => Line::of(format!("{} slots", count(total))),
    });
    lines
}

fn slot_lines(slot: &FoldedSlot) -> Vec<Line> {
    let (mark, style) = match slot.mark {
        'x' => ("red", Style::Fail),
        '.' => ("seen", Style::Plain),
        _ => ("NOT SEEN", Style::NoData),
    };
    let counted: Vec<String> =
        slot.counted.iter().map(|(name, n, bad)| format!("{name} {} of {}", count(*bad), count(*n))).collect();
    let line = Line::of(format!("{} {} record {}  ", slot.slot.seconds(), slot.series, slot.record));
    let line = line.styled(style, mark).then(format!("  {}", counted.join(", ")));
    let portions = slot.portions.iter().map(|portion| {
        let release = portion.release.as_ref().map_or_else(|| "no release named".to_owned(), ToString::to_string);
        let classes = portion.classes.iter().map(|(name, n)| format!("{name} {}", count(*n))).collect::<Vec<_>>();
        Line::of(format!("    {release}: {}{}", classes.join(", "), latency(&portion.latency)))
    });
    let agents = match (slot.reporters, slot.unwell) {
        (0, 0) => Some("no agent reported".to_owned()),
        (_, 0) => None,
        (well, unwell) => Some(format!("{well} agents counted, {unwell} were not well and did not")),
    };
    let agents = agents.map(|text| Line::of(format!("    {text}")));
    let first = slot.evidence.iter().map(|seen| Line::of(format!("    {} {}", seen.at.clock(), seen.text)));
    std::iter::once(line).chain(portions).chain(agents).chain(first).collect()
}

/// The median, the 95th percentile and the slowest, each at most.
fn latency(latency: &Histogram) -> String {
    let n = latency.n();
    if n == 0 {
        return String::new();
    }
    let at_most = |rank: u64| {
        let mut below = 0_u64;
        let edge = latency.0.iter().find(|(_, count)| {
            below = below.saturating_add(**count);
            below >= rank
        });
        match edge {
            Some((edge, _)) if *edge < u64::MAX => span(Span::from_ms(*edge)),
            _ => "over the last edge".to_owned(),
        }
    };
    format!("; p50 {} p95 {} slowest {}, each at most", at_most(n.div_ceil(2)), at_most(n - n / 20), at_most(n))
}
