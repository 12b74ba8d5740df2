//! A plan's settings for [`Http`], read by hand so that every flaw is told at once, each with its place.
//!
//! ```yaml
//! path: /checkout            # required
//! method: POST               # GET
//! headers: { accept: application/json }
//! body: '{"dry": true}'
//! expect: ["status in 200 204", "$.actions len == 12"]   # status 200 to 299
//! refusal: ["status == 503", "$.error == FEATURE_DISABLED"]   # an answer of class `refused`: all of these hold
//! numbers:
//!   memory_used: { json: $.checks.memory, part: 1 }      # "226MB of 239MB": 226,000,000
//!   memory_share: { json: $.checks.memory, part: 1, of: 2 }   # in percent
//!   keys: { json: $.keys, len: true }
//!   age: { header: age }
//! ```

use std::collections::BTreeMap;

use bellwether_protocol::id::NumberName;
use bellwether_protocol::plan::Flaw;
use bytes::Bytes;
use hyper::{HeaderMap, Method, Uri};
use serde_json::{Map, Value};

use super::Http;
use crate::condition::Condition;
use crate::json_path::JsonPath;
use crate::number::{Number, PART_MAX, Source, Take};
use crate::target::headers;

const METHODS: [Method; 7] =
    [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS];
/// Most conditions of one probe.
const CONDITIONS_MAX: usize = 50;
/// Most numbers of one probe.
const NUMBERS_MAX: usize = 20;
/// Longest body of a request, in bytes.
const REQUEST_LEN_MAX: usize = 64 * 1024;

/// Everything that is wrong with these settings.
pub(crate) fn flaws(settings: &Value) -> Vec<Flaw> {
    Http::read(settings).err().unwrap_or_default()
}

impl Http {
    /// Reads settings.
    ///
    /// # Errors
    /// All that is wrong with them.
    pub(crate) fn read(settings: &Value) -> Result<Self, Vec<Flaw>> {
        let mut found = Found(Vec::new());
        let nothing = Map::new();
        let fields = found.object(settings, "").unwrap_or(&nothing);
        found.only(fields, "", &["path", "method", "headers", "body", "expect", "refusal", "numbers"]);
        let http = Self {
            method: found.method(fields.get("method")),
            path: found.path(fields.get("path")),
            headers: found.headers(fields.get("headers")),
            body: found.body(fields.get("body")),
            expect: found.conditions("expect", fields.get("expect")),
            refusal: found.conditions("refusal", fields.get("refusal")),
            numbers: found.numbers(fields.get("numbers")),
        };
        if http.method == Method::GET && !http.body.is_empty() {
            found.add("/body", "a GET carries no body", "write `method: POST`");
        }
        if found.0.is_empty() { Ok(http) } else { Err(found.0) }
    }
}

/// The flaws so far. Each reader gives a harmless value in place of a flawed one, and goes on.
struct Found(Vec<Flaw>);

impl Found {
    fn add(&mut self, pointer: impl Into<String>, message: impl Into<String>, help: impl Into<String>) {
        self.0.push(Flaw { pointer: pointer.into(), message: message.into(), help: help.into() });
    }

