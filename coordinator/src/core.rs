//! The coordinator as a state machine without I/O: events in, effects out, time as an argument.
//!
//! There is one way into a desk: a record read back from the log. An append that was acknowledged
//! changes nothing here until it is read. Nothing leaves before the append.

use std::collections::{BTreeMap, VecDeque};

use bellwether_bus::Trace;
use bellwether_decide::project;
use bellwether_protocol::alert::{Alert, IncidentKind, NextStep, Proof, Severity};
use bellwether_protocol::assignment::Assignment;
use bellwether_protocol::cdevent::CdEvent;
use bellwether_protocol::id::{AgentId, CoordinatorId, IncidentId, Ordinal, Role, RolloutId, Service};
use bellwether_protocol::presence::{PRESENCE_EVERY, PRESENCE_TTL, Presence};
use bellwether_protocol::record::{Hash, Input, Record, Source};
use bellwether_protocol::sample::Tick;
use bellwether_protocol::status::Status;
use bellwether_protocol::time::{Span, Timestamp};

use crate::cdevents;
use crate::room::{Context, Room, Verdict};

/// How long each rank waits for the one before it.
pub const RANK_STEP: Span = Span::from_secs(2);
/// Records younger than this are relayed again after a restart: repeats are recognised by their ids.
const RELAY_AGAIN: Span = Span::from_secs(3_000);
/// Most services of one mesh: a bound against names made up by whoever may publish commands.
const SERVICES_MAX: usize = 1_000;
/// Most messages that wait for their service to be known.
const UNPLACED_MAX: usize = 1_000;
/// How long the samples stream may deliver nothing, not even our own markers, before slots close without it. A
/// coordinator that still reads it has by then logged what it read.
const DEAF_AFTER: Span = Span::from_secs(75);
/// How often people see a status that no record stands behind yet.
const STATUS_EVERY: Span = Span::from_secs(1);

/// Something that happened.
#[derive(Debug)]
pub enum Event {
    /// An append was not acknowledged, or refused because someone else was faster.
    AppendFailed {
        /// Whose log.
        service: Service,
        /// Which record.
        ordinal: Ordinal,
        /// Whether someone else was faster.
        conflict: bool,
    },
    /// All records, commands, results and presences that were stored before the start have been read.
    CaughtUp,
    /// Everything stored in the samples stream before this instant has been read.
    Heard(Timestamp),
    /// A command or a result was read.
    Inbox {
        /// For which service.
        service: Service,
        /// Its inbox sequence.
        seq: u64,
        /// What it is.
        input: Box<Input>,
    },
    /// A stream is about to be read: from a position that the core gave, or from its start when it
    /// was created anew or has lost its end.
    Opened {
        /// Which.
        source: Source,
        /// When it was created.
        created: Timestamp,
        /// Its last sequence.
        last: u64,
    },
    /// A process said that it is there, at an instant of NATS.
    Present(Timestamp, Box<Presence>),
    /// A record was read from the log.
    Record {
        /// Whose log.
        service: Service,
        /// Its stream sequence.
        seq: u64,
        /// Where it stands in a trace; passed on with it, and otherwise left alone.
        trace: Trace,
        /// What is stored.
        body: Vec<u8>,
    },
    /// Samples were read.
    Sample {
        /// Their stream sequence.
        seq: u64,
        /// The samples.
        tick: Box<Tick>,
    },
    /// A message of the samples stream is not what its sender may send.
    Unreadable {
        /// Its stream sequence.
        seq: u64,
        /// Who sent it, by its subject.
        agent: AgentId,
    },
    /// Time has passed.
    Wake,
}

impl Event {
    /// Which stream it was read from, if its number counts there.
    fn source(&self) -> Option<Source> {
        match self {
            Self::Inbox { .. } => Some(Source::Inbox),
            Self::Heard(_) | Self::Sample { .. } | Self::Unreadable { .. } => Some(Source::Samples),
            Self::AppendFailed { .. }
            | Self::CaughtUp
            | Self::Opened { .. }
            | Self::Present(..)
            | Self::Record { .. }
            | Self::Wake => None,
        }
    }
}

