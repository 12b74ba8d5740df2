//! The whole product in one thread and in simulated time: real coordinators, real ledgers, and a
//! site whose levers really move. No sockets, no clock; one seed gives one run.
//!
//! What happens next is a queue of closures by (instant, number). Everything that goes wrong goes
//! wrong in here, by [`Faults`]; the checkers in `watch.rs` and beside the runs look at what came of it.

mod broker;
mod coordinator;
mod hand;
mod probe;
mod site;
mod watch;

use std::collections::BTreeMap;

use bellwether_coordinator::read_inbox;
use bellwether_protocol::command::{CommandBody, Verb};
use bellwether_protocol::id::{AgentId, Service};
use bellwether_protocol::presence::Presence;
use bellwether_protocol::subject::Prefix;
use bellwether_protocol::time::{Span, Timestamp};

pub(crate) use broker::{Broker, Stored};
pub(crate) use coordinator::Node;
pub(crate) use hand::Hand;
pub(crate) use probe::Probe;
pub(crate) use site::{Fault, Site};
pub(crate) use watch::Watch;

/// The instant at which every run begins; a multiple of every slot in use.
pub(crate) const BEGIN: i64 = 1_800_000_000_000;

/// How likely each kind of bad luck is, each time that it could strike.
#[derive(Debug, Default, Clone)]
pub(crate) struct Faults {
    pub(crate) append_unknown: f64,
    pub(crate) hand_crash: f64,
    pub(crate) node_crash: f64,
    pub(crate) presence_lost: f64,
    pub(crate) relay_lost: f64,
    pub(crate) sample_late: f64,
    pub(crate) sample_lost: f64,
    pub(crate) sample_twice: f64,
    pub(crate) set_unclear: f64,
    pub(crate) slow: f64,
    pub(crate) command_twice: f64,
}

/// A defect that is put in on purpose, to see that a checker finds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bug {
    ActTwice,
    DoneUnread,
    ForgetInbox,
    HeardBlindly,
    NoFence,
    RelayFirst,
    ResetUnseen,
    SilentIsGreen,
}

type Happening = Box<dyn FnOnce(&mut World)>;

/// Everything.
pub(crate) struct World {
    pub(crate) now: Timestamp,
    pub(crate) rng: fastrand::Rng,
    pub(crate) faults: Faults,
    /// From here on nothing goes wrong any more.
    pub(crate) heal_at: Timestamp,
    pub(crate) bug: Option<Bug>,
    pub(crate) service: Service,
    pub(crate) slot: Span,
    pub(crate) broker: Broker,
    pub(crate) site: Site,
    pub(crate) nodes: Vec<Node>,
    pub(crate) probes: Vec<Probe>,
    pub(crate) hands: Vec<Hand>,
    pub(crate) watch: Watch,
    /// The samples stream takes nothing.
    pub(crate) samples_stuck: bool,
    queue: BTreeMap<(Timestamp, u64), Happening>,
    next: u64,
    commands: u64,
}

impl World {
    pub(crate) fn new(seed: u64, service: &str, slot: Span) -> Self {
        Self {
            now: Timestamp::from_ms(BEGIN),
            rng: fastrand::Rng::with_seed(seed),
            faults: Faults::default(),
            heal_at: Timestamp::from_ms(BEGIN),
            bug: None,
            service: service.parse().unwrap(),
            slot,
            broker: Broker::default(),
            site: Site::default(),
            nodes: Vec::new(),
            probes: Vec::new(),
            hands: Vec::new(),
            watch: Watch::default(),
            samples_stuck: false,
            queue: BTreeMap::new(),
            next: 0,
            commands: 0,
        }
    }

    /// Lets everything begin that was put in.
    pub(crate) fn begin(&mut self) {
        for hand in 0..self.hands.len() {
            self.hand_beats(hand);
        }
        for probe in 0..self.probes.len() {
            self.probe_beats(probe);
            self.looks_begin(probe);
        }
        for node in 0..self.nodes.len() {
            self.node_starts(node);
            self.node_beats(node);
            self.node_marks(node);
        }
    }

    /// Does all that happens up to `until`.
    pub(crate) fn run(&mut self, until: Timestamp) {
        while let Some(next) = self.queue.first_entry().filter(|next| next.key().0 <= until) {
            let ((at, _), happening) = next.remove_entry();
            self.now = at;
            happening(self);
        }
    }

    pub(crate) fn at(&mut self, at: Timestamp, happening: impl FnOnce(&mut Self) + 'static) {
        self.next += 1;
        self.queue.insert((at.max(self.now), self.next), Box::new(happening));
    }

    pub(crate) fn after(&mut self, span: Span, happening: impl FnOnce(&mut Self) + 'static) {
        self.at(self.now + span, happening);
    }

    /// Whether bad luck strikes. It never does once the world is healed.
    pub(crate) fn strikes(&mut self, likely: f64) -> bool {
        likely > 0.0 && self.now < self.heal_at && self.rng.f64() < likely
    }

    /// How long a message is under way.
    pub(crate) fn lag(&mut self) -> Span {
        let slow = self.faults.slow;
        let most = if self.strikes(slow) { 9_000 } else { 40 };
        Span::from_ms(self.rng.u64(2..most))
    }

    /// How long a retry, a restart or a platform takes.
    pub(crate) fn some(&mut self, min_ms: u64, max_ms: u64) -> Span {
        Span::from_ms(self.rng.u64(min_ms..=max_ms))
    }

    /// A person asks. What the inbox holds is read by the product's own reader.
    pub(crate) fn command(&mut self, verb: Verb, body: &CommandBody) {
        self.commands += 1;
        let id = format!("command-{}", self.commands);
        let subject = Prefix::default().command(&self.service, verb, &"ana".parse().unwrap());
        let body = serde_json::to_vec(body).unwrap();
        let twice = self.faults.command_twice;
        let times = if self.strikes(twice) { 2 } else { 1 };
        for _ in 0..times {
            let lag = self.lag();
            let (id, subject, body) = (id.clone(), subject.clone(), body.clone());
            self.after(lag, move |world| {
                let seq = world.broker.inbox.len() as u64 + 1;
                let read = read_inbox(&Prefix::default(), &subject, seq, world.now, Some(&id), &body);
                let (_, input) = read.expect("a command that can be read");
                world.watch.asked.insert(id.parse().unwrap());
                world.broker.inbox.push(input);
                world.stored(Stored::Inbox);
            });
        }
    }

    /// Writes a presence; it may get lost, and the next one comes in five seconds.
    pub(crate) fn present(&mut self, presence: Presence) -> bool {
        let lost = self.faults.presence_lost;
        if self.strikes(lost) {
            return false;
        }
        let revision = self.broker.presence.get(&presence.agent).map_or(0, |(revision, ..)| *revision);
        self.broker.presence.insert(presence.agent.clone(), (revision + 1, self.now, presence));
        self.stored(Stored::Presence);
        true
    }
}

/// The presence of a process that holds nothing yet.
pub(crate) fn presence(agent: &AgentId, now: Timestamp) -> Presence {
    Presence {
        kinds: ["http".to_owned()].into_iter().filter(|_| agent.role == bellwether_protocol::id::Role::Probe).collect(),
        ..Presence::new(agent.clone(), "simulated", now)
    }
}
