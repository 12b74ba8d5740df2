//! Coordinators: the real core, driven as the real shell drives it. May crash between any two
//! effects, stand still for a while, and not learn what became of an append.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bellwether_bus::Trace;
use bellwether_coordinator::core::{Core, Effect, Event};
use bellwether_protocol::id::{AgentId, CoordinatorId, Ordinal, Service};
use bellwether_protocol::presence::PRESENCE_EVERY;
use bellwether_protocol::record::{Hash, Record, Source};
use bellwether_protocol::sample::Tick;
use bellwether_protocol::time::{Span, Timestamp};

use super::{BEGIN, Bug, Stored, World, presence};

/// As in the shell.
const SLEEP_MAX: Span = Span::from_secs(5);
/// Half as often as the shell.
const MARK_EVERY: Span = Span::from_secs(1);
/// As in the bus: nothing vouches for a clock that was not anchored for so long.
const ADRIFT_AFTER: Span = Span::from_secs(15);

/// One coordinator process, up or down.
pub(crate) struct Node {
    id: CoordinatorId,
    agent: AgentId,
    core: Option<Core>,
    /// Moves with each start: what an earlier process left behind does not reach this one.
    life: u64,
    remembered: BTreeMap<Service, (Ordinal, Hash)>,
    read: BTreeMap<Stored, usize>,
    seen: BTreeMap<AgentId, u64>,
    pumping: BTreeSet<Stored>,
    wake: Option<Timestamp>,
    anchored: Timestamp,
    pub(crate) paused_until: Timestamp,
}

impl Node {
    pub(crate) fn new(name: &str, now: Timestamp) -> Self {
        Self {
            id: name.parse().unwrap(),
            agent: format!("hub.coordinator.{name}").parse().unwrap(),
            core: None,
            life: 0,
            remembered: BTreeMap::new(),
            read: BTreeMap::new(),
            seen: BTreeMap::new(),
            pumping: BTreeSet::new(),
            wake: None,
            anchored: now,
            paused_until: now,
        }
    }
}

impl World {
    /// Reads all that was stored, in the order of the shell.
    pub(crate) fn node_starts(&mut self, i: usize) {
        let now = self.now;
        let node = &mut self.nodes[i];
        node.life += 1;
        let life = node.life;
        node.core = Some(Core::new(node.id.clone(), node.remembered.clone()));
        (node.wake, node.anchored) = (None, now);
        node.pumping.clear();
        node.seen.clear();
        node.read = BTreeMap::from([(Stored::Log, 0)]);
        self.pump(i, life, Stored::Log);
        self.node_opens(i, life, Source::Samples);
        self.node_opens(i, life, Source::Inbox);
        let Some(core) = self.nodes[i].core.as_ref().filter(|_| self.nodes[i].life == life) else { return };
        let (inbox, samples) = (core.begin_at(Source::Inbox).unwrap_or(1), core.begin_at(Source::Samples));
        let samples = samples.map_or(self.broker.samples.len(), |from| from.max(1) as usize - 1);
        let is_forgetful = self.bug == Some(Bug::ForgetInbox) && life > 1;
        let inbox = if is_forgetful { self.broker.inbox.len() } else { inbox as usize - 1 };
        self.nodes[i].read.insert(Stored::Inbox, inbox);
        self.pump(i, life, Stored::Inbox);
        self.pump(i, life, Stored::Presence);
        self.handle(i, life, Event::CaughtUp);
        self.nodes[i].read.insert(Stored::Samples, samples);
        self.pump_soon(i, Stored::Samples);
    }

    fn node_opens(&mut self, i: usize, life: u64, source: Source) {
        let created = self.broker.created.get(&source).copied().unwrap_or(Timestamp::from_ms(BEGIN));
        let last = match source {
            Source::Inbox => self.broker.inbox.len(),
            Source::Samples => self.broker.samples.len(),
        };
        if self.bug != Some(Bug::ResetUnseen) {
            self.handle(i, life, Event::Opened { source, created, last: last as u64 });
        }
    }

