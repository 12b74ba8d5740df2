//! What every bridge does, and the one place that lists them.

use std::time::Duration;

use bellwether_protocol::alert::{Alert, Severity};

use crate::console::Console;
use crate::webhook::Webhook;

/// A bridge took an alert. Whether somebody reads it cannot be seen from here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// What the other side answered.
    pub said: String,
}

/// Why an alert was not delivered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeliveryError {
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

/// Every kind of bridge.
#[derive(Debug)]
pub(crate) enum Bridge {
    Console(Console),
    Webhook(Webhook),
}

impl Bridge {
    /// Its name in the outbox. Stays the same over restarts.
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Console(_) => "console",
            Self::Webhook(webhook) => webhook.name(),
        }
    }

    /// Whether it wants alerts that ask so much of people.
    pub(crate) fn wants(&self, severity: Severity) -> bool {
        match self {
            Self::Console(_) => true,
            Self::Webhook(webhook) => severity >= webhook.min_severity(),
        }
    }

    /// Whether what it says stays near this agent, so that other regions' agents say it too.
    pub(crate) fn is_local(&self) -> bool {
        match self {
            Self::Console(_) => true,
            Self::Webhook(_) => false,
        }
    }

    pub(crate) async fn deliver(&self, alert: &Alert) -> Result<Receipt, DeliveryError> {
        match self {
            Self::Console(console) => console.deliver(alert),
            Self::Webhook(webhook) => webhook.deliver(alert).await,
        }
    }
}