    fn object<'a>(&mut self, value: &'a Value, pointer: &str) -> Option<&'a Map<String, Value>> {
        let fields = value.as_object();
        if fields.is_none() {
            self.add(pointer, "this must be a mapping", "write `key: value` pairs");
        }
        fields
    }

    fn only(&mut self, fields: &Map<String, Value>, pointer: &str, known: &[&str]) {
        for key in fields.keys().filter(|key| !known.contains(&key.as_str())) {
            let help = format!("use {}", known.join(", "));
            self.add(format!("{pointer}/{}", escaped(key)), format!("unknown key `{key}`"), help);
        }
    }

    fn text<'a>(&mut self, value: &'a Value, pointer: &str) -> Option<&'a str> {
        let text = value.as_str();
        if text.is_none() {
            self.add(pointer, "this must be text", "put it in quotes");
        }
        text
    }

    fn path(&mut self, value: Option<&Value>) -> String {
        const HELP: &str = "write for example `path: /health`";
        let Some(value) = value else {
            self.add("", "`path` is missing", HELP);
            return String::new();
        };
        let Some(path) = self.text(value, "/path") else { return String::new() };
        let is_sound = path.starts_with('/') && !path.contains('#') && path.parse::<Uri>().is_ok();
        if !is_sound {
            self.add("/path", format!("`{path}` is not a path"), HELP);
        }
        path.to_owned()
    }

    fn method(&mut self, value: Option<&Value>) -> Method {
        let Some(text) = value.and_then(|value| self.text(value, "/method")) else { return Method::GET };
        METHODS.into_iter().find(|method| method.as_str() == text).unwrap_or_else(|| {
            self.add(
                "/method",
                format!("`{text}` is not a method"),
                "use GET, HEAD, POST, PUT, PATCH, DELETE or OPTIONS",
            );
            Method::GET
        })
    }

    fn headers(&mut self, value: Option<&Value>) -> HeaderMap {
        let Some(fields) = value.and_then(|value| self.object(value, "/headers")) else { return HeaderMap::new() };
        let mut texts = BTreeMap::new();
        for (name, value) in fields {
            let pointer = format!("/headers/{}", escaped(name));
            if let Some(text) = self.text(value, &pointer) {
                let one = BTreeMap::from([(name.clone(), text.to_owned())]);
                if let Err(message) = headers(&one) {
                    self.add(pointer, message, "use names and values as HTTP sends them");
                }
                texts.extend(one);
            }
        }
        headers(&texts).unwrap_or_default()
    }

    fn body(&mut self, value: Option<&Value>) -> Bytes {
        let text = value.and_then(|value| self.text(value, "/body")).unwrap_or_default();
        if text.len() > REQUEST_LEN_MAX {
            self.add("/body", "the body is over 64 KiB", "a probe is a small request");
        }
        Bytes::copy_from_slice(text.as_bytes())
    }

    fn conditions(&mut self, key: &str, value: Option<&Value>) -> Vec<Condition> {
        let lines = match value {
            None => return Vec::new(),
            Some(Value::Array(lines)) => lines.as_slice(),
            Some(_) => {
                self.add(
                    format!("/{key}"),
                    "this must be a list",
                    "write `- status in 200 204`, one condition per line",
                );
                return Vec::new();
            }
        };
        if lines.len() > CONDITIONS_MAX {
            self.add(format!("/{key}"), format!("over {CONDITIONS_MAX} conditions"), "split the SLI");
        }
        let mut conditions = Vec::new();
        for (place, line) in lines.iter().take(CONDITIONS_MAX).enumerate() {
            let pointer = format!("/{key}/{place}");
            match self.text(line, &pointer).map(str::parse) {
                Some(Ok(condition)) => conditions.push(condition),
                Some(Err(error)) => {
                    let error: crate::condition::ConditionError = error;
                    self.add(pointer, error.to_string(), error.help);
                }
                None => {}
            }
        }
        conditions
    }

    fn numbers(&mut self, value: Option<&Value>) -> BTreeMap<NumberName, Number> {
        let Some(fields) = value.and_then(|value| self.object(value, "/numbers")) else { return BTreeMap::new() };
        if fields.len() > NUMBERS_MAX {
            self.add("/numbers", format!("over {NUMBERS_MAX} numbers"), "split the SLI");
        }
        let mut numbers = BTreeMap::new();
        for (name, value) in fields.iter().take(NUMBERS_MAX) {
            let pointer = format!("/numbers/{}", escaped(name));
            let parsed: Option<NumberName> = match name.parse() {
                Ok(parsed) => Some(parsed),
                Err(error) => {
                    let error: bellwether_protocol::id::IdError = error;
                    self.add(&pointer, error.to_string(), "name it for example `memory_used`");
                    None
                }
            };
            if let (Some(number), Some(name)) = (self.number(value, &pointer), parsed) {
                numbers.insert(name, number);
            }
        }
        numbers
    }

    fn number(&mut self, value: &Value, pointer: &str) -> Option<Number> {
        let fields = self.object(value, pointer)?;
        self.only(fields, pointer, &["json", "header", "len", "part", "of"]);
        let source = match (fields.get("json"), fields.get("header")) {
            (Some(path), None) => {
                let pointer = format!("{pointer}/json");
                let path = JsonPath::parse(self.text(path, &pointer)?);
                path.map(Source::Json).map_err(|error| (pointer, error.to_string(), "write for example `$.uptime`"))
            }
            (None, Some(name)) => {
                let pointer = format!("{pointer}/header");
                let name = self.text(name, &pointer)?;
                let wrong = format!("`{name}` is not a header name");
                name.parse().map(Source::Header).map_err(|_| (pointer, wrong, "write for example `age`"))
            }
            _ => Err((pointer.to_owned(), "one place is needed".to_owned(), "write either `json` or `header`")),
        };
        let take = self.take(fields, pointer);
        match source {
            Ok(source) => Some(Number { source, take: take? }),
            Err((pointer, message, help)) => {
                self.add(pointer, message, help);
                None
            }
        }
    }

    fn take(&mut self, fields: &Map<String, Value>, pointer: &str) -> Option<Take> {
        let mut place = |key: &str| match fields.get(key) {
            None => Some(None),
            Some(value) => {
                let place = value.as_u64().and_then(|place| usize::try_from(place).ok());
                let place = place.filter(|place| (1..=PART_MAX).contains(place));
                if place.is_none() {
                    let help = "count the numbers in the text from 1: in `226MB of 239MB`, 226MB is 1";
                    self.add(format!("{pointer}/{key}"), format!("this must be 1 to {PART_MAX}"), help);
                }
                place.map(Some)
            }
        };
        let (part, of) = (place("part")?, place("of")?);
        match (fields.get("len"), part, of) {
            (None | Some(Value::Bool(false)), part, None) => Some(Take::Part(part.unwrap_or(1))),
            (None | Some(Value::Bool(false)), part, Some(of)) => Some(Take::Share(part.unwrap_or(1), of)),
            (Some(Value::Bool(true)), None, None) => Some(Take::Len),
            (Some(_), _, _) => {
                self.add(
                    format!("{pointer}/len"),
                    "this must be `true`, alone",
                    "write `len: true` without `part` or `of`",
                );
                None
            }
        }
    }
}

