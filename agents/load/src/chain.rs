//! What one arrival does: one request, or several in order, with values that are carried from one
//! answer into the next request.

use std::collections::BTreeMap;
use std::sync::Arc;

use bellwether_protocol::id::Release;
use bellwether_protocol::plan::Flaw;
use bellwether_protocol::sample::{EVIDENCE_LEN_MAX, class};
use bellwether_runtime::web::{
    Answer, Dialer, Failure, Flaws, JsonPath, Question, Target, escaped, redact, secrets, texts, without_query_values,
};
use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use hyper::header::{CONNECTION, HeaderName};
use serde_json::{Map, Value};
use tokio::time::{Instant, timeout_at};

use crate::connection::{Connection, Received};
use crate::desk;

/// Requests in order, to one target.
#[derive(Clone)]
pub(crate) struct Chain {
    pub(crate) target: Target,
    pub(crate) dialer: Arc<Dialer>,
    pub(crate) steps: Vec<Step>,
}

/// One request, and what is carried on from its answer.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    question: Question,
    capture: BTreeMap<String, Place>,
}

/// Where a value is.
#[derive(Debug, Clone)]
enum Place {
    Header(HeaderName),
    Json(JsonPath),
}

/// Most requests of one chain.
const STEPS_MAX: usize = 50;
/// Most values that one answer gives.
const CAPTURES_MAX: usize = 20;
/// Longest value that is carried on, in bytes.
const VALUE_LEN_MAX: usize = 8 * 1024;

impl Step {
    /// A request without captures.
    pub(crate) fn new(question: Question) -> Self {
        Self { question, capture: BTreeMap::new() }
    }

    /// Reads a list of them.
    pub(crate) fn read_all(value: &Value) -> Result<Vec<Self>, Vec<Flaw>> {
        let Some(items) = value.as_array().filter(|items| (1..=STEPS_MAX).contains(&items.len())) else {
            let message = format!("this must be a list of 1 to {STEPS_MAX} requests");
            return Err(vec![flaw("", &message, "write `- path: /login`, one request per entry")]);
        };
        let (mut steps, mut flaws) = (Vec::new(), Vec::new());
        for (place, item) in items.iter().enumerate() {
            match Self::read(item) {
                Ok(step) => steps.push(step),
                Err(own) => {
                    flaws.extend(own.into_iter().map(|f| Flaw { pointer: format!("/{place}{}", f.pointer), ..f }));
                }
            }
        }
        if flaws.is_empty() { Ok(steps) } else { Err(flaws) }
    }

    fn read(item: &Value) -> Result<Self, Vec<Flaw>> {
        let mut flaws = Flaws::default();
        let nothing = Map::new();
        let fields = flaws.object(item, "").unwrap_or(&nothing);
        let known: Vec<&str> = Question::KEYS.into_iter().chain(["capture"]).collect();
        flaws.only(fields, "", &known);
        let question = Question::read(&mut flaws, fields);
        let empty = Map::new();
        let captures = fields.get("capture").map_or(Some(&empty), |value| flaws.object(value, "/capture"));
        let mut capture = BTreeMap::new();
        for (name, place) in captures.unwrap_or(&empty) {
            let pointer = format!("/capture/{}", escaped(name));
            let is_name = !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
            match Place::read(place).filter(|_| is_name && capture.len() < CAPTURES_MAX) {
                Some(place) => _ = capture.insert(name.clone(), place),
                None => flaws.add(
                    pointer,
                    format!("`{name}` is no capture"),
                    format!("write `token: {{ json: $.token }}` or `{{ header: x-token }}`, at most {CAPTURES_MAX}"),
                ),
            }
        }
        flaws.none_in(Self { question, capture })
    }

    fn needs_body(&self) -> bool {
        !self.question.expect.is_empty() || !self.question.refusal.is_empty() || !self.capture.is_empty()
    }

