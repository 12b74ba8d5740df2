//! What users of the site see: `/`, `/checkout` and `/health`, each with the release in `x-release`; and
//! `/metrics`, what the site counts by itself.
//!
//! `x-cohort: canary` goes straight to the new release and `x-cohort: baseline` to the stable one;
//! everyone else is split by weight.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::flags::FlagReader;
use crate::world::{Addressed, CHECKOUT_FLAG, PATHS, Routed, Trouble};
use crate::{Shared, lock};

/// How long a request that hangs is held at most; every client gave up before.
const HANG_MAX: Duration = Duration::from_secs(60);
/// Users without a name are told apart by this many made-up ones.
const VISITORS: u64 = 100;
/// Longest user name that counts, in bytes.
const USER_LEN_MAX: usize = 128;
/// What each release may use, in megabytes.
const MEMORY_LIMIT_MB: u64 = 239;
/// What a release in good health uses.
const MEMORY_USED_MB: u64 = 121;

/// One environment, as its requests need it.
pub(crate) struct Front {
    pub(crate) env: String,
    pub(crate) world: Shared,
    pub(crate) flags: FlagReader,
}

/// The routes of one environment.
pub(crate) fn routes(front: Front) -> Router {
    Router::new().fallback(answer).with_state(Arc::new(front))
}

async fn answer(State(front): State<Arc<Front>>, headers: HeaderMap, uri: Uri) -> Response {
    if uri.path() == "/metrics" {
        return lock(&front.world).exposition(&front.env).into_response();
    }
    let Some(path) = PATHS.into_iter().find(|path| *path == uri.path()) else {
        return (StatusCode::NOT_FOUND, "no such page\n").into_response();
    };
    let routed = lock(&front.world).route(&front.env, path, addressed(&headers), Instant::now());
    let Some(routed) = routed else { return StatusCode::NOT_FOUND.into_response() };
    let user = user(&headers, routed.number);
    let mut on = Vec::new();
    for flag in &routed.flags {
        if front.flags.is_on(flag, &user).await {
            on.push(flag.clone());
        }
    }
    let trouble = lock(&front.world).trouble(&front.env, path, &routed.release, &on);
    tokio::time::sleep(if trouble.hang { HANG_MAX } else { trouble.latency.to_std() }).await;
    let is_bad = trouble.error || trouble.hang;
    let status = if is_bad { StatusCode::INTERNAL_SERVER_ERROR } else { StatusCode::OK };
    lock(&front.world).answered(&front.env, &routed.release, path, status.as_u16());
    let release = [("x-release", routed.release.to_string())];
    if is_bad {
        let body = axum::Json(json!({ "error": "something broke", "release": routed.release }));
        return (status, release, body).into_response();
    }
    let body = match path {
        "/health" => axum::Json(health(&routed, &trouble)).into_response(),
        "/checkout" => axum::Json(json!({
            "env": front.env,
            "release": routed.release,
            "new_checkout": on.iter().any(|flag| flag == CHECKOUT_FLAG),
        }))
        .into_response(),
        _ => format!("shop {} in {}\n", routed.release, front.env).into_response(),
    };
    (release, body).into_response()
}

fn addressed(headers: &HeaderMap) -> Addressed {
    match headers.get("x-cohort").map(axum::http::HeaderValue::as_bytes) {
        Some(b"canary") => Addressed::Canary,
        Some(b"baseline") => Addressed::Baseline,
        _ => Addressed::Split,
    }
}

fn user(headers: &HeaderMap, number: u64) -> String {
    let named = headers.get("x-user").and_then(|user| user.to_str().ok());
    named
        .filter(|user| user.len() <= USER_LEN_MAX)
        .map_or_else(|| format!("visitor-{}", number % VISITORS), str::to_owned)
}

fn health(routed: &Routed, trouble: &Trouble) -> Value {
    let used_mb = trouble.memory_mb.unwrap_or(MEMORY_USED_MB);
    // A limit is warned of from nine tenths on.
    let memory = if used_mb * 10 > MEMORY_LIMIT_MB * 9 { "warning" } else { "healthy" };
    let uptime_s = routed.uptime.as_secs();
    json!({
        "status": memory,
        "version": routed.release,
        "uptime": uptime_s,
        "requestCount": routed.number,
        "checks": {
            "memory": { "status": memory, "message": format!("{used_mb}MB of {MEMORY_LIMIT_MB}MB") },
            "uptime": { "status": "healthy", "message": format!("{uptime_s}s") },
            "database": { "status": "healthy", "message": "connected" },
        },
    })
}
