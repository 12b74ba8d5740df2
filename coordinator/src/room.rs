//! One service: its desk, its place in the log, and what waits to be folded.

use std::collections::{BTreeMap, BTreeSet};

use bellwether_decide::collect::{CLOSED_MAX, Collector, Heard};
use bellwether_decide::{Desk, Step, step};
use bellwether_protocol::codec;
use bellwether_protocol::id::{AgentId, CoordinatorId, Ordinal, Service};
use bellwether_protocol::record::{
    AgentHere, AgentSeen, Agents, Hash, Input, Positions, RECORD_LEN_MAX, Record, Source,
};
use bellwether_protocol::time::{Span, Timestamp};

use crate::log::{self, RecordError};

/// How long inputs that change nothing may wait to be logged.
const BATCH_FOR: Span = Span::from_secs(60);
/// A failed append is tried again after this long.
const RETRY_AFTER: Span = Span::from_secs(1);

/// A log that has moved on is read within moments; that it is not for so long is told.
const BLOCKED_AFTER: Span = Span::from_secs(60);

/// One service.
#[derive(Debug)]
pub struct Room {
    /// What is known, folded from the log.
    pub desk: Desk,
    /// Hash of the last record.
    pub hash: Hash,
    /// Stream sequence of the last record, 0 before the first: the fence of the next append.
    pub log_seq: u64,
    /// `now` of the last record.
    pub decided_at: Timestamp,
    /// From where the samples must be read again after a restart.
    pub samples_from: u64,
    /// Up to where the inbox need not be read again after a restart.
    pub inbox_upto: u64,
    /// When the streams that its positions are of were created.
    created: BTreeMap<Source, Timestamp>,
    /// Streams that were lost, which the log does not say yet.
    lost: BTreeSet<Source>,
    /// Why no decision is made for this service, if so.
    pub stopped: Option<String>,
    pub(crate) collector: Collector,
    inbox: BTreeMap<u64, Input>,
    appending: Option<Ordinal>,
    retry_at: Option<Timestamp>,
    /// Since when the log takes none of our records, and shows none of anybody's.
    blocked_since: Option<Timestamp>,
    pub(crate) is_blocked_told: bool,
    batch_since: Option<Timestamp>,
    due_since: Option<Timestamp>,
    /// When the last record wants to be decided upon again.
    wake_at: Option<Timestamp>,
}

/// What a look at a room led to.
pub(crate) enum Verdict {
    /// Nothing to do before this instant, if any. The trial shows what people would see now.
    Wait(Option<Timestamp>, Option<Box<Desk>>),
    /// Append this record.
    Append(Box<Record>, Vec<u8>),
}

impl Room {
    pub(crate) fn new(service: Service) -> Self {
        Self {
            desk: Desk::new(service),
            hash: Hash::default(),
            log_seq: 0,
            decided_at: Timestamp::default(),
            samples_from: 0,
            inbox_upto: 0,
            created: BTreeMap::new(),
            lost: BTreeSet::new(),
            stopped: None,
            collector: Collector::default(),
            inbox: BTreeMap::new(),
            appending: None,
            retry_at: None,
            blocked_since: None,
            is_blocked_told: false,
            batch_since: None,
            due_since: None,
            wake_at: None,
        }
    }

    /// Takes in a command or a result. What the log already holds is dropped.
    pub(crate) fn offer(&mut self, seq: u64, input: Input) {
        if seq > self.desk.inbox {
            self.inbox.insert(seq, input);
        }
    }

    /// Folds a record that was read from the log, whoever wrote it, and hands back the desk as it was.
    pub(crate) fn fold(&mut self, seq: u64, body: &[u8]) -> Result<(Record, Desk), RecordError> {
        let (record, desk) = log::verify(&self.desk, self.hash, body)?;
        let before = std::mem::replace(&mut self.desk, desk);
        self.hash = self.hash.chain(body);
        self.log_seq = seq;
        self.decided_at = record.now;
        self.wake_at = record.wake_at;
        self.samples_from = record.positions.samples;
        self.inbox_upto = record.positions.inbox;
        self.created.extend(&record.positions.created);
        for input in &record.inputs {
            let Input::StreamReset { source } = input else { continue };
            self.lost.remove(source);
            match source {
                Source::Inbox => self.inbox.clear(),
                Source::Samples => self.collector.begin_anew(),
            }
        }
        self.inbox = self.inbox.split_off(&self.desk.inbox.saturating_add(1));
        self.collector.prune(&self.desk);
        self.appending = None;
        self.retry_at = None;
        self.blocked_since = None;
        self.batch_since = None;
        self.due_since = None;
        Ok((record, before))
    }

