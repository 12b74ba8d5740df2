//! The receiver of the demo's webhook: checks each signature as somebody else's program would.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bellwether_protocol::alert::{Alert, IncidentKind};
use bellwether_protocol::codec;
use bellwether_protocol::id::IncidentId;
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::args::now;
use crate::error::VerbError;

/// Largest body that is read, in bytes.
const BODY_LEN_MAX: usize = 256 * 1024;
/// Most messages that are remembered.
const MESSAGES_MAX: usize = 10_000;
/// A signature older than this may be a replay.
const AGE_MAX_S: i64 = 300;

/// A receiver on loopback. Stops when dropped.
#[derive(Debug)]
pub(super) struct Sink {
    url: String,
    received: Received,
    server: JoinHandle<()>,
}

/// What came, by message id.
#[derive(Debug, Clone)]
pub(super) struct Received {
    key: Arc<Vec<u8>>,
    messages: Arc<Mutex<BTreeMap<String, Alert>>>,
    notes: mpsc::Sender<String>,
}

impl Sink {
    /// Listens; says on `notes` what comes.
    pub(super) async fn start(notes: mpsc::Sender<String>) -> Result<(Self, String), VerbError> {
        // Two fresh ids hold 148 random bits; enough for a secret that lives two minutes.
        let seed = [uuid::Uuid::now_v7().into_bytes(), uuid::Uuid::now_v7().into_bytes()].concat();
        let key = Sha256::digest(seed).to_vec();
        let secret = format!("whsec_{}", STANDARD.encode(&key));
        let received = Received { key: Arc::new(key), messages: Arc::default(), notes };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.map_err(VerbError::System)?;
        let address = listener.local_addr().map_err(VerbError::System)?;
        let app = Router::new()
            .route("/hook", axum::routing::post(post))
            .layer(DefaultBodyLimit::max(BODY_LEN_MAX))
            .with_state(received.clone());
        let server = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, app).await {
                tracing::warn!(error = %error, "the webhook receiver stopped");
            }
        });
        Ok((Self { url: format!("http://{address}/hook"), received, server }, secret))
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    pub(super) fn received(&self) -> &Received {
        &self.received
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Received {
    /// Whether some incident of that rollout was opened and resolved.
    pub(super) fn has_whole_incident(&self, rollout: &bellwether_protocol::id::RolloutId) -> bool {
        let messages = self.lock();
        let of = |kind: IncidentKind| {
            let wanted = move |alert: &&Alert| alert.kind == kind && alert.incident.rollout == *rollout;
            messages.values().filter(wanted).map(|alert| alert.incident.clone()).collect::<Vec<IncidentId>>()
        };
        let resolved = of(IncidentKind::Resolved);
        of(IncidentKind::Opened).iter().any(|incident| resolved.contains(incident))
    }

    pub(super) fn count(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Alert>> {
        self.messages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, headers: &HeaderMap, body: &[u8]) -> Result<String, &'static str> {
        let header = |name| headers.get(name).and_then(|value| value.to_str().ok()).ok_or("a header is missing");
        let (id, at) = (header("webhook-id")?, header("webhook-timestamp")?);
        let sent: i64 = at.parse().map_err(|_| "the timestamp is not a number")?;
        if (now().as_ms() / 1_000 - sent).abs() > AGE_MAX_S {
            return Err("the timestamp is too old");
        }
        let signature = header("webhook-signature")?.strip_prefix("v1,").ok_or("the signature is not v1")?;
        let signature = STANDARD.decode(signature).map_err(|_| "the signature is not base64")?;
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key).map_err(|_| "the key is not one")?;
        mac.update(format!("{id}.{at}.").as_bytes());
        mac.update(body);
        mac.verify_slice(&signature).map_err(|_| "the signature is wrong")?;
        let alert: Alert = codec::from_json("alert", body).map_err(|_| "the body is not an alert")?;
        let Alert { kind, severity, incident, headline, .. } = &alert;
        let kind = match kind {
            IncidentKind::Opened => "opened",
            IncidentKind::Resolved => "resolved",
            IncidentKind::Updated => "updated",
        };
        let line = format!("webhook: signature verified, [{severity}] {incident} {kind}: {headline}");
        let mut messages = self.lock();
        if messages.len() < MESSAGES_MAX {
            messages.insert(id.to_owned(), alert);
        }
        Ok(line)
    }
}

async fn post(State(received): State<Received>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let (status, line) = match received.take(&headers, &body) {
        Ok(line) => (StatusCode::NO_CONTENT, line),
        Err(why) => (StatusCode::BAD_REQUEST, format!("webhook: REFUSED, {why}")),
    };
    // When nobody looks at the notes they are not worth waiting for.
    let _ = received.notes.try_send(format!("{} {line}", now().clock()));
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_that_was_tampered_with_is_refused() {
        let (notes, _heard) = mpsc::channel(1);
        let received = Received { key: Arc::new(vec![7; 32]), messages: Arc::default(), notes };
        let check = |id: &str, at: i64, signature: &str, expected: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("webhook-id", id.parse().unwrap());
            headers.insert("webhook-timestamp", at.into());
            headers.insert("webhook-signature", signature.parse().unwrap());
            assert_eq!(received.take(&headers, b"{}"), Err(expected));
        };
        let at = now().as_ms() / 1_000;
        let sign = |id: &str, body: &[u8]| {
            let mut mac = Hmac::<Sha256>::new_from_slice(&[7; 32]).unwrap();
            mac.update(format!("{id}.{at}.").as_bytes());
            mac.update(body);
            format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
        };
        check("a", at, &sign("a", b"{}"), "the body is not an alert");
        check("a", at, &sign("a", b"{ }"), "the signature is wrong");
        check("b", at, &sign("a", b"{}"), "the signature is wrong");
        check("a", at - 1_000, &sign("a", b"{}"), "the timestamp is too old");
        check("a", at, "v1a,AAAA", "the signature is not v1");
        assert_eq!(received.count(), 0);
    }
}
