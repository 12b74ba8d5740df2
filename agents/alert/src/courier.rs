//! Carries what waits in the outbox to one bridge, again and again, until it is told or too late.

use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bellwether_bus::metrics::{self, Counter, KeyValue};
use bellwether_bus::trace::SpanKind;
use bellwether_bus::{Hop, Trace};
use bellwether_protocol::alert::{Alert, IncidentKind};
use bellwether_protocol::time::{Span, Timestamp};
use tokio::sync::watch;

use crate::bridge::{Bridge, Delivery, DeliveryError, Receipt, Takes};
use crate::case::Thread;
use crate::claim::Mesh;
use crate::outbox::{Batch, Outbox, OutboxError, Waiting};

/// The outbox, shared by the one reader and every courier.
#[derive(Debug, Clone)]
pub(crate) struct Shelf {
    outbox: Arc<Mutex<Outbox>>,
    /// Rings when something was put in.
    bell: Arc<watch::Sender<()>>,
}

impl Shelf {
    pub(crate) fn new(outbox: Outbox) -> Self {
        Self { outbox: Arc::new(Mutex::new(outbox)), bell: Arc::new(watch::Sender::new(())) }
    }

    /// Shows how much waits for each bridge to whoever asks for this process's figures.
    pub(crate) fn show(&self, bridges: &[String]) {
        let (own, bridges) = (self.clone(), bridges.to_vec());
        metrics::gauge("bellwether.alerts.waiting", "{alert}", "Alerts that a bridge has not told yet", move |gauge| {
            let waiting = own.lock().waiting();
            for bridge in &bridges {
                let count = waiting.get(bridge).copied().unwrap_or_default();
                gauge.observe(count as f64, &[KeyValue::new("bridge", bridge.clone())]);
            }
        });
    }