    /// The request, with what was carried on put in place.
    fn request(&self, target: &Target, carried: &Carried) -> Result<Request<Full<Bytes>>, Failure> {
        let Question { method, path, headers, body, .. } = &self.question;
        let path = target.path(&carried.fill(path, percent_encoded));
        let wrong = |what: &str| Failure::new(class::UNEXPECTED, format!("a carried value does not fit {what}"));
        if path.parse::<hyper::Uri>().is_err() {
            return Err(wrong("into the path"));
        }
        let body = match std::str::from_utf8(body) {
            Ok(text) if !carried.0.is_empty() => Bytes::from(carried.fill(text, str::to_owned)),
            _ => body.clone(),
        };
        let mut request = target.request(method.clone(), &path, headers, body);
        // Here a connection is kept for the next request.
        request.headers_mut().remove(CONNECTION);
        if !carried.0.is_empty() {
            for value in request.headers_mut().values_mut() {
                if let Ok(text) = value.to_str()
                    && text.contains('{')
                {
                    *value = carried.fill(text, str::to_owned).parse().map_err(|_| wrong("into a header"))?;
                }
            }
        }
        Ok(request)
    }
}

impl Place {
    fn read(value: &Value) -> Option<Self> {
        let fields = value.as_object().filter(|fields| fields.len() == 1)?;
        let text = |key: &str| fields.get(key).and_then(Value::as_str);
        match (text("header"), text("json")) {
            (Some(name), None) => name.parse().ok().map(Self::Header),
            (None, Some(path)) => JsonPath::parse(path).ok().map(Self::Json),
            _ => None,
        }
    }

    fn value(&self, answer: &Answer) -> Option<String> {
        let value = match self {
            Self::Header(name) => texts(&answer.headers, name).first().map(|text| (*text).to_owned()),
            Self::Json(path) => match path.one(answer.json.as_ref()?)? {
                Value::String(text) => Some(text.clone()),
                value @ (Value::Number(_) | Value::Bool(_)) => Some(value.to_string()),
                _ => None,
            },
        };
        value.filter(|value| value.len() <= VALUE_LEN_MAX)
    }
}

/// What was carried on so far, by name.
#[derive(Debug, Default)]
struct Carried(BTreeMap<String, String>);

impl Carried {
    /// The text with `{name}` replaced where that name was carried on; other braces stay.
    fn fill(&self, text: &str, encoded: impl Fn(&str) -> String) -> String {
        let (mut filled, mut rest) = (String::with_capacity(text.len()), text);
        // One pass, so that what a target answers is never itself looked through for names.
        while let Some((before, after)) = rest.split_once('{') {
            filled.push_str(before);
            let found = after.split_once('}').and_then(|(name, after)| Some((self.0.get(name)?, after)));
            match found {
                Some((value, after)) => {
                    filled.push_str(&encoded(value));
                    rest = after;
                }
                None => {
                    filled.push('{');
                    rest = after;
                }
            }
        }
        filled.push_str(rest);
        filled
    }
}

