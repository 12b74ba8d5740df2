//! The built-in flag store: one JSON document per service in the bucket `flags`, changed by
//! compare-and-set, and read back from every endpoint that serves it.
//!
//! Storing a value proves nothing: a flag stands where the endpoints serve it, and each says in its
//! presence which revision that is.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bellwether_bus::{Clock, Kv, KvEntry, KvError, PublishError};
use bellwether_protocol::codec::{DecodeError, from_json, from_msgpack, to_json};
use bellwether_protocol::id::{ActionId, AgentId, LeverValue, Role, Service};
use bellwether_protocol::presence::{PRESENCE_TTL, Presence, Target};
use bellwether_runtime::web::chain;
use bellwether_runtime::{Driver, DriverError, Reading};
use futures_util::future::BoxFuture;

use crate::evaluate::Flag;
use crate::snapshot::{Document, Served, Setting, Snapshot};

/// Races against other writers before asking to be called again.
const ATTEMPTS_MAX: u32 = 8;
/// How long one verb may take; NATS away must not look like a slow platform.
const VERB_WITHIN: Duration = Duration::from_secs(10);
/// How long a silent endpoint that nobody configured still counts: far longer than any action's
/// deadline, and short enough for a region that was given up.
const SILENT_COUNTS_FOR: Duration = Duration::from_secs(3_600);
/// Endpoints of one service.
const ENDPOINTS_MAX: usize = 256;

/// One flag of the store, as a lever.
#[derive(Debug)]
pub struct Store {
    flag: Flag,
    service: Service,
    flags: Kv,
    served: Served,
    endpoints: Arc<Endpoints>,
}

impl Store {
    /// A lever for `flag` of `service`; `flags` is the bucket.
    pub fn new(flag: Flag, service: Service, flags: Kv, served: Served, endpoints: Arc<Endpoints>) -> Self {
        Self { flag, service, flags, served, endpoints }
    }

    async fn write(&self, to: &LeverValue) -> Result<String, DriverError> {
        for _ in 0..ATTEMPTS_MAX {
            let entry = self.flags.get(self.service.as_str()).await.map_err(|e| DriverError::Retry(chain(&e)))?;
            let mut document = self.document(entry.as_ref());
            if document.value(&self.flag.name) == Some(to) {
                return Ok(format!("`{}` was already set to {to}", self.flag.name));
            }
            document.flags.insert(self.flag.name.clone(), Setting { value: to.clone() });
            let bytes = to_json("flag document", &document).map_err(|e| DriverError::Refused(chain(&e)))?;
            let written = match &entry {
                Some(entry) => self.flags.update(self.service.as_str(), bytes, entry.revision).await,
                None => self.flags.create(self.service.as_str(), bytes).await,
            };
            match written {
                Ok(revision) => return Ok(format!("stored as revision {revision}")),
                Err(KvError::Conflict { .. }) => {}
                Err(KvError::Write(e @ (PublishError::Forbidden { .. } | PublishError::Refused { .. }))) => {
                    return Err(DriverError::Refused(chain(&e)));
                }
                Err(e) => return Err(unknown(e)),
            }
        }
        Err(DriverError::Retry(format!("{ATTEMPTS_MAX} other writers came first")))
    }

    /// What a change starts from. A document that nobody can read must not keep a flag from being
    /// switched off, so the last one that was served stands in for it.
    fn document(&self, entry: Option<&KvEntry>) -> Document {
        let Some(entry) = entry else { return Document::default() };
        let last_served = || self.served.snapshot().map(|snapshot| snapshot.document.clone()).unwrap_or_default();
        decode(entry).map_or_else(|_| last_served(), |snapshot| snapshot.document)
    }