    pub(crate) fn ring(&self) {
        self.bell.send_replace(());
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Outbox> {
        // The contents are replaced as a whole, so a panic elsewhere cannot leave half of them.
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a bridge keeps of an incident, on disk before it goes on.
#[derive(Debug)]
pub(crate) struct Notes {
    pub(crate) shelf: Shelf,
    pub(crate) alert: Alert,
    pub(crate) bridge: String,
}

impl Notes {
    /// What is kept.
    pub(crate) fn read(&self) -> Thread {
        let outbox = self.shelf.lock();
        outbox.case(&self.alert).and_then(|case| case.threads.get(&self.bridge)).cloned().unwrap_or_default()
    }

    /// Changes it. When that fails the message has to be tried again: it would be doubled otherwise.
    pub(crate) fn write(&self, change: impl FnOnce(&mut Thread)) -> Result<(), DeliveryError> {
        let written = self.shelf.lock().note(&self.alert, &self.bridge, change);
        written.map_err(|error| DeliveryError::Retry { why: error.to_string(), after: None })
    }
}

/// How long to wait between tries.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// Before the second try.
    pub(crate) first: Duration,
    /// The longest wait that we choose ourselves.
    pub(crate) longest: Duration,
}

/// Quick at first, since a page is worth most in its first minute.
pub(crate) const PACE: Pace = Pace { first: Duration::from_secs(1), longest: Duration::from_secs(300) };
/// Most tries of one message: with [`PACE`] about two hours, after which it is no longer news.
pub(crate) const TRIES_MAX: u32 = 30;
/// How often to look without a bell, in case the clock was set.
const LOOK_EVERY: Duration = Duration::from_secs(5);

impl Pace {
    /// Doubles with each try, and is spread so that receivers that come back are not flooded.
    pub(crate) fn pause(self, tries: u32) -> Duration {
        let doubled = self.first.saturating_mul(2_u32.saturating_pow(tries.min(16)));
        doubled.min(self.longest) * fastrand::u32(90..=110) / 100
    }
}

/// Serves one bridge.
pub(crate) struct Courier {
    pub(crate) bridge: Bridge,
    pub(crate) shelf: Shelf,
    pub(crate) mesh: Mesh,
    pub(crate) pace: Pace,
}

impl Courier {
    /// Goes on for ever, or until the outbox cannot be written.
    pub(crate) async fn serve(self) -> OutboxError {
        let mut bell = self.shelf.bell.subscribe();
        // What one message is told to wait, the others wait too.
        let mut rests_until = Timestamp::default();
        let together = matches!(self.bridge.takes(), Takes::NewsAtOnce | Takes::Newest);
        loop {
            let now = self.mesh.now();
            // The lock is never held across an await.
            let next = self.shelf.lock().next(&self.bridge.name, together, now);
            let until = match next {
                Ok(batch) if rests_until <= now => {
                    match self.carry(&batch).await {
                        Ok(until) => rests_until = until.unwrap_or(rests_until),
                        Err(error) => return error,
                    }
                    continue;
                }
                Ok(_) => Some(rests_until),
                Err(until) => until.map(|until| until.max(rests_until)),
            };
            let wait = until.map_or(LOOK_EVERY, |until| until.since(now).to_std().min(LOOK_EVERY));
            tokio::select! {
                _ = bell.changed() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Tries `batch` once; says until when the other side wants to be left alone, if it does.
    async fn carry(&self, batch: &Batch) -> Result<Option<Timestamp>, OutboxError> {
        let Waiting { alert, occasion, tries, standby, .. } = &batch.newest;
        let most = batch.waiting.iter().map(|waiting| waiting.tries).max().unwrap_or(0);
        if *standby && let Some(claims) = self.mesh.claims() {
            if claims.is_told(alert, *occasion).await {
                return self.shelf.lock().done(batch, false, None).map(|()| None);
            }
            tracing::warn!(incident = %alert.incident, "another agent claimed this page and has not told it: telling it from here");
        }
        let (incident, seq, bridge) = (&alert.incident, alert.seq, &self.bridge.name);
        let notes = Notes { shelf: self.shelf.clone(), alert: alert.clone(), bridge: bridge.clone() };
        let delivery = Delivery { batch, notes: &notes, now: self.mesh.now() };
        let may_give_up = self.bridge.repeats().is_none() || alert.kind == IncidentKind::Resolved;
        let hop = telling(batch, bridge);
        let told = hop.run(self.bridge.deliver(&delivery)).await;
        let gives_up = may_give_up && tries.saturating_add(1) >= TRIES_MAX;
        count(&hop, bridge, &told, gives_up);
        drop(hop);
        match told {
            Ok(receipt) => {
                tracing::debug!(%incident, seq, bridge, said = receipt.said, "delivered");
                self.finish(batch, true).await?;
            }
            Err(DeliveryError::Refused { why }) => {
                tracing::error!(%incident, seq, bridge, why, "alert not delivered, not tried again");
                self.finish(batch, false).await?;
            }
            Err(DeliveryError::Retry { why, .. }) if gives_up => {
                tracing::error!(%incident, seq, bridge, why, tries, "alert not delivered, given up");
                self.finish(batch, false).await?;
            }
            Err(DeliveryError::Retry { why, after }) => {
                let pause = after.unwrap_or(Duration::ZERO).max(self.pace.pause(most));
                tracing::warn!(%incident, seq, bridge, why, wait_s = pause.as_secs(), "alert not delivered yet");
                let at = self.mesh.now() + span(pause);
                self.shelf.lock().again(batch, at)?;
                return Ok(after.map(|wait| self.mesh.now() + span(wait)));
            }
        }
        Ok(None)
    }

    async fn finish(&self, batch: &Batch, told: bool) -> Result<(), OutboxError> {
        if let Some(claims) = self.mesh.claims().filter(|_| !self.bridge.is_local()) {
            for Waiting { alert, occasion, .. } in &batch.waiting {
                claims.told(alert, *occasion).await;
            }
        }
        let is_open = batch.newest.alert.kind != IncidentKind::Resolved;
        let again = self.bridge.repeats().filter(|_| told && is_open).map(|every| self.mesh.now() + every);
        self.shelf.lock().done(batch, told, again)
    }
}

/// The hop of one try to tell `batch`; what waited with the newest took part.
fn telling(batch: &Batch, bridge: &str) -> Hop {
    let causes: Vec<Trace> = batch.waiting.iter().map(|waiting| waiting.trace.clone()).collect();
    let attributes = vec![
        KeyValue::new("bellwether.bridge", bridge.to_owned()),
        KeyValue::new("bellwether.incident", batch.newest.alert.incident.to_string()),
    ];
    Hop::because(&batch.newest.trace, &causes, SpanKind::Internal, "tell", attributes)
}

/// Counts what came of a try.
fn count(hop: &Hop, bridge: &str, told: &Result<Receipt, DeliveryError>, gives_up: bool) {
    let outcome = match told {
        Ok(_) => "delivered",
        Err(DeliveryError::Refused { .. }) => "refused",
        Err(DeliveryError::Retry { .. }) if gives_up => "given_up",
        Err(DeliveryError::Retry { .. }) => "retried",
    };
    TOLD.add(1, &[KeyValue::new("bridge", bridge.to_owned()), KeyValue::new("outcome", outcome)]);
    if let Err(error) = told {
        hop.fail(outcome, error.to_string());
    }
}

static TOLD: LazyLock<Counter<u64>> =
    LazyLock::new(|| metrics::counter("bellwether.alerts.told", "Tries to tell an alert, by bridge and outcome"));

fn span(duration: Duration) -> Span {
    Span::from_ms(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}