    /// An append did not make it: someone else was faster, or nothing is known.
    pub(crate) fn append_failed(&mut self, ordinal: Ordinal, conflict: bool, now: Timestamp) {
        if self.appending == Some(ordinal) {
            self.appending = None;
            if conflict {
                self.blocked_since.get_or_insert(now);
            }
            // After a conflict the other record is already on its way to our reader.
            self.retry_at = Some(if conflict { now + Span::from_ms(200) } else { now + RETRY_AFTER });
        }
    }

    /// Whether the log has moved on long ago, and nothing comes of it: it is another one, or cannot be read.
    pub(crate) fn is_blocked(&self, now: Timestamp) -> bool {
        self.blocked_since.is_some_and(|since| now.since(since) >= BLOCKED_AFTER)
    }

    /// Takes note of what a stream is now that its reader has begun: another one than the positions
    /// in the log are of, or one that ends before them, was lost.
    pub(crate) fn opened(&mut self, source: Source, created: Timestamp, last: u64) {
        let position = match source {
            Source::Inbox => self.desk.inbox.max(self.inbox.last_key_value().map_or(0, |(seq, _)| *seq)),
            Source::Samples if self.is_running() => self.desk.read.max(self.collector.read_upto()),
            Source::Samples => self.desk.read,
        };
        let is_other = self.created.get(&source).is_some_and(|known| *known != created);
        if position > 0 && (is_other || position > last) {
            self.lost.insert(source);
        }
    }

    /// Whether messages of this stream must wait until the log says that they count anew.
    pub(crate) fn has_lost(&self, source: Source) -> bool {
        self.stopped.is_none() && self.lost.contains(&source)
    }

    /// The first message of the inbox that waits for this service's first record: until then the log does not say
    /// that there is such a service, and a restart looks for it nowhere else.
    pub(crate) fn unlogged(&self) -> Option<u64> {
        self.inbox.first_key_value().map(|(seq, _)| *seq).filter(|_| self.desk.ordinal == Ordinal(0))
    }

    /// Whether a rollout is on, so that slots must be closed.
    pub(crate) fn is_running(&self) -> bool {
        self.desk.running().is_some()
    }

    /// Tries what would be decided now, and whether that must be written down now.
    pub(crate) fn look(&mut self, ctx: &Context<'_>) -> Verdict {
        let is_idle = !self.is_running() && self.inbox.is_empty() && self.lost.is_empty() && self.wake_at.is_none();
        if self.stopped.is_some() || self.appending.is_some() || is_idle {
            return Verdict::Wait(None, None);
        }
        if let Some(retry_at) = self.retry_at.filter(|at| ctx.now < *at) {
            return Verdict::Wait(Some(retry_at), None);
        }
        let now = ctx.now.max(self.decided_at);
        let (inputs, step) = self.trial(ctx, now, CLOSED_MAX);
        // A slot that could close by the clock waits for what is still to be heard, and hearing it
        // looks again; waking up for it would only spin.
        let next_close = self.collector.next_close(&self.desk).filter(|at| *at > now);
        let next = [step.wake_at, next_close].into_iter().flatten().min();
        if step.is_quiet() {
            self.due_since = None;
            if inputs.is_empty() {
                return Verdict::Wait(next, None);
            }
            let flush_at = *self.batch_since.get_or_insert(now) + BATCH_FOR;
            if now < flush_at && inputs.len() < CLOSED_MAX {
                let next = next.map_or(flush_at, |next| next.min(flush_at));
                return Verdict::Wait(Some(next), Some(Box::new(step.desk)));
            }
        }
        // A standby waits its turn: the first in rank has then long appended, or is gone.
        let turn = *self.due_since.get_or_insert(now) + ctx.delay;
        if now < turn {
            return Verdict::Wait(Some(turn), Some(Box::new(step.desk)));
        }
        self.write(ctx, now, inputs, step)
    }

