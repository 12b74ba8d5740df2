//! What is not measured now, and why: words for people, in the agent's presence. As evidence, a slot
//! without a sample is the gap.

use std::collections::BTreeMap;
use std::sync::Arc;

use bellwether_protocol::id::{Service, SliName};
use bellwether_protocol::presence::{GAP_LEN_MAX, GAPS_MAX, Gap, Watching};
use bellwether_protocol::sample::Cohort;
use bellwether_protocol::time::Timestamp;
use tokio::sync::watch;

use crate::gather::Watch;
use crate::web::redact;

type Key = (Service, SliName, Cohort);

/// What none of the agent's looks measures now.
#[derive(Debug, Clone, Default)]
pub struct Gaps(Arc<watch::Sender<BTreeMap<Key, Gap>>>);

impl Gaps {
    /// Rings when one begins, changes or ends.
    pub fn bell(&self) -> watch::Receiver<BTreeMap<Key, Gap>> {
        self.0.subscribe()
    }

    /// Puts them into what the agent says of each service.
    pub fn tell(&self, watching: &mut BTreeMap<Service, Watching>) {
        let gaps = self.0.borrow();
        for (service, watching) in watching {
            let own = gaps.iter().filter(|((of, _, _), _)| of == service).map(|(_, gap)| gap.clone());
            watching.gaps = own.take(GAPS_MAX).collect();
        }
    }

    /// The place of one look among them.
    pub fn place(&self, watch: &Watch) -> Place {
        let key = (watch.rollout.service.clone(), watch.sli.clone(), watch.cohort);
        Place { gaps: self.clone(), key }
    }
}

/// Where one look says what it misses; empty once this is dropped.
#[derive(Debug)]
pub struct Place {
    gaps: Gaps,
    key: Key,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.fill();
    }
}

impl Place {
    /// Nothing was measured at `now`. Says whether that is new.
    pub fn open(&self, missing: &str, now: Timestamp) -> bool {
        let why = redact(missing, &[], GAP_LEN_MAX);
        let (_, sli, cohort) = self.key.clone();
        let mut is_new = false;
        self.gaps.0.send_if_modified(|gaps| {
            is_new = !gaps.contains_key(&self.key);
            let gap = gaps.entry(self.key.clone()).or_insert(Gap { sli, cohort, since: now, why: String::new() });
            let differs = gap.why != why;
            gap.why = why;
            differs
        });
        is_new
    }

    /// Something was measured. Says whether that is new.
    pub fn fill(&self) -> bool {
        self.gaps.0.send_if_modified(|gaps| gaps.remove(&self.key).is_some())
    }
}

#[cfg(test)]
mod tests {
    use bellwether_protocol::id::Revision;
    use bellwether_protocol::time::Span;

    use super::*;

    #[test]
    fn a_gap_is_told_while_it_lasts_redacted_and_bounded() {
        let gaps = Gaps::default();
        let watch = |sli: String| Watch {
            rollout: "shop/1".parse().unwrap(),
            revision: Revision(1),
            sli: sli.parse().unwrap(),
            cohort: Cohort::Canary,
            slot: Span::from_secs(1),
            timeout: Span::from_secs(1),
            edges_ms: Vec::new(),
        };
        let told = || {
            let watching = Watching { revision: Revision(1), refused: None, gaps: Vec::new() };
            let mut all = BTreeMap::from([("shop".parse().unwrap(), watching)]);
            gaps.tell(&mut all);
            all.into_values().flat_map(|watching| watching.gaps).collect::<Vec<_>>()
        };
        let place = gaps.place(&watch("memory".to_owned()));
        assert!(!place.fill());
        let secret = format!("status 500, password=hunter2{}", " and so on".repeat(100));
        assert!(place.open(&secret, Timestamp::from_ms(7)));
        assert!(!place.open("status 502", Timestamp::from_ms(8)));
        let first = told().pop().unwrap();
        assert_eq!(
            (first.why.as_str(), first.since.as_ms()),
            ("status 502", 7),
            "the newest reason, the oldest instant"
        );
        assert!(!place.open(&secret, Timestamp::from_ms(9)));
        let why = told().pop().unwrap().why;
        assert!(why.starts_with("status 500, password=*** and") && why.len() <= GAP_LEN_MAX, "{why}");
        let more: Vec<Place> = (0..2 * GAPS_MAX).map(|n| gaps.place(&watch(format!("sli_{n}")))).collect();
        assert!(more.iter().all(|place| place.open(&secret, Timestamp::from_ms(9))));
        assert_eq!(told().len(), GAPS_MAX);
        drop(more);
        assert_eq!(told().len(), 1, "a look that ended misses nothing");
        assert!(place.fill() && told().is_empty());
    }
}
