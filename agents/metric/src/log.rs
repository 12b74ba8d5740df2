//! The kind `log`: lines of a file, of a command's output, or on a NATS subject, counted by pattern.
//!
//! ```yaml
//! log:
//!   file: app                  # or `command: NAME`, or `subject: NAME`, of the agent's own configuration
//!   patterns: { db_error: connection refused, panicked: '(?i)\bpanic' }
//!   total: ' "(GET|POST) '     # which lines are events; default: all of them
//! ```
//!
//! A line is of the first class, in order of names, whose pattern it matches; else it is good, if it is an
//! event at all. The first matches of a slot are kept as evidence, redacted. A log that cannot be read is
//! missing; one in which nothing is written has nothing to count, which is no proof of health.

mod source;

use std::collections::BTreeMap;

use bellwether_protocol::id::Class;
use bellwether_protocol::plan::Flaw;
use bellwether_protocol::sample::{EVIDENCE_LEN_MAX, EVIDENCE_MAX, Portion, class};
use bellwether_protocol::time::Timestamp;
use bellwether_runtime::web::redact;
use regex::{Regex, RegexBuilder};
use serde::Deserialize;
use serde_json::Value;

use crate::Site;
use crate::found::{Found, Reading};
use source::Lines;

/// What a plan says.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    file: Option<String>,
    command: Option<String>,
    subject: Option<String>,
    patterns: BTreeMap<Class, String>,
    total: Option<String>,
}

/// Where lines come from, by its name in the agent's own configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Named {
    Command(String),
    File(String),
    Subject(String),
}

/// One log, and what is counted in it.
#[derive(Debug)]
pub(crate) struct Log {
    named: Named,
    lines: Lines,
    patterns: Patterns,
}

#[derive(Debug)]
struct Patterns {
    bad: Vec<(Class, Regex)>,
    total: Option<Regex>,
}

/// Most patterns of one log; each meets every line.
const PATTERNS_MAX: usize = 20;
/// Largest compiled pattern, in bytes.
const PATTERN_SIZE_MAX: usize = 256 * 1024;

pub(crate) fn flaws(settings: &Value) -> Vec<Flaw> {
    read(settings).err().unwrap_or_default()
}

fn read(settings: &Value) -> Result<(Named, Patterns), Vec<Flaw>> {
    let settings: Settings = crate::settings(settings)?;
    let mut flaws = Vec::new();
    let mut pattern = |pointer: String, text: &str| {
        let read = RegexBuilder::new(text).size_limit(PATTERN_SIZE_MAX).build();
        let message = format!("`{text}` is not a pattern, or too large a one");
        let help = "write a regular expression such as `connection refused`".to_owned();
        read.map_err(|_| flaws.push(Flaw { pointer, message, help })).ok()
    };
    let bad = settings.patterns.iter().filter_map(|(name, text)| {
        let pattern = pattern(format!("/patterns/{name}"), text)?;
        Some((name.clone(), pattern))
    });
    let bad: Vec<(Class, Regex)> = bad.collect();
    let total = settings.total.as_deref().and_then(|text| pattern("/total".to_owned(), text));
    let mut flaw = |pointer: &str, message: &str, help: &str| {
        flaws.push(Flaw { pointer: pointer.to_owned(), message: message.to_owned(), help: help.to_owned() });
    };
    if settings.patterns.is_empty()
        || settings.patterns.len() > PATTERNS_MAX
        || settings.patterns.keys().any(class::is_ok)
    {
        flaw(
            "/patterns",
            &format!("1 to {PATTERNS_MAX} patterns are needed, none of them `ok`"),
            "name each class of bad lines",
        );
    }
    let named = match (settings.file, settings.command, settings.subject) {
        (Some(name), None, None) => Some(Named::File(name)),
        (None, Some(name), None) => Some(Named::Command(name)),
        (None, None, Some(name)) => Some(Named::Subject(name)),
        _ => {
            flaw(
                "",
                "one log is needed",
                "write exactly one of `file`, `command` and `subject`, each a name in the agent's own configuration",
            );
            None
        }
    };
    named.filter(|_| flaws.is_empty()).map(|named| (named, Patterns { bad, total })).ok_or(flaws)
}