    fn write(&mut self, ctx: &Context<'_>, now: Timestamp, inputs: Vec<Input>, step: Step) -> Verdict {
        let (mut inputs, mut step) = (inputs, step);
        let mut most = CLOSED_MAX;
        loop {
            let is_anew = inputs.contains(&Input::StreamReset { source: Source::Samples });
            let positions = Positions {
                samples: if is_anew { 1 } else { self.collector.lowest_needed(&step.desk) },
                inbox: step.desk.inbox.min(ctx.unlogged.saturating_sub(1)),
                created: ctx.created.clone(),
            };
            let record = log::record(&self.desk, self.hash, ctx.coordinator, inputs, positions, now, &step);
            match codec::to_json("record", &record) {
                Ok(body) if body.len() <= RECORD_LEN_MAX || most == 1 => {
                    self.appending = Some(record.ordinal);
                    return Verdict::Append(Box::new(record), body);
                }
                // A long backfill, or a flood of commands, splits: the rest goes into the next record.
                Ok(_) => {
                    most = (most / 2).max(1);
                    (inputs, step) = self.trial(ctx, now, most);
                }
                Err(error) => {
                    self.stopped = Some(format!("a record could not be written: {error}"));
                    return Verdict::Wait(None, None);
                }
            }
        }
    }

    fn trial(&self, ctx: &Context<'_>, now: Timestamp, most: usize) -> (Vec<Input>, Step) {
        let mut inputs: Vec<Input> = changes(&self.desk.agents, &ctx.agents_for(&self.desk.service)).collect();
        inputs.extend(self.collector.inputs(&self.desk, Heard { upto: ctx.heard, now: ctx.now }, most));
        // In the inbox's order: what is left over is behind the position that this record names.
        inputs.extend(self.inbox.values().take(most).cloned());
        if self.inbox.len() <= most {
            inputs.extend(self.lost.iter().map(|source| Input::StreamReset { source: *source }));
        }
        let step = step(&self.desk, &inputs, now);
        (inputs, step)
    }
}

/// What a room needs to know of the world to decide.
pub(crate) struct Context<'a> {
    pub(crate) coordinator: &'a CoordinatorId,
    pub(crate) now: Timestamp,
    /// Everything stored in the samples stream before this instant has been offered.
    pub(crate) heard: Timestamp,
    /// When the streams were created that are read.
    pub(crate) created: &'a BTreeMap<Source, Timestamp>,
    /// The first message of the inbox that waits for the first record of another service.
    pub(crate) unlogged: u64,
    /// How long this coordinator leaves the others to act first.
    pub(crate) delay: Span,
    pub(crate) live: &'a BTreeMap<AgentId, bellwether_protocol::presence::Presence>,
}

impl Context<'_> {
    fn agents_for(&self, service: &Service) -> Agents {
        self.live.iter().map(|(agent, presence)| (agent.clone(), here(presence, service))).collect()
    }
}

/// What an agent holds for a service.
pub(crate) fn here(presence: &bellwether_protocol::presence::Presence, service: &Service) -> AgentHere {
    AgentHere {
        kinds: presence.kinds.clone(),
        watching: presence.watching.get(service).cloned(),
        levers: presence.levers.get(service).cloned().unwrap_or_default(),
    }
}

/// What changed between the agents that the log knows and those that are here.
fn changes<'a>(known: &'a Agents, here: &'a Agents) -> impl Iterator<Item = Input> + 'a {
    let gone = known.keys().filter(|agent| !here.contains_key(agent)).map(|agent| (agent, None));
    let changed =
        here.iter().filter(|(agent, now)| known.get(agent) != Some(now)).map(|(agent, now)| (agent, Some(now)));
    gone.chain(changed).map(|(agent, here)| Input::Presence(AgentSeen { agent: agent.clone(), here: here.cloned() }))
}
