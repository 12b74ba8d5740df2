//! Where a lever stands, out of what every agent says of itself. Pure.

use std::collections::BTreeMap;

use bellwether_protocol::id::{AgentId, LeverName, LeverValue, Release, Service};
use bellwether_protocol::presence::{PRESENCE_TTL, Presence};
use bellwether_protocol::time::Timestamp;

/// Most agents that may hold one lever; of others nothing is remembered.
const HOLDERS_MAX: usize = 64;

/// One lever of one service.
#[derive(Debug)]
pub(crate) struct Lever {
    service: Service,
    name: LeverName,
    /// When each holder read it, and where it stood; `None` when it could not be read.
    held: BTreeMap<AgentId, (Timestamp, Option<LeverValue>)>,
}

impl Lever {
    pub(crate) fn new(service: Service, name: LeverName) -> Self {
        Self { service, name, held: BTreeMap::new() }
    }

    /// Takes up what one agent says; whether it holds this lever.
    pub(crate) fn hear(&mut self, presence: Presence) -> bool {
        let Presence { agent, at, mut levers, .. } = presence;
        let own = levers.remove(&self.service).unwrap_or_default();
        let reading = own.into_iter().find(|reading| reading.lever == self.name);
        match reading {
            Some(reading) if self.held.len() < HOLDERS_MAX || self.held.contains_key(&agent) => {
                self.held.insert(agent, (at, reading.value));
                true
            }
            _ => {
                self.held.remove(&agent);
                false
            }
        }
    }

    /// The release that every holder who is there reads, and when the last of them did. `None` when nobody
    /// is there, one could not read it, two differ, or it is no release.
    pub(crate) fn stands(&self, now: Timestamp) -> Option<(Release, Timestamp)> {
        let mut here = self.held.values().filter(|(at, _)| now.since(*at) < PRESENCE_TTL);
        let (first, value) = here.next()?;
        let mut newest = *first;
        for (at, other) in here {
            if other != value {
                return None;
            }
            newest = newest.max(*at);
        }
        Some((value.as_ref()?.as_str().parse().ok()?, newest))
    }
}

#[cfg(test)]
mod tests {
    use bellwether_protocol::presence::LeverReading;

    use super::*;

    fn says(name: &str, at_ms: i64, lever: &str, value: Option<&str>) -> Presence {
        let reading = LeverReading {
            lever: lever.parse().unwrap(),
            value: value.map(|value| value.parse().unwrap()),
            targets: Vec::new(),
            history: Vec::new(),
        };
        Presence {
            levers: [("shop".parse().unwrap(), vec![reading])].into(),
            ..Presence::new(format!("sjc.rollback.{name}").parse().unwrap(), "", Timestamp::from_ms(at_ms))
        }
    }

    #[test]
    fn it_stands_where_everybody_who_is_there_reads_it() {
        let mut lever = Lever::new("shop".parse().unwrap(), "release".parse().unwrap());
        let check = |lever: &Lever, now_ms: i64, expected: Option<(&str, i64)>| {
            let stands = lever.stands(Timestamp::from_ms(now_ms));
            let expected = expected.map(|(release, at)| (release.parse().unwrap(), Timestamp::from_ms(at)));
            assert_eq!(stands, expected);
        };
        check(&lever, 0, None);
        assert!(!lever.hear(says("a", 1_000, "traffic", Some("10%"))));
        check(&lever, 1_000, None);
        assert!(lever.hear(says("a", 2_000, "release", Some("v43"))));
        check(&lever, 2_000, Some(("v43", 2_000)));
        lever.hear(says("b", 3_000, "release", Some("v42")));
        check(&lever, 3_000, None);
        lever.hear(says("b", 4_000, "release", None));
        check(&lever, 4_000, None);
        lever.hear(says("b", 5_000, "release", Some("v43")));
        check(&lever, 5_000, Some(("v43", 5_000)));
        lever.hear(says("b", 6_000, "traffic", Some("10%")));
        check(&lever, 6_000, Some(("v43", 2_000)));
        check(&lever, 17_001, None);
    }
}
