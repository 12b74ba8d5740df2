//! What is wrong with a plan, for a person and for a program.
//!
//! | code | what |
//! |---|---|
//! | P01 | not YAML, or over a bound of the reader |
//! | P02 | a value that cannot be read: duration, percentage, number, name, sentence |
//! | P03 | an unknown key |
//! | P04 | a name that nothing in the plan has |
//! | P05 | a key that is missing, or an empty list |
//! | P06 | a list, map or value where another is needed |
//! | P07 | a name or key that is there twice |
//! | P08 | more or less than exactly one of several keys |
//! | P09 | a probe's settings that the probe refuses |
//! | P10 | more than the reader takes |
//! | P11 | what can never fail, or never fire |
//! | P12 | values that contradict each other |
//! | P13 | an override of something that cannot be overridden |
//! | P14 | a base that cannot be had, or a key that says nothing of what a base has |
//! | W01 | a class of answers that no probe reports |
//! | W02 | a criterion that no stage uses |
//! | W03 | looks that cannot show what a criterion wants |
//! | W04 | a flag that goes off unproven, though an earlier level wants the refusal seen |
//! | W05 | a stage that looks away from the baseline while traffic is split |
//! | W06 | an SLI that no criterion judges |

use std::fmt;
use std::ops::Range;

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet, normalize_untrusted_str};
use serde::Serialize;

use super::node::{Broken, Key, Mark, Node};

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FindingSeverity {
    /// The plan is refused.
    Error,
    /// The plan is accepted.
    Warning,
}

/// One thing that is wrong with a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// A stable code; see the table of this module.
    pub code: &'static str,
    /// How bad it is.
    pub severity: FindingSeverity,
    /// What is wrong, in a few words.
    pub message: String,
    /// In which file.
    pub file: String,
    /// Line, from 1; absent when it is not in the file, as an override is.
    pub line: Option<u32>,
    /// Column in characters, from 1.
    pub column: Option<u32>,
    /// The key it is about.
    pub key: Option<String>,
    /// Its value, cut to 80 characters.
    pub value: Option<String>,
    /// What would be right.
    pub help: Option<String>,
    /// What else helps.
    pub notes: Vec<String>,
    #[serde(skip)]
    bytes: Range<usize>,
}

/// Most findings of one reading; whoever has more repairs these first.
pub(super) const FINDINGS_MAX: usize = 100;
/// Most names that a misspelled one is compared with.
const KNOWN_MAX: usize = 256;
/// Longest line of a file that is shown, in bytes.
const LINE_MAX: usize = 400;

impl Finding {
    /// What is wrong where no file can be pointed at.
    pub(super) fn new(code: &'static str, message: impl Into<String>) -> Self {
        let severity = if code.starts_with('W') { FindingSeverity::Warning } else { FindingSeverity::Error };
        Self {
            code,
            severity,
            message: message.into(),
            file: String::new(),
            line: None,
            column: None,
            key: None,
            value: None,
            help: None,
            notes: Vec::new(),
            bytes: 0..0,
        }
    }

    /// Points at `mark`.
    pub(super) fn at(mut self, mark: &Mark) -> Self {
        (self.line, self.column) = (Some(mark.line), Some(mark.column));
        self.bytes = mark.bytes.clone();
        self.file = mark.part.as_deref().unwrap_or_default().to_owned();
        self
    }

    /// Says that it is in `file`.
    pub(super) fn within(self, file: String) -> Self {
        Self { file, ..self }
    }

    /// Counts its bytes from `start`.
    pub(super) fn counted_from(mut self, start: usize) -> Self {
        self.bytes = self.bytes.start.saturating_sub(start)..self.bytes.end.saturating_sub(start);
        self
    }

    /// Points at a value and names its key.
    pub(super) fn on(mut self, key: &str, node: &Node) -> Self {
        self = self.at(&node.mark);
        self.key = Some(cut(key));
        self.value = node.text().map(cut);
        if node.overridden {
            self.notes.push(format!("set on the command line: {key}={}", cut(node.text().unwrap_or_default())));
        }
        self
    }

    /// Points at a key.
    pub(super) fn on_key(mut self, key: &Key) -> Self {
        self = self.at(&key.mark);
        self.key = Some(cut(&key.text));
        self
    }

