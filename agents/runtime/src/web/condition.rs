//! What must hold of an answer, in one line that people write: `$.actions len == 12`.
//!
//! ```text
//! condition  = subject [any|all|none] [len] test
//! subject    = status | body | header NAME | $.json.path
//! test       = (== | !=) LITERAL | (< | <= | > | >=) NUMBER | contains LITERAL | in LITERAL ... | exists | absent
//! LITERAL    = 12 | true | null | word | 'text with spaces'
//! ```
//!
//! Absence never satisfies a condition: a path or header that is not there meets only `absent` and
//! `none`, and in a body that is not JSON no condition on a path holds, not even those.
//! Without `any`, `all` or `none` there must be exactly one value.
//! This module never does I/O; a condition is parsed once and evaluated as a pure function.

mod parse;

use std::cmp::Ordering;

use hyper::header::{HeaderName, LOCATION};
use serde_json::{Number, Value};

use super::answer::Answer;
use super::json_path::JsonPath;
use super::redaction::{CUT, is_sensitive};

pub use parse::ConditionError;

/// One parsed condition.
#[derive(Debug, Clone)]
pub struct Condition {
    text: String,
    subject: Subject,
    quantifier: Quantifier,
    len: bool,
    test: Test,
}

#[derive(Debug, Clone)]
enum Subject {
    Body,
    Header(HeaderName),
    Json(JsonPath),
    Status,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Quantifier {
    All,
    Any,
    None,
    One,
}

#[derive(Debug, Clone)]
enum Test {
    Absent,
    Compare(Comparison, Value),
    Contains(Value),
    Exists,
    In(Vec<Value>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Equal,
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
    NotEqual,
}

/// One value that a subject has.
#[derive(Debug, Clone, Copy)]
enum Seen<'a> {
    Count(u64),
    Json(&'a Value),
    Text(&'a str),
}

/// Longest quotation of one value in a failure, in characters.
const QUOTE_LEN_MAX: usize = 60;
/// Most values quoted in a failure.
const QUOTES_MAX: usize = 3;

impl Condition {
    /// Whether it speaks of the status: then the default of 200 to 299 does not apply.
    pub fn is_on_status(&self) -> bool {
        matches!(self.subject, Subject::Status)
    }

    /// Whether it speaks of where a redirect leads.
    pub fn is_on_location(&self) -> bool {
        matches!(&self.subject, Subject::Header(name) if *name == LOCATION)
    }

    /// Whether it needs the body as JSON.
    pub fn needs_json(&self) -> bool {
        matches!(self.subject, Subject::Json(_))
    }

    /// Whether it holds of an answer.
    ///
    /// # Errors
    /// What was found instead, when it does not.
    pub fn check(&self, answer: &Answer) -> Result<(), String> {
        let Some(found) = self.find(answer) else {
            return Err(format!("{}: the body is not JSON", self.text));
        };
        let held = match (&self.test, self.quantifier) {
            (Test::Absent, _) => found.is_empty(),
            (Test::Exists, Quantifier::None) => found.is_empty(),
            (Test::Exists, _) => !found.is_empty(),
            (_, Quantifier::All) => !found.is_empty() && found.iter().all(|seen| self.holds(*seen)),
            (_, Quantifier::Any) => found.iter().any(|seen| self.holds(*seen)),
            (_, Quantifier::None) => !found.iter().any(|seen| self.holds(*seen)),
            (_, Quantifier::One) => matches!(found.as_slice(), [one] if self.holds(*one)),
        };
        if held { Ok(()) } else { Err(format!("{}: {}", self.text, self.describe(&found, answer))) }
    }

    fn find<'a>(&self, answer: &'a Answer) -> Option<Vec<Seen<'a>>> {
        Some(match &self.subject {
            Subject::Body => vec![Seen::Text(&answer.text)],
            Subject::Header(name) => answer.header(name).into_iter().map(Seen::Text).collect(),
            Subject::Json(path) => path.all(answer.json.as_ref()?).into_iter().map(Seen::Json).collect(),
            Subject::Status => vec![Seen::Count(answer.status.into())],
        })
    }