/// What the shell must do.
#[derive(Debug)]
pub enum Effect {
    /// Append a record. Report a failure; a success is read back.
    Append {
        /// Which.
        record: Box<Record>,
        /// The stream sequence that must be the subject's last.
        expected: u64,
        /// What to store: its bytes.
        body: Vec<u8>,
    },
    /// Write the assignments, each unless a newer revision stands there.
    Assign(Vec<Assignment>),
    /// Publish an alert that no record stands behind: this service's log cannot be trusted.
    Page(Box<Alert>),
    /// Publish a record's actions, alerts and outcomes, under their derived ids.
    Relay(Box<Relayed>),
    /// Remember how far a log went.
    Remember(Service, Ordinal, Hash),
    /// Write the status.
    Show(Box<Status>),
}

/// What goes out with one record.
#[derive(Debug)]
pub struct Relayed {
    /// The record.
    pub record: Record,
    /// The same in the words of CDEvents.
    pub events: Vec<CdEvent>,
    /// Where it stands in a trace.
    pub trace: Trace,
}

/// One coordinator.
#[derive(Debug)]
pub struct Core {
    id: CoordinatorId,
    rooms: BTreeMap<Service, Room>,
    live: BTreeMap<AgentId, Presence>,
    live_at: BTreeMap<AgentId, Timestamp>,
    remembered: BTreeMap<Service, (Ordinal, Hash)>,
    relays: VecDeque<(Timestamp, Box<Relayed>)>,
    /// The last messages with samples of services that are not known yet.
    unplaced: VecDeque<(u64, Box<Tick>)>,
    /// When the streams were created that are read.
    created: BTreeMap<Source, Timestamp>,
    /// What was read of a stream that counts anew, until the log says so.
    held: BTreeMap<Source, Vec<Event>>,
    heard: Timestamp,
    /// When the samples stream last delivered anything.
    delivered_at: Timestamp,
    caught_up: bool,
    /// No decision before this instant: after time was lost, agents are given time to be heard.
    resume_at: Timestamp,
    was_adrift: bool,
    shown_at: BTreeMap<Service, Timestamp>,
    wake_at: Option<Timestamp>,
}

impl Core {
    /// A coordinator that knows nothing yet but how far each log once went.
    pub fn new(id: CoordinatorId, remembered: BTreeMap<Service, (Ordinal, Hash)>) -> Self {
        Self {
            id,
            rooms: BTreeMap::new(),
            live: BTreeMap::new(),
            live_at: BTreeMap::new(),
            remembered,
            relays: VecDeque::new(),
            unplaced: VecDeque::new(),
            created: BTreeMap::new(),
            held: BTreeMap::new(),
            heard: Timestamp::default(),
            delivered_at: Timestamp::default(),
            caught_up: false,
            resume_at: Timestamp::default(),
            was_adrift: false,
            shown_at: BTreeMap::new(),
            wake_at: None,
        }
    }