    /// Names a value that stands in no file.
    pub(super) fn quoting(mut self, value: &str) -> Self {
        self.value = Some(cut(value));
        self
    }

    /// Says what would be right.
    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into()).filter(|help| !help.is_empty());
        self
    }

    /// Adds a line below.
    pub(super) fn note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }
}

impl From<Broken> for Finding {
    fn from(broken: Broken) -> Self {
        let code = if broken.message.ends_with("written twice") { "P07" } else { "P01" };
        Self::new(code, broken.message).at(&broken.mark).help(broken.help)
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file)?;
        if let (Some(line), Some(column)) = (self.line, self.column) {
            write!(f, ":{line}:{column}")?;
        }
        let severity = if self.severity == FindingSeverity::Error { "error" } else { "warning" };
        write!(f, ": {severity}[{}]: {}", self.code, self.message)?;
        self.help.as_ref().map_or(Ok(()), |help| write!(f, ": {help}"))
    }
}

/// Every finding with the line it points at, and one line that counts them.
///
/// `sources` are the files that were read: name and text.
pub fn render<N: AsRef<str>>(findings: &[Finding], sources: &[(N, &str)]) -> String {
    let mut out = String::new();
    for finding in findings {
        let source = sources.iter().find(|(name, _)| name.as_ref() == finding.file).map_or("", |(_, text)| *text);
        out.push_str(&tighten(&render_one(finding, source)));
        out.push('\n');
    }
    let count = |severity| findings.iter().filter(|f| f.severity == severity).count();
    let errors = plural(count(FindingSeverity::Error), "error");
    let warnings = match count(FindingSeverity::Warning) {
        0 => String::new(),
        n => format!(", {}", plural(n, "warning")),
    };
    let files = plural(sources.len(), "file");
    format!("{out}{errors}{warnings} in {files}. Nothing was contacted or changed.\n")
}

fn render_one(finding: &Finding, source: &str) -> String {
    let level = match finding.severity {
        FindingSeverity::Error => Level::ERROR,
        FindingSeverity::Warning => Level::WARNING,
    };
    let title = level.primary_title(normalize_untrusted_str(&finding.message)).id(finding.code);
    let help = finding.help.as_deref().map(normalize_untrusted_str);
    let mut group = Group::with_title(title);
    let number = finding.line.map(|line| usize::try_from(line).unwrap_or(usize::MAX));
    match (number, line_of(source, &finding.bytes)) {
        (Some(number), Some((line, bytes))) => {
            let mark = AnnotationKind::Primary.span(bytes).label(help);
            group =
                group.element(Snippet::source(line).line_start(number).path(finding.file.as_str()).annotation(mark));
        }
        (Some(number), None) => {
            let column = finding.column.and_then(|column| usize::try_from(column).ok()).unwrap_or(1);
            group = group.element(Origin::path(finding.file.as_str()).line(number).char_column(column));
            group = group.elements(help.map(|help| Level::NOTE.no_name().message(help)));
        }
        (None, _) => group = group.elements(help.map(|help| Level::NOTE.no_name().message(help))),
    }
    let notes = finding.notes.iter().map(|note| Level::NOTE.no_name().message(normalize_untrusted_str(note)));
    Renderer::plain().render(&[group.elements(notes)])
}

/// The line that holds the start of `bytes`, and the part of them in it. Only this line is given
/// to the renderer, whose cost grows with the text that it is given.
fn line_of<'a>(source: &'a str, bytes: &Range<usize>) -> Option<(&'a str, Range<usize>)> {
    let is_break = |c: char| c == '\n' || c == '\r';
    let start = source.get(..bytes.start)?.rfind(is_break).map_or(0, |at| at + 1);
    let rest = source.get(start..)?;
    let line = rest.get(..rest.find(is_break).unwrap_or(rest.len()))?;
    let line = line.get(..LINE_MAX).unwrap_or(line);
    let (from, to) = (bytes.start - start, (bytes.end.max(bytes.start) - start).min(line.len()));
    // A block ends on a later line, behind trailing blanks or a comment: mark what stands there.
    let to = line.get(from..to).map_or(from, |text| from + text.trim_end().len());
    line.get(from..).map(|_| (line, from..to.max(from)))
}

