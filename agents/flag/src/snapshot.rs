//! The flags of one service at one revision: what the endpoint serves, and what it falls back to
//! when NATS is away. Keeps the last one on disk; never decides what a flag should be.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bellwether_protocol::id::{LeverName, LeverValue};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::evaluate::Flag;

/// Earlier values that are remembered of each flag, to say what a late endpoint still serves.
const EARLIER_MAX: usize = 8;

/// The stored document of one service.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Document {
    /// Each flag that was ever set.
    pub flags: BTreeMap<LeverName, Setting>,
}

/// What one flag is set to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    /// The name of a variant, or a share such as `10%`.
    pub value: LeverValue,
}

impl Document {
    /// What a flag is set to; `None` when it never was.
    pub fn value(&self, flag: &LeverName) -> Option<&LeverValue> {
        self.flags.get(flag).map(|setting| &setting.value)
    }
}

/// A document and the revision it was stored under; 0 when nothing was ever stored.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Its revision.
    pub revision: u64,
    /// The flags.
    pub document: Document,
}

/// What the endpoint serves now, shared between the endpoint, the watch and the drivers.
#[derive(Debug, Clone, Default)]
pub struct Served(watch::Sender<State>);

#[derive(Debug, Default)]
struct State {
    snapshot: Option<Arc<Snapshot>>,
    /// Newest first: since which revision a flag has had which value.
    earlier: BTreeMap<LeverName, Vec<(u64, Option<LeverValue>)>>,
}

impl Served {
    /// What is served; `None` before anything is known.
    pub fn snapshot(&self) -> Option<Arc<Snapshot>> {
        self.0.borrow().snapshot.clone()
    }

    /// The revisions that are served from now on.
    pub fn changes(&self) -> Changes {
        Changes(self.0.subscribe())
    }

    /// Serves another snapshot from now on.
    pub fn replace(&self, snapshot: Snapshot) {
        self.0.send_modify(|state| state.replace(snapshot));
    }

    /// What an endpoint that serves `revision` gives for a flag, when `newest` was read from the
    /// store after that. `None` when it is not known.
    pub fn value_at(&self, flag: &Flag, revision: u64, newest: &Snapshot) -> Option<LeverValue> {
        if revision == newest.revision {
            return flag.effective(newest.document.value(&flag.name));
        }
        let state = self.0.borrow();
        // A revision that this agent has not reached itself may hold a change that it has not seen;
        // one beyond the newest is of a bucket that is no more.
        let known = state.snapshot.as_ref().map_or(0, |snapshot| snapshot.revision).min(newest.revision);
        let earlier = state.earlier.get(&flag.name).filter(|_| revision <= known)?;
        let (_, value) = earlier.iter().find(|(since, _)| *since <= revision)?;
        flag.effective(value.as_ref())
    }
}

/// Waits for another revision to be served.
#[derive(Debug)]
pub struct Changes(watch::Receiver<State>);

impl Changes {
    /// The next revision; those that came in between are skipped. `None` when nothing is served any more.
    pub async fn next(&mut self) -> Option<u64> {
        self.0.changed().await.ok()?;
        self.0.borrow_and_update().snapshot.as_ref().map(|snapshot| snapshot.revision)
    }
}

impl State {
    fn replace(&mut self, snapshot: Snapshot) {
        if self.snapshot.as_ref().is_none_or(|before| before.revision > snapshot.revision) {
            // The bucket is another one than before; what its revisions meant is not known.
            self.earlier.clear();
        }
        let names = self.earlier.keys().chain(snapshot.document.flags.keys()).cloned();
        let names: BTreeSet<LeverName> = names.collect();
        for name in names {
            let value = snapshot.document.value(&name).cloned();
            let earlier = self.earlier.entry(name).or_default();
            if earlier.first().is_none_or(|(_, newest)| *newest != value) {
                earlier.insert(0, (snapshot.revision, value));
                earlier.truncate(EARLIER_MAX);
            }
        }
        self.snapshot = Some(Arc::new(snapshot));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn snapshot(revision: u64, flags: serde_json::Value) -> Snapshot {
        serde_json::from_value(json!({ "revision": revision, "document": { "flags": flags } })).expect("a snapshot")
    }

    fn flag(name: &str) -> Flag {
        let flag = json!({ "name": name, "variants": { "on": true, "off": false }, "default": "off" });
        serde_json::from_value(flag).expect("a flag")
    }

    #[test]
    fn a_late_endpoint_is_read_at_its_older_value() {
        let served = Served::default();
        let both = |a: &str, b: &str| json!({ "a": { "value": a }, "b": { "value": b } });
        served.replace(snapshot(10, both("off", "off")));
        served.replace(snapshot(14, both("on", "off")));
        let newest = snapshot(17, both("on", "10%"));
        served.replace(newest.clone());
        let check = |name: &str, revision: u64, expected: Option<&str>| {
            let value = served.value_at(&flag(name), revision, &newest);
            assert_eq!(value.as_ref().map(LeverValue::as_str), expected, "{name} at {revision}");
        };
        check("a", 17, Some("on"));
        check("a", 99, None);
        // `b` changed at 17; `a` did not, so an endpoint at 14 serves `a` as it is set.
        check("a", 14, Some("on"));
        check("b", 14, Some("off"));
        check("a", 10, Some("off"));
        check("a", 9, None);
        check("unset", 17, Some("off"));
        check("unset", 14, None);
    }

    #[test]
    fn a_bucket_that_begins_again_is_not_mixed_with_the_old_one() {
        let served = Served::default();
        served.replace(snapshot(10, json!({ "a": { "value": "on" } })));
        let newest = snapshot(2, json!({ "a": { "value": "off" } }));
        served.replace(newest.clone());
        assert_eq!(served.value_at(&flag("a"), 1, &newest), None);
        assert_eq!(served.value_at(&flag("a"), 10, &newest), None);
        assert_eq!(served.snapshot().map(|snapshot| snapshot.revision), Some(2));
    }
}
