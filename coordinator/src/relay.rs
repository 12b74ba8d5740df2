//! What a record says goes out, under derived ids: a repeat is recognised.
//!
//! Each lever has a lane of its own, and so have the alerts and the outcomes of each service: what
//! is told of one thing arrives in order, and a stream that takes nothing holds up nobody else.

use std::collections::BTreeMap;
use std::time::Duration;

use bellwether_bus::{Bus, PublishError};
use bellwether_protocol::alert::Alert;
use bellwether_protocol::codec;
use bellwether_protocol::reason::Reason;
use tokio::sync::mpsc;

use crate::core::Relayed;

/// Messages that wait in one lane. A lane that is full holds the next record back, not its own order.
const LANE_MAX: usize = 256;
/// How often an unanswered message is published again, each time for the bus's own deadline. After
/// ten minutes an action has expired, and whoever starts next relays the rest: the log holds it.
const TRIES: u32 = 20;
/// The pause between tries.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// A message that is on its way out.
#[derive(Debug)]
struct Outgoing {
    subject: String,
    id: String,
    body: Vec<u8>,
}

/// The lanes that were opened; each is one task, and there are as many as levers and services.
struct Lanes {
    bus: Bus,
    open: BTreeMap<String, mpsc::Sender<Outgoing>>,
}

/// Relays records as they come, for ever.
pub(crate) async fn relay_on(bus: Bus, mut records: mpsc::Receiver<Box<Relayed>>) {
    let mut lanes = Lanes { bus, open: BTreeMap::new() };
    while let Some(relayed) = records.recv().await {
        lanes.relay(*relayed).await;
    }
}

/// Publishes an alert that no record stands behind.
pub(crate) async fn page(bus: Bus, alert: Box<Alert>) {
    let subject = bus.prefix().alert(alert.severity, &alert.service);
    let id = format!("alert-{}-{}-stopped", alert.incident, alert.record);
    if let Ok(body) = codec::to_json("alert", &*alert) {
        publish(&bus, &Outgoing { subject, id, body }).await;
    }
}

impl Lanes {
    async fn relay(&mut self, Relayed { record, events }: Relayed) {
        if record.reasons.iter().any(|reason| matches!(reason, Reason::TakingBack { .. })) {
            bellwether_bus::fault::point("between append and relay").await;
        }
        for reason in &record.reasons {
            let reason = serde_json::to_string(reason).unwrap_or_default();
            tracing::info!(service = %record.service, record = record.ordinal.0, reason, "decided");
        }
        let (prefix, service) = (self.bus.prefix().clone(), &record.service);
        for action in &record.actions {
            let subject = prefix.action(&action.service, &action.lever);
            self.put(subject.clone(), subject, format!("action-{}", action.id), "action", action).await;
        }
        for alert in &record.alerts {
            let (subject, id) =
                (prefix.alert(alert.severity, &alert.service), format!("alert-{}-{}", alert.incident, alert.seq));
            self.put(format!("alerts of {service}"), subject, id, "alert", alert).await;
        }
        for outcome in &record.outcomes {
            let (subject, id) =
                (prefix.outcome(service, &outcome.command), format!("outcome-{service}-{}", outcome.command));
            self.put(format!("outcomes of {service}"), subject, id, "outcome", outcome).await;
        }
        for event in events {
            let (subject, id) = (prefix.cdevent(service), format!("cdevent-{}", event.id));
            self.put(format!("cdevents of {service}"), subject, id, "CDEvent", &event.from_mesh(&prefix)).await;
        }
    }

    async fn put<T: serde::Serialize>(
        &mut self,
        lane: String,
        subject: String,
        id: String,
        what: &'static str,
        value: &T,
    ) {
        let Ok(body) = codec::to_json(what, value) else { return };
        let bus = &self.bus;
        let lane = self.open.entry(lane).or_insert_with(|| {
            let (sender, waiting) = mpsc::channel(LANE_MAX);
            tokio::spawn(drive(bus.clone(), waiting));
            sender
        });
        // A lane ends only with the whole program.
        let _ = lane.send(Outgoing { subject, id, body }).await;
    }
}

async fn drive(bus: Bus, mut waiting: mpsc::Receiver<Outgoing>) {
    while let Some(outgoing) = waiting.recv().await {
        publish(&bus, &outgoing).await;
    }
}

async fn publish(bus: &Bus, outgoing: &Outgoing) {
    let Outgoing { subject, id, body } = outgoing;
    for _ in 0..TRIES {
        match bus.publish(subject.clone(), id, body.clone()).await {
            Ok(_) => return,
            Err(error) => {
                tracing::error!(%id, error = &error as &dyn std::error::Error, "could not relay");
                if !matches!(error, PublishError::Unknown { .. }) {
                    return;
                }
            }
        }
        tokio::time::sleep(RETRY_AFTER).await;
    }
}