/// Drops the empty gutter lines and the blank before the gutter: a report of ten findings then
/// fits on a screen.
fn tighten(text: &str) -> String {
    let mut lines = Vec::new();
    for line in text.lines() {
        let gutter = line.find(" |").filter(|at| line[..*at].bytes().all(|b| b == b' ' || b.is_ascii_digit()));
        match gutter {
            Some(at) if line[at + 2..].trim().is_empty() => {}
            Some(at) => lines.push(format!("{}{}", &line[..at], &line[at + 1..])),
            None => lines.push(line.replacen(" = ", "= ", usize::from(line.trim_start().starts_with("= ")))),
        }
    }
    lines.join("\n")
}

/// `1 error`, `3 errors`, `no errors`.
pub(super) fn plural(n: usize, what: &str) -> String {
    match n {
        0 => format!("no {what}s"),
        1 => format!("1 {what}"),
        _ => format!("{n} {what}s"),
    }
}

/// At most 80 characters of `text`.
pub(super) fn cut(text: &str) -> String {
    text.chars().take(80).collect()
}

/// The one of `known` that was probably meant.
pub(super) fn nearest<'a>(text: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let text = cut(text);
    let best = known.into_iter().take(KNOWN_MAX).map(|word| (distance(&text, &cut(word)), word)).min()?;
    // One slip in three letters is still the same word; more is another one.
    (best.0 <= text.chars().count().max(3) / 3).then_some(best.1)
}

/// `did you mean `x`? (also: y, z)`, or `known: x, y, z`.
pub(super) fn suggest<'a>(text: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let known: Vec<&str> = known.into_iter().collect();
    let list = |words: Vec<&str>| cut_list(&words.join(", "));
    match nearest(text, known.iter().copied()) {
        Some(word) if known.len() == 1 => format!("did you mean `{word}`?"),
        Some(word) => {
            let others = known.into_iter().filter(|other| *other != word).collect();
            format!("did you mean `{word}`? (also: {})", list(others))
        }
        None if known.is_empty() => "none is known".to_owned(),
        None => format!("known: {}", list(known)),
    }
}

fn cut_list(list: &str) -> String {
    const SHOWN: usize = 200;
    if list.chars().count() <= SHOWN {
        list.to_owned()
    } else {
        list.chars().take(SHOWN).chain("...".chars()).collect()
    }
}

/// How many letters to add, drop, change or swap with their neighbour.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![(0..=b.len()).collect::<Vec<usize>>()];
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let mut best = (rows[i][j] + usize::from(x != y)).min(rows[i][j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *x == b[j - 1] && a[i - 1] == *y {
                best = best.min(rows[i - 1][j - 1] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_are_near_are_suggested() {
        let known = ["traffic", "release", "database"];
        assert_eq!(suggest("trafic", known), "did you mean `traffic`? (also: release, database)");
        assert_eq!(suggest("raelese", known), "did you mean `release`? (also: traffic, database)");
        assert_eq!(suggest("weight", known), "known: traffic, release, database");
        assert_eq!(suggest("x", []), "none is known");
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("ab", "ba"), 1);
    }

    #[test]
    fn a_finding_shows_its_line() {
        let text = "stages:\n  - set: trafic  # ten percent\n";
        let mark = Mark { line: 2, column: 10, bytes: 17..23, ..Mark::default() };
        let mut finding = Finding::new("P04", "unknown lever `trafic`").at(&mark).help("did you mean `traffic`?");
        finding.file = "shop.yaml".into();
        let expected = "\
error[P04]: unknown lever `trafic`
 --> shop.yaml:2:10
2|   - set: trafic  # ten percent
 |          ^^^^^^ did you mean `traffic`?
1 error in 1 file. Nothing was contacted or changed.
";
        assert_eq!(render(&[finding], &[("shop.yaml", text)]), expected);
    }

    #[test]
    fn a_finding_on_a_long_line_shows_its_place() {
        let text = format!("{}x", " ".repeat(500));
        let mark = Mark { line: 1, column: 501, bytes: 500..501, ..Mark::default() };
        let finding =
            Finding { file: "f".into(), ..Finding::new("P02", "not a duration").at(&mark).help("write `1h`") };
        let shown = render(&[finding], &[("f", &text)]);
        assert!(shown.starts_with("error[P02]: not a duration\n--> f:1:501\n"), "{shown}");
        assert!(shown.contains("= write `1h`\n"), "{shown}");
    }
}
