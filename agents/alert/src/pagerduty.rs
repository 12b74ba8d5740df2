//! The PagerDuty bridge: Events v2, one alert per incident under a `dedup_key` that never changes.
//!
//! A repeat with the same key is the same alert, so a try whose answer was lost does no harm. It
//! triggers once, again only when more is asked of people, and resolves once.

use bellwether_protocol::alert::{Alert, IncidentKind, Severity};
use bellwether_runtime::web::chain;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};

use crate::bridge::{Delivery, DeliveryError, Receipt};
use crate::case::Occasion;
use crate::config::PagerdutyConfig;
use crate::{http, words};

/// Longest summary, in characters.
const SUMMARY_MAX: usize = 1_024;

/// Sends events to one PagerDuty service.
#[derive(Debug)]
pub(crate) struct Pagerduty {
    client: reqwest::Client,
    url: reqwest::Url,
    routing_key: SecretString,
    link: String,
}

impl Pagerduty {
    pub(crate) fn new(config: &PagerdutyConfig, client: reqwest::Client, link: String) -> Result<Self, String> {
        let routing_key = config.routing_key.resolve().map_err(|error| chain(&error))?;
        let is_key = |key: &str| key.len() == 32 && key.bytes().all(|b| b.is_ascii_alphanumeric());
        if !is_key(routing_key.expose_secret()) {
            return Err(format!("{} is no routing key: 32 letters and digits", config.routing_key));
        }
        let url = http::parse(&config.url)?.join("/v2/enqueue").map_err(|error| error.to_string())?;
        Ok(Self { client, url, routing_key, link })
    }

    pub(crate) async fn deliver(&self, delivery: &Delivery<'_>) -> Result<Receipt, DeliveryError> {
        let last = delivery.thread().last;
        let newest = delivery.newest();
        let is_resolved = newest.kind == IncidentKind::Resolved;
        let was_open = last.as_ref().filter(|last| last.kind != IncidentKind::Resolved);
        // What opened and ended before it could be told is told, so that nobody misses it.
        let opened = delivery.batch.waiting.iter().filter(|waiting| waiting.alert.kind != IncidentKind::Resolved);
        let opened =
            opened.max_by_key(|waiting| (waiting.alert.severity, waiting.number)).map(|waiting| &waiting.alert);
        let grows = |alert: &&Alert| was_open.is_none_or(|last| alert.severity > last.severity);
        let mut said = Vec::new();
        if delivery.occasion() == Occasion::Acknowledged && !is_resolved {
            self.send("acknowledge", newest, delivery).await?;
            said.push("acknowledged".to_owned());
        } else if let Some(alert) = opened.filter(grows) {
            self.send("trigger", alert, delivery).await?;
            said.push(format!("triggered (severity {})", severity(alert.severity)));
        }
        if is_resolved && (was_open.is_some() || opened.is_some() || newest.seq > 1) {
            self.send("resolve", newest, delivery).await?;
            said.push("resolved".to_owned());
        }
        Ok(Receipt { said: if said.is_empty() { "nothing new".to_owned() } else { said.join(", ") } })
    }

    async fn send(&self, action: &str, alert: &Alert, delivery: &Delivery<'_>) -> Result<(), DeliveryError> {
        let mut event = json!({
            "routing_key": self.routing_key.expose_secret(),
            "event_action": action,
            "dedup_key": alert.incident,
        });
        if action == "trigger"
            && let Some(event) = event.as_object_mut()
        {
            event.insert("client".to_owned(), "Bellwether".into());
            event.insert("payload".to_owned(), payload(alert, delivery));
            if !self.link.is_empty() {
                let link = json!([{ "href": words::link(&self.link, alert), "text": "Open" }]);
                event.insert("links".to_owned(), link);
            }
        }
        let answer = http::send(self.client.post(self.url.clone()).json(&event)).await?;
        // A routing key that is wrong today can be put right within the hour; a body cannot.
        answer.judge(&[400, 413]).map_err(|error| self.redacted(error))
    }

    fn redacted(&self, error: DeliveryError) -> DeliveryError {
        let hide = |why: String| why.replace(self.routing_key.expose_secret(), "***");
        match error {
            DeliveryError::Refused { why } => DeliveryError::Refused { why: hide(why) },
            DeliveryError::Retry { why, after } => DeliveryError::Retry { why: hide(why), after },
        }
    }
}

fn payload(alert: &Alert, delivery: &Delivery<'_>) -> Value {
    let details: serde_json::Map<String, Value> = words::fields(alert, &delivery.batch.case)
        .into_iter()
        .map(|(name, value)| (name.to_lowercase().replace(' ', "_"), value.into()))
        .chain([
            ("release".to_owned(), alert.release.to_string().into()),
            ("stage".to_owned(), alert.stage.as_ref().map(ToString::to_string).into()),
            ("record".to_owned(), alert.record.0.into()),
            ("next".to_owned(), alert.next.iter().map(|step| format!("{}: {}", step.why, step.run)).collect()),
        ])
        .collect();
    json!({
        "summary": words::cut(&words::title(alert), SUMMARY_MAX),
        "source": alert.service,
        "severity": severity(alert.severity),
        "timestamp": alert.at,
        "component": alert.service,
        "group": alert.incident.rollout,
        "class": alert.incident.cause,
        "custom_details": details,
    })
}

fn severity(severity: Severity) -> &'static str {
    match severity {
        Severity::Info => "info",
        Severity::Warn => "warning",
        Severity::Page => "critical",
    }
}
