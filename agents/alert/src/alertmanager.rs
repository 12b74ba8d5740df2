//! The Alertmanager bridge: API v2, one alert per incident, posted again while it fires.
//!
//! An alert is its labels, so they hold only what stays: every agent posts the same, and a repeat is
//! the same alert. Each post says when the alert ends by itself should nobody post any more, so that
//! the other side's `resolve_timeout` does not matter.

use bellwether_protocol::alert::{Alert, IncidentKind};
use bellwether_protocol::time::{Span, Timestamp};
use bellwether_runtime::SecretError;
use bellwether_runtime::web::chain;
use reqwest::RequestBuilder;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};

use crate::bridge::{Delivery, DeliveryError, Receipt};
use crate::config::{AlertmanagerConfig, AuthConfig};
use crate::{http, words};

/// Longest annotation, in characters.
const ANNOTATION_MAX: usize = 2_000;
/// How many posts may be missed before an alert ends by itself.
const MISSED_MAX: u64 = 4;

/// Posts to one Alertmanager.
#[derive(Debug)]
pub(crate) struct Alertmanager {
    client: reqwest::Client,
    url: reqwest::Url,
    link: String,
    auth: Option<Auth>,
    /// Between two posts of one alert.
    pub(crate) resend_every: Span,
}

/// How it signs in.
#[derive(Debug)]
enum Auth {
    Basic(String, SecretString),
    Bearer(SecretString),
}

impl Auth {
    fn new(config: &AuthConfig) -> Result<Self, SecretError> {
        Ok(match config {
            AuthConfig::Basic { user, password } => Self::Basic(user.clone(), password.resolve()?),
            AuthConfig::Bearer(token) => Self::Bearer(token.resolve()?),
        })
    }

    fn sign(&self, request: RequestBuilder) -> RequestBuilder {
        match self {
            Self::Basic(user, password) => request.basic_auth(user, Some(password.expose_secret())),
            Self::Bearer(token) => request.bearer_auth(token.expose_secret()),
        }
    }
}

impl Alertmanager {
    pub(crate) fn new(config: &AlertmanagerConfig, client: reqwest::Client, link: String) -> Result<Self, String> {
        let mut url = http::parse(&config.url)?;
        // It may live under a path of its own.
        url.set_path(&format!("{}/api/v2/alerts", url.path().trim_end_matches('/')));
        if config.resend_every < Span::from_secs(1) {
            return Err("`resend_every` is at least 1s".to_owned());
        }
        let auth = config.auth.as_ref().map(Auth::new).transpose().map_err(|error| chain(&error))?;
        Ok(Self { client, url, link, auth, resend_every: config.resend_every })
    }

    pub(crate) async fn deliver(&self, delivery: &Delivery<'_>) -> Result<Receipt, DeliveryError> {
        let (newest, now) = (delivery.newest(), delivery.now);
        let is_resolved = newest.kind == IncidentKind::Resolved;
        let ends = if is_resolved { now } else { now + self.resend_every.times(MISSED_MAX) };
        let mut alerts = vec![self.alert(newest, delivery, ends)];
        // With another severity it is another alert: the one before it is over.
        let before = delivery.thread().last.filter(|last| labels(last) != labels(newest));
        alerts.extend(before.map(|before| self.alert(&before, delivery, now)));
        let request = self.client.post(self.url.clone()).json(&alerts);
        let request = match &self.auth {
            Some(auth) => auth.sign(request),
            None => request,
        };
        let answer = http::send(request).await?;
        if matches!(answer.status, 401 | 403) {
            return Err(answer.retry(format!("it answered {}. fix: set a valid `auth`", answer.status)));
        }
        answer.judge(&[400, 415])?;
        Ok(Receipt { said: if is_resolved { "resolved".to_owned() } else { "firing".to_owned() } })
    }

    fn alert(&self, alert: &Alert, delivery: &Delivery<'_>, ends: Timestamp) -> Value {
        let mut annotations = serde_json::Map::new();
        annotations.insert("summary".to_owned(), words::cut(&words::title(alert), ANNOTATION_MAX).into());
        for (name, value) in words::fields(alert, &delivery.batch.case) {
            annotations.insert(name.to_lowercase().replace(' ', "_"), words::cut(&value, ANNOTATION_MAX).into());
        }
        for (number, step) in alert.next.iter().enumerate() {
            let step = format!("{}: {}", step.why, step.run);
            annotations.insert(format!("next_{}", number + 1), words::cut(&step, ANNOTATION_MAX).into());
        }
        let starts = delivery.first().at.min(ends);
        let mut body =
            json!({ "labels": labels(alert), "annotations": annotations, "startsAt": starts, "endsAt": ends });
        if !self.link.is_empty() {
            body["generatorURL"] = words::link(&self.link, alert).into();
        }
        body
    }
}

fn labels(alert: &Alert) -> Value {
    json!({
        "alertname": format!("bellwether_{}", alert.incident.cause),
        "incident": alert.incident,
        "service": alert.service,
        "release": alert.release,
        "severity": alert.severity,
    })
}
