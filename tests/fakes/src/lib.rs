//! Strict stand-ins for services that cannot run in a test, each with the rules of the real one.
//!
//! A [`Fake`] is one HTTP server on a port of the system's choice. It writes down every request,
//! misbehaves as told ([`Fault`]), and otherwise answers as its [`Family`] does. A family refuses what
//! the real service refuses: an unknown field is an error here, because it would be a silent mistake there.

pub mod github;
pub mod launchdarkly;
pub mod pagerduty;
pub mod parts;
pub mod public;
pub mod render;
pub mod slack;
pub mod unleash;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Longest request body, in bytes.
const BODY_LEN_MAX: usize = 1024 * 1024;

/// One request, as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// `GET`, `POST` and so on.
    pub method: String,
    /// The path, without the query.
    pub path: String,
    /// The query, without `?`; empty when there is none.
    pub query: String,
    /// Names in lower case, with values, in the order they came.
    pub headers: Vec<(String, String)>,
    /// The body as text.
    pub body: String,
}

impl Seen {
    /// A header's value, whatever the case of its name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The body as JSON; `Null` when it is not.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }
}

/// What is answered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// Headers.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: String,
}

impl Reply {
    /// JSON.
    pub fn json(status: u16, body: &Value) -> Self {
        let headers = vec![("content-type".to_owned(), "application/json; charset=utf-8".to_owned())];
        Self { status, headers, body: body.to_string() }
    }

    /// The same with one header more.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Plain text.
    pub fn text(status: u16, body: &str) -> Self {
        Self { status, headers: Vec::new(), body: body.to_owned() }
    }
}

/// What one kind of service answers. Its state moves by requests alone, never by a clock.
pub trait Family: Send + 'static {
    /// Answers one request.
    fn answer(&mut self, request: &Seen) -> Reply;
}

impl<F: FnMut(&Seen) -> Reply + Send + 'static> Family for F {
    fn answer(&mut self, request: &Seen) -> Reply {
        self(request)
    }
}

/// Something that goes wrong, for as many requests as it says.
#[derive(Debug, Default, Clone)]
pub struct Fault {
    /// Only requests whose path begins so. Default: all.
    pub path: String,
    /// Only requests of this method. Default: all.
    pub method: Option<String>,
    /// The status to answer with instead; absent: the real answer, after the delay.
    pub status: Option<u16>,
    /// Headers of that answer, such as `Retry-After`.
    pub headers: Vec<(String, String)>,
    /// Body of that answer.
    pub body: String,
    /// How long the answer is held, in milliseconds.
    pub delay_ms: u64,
    /// Whether the request takes effect though its answer is the fault's.
    pub takes_effect: bool,
    /// For how many requests.
    pub times: u32,
}

impl Fault {
    /// Answers the next `times` requests to paths that begin with `path` with `status`.
    pub fn status(path: &str, status: u16, times: u32) -> Self {
        Self { path: path.to_owned(), status: Some(status), times, ..Self::default() }
    }

    fn matches(&self, seen: &Seen) -> bool {
        let by_method = self.method.as_ref().is_none_or(|method| *method == seen.method);
        self.times > 0 && by_method && seen.path.starts_with(&self.path)
    }
}

#[derive(Debug)]
struct World<F> {
    family: F,
    log: Vec<Seen>,
    faults: Vec<Fault>,
    /// Whether answers are kept back.
    gate: watch::Receiver<bool>,
}

/// A running fake. It stops when this is dropped.
#[derive(Debug)]
pub struct Fake<F> {
    /// Where it listens, such as `http://127.0.0.1:41234`.
    pub url: String,
    world: Arc<Mutex<World<F>>>,
    server: JoinHandle<()>,
    gate: watch::Sender<bool>,
}

impl<F> Drop for Fake<F> {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl<F: Family> Fake<F> {
    /// Serves `family` on a port of the system's choice.
    ///
    /// # Errors
    /// When no port can be had.
    pub async fn start(family: F) -> std::io::Result<Self> {
        let (gate, own) = watch::channel(false);
        let world = Arc::new(Mutex::new(World { family, log: Vec::new(), faults: Vec::new(), gate: own }));
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let routes = Router::new().fallback(answer::<F>).with_state(Arc::clone(&world));
        let server = tokio::spawn(async move {
            // It ends with its test; a broken listener shows as refused connections there.
            _ = axum::serve(listener, routes).await;
        });
        Ok(Self { url, world, server, gate })
    }

