//! The webhook bridge: [Standard Webhooks](https://www.standardwebhooks.com), signed with HMAC-SHA256.
//!
//! One POST per message, the same `webhook-id` on every try, so that a receiver can drop repeats.
//! A redirect is a failure: the body must not travel to a host that nobody configured. The query
//! of an address may hold a secret and is never shown.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bellwether_protocol::alert::Alert;
use bellwether_protocol::cloud_event::CloudEvent;
use bellwether_protocol::codec;
use bellwether_protocol::subject::Prefix;
use bellwether_runtime::web::chain;
use hmac::{Hmac, Mac};
use secrecy::{ExposeSecret, SecretSlice, SecretString};
use sha2::Sha256;

use crate::bridge::{Delivery, DeliveryError, Receipt};
use crate::case::Occasion;
use crate::config::WebhookConfig;
use crate::http;

/// Posts alerts to one address.
#[derive(Debug)]
pub(crate) struct Webhook {
    client: reqwest::Client,
    url: reqwest::Url,
    key: SecretSlice<u8>,
    /// Of which mesh its events are.
    prefix: Prefix,
}

impl Webhook {
    pub(crate) fn new(config: &WebhookConfig, prefix: &Prefix, client: reqwest::Client) -> Result<Self, String> {
        let secret = config.secret.resolve().map_err(|error| chain(&error))?;
        Self::with(&config.url, &secret, prefix, client)
    }

    /// A bridge to `url`. The client must not follow redirects.
    fn with(url: &str, secret: &SecretString, prefix: &Prefix, client: reqwest::Client) -> Result<Self, String> {
        let text = secret.expose_secret().trim();
        let key = text.strip_prefix("whsec_").and_then(|text| STANDARD.decode(text).ok());
        let key = key.filter(|key| (24..=64).contains(&key.len()));
        let key = key.ok_or_else(|| "the secret is not `whsec_` followed by base64 of 24 to 64 bytes".to_owned())?;
        Ok(Self { client, url: http::parse(url)?, key: key.into(), prefix: prefix.clone() })
    }

    pub(crate) async fn deliver(&self, delivery: &Delivery<'_>) -> Result<Receipt, DeliveryError> {
        if delivery.occasion() == Occasion::Acknowledged {
            return Ok(Receipt { said: "nothing new".to_owned() });
        }
        let broken = |error: codec::EncodeError| DeliveryError::Refused { why: error.to_string() };
        let body = codec::to_json("alert", delivery.newest()).map_err(broken)?;
        let id = message_id(delivery.newest(), delivery.occasion());
        // The receiver compares this with its own clock, so it is when we send, not when it happened.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let request = self.client.post(self.url.clone()).header("content-type", "application/json");
        let request = self
            .event(delivery.newest(), &id)
            .into_iter()
            .fold(request, |request, (name, value)| request.header(name, value))
            .header("webhook-id", &id)
            .header("webhook-timestamp", now)
            .header("webhook-signature", sign(self.key.expose_secret(), &id, now, &body))
            .body(body);
        let answer = http::send(request).await?;
        answer.judge(&[410, 413])?;
        Ok(Receipt { said: format!("{} answered {}", http::shown(self.url.as_str()), answer.status) })
    }
}

impl Webhook {
    /// What the message is, for those who know CloudEvents; the type of the body has HTTP's own header.
    fn event(&self, alert: &Alert, id: &str) -> Vec<(&'static str, String)> {
        let about = alert.incident.to_string();
        let event = CloudEvent::new(&self.prefix, "alert", id.to_owned(), about, alert.at);
        event.headers().into_iter().filter(|(name, _)| *name != "ce-datacontenttype").collect()
    }
}

/// The same on every try and from every region, so that a receiver can drop repeats.
fn message_id(alert: &Alert, occasion: Occasion) -> String {
    format!("{}.{}{}", alert.incident, alert.seq, occasion.suffix())
}

fn sign(key: &[u8], id: &str, at: u64, body: &[u8]) -> String {
    // HMAC takes a key of any length, so there is nothing that could fail here.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { return String::new() };
    mac.update(format!("{id}.{at}.").as_bytes());
    mac.update(body);
    format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    #[test]
    fn the_signature_is_that_of_the_specification() {
        let key = STANDARD.decode(SECRET.strip_prefix("whsec_").unwrap()).unwrap();
        let signature = sign(&key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn wrong_secrets_and_addresses_are_refused_without_showing_them() {
        for (url, secret) in [
            ("https://example.com/?hidden", "whsec_hidden"),
            ("https://example.com/?hidden", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
            ("https://example.com/?hidden", "whsec_aGlkZGVu"),
            ("ftp://example.com/?hidden", SECRET),
            ("https://me:hidden@example.com/", SECRET),
            ("hidden", SECRET),
        ] {
            let client = bellwether_runtime::http().unwrap();
            let error = Webhook::with(url, &secret.to_owned().into(), &Prefix::default(), client).unwrap_err();
            assert!(!error.contains("hidden"), "{error}");
        }
    }
}
