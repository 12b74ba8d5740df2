//! Messages of a subject that no stream keeps: what nobody hears is gone.

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};

use crate::connect::Bus;
use crate::trace::Trace;

/// Why a subject cannot be listened to.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen to {subject}")]
pub struct SubscribeError {
    /// Which.
    pub subject: String,
    /// Why.
    #[source]
    source: async_nats::SubscribeError,
}

/// An ear at a subject. It survives lost connections; what is sent meanwhile is not heard.
#[derive(Debug)]
pub struct Subscription(async_nats::Subscriber);

impl Bus {
    /// Listens to `subject`, which may hold wildcards.
    ///
    /// # Errors
    /// When it is no subject. What the server forbids is not heard, and told in the log.
    pub async fn subscribe(&self, subject: &str) -> Result<Subscription, SubscribeError> {
        let heard = self.client.subscribe(subject.to_owned()).await;
        heard.map(Subscription).map_err(|source| SubscribeError { subject: subject.to_owned(), source })
    }
}

impl Subscription {
    /// The next message, once it comes, and where it stands in a trace; `None` when the connection was closed
    /// for good.
    pub async fn next(&mut self) -> Option<(Bytes, Trace)> {
        let message = self.0.next().await?;
        Some((message.payload, message.headers.as_ref().map(Trace::of).unwrap_or_default()))
    }

    /// The next message that has come; never waits.
    pub fn take(&mut self) -> Option<Bytes> {
        // Without the budget that ends a long run of messages early.
        let next = tokio::task::unconstrained(self.0.next()).now_or_never();
        next.flatten().map(|message| message.payload)
    }
}