    async fn read(&self) -> Result<Reading, DriverError> {
        // Presence first: so no endpoint can be ahead of the document that it is compared with.
        let own = self.served.snapshot().map(|snapshot| snapshot.revision);
        let serving = self.endpoints.serving(&self.service, own).await.map_err(unknown)?;
        let entry = self.flags.get(self.service.as_str()).await.map_err(unknown)?;
        let newest = match &entry {
            Some(entry) => decode(entry).map_err(unknown)?,
            None => own.map(|revision| Snapshot { revision, ..Snapshot::default() }).unwrap_or_default(),
        };
        Ok(reading(&self.flag, &self.served, &newest, serving))
    }
}

impl Driver for Store {
    fn set<'a>(&'a self, to: &'a LeverValue, _: &'a ActionId) -> BoxFuture<'a, Result<String, DriverError>> {
        Box::pin(async move {
            if !self.flag.takes(to) {
                return Err(DriverError::Refused(format!(
                    "`{to}` is not a value that `{}` may be set to",
                    self.flag.name
                )));
            }
            in_time(self.write(to)).await
        })
    }

    fn describe(&self) -> String {
        format!("sets flag {} of our own store, read at each endpoint", self.flag.name)
    }

    fn read_back(&self) -> BoxFuture<'_, Result<Reading, DriverError>> {
        Box::pin(in_time(self.read()))
    }
}

/// The endpoints that serve a service's flags, and when each was last heard.
#[derive(Debug)]
pub struct Endpoints {
    own: AgentId,
    presence: Kv,
    clock: Clock,
    /// Those that must answer, whether they were ever heard or not.
    expected: Vec<AgentId>,
    heard: Mutex<BTreeMap<AgentId, Instant>>,
}

impl Endpoints {
    /// `own` is this agent, `presence` the bucket, `expected` those that always count.
    pub fn new(own: AgentId, presence: Kv, clock: Clock, expected: Vec<AgentId>) -> Self {
        Self { own, presence, clock, expected, heard: Mutex::default() }
    }

    /// The revision that each endpoint says it serves; `None` for one that is silent.
    async fn serving(&self, service: &Service, own: Option<u64>) -> Result<BTreeMap<AgentId, Option<u64>>, KvError> {
        let mut told = BTreeMap::new();
        for entry in self.presence.entries().await? {
            let Ok(agent) = entry.key.parse::<AgentId>() else { continue };
            if agent.role != Role::Flag || told.len() >= ENDPOINTS_MAX {
                continue;
            }
            let is_fresh = self.clock.now().since(entry.at) <= PRESENCE_TTL;
            let presence = entry.value.and_then(|bytes| from_msgpack::<Presence>("presence", &bytes).ok());
            let revision = presence.and_then(|presence| presence.serving.get(service.as_str()).copied());
            // An agent that serves other services says nothing of this one, and is no endpoint of it.
            if let Some(revision) = revision.filter(|_| is_fresh) {
                told.insert(agent, revision);
            }
        }
        told.remove(&self.own);
        told.extend(own.map(|revision| (self.own.clone(), revision)));
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = with_silent(&mut heard, told, Instant::now());
        for agent in self.expected.iter().chain([&self.own]) {
            all.entry(agent.clone()).or_insert(None);
        }
        Ok(all)
    }
}

/// Adds those that were heard lately and say nothing now.
fn with_silent(
    heard: &mut BTreeMap<AgentId, Instant>,
    told: BTreeMap<AgentId, u64>,
    now: Instant,
) -> BTreeMap<AgentId, Option<u64>> {
    heard.extend(told.keys().map(|agent| (agent.clone(), now)));
    heard.retain(|_, at| now.saturating_duration_since(*at) < SILENT_COUNTS_FOR);
    heard.keys().map(|agent| (agent.clone(), told.get(agent).copied())).collect()
}

/// The document of an entry.
pub(crate) fn decode(entry: &KvEntry) -> Result<Snapshot, DecodeError> {
    let document = match &entry.value {
        Some(bytes) => from_json("flag document", bytes)?,
        None => Document::default(),
    };
    Ok(Snapshot { revision: entry.revision, document })
}

