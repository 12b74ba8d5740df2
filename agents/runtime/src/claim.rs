//! Who acts on a lever: one agent at a time, by a claim that must be renewed.
//!
//! A claim keeps two agents from doing the same work; it is not what keeps them safe. Safety is
//! the ledger's: look first, never an older generation.

use std::time::Duration;

use bellwether_bus::{Bus, Kv, KvError};
use bellwether_protocol::id::AgentId;
use bellwether_protocol::subject::Bucket;
use tokio::sync::watch;
use tokio::time::Instant;

/// Until when this agent may act; `None` or past: it stands by.
pub(crate) type Held = watch::Receiver<Option<Instant>>;

/// How often a claim is renewed, or tried for.
const RENEW_EVERY: Duration = Duration::from_secs(5);
/// For how long a renewal lets us act: the bucket forgets a claim after 15 s, and the time until
/// then is for a set that is under way.
const HOLD: Duration = Duration::from_secs(10);

/// Whether `held` still lets us act.
pub(crate) fn is_held(held: &Held) -> bool {
    held.borrow().is_some_and(|until| Instant::now() < until)
}

/// Tries for the claim on `key` for ever, and renews it while held.
pub(crate) async fn keep(bus: Bus, key: String, agent: AgentId, held: watch::Sender<Option<Instant>>) {
    let bucket = bus.kv(Bucket::Claims);
    let me = agent.to_string();
    let mut holder = String::new();
    loop {
        let began = Instant::now();
        match tokio::time::timeout(RENEW_EVERY, claim(&bucket, &key, &me)).await {
            Ok(Ok(Claimed::Ours)) => {
                if holder != me {
                    tracing::info!(lever = key, "acting on this lever");
                    holder.clone_from(&me);
                }
                let _ = held.send(Some(began + HOLD));
            }
            Ok(Ok(Claimed::Other(other))) => {
                if holder != other {
                    tracing::info!(lever = key, holder = other, "standing by");
                    holder = other;
                }
                let _ = held.send(None);
            }
            // Unknown: what we hold runs out by itself.
            Ok(Err(error)) => tracing::debug!(lever = key, %error, "claim not renewed"),
            Err(_) => tracing::debug!(lever = key, "claim not renewed in time"),
        }
        tokio::time::sleep_until(began + RENEW_EVERY).await;
    }
}

enum Claimed {
    Other(String),
    Ours,
}

async fn claim(bucket: &Kv, key: &str, me: &str) -> Result<Claimed, KvError> {
    let value = me.as_bytes().to_vec();
    let written = match bucket.get(key).await? {
        None => bucket.create(key, value).await,
        Some(entry) if entry.value.as_ref() == Some(&value) => bucket.update(key, value, entry.revision).await,
        Some(entry) => {
            let other = entry.value.unwrap_or_default();
            return Ok(Claimed::Other(String::from_utf8_lossy(&other).chars().take(200).collect()));
        }
    };
    match written {
        Ok(_) => Ok(Claimed::Ours),
        Err(KvError::Conflict { .. }) => Ok(Claimed::Other("another agent, just now".to_owned())),
        Err(error) => Err(error),
    }
}