    /// A stream is lost and created anew. Its readers notice a little later, and begin at its start.
    pub(crate) fn lose(&mut self, source: Source) {
        self.broker.lose(source, self.now);
        let stream = match source {
            Source::Inbox => Stored::Inbox,
            Source::Samples => Stored::Samples,
        };
        if stream == Stored::Inbox {
            // What nobody had decided on is gone.
            let outcomes: BTreeSet<_> =
                self.broker.records().flat_map(|record| record.outcomes).map(|outcome| outcome.command).collect();
            self.watch.asked.retain(|id| outcomes.contains(id));
        }
        for i in 0..self.nodes.len() {
            let (life, took) = (self.nodes[i].life, self.some(100, 9_000));
            if self.nodes[i].read.remove(&stream).is_some() {
                self.in_life(i, life, took, move |world| {
                    world.node_opens(i, life, source);
                    if world.nodes[i].life == life {
                        world.nodes[i].read.insert(stream, 0);
                        world.pump(i, life, stream);
                    }
                });
            }
        }
    }

    fn node_crashes(&mut self, i: usize) {
        self.watch.crashes += 1;
        self.nodes[i].core = None;
        self.nodes[i].life += 1;
        let down = self.some(200, 12_000);
        self.after(down, move |world| world.node_starts(i));
    }

    /// What is to happen in one process, if it still lives; later if it stands still.
    fn in_life(&mut self, i: usize, life: u64, span: Span, what: impl FnOnce(&mut Self) + 'static) {
        self.after(span, move |world| {
            let node = &world.nodes[i];
            if node.life != life || node.core.is_none() {
                return;
            }
            if world.now < node.paused_until {
                let left = node.paused_until.since(world.now);
                return world.in_life(i, life, left, what_boxed(what));
            }
            what(world);
        });
    }

    pub(crate) fn pump_soon(&mut self, i: usize, stream: Stored) {
        if self.nodes[i].read.contains_key(&stream) || stream == Stored::Presence {
            let (lag, life) = (self.lag(), self.nodes[i].life);
            if self.nodes[i].pumping.insert(stream) {
                self.in_life(i, life, lag, move |world| {
                    world.nodes[i].pumping.remove(&stream);
                    world.pump(i, life, stream);
                });
            }
        }
    }

    /// Reads everything that is stored in a stream and was not read yet.
    fn pump(&mut self, i: usize, life: u64, stream: Stored) {
        if stream == Stored::Presence {
            for (agent, (revision, at, presence)) in self.broker.presence.clone() {
                if self.nodes[i].seen.insert(agent, revision) != Some(revision) {
                    self.handle(i, life, Event::Present(at, Box::new(presence)));
                }
            }
            return;
        }
        while let Some(at) = self.nodes[i].read.get(&stream).copied().filter(|_| self.nodes[i].life == life) {
            let seq = at as u64 + 1;
            let service = self.service.clone();
            let event = match stream {
                Stored::Log => {
                    let (body, trace) = (self.broker.log.get(at), Trace::default());
                    body.map(|body| Event::Record { service, seq, trace, body: body.clone() })
                }
                Stored::Inbox => {
                    let input = self.broker.inbox.get(at);
                    input.map(|input| Event::Inbox { service, seq, input: Box::new(input.clone()) })
                }
                Stored::Samples => self.broker.samples.get(at).map(|(stored, tick)| {
                    let own = tick.agent == self.nodes[i].agent;
                    let sample = || Event::Sample { seq, tick: Box::new(tick.clone()) };
                    if own { Event::Heard(*stored) } else { sample() }
                }),
                Stored::Presence => None,
            };
            let Some(event) = event else { return };
            self.nodes[i].read.insert(stream, at + 1);
            self.handle(i, life, event);
        }
    }

