//! The webhook bridge: [Standard Webhooks](https://www.standardwebhooks.com), signed with HMAC-SHA256.
//!
//! One POST per message, the same `webhook-id` on every try, so that a receiver can drop repeats.
//! A redirect is a failure: the body must not travel to a host that nobody configured. The query
//! of an address may hold a secret and is never shown.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bellwether_protocol::alert::{Alert, Severity};
use bellwether_protocol::codec;
use hmac::{Hmac, Mac};
use reqwest::StatusCode;
use reqwest::header::RETRY_AFTER;
use secrecy::{ExposeSecret, SecretSlice, SecretString};
use sha2::Sha256;

use crate::bridge::{DeliveryError, Receipt};

/// How long one POST may take, as the specification suggests.
const POST_TIMEOUT: Duration = Duration::from_secs(15);
/// Longest wait that a receiver may ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3_600);

/// Posts alerts to one address.
#[derive(Debug)]
pub(crate) struct Webhook {
    client: reqwest::Client,
    url: reqwest::Url,
    name: String,
    key: SecretSlice<u8>,
    min_severity: Severity,
}

/// Why a webhook cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum WebhookFlaw {
    /// The secret is not one.
    #[error("the secret of {url} is not `whsec_` followed by base64 of 24 to 64 bytes")]
    Secret {
        /// Which webhook.
        url: String,
    },
    /// The address is not one.
    #[error("{url} is not an http or https address without a password")]
    Url {
        /// Which address, without its query.
        url: String,
    },
}

impl Webhook {
    /// A bridge to `url`. The client must not follow redirects.
    pub(crate) fn new(
        client: reqwest::Client,
        url: &str,
        secret: &SecretString,
        min_severity: Severity,
    ) -> Result<Self, WebhookFlaw> {
        let wrong = || WebhookFlaw::Url { url: shown(url) };
        let parsed: reqwest::Url = url.parse().map_err(|_| wrong())?;
        if !matches!(parsed.scheme(), "http" | "https") || parsed.password().is_some() {
            return Err(wrong());
        }
        let text = secret.expose_secret().trim();
        let key = text.strip_prefix("whsec_").and_then(|text| STANDARD.decode(text).ok());
        let key = key.filter(|key| (24..=64).contains(&key.len()));
        let key = key.ok_or_else(|| WebhookFlaw::Secret { url: shown(url) })?;
        // The name keys the outbox: it must tell two receivers apart, and hold no secret.
        let name = format!("webhook-{}", bellwether_protocol::record::Hash::of(url.as_bytes()).short());
        Ok(Self { client, url: parsed, name, key: key.into(), min_severity })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn min_severity(&self) -> Severity {
        self.min_severity
    }

    pub(crate) async fn deliver(&self, alert: &Alert) -> Result<Receipt, DeliveryError> {
        let broken = |error: codec::EncodeError| DeliveryError::Refused { why: error.to_string() };
        let body = codec::to_json("alert", alert).map_err(broken)?;
        let id = message_id(alert);
        // The receiver compares this with its own clock, so it is when we send, not when it happened.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let request = self
            .client
            .post(self.url.clone())
            .timeout(POST_TIMEOUT)
            .header("content-type", "application/json")
            .header("webhook-id", &id)
            .header("webhook-timestamp", now)
            .header("webhook-signature", sign(self.key.expose_secret(), &id, now, &body))
            .body(body);
        match request.send().await {
            Ok(answer) => self.read(&answer),
            Err(error) => Err(DeliveryError::Retry { why: chain(&error.without_url()), after: None }),
        }
    }

    fn read(&self, answer: &reqwest::Response) -> Result<Receipt, DeliveryError> {
        let status = answer.status();
        let said = format!("{} answered {}", shown(self.url.as_str()), status.as_u16());
        if status.is_success() {
            return Ok(Receipt { said });
        }
        if status.is_redirection() {
            return Err(DeliveryError::Refused { why: format!("{said}, not followed: set the final address") });
        }
        if matches!(status, StatusCode::GONE | StatusCode::PAYLOAD_TOO_LARGE) {
            return Err(DeliveryError::Refused { why: said });
        }
        let after = answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        let after = after.and_then(|text| text.trim().parse().ok()).map(Duration::from_secs);
        Err(DeliveryError::Retry { why: said, after: after.map(|wait| wait.min(RETRY_AFTER_MAX)) })
    }
}

/// An address as logs may show it: without user, query and fragment.
pub(crate) fn shown(url: &str) -> String {
    match url.parse::<reqwest::Url>() {
        Ok(url) => format!("{}://{}{}", url.scheme(), url.host_str().unwrap_or("?"), url.path()),
        Err(_) => "an address that cannot be read".to_owned(),
    }
}

/// The same on every try and from every region, so that a receiver can drop repeats.
fn message_id(alert: &Alert) -> String {
    format!("{}.{}", alert.incident, alert.seq)
}

fn sign(key: &[u8], id: &str, at: u64, body: &[u8]) -> String {
    // HMAC takes a key of any length, so there is nothing that could fail here.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { return String::new() };
    mac.update(format!("{id}.{at}.").as_bytes());
    mac.update(body);
    format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text.push_str(&format!(": {source}"));
        next = source.source();
    }
    text
}

#[cfg(test)]
#[path = "webhook_tests.rs"]
pub(crate) mod tests;
