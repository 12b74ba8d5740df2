//! Carries what waits in the outbox to one bridge, again and again, until it is told or too late.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bellwether_bus::Clock;
use bellwether_protocol::time::Span;
use tokio::sync::watch;

use crate::bridge::{Bridge, DeliveryError};
use crate::claim::Claims;
use crate::outbox::{Outbox, OutboxError, Waiting};

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

    pub(crate) fn ring(&self) {
        self.bell.send_replace(());
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Outbox> {
        // The contents are replaced as a whole, so a panic elsewhere cannot leave half of them.
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner)
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
const TRIES_MAX: u32 = 30;
/// How often to look without a bell, in case the clock was set.
const LOOK_EVERY: Duration = Duration::from_secs(5);

impl Pace {
    /// Doubles with each try, and is spread so that receivers that come back are not flooded.
    fn pause(self, tries: u32) -> Duration {
        let doubled = self.first.saturating_mul(2_u32.saturating_pow(tries.min(16)));
        doubled.min(self.longest) * fastrand::u32(90..=110) / 100
    }
}

/// Serves one bridge for ever.
pub(crate) async fn serve(
    bridge: Bridge,
    shelf: Shelf,
    claims: Option<Claims>,
    clock: Clock,
    pace: Pace,
) -> OutboxError {
    let mut bell = shelf.bell.subscribe();
    loop {
        // The lock is never held across an await.
        let next = shelf.lock().next(bridge.name(), clock.now());
        let outcome = match next {
            Ok(waiting) => carry(&bridge, &shelf, claims.as_ref(), &clock, pace, &waiting).await,
            Err(until) => {
                let wait = until.map_or(LOOK_EVERY, |until| until.since(clock.now()).to_std().min(LOOK_EVERY));
                tokio::select! {
                    _ = bell.changed() => {}
                    () = tokio::time::sleep(wait) => {}
                }
                Ok(())
            }
        };
        if let Err(error) = outcome {
            return error;
        }
    }
}

async fn carry(
    bridge: &Bridge,
    shelf: &Shelf,
    claims: Option<&Claims>,
    clock: &Clock,
    pace: Pace,
    waiting: &Waiting,
) -> Result<(), OutboxError> {
    let Waiting { number, alert, tries, standby, .. } = waiting;
    if *standby && let Some(claims) = claims {
        if claims.is_told(alert).await {
            return shelf.lock().done(*number);
        }
        tracing::warn!(incident = %alert.incident, "another agent claimed this page and has not told it: telling it from here");
    }
    let (incident, seq, name) = (&alert.incident, alert.seq, bridge.name());
    match bridge.deliver(alert).await {
        Ok(receipt) => {
            tracing::debug!(%incident, seq, bridge = name, said = receipt.said, "delivered");
            finish(bridge, shelf, claims, waiting).await
        }
        Err(DeliveryError::Refused { why }) => {
            tracing::error!(%incident, seq, bridge = name, why, "alert not delivered, not tried again");
            finish(bridge, shelf, claims, waiting).await
        }
        Err(DeliveryError::Retry { why, .. }) if tries.saturating_add(1) >= TRIES_MAX => {
            tracing::error!(%incident, seq, bridge = name, why, tries, "alert not delivered, given up");
            finish(bridge, shelf, claims, waiting).await
        }
        Err(DeliveryError::Retry { why, after }) => {
            let pause = after.unwrap_or(Duration::ZERO).max(pace.pause(*tries));
            tracing::warn!(%incident, seq, bridge = name, why, wait_s = pause.as_secs(), "alert not delivered yet");
            let pause = Span::from_ms(u64::try_from(pause.as_millis()).unwrap_or(u64::MAX));
            shelf.lock().again(*number, clock.now() + pause)
        }
    }
}

async fn finish(bridge: &Bridge, shelf: &Shelf, claims: Option<&Claims>, waiting: &Waiting) -> Result<(), OutboxError> {
    if let Some(claims) = claims.filter(|_| !bridge.is_local()) {
        claims.told(&waiting.alert).await;
    }
    shelf.lock().done(waiting.number)
}
