//! One request, and what must hold of its answer. Read by hand, so that every flaw is told at once.
//!
//! ```yaml
//! path: /checkout            # required
//! method: POST               # GET
//! headers: { accept: application/json }
//! body: '{"dry": true}'
//! expect: ["status in 200 204", "$.actions len == 12"]   # status 200 to 299
//! refusal: ["status == 503", "$.error == FEATURE_DISABLED"]   # an answer of class `refused`: all of these hold
//! ```

use std::collections::BTreeMap;

use bellwether_protocol::sample::class;
use bytes::Bytes;
use hyper::header::LOCATION;
use hyper::{HeaderMap, Method, Uri};
use serde_json::{Map, Value};

use super::answer::{Answer, texts};
use super::condition::{Condition, ConditionError};
use super::exchange::Failure;
use super::flaws::{Flaws, escaped};
use super::target::{Origin, headers};

/// One request, and what must hold of its answer.
#[derive(Debug, Clone, Default)]
pub struct Question {
    /// How it is asked.
    pub method: Method,
    /// What is asked for, below the target's own path.
    pub path: String,
    /// Headers of its own.
    pub headers: HeaderMap,
    /// What is sent along.
    pub body: Bytes,
    /// What must hold. Without a condition on the status: 200 to 299.
    pub expect: Vec<Condition>,
    /// What together makes an answer a refusal.
    pub refusal: Vec<Condition>,
}

const METHODS: [Method; 7] =
    [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS];
/// Most conditions of one question.
const CONDITIONS_MAX: usize = 50;
/// Longest body of a request, in bytes.
const REQUEST_LEN_MAX: usize = 64 * 1024;
/// How much of a body is kept as evidence, in characters.
const EXCERPT_LEN_MAX: usize = 200;

impl Question {
    /// The keys that it is read from.
    pub const KEYS: [&str; 6] = ["path", "method", "headers", "body", "expect", "refusal"];

    /// Reads it, and takes note of all that is wrong.
    pub fn read(flaws: &mut Flaws, fields: &Map<String, Value>) -> Self {
        let question = Self {
            method: flaws.method(fields.get("method")),
            path: flaws.path(fields.get("path")),
            headers: flaws.headers(fields.get("headers")),
            body: flaws.body(fields.get("body")),
            expect: flaws.conditions("expect", fields.get("expect")),
            refusal: flaws.conditions("refusal", fields.get("refusal")),
        };
        if question.method == Method::GET && !question.body.is_empty() {
            flaws.add("/body", "a GET carries no body", "write `method: POST`");
        }
        question
    }

    /// Whether it needs the body as JSON.
    pub fn needs_json(&self) -> bool {
        self.expect.iter().chain(&self.refusal).any(Condition::needs_json)
    }

    /// Whether an answer is as it must be.
    ///
    /// # Errors
    /// What it is instead.
    pub fn verdict(&self, origin: &Origin, answer: &Answer) -> Result<(), Failure> {
        let excerpt = |why: &str| format!("{why}; {} {}", answer.status, answer.quote(&answer.text, EXCERPT_LEN_MAX));
        // What the plan calls a refusal is one, whatever else it may be.
        if !self.refusal.is_empty() && self.refusal.iter().all(|condition| condition.check(answer).is_ok()) {
            return Err(Failure::new(class::REFUSED, excerpt("refused")));
        }
        let elsewhere = elsewhere(origin, answer);
        let on_status: Vec<&Condition> = self.expect.iter().filter(|condition| condition.is_on_status()).collect();
        let unmet = if on_status.is_empty() && !(200..300).contains(&answer.status) {
            Some("status in 200 to 299: not so".to_owned())
        } else {
            on_status.iter().find_map(|condition| condition.check(answer).err())
        };
        match (unmet, answer.status) {
            (Some(_), 300..=399) => {
                let to = elsewhere.map_or_else(|| "the same host".to_owned(), |host| format!("`{host}`, not followed"));
                return Err(Failure::new(class::REDIRECT, format!("{} redirects to {to}", answer.status)));
            }
            (Some(why), 400..=499) => return Err(Failure::new(class::HTTP_4XX, excerpt(&why))),
            (Some(why), 500..=599) => return Err(Failure::new(class::HTTP_5XX, excerpt(&why))),
            (Some(why), _) => return Err(Failure::new(class::UNEXPECTED, excerpt(&why))),
            (None, _) => {}
        }
        // An expected redirect may lead away only when a condition says where to.
        if let (Some(host), false) = (elsewhere, self.expect.iter().any(Condition::is_on_location)) {
            return Err(Failure::new(
                class::REDIRECT,
                format!("{} redirects to `{host}`, not followed", answer.status),
            ));
        }
        let others = self.expect.iter().filter(|condition| !condition.is_on_status());
        match others.map(|condition| condition.check(answer)).find_map(Result::err) {
            Some(why) => Err(Failure::new(class::UNEXPECTED, excerpt(&why))),
            None => Ok(()),
        }
    }
}

impl Flaws {
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
                    let error: ConditionError = error;
                    self.add(pointer, error.to_string(), error.help);
                }
                None => {}
            }
        }
        conditions
    }
}

/// The other host that a redirect leads to, if it does. Only its name: the rest may hold secrets.
fn elsewhere(origin: &Origin, answer: &Answer) -> Option<String> {
    if !(300..400).contains(&answer.status) {
        return None;
    }
    let locations = texts(&answer.headers, &LOCATION);
    let location = locations.first()?;
    match location.parse::<Uri>().ok().as_ref().map(Uri::host) {
        Some(Some(host)) if host.trim_matches(['[', ']']).eq_ignore_ascii_case(&origin.host) => None,
        Some(Some(host)) => Some(host.to_owned()),
        // `//host/path` is a reference to another host that begins like a path.
        Some(None) if !location.starts_with("//") => None,
        Some(None) | None => Some("an address that is not a URL".to_owned()),
    }
}