    /// Takes in one event at `now`. With `adrift` nothing vouches for `now`, and nothing is decided.
    pub fn handle(&mut self, event: Event, now: Timestamp, adrift: bool) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.take_or_hold(event, now, &mut effects);
        if adrift {
            self.was_adrift = true;
        } else if std::mem::take(&mut self.was_adrift) {
            self.resume_at = now + PRESENCE_EVERY + Span::from_secs(1);
        }
        self.wake_at = None;
        self.expire(now);
        self.relay(now, &mut effects);
        if self.caught_up && !adrift && now >= self.resume_at {
            self.look(now, &mut effects);
        } else if self.caught_up && !adrift {
            self.wake(self.resume_at);
        }
        effects
    }

    /// When to send [`Event::Wake`], if nothing comes in before.
    pub fn wake_at(&self) -> Option<Timestamp> {
        self.wake_at
    }

    /// Whether a rollout is on somewhere, so that the samples stream must be heard.
    pub fn is_watching(&self) -> bool {
        self.rooms.values().any(Room::is_running)
    }

    /// One service's room.
    pub fn room(&self, service: &Service) -> Option<&Room> {
        self.rooms.get(service)
    }

    /// Where the readers must begin after the log was read: the first sequence of a stream, or
    /// `None` for what comes next. A stream that was lost is read from its start.
    pub fn begin_at(&self, source: Source) -> Option<u64> {
        let mut rooms = self.rooms.values();
        match source {
            _ if self.has_lost(source) => Some(1),
            Source::Inbox => Some(rooms.map(|room| room.inbox_upto).min().unwrap_or(0).saturating_add(1)),
            Source::Samples => rooms.by_ref().filter(|room| room.is_running()).map(|room| room.samples_from).min(),
        }
    }

    fn has_lost(&self, source: Source) -> bool {
        self.rooms.values().any(|room| room.has_lost(source))
    }

    /// What counts anew waits for the record that says so; then it follows in its order.
    fn take_or_hold(&mut self, event: Event, now: Timestamp, effects: &mut Vec<Effect>) {
        if let Some(source) = event.source().filter(|source| self.has_lost(*source)) {
            return self.held.entry(source).or_default().push(event);
        }
        self.take(event, now, effects);
        for source in [Source::Inbox, Source::Samples] {
            if !self.has_lost(source) {
                let held = self.held.remove(&source).unwrap_or_default();
                held.into_iter().for_each(|event| self.take(event, now, effects));
            }
        }
    }

    fn take(&mut self, event: Event, now: Timestamp, effects: &mut Vec<Effect>) {
        if event.source() == Some(Source::Samples) {
            self.delivered_at = now;
        }
        match event {
            Event::AppendFailed { service, ordinal, conflict } => {
                if let Some(room) = self.rooms.get_mut(&service) {
                    room.append_failed(ordinal, conflict, now);
                    if room.is_blocked(now) && !room.is_blocked_told {
                        room.is_blocked_told = true;
                        page(
                            room,
                            IncidentKind::Opened,
                            "its log has moved on, and cannot be read any more",
                            now,
                            effects,
                        );
                    }
                }
            }
            Event::CaughtUp => self.catch_up(now, effects),
            Event::Heard(at) => self.heard = self.heard.max(at),
            Event::Inbox { service, seq, input } => {
                if let Some(room) = self.room_mut(&service) {
                    room.offer(seq, *input);
                }
            }
            Event::Opened { source, created, last } => {
                if source == Source::Samples {
                    self.unplaced.clear();
                }
                self.created.insert(source, created);
                self.rooms.values_mut().for_each(|room| room.opened(source, created, last));
            }
            Event::Present(at, presence) => {
                self.live_at.insert(presence.agent.clone(), at);
                self.live.insert(presence.agent.clone(), *presence);
            }
            Event::Record { service, seq, trace, body } => {
                if let Some((record, events)) = self.fold(&service, seq, &body, now, effects) {
                    self.queue(Relayed { record, events, trace }, now);
                }
            }
            Event::Sample { seq, tick } => {
                // The log, which names the services, is read by another reader, which may be behind.
                if tick.samples.iter().any(|sample| !self.rooms.contains_key(&sample.rollout.service)) {
                    self.unplaced.push_back((seq, tick.clone()));
                    if self.unplaced.len() > UNPLACED_MAX {
                        self.unplaced.pop_front();
                    }
                }
                for room in self.rooms.values_mut() {
                    room.collector.offer(&room.desk, seq, &tick);
                }
            }
            Event::Unreadable { seq, agent } => {
                for room in self.rooms.values_mut() {
                    room.collector.offer_unreadable(&room.desk, seq, &agent);
                }
            }
            Event::Wake => {}
        }
    }

    fn room_mut(&mut self, service: &Service) -> Option<&mut Room> {
        if !self.rooms.contains_key(service) {
            if self.rooms.len() >= SERVICES_MAX {
                tracing::warn!(%service, "more than {SERVICES_MAX} services; this one is ignored");
                return None;
            }
            let mut room = Room::new(service.clone());
            self.unplaced.iter().for_each(|(seq, tick)| room.collector.offer(&room.desk, *seq, tick));
            self.rooms.insert(service.clone(), room);
        }
        self.rooms.get_mut(service)
    }

    fn fold(
        &mut self,
        service: &Service,
        seq: u64,
        body: &[u8],
        now: Timestamp,
        effects: &mut Vec<Effect>,
    ) -> Option<(Record, Vec<CdEvent>)> {
        let remembered = self.remembered.get(service).copied();
        let room = self.room_mut(service).filter(|room| room.stopped.is_none())?;
        let (record, before) = match room.fold(seq, body) {
            Ok(folded) => folded,
            Err(error) => {
                stop(room, error.to_string(), now, effects);
                return None;
            }
        };
        if remembered.is_some_and(|(ordinal, hash)| ordinal == record.ordinal && hash != room.hash) {
            let why = format!("record {} is not the one that this coordinator saw before", record.ordinal);
            stop(room, why, now, effects);
            return None;
        }
        effects.push(Effect::Remember(service.clone(), record.ordinal, room.hash));
        if std::mem::take(&mut room.is_blocked_told) {
            page(room, IncidentKind::Resolved, "its log could not be read; now it is", now, effects);
        }
        let events = cdevents::events(&record, before.rollout.as_ref(), room.desk.rollout.as_ref());
        Some((record, events))
    }

    fn queue(&mut self, relayed: Relayed, now: Timestamp) {
        let record = &relayed.record;
        if record.now + RELAY_AGAIN < now {
            return;
        }
        // The writer relays at once; the others only in case that it died in between.
        let is_now = record.coordinator == self.id || !self.caught_up;
        let due = if is_now { now } else { now + self.delay().max(RANK_STEP) };
        self.relays.push_back((due, Box::new(relayed)));
    }

    fn catch_up(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        self.caught_up = true;
        self.delivered_at = now;
        for (service, (ordinal, _)) in self.remembered.clone() {
            let Some(room) = self.room_mut(&service) else { continue };
            if room.desk.ordinal < ordinal && room.stopped.is_none() {
                let why = format!("the log ends at record {}, but it once held {ordinal}", room.desk.ordinal);
                stop(room, why, now, effects);
            }
        }
        for room in self.rooms.values() {
            project(room, now, effects);
        }
    }

    fn relay(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        // Until all was read, an assignment may be older than the newest record.
        if !self.caught_up {
            return;
        }
        let mut waiting = VecDeque::new();
        while let Some((due, relayed)) = self.relays.pop_front() {
            if now < due {
                self.wake(due);
                waiting.push_back((due, relayed));
                continue;
            }
            if let Some(room) = self.rooms.get(&relayed.record.service) {
                effects.push(Effect::Relay(relayed));
                project(room, now, effects);
            }
        }
        self.relays = waiting;
    }

    fn look(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        let delay = self.delay();
        let heard = self.heard_at(now);
        let unlogged = self.rooms.iter().filter_map(|(service, room)| Some((service.clone(), room.unlogged()?)));
        let unlogged: Vec<(Service, u64)> = unlogged.collect();
        let mut wakes = Vec::new();
        for (service, room) in &mut self.rooms {
            let (created, live) = (&self.created, &self.live);
            let others = unlogged.iter().filter(|(own, _)| own != service).map(|(_, seq)| *seq);
            let unlogged = others.min().unwrap_or(u64::MAX);
            let ctx = Context { coordinator: &self.id, now, heard, unlogged, created, delay, live };
            match room.look(&ctx) {
                Verdict::Append(record, body) => {
                    effects.push(Effect::Append { record, expected: room.log_seq, body });
                }
                Verdict::Wait(at, trial) => {
                    wakes.extend(at);
                    let shown = self.shown_at.get(service).copied().unwrap_or_default();
                    if let Some(desk) = trial.filter(|_| delay == Span::ZERO && now >= shown + STATUS_EVERY) {
                        effects.extend(project::status(&desk, now).map(|status| Effect::Show(Box::new(status))));
                        self.shown_at.insert(service.clone(), now);
                    }
                }
            }
        }
        wakes.into_iter().for_each(|at| self.wake(at));
    }

    /// Up to when slots may close: what was heard; or, of a stream that delivers nothing, the time itself, for what is
    /// not seen must hold, and be told, and not stand still.
    fn heard_at(&self, now: Timestamp) -> Timestamp {
        let is_deaf = now.since(self.delivered_at.max(self.resume_at)) > DEAF_AFTER;
        if is_deaf { self.heard.max(now - DEAF_AFTER) } else { self.heard }
    }

    /// A standby waits by its place in the order of coordinators that are here. A wrong place only
    /// causes a race, which the fence settles.
    fn delay(&self) -> Span {
        let before =
            self.live.keys().filter(|agent| agent.role == Role::Coordinator && agent.name.as_str() < self.id.as_str());
        RANK_STEP.times(u64::try_from(before.count()).unwrap_or(0))
    }

    fn expire(&mut self, now: Timestamp) {
        self.live_at.retain(|_, at| now.since(*at) <= PRESENCE_TTL);
        self.live.retain(|agent, _| self.live_at.contains_key(agent));
        if let Some(oldest) = self.live_at.values().min() {
            let at = *oldest + PRESENCE_TTL + Span::from_ms(1);
            self.wake(at);
        }
    }

    fn wake(&mut self, at: Timestamp) {
        self.wake_at = Some(self.wake_at.map_or(at, |own| own.min(at)));
    }
}