    fn holds(&self, seen: Seen<'_>) -> bool {
        let measured = if self.len { seen.len().map(Seen::Count) } else { Some(seen) };
        let Some(seen) = measured else { return false };
        match &self.test {
            Test::Absent | Test::Exists => true,
            Test::Compare(Comparison::Equal, literal) => seen.equals(literal),
            Test::Compare(Comparison::NotEqual, literal) => !seen.equals(literal),
            Test::Compare(comparison, literal) => match (seen.number(), literal) {
                (Some(own), Value::Number(limit)) => order(&own, limit).is_some_and(|o| comparison.admits(o)),
                _ => false,
            },
            Test::Contains(literal) => seen.contains(literal),
            Test::In(literals) => literals.iter().any(|literal| seen.equals(literal)),
        }
    }

    fn describe(&self, found: &[Seen<'_>], answer: &Answer) -> String {
        if found.is_empty() {
            return "was missing".to_owned();
        }
        if matches!(self.subject, Subject::Body) && !self.len {
            return "not so".to_owned();
        }
        let is_secret = self.names_a_secret();
        let show = |seen: &Seen<'_>| match seen {
            Seen::Text(_) | Seen::Json(Value::String(_) | Value::Array(_) | Value::Object(_)) if is_secret => {
                CUT.to_owned()
            }
            Seen::Count(count) => count.to_string(),
            Seen::Json(value) => answer.quote(&value.to_string(), QUOTE_LEN_MAX),
            Seen::Text(text) => format!("'{}'", answer.quote(text, QUOTE_LEN_MAX)),
        };
        let quote = |seen: &Seen<'_>| match (self.len, seen.len()) {
            (false, _) => show(seen),
            (true, Some(len)) => len.to_string(),
            (true, None) => format!("{} (has no length)", show(seen)),
        };
        let mut quotes: Vec<String> = found.iter().take(QUOTES_MAX).map(quote).collect();
        if found.len() > QUOTES_MAX {
            quotes.push(format!("... ({} values)", found.len()));
        }
        let several = found.len() > 1 && self.quantifier == Quantifier::One;
        let hint = if several { " (write any, all or none)" } else { "" };
        format!("was {}{hint}", quotes.join(", "))
    }

    /// A value alone does not look like a secret; what it is called tells.
    fn names_a_secret(&self) -> bool {
        match &self.subject {
            Subject::Header(name) => is_sensitive(name.as_str()),
            Subject::Json(path) => is_sensitive(&path.to_string()),
            Subject::Body | Subject::Status => false,
        }
    }
}

impl Comparison {
    fn admits(self, order: Ordering) -> bool {
        match self {
            Self::Equal => order.is_eq(),
            Self::Greater => order.is_gt(),
            Self::GreaterOrEqual => order.is_ge(),
            Self::Less => order.is_lt(),
            Self::LessOrEqual => order.is_le(),
            Self::NotEqual => order.is_ne(),
        }
    }
}

impl Seen<'_> {
    fn len(self) -> Option<u64> {
        let len = match self {
            Seen::Json(Value::Array(items)) => items.len(),
            Seen::Json(Value::Object(fields)) => fields.len(),
            Seen::Json(Value::String(text)) => text.chars().count(),
            Seen::Text(text) => text.chars().count(),
            Seen::Count(_) | Seen::Json(Value::Bool(_) | Value::Null | Value::Number(_)) => return None,
        };
        u64::try_from(len).ok()
    }

    /// The number it is. Header and body are text by nature, so there text that reads as a number is one.
    fn number(self) -> Option<Number> {
        match self {
            Seen::Count(count) => Some(count.into()),
            Seen::Json(Value::Number(number)) => Some(number.clone()),
            Seen::Json(_) => None,
            Seen::Text(text) => serde_json::from_str(text.trim()).ok(),
        }
    }

    fn equals(self, literal: &Value) -> bool {
        match (self, literal) {
            (_, Value::Number(wanted)) => self.number().is_some_and(|own| order(&own, wanted) == Some(Ordering::Equal)),
            (Seen::Json(value), _) => value == literal,
            (Seen::Text(text), _) => text == plain(literal),
            (Seen::Count(_), _) => false,
        }
    }

    fn contains(self, literal: &Value) -> bool {
        match self {
            Seen::Json(Value::Array(items)) => items.iter().any(|item| Seen::Json(item).equals(literal)),
            Seen::Json(Value::String(text)) => text.contains(&plain(literal)),
            Seen::Text(text) => text.contains(&plain(literal)),
            Seen::Count(_) | Seen::Json(_) => false,
        }
    }
}

