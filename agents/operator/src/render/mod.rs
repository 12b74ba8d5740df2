//! What people read, as lines: pure functions from facts to text.
//!
//! Nothing here reads a clock, a terminal or the mesh. Healthy is uncoloured; colour means "look
//! here", and never stands alone: a glyph and a word say the same. Control characters that come
//! from outside are replaced, so that no answer of a service can steer somebody's terminal.

mod amount;
mod evidence;
mod explain;
mod line;
mod power;
mod report;
mod timeline;
mod watch;

pub(crate) mod table;

pub(crate) use amount::{plural, span};
pub(crate) use bellwether_protocol::plan::number::thousands as count;
pub(crate) use evidence::evidence_lines;
pub(crate) use explain::explain;
pub(crate) use line::{Told, events, final_lines, hold_words, reason_event};
pub(crate) use power::power_lines;
pub(crate) use report::{report_html, report_markdown};
pub(crate) use timeline::{failure_lines, timeline_lines};
pub(crate) use watch::{Frame, draw, stuck_words};

use bellwether_protocol::reason::{Judgement, Lack, Verdict};

/// Why a piece of text stands out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// It failed: bold red.
    Fail,
    /// It is not known: reverse.
    NoData,
    /// Nothing to see.
    Plain,
    /// Over its target: yellow.
    Warn,
}

/// What the reader's terminal can show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Look {
    /// Whether escape sequences are welcome.
    pub(crate) colour: bool,
    /// Whether glyphs must stay within ASCII.
    pub(crate) ascii: bool,
}

/// One line of text, in pieces.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    pieces: Vec<(Style, String)>,
    /// The pieces up to here may be cut anywhere; of a later one, either all is shown or nothing.
    can_cut: Option<usize>,
}

impl Line {
    pub(crate) fn of(text: impl AsRef<str>) -> Self {
        Self::default().then(text)
    }

    pub(crate) fn then(self, text: impl AsRef<str>) -> Self {
        self.styled(Style::Plain, text)
    }

    pub(crate) fn styled(mut self, style: Style, text: impl AsRef<str>) -> Self {
        let harmless = text.as_ref().chars().map(|c| if c.is_control() { '?' } else { c }).collect();
        self.pieces.push((style, harmless));
        self
    }

    /// What is left out, with all after it, where it does not fit: half a number would be another number.
    pub(crate) fn if_it_fits(mut self, text: impl AsRef<str>) -> Self {
        self.can_cut = self.can_cut.or(Some(self.pieces.len()));
        self.then(text)
    }

    /// Spaces up to `column`, and at least two when the line is already there.
    pub(crate) fn pad_to(self, column: usize) -> Self {
        let missing = column.saturating_sub(self.width()).max(2);
        self.then(" ".repeat(missing))
    }

    pub(crate) fn width(&self) -> usize {
        self.pieces.iter().map(|(_, text)| text.chars().count()).sum()
    }

    pub(crate) fn plain(&self) -> String {
        self.pieces.iter().map(|(_, text)| text.as_str()).collect::<String>().trim_end().to_owned()
    }

    /// The line, at most `width` cells wide: a wrapped line would break the redraw.
    pub(crate) fn paint(&self, look: Look, width: usize) -> String {
        let mut left = width;
        let mut out = String::new();
        for (index, (style, text)) in self.pieces.iter().enumerate() {
            if text.chars().count() > left && self.can_cut.is_some_and(|from| index >= from) {
                break;
            }
            let text: String = text.chars().take(left).collect();
            left -= text.chars().count();
            let code = match style {
                _ if !look.colour => None,
                Style::Fail => Some("1;31"),
                Style::NoData => Some("7"),
                Style::Plain => None,
                Style::Warn => Some("33"),
            };
            match code {
                Some(code) if !text.is_empty() => out.push_str(&format!("\x1b[{code}m{text}\x1b[0m")),
                _ => out.push_str(&text),
            }
        }
        out.trim_end().to_owned()
    }
}

/// What a judgement looks like: its glyph, the word beside it, and whether it stands out.
pub(crate) fn face(judgement: &Judgement, look: Look) -> (&'static str, &'static str, Style) {
    let pick = |glyph, ascii| if look.ascii { ascii } else { glyph };
    match judgement.verdict {
        Verdict::Fail => (pick("✗", "x"), "FAIL", Style::Fail),
        Verdict::Inconclusive(Lack::NoData) => ("?", "no data", Style::NoData),
        Verdict::Inconclusive(Lack::NotProven) | Verdict::Pass if judgement.over_target => ("!", "warn", Style::Warn),
        Verdict::Inconclusive(Lack::NotProven) => ("~", "not proven", Style::Plain),
        Verdict::Pass => (pick("✓", "+"), "pass", Style::Plain),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_outside_cannot_steer_the_terminal() {
        let line = Line::of("GET /\x1b[2J\r\n500");
        assert_eq!(line.plain(), "GET /?[2J??500");
    }

    #[test]
    fn a_painted_line_is_cut_to_the_width() {
        let line = Line::of("ab").styled(Style::Fail, "cdef").then("gh");
        let look = Look { colour: true, ascii: false };
        assert_eq!(line.paint(look, 4), "ab\x1b[1;31mcd\x1b[0m");
        assert_eq!(line.paint(Look { colour: false, ..look }, 80), "abcdefgh");
        let line = Line::of("7 of 120").if_it_fits("; proves over 3.2%").if_it_fits("; more");
        for (width, shown) in [(3, "7 o"), (25, "7 of 120"), (26, "7 of 120; proves over 3.2%"), (80, &line.plain())] {
            assert_eq!(line.paint(look, width), shown);
        }
    }
}
