//! The endpoint that a service reads its flags from: OFREP 0.3.0, single, bulk and change events. Reads only.
//!
//! Answers from memory, so NATS is never in the way of a request. It never answers 429: clients take
//! that for the whole endpoint, and would fall back to their coded defaults for every flag.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, Path, RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router, body::Bytes};
use bellwether_protocol::id::LeverName;
use futures_util::stream;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;

use crate::evaluate::Flag;
use crate::snapshot::{Served, Snapshot};

/// Longest request body, in bytes; a context is a few hundred.
const BODY_LEN_MAX: usize = 64 * 1024;
/// Characters of an unknown flag's name that are repeated in an answer.
const KEY_SHOWN_MAX: usize = 128;
/// Clients that may listen for changes at once; the others go on polling.
const LISTENERS_MAX: usize = 1_024;
/// Where changes are told.
const EVENTS: &str = "/ofrep/v1/events";

/// What the endpoint answers from.
pub struct Endpoint {
    /// The flags of its service.
    pub flags: BTreeMap<LeverName, Flag>,
    /// What they are set to.
    pub served: Served,
    /// Whether NATS is away, so that what is served may be old.
    pub is_stale: Box<dyn Fn() -> bool + Send + Sync>,
    /// What clients must send, if anything.
    pub auth: Option<SecretString>,
}

/// The endpoint's routes.
pub fn routes(endpoint: Endpoint) -> Router {
    let listeners = Arc::new(Semaphore::new(LISTENERS_MAX));
    let listen = move |state, query| events(state, query, Arc::clone(&listeners));
    Router::new()
        .route(EVENTS, get(listen))
        .route("/ofrep/v1/evaluate/flags/{key}", post(single))
        .route("/ofrep/v1/evaluate/flags", post(bulk))
        .layer(DefaultBodyLimit::max(BODY_LEN_MAX))
        .with_state(Arc::new(endpoint))
}

type Body = Result<Bytes, BytesRejection>;

async fn single(
    State(endpoint): State<Arc<Endpoint>>,
    Path(key): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    if !endpoint.admits(&headers) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let context = match context(body) {
        Ok(context) => context,
        Err(wrong) => return wrong.answer(Some(&key)),
    };
    let Some(flag) = key.parse::<LeverName>().ok().and_then(|name| endpoint.flags.get(&name)) else {
        let shown: String = key.chars().take(KEY_SHOWN_MAX).collect();
        let details = format!("flag `{shown}` is not one of this service's");
        let body = json!({ "key": shown, "errorCode": "FLAG_NOT_FOUND", "errorDetails": details });
        return (StatusCode::NOT_FOUND, Json(body)).into_response();
    };
    match endpoint.served.snapshot() {
        Some(snapshot) => Json(endpoint.evaluate(flag, &snapshot, &context)).into_response(),
        None => nothing_known(),
    }
}

async fn bulk(State(endpoint): State<Arc<Endpoint>>, headers: HeaderMap, body: Body) -> Response {
    if !endpoint.admits(&headers) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let context = match context(body) {
        Ok(context) => context,
        Err(wrong) => return wrong.answer(None),
    };
    let Some(snapshot) = endpoint.served.snapshot() else { return nothing_known() };
    let flags = endpoint.flags.values().map(|flag| endpoint.evaluate(flag, &snapshot, &context));
    let body = json!({
        "flags": flags.collect::<Vec<_>>(),
        "metadata": endpoint.metadata(&snapshot),
        "eventStreams": [{ "type": "sse", "endpoint": { "requestUri": endpoint.events_uri() } }],
    });
    // Another user, another revision or a lost link all change the body, and nothing else does.
    let etag = format!("\"{}\"", digest(&body.to_string()));
    let known = headers.get(header::IF_NONE_MATCH).and_then(|known| known.to_str().ok()).unwrap_or_default();
    if known.split(',').any(|one| one.trim().trim_start_matches("W/") == etag) {
        return (StatusCode::NOT_MODIFIED, [(header::ETAG, etag)]).into_response();
    }
    ([(header::ETAG, etag)], Json(body)).into_response()
}