    fn handle(&mut self, i: usize, life: u64, event: Event) {
        let now = self.now;
        let node = &mut self.nodes[i];
        let adrift = now.since(node.anchored) > ADRIFT_AFTER;
        let Some(core) = node.core.as_mut().filter(|_| node.life == life) else { return };
        self.watch.handled += 1;
        let mut effects: VecDeque<Effect> = core.handle(event, now, adrift).into();
        let sleep = core.wake_at().map_or(SLEEP_MAX, |at| at.since(now)).min(SLEEP_MAX).max(Span::from_ms(1));
        while let Some(effect) = effects.pop_front() {
            let crash = self.faults.node_crash;
            if self.strikes(crash) {
                return self.node_crashes(i);
            }
            self.carry_out(i, life, effect);
        }
        let at = now + sleep;
        if self.nodes[i].wake.is_none_or(|wake| wake > at || wake <= now) {
            self.nodes[i].wake = Some(at);
            self.in_life(i, life, sleep, move |world| {
                // An earlier alarm replaced this one, unless it was late itself.
                if world.nodes[i].wake.is_some_and(|wake| wake <= world.now) {
                    world.nodes[i].wake = None;
                    world.handle(i, life, Event::Wake);
                }
            });
        }
    }

    fn carry_out(&mut self, i: usize, life: u64, effect: Effect) {
        let lag = self.lag();
        match effect {
            Effect::Append { record, expected, body } => {
                if self.bug == Some(Bug::RelayFirst) {
                    self.relay(&record);
                }
                let Record { service, ordinal, .. } = *record;
                let unknown = self.faults.append_unknown;
                let lost = self.strikes(unknown).then(|| self.rng.bool());
                // What was sent arrives, whatever became of the sender.
                self.after(lag, move |world| {
                    let expected =
                        if world.bug == Some(Bug::NoFence) { world.broker.log.len() as u64 } else { expected };
                    let stored = lost != Some(true) && world.broker.append(expected, body);
                    if stored {
                        world.stored(Stored::Log);
                    }
                    if !stored || lost.is_some() {
                        let conflict = lost.is_none();
                        let lag = world.lag();
                        let failed = Event::AppendFailed { service, ordinal, conflict };
                        world.in_life(i, life, lag, move |world| world.handle(i, life, failed));
                    }
                });
            }
            Effect::Assign(assignments) => self.after(lag, move |world| world.assign(assignments)),
            Effect::Page(alert) => {
                self.watch.complain("chain", alert.headline.clone());
                self.broker.alerts.push(*alert);
            }
            Effect::Relay(relayed) => {
                let lost = self.faults.relay_lost;
                if self.strikes(lost) {
                    // The process dies with the record in its queue; whoever starts next relays it.
                    return self.node_crashes(i);
                }
                self.after(lag, move |world| world.relay(&relayed.record));
            }
            Effect::Remember(service, ordinal, hash) => {
                self.nodes[i].remembered.insert(service, (ordinal, hash));
            }
            Effect::Show(status) => self.watch.status = Some(*status),
        }
    }

    /// Writes its presence for ever, up or down, and so anchors its clock.
    pub(crate) fn node_beats(&mut self, i: usize) {
        let node = &self.nodes[i];
        let is_well = node.core.is_some() && self.now >= node.paused_until;
        if is_well && self.present(presence(&self.nodes[i].agent, self.now)) {
            self.nodes[i].anchored = self.now;
        }
        self.after(PRESENCE_EVERY, move |world| world.node_beats(i));
    }

    /// Puts a marker behind every sample stored so far, while a rollout is on.
    pub(crate) fn node_marks(&mut self, i: usize) {
        let node = &self.nodes[i];
        let life = node.life;
        if node.core.as_ref().is_some_and(Core::is_watching) && self.now >= node.paused_until {
            if self.bug == Some(Bug::HeardBlindly) {
                self.handle(i, life, Event::Heard(self.now));
            }
            let tick = Tick { agent: self.nodes[i].agent.clone(), seq: 0, clock_adrift: false, samples: Vec::new() };
            let lag = self.lag();
            self.after(lag, move |world| world.store_tick(tick));
        }
        self.after(MARK_EVERY, move |world| world.node_marks(i));
    }

    /// Stores one message of the samples stream.
    pub(crate) fn store_tick(&mut self, tick: Tick) {
        if self.samples_stuck {
            return;
        }
        self.broker.samples.push((self.now, tick));
        self.stored(Stored::Samples);
    }
}

fn what_boxed(what: impl FnOnce(&mut World) + 'static) -> Box<dyn FnOnce(&mut World)> {
    Box::new(what)
}