fn percent_encoded(value: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    value.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

impl Chain {
    /// Goes through all of it on one connection, until something is not as expected, or `deadline`.
    pub(crate) async fn run(&self, connection: &mut Connection, deadline: Instant) -> desk::Answer {
        let mut carried = Carried::default();
        let mut releases: Vec<Option<Release>> = Vec::new();
        let mut failed = None;
        for step in &self.steps {
            let (release, done) = self.step(step, connection, &mut carried, deadline).await;
            releases.push(release);
            if let Err(failure) = done {
                failed = Some(failure);
                break;
            }
        }
        // A chain that two releases answered is neither's.
        releases.dedup();
        let release = if let [one] = releases.as_mut_slice() { one.take() } else { None };
        match failed {
            None => desk::Answer { class: class::OK, release, evidence: None },
            Some(Failure { class, text }) => desk::Answer { class, release, evidence: Some(text) },
        }
    }

    async fn step(
        &self,
        step: &Step,
        connection: &mut Connection,
        carried: &mut Carried,
        deadline: Instant,
    ) -> (Option<Release>, Result<(), Failure>) {
        let request = match step.request(&self.target, carried) {
            Ok(request) => request,
            Err(failure) => return (None, Err(failure)),
        };
        let own: Vec<String> = secrets(request.headers()).into_iter().chain(carried.0.values().cloned()).collect();
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        let asked = format!("{} {}", step.question.method, redact(&without_query_values(path), &own, EVIDENCE_LEN_MAX));
        let mark = self.target.fingerprint.as_ref();
        let keeps = step.needs_body() || mark.is_some_and(|mark| mark.needs_json());
        let exchange = connection.ask(&self.dialer, &self.target.origin, request, deadline, keeps);
        let received = timeout_at(deadline, exchange)
            .await
            .unwrap_or_else(|_| (None, Err(Failure::new(class::TIMEOUT, "no whole answer in time"))));
        let (release, done) = self.judge(step, received, own, carried);
        if done.is_err() {
            // Whatever is still on its way belongs to nobody.
            connection.drop_unless_well(&done);
        }
        let told = |Failure { class, text }: Failure| {
            let text: String = format!("{asked}: {text}").chars().take(EVIDENCE_LEN_MAX).collect();
            Failure { class, text }
        };
        (release, done.map_err(told))
    }

    fn judge(
        &self,
        step: &Step,
        received: Received,
        own: Vec<String>,
        carried: &mut Carried,
    ) -> (Option<Release>, Result<(), Failure>) {
        let mark = self.target.fingerprint.as_ref();
        let ((status, headers), body) = match received {
            (Some(head), Ok(body)) => (head, body),
            (head, body) => {
                let release = head.and_then(|(_, headers)| mark?.read(&headers, None));
                return (release, Err(body.err().unwrap_or_else(|| Failure::new(class::RESET, "no answer"))));
            }
        };
        let needs_json = step.question.needs_json()
            || step.capture.values().any(|place| matches!(place, Place::Json(_)))
            || mark.is_some_and(|mark| mark.needs_json());
        let json = if needs_json { serde_json::from_slice(&body).ok() } else { None };
        let text = String::from_utf8_lossy(&body).into_owned();
        let answer = Answer { status, headers, text, json, secrets: own };
        let release = mark.and_then(|mark| mark.read(&answer.headers, answer.json.as_ref()));
        let mut done = step.question.verdict(&self.target.origin, &answer);
        for (name, place) in step.capture.iter().filter(|_| done.is_ok()) {
            match place.value(&answer) {
                Some(value) => _ = carried.0.insert(name.clone(), value),
                None => {
                    done = Err(Failure::new(class::UNEXPECTED, format!("there is no `{name}` to carry on")));
                    break;
                }
            }
        }
        (release, done)
    }
}

fn flaw(pointer: &str, message: &str, help: &str) -> Flaw {
    Flaw { pointer: pointer.to_owned(), message: message.to_owned(), help: help.to_owned() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn carried_values_are_put_in_place_once() {
        let carried =
            Carried([("id".to_owned(), "a/b {token}".to_owned()), ("token".to_owned(), "t".to_owned())].into());
        assert_eq!(carried.fill("/items/{id}?x={y}", percent_encoded), "/items/a%2Fb%20%7Btoken%7D?x={y}");
        assert_eq!(carried.fill(r#"{"id": "{id}"}"#, str::to_owned), r#"{"id": "a/b {token}"}"#);
        assert_eq!(carried.fill("Bearer {token}{", str::to_owned), "Bearer t{");
    }

    #[test]
    fn every_flaw_of_a_chain_is_told_with_its_place() {
        let check = |chain: Value, expected: &[&str]| {
            let flaws = Step::read_all(&chain).err().unwrap_or_default();
            let found: Vec<String> = flaws.iter().map(|f| format!("{} {}", f.pointer, f.message)).collect();
            assert_eq!(found, expected, "{chain}");
        };
        check(json!([{"path": "/login", "capture": {"token": {"json": "$.t"}, "id": {"header": "x-id"}}}]), &[]);
        check(json!([]), &[" this must be a list of 1 to 50 requests"]);
        check(
            json!([{"path": "/"}, {"path": "x", "expect": ["status"], "capture": {"A": {"json": "$.t"}, "b": {"json": "t"}}}, 5]),
            &[
                "/1/path `x` is not a path",
                "/1/expect/0 column 7: nothing is asked of it",
                "/1/capture/A `A` is no capture",
                "/1/capture/b `b` is no capture",
                "/2 this must be a mapping",
                "/2 `path` is missing",
            ],
        );
    }
}