/// A key as one part of a JSON pointer, RFC 6901.
fn escaped(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(settings: Value, expected: &[(&str, &str)]) {
        let found = flaws(&settings);
        let found: Vec<(&str, &str)> = found.iter().map(|f| (f.pointer.as_str(), f.message.as_str())).collect();
        assert_eq!(found, expected, "in {settings}");
    }

    #[test]
    fn sound_settings_have_no_flaw() {
        check(json!({"path": "/"}), &[]);
        check(
            json!({
                "path": "/checkout?dry=1", "method": "POST", "headers": {"accept": "application/json"}, "body": "{}",
                "expect": ["status in 200 204", "$.actions len == 12"],
                "numbers": {
                    "memory_used": {"json": "$.checks.memory", "part": 1},
                    "memory_share": {"json": "$.checks.memory", "of": 2},
                    "keys": {"json": "$.keys", "len": true},
                    "age": {"header": "age"},
                },
            }),
            &[],
        );
    }

    #[test]
    fn every_flaw_is_told_with_its_place() {
        check(json!([]), &[("", "this must be a mapping"), ("", "`path` is missing")]);
        check(
            json!({"path": "health", "methd": "GET", "method": "FETCH", "body": 1, "headers": {"host": "a", "x/y": 1}}),
            &[
                ("/methd", "unknown key `methd`"),
                ("/method", "`FETCH` is not a method"),
                ("/path", "`health` is not a path"),
                ("/headers/host", "header `host` is the probe's own to set"),
                ("/headers/x~1y", "this must be text"),
                ("/body", "this must be text"),
            ],
        );
        check(
            json!({"path": "/", "expect": ["status == 200", "status is 200", 5]}),
            &[("/expect/1", "column 8: `is` is not a test"), ("/expect/2", "this must be text")],
        );
        check(
            json!({"path": "/", "numbers": {
                "a b": {"json": "$.a"}, "b": {"json": "$.b", "header": "c"}, "c": {"json": "$.c", "part": 0},
                "d": {"json": "$.d", "len": true, "part": 1}, "e": {"header": "ä"}, "f": 1,
            }}),
            &[
                ("/numbers/a b", "number `a b` is not valid: use 1 to 64 of A-Z a-z 0-9 _ -"),
                ("/numbers/b", "one place is needed"),
                ("/numbers/c/part", "this must be 1 to 20"),
                ("/numbers/d/len", "this must be `true`, alone"),
                ("/numbers/e/header", "`ä` is not a header name"),
                ("/numbers/f", "this must be a mapping"),
            ],
        );
        check(json!({"path": "/", "body": "x"}), &[("/body", "a GET carries no body")]);
    }
}
