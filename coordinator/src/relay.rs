//! What a record says goes out, under derived ids: a repeat is recognised.
//!
//! Each lever has a lane of its own, and so have the alerts and the outcomes of each service: what
//! is told of one thing arrives in order, and a stream that takes nothing holds up nobody else.

use std::collections::BTreeMap;
use std::time::Duration;

use bellwether_bus::{Bus, Clock, Trace};
use bellwether_protocol::action::ActionOutcome;
use bellwether_protocol::alert::Alert;
use bellwether_protocol::cloud_event::CloudEvent;
use bellwether_protocol::codec;
use bellwether_protocol::reason::{Reason, Verdict};
use bellwether_protocol::subject::Prefix;
use bellwether_protocol::time::{Span, Timestamp};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::SendTimeoutError;

use crate::core::Relayed;
use crate::figures;

/// Messages that wait in one lane. A lane that is full holds the next record back, not its own order.
const LANE_MAX: usize = 256;
/// How long a full lane may hold the next record back. One that does not move by then takes nothing
/// more, lest it hold up the others.
const ROOM_WITHIN: Duration = Duration::from_secs(5);
/// How long outcomes and CDevents are tried: nobody waits for them any longer.
const OUTCOME_WITHIN: Span = Span::from_secs(600);
/// The first pause between tries, doubled up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);

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
    /// After which it is not tried again; an alert is tried until it is told.
    until: Option<Timestamp>,
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
pub(crate) async fn page(bus: Bus, clock: Clock, alert: Box<Alert>) {
    let id = format!("alert-{}-{}-stopped", alert.incident, alert.record);
    if let Some(outgoing) = telling(bus.prefix(), &alert, id, &Trace::default()) {
        publish(&bus, &clock, &outgoing).await;
    }
}

/// An alert on its way out.
fn telling(prefix: &Prefix, alert: &Alert, id: String, trace: &Trace) -> Option<Outgoing> {
    let event = CloudEvent::new(prefix, "alert", id.clone(), alert.incident.to_string(), alert.at);
    let body = codec::to_json("alert", alert).ok()?;
    let subject = prefix.alert(alert.severity, &alert.service);
    let headers = event.headers().to_vec();
    Some(Outgoing { subject, id, headers, trace: trace.clone(), decided: alert.at, until: None, body })
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
        let outcome_until = record.now + OUTCOME_WITHIN;
        let out = |subject, id, headers: Option<CloudEvent>, until, body| {
            let headers = headers.map(|event| event.headers().to_vec()).unwrap_or_default();
            Outgoing { subject, id, headers, trace: trace.clone(), decided: record.now, until: Some(until), body }
        };
        for action in &record.actions {
            let Ok(body) = codec::to_json("action", action) else { continue };
            let subject = prefix.action(&action.service, &action.lever);
            // Nobody may do it later, and without an answer by then it is decided upon anew.
            let id = format!("action-{}", action.id);
            all.push((subject.clone(), out(subject, id, None, action.deadline, body)));
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
            all.push((format!("outcomes of {service}"), out(subject, id, Some(event), outcome_until, body)));
        }
        for event in events {
            let event = event.from_mesh(&prefix);
            let Ok(body) = codec::to_json("CDEvent", &event) else { continue };
            let id = format!("cdevent-{}", event.context.id);
            let outgoing = out(prefix.cdevent(service), id, Some(event.envelope()), outcome_until, body);
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
        if let Err(SendTimeoutError::Timeout(outgoing)) = lane.send_timeout(outgoing, ROOM_WITHIN).await {
            tracing::error!(id = outgoing.id, "not relayed: {LANE_MAX} messages before it wait for NATS to take them");
        }
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
        if publish(&bus, &clock, &outgoing).await {
            figures::relayed(outgoing.decided, clock.now());
        }
    }
}

/// Publishes until it is stored, or its time is over. Whether it was stored.
async fn publish(bus: &Bus, clock: &Clock, outgoing: &Outgoing) -> bool {
    let Outgoing { subject, id, headers, trace, until, body, .. } = outgoing;
    for tries in 0.. {
        let sent = bus.publish_with(subject.clone(), id, headers, body.clone());
        let Err(error) = trace.around(sent).await else { return true };
        tracing::error!(%id, error = &error as &dyn std::error::Error, "could not relay");
        let Some(pause) = try_again(*until, tries, clock.now()) else { break };
        tokio::time::sleep(pause).await;
    }
    tracing::error!(%id, "not relayed: its time is over");
    false
}

/// After which pause what failed for the `tries`th time is tried again, whatever NATS said: a stream
/// that is full or closed to us is so until somebody sees to it.
fn try_again(until: Option<Timestamp>, tries: u32, now: Timestamp) -> Option<Duration> {
    let pause = RETRY_MIN.saturating_mul(1 << tries.min(5)).min(RETRY_MAX);
    until.is_none_or(|until| now < until).then_some(pause)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alert_is_tried_until_told_and_an_action_until_its_deadline() {
        let now = Timestamp::from_ms(1_800_000_000_000);
        let cases = [
            (None, 0, Some(RETRY_MIN)),
            (None, 1_000_000, Some(RETRY_MAX)),
            (Some(now + Span::from_ms(1)), 3, Some(RETRY_MIN * 8)),
            (Some(now), 0, None),
        ];
        for (until, tries, expected) in cases {
            assert_eq!(try_again(until, tries, now), expected, "{until:?} {tries}");
        }
    }
}
