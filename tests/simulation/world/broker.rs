//! What NATS holds: streams that keep their order, and buckets. Nothing in here fails.

use std::collections::{BTreeMap, BTreeSet};

use bellwether_protocol::action::{Action, ActionResult};
use bellwether_protocol::alert::Alert;
use bellwether_protocol::assignment::Assignment;
use bellwether_protocol::command::Outcome;
use bellwether_protocol::id::{AgentId, Region};
use bellwether_protocol::presence::Presence;
use bellwether_protocol::record::{Input, Record, Source};
use bellwether_protocol::sample::Tick;
use bellwether_protocol::time::Timestamp;

use super::World;

/// What coordinators read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stored {
    Inbox,
    Log,
    Presence,
    Samples,
}

/// Streams and buckets. A sequence is an index plus one.
#[derive(Debug, Default)]
pub(crate) struct Broker {
    pub(crate) log: Vec<Vec<u8>>,
    pub(crate) inbox: Vec<Input>,
    pub(crate) samples: Vec<(Timestamp, Tick)>,
    pub(crate) actions: Vec<Action>,
    pub(crate) alerts: Vec<Alert>,
    pub(crate) outcomes: Vec<Outcome>,
    pub(crate) assignments: BTreeMap<Region, Assignment>,
    /// Revision, instant and value.
    pub(crate) presence: BTreeMap<AgentId, (u64, Timestamp, Presence)>,
    /// When streams were created that were lost once.
    pub(crate) created: BTreeMap<Source, Timestamp>,
    ids: BTreeMap<String, String>,
    answers: BTreeSet<String>,
}

impl Broker {
    /// Appends with the expected last sequence; tells whether it was the expected one.
    pub(crate) fn append(&mut self, expected: u64, body: Vec<u8>) -> bool {
        let fits = self.log.len() as u64 == expected;
        if fits {
            self.log.push(body);
        }
        fits
    }

    /// A stream is gone, with the ids that it remembered; an empty one is in its place.
    pub(crate) fn lose(&mut self, source: Source, now: Timestamp) {
        self.created.insert(source, now);
        match source {
            Source::Inbox => {
                self.inbox.clear();
                self.answers.clear();
            }
            Source::Samples => self.samples.clear(),
        }
    }

    /// Every record, as stored.
    pub(crate) fn records(&self) -> impl Iterator<Item = Record> + '_ {
        self.log.iter().map(|body| serde_json::from_slice(body).expect("what was appended is a record"))
    }
}

impl World {
    /// Tells every coordinator's reader that there is something new.
    pub(crate) fn stored(&mut self, stream: Stored) {
        for node in 0..self.nodes.len() {
            self.pump_soon(node, stream);
        }
    }

    /// Publishes under an id: a repeat is recognised, and must hold the same.
    fn publish(&mut self, id: String, content: String) -> bool {
        match self.broker.ids.get(&id) {
            None => {
                self.broker.ids.insert(id, content);
                true
            }
            Some(old) if *old == content => false,
            Some(old) => {
                self.watch.complain("one_id_one_content", format!("{id}: {old}, then {content}"));
                false
            }
        }
    }

    /// Relays what a record says.
    pub(crate) fn relay(&mut self, record: &Record) {
        for action in &record.actions {
            if self.publish(format!("action-{}", action.id), format!("{action:?}")) {
                self.broker.actions.push(action.clone());
                self.hands_hear();
            }
        }
        for alert in &record.alerts {
            if self.publish(format!("alert-{}-{}", alert.incident, alert.seq), format!("{alert:?}")) {
                self.broker.alerts.push(alert.clone());
            }
        }
        for outcome in &record.outcomes {
            if self.publish(format!("outcome-{}", outcome.command), format!("{outcome:?}")) {
                self.broker.outcomes.push(outcome.clone());
            }
        }
    }

    /// Stores an answer, unless this very one is stored already.
    pub(crate) fn answer(&mut self, result: ActionResult) {
        let ActionResult { agent, action, outcome, .. } = &result;
        if self.broker.answers.insert(format!("{agent}/{action}/{outcome}")) {
            let seq = self.broker.inbox.len() as u64 + 1;
            self.broker.inbox.push(Input::Result { seq, result });
            self.stored(Stored::Inbox);
        }
    }

    /// Writes assignments, each unless a newer one stands there.
    pub(crate) fn assign(&mut self, assignments: Vec<Assignment>) {
        for assignment in assignments {
            let order = |a: &Assignment| (a.rollout.number, a.revision);
            let held = self.broker.assignments.get(&assignment.region);
            if held.is_none_or(|held| order(held) < order(&assignment)) {
                self.broker.assignments.insert(assignment.region.clone(), assignment);
                self.probes_hear();
            }
        }
    }
}
