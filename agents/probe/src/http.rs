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
    Answer, Dialer, Failure, Number, Question, Received, Target, ask, redact, secrets, without_query_values,
};
use tokio::time::Instant;

use crate::observation::{Observation, span};

pub(crate) use settings::flaws;

/// Longest body that is read, in bytes. It bounds the memory of one look.
pub(crate) const BODY_LEN_MAX: usize = 1024 * 1024;

/// One request, what must hold of its answer, and the numbers in it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Http {
    pub(crate) question: Question,
    pub(crate) numbers: BTreeMap<NumberName, Number>,
}

impl Http {
    /// Looks once, within the target's timeout.
    pub(crate) async fn look(&self, target: &Target, dialer: &Dialer) -> Observation {
        let start = Instant::now();
        let deadline = start + target.timeout.to_std();
        let Question { method, path, headers, body, .. } = &self.question;
        let path = target.path(path);
        let request = target.request(method.clone(), &path, headers, body.clone());
        let own = secrets(request.headers());
        let received = ask(dialer, &target.origin, request, deadline, BODY_LEN_MAX).await;
        let took = span(start.elapsed());
        let asked = format!("{method} {}", redact(&without_query_values(&path), &own, EVIDENCE_LEN_MAX));
        let mut seen = self.judge(target, received, &own);
        let is_timed = seen.is_answer() && seen.class != class::TOO_LARGE || seen.class == class::TIMEOUT;
        seen.latency = is_timed.then_some(took);
        seen.evidence = seen.evidence.map(|text| {
            let text = format!("{asked} after {took}: {}", redact(&text, &own, EVIDENCE_LEN_MAX));
            text.chars().take(EVIDENCE_LEN_MAX).collect()
        });
        seen
    }

    /// What came of it.
    pub(crate) fn judge(&self, target: &Target, received: Received, secrets: &[String]) -> Observation {
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
        let needs_json = self.question.needs_json()
            || self.numbers.values().any(Number::needs_json)
            || mark.is_some_and(|mark| mark.needs_json());
        let json = if needs_json { serde_json::from_slice(&body).ok() } else { None };
        let text = String::from_utf8_lossy(&body).into_owned();
        let answer = Answer { status, headers, text, json, secrets: secrets.to_vec() };
        let release = mark.and_then(|mark| mark.read(&answer.headers, answer.json.as_ref()));
        let (class, evidence) = match self.question.verdict(&target.origin, &answer) {
            Ok(()) => (class::OK, None),
            Err(failure) => (failure.class, Some(failure.text)),
        };
        let read = |(name, number): (&NumberName, &Number)| Some((name.clone(), number.read(&answer)?));
        Observation { numbers: self.numbers.iter().filter_map(read).collect(), ..observation(class, release, evidence) }
    }
}

fn observation(class: &'static str, release: Option<Release>, evidence: Option<String>) -> Observation {
    Observation { class, latency: None, release, numbers: BTreeMap::new(), evidence }
}
