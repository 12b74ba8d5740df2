//! The bridge to a Slack incoming webhook. It can neither edit nor thread, so it posts only when an
//! incident begins, asks more of people, and ends. Its address is a secret and is never shown.
//!
//! A try whose answer was lost may be posted twice: Slack gives no way to tell.

use bellwether_protocol::alert::IncidentKind;
use bellwether_runtime::web::chain;
use secrecy::{ExposeSecret, SecretString};

use crate::bridge::{Delivery, DeliveryError, Receipt};
use crate::case::Occasion;
use crate::config::SlackWebhookConfig;
use crate::http;
use crate::slack::message;

/// Posts to one channel.
#[derive(Debug)]
pub(crate) struct SlackWebhook {
    client: reqwest::Client,
    url: SecretString,
    link: String,
}

impl SlackWebhook {
    pub(crate) fn new(config: &SlackWebhookConfig, client: reqwest::Client, link: String) -> Result<Self, String> {
        let url = config.url.resolve().map_err(|error| chain(&error))?;
        http::parse(url.expose_secret()).map_err(|_| format!("{} holds no http or https address", config.url))?;
        Ok(Self { client, url, link })
    }

    pub(crate) async fn deliver(&self, delivery: &Delivery<'_>) -> Result<Receipt, DeliveryError> {
        let (newest, last) = (delivery.newest(), delivery.thread().last);
        let is_same = last.is_some_and(|last| {
            last.kind != IncidentKind::Resolved
                && newest.kind != IncidentKind::Resolved
                && delivery.severity() <= last.severity
        });
        if delivery.occasion() == Occasion::Acknowledged || (is_same && delivery.occasion() == Occasion::News) {
            return Ok(Receipt { said: "nothing new".to_owned() });
        }
        let url = http::parse(self.url.expose_secret()).map_err(|why| DeliveryError::Refused { why })?;
        let body = message::root(newest, &delivery.batch.case, &self.link);
        let answer = http::send(self.client.post(url).json(&body)).await?;
        // What is refused is said in a word of text, such as `invalid_payload`.
        answer.judge(&[400, 413])?;
        if answer.text() != "ok" {
            return Err(answer.retry(format!("it answered `{}` instead of `ok`", answer.text())));
        }
        Ok(Receipt { said: "posted".to_owned() })
    }
}
