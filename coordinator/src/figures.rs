//! What a coordinator counts, and what is wrong with it.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use bellwether_bus::metrics::{self, Counter, KeyValue, Seconds};
use bellwether_protocol::id::Service;
use bellwether_protocol::presence::Stuck;
use bellwether_protocol::record::{Input, Record};
use bellwether_protocol::status::{State, Status};
use bellwether_protocol::time::Timestamp;

static SLOTS: LazyLock<Counter<u64>> =
    LazyLock::new(|| metrics::counter("bellwether.slots.closed", "Slots that this coordinator wrote down as closed"));
static LAG: LazyLock<Seconds> =
    LazyLock::new(|| metrics::seconds("bellwether.relay.lag", "Time from a decision until what it says was stored"));

/// Where each service's rollout is, as shown last. Cheap to clone; clones share it.
#[derive(Debug, Default, Clone)]
pub(crate) struct Figures(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    states: BTreeMap<Service, State>,
    stopped: BTreeMap<Service, String>,
    stuck: Option<Stuck>,
}

impl Figures {
    /// Shows itself to whoever asks for this process's figures and health.
    pub(crate) fn shown() -> Self {
        let figures = Self::default();
        let own = figures.clone();
        metrics::gauge("bellwether.rollouts", "1", "The newest rollout of each service, by its state", move |gauge| {
            for (service, state) in &own.lock().states {
                let labels = [("service", service.to_string()), ("state", format!("{state:?}"))];
                gauge.observe(1.0, &labels.map(|(key, value)| KeyValue::new(key, value)));
            }
        });
        let own = figures.clone();
        metrics::check("log", move || {
            let known = own.lock();
            let stopped = known.stopped.iter().map(|(service, why)| format!("nothing is decided for {service}: {why}"));
            let stuck = known.stuck.iter().map(|Stuck { what, why, .. }| format!("{what}: {why}"));
            Some(stopped.chain(stuck).collect::<Vec<_>>().join("; ")).filter(|why| !why.is_empty())
        });
        figures
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn note_status(&self, status: &Status) {
        self.lock().states.insert(status.rollout.service.clone(), status.state);
    }

    /// That a decision could not be stored: until one is, nothing is decided here.
    pub(crate) fn note_not_stored(&self, why: &dyn std::fmt::Display, now: Timestamp) {
        let fix = "give the log room: on the disk of NATS, or in `max_bytes` of its stream; nothing is lost meanwhile";
        let what = "decisions cannot be stored".to_owned();
        let new = || Stuck { since: now, what, why: why.to_string(), fix: fix.to_owned() };
        self.lock().stuck.get_or_insert_with(new);
    }

    /// That one is stored, by this coordinator or another.
    pub(crate) fn note_stored(&self) {
        self.lock().stuck = None;
    }

    pub(crate) fn stuck(&self) -> Option<Stuck> {
        self.lock().stuck.clone()
    }

    pub(crate) fn note_stopped(&self, service: &Service, why: &str) {
        self.lock().stopped.insert(service.clone(), why.to_owned());
    }
}

/// Counts what a record holds that this coordinator has written.
pub(crate) fn written(record: &Record) {
    for input in &record.inputs {
        if let Input::Closed(closed) = input {
            SLOTS.add(1, &[KeyValue::new("covered", closed.reporters > 0)]);
        }
    }
}

/// Counts something that was relayed.
pub(crate) fn relayed(decided: Timestamp, now: Timestamp) {
    LAG.record(now.since(decided).to_std(), &[]);
}
