//! `/metrics` and `/healthz`, for whoever asks.

use std::net::SocketAddr;

use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use bellwether_bus::metrics;
use serde_json::json;

use super::page::Page;

/// Answers at `address` for ever. An address that is taken is told once: what is watched goes on.
pub(super) async fn serve(address: SocketAddr, page: Page) {
    let listener = match tokio::net::TcpListener::bind(address).await {
        Ok(listener) => listener,
        Err(error) => return tracing::warn!(%address, %error, "/metrics and /healthz are not served"),
    };
    if let Ok(address) = listener.local_addr() {
        tracing::info!(%address, "serving /metrics and /healthz");
    }
    let text = (header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8");
    let routes =
        Router::new().route("/metrics", get(async move || ([text], page.text()))).route("/healthz", get(health));
    let _ = axum::serve(listener, routes).await;
}

/// What is wrong, on one line of JSON; 503 when anything is.
async fn health() -> impl IntoResponse {
    let checks = metrics::checks();
    let wrong: Vec<_> =
        checks.iter().filter_map(|(name, why)| Some(json!({"check": name, "why": why.as_ref()?}))).collect();
    let status = if wrong.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let checked: Vec<_> = checks.iter().map(|(name, _)| name).collect();
    (status, Json(json!({"ok": wrong.is_empty(), "wrong": wrong, "checked": checked})))
}
