//! One lever's actions, as a state machine without I/O: events in, effects out.
//!
//! What it promises: intent is written before effect; a lever is looked at before it is set, and
//! again before it is set a second time; an older generation changes nothing; `Done` means that
//! every target was read back at the value. Whoever executes the effects does so one by one, in
//! order, and may be killed between any two of them.

use bellwether_protocol::action::{Action, ActionOutcome, ActionResult};
use bellwether_protocol::id::{ActionId, AgentId, LeverName, LeverValue, Ordinal};
use bellwether_protocol::presence::Target;
use bellwether_protocol::time::{Span, Timestamp};
use serde::{Deserialize, Serialize};

use crate::driver::{DriverError, Reading};

/// What can happen to a lever's ledger.
#[derive(Debug, Clone)]
pub enum Event {
    /// An action came, perhaps not for the first time.
    Action(Action),
    /// An action came while another agent acts: it is that one's to do.
    Noted(Action),
    /// The lever was read back, or could not be.
    Read(Result<Reading, DriverError>),
    /// The process started, or became the one that acts: what was begun must be looked at.
    Resume,
    /// The driver was told to set the lever, and said this.
    Set(Result<String, DriverError>),
    /// The instant of the last [`Effect::WakeAt`] has come.
    Wake,
}

/// What must now be done, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Publish this result, until it is stored.
    Answer(ActionResult),
    /// Write [`Ledger::state`] to disk, synced, before anything that follows.
    Persist,
    /// Read the lever back, and tell with [`Event::Read`].
    ReadBack,
    /// Set the lever, and tell with [`Event::Set`].
    Set {
        /// To what.
        to: LeverValue,
        /// For which action.
        action: ActionId,
    },
    /// Tell with [`Event::Wake`] at this instant. Replaces an earlier one.
    WakeAt(Timestamp),
}

/// What must outlive the process.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The highest generation, and place in its record, that was seen. An older one is refused.
    highest: (Ordinal, u32),
    /// The action that is being worked on.
    open: Option<Open>,
    /// Whether the driver was told to set the lever and it was not seen there since: that order may
    /// still take effect, whatever the lever shows meanwhile.
    #[serde(default)]
    unsettled: bool,
    /// The last answers, newest last, for whoever asks again.
    answered: Vec<ActionResult>,
}

/// An action that is being worked on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Open {
    action: Action,
    /// Whether the lever may have been set for it.
    begun: bool,
    /// Whether another action's order was under way when it came.
    #[serde(default)]
    behind: bool,
    /// Whether the driver took our order.
    #[serde(default)]
    accepted: bool,
}

/// One lever's actions.
#[derive(Debug)]
pub struct Ledger {
    agent: AgentId,
    lever: LeverName,
    state: State,
    step: Step,
    /// Tries in a row that did not help; sets the pause before the next.
    tries: u32,
    /// Whether the lever may have been set before the set that is under way.
    was_begun: bool,
    /// Whether an order was under way before that set.
    was_unsettled: bool,
    /// What the lever looked like last, and what the driver said last, for the answer.
    seen: Option<Reading>,
    said: String,
}

/// What the open action waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// The driver said that it was set: read until every target shows it.
    Confirm,
    /// Look whether it must be set at all.
    Look,
}

/// Answers that are kept. An action is repeated within its stream's hour, if at all.
const ANSWERED_MAX: usize = 128;
/// Longest detail in a result, in characters.
const DETAIL_LEN_MAX: usize = 1_000;
/// First pause between two tries, doubled up to [`PAUSE_MAX`].
const PAUSE_MIN: Span = Span::from_ms(250);
const PAUSE_MAX: Span = Span::from_secs(5);

impl Ledger {
    /// The ledger of `lever`, as `state` left it. Begin with [`Event::Resume`].
    pub fn new(agent: AgentId, lever: LeverName, state: State) -> Self {
        let said = String::new();
        Self {
            agent,
            lever,
            state,
            step: Step::Look,
            tries: 0,
            was_begun: false,
            was_unsettled: false,
            seen: None,
            said,
        }
    }

    /// What [`Effect::Persist`] writes.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Whether an action is being worked on.
    pub fn is_busy(&self) -> bool {
        self.state.open.is_some()
    }

