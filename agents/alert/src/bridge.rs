//! What every bridge does, and the one place that lists them.

use std::time::Duration;

use bellwether_protocol::alert::{Alert, Severity};
use bellwether_protocol::subject::Prefix;
use bellwether_protocol::time::{Span, Timestamp};

use crate::alertmanager::Alertmanager;
use crate::case::{Occasion, Thread};
use crate::config::{BridgeConfig, BridgeFlaw};
use crate::console::Console;
use crate::courier::Notes;
use crate::email::Email;
use crate::outbox::Batch;
use crate::pagerduty::Pagerduty;
use crate::slack::Slack;
use crate::slack_webhook::SlackWebhook;
use crate::webhook::Webhook;

/// A bridge took an alert. Whether somebody reads it cannot be seen from here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Receipt {
    /// What the other side answered.
    pub(crate) said: String,
}

/// Why an alert was not delivered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DeliveryError {
    /// The other side will never take it as it is.
    #[error("refused: {why}")]
    Refused {
        /// What it said, and how to put it right.
        why: String,
    },
    /// It may work later.
    #[error("not now: {why}")]
    Retry {
        /// What it said.
        why: String,
        /// When it asked to be tried again, if it did.
        after: Option<Duration>,
    },
}

/// What is to be told, and what is known of it.
#[derive(Debug)]
pub(crate) struct Delivery<'a> {
    pub(crate) batch: &'a Batch,
    pub(crate) notes: &'a Notes,
    pub(crate) now: Timestamp,
}

impl Delivery<'_> {
    /// What is true now.
    pub(crate) fn newest(&self) -> &Alert {
        &self.batch.newest.alert
    }

    pub(crate) fn occasion(&self) -> Occasion {
        self.batch.newest.occasion
    }

    /// How the incident began. The same for every agent that was there.
    pub(crate) fn first(&self) -> &Alert {
        &self.batch.case.first
    }

    /// What this bridge keeps of the incident.
    pub(crate) fn thread(&self) -> Thread {
        self.notes.read()
    }

    /// The most that is asked by what waits.
    pub(crate) fn severity(&self) -> Severity {
        self.batch.waiting.iter().map(|waiting| waiting.alert.severity).max().unwrap_or(Severity::Info)
    }
}

/// What a bridge wants to be told of an incident.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Takes {
    /// Every message, one by one.
    Each,
    /// Only changes of state, one by one.
    News,
    /// Only changes of state, all that wait at once.
    NewsAtOnce,
    /// What is true now: all that waits at once.
    Newest,
}

/// One bridge, under the name that the file gives it.
#[derive(Debug)]
pub(crate) struct Bridge {
    /// Its name in the outbox. Stays the same over restarts.
    pub(crate) name: String,
    pub(crate) kind: Kind,
}

#[derive(Debug)]
pub(crate) enum Kind {
    Alertmanager(Alertmanager),
    Console(Console),
    Email(Email),
    Pagerduty(Pagerduty),
    Slack(Slack),
    SlackWebhook(SlackWebhook),
    Webhook(Webhook),
}

impl Bridge {
    /// The bridge that `config` describes. The client must not follow redirects.
    pub(crate) fn new(
        name: &str,
        config: &BridgeConfig,
        link: &str,
        prefix: &Prefix,
        client: &reqwest::Client,
    ) -> Result<Self, BridgeFlaw> {
        let (client, link) = (client.clone(), link.to_owned());
        let kind = match config {
            BridgeConfig::Alertmanager(config) => Alertmanager::new(config, client, link).map(Kind::Alertmanager),
            BridgeConfig::Email(config) => Email::new(config).map(Kind::Email),
            BridgeConfig::Pagerduty(config) => Pagerduty::new(config, client, link).map(Kind::Pagerduty),
            BridgeConfig::Slack(config) => Slack::new(config, client, link).map(Kind::Slack),
            BridgeConfig::SlackWebhook(config) => SlackWebhook::new(config, client, link).map(Kind::SlackWebhook),
            BridgeConfig::Webhook(config) => Webhook::new(config, prefix, client).map(Kind::Webhook),
        };
        let key = format!("bridges.{name}");
        kind.map(|kind| Self { name: name.to_owned(), kind }).map_err(|why| BridgeFlaw { key, why })
    }

    /// What it wants to be told, and whether each agent tells it for itself: what it says stays near the
    /// agent, or is the same from every agent.
    fn habits(&self) -> (Takes, bool) {
        match self.kind {
            Kind::Alertmanager(_) => (Takes::Newest, true),
            Kind::Console(_) => (Takes::Each, true),
            Kind::Email(_) => (Takes::News, false),
            Kind::Pagerduty(_) | Kind::SlackWebhook(_) => (Takes::NewsAtOnce, false),
            Kind::Slack(_) => (Takes::Newest, false),
            Kind::Webhook(_) => (Takes::Each, false),
        }
    }

    pub(crate) fn takes(&self) -> Takes {
        self.habits().0
    }

    /// Whether each agent tells it for itself.
    pub(crate) fn is_local(&self) -> bool {
        self.habits().1
    }

    /// How often what was told is told again while the incident is open.
    pub(crate) fn repeats(&self) -> Option<Span> {
        match &self.kind {
            Kind::Alertmanager(alertmanager) => Some(alertmanager.resend_every),
            _ => None,
        }
    }

    pub(crate) async fn deliver(&self, delivery: &Delivery<'_>) -> Result<Receipt, DeliveryError> {
        match &self.kind {
            Kind::Alertmanager(bridge) => bridge.deliver(delivery).await,
            Kind::Console(bridge) => bridge.deliver(delivery),
            Kind::Email(bridge) => bridge.deliver(delivery).await,
            Kind::Pagerduty(bridge) => bridge.deliver(delivery).await,
            Kind::Slack(bridge) => bridge.deliver(delivery).await,
            Kind::SlackWebhook(bridge) => bridge.deliver(delivery).await,
            Kind::Webhook(bridge) => bridge.deliver(delivery).await,
        }
    }
}

#[cfg(test)]
#[path = "bridge_tests.rs"]
pub(crate) mod tests;