/// A literal as text, without quotes.
fn plain(literal: &Value) -> String {
    literal.as_str().map_or_else(|| literal.to_string(), str::to_owned)
}

/// Whole numbers are compared as such: as floats, large ids that differ would be equal.
fn order(a: &Number, b: &Number) -> Option<Ordering> {
    match (a.as_i128(), b.as_i128()) {
        (Some(a), Some(b)) => Some(a.cmp(&b)),
        _ => a.as_f64()?.partial_cmp(&b.as_f64()?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(body: &str) -> Answer {
        let mut headers = hyper::HeaderMap::new();
        for (name, value) in
            [("content-type", "application/json"), ("x-n", "7"), ("set-cookie", "a"), ("set-cookie", "b")]
        {
            headers.append(name, value.parse().unwrap());
        }
        Answer { status: 200, headers, text: body.to_owned(), json: serde_json::from_str(body).ok(), secrets: vec![] }
    }

    const BODY: &str = r#"{"status": "healthy", "n": 12, "big": 9007199254740993, "actions": [{"kind": "SIGNED"}, {"kind": "PLAIN"}],
        "tags": ["a", "b"], "none": null, "empty": []}"#;

    fn check(condition: &str, body: &str, expected: Result<(), &str>) {
        let parsed: Condition = condition.parse().unwrap();
        let expected = expected.map_err(|was| format!("{condition}: {was}"));
        assert_eq!(parsed.check(&answer(body)), expected);
    }

    #[test]
    fn conditions_that_hold() {
        for condition in [
            "status == 200",
            "status in 200 204",
            "status < 300",
            "body contains healthy",
            "body len > 10",
            "header content-type contains json",
            "header Content-Type == 'application/json'",
            "header x-n >= 7",
            "header x-n == 7",
            "header x-none absent",
            "header x-n exists",
            "header set-cookie any == b",
            "header set-cookie all len == 1",
            "$.status == healthy",
            "$.status != \"sick\"",
            "$.n == 12",
            "$.n == 12.0",
            "$.n > 11.5",
            "$.big == 9007199254740993",
            "$.actions len == 2",
            "$.actions[*].kind any == SIGNED",
            "$.actions[*].kind none == 'OTHER'",
            "$.actions[*].kind all contains N",
            "$.actions[?@.kind == 'SIGNED'] exists",
            "$.tags contains a",
            "$.none == null",
            "$.empty len == 0",
            "$.empty[*] none == x",
            "$.error absent",
            "$.error none exists",
        ] {
            check(condition, BODY, Ok(()));
        }
    }

    #[test]
    fn conditions_that_do_not_hold_say_what_was() {
        check("status == 201", BODY, Err("was 200"));
        check("body contains welcome", BODY, Err("not so"));
        check("header x-none contains a", BODY, Err("was missing"));
        check("header set-cookie == a", BODY, Err("was ***, *** (write any, all or none)"));
        check("$.actions len == 12", BODY, Err("was 2"));
        check("$.session.token == x", r#"{"session": {"token": "hunter2"}}"#, Err("was ***"));
        check("$.n len == 2", BODY, Err("was 12 (has no length)"));
        check("$.n == '12'", BODY, Err("was 12"));
        // A number that long may be somebody's account.
        check("$.big == 9007199254740992", BODY, Err("was ***"));
        check("$.status > 1", BODY, Err("was \"healthy\""));
        check("$.actions[*].kind none == SIGNED", BODY, Err("was \"SIGNED\", \"PLAIN\""));
        check("$.error exists", BODY, Err("was missing"));
    }

    #[test]
    fn absence_and_a_body_that_is_not_json_hold_nothing() {
        check("$.gone != x", BODY, Err("was missing"));
        check("$.gone[*] all == x", BODY, Err("was missing"));
        check("$.gone[*] any == x", BODY, Err("was missing"));
        for condition in ["$.gone none == x", "$.gone absent", "$ exists", "$.gone none exists"] {
            check(condition, "<html>", Err("the body is not JSON"));
        }
    }
}
