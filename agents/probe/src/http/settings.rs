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

use bellwether_protocol::plan::Flaw;
use bellwether_runtime::web::{Flaws, escaped, headers};
use bytes::Bytes;
use hyper::{HeaderMap, Method};
use serde_json::{Map, Value};

use super::Http;
use crate::condition::Condition;

const METHODS: [Method; 7] =
    [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS];
/// Most conditions of one probe.
const CONDITIONS_MAX: usize = 50;
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
        let mut found = Found(Flaws::default());
        let nothing = Map::new();
        let fields = found.0.object(settings, "").unwrap_or(&nothing);
        found.0.only(fields, "", &["path", "method", "headers", "body", "expect", "refusal", "numbers"]);
        let http = Self {
            method: found.method(fields.get("method")),
            path: found.0.path(fields.get("path")),
            headers: found.headers(fields.get("headers")),
            body: found.body(fields.get("body")),
            expect: found.conditions("expect", fields.get("expect")),
            refusal: found.conditions("refusal", fields.get("refusal")),
            numbers: found.0.numbers(fields.get("numbers")),
        };
        if http.method == Method::GET && !http.body.is_empty() {
            found.0.add("/body", "a GET carries no body", "write `method: POST`");
        }
        found.0.none_in(http)
    }
}

/// The flaws so far. Each reader gives a harmless value in place of a flawed one, and goes on.
struct Found(Flaws);

impl Found {
    fn method(&mut self, value: Option<&Value>) -> Method {
        let Some(text) = value.and_then(|value| self.0.text(value, "/method")) else { return Method::GET };
        METHODS.into_iter().find(|method| method.as_str() == text).unwrap_or_else(|| {
            self.0.add(
                "/method",
                format!("`{text}` is not a method"),
                "use GET, HEAD, POST, PUT, PATCH, DELETE or OPTIONS",
            );
            Method::GET
        })
    }

    fn headers(&mut self, value: Option<&Value>) -> HeaderMap {
        let Some(fields) = value.and_then(|value| self.0.object(value, "/headers")) else { return HeaderMap::new() };
        let mut texts = BTreeMap::new();
        for (name, value) in fields {
            let pointer = format!("/headers/{}", escaped(name));
            if let Some(text) = self.0.text(value, &pointer) {
                let one = BTreeMap::from([(name.clone(), text.to_owned())]);
                if let Err(message) = headers(&one) {
                    self.0.add(pointer, message, "use names and values as HTTP sends them");
                }
                texts.extend(one);
            }
        }
        headers(&texts).unwrap_or_default()
    }

    fn body(&mut self, value: Option<&Value>) -> Bytes {
        let text = value.and_then(|value| self.0.text(value, "/body")).unwrap_or_default();
        if text.len() > REQUEST_LEN_MAX {
            self.0.add("/body", "the body is over 64 KiB", "a probe is a small request");
        }
        Bytes::copy_from_slice(text.as_bytes())
    }

    fn conditions(&mut self, key: &str, value: Option<&Value>) -> Vec<Condition> {
        let lines = match value {
            None => return Vec::new(),
            Some(Value::Array(lines)) => lines.as_slice(),
            Some(_) => {
                self.0.add(
                    format!("/{key}"),
                    "this must be a list",
                    "write `- status in 200 204`, one condition per line",
                );
                return Vec::new();
            }
        };
        if lines.len() > CONDITIONS_MAX {
            self.0.add(format!("/{key}"), format!("over {CONDITIONS_MAX} conditions"), "split the SLI");
        }
        let mut conditions = Vec::new();
        for (place, line) in lines.iter().take(CONDITIONS_MAX).enumerate() {
            let pointer = format!("/{key}/{place}");
            match self.0.text(line, &pointer).map(str::parse) {
                Some(Ok(condition)) => conditions.push(condition),
                Some(Err(error)) => {
                    let error: crate::condition::ConditionError = error;
                    self.0.add(pointer, error.to_string(), error.help);
                }
                None => {}
            }
        }
        conditions
    }
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
