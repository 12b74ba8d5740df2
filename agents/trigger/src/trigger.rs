//! When a trigger fires, as a state machine: events in, effects out. No I/O and no clock; memory that must
//! outlive the process is written by [`Effect::Persist`], always before what follows it.
//!
//! A lever that moves is news only when nobody's rollout moved it: not the first value that is ever seen,
//! nothing while a rollout is on, and neither release of the last one.

use std::collections::VecDeque;
use std::fmt;

use bellwether_bus::Trace;
use bellwether_protocol::id::{LeverName, LeverValue, Release, RolloutId};
use bellwether_protocol::reason::Ending;
use bellwether_protocol::status::{State, Status};
use bellwether_protocol::time::{Span, Timestamp};
use serde::{Deserialize, Serialize};

/// What a trigger must not forget.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Memory {
    /// Where the lever stood when it was last followed.
    seen: Option<Release>,
    /// The last rollout at that time, by number; 0 before the first one.
    after: u64,
    /// What is being started: the intent.
    firing: Option<Firing>,
    /// When it fired within the last hour.
    fired: VecDeque<Timestamp>,
}

/// One start that was decided upon. Two agents that decide the same write the same here, instants and traces aside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Firing {
    /// What to bring out.
    pub(crate) release: Release,
    /// The last rollout of the service before it, by number.
    pub(crate) after: u64,
    /// When that was decided.
    pub(crate) at: Timestamp,
    /// Where the message that asked for it stands in a trace.
    #[serde(default)]
    pub(crate) trace: Trace,
}

/// The last rollout of the service, as its status has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Last {
    id: RolloutId,
    release: Release,
    previous: Option<Release>,
    /// What it last asked the trigger's own lever to be.
    set_to: Option<LeverValue>,
    is_shadow: bool,
    /// `None` while it is on.
    ended: Option<Ending>,
    /// When anything of it was decided last.
    decided_at: Timestamp,
}

/// What happened.
#[derive(Debug, Clone)]
pub(crate) enum Event {
    /// The intent was carried out, or could not be.
    Answered,
    /// A message named a release; where that stands in a trace.
    Asked(Release, Trace),
    /// The lever was read back at `at`, all targets alike.
    Read { release: Release, at: Timestamp },
    /// The process has begun.
    Resumed,
    /// The lever could not be read, or its targets differ.
    Unread,
}

/// What to do, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Say why nothing is started.
    Pass(Release, Pass),
    /// Write the memory down.
    Persist,
    /// Start a rollout; harmless when repeated. [`Event::Answered`] follows.
    Start(Firing),
}

/// Why nothing is started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Pass {
    /// It came on the platform while a rollout is on.
    Another(RolloutId),
    /// Starts in the last hour.
    Often(usize),
    /// This rollout was about it, or is.
    Known(RolloutId, Option<Ending>),
    /// More than one rollout began and ended unseen: whose release it is cannot be told.
    Unseen(RolloutId),
}

/// How long a lever must stand where it is: for two heartbeats, less what they come apart.
const STANDS: Span = Span::from_secs(4);
/// Most starts in [`FIRED_WITHIN`]: whatever flaps, each start is a record for ever.
const FIRED_MAX: usize = 12;
const FIRED_WITHIN: Span = Span::from_secs(3_600);

/// One trigger.
#[derive(Debug)]
pub(crate) struct Trigger {
    memory: Memory,
    is_shadow: bool,
    /// What the lever was read at for the first time, and when: not yet for long enough.
    fresh: Option<(Release, Timestamp)>,
}

impl Trigger {
    /// A trigger that remembers; with `is_shadow` what it starts moves nothing.
    pub(crate) fn new(memory: Memory, is_shadow: bool) -> Self {
        Self { memory, is_shadow, fresh: None }
    }

    /// What must be written down.
    pub(crate) fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Takes what happened, with the last rollout of the service then.
    pub(crate) fn handle(&mut self, event: Event, last: Option<&Last>, now: Timestamp) -> Vec<Effect> {
        match event {
            Event::Answered => {
                self.memory.firing = None;
                vec![Effect::Persist]
            }
            Event::Asked(release, trace) => match last.filter(|last| self.is_about(last, &release)) {
                Some(last) => vec![Effect::Pass(release, Pass::Known(last.id.clone(), last.ended))],
                None => self.fire(release, trace, last, now),
            },
            Event::Read { release, at } => self.read(release, at, last, now),
            Event::Unread => {
                self.fresh = None;
                Vec::new()
            }
            Event::Resumed => self.memory.firing.clone().map(Effect::Start).into_iter().collect(),
        }
    }

