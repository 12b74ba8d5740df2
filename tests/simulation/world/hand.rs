//! Lever agents: the real ledger, its effects carried out one by one on the site. May crash
//! between any two of them; then only what was persisted is left.

use std::collections::VecDeque;

use bellwether_protocol::action::ActionOutcome;
use bellwether_protocol::id::{ActionId, AgentId, LeverName, LeverValue, Release};
use bellwether_protocol::presence::{LeverReading, PRESENCE_EVERY};
use bellwether_protocol::time::{Span, Timestamp};
use bellwether_runtime::ledger::{Effect, Event, Ledger, State};
use bellwether_runtime::{DriverError, Reading};

use super::{Bug, World, presence};

/// One agent that holds one lever.
pub(crate) struct Hand {
    agent: AgentId,
    pub(crate) lever: LeverName,
    ledger: Ledger,
    disk: State,
    effects: VecDeque<Effect>,
    waiting: VecDeque<Event>,
    /// A driver is at work: nothing else is taken up.
    is_busy: bool,
    pub(crate) is_up: bool,
    life: u64,
    heard: usize,
    wake: Option<Timestamp>,
    reading: Option<Reading>,
    history: Vec<Release>,
    /// How far its clock is off, in milliseconds.
    skew: i64,
}

impl Hand {
    pub(crate) fn new(agent: &str, lever: &str, history: &[&str], skew: i64) -> Self {
        let (agent, lever): (AgentId, LeverName) = (agent.parse().unwrap(), lever.parse().unwrap());
        Self {
            ledger: Ledger::new(agent.clone(), lever.clone(), State::default()),
            agent,
            lever,
            disk: State::default(),
            effects: VecDeque::new(),
            waiting: VecDeque::new(),
            is_busy: false,
            is_up: true,
            life: 0,
            heard: 0,
            wake: None,
            reading: None,
            history: history.iter().map(|release| release.parse().unwrap()).collect(),
            skew,
        }
    }

    fn clock(&self, now: Timestamp) -> Timestamp {
        Timestamp::from_ms(now.as_ms() + self.skew)
    }
}

impl World {
    pub(crate) fn hands_hear(&mut self) {
        for i in 0..self.hands.len() {
            let (lag, life) = (self.lag(), self.hands[i].life);
            self.after(lag, move |world| world.in_hand(i, life, |world| world.read_actions(i, false)));
        }
    }

    fn in_hand(&mut self, i: usize, life: u64, what: impl FnOnce(&mut Self)) {
        if self.hands[i].life == life && self.hands[i].is_up {
            what(self);
        }
    }

    fn read_actions(&mut self, i: usize, is_start: bool) {
        let hand = &mut self.hands[i];
        let own = |(_, action): &(usize, &_)| -> bool {
            let action: &bellwether_protocol::action::Action = action;
            action.lever == hand.lever
        };
        let all: Vec<_> = self.broker.actions.iter().enumerate().skip(hand.heard).filter(own).collect();
        let newest = all.last().map_or(0, |(at, _)| *at);
        for (at, action) in all {
            // After a start, what was superseded meanwhile is neither done nor refused.
            if !is_start || at == newest || hand.ledger.has_answered(&action.id) {
                hand.waiting.push_back(Event::Action(action.clone()));
            }
        }
        hand.heard = self.broker.actions.len();
        self.hand_goes_on(i);
    }

    fn hand_crashes(&mut self, i: usize) {
        self.watch.crashes += 1;
        let hand = &mut self.hands[i];
        hand.life += 1;
        hand.is_up = false;
        let down = self.some(200, 8_000);
        self.after(down, move |world| {
            let hand = &mut world.hands[i];
            hand.ledger = Ledger::new(hand.agent.clone(), hand.lever.clone(), hand.disk.clone());
            hand.effects.clear();
            hand.waiting = VecDeque::from([Event::Resume]);
            (hand.is_busy, hand.is_up, hand.heard, hand.wake) = (false, true, 0, None);
            world.read_actions(i, true);
        });
    }

    /// Carries out effects until a driver has to be waited for, or nothing is left to do.
    fn hand_goes_on(&mut self, i: usize) {
        while !self.hands[i].is_busy {
            let now = self.hands[i].clock(self.now);
            let hand = &mut self.hands[i];
            let Some(effect) = hand.effects.pop_front() else {
                let Some(event) = hand.waiting.pop_front() else { return };
                let effects = hand.ledger.handle(event, now);
                hand.effects.extend(effects);
                continue;
            };
            let crash = self.faults.hand_crash;
            if self.strikes(crash) {
                return self.hand_crashes(i);
            }
            self.do_effect(i, effect);
        }
    }

