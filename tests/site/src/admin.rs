//! The site's platform side: levers as a real platform would have them, and faults on demand.
//! On a listener of its own; it asks for no credentials, so bind it where only you are.
//!
//! | request | body |
//! |---|---|
//! | `PUT /admin/lever/{lever}` | `{"to": "10%"}`: 202, and it moves after the lag |
//! | `GET /admin/lever/{lever}`, `GET /admin/history/{lever}` | |
//! | `PUT /admin/release/{env}` | `{"stable": "v41", "candidate": "v42"}`: at once, behind everybody's back |
//! | `PUT /admin/fault`, `DELETE /admin/fault` | a [`Fault`] as JSON; one without effect removes it |
//! | `PUT /admin/refuse` | `{"lever": "traffic", "how": "refuse"}`, or `busy`, `partial`, `hang`, `none` |

use std::time::{Duration, Instant};

use axum::extract::rejection::JsonRejection;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, put};
use axum::{Json, Router};
use bellwether_protocol::id::Release;
use serde::{Deserialize, Serialize};

use crate::fault::Fault;
use crate::world::{Misbehaviour, SetError, SiteLever};
use crate::{Shared, lock};

/// Longest request body, in bytes.
const BODY_LEN_MAX: usize = 16 * 1024;
/// How long an answer that hangs is held at most.
const HANG_MAX: Duration = Duration::from_secs(60);

/// What a lever is to be set to.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SetRequest {
    pub(crate) to: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PlaceRequest {
    stable: Option<Release>,
    candidate: Option<Release>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RefuseRequest {
    lever: SiteLever,
    how: Misbehaviour,
}

type Asked<T> = Result<Json<T>, JsonRejection>;

/// The routes of the platform side.
pub(crate) fn routes(world: Shared) -> Router {
    Router::new()
        .route("/admin/lever/{lever}", get(read).put(set))
        .route("/admin/history/{lever}", get(history))
        .route("/admin/release/{env}", put(place))
        .route("/admin/fault", put(fault).delete(clear))
        .route("/admin/refuse", put(refuse))
        .layer(DefaultBodyLimit::max(BODY_LEN_MAX))
        .with_state(world)
}

async fn set(State(world): State<Shared>, Path(lever): Path<SiteLever>, asked: Asked<SetRequest>) -> Response {
    let Json(asked) = match asked {
        Ok(asked) => asked,
        Err(rejection) => return rejection.into_response(),
    };
    let outcome = lock(&world).set(lever, &asked.to, Instant::now());
    match outcome {
        Ok(false) => (StatusCode::ACCEPTED, "accepted\n").into_response(),
        Ok(true) => {
            tokio::time::sleep(HANG_MAX).await;
            StatusCode::GATEWAY_TIMEOUT.into_response()
        }
        Err(error) => {
            let status = match error {
                SetError::Busy => StatusCode::SERVICE_UNAVAILABLE,
                SetError::Refused(_) => StatusCode::FORBIDDEN,
                SetError::Value(_) => StatusCode::BAD_REQUEST,
            };
            (status, format!("{error}\n")).into_response()
        }
    }
}

async fn read(State(world): State<Shared>, Path(lever): Path<SiteLever>) -> Response {
    Json(lock(&world).read(lever, Instant::now())).into_response()
}

async fn history(State(world): State<Shared>, Path(lever): Path<SiteLever>) -> Response {
    Json(lock(&world).history(lever, Instant::now())).into_response()
}

async fn place(State(world): State<Shared>, Path(env): Path<String>, asked: Asked<PlaceRequest>) -> Response {
    let Json(asked) = match asked {
        Ok(asked) => asked,
        Err(rejection) => return rejection.into_response(),
    };
    match lock(&world).place(&env, asked.stable, asked.candidate, Instant::now()) {
        Some(()) => StatusCode::NO_CONTENT.into_response(),
        None => (StatusCode::NOT_FOUND, "no such environment\n").into_response(),
    }
}

async fn fault(State(world): State<Shared>, asked: Asked<Fault>) -> Response {
    let Json(fault) = match asked {
        Ok(asked) => asked,
        Err(rejection) => return rejection.into_response(),
    };
    if lock(&world).set_fault(fault) {
        StatusCode::NO_CONTENT.into_response()
    } else {
        (StatusCode::INSUFFICIENT_STORAGE, "too many faults: clear some first\n").into_response()
    }
}

async fn clear(State(world): State<Shared>) -> StatusCode {
    lock(&world).clear_faults();
    StatusCode::NO_CONTENT
}

async fn refuse(State(world): State<Shared>, asked: Asked<RefuseRequest>) -> Response {
    match asked {
        Ok(Json(asked)) => {
            lock(&world).misbehave(asked.lever, asked.how);
            StatusCode::NO_CONTENT.into_response()
        }
        Err(rejection) => rejection.into_response(),
    }
}
