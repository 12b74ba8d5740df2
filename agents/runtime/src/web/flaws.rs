//! What is wrong in the settings of a look, all of it at once, each with its place.

use std::collections::BTreeMap;

use bellwether_protocol::id::{IdError, NumberName};
use bellwether_protocol::plan::Flaw;
use hyper::Uri;
use serde_json::{Map, Value};

use super::json_path::JsonPath;
use super::number::{Number, PART_MAX, Source, Take};

/// Most numbers of one look.
const NUMBERS_MAX: usize = 20;

/// The flaws so far. Each reader gives a harmless value in place of a flawed one, and goes on.
#[derive(Debug, Default)]
pub struct Flaws(Vec<Flaw>);

impl Flaws {
    /// What was read, when nothing is wrong.
    ///
    /// # Errors
    /// All that is wrong.
    pub fn none_in<T>(self, read: T) -> Result<T, Vec<Flaw>> {
        if self.0.is_empty() { Ok(read) } else { Err(self.0) }
    }

    /// Takes note of a flaw.
    pub fn add(&mut self, pointer: impl Into<String>, message: impl Into<String>, help: impl Into<String>) {
        self.0.push(Flaw { pointer: pointer.into(), message: message.into(), help: help.into() });
    }

    /// The fields of a mapping.
    pub fn object<'a>(&mut self, value: &'a Value, pointer: &str) -> Option<&'a Map<String, Value>> {
        let fields = value.as_object();
        if fields.is_none() {
            self.add(pointer, "this must be a mapping", "write `key: value` pairs");
        }
        fields
    }

    /// Every other key is a flaw.
    pub fn only(&mut self, fields: &Map<String, Value>, pointer: &str, known: &[&str]) {
        for key in fields.keys().filter(|key| !known.contains(&key.as_str())) {
            let help = format!("use {}", known.join(", "));
            self.add(format!("{pointer}/{}", escaped(key)), format!("unknown key `{key}`"), help);
        }
    }

    /// The text that this must be.
    pub fn text<'a>(&mut self, value: &'a Value, pointer: &str) -> Option<&'a str> {
        let text = value.as_str();
        if text.is_none() {
            self.add(pointer, "this must be text", "put it in quotes");
        }
        text
    }

    /// A path with its query, which must be there.
    pub fn path(&mut self, value: Option<&Value>) -> String {
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

    /// What is to be read out of an answer, by name.
    pub fn numbers(&mut self, value: Option<&Value>) -> BTreeMap<NumberName, Number> {
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
                    let error: IdError = error;
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
pub fn escaped(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}