    fn do_effect(&mut self, i: usize, effect: Effect) {
        let lever = self.hands[i].lever.clone();
        match effect {
            Effect::Answer(result) => {
                let is_new = result.outcome == ActionOutcome::Done && result.at == self.hands[i].clock(self.now);
                let asked = self.broker.actions.iter().find(|action| action.id == result.action);
                if is_new && asked.is_some_and(|action| !self.site.read(&lever).is_all_at(&action.to)) {
                    self.watch.complain("done_is_read_back", format!("{} answered done", result.action));
                }
                let lag = self.lag();
                self.after(lag, move |world| world.answer(result));
            }
            Effect::Persist => self.hands[i].disk = self.hands[i].ledger.state().clone(),
            Effect::ReadBack => {
                let mut reading = self.site.read(&lever);
                self.watch.read_back(&lever);
                if self.bug == Some(Bug::DoneUnread) {
                    let newest = self.broker.actions.iter().rev().find(|action| action.lever == lever);
                    let to = newest.map(|action| action.to.clone());
                    reading.targets.iter_mut().for_each(|target| target.value = to.clone());
                    reading.value = to;
                }
                self.hands[i].reading = Some(reading.clone());
                self.show_lever(i);
                let took = self.some(20, 300);
                self.driver_ends(i, took, Event::Read(Ok(reading)));
            }
            Effect::Set { to, action } => {
                let outcome = self.set(&lever, &to, &action);
                let took = self.some(50, 1_500);
                self.driver_ends(i, took, Event::Set(outcome));
            }
            Effect::WakeAt(at) => {
                let life = self.hands[i].life;
                self.hands[i].wake = Some(at);
                let at_ours = Timestamp::from_ms(at.as_ms() - self.hands[i].skew);
                self.at(at_ours, move |world| {
                    world.in_hand(i, life, |world| {
                        if world.hands[i].wake == Some(at) {
                            world.hands[i].wake = None;
                            world.hands[i].waiting.push_back(Event::Wake);
                            world.hand_goes_on(i);
                        }
                    });
                });
            }
        }
    }

    fn driver_ends(&mut self, i: usize, took: Span, event: Event) {
        let life = self.hands[i].life;
        self.hands[i].is_busy = true;
        self.after(took, move |world| {
            world.in_hand(i, life, |world| {
                let now = world.hands[i].clock(world.now);
                let hand = &mut world.hands[i];
                hand.is_busy = false;
                let effects = hand.ledger.handle(event, now);
                hand.effects.extend(effects);
                world.hand_goes_on(i);
            });
        });
    }

    fn set(&mut self, lever: &LeverName, to: &LeverValue, action: &ActionId) -> Result<String, DriverError> {
        if let Some(why) = self.site.levers[lever].refuses.clone() {
            return Err(DriverError::Refused(why));
        }
        let unclear = self.faults.set_unclear;
        let is_unclear = self.strikes(unclear);
        if is_unclear && self.rng.u8(0..3) == 0 {
            return Err(DriverError::Retry("busy".to_owned()));
        }
        if !is_unclear || self.rng.bool() {
            self.watch.set(lever, action);
            self.order(lever, to);
        }
        if is_unclear && self.bug == Some(Bug::ActTwice) {
            self.watch.set(lever, action);
            self.order(lever, to);
        }
        if is_unclear { Err(DriverError::Unknown("timed out".to_owned())) } else { Ok("accepted".to_owned()) }
    }

    fn show_lever(&mut self, i: usize) {
        let hand = &self.hands[i];
        if !hand.is_up {
            return;
        }
        let Reading { value, targets } = hand.reading.clone().unwrap_or_else(|| self.site.read(&hand.lever));
        let reading = LeverReading { lever: hand.lever.clone(), value, targets, history: hand.history.clone() };
        let mut presence = presence(&hand.agent, self.now);
        presence.levers.insert(self.service.clone(), vec![reading]);
        self.present(presence);
    }

    pub(crate) fn hand_beats(&mut self, i: usize) {
        let hand = &mut self.hands[i];
        if hand.is_up && !hand.ledger.is_busy() {
            hand.reading = Some(self.site.read(&hand.lever));
        }
        self.show_lever(i);
        self.after(PRESENCE_EVERY, move |world| world.hand_beats(i));
    }
}
