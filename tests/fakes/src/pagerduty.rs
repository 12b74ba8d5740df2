//! PagerDuty, Events v2: alerts by their `dedup_key`, and what was asked of each.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::{Family, Reply, Seen, only};

/// One alert.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Alert {
    /// How often it was triggered; while it is open, only the first rings.
    pub triggers: usize,
    /// How often it rang.
    pub rings: usize,
    /// How often it was acknowledged while open.
    pub acknowledges: usize,
    /// How often it was resolved while open.
    pub resolves: usize,
    /// Whether it is open.
    pub is_open: bool,
    /// The summary of its last trigger.
    pub summary: String,
    /// The severity of its last trigger.
    pub severity: String,
}

/// One service.
#[derive(Debug)]
pub struct Pagerduty {
    /// Its integration key.
    pub routing_key: String,
    /// By `dedup_key`.
    pub alerts: BTreeMap<String, Alert>,
}

impl Pagerduty {
    /// A service without alerts.
    pub fn new(routing_key: &str) -> Self {
        Self { routing_key: routing_key.to_owned(), alerts: BTreeMap::new() }
    }

    fn take(&mut self, event: &Map<String, Value>) -> Result<String, String> {
        let known = ["routing_key", "event_action", "dedup_key", "payload", "links", "images", "client", "client_url"];
        only(event, &known)?;
        let text = |name: &str| event.get(name).and_then(Value::as_str).unwrap_or_default();
        if text("routing_key").len() != 32 || text("routing_key") != self.routing_key {
            return Err("'routing_key' is not valid".to_owned());
        }
        let key = text("dedup_key").to_owned();
        if key.is_empty() || key.len() > 255 {
            return Err("'dedup_key' is missing or over 255 characters".to_owned());
        }
        let alert = self.alerts.entry(key.clone()).or_default();
        match text("event_action") {
            "trigger" => {
                let payload = event.get("payload").and_then(Value::as_object).ok_or("'payload' is missing")?;
                (alert.summary, alert.severity) = read(payload)?;
                alert.triggers += 1;
                alert.rings += usize::from(!alert.is_open);
                alert.is_open = true;
            }
            // For an alert that is not open both are dropped without a word.
            "acknowledge" => alert.acknowledges += usize::from(alert.is_open),
            "resolve" => alert.resolves += usize::from(std::mem::take(&mut alert.is_open)),
            other => return Err(format!("'event_action' `{other}` is invalid")),
        }
        for link in event.get("links").and_then(Value::as_array).into_iter().flatten() {
            only(link.as_object().ok_or("'links' holds no link")?, &["href", "text"])?;
        }
        Ok(key)
    }
}

fn read(payload: &Map<String, Value>) -> Result<(String, String), String> {
    let known = ["summary", "source", "severity", "timestamp", "component", "group", "class", "custom_details"];
    only(payload, &known)?;
    let text = |name: &str| payload.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (summary, severity) = (text("summary"), text("severity"));
    if !(1..=1_024).contains(&summary.chars().count()) || text("source").is_empty() {
        return Err("'payload.summary' or 'payload.source' is missing or too long".to_owned());
    }
    if !["critical", "error", "warning", "info"].contains(&severity.as_str()) {
        return Err("'payload.severity' is invalid".to_owned());
    }
    Ok((summary, severity))
}

impl Family for Pagerduty {
    fn answer(&mut self, request: &Seen) -> Reply {
        if (request.method.as_str(), request.path.as_str()) != ("POST", "/v2/enqueue") {
            return Reply::text(404, "");
        }
        match self.take(request.json().as_object().unwrap_or(&Map::new())) {
            Ok(key) => {
                Reply::json(202, &json!({ "status": "success", "message": "Event processed", "dedup_key": key }))
            }
            Err(error) => {
                let message = "Event object is invalid";
                Reply::json(400, &json!({ "status": "invalid event", "message": message, "errors": [error] }))
            }
        }
    }
}