/// Tells, once for each change, that flags should be read again.
async fn events(
    State(endpoint): State<Arc<Endpoint>>,
    RawQuery(query): RawQuery,
    listeners: Arc<Semaphore>,
) -> Response {
    let asked = format!("{EVENTS}?{}", query.unwrap_or_default());
    if endpoint.auth.is_some() && Sha256::digest(asked) != Sha256::digest(endpoint.events_uri()) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let Ok(place) = listeners.try_acquire_owned() else { return StatusCode::SERVICE_UNAVAILABLE.into_response() };
    let changes = (endpoint.served.changes(), place);
    let told = stream::unfold(changes, async |(mut changes, place)| {
        let revision = changes.next().await?;
        let told = json!({ "type": "refetchEvaluation", "etag": revision.to_string() });
        Some((Ok::<_, Infallible>(Event::default().data(told.to_string())), (changes, place)))
    });
    Sse::new(told).keep_alive(KeepAlive::default()).into_response()
}

impl Endpoint {
    /// Where this endpoint's clients listen. Whoever may read flags learns it from a bulk answer, as
    /// browsers send no headers with such a request.
    fn events_uri(&self) -> String {
        let key = |secret: &SecretString| format!("?key={}", digest(&format!("events:{}", secret.expose_secret())));
        format!("{EVENTS}{}", self.auth.as_ref().map(key).unwrap_or_default())
    }

    fn admits(&self, headers: &HeaderMap) -> bool {
        let Some(secret) = &self.auth else { return true };
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let bearer = text("authorization").and_then(|value| {
            let (scheme, token) = value.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then_some(token)
        });
        let Some(shown) = bearer.or_else(|| text("x-api-key")) else { return false };
        // Comparing digests takes the same time wherever two secrets begin to differ.
        Sha256::digest(shown.trim()) == Sha256::digest(secret.expose_secret())
    }

    fn evaluate(&self, flag: &Flag, snapshot: &Snapshot, context: &Map<String, Value>) -> Value {
        let got = flag.evaluate(snapshot.document.value(&flag.name), context);
        let mut body = json!({ "key": flag.name, "reason": got.reason, "metadata": self.metadata(snapshot) });
        // Without a value, the client uses the one in its code.
        if let (Some((variant, value)), Some(body)) = (got.variant, body.as_object_mut()) {
            body.insert("variant".to_owned(), variant.into());
            body.insert("value".to_owned(), value.clone());
        }
        body
    }

    fn metadata(&self, snapshot: &Snapshot) -> Value {
        let mut metadata = Map::new();
        metadata.insert("revision".to_owned(), snapshot.revision.into());
        if (self.is_stale)() {
            metadata.insert("stale".to_owned(), true.into());
        }
        Value::Object(metadata)
    }
}

/// Why a request was not understood.
struct Wrong {
    code: &'static str,
    details: String,
}

impl Wrong {
    fn answer(self, key: Option<&str>) -> Response {
        let mut body = json!({ "errorCode": self.code, "errorDetails": self.details });
        if let (Some(key), Some(body)) = (key, body.as_object_mut()) {
            body.insert("key".to_owned(), key.chars().take(KEY_SHOWN_MAX).collect::<String>().into());
        }
        (StatusCode::BAD_REQUEST, Json(body)).into_response()
    }
}

fn context(body: Body) -> Result<Map<String, Value>, Wrong> {
    let wrong = |code, details: String| Wrong { code, details };
    // The protocol has no status of its own for a body that is too long.
    let bytes = body.map_err(|e| wrong("PARSE_ERROR", e.body_text()))?;
    let mut body: Value = serde_json::from_slice(&bytes).map_err(|e| wrong("PARSE_ERROR", e.to_string()))?;
    let Some(Value::Object(context)) = body.get_mut("context").map(Value::take) else {
        return Err(wrong("INVALID_CONTEXT", "`context` must be an object".to_owned()));
    };
    match context.get("targetingKey") {
        Some(Value::String(key)) if !key.is_empty() => Ok(context),
        None | Some(Value::Null | Value::String(_)) => {
            Err(wrong("TARGETING_KEY_MISSING", "`context.targetingKey` is missing".to_owned()))
        }
        Some(_) => Err(wrong("INVALID_CONTEXT", "`context.targetingKey` must be a text".to_owned())),
    }
}

/// 128 bits of a digest, as text.
fn digest(of: &str) -> String {
    Sha256::digest(of).iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

fn nothing_known() -> Response {
    let body = json!({ "errorDetails": "the flags were never read: NATS is away and no snapshot is on disk" });
    (StatusCode::INTERNAL_SERVER_ERROR, Json(body)).into_response()
}

#[cfg(test)]
mod tests;
