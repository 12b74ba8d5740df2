//! What a record says goes out, under derived ids: a repeat is recognised.
//!
//! Each lever has a lane of its own, and so have the alerts and the outcomes of each service: what
//! is told of one thing arrives in order, and a stream that takes nothing holds up nobody else.

use std::collections::BTreeMap;
use std::time::Duration;

use bellwether_bus::{Bus, Clock, PublishError, Trace};
use bellwether_protocol::action::ActionOutcome;
use bellwether_protocol::alert::Alert;
use bellwether_protocol::cloud_event::CloudEvent;
use bellwether_protocol::codec;
use bellwether_protocol::reason::{Reason, Verdict};
use bellwether_protocol::subject::Prefix;
use bellwether_protocol::time::Timestamp;
use tokio::sync::mpsc;

use crate::core::Relayed;
use crate::figures;

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
    /// What says what it is, if it leaves the mesh.
    headers: Vec<(&'static str, String)>,
    /// Where the decision stands that it follows, and when it was made.
    trace: Trace,
    decided: Timestamp,
    body: Vec<u8>,
}

/// The lanes that were opened; each is one task, and there are as many as levers and services.
struct Lanes {
    bus: Bus,
    clock: Clock,
    open: BTreeMap<String, mpsc::Sender<Outgoing>>,
}

/// Relays records as they come, for ever.
pub(crate) async fn relay_on(bus: Bus, clock: Clock, mut records: mpsc::Receiver<Box<Relayed>>) {
    let mut lanes = Lanes { bus, clock, open: BTreeMap::new() };
    while let Some(relayed) = records.recv().await {
        lanes.relay(*relayed).await;
    }
}

/// Publishes an alert that no record stands behind.
pub(crate) async fn page(bus: Bus, alert: Box<Alert>) {
    let id = format!("alert-{}-{}-stopped", alert.incident, alert.record);
    if let Some(outgoing) = telling(bus.prefix(), &alert, id, &Trace::default()) {
        publish(&bus, &outgoing).await;
    }
}

/// An alert on its way out.
fn telling(prefix: &Prefix, alert: &Alert, id: String, trace: &Trace) -> Option<Outgoing> {
    let event = CloudEvent::new(prefix, "alert", id.clone(), alert.incident.to_string(), alert.at);
    let body = codec::to_json("alert", alert).ok()?;
    let subject = prefix.alert(alert.severity, &alert.service);
    let headers = event.headers().to_vec();
    Some(Outgoing { subject, id, headers, trace: trace.clone(), decided: alert.at, body })
}

impl Lanes {
    async fn relay(&mut self, Relayed { record, events, trace }: Relayed) {
        if record.reasons.iter().any(|reason| matches!(reason, Reason::TakingBack { .. })) {
            bellwether_bus::fault::point("between append and relay").await;
        }
        for reason in &record.reasons {
            let (service, number, trace) = (&record.service, record.ordinal.0, trace.id());
            let text = serde_json::to_string(reason).unwrap_or_default();
            if is_turn(reason) {
                tracing::info!(%service, record = number, trace, reason = text, "decided");
            } else {
                tracing::debug!(%service, record = number, trace, reason = text, "decided");
            }
        }
        let (prefix, service) = (self.bus.prefix().clone(), &record.service);
        let mut all: Vec<(String, Outgoing)> = Vec::new();
        let out = |subject, id, headers: Option<CloudEvent>, body| {
            let headers = headers.map(|event| event.headers().to_vec()).unwrap_or_default();
            Outgoing { subject, id, headers, trace: trace.clone(), decided: record.now, body }
        };
        for action in &record.actions {
            let Ok(body) = codec::to_json("action", action) else { continue };
            let subject = prefix.action(&action.service, &action.lever);
            all.push((subject.clone(), out(subject, format!("action-{}", action.id), None, body)));
        }
        for alert in &record.alerts {
            let id = format!("alert-{}-{}", alert.incident, alert.seq);
            let outgoing = telling(&prefix, alert, id, &trace);
            all.extend(outgoing.map(|outgoing| (format!("alerts of {service}"), outgoing)));
        }
        for outcome in &record.outcomes {
            let Ok(body) = codec::to_json("outcome", outcome) else { continue };
            let id = format!("outcome-{service}-{}", outcome.command);
            let about = outcome.rollout.as_ref().map_or_else(|| service.to_string(), ToString::to_string);
            let event = CloudEvent::new(&prefix, "outcome", id.clone(), about, outcome.at);
            let subject = prefix.outcome(service, &outcome.command);
            all.push((format!("outcomes of {service}"), out(subject, id, Some(event), body)));
        }
        for event in events {
            let event = event.from_mesh(&prefix);
            let Ok(body) = codec::to_json("CDEvent", &event) else { continue };
            let id = format!("cdevent-{}", event.context.id);
            let outgoing = out(prefix.cdevent(service), id, Some(event.envelope()), body);
            all.push((format!("cdevents of {service}"), outgoing));
        }
        for (lane, outgoing) in all {
            self.put(lane, outgoing).await;
        }
    }

    async fn put(&mut self, lane: String, outgoing: Outgoing) {
        let (bus, clock) = (&self.bus, &self.clock);
        let lane = self.open.entry(lane).or_insert_with(|| {
            let (sender, waiting) = mpsc::channel(LANE_MAX);
            tokio::spawn(drive(bus.clone(), clock.clone(), waiting));
            sender
        });
        // A lane ends only with the whole program.
        let _ = lane.send(outgoing).await;
    }
}

/// Whether the life of a rollout turned: the rest is its breathing.
fn is_turn(reason: &Reason) -> bool {
    match reason {
        Reason::Answered { outcome, .. } => *outcome != ActionOutcome::Done,
        Reason::Asked { .. } | Reason::CommandDone { .. } => false,
        Reason::VerdictChanged { judgement } => judgement.verdict == Verdict::Fail,
        _ => true,
    }
}

async fn drive(bus: Bus, clock: Clock, mut waiting: mpsc::Receiver<Outgoing>) {
    while let Some(outgoing) = waiting.recv().await {
        if publish(&bus, &outgoing).await {
            figures::relayed(outgoing.decided, clock.now());
        }
    }
}

/// Whether it was stored.
async fn publish(bus: &Bus, outgoing: &Outgoing) -> bool {
    let Outgoing { subject, id, headers, trace, body, .. } = outgoing;
    for _ in 0..TRIES {
        let sent = bus.publish_with(subject.clone(), id, headers, body.clone());
        match trace.around(sent).await {
            Ok(_) => return true,
            Err(error) => {
                tracing::error!(%id, error = &error as &dyn std::error::Error, "could not relay");
                if !matches!(error, PublishError::Unknown { .. }) {
                    return false;
                }
            }
        }
        tokio::time::sleep(RETRY_AFTER).await;
    }
    false
}
