//! Where what was read stands in traces, until a decision names it as its cause. Never an input: the
//! judge and the log know nothing of it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bellwether_bus::Trace;
use bellwether_protocol::id::Service;
use bellwether_protocol::reason::{Cause, Reason};
use bellwether_protocol::record::{ClosedSlot, Input, Record, Series};
use bellwether_protocol::sample::{Portion, Tick, class};
use bellwether_protocol::time::Timestamp;

/// Most slots, and most messages of the inbox, whose place is kept: the newest ones.
const KEPT_MAX: usize = 4_096;

/// What was read and may still be a cause. Cheap to clone; clones share it.
#[derive(Debug, Default, Clone)]
pub(crate) struct Causes(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    slots: BTreeMap<(Timestamp, Service, Series), Trace>,
    inbox: BTreeMap<u64, Trace>,
    /// The last decision of each service that told somebody something.
    told: BTreeMap<Service, Trace>,
}

impl Causes {
    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes where the samples of `tick` stand.
    pub(crate) fn note_samples(&self, tick: &Tick, trace: &Trace) {
        if trace.is_none() {
            return;
        }
        let slots = &mut self.lock().slots;
        for sample in &tick.samples {
            let region = tick.agent.region.clone();
            let series = Series { sli: sample.sli.clone(), cohort: sample.cohort, region };
            let key = (sample.slot, sample.rollout.service.clone(), series);
            // Of several agents the one that saw something bad is followed.
            if is_bad(&sample.portions) || !slots.contains_key(&key) {
                slots.insert(key, trace.clone());
            }
        }
        while slots.len() > KEPT_MAX {
            slots.pop_first();
        }
    }

    /// Notes where a message of the inbox stands.
    pub(crate) fn note_inbox(&self, seq: u64, trace: &Trace) {
        if trace.is_none() {
            return;
        }
        let inbox = &mut self.lock().inbox;
        inbox.insert(seq, trace.clone());
        while inbox.len() > KEPT_MAX {
            inbox.pop_first();
        }
    }

    /// Notes where a decision stands.
    pub(crate) fn note_decision(&self, record: &Record, trace: &Trace) {
        let tells_nobody = record.actions.is_empty() && record.alerts.is_empty();
        if !trace.is_none() && !tells_nobody {
            self.lock().told.insert(record.service.clone(), trace.clone());
        }
    }

    /// What led to `record`, the first cause first. It is what is followed; the others take part.
    ///
    /// Where a criterion failed that is the newest bad slot, which made it cross; else the newest
    /// command or answer, so that what came of an action stays in its trace; else the newest slot.
    pub(crate) fn of(&self, record: &Record) -> Vec<Trace> {
        let is_failing = |reason: &Reason| {
            matches!(reason, Reason::TakingBack { cause: Cause::Criterion { .. } | Cause::Drift { .. }, .. })
        };
        let mut kept = self.lock();
        let (mut bad, mut good, mut asked) = (VecDeque::new(), VecDeque::new(), VecDeque::new());
        for input in &record.inputs {
            match input {
                Input::Closed(closed) | Input::Late(closed) => {
                    let found = kept.slots.remove(&key(&record.service, closed));
                    let among = if is_bad(&closed.portions) { &mut bad } else { &mut good };
                    found.into_iter().for_each(|trace| among.push_front(trace));
                }
                Input::Command(command) => asked.extend(kept.inbox.remove(&command.seq)),
                Input::Result { seq, .. } => asked.extend(kept.inbox.remove(seq)),
                Input::DataFault { .. } | Input::Presence(_) | Input::Read { .. } | Input::StreamReset { .. } => {}
            }
        }
        asked.make_contiguous().reverse();
        let order = if record.reasons.iter().any(is_failing) { [bad, asked, good] } else { [asked, bad, good] };
        let before = kept.told.get(&record.service).cloned();
        let first = order.into_iter().flatten().chain(before);
        first.fold(Vec::new(), |mut all, trace| {
            if !all.contains(&trace) {
                all.push(trace);
            }
            all
        })
    }
}

fn key(service: &Service, closed: &ClosedSlot) -> (Timestamp, Service, Series) {
    (closed.slot, service.clone(), closed.series.clone())
}

fn is_bad(portions: &[Portion]) -> bool {
    portions.iter().flat_map(|portion| &portion.classes).any(|(class, count)| *count > 0 && !class::is_ok(class))
}