    /// Every request so far, in order, those to faults included.
    pub fn log(&self) -> Vec<Seen> {
        lock(&self.world).log.clone()
    }

    /// Adds something that goes wrong. Of several that match, the one added first counts.
    pub fn fault(&self, fault: Fault) {
        lock(&self.world).faults.push(fault);
    }

    /// Keeps every answer back from now on, until it is called with `false`.
    pub fn hold(&self, is_held: bool) {
        self.gate.send_replace(is_held);
    }

    /// Takes every fault away.
    pub fn heal(&self) {
        lock(&self.world).faults.clear();
    }

    /// Looks at the service's state, or changes it behind everybody's back.
    pub fn with<T>(&self, look: impl FnOnce(&mut F) -> T) -> T {
        look(&mut lock(&self.world).family)
    }
}

async fn answer<F: Family>(State(world): State<Arc<Mutex<World<F>>>>, request: Request) -> Response {
    let Some(seen) = read(request).await else {
        return StatusCode::PAYLOAD_TOO_LARGE.into_response();
    };
    let ((reply, delay_ms), mut gate) = {
        let World { family, log, faults, gate } = &mut *lock(&world);
        log.push(seen.clone());
        let answer = match faults.iter_mut().find(|fault| fault.matches(&seen)) {
            Some(fault) => {
                fault.times -= 1;
                let real = (fault.takes_effect || fault.status.is_none()).then(|| family.answer(&seen));
                let scripted = fault.status.map(|status| Reply {
                    status,
                    headers: fault.headers.clone(),
                    body: fault.body.clone(),
                });
                (scripted.or(real).unwrap_or_default(), fault.delay_ms)
            }
            None => (family.answer(&seen), 0),
        };
        (answer, gate.clone())
    };
    tokio::time::sleep(Duration::from_millis(delay_ms)).await;
    // The fake may be gone; then nobody waits for the answer.
    _ = gate.wait_for(|is_held| !is_held).await;
    respond(&reply)
}

async fn read(request: Request) -> Option<Seen> {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, BODY_LEN_MAX).await.ok()?;
    let headers = parts.headers.iter();
    Some(Seen {
        method: parts.method.to_string(),
        path: parts.uri.path().to_owned(),
        query: parts.uri.query().unwrap_or_default().to_owned(),
        headers: headers
            .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
            .collect(),
        body: String::from_utf8_lossy(&body).into_owned(),
    })
}

fn respond(reply: &Reply) -> Response {
    let mut response = Response::new(Body::from(reply.body.clone()));
    *response.status_mut() = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    for (name, value) in &reply.headers {
        if let (Ok(name), Ok(value)) = (name.parse::<axum::http::HeaderName>(), HeaderValue::from_str(value)) {
            response.headers_mut().append(name, value);
        }
    }
    response
}

/// Refuses a field that the real service does not know.
fn only(object: &Map<String, Value>, known: &[&str]) -> Result<(), String> {
    let odd = object.keys().find(|name| !known.contains(&name.as_str()));
    odd.map_or(Ok(()), |name| Err(format!("unknown field {name}")))
}

fn lock<T>(world: &Mutex<T>) -> MutexGuard<'_, T> {
    // A test that panicked has failed already; the fake goes on for the others.
    world.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_fault_is_answered_as_often_as_it_says_and_all_is_written_down() {
        _ = rustls::crypto::ring::default_provider().install_default();
        let took_effect = Arc::new(Mutex::new(0));
        let count = Arc::clone(&took_effect);
        let answer = move |_: &Seen| {
            *lock(&count) += 1;
            Reply::text(200, "")
        };
        let fake = Fake::start(answer).await.unwrap();
        fake.fault(Fault { takes_effect: true, ..Fault::status("/a", 503, 1) });
        fake.fault(Fault::status("/a", 429, 1));
        let mut got = Vec::new();
        for path in ["/b", "/a", "/a", "/a"] {
            let answer = reqwest::get(format!("{}{path}", fake.url)).await.unwrap();
            got.push(answer.status().as_u16());
        }
        assert_eq!(got, [200, 503, 429, 200]);
        assert_eq!(*lock(&took_effect), 3, "the first fault took effect, the second did not");
        assert_eq!(fake.log().len(), 4);
    }
}
