//! The heartbeat: says every few seconds that the agent is there, and anchors its clock on the way.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bellwether_bus::metrics::{self, KeyValue};
use bellwether_bus::{Bus, Clock};
use bellwether_protocol::codec::to_msgpack;
use bellwether_protocol::id::AgentId;
use bellwether_protocol::presence::{PRESENCE_EVERY, Presence};
use bellwether_protocol::subject::Bucket;
use tokio::sync::Notify;

/// What the agent says of itself.
#[derive(Debug)]
pub(crate) struct Heartbeat {
    presence: Mutex<Presence>,
    /// Levers of which it is not known yet who acts on them, and where they stand.
    unread: Mutex<BTreeSet<String>>,
    changed: Notify,
    bus: Bus,
    clock: Clock,
}

impl Heartbeat {
    pub(crate) fn new(agent: AgentId, bus: Bus, clock: Clock) -> Self {
        let presence = Presence::new(agent, env!("CARGO_PKG_VERSION"), clock.now());
        Self { presence: Mutex::new(presence), unread: Mutex::default(), changed: Notify::new(), bus, clock }
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut Presence)) {
        let mut presence = self.lock();
        let before = presence.clone();
        change(&mut presence);
        if *presence != before {
            self.changed.notify_one();
        }
    }

    /// What only the next regular heartbeat needs to say.
    pub(crate) fn note(&self, change: impl FnOnce(&mut Presence)) {
        change(&mut self.lock());
    }

    pub(crate) fn now(&self) -> bellwether_protocol::time::Timestamp {
        self.clock.now()
    }

    /// A lever is to be served, and until it was read this agent is alive and not ready.
    pub(crate) fn begins(&self, lever: &str) {
        self.unread().insert(lever.to_owned());
    }

    /// A lever was read, or another agent acts on it.
    pub(crate) fn settles(&self, lever: &str) {
        self.unread().remove(lever);
    }

    fn unread(&self) -> std::sync::MutexGuard<'_, BTreeSet<String>> {
        self.unread.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ticks that wait to be sent.
    pub(crate) fn spooled(&self) -> u64 {
        self.lock().spooled
    }

    /// Tries once; [`Heartbeat::run`] goes on and tells what is wrong.
    pub(crate) async fn first(&self) {
        let _ = tokio::time::timeout(PRESENCE_EVERY.to_std(), self.beat()).await;
    }

    pub(crate) async fn run(self: Arc<Self>) {
        let mut was_heard = true;
        loop {
            let sent = tokio::time::timeout(WRITE_TIMEOUT, self.beat()).await;
            let error = match sent {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(error),
                Err(_) => {
                    Some(format!("no answer in {} s: is NATS there, and has its disk room?", WRITE_TIMEOUT.as_secs()))
                }
            };
            // One line when it begins and one when it ends, not one every few seconds.
            match (&error, was_heard) {
                (Some(error), true) => tracing::warn!(error, "heartbeat not stored; others will think this agent gone"),
                (None, false) => tracing::info!("heartbeat stored again"),
                _ => {}
            }
            was_heard = error.is_none();
            let _ = tokio::time::timeout(PRESENCE_EVERY.to_std(), self.changed.notified()).await;
        }
    }

    /// Shows what it says to whoever asks for this process's figures and health.
    pub(crate) fn show(self: &Arc<Self>) {
        let own = Arc::clone(self);
        let levers = "Whether a lever that is held here was read back";
        metrics::gauge("bellwether.levers.read", "1", levers, move |gauge| {
            for (service, held) in &own.lock().levers {
                for reading in held {
                    let labels = [("service", service.to_string()), ("lever", reading.lever.to_string())];
                    let is_read = if reading.value.is_some() { 1.0 } else { 0.0 };
                    gauge.observe(is_read, &labels.map(|(key, value)| KeyValue::new(key, value)));
                }
            }
        });
        let own = Arc::clone(self);
        metrics::check("levers", move || {
            let presence = own.lock();
            let unread = presence.levers.values().flatten().filter(|reading| reading.value.is_none());
            let names: Vec<String> = unread.map(|reading| reading.lever.to_string()).collect();
            let wrong = (!names.is_empty())
                .then(|| format!("cannot be read back, or their targets differ: {}", names.join(", ")));
            let unread: Vec<String> = own.unread().iter().cloned().collect();
            let early = (!unread.is_empty()).then(|| format!("not read yet: {}", unread.join(", ")));
            let all: Vec<String> = wrong.into_iter().chain(early).collect();
            (!all.is_empty()).then(|| all.join("; "))
        });
    }

    async fn beat(&self) -> Result<(), String> {
        let presence = {
            let mut presence = self.lock();
            presence.at = self.clock.now();
            presence.clock_offset_ms = self.clock.offset_ms();
            presence.clone()
        };
        let key = presence.agent.to_string();
        let body = to_msgpack("presence", &presence).map_err(|error| error.to_string())?;
        let bucket = self.bus.kv(Bucket::Presence);
        let sent_at = Instant::now();
        let revision = bucket.put(&key, body).await.map_err(|error| error.to_string())?;
        let received_at = Instant::now();
        // The acknowledgement carries no time, so the message is read back for the one NATS gave it.
        let stored = bucket.get(&key).await.map_err(|error| error.to_string())?;
        if let Some(entry) = stored.filter(|entry| entry.revision == revision) {
            self.clock.anchor(entry.at, sent_at, received_at);
        }
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Presence> {
        self.presence.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A heartbeat that takes longer is given up for the next one, which is newer.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
