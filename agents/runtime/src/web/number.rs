//! A number out of an answer: a plain one, a length, or one inside text such as `226MB of 239MB`.
//!
//! Sizes come out in bytes, times in milliseconds, percentages as the number before the sign.
//! What cannot be read is not recorded at all; it is never a zero.

use std::sync::LazyLock;

use hyper::header::HeaderName;
use regex::Regex;
use serde_json::Value;

use super::answer::Answer;
use super::json_path::JsonPath;
use super::redaction::fixed;

/// How one number is read.
#[derive(Debug, Clone)]
pub struct Number {
    /// Where it is.
    pub source: Source,
    /// How it is taken from there.
    pub take: Take,
}

/// Where a number is.
#[derive(Debug, Clone)]
pub enum Source {
    /// In a header.
    Header(HeaderName),
    /// At a path in the body.
    Json(JsonPath),
}

/// How a number is taken from its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Take {
    /// The length of a list, an object or a text.
    Len,
    /// The number itself, or the first, second, ... number in a text, from 1.
    Part(usize),
    /// One number of a text as a percentage of another one.
    Share(usize, usize),
}

/// Longest text that is searched for numbers, in bytes.
const TEXT_LEN_MAX: usize = 1_000;
/// Largest place of a number in a text that a plan may name.
pub(super) const PART_MAX: usize = 20;

/// Units, by their lower-case names, and what one of them is in the base unit.
const UNITS: [(&str, f64); 13] = [
    ("%", 1.0),
    ("b", 1.0),
    ("gb", 1e9),
    ("gib", 1_073_741_824.0),
    ("kb", 1e3),
    ("kib", 1_024.0),
    ("mb", 1e6),
    ("mib", 1_048_576.0),
    ("ms", 1.0),
    ("s", 1e3),
    ("tb", 1e12),
    ("tib", 1_099_511_627_776.0),
    ("us", 1e-3),
];

impl Number {
    /// Whether it needs the body as JSON.
    pub fn needs_json(&self) -> bool {
        matches!(self.source, Source::Json(_))
    }

    /// The number, when it is there and finite.
    pub fn read(&self, answer: &Answer) -> Option<f64> {
        match &self.source {
            Source::Header(name) => match answer.header(name).as_slice() {
                [one] => self.take.in_text(one),
                _ => None,
            },
            Source::Json(path) => self.take.in_json(path.one(answer.json.as_ref()?)?),
        }
        .filter(|value| value.is_finite())
    }
}

impl Take {
    fn in_json(self, value: &Value) -> Option<f64> {
        match (self, value) {
            (Self::Len, Value::Array(items)) => count(items.len()),
            (Self::Len, Value::Object(fields)) => count(fields.len()),
            (Self::Part(1), Value::Number(number)) => number.as_f64(),
            (_, Value::String(text)) => self.in_text(text),
            _ => None,
        }
    }

    fn in_text(self, text: &str) -> Option<f64> {
        match self {
            Self::Len => count(text.chars().count()),
            Self::Part(place) => part(text, place),
            Self::Share(place, of) => Some(part(text, place)? * 100.0 / part(text, of)?),
        }
    }
}

fn count(len: usize) -> Option<f64> {
    u32::try_from(len).ok().map(f64::from)
}

/// The number at `place` of a text, with its unit. A number with a unit that nobody knows is no number.
fn part(text: &str, place: usize) -> Option<f64> {
    if text.len() > TEXT_LEN_MAX {
        return None;
    }
    let found = NUMBERS.captures_iter(text).nth(place.checked_sub(1)?)?;
    let value: f64 = found.get(1)?.as_str().replace(',', "").parse().ok()?;
    let attached = found.get(2).map_or("", |unit| unit.as_str());
    let spaced = found.get(3).map_or("", |unit| unit.as_str());
    match (factor(attached), factor(spaced)) {
        (Some(factor), _) => Some(value * factor),
        (None, _) if !attached.is_empty() => None,
        (None, factor) => Some(value * factor.unwrap_or(1.0)),
    }
}

fn factor(unit: &str) -> Option<f64> {
    let unit = unit.to_ascii_lowercase();
    UNITS.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor)
}

/// A number, then either letters that touch it, or a space and a word.
static NUMBERS: LazyLock<Regex> = LazyLock::new(|| {
    fixed(r"([-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?)(?:([A-Za-z%]+)|\s([A-Za-z%]+))?")
});

#[cfg(test)]
mod tests {
    use super::*;

    fn check(take: Take, value: Value, expected: Option<f64>) {
        let source = Source::Json(JsonPath::parse("$.v").unwrap());
        let json = serde_json::json!({ "v": value });
        let answer = Answer {
            status: 200,
            headers: hyper::HeaderMap::new(),
            text: String::new(),
            json: Some(json),
            secrets: vec![],
        };
        assert_eq!(Number { source, take }.read(&answer), expected, "{take:?} of {value}");
    }

    #[test]
    fn numbers_are_read_with_their_units() {
        check(Take::Part(1), 226.into(), Some(226.0));
        check(Take::Part(1), "226MB of 239MB".into(), Some(226e6));
        check(Take::Part(2), "226MB of 239MB".into(), Some(239e6));
        check(Take::Part(2), "226 of 239".into(), Some(239.0));
        check(Take::Part(1), "226 MiB used".into(), Some(226.0 * 1_048_576.0));
        check(Take::Part(1), "94.5%".into(), Some(94.5));
        check(Take::Part(1), "1.5s".into(), Some(1_500.0));
        check(Take::Part(1), "took 12ms".into(), Some(12.0));
        check(Take::Part(1), "1,234,567 requests".into(), Some(1_234_567.0));
        check(Take::Part(1), "-3".into(), Some(-3.0));
        check(Take::Share(1, 2), "50MB of 200MB".into(), Some(25.0));
        check(Take::Len, serde_json::json!([1, 2, 3]), Some(3.0));
        check(Take::Len, "four".into(), Some(4.0));
    }

    #[test]
    fn what_cannot_be_read_is_missing_and_never_zero() {
        check(Take::Part(3), "226MB of 239MB".into(), None);
        check(Take::Part(1), "unknown".into(), None);
        check(Take::Part(1), "5parsecs".into(), None);
        check(Take::Part(1), "1e999".into(), None);
        check(Take::Part(1), Value::Null, None);
        check(Take::Part(1), true.into(), None);
        check(Take::Part(2), 12.into(), None);
        check(Take::Share(1, 2), "0 of 0".into(), None);
        check(Take::Part(1), "9".repeat(2_000).into(), None);
        check(Take::Len, 12.into(), None);
    }
}