fn project(room: &Room, now: Timestamp, effects: &mut Vec<Effect>) {
    effects.push(Effect::Assign(project::assignments(&room.desk)));
    effects.extend(project::status(&room.desk, now).map(|status| Effect::Show(Box::new(status))));
}

/// Nothing more is decided for this service: what was decided before cannot be trusted to be whole.
fn stop(room: &mut Room, why: String, now: Timestamp, effects: &mut Vec<Effect>) {
    tracing::error!(service = %room.desk.service, why, "stopped deciding for this service");
    room.stopped = Some(why.clone());
    page(room, IncidentKind::Opened, &why, now, effects);
}

/// Tells people that no decisions are made for a service, and why, or that they are again.
fn page(room: &Room, kind: IncidentKind, why: &str, now: Timestamp, effects: &mut Vec<Effect>) {
    let Ok(cause) = "log".parse() else { return };
    let id = room.desk.rollout.as_ref().map(|rollout| (rollout.id.clone(), rollout.release.clone()));
    let nothing = || Some((RolloutId { service: room.desk.service.clone(), number: 0 }, "unknown".parse().ok()?));
    let Some((rollout, release)) = id.or_else(nothing) else { return };
    effects.push(Effect::Page(Box::new(Alert {
        kind,
        incident: IncidentId { rollout: rollout.clone(), cause },
        seq: if kind == IncidentKind::Opened { 1 } else { 2 },
        severity: Severity::Page,
        state: "stopped".to_owned(),
        service: rollout.service,
        release,
        stage: None,
        regions: Vec::new(),
        headline: match kind {
            IncidentKind::Resolved => format!("decisions are made for {} again: {why}", room.desk.service),
            _ => format!("no decisions are made for {}: {why}. Levers stay as they are", room.desk.service),
        },
        numbers: None,
        record: room.desk.ordinal,
        proof: Proof::default(),
        next: vec![NextStep { why: "see the difference".to_owned(), run: "bellwether rollout replay".to_owned() }],
        tell: Vec::new(),
        at: now,
    })));
}