impl Log {
    /// Reads settings, and looks its log up in the agent's own configuration.
    pub(crate) fn read(settings: &Value, site: &Site) -> Result<Self, String> {
        let (named, patterns) = read(settings).map_err(|flaws| crate::told(&flaws))?;
        let lines = match &named {
            Named::File(name) => site.files.get(name).map(|path| Lines::file(path)),
            Named::Command(name) => site.commands.get(name).map(|argv| Lines::command(argv)),
            Named::Subject(name) => site.ear(name).map(Lines::subject),
        };
        let lines = lines.ok_or_else(|| format!("this agent's `metric` has no {}", named.place()))?;
        Ok(Self { named, lines, patterns })
    }

    /// Where all agents of a region see the same lines.
    pub(crate) fn shared(&self) -> Option<&str> {
        match &self.named {
            Named::Subject(name) => Some(name),
            Named::Command(_) | Named::File(_) => None,
        }
    }

    /// Counts the lines that came since the last reading.
    pub(crate) async fn look(&mut self, now: Timestamp) -> Reading {
        let mut found = Found::new(now, Portion::default());
        let patterns = &self.patterns;
        let taken = self.lines.take(|line| patterns.count(line, now, &mut found)).await;
        // What was read before a log went away still counts.
        if found.portion.n() == 0 {
            taken?;
        }
        Ok(vec![found])
    }
}

impl Named {
    fn place(&self) -> String {
        match self {
            Self::Command(name) => format!("`commands` named `{name}`"),
            Self::File(name) => format!("`files` named `{name}`"),
            Self::Subject(name) => format!("`subjects` named `{name}`"),
        }
    }
}

impl Patterns {
    fn count(&self, line: &str, now: Timestamp, into: &mut Found) {
        let class = match self.bad.iter().find(|(_, pattern)| pattern.is_match(line)) {
            Some((class, _)) => {
                if into.evidence.len() < EVIDENCE_MAX {
                    into.evidence.push((now, class.clone(), redact(line, &[], EVIDENCE_LEN_MAX)));
                }
                class.clone()
            }
            None if self.total.as_ref().is_none_or(|total| total.is_match(line)) => class::ok(),
            None => return,
        };
        let count = into.portion.classes.entry(class).or_default();
        *count = count.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn count(settings: Value, lines: &[&str]) -> (Vec<String>, Vec<String>) {
        let (_, patterns) = read(&settings).unwrap();
        let mut found = Found::new(Timestamp::default(), Portion::default());
        lines.iter().for_each(|line| patterns.count(line, Timestamp::default(), &mut found));
        let classes = found.portion.classes.iter().map(|(class, n)| format!("{class} {n}")).collect();
        (classes, found.evidence.into_iter().map(|(_, class, text)| format!("{class}: {text}")).collect())
    }

    #[test]
    fn lines_are_counted_by_their_first_pattern() {
        let patterns = json!({"db_error": "connection refused", "panicked": "(?i)panic"});
        let lines = [
            "GET / 200",
            "started",
            "db: connection refused for password=hunter2, panic",
            "PANIC at 1",
            "panic 2",
            "panic 3",
        ];
        let (classes, evidence) = count(json!({"file": "app", "patterns": patterns}), &lines);
        assert_eq!(classes, ["db_error 1", "ok 2", "panicked 3"]);
        let expected =
            ["db_error: db: connection refused for password=***, panic", "panicked: PANIC at 1", "panicked: panic 2"];
        assert_eq!(evidence, expected);
        let (classes, _) = count(json!({"file": "app", "patterns": patterns, "total": "^(GET|POST) "}), &lines);
        assert_eq!(classes, ["db_error 1", "ok 1", "panicked 3"], "what is bad counts, event or not");
    }

    #[test]
    fn settings_are_checked_with_their_place() {
        for (settings, expected) in [
            (json!({"file": "app", "patterns": {"a": "b"}}), &[][..]),
            (json!({"patterns": {"a": "("}, "total": "["}), &["/patterns/a", "/total", ""]),
            (json!({"file": "a", "command": "b", "patterns": {"a": "b"}}), &[""]),
            (json!({"file": "a", "patterns": {"ok": "b"}}), &["/patterns"]),
            (json!({"file": "a", "patterns": {}}), &["/patterns"]),
            (json!({"path": "/etc/passwd", "patterns": {"a": "b"}}), &[""]),
            (json!({"file": "a", "patterns": {"a": "(\\w{100}){100}"}}), &["/patterns/a"]),
        ] {
            let found = flaws(&settings);
            let found: Vec<&str> = found.iter().map(|flaw| flaw.pointer.as_str()).collect();
            assert_eq!(found, expected, "{settings}");
        }
    }
}
