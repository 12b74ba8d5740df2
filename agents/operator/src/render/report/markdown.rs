//! A report as Markdown: for a ticket, a pull request or a terminal.

use bellwether_protocol::report::{Report, RowNumber};

use super::{Block, Cell, Document, Row, Table, harmless};

/// Writes a report as Markdown.
pub(crate) fn markdown(report: &Report) -> String {
    let Document { report, subject, answer, at, sections } = Document::of(report);
    let question = escape(&report.answer.question);
    let mut text =
        format!("# {question} {answer}, {at} {}\n\n{}\n", reference(report.answer.evidence), escape(&subject));
    for (index, section) in sections.iter().enumerate() {
        text.push_str(&format!("\n## {} {}\n", index + 1, section.title));
        for block in &section.blocks {
            text.push_str(&written(block));
        }
    }
    text
}

fn written(block: &Block) -> String {
    match block {
        // A picture has its table beside it, which says the same.
        Block::Chart(_) => String::new(),
        Block::Commands(commands) => {
            let lines = commands.iter().map(|(why, run)| format!("# {}\n{}\n", harmless(why), harmless(run)));
            format!("\n```sh\n{}```\n", lines.collect::<String>())
        }
        Block::Sentences(sentences) => {
            let one = |own: &Cell| {
                let evidence = own.evidence.map(|row| format!(" {}", reference(row))).unwrap_or_default();
                format!("{}{evidence}", cell(own))
            };
            format!("\n{}\n", sentences.iter().map(one).collect::<Vec<_>>().join("\n"))
        }
        Block::Table(table) => written_table(table),
    }
}

fn written_table(table: &Table) -> String {
    if table.rows.is_empty() {
        return format!("\n{}\n", table.empty);
    }
    let with_evidence = table.rows.iter().any(|row| row.evidence.is_some());
    let mut head: Vec<&str> = table.head.to_vec();
    head.extend(with_evidence.then_some("evidence"));
    let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let row = |row: &Row| {
        let mut cells: Vec<String> = row.cells.iter().map(cell).collect();
        if with_evidence {
            cells.push(row.evidence.map(reference).unwrap_or_default());
        }
        line(cells)
    };
    let names = line(head.iter().map(|name| (*name).to_owned()).collect());
    let rule = line(head.iter().map(|_| "---".to_owned()).collect());
    format!("\n{names}{rule}{}", table.rows.iter().map(row).collect::<String>())
}

fn cell(cell: &Cell) -> String {
    let (glyph, _) = cell.face.glyph();
    let space = if glyph.is_empty() { "" } else { " " };
    let text = if cell.is_code && !cell.text.contains(['`', '|']) {
        format!("`{}`", harmless(&cell.text))
    } else {
        escape(&cell.text)
    };
    format!("{glyph}{space}{text}")
}

fn reference(row: RowNumber) -> String {
    format!("[{row}]")
}

/// Text that reads as it is, whatever it holds.
fn escape(text: &str) -> String {
    let mut out = String::new();
    for c in harmless(text).chars() {
        match c {
            '<' => out.push_str("&lt;"),
            // Only where a line begins would it be a quotation.
            '>' if out.is_empty() => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '\\' | '`' | '*' | '[' | ']' | '|' => out.extend(['\\', c]),
            c => out.push(c),
        }
    }
    out
}
