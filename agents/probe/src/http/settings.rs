//! A plan's settings for [`Http`], read by hand so that every flaw is told at once, each with its place:
//! those of a [`Question`], and the numbers in its answer.
//!
//! ```yaml
//! numbers:
//!   memory_used: { json: $.checks.memory, part: 1 }      # "226MB of 239MB": 226,000,000
//!   memory_share: { json: $.checks.memory, part: 1, of: 2 }   # in percent
//!   keys: { json: $.keys, len: true }
//!   age: { header: age }
//! ```

use bellwether_protocol::plan::Flaw;
use bellwether_runtime::web::{Flaws, Question};
use serde_json::{Map, Value};

use super::Http;

pub(crate) fn flaws(settings: &Value) -> Vec<Flaw> {
    Http::read(settings).err().unwrap_or_default()
}

impl Http {
    /// Reads settings.
    ///
    /// # Errors
    /// All that is wrong with them.
    pub(crate) fn read(settings: &Value) -> Result<Self, Vec<Flaw>> {
        let mut flaws = Flaws::default();
        let nothing = Map::new();
        let fields = flaws.object(settings, "").unwrap_or(&nothing);
        let known: Vec<&str> = Question::KEYS.into_iter().chain(["numbers"]).collect();
        flaws.only(fields, "", &known);
        let question = Question::read(&mut flaws, fields);
        let numbers = flaws.numbers(fields.get("numbers"));
        flaws.none_in(Self { question, numbers })
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