    fn read(&mut self, release: Release, at: Timestamp, last: Option<&Last>, now: Timestamp) -> Vec<Effect> {
        let is_on = last.is_some_and(|last| last.ended.is_none());
        // Read before the rollout was over, it says where that one had it.
        if !is_on && last.is_some_and(|last| at <= last.decided_at) {
            return Vec::new();
        }
        let number = number(last);
        let Some(seen) = &self.memory.seen else { return self.follow(release, last) };
        if *seen == release {
            self.fresh = None;
            return if self.memory.after == number { Vec::new() } else { self.follow(release, last) };
        }
        if let Some(last) = last {
            let pass = match last.ended {
                _ if last.previous.as_ref() == Some(&release) => None,
                // Where regions have levers of their own, each may go back to another release.
                _ if last.set_to.as_ref().is_some_and(|set_to| set_to.as_str() == release.as_str()) => None,
                None if last.release == release => None,
                None => Some(Pass::Another(last.id.clone())),
                Some(Ending::Completed) if self.is_about(last, &release) => None,
                Some(_) if self.is_about(last, &release) => Some(Pass::Known(last.id.clone(), last.ended)),
                Some(_) if number > self.memory.after.saturating_add(1) => Some(Pass::Unseen(last.id.clone())),
                Some(_) => return self.settle(release, at, Some(last), now),
            };
            let mut effects = self.follow(release.clone(), Some(last));
            effects.extend(pass.map(|pass| Effect::Pass(release, pass)));
            return effects;
        }
        self.settle(release, at, last, now)
    }

    /// Fires once the lever has stood there for long enough.
    fn settle(&mut self, release: Release, at: Timestamp, last: Option<&Last>, now: Timestamp) -> Vec<Effect> {
        match &self.fresh {
            Some((fresh, since)) if *fresh == release => {
                if at.since(*since) < STANDS {
                    return Vec::new();
                }
                self.memory.seen = Some(release.clone());
                self.fresh = None;
                self.fire(release, Trace::default(), last, now)
            }
            _ => {
                self.fresh = Some((release, at));
                Vec::new()
            }
        }
    }

    /// The lever stands there, and that is nothing to act upon.
    fn follow(&mut self, release: Release, last: Option<&Last>) -> Vec<Effect> {
        self.fresh = None;
        (self.memory.seen, self.memory.after) = (Some(release), number(last));
        vec![Effect::Persist]
    }

    fn fire(&mut self, release: Release, trace: Trace, last: Option<&Last>, now: Timestamp) -> Vec<Effect> {
        let fired = &mut self.memory.fired;
        fired.retain(|at| now.since(*at) < FIRED_WITHIN);
        if fired.len() >= FIRED_MAX {
            return vec![Effect::Persist, Effect::Pass(release, Pass::Often(FIRED_MAX))];
        }
        fired.push_back(now);
        let firing = Firing { release, after: number(last), at: now, trace };
        self.memory.after = firing.after;
        self.memory.firing = Some(firing.clone());
        vec![Effect::Persist, Effect::Start(firing)]
    }

    /// Whether that rollout tries, or tried, what this trigger would: a shadow has only looked.
    fn is_about(&self, last: &Last, release: &Release) -> bool {
        last.release == *release && (self.is_shadow || !last.is_shadow)
    }
}

fn number(last: Option<&Last>) -> u64 {
    last.map_or(0, |last| last.id.number)
}

impl Last {
    /// What a status says of it; `lever` is the trigger's own.
    pub(crate) fn of(status: Status, lever: Option<&LeverName>) -> Self {
        let own = status.levers.into_iter().find(|own| Some(&own.lever) == lever);
        Self {
            id: status.rollout,
            // What a shadow says, it has not done.
            set_to: own.and_then(|own| own.set_to).filter(|_| !status.is_shadow),
            release: status.release,
            previous: status.previous,
            is_shadow: status.is_shadow,
            ended: status.ending.filter(|_| status.state == State::Ended),
            decided_at: status.decided_at,
        }
    }
}

impl Pass {
    /// Whether nobody needs to hear of it: the release is where it was asked to be, or on its way.
    pub(crate) fn is_usual(&self) -> bool {
        matches!(self, Self::Known(_, None | Some(Ending::Completed)))
    }
}

impl fmt::Display for Pass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Another(rollout) => write!(f, "{rollout} is on"),
            Self::Often(n) => write!(f, "this trigger has started {n} within an hour: start it by hand"),
            Self::Known(rollout, None) => write!(f, "{rollout} is on with it"),
            Self::Known(rollout, Some(Ending::Completed)) => write!(f, "{rollout} completed with it"),
            Self::Known(rollout, Some(_)) => write!(f, "{rollout} was about it: to try again, start it by hand"),
            Self::Unseen(rollout) => {
                write!(f, "several rollouts up to {rollout} passed while nobody looked: start it by hand if it is new")
            }
        }
    }
}

#[cfg(test)]
mod tests;
