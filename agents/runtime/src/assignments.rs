//! What this region is to watch. The newest assignment of each service, and never an older one.

use std::collections::BTreeMap;

use bellwether_bus::{Bus, KvEntry};
use bellwether_protocol::assignment::Assignment;
use bellwether_protocol::codec::from_msgpack;
use bellwether_protocol::id::{Region, Service};
use bellwether_protocol::subject::Bucket;
use tokio::sync::watch;

/// Assignments by service.
type Assignments = BTreeMap<Service, Assignment>;

/// Most services that one region watches; more is someone else's mistake.
const SERVICES_MAX: usize = 1_000;

/// Follows the bucket for ever.
pub(crate) async fn follow(bus: Bus, region: Region, assigned: watch::Sender<Assignments>) {
    let mut changes = bus.kv(Bucket::Assignments).watch();
    loop {
        let entry = changes.next().await;
        let Some(service) = service_of(&entry.key, &region) else { continue };
        assigned.send_if_modified(|current| match fold(current, service, &region, &entry) {
            Ok(is_changed) => is_changed,
            Err(why) => {
                tracing::warn!(key = entry.key, revision = entry.revision, why, "assignment ignored");
                false
            }
        });
    }
}

fn service_of(key: &str, region: &Region) -> Option<Service> {
    key.strip_prefix(region.as_str())?.strip_prefix('.')?.parse().ok()
}

/// Takes up one entry; tells whether anything changed, or why it was ignored.
fn fold(current: &mut Assignments, service: Service, region: &Region, entry: &KvEntry) -> Result<bool, String> {
    let Some(bytes) = &entry.value else {
        return Ok(current.remove(&service).is_some());
    };
    let assignment: Assignment = from_msgpack("assignment", bytes).map_err(|error| crate::web::chain(&error))?;
    if assignment.rollout.service != service || assignment.region != *region {
        return Err("it is for another service or region than its key says".to_owned());
    }
    let order = |a: &Assignment| (a.rollout.number, a.revision);
    if let Some(held) = current.get(&service) {
        // A lost connection brings the current values again: the same one is no news.
        if order(&assignment) < order(held) {
            return Err(format!("older than revision {} of rollout {}", held.revision, held.rollout));
        }
        if assignment == *held {
            return Ok(false);
        }
    } else if current.len() >= SERVICES_MAX {
        return Err(format!("more than {SERVICES_MAX} services"));
    }
    current.insert(service, assignment);
    Ok(true)
}

#[cfg(test)]
mod tests {
    use bellwether_protocol::codec::to_msgpack;
    use bellwether_protocol::id::Revision;
    use bellwether_protocol::time::{Span, Timestamp};

    use super::*;

    fn assignment(rollout: &str, revision: u64) -> Assignment {
        Assignment {
            rollout: rollout.parse().expect("a rollout"),
            revision: Revision(revision),
            region: "sjc".parse().expect("a region"),
            slot: Span::from_secs(30),
            looks: Vec::new(),
        }
    }

    fn entry(value: Option<Vec<u8>>) -> KvEntry {
        KvEntry { key: "sjc.shop".into(), revision: 1, at: Timestamp::from_ms(1), value }
    }

    #[test]
    fn it_never_goes_back_to_an_older_revision() {
        let mut current = Assignments::new();
        let mut check = |rollout: &str, revision: u64, expected: Option<bool>| {
            let bytes = to_msgpack("assignment", &assignment(rollout, revision)).expect("encoded");
            let region: Region = "sjc".parse().expect("a region");
            let service = service_of("sjc.shop", &region).expect("ours");
            assert_eq!(
                fold(&mut current, service, &region, &entry(Some(bytes))).ok(),
                expected,
                "{rollout} {revision}"
            );
        };
        check("shop/1", 3, Some(true));
        check("shop/1", 3, Some(false));
        check("shop/1", 2, None);
        check("shop/2", 1, Some(true));
        check("shop/1", 9, None);
        check("other/3", 9, None);
    }

    #[test]
    fn other_regions_and_broken_bytes_are_ignored() {
        let region: Region = "sjc".parse().expect("a region");
        assert!(service_of("sjc.shop", &region).is_some());
        for key in ["sjc2.shop", "fra.shop", "sjc.a.b", "sjc", "sjc."] {
            assert!(service_of(key, &region).is_none(), "{key}");
        }
        let service = service_of("sjc.shop", &region).expect("ours");
        let mut current = Assignments::new();
        assert!(fold(&mut current, service, &region, &entry(Some(vec![0xc1, 0xff]))).is_err());
        assert!(current.is_empty());
    }
}
