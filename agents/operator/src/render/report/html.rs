//! A report as one HTML file: no script, nothing fetched, readable on a phone and in print.
//!
//! Whatever comes from outside is escaped in one place each: [`Escaped`] in text and attributes.
//! Names of styles and anchors are our own.

use std::fmt;

use bellwether_protocol::report::{Report, RowNumber};

use super::chart::{self, DEFS};
use super::{Block, Cell, Document, Face, Row, Table, harmless};

const STYLE: &str = include_str!("report.css");

/// Cells of at most so many characters are not broken.
const SHORT: usize = 18;

/// Text from anywhere, for text and quoted attributes.
pub(super) struct Escaped<'a>(pub(super) &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        harmless(self.0).chars().try_for_each(|c| match c {
            '&' => f.write_str("&amp;"),
            '<' => f.write_str("&lt;"),
            '>' => f.write_str("&gt;"),
            '"' => f.write_str("&quot;"),
            '\'' => f.write_str("&#39;"),
            c => write!(f, "{c}"),
        })
    }
}

/// Writes a report as HTML.
pub(crate) fn html(report: &Report) -> String {
    let document = Document::of(report);
    let face = Face::of(report.answer.verdict);
    let (glyph, class) = face.glyph();
    let (word, tally) = document.answer.split_once(": ").unwrap_or((&document.answer, ""));
    let question = Escaped(&report.answer.question);
    let row = report.answer.evidence;
    let parts = document.subject.split(", ").map(|part| format!("<span class=\"nowrap\">{}</span>", Escaped(part)));
    let subject = parts.collect::<Vec<_>>().join(", ");
    let mut text = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <title>{glyph} {question} {word}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n{DEFS}\n\
         <header>\n<h1>{question}</h1>\n<p class=\"answer {class}\">{glyph} {word}</p>\n\
         <p class=\"tally\">{}, {}</p>\n<p class=\"subject\">{subject}</p>\n</header>\n<main>\n",
        link(row, &Escaped(tally)),
        link(row, &Escaped(&document.at)),
    );
    for (index, section) in document.sections.iter().enumerate() {
        text.push_str(&format!("<section>\n<h2><span>{}</span> {}</h2>\n", index + 1, Escaped(section.title)));
        for block in &section.blocks {
            text.push_str(&written(block, report));
        }
        text.push_str("</section>\n");
    }
    text.push_str("</main>\n</body>\n</html>\n");
    text
}

fn written(block: &Block, report: &Report) -> String {
    match block {
        Block::Chart(chart) => chart::chart(*chart, report),
        Block::Commands(commands) => {
            let one = |(why, run): &(String, String)| {
                format!("<dt>{}</dt><dd><pre><code>{}</code></pre></dd>\n", Escaped(why), Escaped(run))
            };
            format!("<dl>\n{}</dl>\n", commands.iter().map(one).collect::<String>())
        }
        Block::Sentences(sentences) => {
            let reference = |row: RowNumber| format!(" <a class=\"by\" href=\"#{row}\">{row}</a>");
            let one = |own: &Cell| {
                format!("<p>{}{}</p>\n", cell(own, own.evidence), own.evidence.map(reference).unwrap_or_default())
            };
            sentences.iter().map(one).collect()
        }
        Block::Table(table) if table.rows.is_empty() => format!("<p>{}</p>\n", Escaped(table.empty)),
        Block::Table(table) => written_table(table),
    }
}

fn written_table(table: &Table) -> String {
    let with_evidence = table.rows.iter().any(|row| row.evidence.is_some());
    let mut head: Vec<&str> = table.head.to_vec();
    head.extend(with_evidence.then_some("evidence"));
    let names: String = head.iter().map(|name| format!("<th scope=\"col\">{}</th>", Escaped(name))).collect();
    let row = |row: &Row| {
        let cells = row.cells.iter().zip(&head).map(|(own, name)| {
            let class = if own.text == "-" { " class=\"none\"" } else { "" };
            format!("<td{class} data-label=\"{}\"><span>{}</span></td>", Escaped(name), cell(own, row.evidence))
        });
        let anchor = row.is.map(|is| format!(" id=\"{is}\"")).unwrap_or_default();
        let reference = row.evidence.map(|row| {
            format!("<td class=\"ref\" data-label=\"evidence\"><span><a href=\"#{row}\">{row}</a></span></td>")
        });
        format!("<tr{anchor}>{}{}</tr>\n", cells.collect::<String>(), reference.unwrap_or_default())
    };
    let rows: String = table.rows.iter().map(row).collect();
    let class = if table.head.len() == 2 { " class=\"pairs\"" } else { "" };
    format!("<table{class}>\n<thead><tr>{names}</tr></thead>\n<tbody>\n{rows}</tbody>\n</table>\n")
}

/// A cell. One that holds a number leads to what that number rests on.
fn cell(cell: &Cell, evidence: Option<RowNumber>) -> String {
    let text = match cell.is_code {
        true => format!("<code>{}</code>", Escaped(&cell.text)),
        false => Escaped(&cell.text).to_string(),
    };
    let has_number = !cell.is_code && cell.text.contains(|c: char| c.is_ascii_digit());
    let text = match evidence.or(cell.evidence).filter(|_| has_number) {
        Some(row) => link(row, &text),
        None => text,
    };
    // A glyph and its word, or a number and its unit, stay on one line.
    let short = if cell.text.chars().count() <= SHORT { "nowrap" } else { "" };
    match (cell.face.glyph(), short) {
        (("", _), "") => text,
        (("", _), short) => format!("<span class=\"{short}\">{text}</span>"),
        ((glyph, class), short) => format!("<span class=\"{class} {short}\">{glyph} {text}</span>"),
    }
}

fn link(row: RowNumber, text: &impl fmt::Display) -> String {
    format!("<a class=\"n\" href=\"#{row}\">{text}</a>")
}
