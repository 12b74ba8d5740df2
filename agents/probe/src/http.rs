//! The probe kind `http`: one request on a fresh connection, and what must hold of the answer.
//!
//! It never follows a redirect, never keeps a connection, and never keeps more than 1 MiB of a body.

mod settings;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use bellwether_protocol::id::{NumberName, Release};
use bellwether_protocol::sample::{EVIDENCE_LEN_MAX, class};
use bellwether_runtime::web::{
    Answer, Dialer, Failure, Number, Origin, Received, Target, ask, redact, secrets, texts, without_query_values,
};
use bytes::Bytes;
use hyper::header::LOCATION;
use hyper::{HeaderMap, Method, Uri};
use tokio::time::Instant;

use crate::condition::Condition;
use crate::observation::{Observation, span};

pub(crate) use settings::flaws;

/// Longest body that is read, in bytes. It bounds the memory of one look.
const BODY_LEN_MAX: usize = 1024 * 1024;
/// How much of a body is kept as evidence, in characters.
const EXCERPT_LEN_MAX: usize = 200;

/// One request, and what must hold of its answer.
#[derive(Debug, Clone)]
pub(crate) struct Http {
    method: Method,
    path: String,
    headers: HeaderMap,
    body: Bytes,
    expect: Vec<Condition>,
    refusal: Vec<Condition>,
    numbers: BTreeMap<NumberName, Number>,
}

impl Http {
    /// A plain GET of the target's own path, of which nothing is expected but an answer.
    pub(crate) fn plain() -> Self {
        Self {
            method: Method::GET,
            path: String::new(),
            headers: HeaderMap::new(),
            body: Bytes::new(),
            expect: Vec::new(),
            refusal: Vec::new(),
            numbers: BTreeMap::new(),
        }
    }

    /// Looks once, within the target's timeout.
    pub(crate) async fn look(&self, target: &Target, dialer: &Dialer) -> Observation {
        let start = Instant::now();
        let deadline = start + target.timeout.to_std();
        let path = target.path(&self.path);
        let request = target.request(self.method.clone(), &path, &self.headers, self.body.clone());
        let own = secrets(request.headers());
        let received = ask(dialer, &target.origin, request, deadline, BODY_LEN_MAX).await;
        let took = span(start.elapsed());
        let asked = format!("{} {}", self.method, redact(&without_query_values(&path), &own, EVIDENCE_LEN_MAX));
        let mut seen = self.judge(target, received, &own);
        let is_timed = seen.is_answer() && seen.class != class::TOO_LARGE || seen.class == class::TIMEOUT;
        seen.latency = is_timed.then_some(took);
        seen.evidence = seen.evidence.map(|text| {
            let text = format!("{asked} after {took}: {}", redact(&text, &own, EVIDENCE_LEN_MAX));
            text.chars().take(EVIDENCE_LEN_MAX).collect()
        });
        seen
    }

    fn judge(&self, target: &Target, received: Received, secrets: &[String]) -> Observation {
        let mark = target.fingerprint.as_ref();
        let (head, body) = match (received.head, received.body) {
            (Some(head), Ok(body)) => (head, body),
            (head, body) => {
                // A release that breaks off its answer has still named itself in the head.
                let release = head.and_then(|(_, headers)| mark?.read(&headers, None));
                let failure = body.err().unwrap_or_else(|| Failure::new(class::RESET, "no answer"));
                return observation(failure.class, release, Some(failure.text));
            }
        };
        let (status, headers) = head;
        let needs_json = self.expect.iter().chain(&self.refusal).any(Condition::needs_json)
            || self.numbers.values().any(Number::needs_json)
            || mark.is_some_and(|mark| mark.needs_json());
        let json = if needs_json { serde_json::from_slice(&body).ok() } else { None };
        let text = String::from_utf8_lossy(&body).into_owned();
        let answer = Answer { status, headers, text, json, secrets: secrets.to_vec() };
        let release = mark.and_then(|mark| mark.read(&answer.headers, answer.json.as_ref()));
        let (class, evidence) = match self.verdict(&target.origin, &answer) {
            Ok(()) => (class::OK, None),
            Err(failure) => (failure.class, Some(failure.text)),
        };
        let read = |(name, number): (&NumberName, &Number)| Some((name.clone(), number.read(&answer)?));
        Observation { numbers: self.numbers.iter().filter_map(read).collect(), ..observation(class, release, evidence) }
    }

    fn verdict(&self, origin: &Origin, answer: &Answer) -> Result<(), Failure> {
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

fn observation(class: &'static str, release: Option<Release>, evidence: Option<String>) -> Observation {
    Observation { class, latency: None, release, numbers: BTreeMap::new(), evidence }
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
