//! The probe kind `http`: one request on a fresh connection, and what must hold of the answer.
//!
//! It never follows a redirect, never keeps a connection, and never keeps more than 1 MiB of a body.

mod settings;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use bellwether_protocol::id::{NumberName, Release};
use bellwether_protocol::sample::{EVIDENCE_LEN_MAX, class};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, LOCATION, USER_AGENT};
use hyper::{HeaderMap, Method, Request, Response, Uri};
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, timeout_at};

use crate::answer::{Answer, texts};
use crate::condition::Condition;
use crate::dial::{Dialer, Stream};
use crate::number::Number;
use crate::observation::{Failure, Observation, span};
use crate::redaction::{is_sensitive, redact, without_query_values};
use crate::target::{Origin, Target};

pub(crate) use settings::flaws;

/// Longest body that is read, in bytes. It bounds the memory of one look.
const BODY_LEN_MAX: usize = 1024 * 1024;
/// Longest head of an answer that is read, in bytes.
const HEAD_LEN_MAX: usize = 64 * 1024;
/// How much of a body is kept as evidence, in characters.
const EXCERPT_LEN_MAX: usize = 200;
const AGENT: &str = concat!("bellwether-probe/", env!("CARGO_PKG_VERSION"));

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

/// As much of an answer as came.
struct Received {
    head: Option<(u16, HeaderMap)>,
    body: Result<Vec<u8>, Failure>,
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
        let path = match format!("{}{}", target.base, self.path) {
            path if path.is_empty() => "/".to_owned(),
            path => path,
        };
        let request = self.request(target, &path);
        let own = secrets(request.headers());
        let received = match dialer.dial(&target.origin, deadline).await {
            Ok(stream) => exchange(stream, request, deadline).await,
            Err(failure) => Received { head: None, body: Err(failure) },
        };
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

    fn request(&self, target: &Target, path: &str) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(self.body.clone()));
        *request.method_mut() = self.method.clone();
        // Both halves were checked when they were read, so this parses.
        *request.uri_mut() = path.parse().unwrap_or_else(|_| Uri::from_static("/"));
        let headers = request.headers_mut();
        headers.insert(USER_AGENT, hyper::header::HeaderValue::from_static(AGENT));
        headers.extend(self.headers.clone());
        // The cohort's headers come last: a probe's own settings must not address another cohort.
        headers.extend(target.headers.clone());
        headers.insert(CONNECTION, hyper::header::HeaderValue::from_static("close"));
        if let Ok(host) = target.origin.authority().parse() {
            headers.insert(HOST, host);
        }
        request
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

/// Values that must never be repeated, even where the target echoes them.
fn secrets(headers: &HeaderMap) -> Vec<String> {
    let sensitive = headers.iter().filter(|(name, _)| is_sensitive(name.as_str()));
    sensitive
        .filter_map(|(_, value)| value.to_str().ok())
        .flat_map(|value| {
            // `Bearer x` is echoed as `x` too.
            let last = value.rsplit(' ').next().unwrap_or(value);
            [value.to_owned(), last.to_owned()]
        })
        .collect()
}

async fn exchange(stream: Box<dyn Stream>, request: Request<Full<Bytes>>, deadline: Instant) -> Received {
    let mut head = None;
    let work = async {
        let mut builder = http1::Builder::new();
        builder.max_buf_size(HEAD_LEN_MAX).max_header_size(HEAD_LEN_MAX);
        let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(|e| broken(&e))?;
        let talk = async {
            let response = sender.send_request(request).await.map_err(|e| broken(&e))?;
            head = Some((response.status().as_u16(), response.headers().clone()));
            body(response).await
        };
        // The connection is driven here rather than in a task of its own, so that it ends with the look.
        tokio::pin!(talk);
        tokio::select! {
            biased;
            done = &mut talk => done,
            _ = connection => talk.await,
        }
    };
    let body = timeout_at(deadline, work).await;
    let body = body.unwrap_or_else(|_| Err(Failure::new(class::TIMEOUT, "no whole answer in time")));
    Received { head, body }
}

async fn body(response: Response<hyper::body::Incoming>) -> Result<Vec<u8>, Failure> {
    let mut incoming = response.into_body();
    let mut body = Vec::new();
    while let Some(frame) = incoming.frame().await {
        let frame = frame.map_err(|e| broken(&e))?;
        if let Some(part) = frame.data_ref() {
            if body.len() + part.len() > BODY_LEN_MAX {
                return Err(Failure::new(class::TOO_LARGE, format!("the body is over {BODY_LEN_MAX} bytes")));
            }
            body.extend_from_slice(part);
        }
    }
    Ok(body)
}

fn broken(error: &hyper::Error) -> Failure {
    if error.is_parse() {
        Failure::new(class::UNEXPECTED, format!("the answer is no HTTP that can be read: {error}"))
    } else {
        Failure::new(class::RESET, format!("the connection broke: {error}"))
    }
}