fn reading(flag: &Flag, served: &Served, newest: &Snapshot, serving: BTreeMap<AgentId, Option<u64>>) -> Reading {
    let target = |(agent, revision): (AgentId, Option<u64>)| Target {
        id: agent.to_string(),
        value: revision.and_then(|revision| served.value_at(flag, revision, newest)),
    };
    Reading::of(serving.into_iter().map(target).collect())
}

async fn in_time<T>(verb: impl Future<Output = Result<T, DriverError>>) -> Result<T, DriverError> {
    let late = || Err(DriverError::Unknown(format!("no answer within {VERB_WITHIN:?}")));
    tokio::time::timeout(VERB_WITHIN, verb).await.unwrap_or_else(|_| late())
}

fn unknown(error: impl std::error::Error) -> DriverError {
    DriverError::Unknown(chain(&error))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(serving: &[(&str, Option<u64>)], expected_value: Option<&str>, expected_targets: &[Option<&str>]) {
        let flag: Flag = serde_json::from_value(
            json!({ "name": "new_checkout", "variants": { "on": true, "off": false }, "default": "off" }),
        )
        .expect("a flag");
        let snapshot = |revision: u64, value: &str| -> Snapshot {
            let flags = json!({ "new_checkout": { "value": value } });
            serde_json::from_value(json!({ "revision": revision, "document": { "flags": flags } })).expect("a snapshot")
        };
        let served = Served::default();
        served.replace(snapshot(5, "on"));
        let newest = snapshot(8, "off");
        served.replace(newest.clone());
        let serving = serving.iter().map(|(agent, revision)| (agent.parse().expect("an agent"), *revision));
        let reading = reading(&flag, &served, &newest, serving.collect());
        assert_eq!(reading.value.as_ref().map(LeverValue::as_str), expected_value);
        let values: Vec<_> =
            reading.targets.iter().map(|target| target.value.as_ref().map(LeverValue::as_str)).collect();
        assert_eq!(values, expected_targets);
    }

    #[test]
    fn a_flag_is_applied_when_every_endpoint_serves_it() {
        let (east, west) = ("east.flag.flag-1", "west.flag.flag-1");
        check(&[(east, Some(8)), (west, Some(8))], Some("off"), &[Some("off"), Some("off")]);
        // Late: still the older value. Silent, or older than anybody remembers: unknown.
        check(&[(east, Some(8)), (west, Some(5))], None, &[Some("off"), Some("on")]);
        check(&[(east, Some(8)), (west, None)], None, &[Some("off"), None]);
        check(&[(east, None), (west, None)], None, &[None, None]);
        check(&[(east, Some(8)), (west, Some(2))], None, &[Some("off"), None]);
        check(&[], None, &[]);
    }

    #[test]
    fn a_silent_endpoint_counts_for_an_hour() {
        let now = Instant::now();
        let agents = |text: &[&str]| -> BTreeMap<AgentId, u64> {
            text.iter().map(|agent| (agent.parse().expect("an agent"), 8)).collect()
        };
        let mut heard = BTreeMap::new();
        let mut check = |told: &[&str], after: Duration, expected: &[(&str, Option<u64>)]| {
            let all = with_silent(&mut heard, agents(told), now + after);
            let all: Vec<_> = all.iter().map(|(agent, revision)| (agent.to_string(), *revision)).collect();
            let expected: Vec<_> = expected.iter().map(|(agent, revision)| ((*agent).to_owned(), *revision)).collect();
            assert_eq!(all, expected);
        };
        let (east, west) = ("east.flag.flag-1", "west.flag.flag-1");
        check(&[east, west], Duration::ZERO, &[(east, Some(8)), (west, Some(8))]);
        check(&[east], Duration::from_secs(60), &[(east, Some(8)), (west, None)]);
        check(&[east, west], Duration::from_secs(120), &[(east, Some(8)), (west, Some(8))]);
        check(&[east], Duration::from_secs(3_800), &[(east, Some(8))]);
    }
}
