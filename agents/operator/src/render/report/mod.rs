//! A report as a document: sections of sentences, tables, charts and commands. Markdown and HTML
//! are written from it alone, so that both say the same.

mod chart;
mod deployment;
mod html;
mod markdown;
mod seen;
mod words;

pub(crate) use html::html as report_html;
pub(crate) use markdown::markdown as report_markdown;

use bellwether_protocol::report::{Answered, Report, RowNumber};

/// A report, ready to be written.
#[derive(Debug)]
struct Document<'a> {
    report: &'a Report,
    /// What it is of, and as of when.
    subject: String,
    /// `NOT YET: 5 met, 1 not met, 1 unknown`.
    answer: String,
    /// `at 36h of 48h`.
    at: String,
    sections: Vec<Section>,
}

/// One numbered section.
#[derive(Debug)]
struct Section {
    title: &'static str,
    blocks: Vec<Block>,
}

/// A part of a section.
#[derive(Debug)]
enum Block {
    /// A picture of the table below it; only where pictures can be.
    Chart(Chart),
    /// What for, and the exact command.
    Commands(Vec<(String, String)>),
    /// One sentence, or a few.
    Sentences(Vec<Cell>),
    /// A table.
    Table(Table),
}

/// What is drawn.
#[derive(Debug, Clone, Copy)]
enum Chart {
    /// Values against their limits.
    Scales,
    /// How far each stage is.
    Stages,
    /// The slots of each region.
    Strips,
}

/// Rows under a head. With `evidence`, a last column names each row's evidence.
#[derive(Debug, Default)]
struct Table {
    head: &'static [&'static str],
    rows: Vec<Row>,
    /// What it says without rows.
    empty: &'static str,
}

/// One row.
#[derive(Debug, Default)]
struct Row {
    cells: Vec<Cell>,
    /// What its numbers rest on.
    evidence: Option<RowNumber>,
    /// The row of evidence that this is.
    is: Option<RowNumber>,
}

impl Row {
    fn of(cells: impl IntoIterator<Item = impl Into<Cell>>) -> Self {
        Self { cells: cells.into_iter().map(Into::into).collect(), ..Self::default() }
    }

    fn resting_on(self, evidence: RowNumber) -> Self {
        Self { evidence: Some(evidence), ..self }
    }
}

/// A piece of text, and how it stands out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Cell {
    text: String,
    face: Face,
    /// Whether it is an exact command, or a name of the plan.
    is_code: bool,
    evidence: Option<RowNumber>,
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self { text, ..Self::default() }
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

impl Cell {
    fn code(text: impl Into<String>) -> Self {
        Self { is_code: true, ..text.into().into() }
    }

    fn faced(face: Face, text: impl Into<String>) -> Self {
        Self { face, ..text.into().into() }
    }

    fn resting_on(self, evidence: RowNumber) -> Self {
        Self { evidence: Some(evidence), ..self }
    }
}

/// How something stands: a glyph before the word, and only then a colour.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Face {
    /// It failed.
    Fail,
    /// It is not known.
    NoData,
    /// It did not fail, and is not proven.
    NotProven,
    /// It holds.
    Pass,
    /// Nothing to see.
    #[default]
    Plain,
    /// Within the limit, over the target.
    Warn,
}

impl Face {
    /// The glyph, and the class in a style sheet.
    fn glyph(self) -> (&'static str, &'static str) {
        match self {
            Self::Fail => ("✗", "fail"),
            Self::NoData => ("?", "no-data"),
            Self::NotProven => ("~", "not-proven"),
            Self::Pass => ("✓", "pass"),
            Self::Plain => ("", ""),
            Self::Warn => ("!", "warn"),
        }
    }

    fn of(answered: Answered) -> Self {
        match answered {
            Answered::No => Self::Fail,
            Answered::NotYet => Self::NotProven,
            Answered::Yes => Self::Pass,
        }
    }
}

/// Control characters from outside become harmless before anything is escaped.
fn harmless(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests;