    /// Whether `action` was answered before.
    pub fn has_answered(&self, action: &ActionId) -> bool {
        self.state.answered.iter().any(|result| result.action == *action)
    }

    /// Takes one event and says what must be done.
    #[must_use]
    pub fn handle(&mut self, event: Event, now: Timestamp) -> Vec<Effect> {
        match (event, self.state.open.clone()) {
            (Event::Action(action), open) => self.take(action, open, now),
            (Event::Noted(action), open) => self.note(&action, open, now),
            (Event::Resume, Some(_)) => self.look(),
            (Event::Read(Ok(reading)), Some(open)) => {
                self.seen = Some(reading.clone());
                self.judge(&open, Some(&reading), now)
            }
            (Event::Read(Err(error)), Some(open)) => {
                self.said = error.to_string();
                self.judge(&open, None, now)
            }
            (Event::Set(result), Some(open)) => self.after_set(open, result, now),
            (Event::Wake, Some(_)) => vec![Effect::ReadBack],
            // Nothing is open: what was asked for has been answered meanwhile.
            (Event::Resume | Event::Read(_) | Event::Set(_) | Event::Wake, None) => Vec::new(),
        }
    }

    fn take(&mut self, action: Action, open: Option<Open>, now: Timestamp) -> Vec<Effect> {
        if let Some(result) = self.state.answered.iter().find(|result| result.action == action.id) {
            return vec![Effect::Answer(result.clone())];
        }
        if open.as_ref().is_some_and(|open| open.action.id == action.id) {
            return Vec::new();
        }
        let place = (action.generation, action.id.index);
        if place < self.state.highest {
            let (highest, _) = self.state.highest;
            let why = format!("generation {} is older than {highest}, which this agent has seen", action.generation);
            return vec![Effect::Answer(self.result(&action, ActionOutcome::Refused, why, now))];
        }
        let mut effects = self.supersede(open, &action, now);
        self.seen = None;
        self.said = String::new();
        if now >= action.deadline {
            let why = "its deadline had passed before it came".to_owned();
            effects.extend(self.close(&action, ActionOutcome::Expired, why, now));
            return effects;
        }
        self.state.open = Some(Open { action, begun: false, behind: self.state.unsettled, accepted: false });
        effects.push(Effect::Persist);
        effects.extend(self.look());
        effects
    }

    /// What another agent does is not to be undone by what is older, should this one act later.
    fn note(&mut self, action: &Action, open: Option<Open>, now: Timestamp) -> Vec<Effect> {
        if (action.generation, action.id.index) <= self.state.highest {
            return Vec::new();
        }
        let mut effects = self.supersede(open, action, now);
        effects.push(Effect::Persist);
        effects
    }

    /// Gives up what is open for `by`, which is newer.
    fn supersede(&mut self, open: Option<Open>, by: &Action, now: Timestamp) -> Vec<Effect> {
        self.state.highest = (by.generation, by.id.index);
        let Some(old) = open else { return Vec::new() };
        // Begun, it may still take effect; then the look of the new action sees it.
        let outcome = if old.begun { ActionOutcome::Unknown } else { ActionOutcome::Refused };
        self.close(&old.action, outcome, format!("superseded by {}", by.id), now)
    }

    fn look(&mut self) -> Vec<Effect> {
        self.step = Step::Look;
        self.tries = 0;
        vec![Effect::ReadBack]
    }

    /// Decides what a look means: `reading` is `None` when the lever could not be read.
    fn judge(&mut self, open: &Open, reading: Option<&Reading>, now: Timestamp) -> Vec<Effect> {
        let action = &open.action;
        // With another action's order under way, to be there proves nothing: only an order of our own
        // that the driver took, and which is the newer one, does.
        let is_settled = open.accepted || !open.behind;
        if is_settled && reading.is_some_and(|reading| reading.is_all_at(&action.to)) {
            self.state.unsettled = false;
            let said = if open.begun { self.said.clone() } else { "it was there already".to_owned() };
            return self.close(action, ActionOutcome::Done, said, now);
        }
        if now >= action.deadline {
            return self.give_up(open, reading, now);
        }
        let may_set = match (self.step, reading) {
            // It was set; what is missing is only proof, or time.
            (Step::Confirm, _) => false,
            (Step::Look, Some(_)) => true,
            // Never set: setting it blindly is what was asked. Maybe set: only a look can tell.
            (Step::Look, None) => !open.begun,
        };
        if may_set { self.set(open) } else { self.pause(action, now) }
    }

