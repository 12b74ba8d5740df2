use std::collections::BTreeSet;

use bellwether_protocol::report::Report;

use super::html::Escaped;
use super::{harmless, report_html, report_markdown};

/// Story 1 at 36 of 48 hours. Where a field was added, `REPORTS=overwrite cargo test -p
/// bellwether-coordinator --test report` stores it anew.
fn staging() -> Report {
    serde_json::from_str(include_str!("../golden/report.json")).unwrap()
}

/// The same, told by somebody who means harm, wherever text comes from outside.
fn hostile() -> Report {
    let mut report = staging();
    let markup = "<script>alert(1)</script><img/src=x|`*[a](javascript:b)\"'";
    report.explanation.status.release = markup.parse().unwrap();
    report.explanation.status.overrides = vec![markup.to_owned()];
    report.explanation.status.summary = Some(markup.to_owned());
    for endpoint in &mut report.endpoints {
        endpoint.path = Some(markup.to_owned());
        endpoint.first_bad.iter_mut().for_each(|bad| bad.text = markup.to_owned());
    }
    for address in report.regions.values_mut() {
        *address = markup.to_owned();
    }
    report.criteria.iter_mut().for_each(|row| row.must = markup.to_owned());
    report.evidence.iter_mut().for_each(|row| (row.of, row.run) = (markup.to_owned(), markup.to_owned()));
    report.answer.question = markup.to_owned();
    report
}

/// The tags of a document, in their order, without attributes.
fn tags(html: &str) -> Vec<&str> {
    let inside = html.split('<').skip(1);
    inside.map(|tag| tag.split(['>', ' ', '\n']).next().unwrap_or_default()).collect()
}

#[test]
fn the_first_line_answers_the_question() {
    let text = report_markdown(&staging());
    let first = text.lines().next().unwrap();
    assert_eq!(first, "# May production follow? NOT YET: 6 met, 1 not met, 4 unknown, at 34h50m of 48h [E2]");
    let html = report_html(&staging());
    assert!(html.contains("<title>~ May production follow? NOT YET</title>"));
}

#[test]
fn sections_come_in_the_order_of_the_story() {
    let text = report_markdown(&staging());
    let titles: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    let expected = [
        "1 Summary",
        "2 Deployment",
        "3 Endpoints",
        "4 Criteria",
        "5 Issues",
        "6 Risks, exclusions, late and missing slots",
        "7 Next",
        "8 Evidence",
    ];
    assert_eq!(titles, expected);
    for row in [
        "| uptime (soft) | `error_ratio < 0.1%` | 0% in sjc | under 1.53%; 0 of 429 bad | ~ unknown: not proven yet |",
        "| memory (soft) | `memory < 2GB` | 226MB in sjc | the last of 429 slots | ✓ met |",
        "| memory_share (soft) | `memory_share < 94.5, alert 100` | 94.561 in sjc | the last of 429 slots | ! met, over target |",
        "| salesforce (soft) | `never 2 slots down` | no data | nothing | ? unknown: left out by hand |",
        "| companycam (soft) | `never 2 slots down` | 12 in a row in sjc; first 20:00:00Z http_5xx | 12 of 429 bad | ✗ not met |",
        "| ! medium | 20:10:10Z | companycam: FAIL (soft) in sjc (canary), 2 in a row (2 of 419), limit 2 in a row |",
        "| missing slots | sjc: 3 of 432, 2026-05-04 17:20:00Z to 2026-05-04 17:30:00Z |",
        "| late slots | sjc: 1 slot came too late to count, and restored nothing |",
        "bellwether command rollback estimator",
    ] {
        assert!(text.contains(row), "{row}\nis not in\n{text}");
    }
}

#[test]
fn every_number_leads_to_a_row_of_evidence() {
    let (text, html) = (report_markdown(&staging()), report_html(&staging()));
    let references = html.split("href=\"#").skip(1).filter_map(|rest| rest.split('"').next());
    let references: Vec<&str> = references.collect();
    assert!(references.len() > 50);
    for row in references {
        assert!(html.contains(&format!("<tr id=\"{row}\">")), "{row} has no row");
        assert!(text.contains(&format!("| {row} |")), "{row} has no row in Markdown");
    }
    let rows = text.lines().filter(|line| line.starts_with("| ") && line.contains(|c: char| c.is_ascii_digit()));
    for row in rows {
        let is_head = row.ends_with("| evidence |") || row.starts_with("| row |");
        assert!(row.ends_with("] |") || row.starts_with("| E") || is_head, "no evidence: {row}");
    }
}

#[test]
fn nothing_from_outside_becomes_markup() {
    let kinds = |html: &str| tags(html).into_iter().map(str::to_owned).collect::<BTreeSet<_>>();
    let html = report_html(&hostile());
    assert_eq!(kinds(&html), kinds(&report_html(&staging())), "a text became a tag");
    assert!(!html.contains("<script") && !html.contains("<img") && html.contains("&lt;script&gt;"));
    let text = report_markdown(&hostile());
    let outside_code: Vec<&str> = text.split('`').step_by(2).collect();
    assert!(!outside_code.concat().contains("<script"), "{text}");
    assert!(!text.contains("&gt;") || text.contains("\n&gt;"), "what harms nothing is shown as it is: {text}");
    assert_eq!(Escaped("a\u{1b}[2J\n'\"").to_string(), "a [2J &#39;&quot;");
    assert_eq!(harmless("a\tb"), "a b");
}

#[test]
fn the_page_is_one_file_without_script_and_closes_what_it_opens() {
    let html = report_html(&staging());
    for absent in ["<script", "src=", "url(http", "@import", "<link", "onclick"] {
        assert!(!html.contains(absent), "{absent}");
    }
    let mut open = Vec::new();
    for tag in tags(&html) {
        match tag.strip_prefix('/') {
            Some(closed) => assert_eq!(open.pop(), Some(closed), "wrongly closed"),
            None if tag.starts_with('!') || ["meta", "rect", "path"].contains(&tag.trim_end_matches('/')) => {}
            None => open.push(tag),
        }
    }
    assert!(open.is_empty(), "left open: {open:?}");
    assert_eq!(html.matches("role=\"img\"").count(), 1 + 1 + 5, "a stage bar, a strip, five scales");
}
