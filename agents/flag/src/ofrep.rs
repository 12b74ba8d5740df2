//! The endpoint that a service reads its flags from: OFREP 0.3.0, single and bulk. Reads only.
//!
//! Answers from memory, so NATS is never in the way of a request.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router, body::Bytes};
use bellwether_protocol::id::LeverName;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::evaluate::Flag;
use crate::snapshot::{Served, Snapshot};

/// Longest request body, in bytes; a context is a few hundred.
const BODY_LEN_MAX: usize = 64 * 1024;
/// Characters of an unknown flag's name that are repeated in an answer.
const KEY_SHOWN_MAX: usize = 128;

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
    Router::new()
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
    let targeting_key = match targeting_key(body) {
        Ok(targeting_key) => targeting_key,
        Err(wrong) => return wrong.answer(Some(&key)),
    };
    let Some(flag) = key.parse::<LeverName>().ok().and_then(|name| endpoint.flags.get(&name)) else {
        let shown: String = key.chars().take(KEY_SHOWN_MAX).collect();
        let details = format!("flag `{shown}` is not one of this service's");
        let body = json!({ "key": shown, "errorCode": "FLAG_NOT_FOUND", "errorDetails": details });
        return (StatusCode::NOT_FOUND, Json(body)).into_response();
    };
    match endpoint.served.snapshot() {
        Some(snapshot) => Json(endpoint.evaluate(flag, &snapshot, &targeting_key)).into_response(),
        None => nothing_known(),
    }
}

async fn bulk(State(endpoint): State<Arc<Endpoint>>, headers: HeaderMap, body: Body) -> Response {
    if !endpoint.admits(&headers) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let targeting_key = match targeting_key(body) {
        Ok(targeting_key) => targeting_key,
        Err(wrong) => return wrong.answer(None),
    };
    let Some(snapshot) = endpoint.served.snapshot() else { return nothing_known() };
    let flags = endpoint.flags.values().map(|flag| endpoint.evaluate(flag, &snapshot, &targeting_key));
    let body = json!({ "flags": flags.collect::<Vec<_>>(), "metadata": endpoint.metadata(&snapshot) });
    // Another user, another revision or a lost link all change the body, and nothing else does.
    let digest = Sha256::digest(body.to_string());
    let etag: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    let etag = format!("\"{etag}\"");
    let known = headers.get(header::IF_NONE_MATCH).and_then(|known| known.to_str().ok()).unwrap_or_default();
    if known.split(',').any(|one| one.trim().trim_start_matches("W/") == etag) {
        return (StatusCode::NOT_MODIFIED, [(header::ETAG, etag)]).into_response();
    }
    ([(header::ETAG, etag)], Json(body)).into_response()
}

impl Endpoint {
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

    fn evaluate(&self, flag: &Flag, snapshot: &Snapshot, targeting_key: &str) -> Value {
        match flag.evaluate(snapshot.document.value(&flag.name), targeting_key) {
            Some(got) => json!({
                "key": flag.name,
                "reason": got.reason,
                "variant": got.variant,
                "value": got.value,
                "metadata": self.metadata(snapshot),
            }),
            None => json!({ "key": flag.name, "errorCode": "GENERAL", "errorDetails": "the default is no variant" }),
        }
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

fn targeting_key(body: Body) -> Result<String, Wrong> {
    let wrong = |code, details: String| Wrong { code, details };
    // The protocol has no status of its own for a body that is too long.
    let bytes = body.map_err(|e| wrong("PARSE_ERROR", e.body_text()))?;
    let body: Value = serde_json::from_slice(&bytes).map_err(|e| wrong("PARSE_ERROR", e.to_string()))?;
    let context = body.get("context").and_then(Value::as_object);
    let context = context.ok_or_else(|| wrong("INVALID_CONTEXT", "`context` must be an object".to_owned()))?;
    match context.get("targetingKey") {
        Some(Value::String(key)) if !key.is_empty() => Ok(key.clone()),
        None | Some(Value::Null | Value::String(_)) => {
            Err(wrong("TARGETING_KEY_MISSING", "`context.targetingKey` is missing".to_owned()))
        }
        Some(_) => Err(wrong("INVALID_CONTEXT", "`context.targetingKey` must be a text".to_owned())),
    }
}

fn nothing_known() -> Response {
    let body = json!({ "errorDetails": "the flags were never read: NATS is away and no snapshot is on disk" });
    (StatusCode::INTERNAL_SERVER_ERROR, Json(body)).into_response()
}

#[cfg(test)]
mod tests;