    fn set(&mut self, open: &Open) -> Vec<Effect> {
        self.was_begun = open.begun;
        self.was_unsettled = self.state.unsettled;
        let action = &open.action;
        self.state.open = Some(Open { begun: true, ..open.clone() });
        self.state.unsettled = true;
        vec![Effect::Persist, Effect::Set { to: action.to.clone(), action: action.id.clone() }]
    }

    fn after_set(&mut self, open: Open, result: Result<String, DriverError>, now: Timestamp) -> Vec<Effect> {
        match result {
            Ok(said) => {
                self.said = said;
                self.tries = 0;
                self.step = Step::Confirm;
                self.state.open = Some(Open { accepted: true, ..open });
                vec![Effect::ReadBack]
            }
            Err(DriverError::Refused(said)) => {
                self.state.unsettled = self.was_unsettled;
                self.close(&open.action, ActionOutcome::Refused, said, now)
            }
            Err(DriverError::Retry(said)) => {
                self.state.unsettled = self.was_unsettled;
                self.said = said;
                self.step = Step::Look;
                let effects = self.pause(&open.action, now);
                self.state.open = Some(Open { begun: self.was_begun, ..open });
                effects
            }
            Err(DriverError::Unknown(said)) => {
                self.said = said;
                self.step = Step::Look;
                // At once after the first doubt; a driver that keeps doubting is given time.
                if self.tries == 0 {
                    self.tries = 1;
                    vec![Effect::ReadBack]
                } else {
                    self.pause(&open.action, now)
                }
            }
        }
    }

    /// Waits a little before the next look, never beyond the deadline: the last look is at it.
    fn pause(&mut self, action: &Action, now: Timestamp) -> Vec<Effect> {
        let pause = PAUSE_MIN.times(1 << self.tries.min(8)).min(PAUSE_MAX);
        self.tries = self.tries.saturating_add(1);
        vec![Effect::WakeAt((now + pause).min(action.deadline).max(now))]
    }

    fn give_up(&mut self, open: &Open, reading: Option<&Reading>, now: Timestamp) -> Vec<Effect> {
        let action = &open.action;
        let said = if self.said.is_empty() { String::new() } else { format!(": {}", self.said) };
        let (outcome, detail) = match reading {
            _ if !open.begun => (ActionOutcome::Expired, format!("not set by its deadline{said}")),
            None => (ActionOutcome::Unknown, format!("could not be read back by its deadline{said}")),
            Some(reading) => {
                let at = reading.targets.iter().filter(|target| target.value.as_ref() == Some(&action.to)).count();
                let all = reading.targets.len();
                let is_partial = at > 0 && at < all;
                let outcome = if is_partial { ActionOutcome::Partial } else { ActionOutcome::Unknown };
                (outcome, format!("{at} of {all} targets at {} by its deadline{said}", action.to))
            }
        };
        self.close(action, outcome, detail, now)
    }

    /// Answers, and remembers the answer before it is sent.
    fn close(&mut self, action: &Action, outcome: ActionOutcome, detail: String, now: Timestamp) -> Vec<Effect> {
        let result = self.result(action, outcome, detail, now);
        self.state.open = None;
        self.state.answered.push(result.clone());
        let surplus = self.state.answered.len().saturating_sub(ANSWERED_MAX);
        self.state.answered.drain(..surplus);
        vec![Effect::Persist, Effect::Answer(result)]
    }

    fn result(&self, action: &Action, outcome: ActionOutcome, detail: String, now: Timestamp) -> ActionResult {
        let targets: Vec<Target> = self.seen.as_ref().map(|seen| seen.targets.clone()).unwrap_or_default();
        ActionResult {
            action: action.id.clone(),
            lever: self.lever.clone(),
            agent: self.agent.clone(),
            outcome,
            targets,
            detail: detail.chars().take(DETAIL_LEN_MAX).collect(),
            at: now,
        }
    }
}

#[cfg(test)]
mod tests;
