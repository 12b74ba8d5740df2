//! Two flag agents on a real `nats-server`, which goes away and comes back.
//!
//! This program is its own harness, so that it can also be the shim under which the server runs.

#![expect(clippy::expect_used, reason = "a test")]

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use bellwether_bus::testing::{self, Test};
use bellwether_bus::{Bus, Clock};
use bellwether_flag::evaluate::Flag;
use bellwether_flag::snapshot::{Served, Snapshot};
use bellwether_flag::store::{Endpoints, Store};
use bellwether_protocol::codec::{from_json, from_msgpack};
use bellwether_protocol::presence::Presence;
use bellwether_protocol::subject::Bucket;
use bellwether_runtime::{Driver, DriverError, Reading};
use serde_json::{Value, json};

const WITHIN: Duration = Duration::from_secs(30);

const TESTS: [Test; 1] = bellwether_bus::tests![a_flag_is_applied_everywhere_and_outlives_nats];

fn main() -> ExitCode {
    testing::harness(&TESTS, 4 * WITHIN)
}

/// One agent in this process.
struct Agent {
    task: tokio::task::JoinHandle<()>,
    address_file: PathBuf,
    client: reqwest::Client,
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Agent {
    fn start(dir: &Path, region: &str, url: &str) -> Self {
        let dir = dir.join(region);
        let address_file = dir.join("address");
        let _ = std::fs::remove_file(&address_file);
        let config = json!({
            "agent": { "region": region, "name": "flag-1", "nats": { "url": url }, "state_dir": dir.join("state") },
            "flag": {
                "service": "shop",
                "listen": "127.0.0.1:0",
                "address_file": address_file,
                "flags": [flag()],
            },
        });
        // JSON is YAML.
        let path = testing::write(&dir, "flag.yaml", &config.to_string());
        let task = tokio::spawn(async move {
            if let Err(e) = bellwether_flag::run(&path).await {
                eprintln!("the agent ended: {e:?}");
            }
        });
        Self { task, address_file, client: bellwether_runtime::http().expect("a client") }
    }

    async fn kill(mut self) {
        self.task.abort();
        // Its state directory is free once the task is gone.
        let _ = (&mut self.task).await;
    }

    async fn evaluate(&self) -> Value {
        let Ok(base) = std::fs::read_to_string(&self.address_file) else { return Value::Null };
        let url = format!("{}/ofrep/v1/evaluate/flags/new_checkout", base.trim());
        let body = json!({ "context": { "targetingKey": "user-1" } }).to_string();
        let Ok(answer) = self.client.post(url).body(body).send().await else { return Value::Null };
        answer.json().await.unwrap_or(Value::Null)
    }

    async fn until(&self, what: &str, is_so: impl Fn(&Value) -> bool) {
        testing::until(what, async || {
            let seen = self.evaluate().await;
            if is_so(&seen) { Ok(()) } else { Err(seen) }
        })
        .await;
    }
}

/// The lever, held by a third agent, which serves whatever is stored.
struct Lever {
    store: Store,
    served: Served,
    bus: Bus,
}

impl Lever {
    async fn new(url: &str) -> Self {
        let bus = Bus::connect(&testing::connect_options(url)).await.expect("connected");
        let own = "north.flag.flag-1".parse().expect("an agent");
        let endpoints = Endpoints::new(own, bus.kv(Bucket::Presence), Clock::new(), Vec::new());
        let served = Served::default();
        let service = "shop".parse().expect("a service");
        let flag: Flag = serde_json::from_value(flag()).expect("a flag");
        let store = Store::new(flag, service, bus.kv(Bucket::Flags), served.clone(), Arc::new(endpoints));
        Self { store, served, bus }
    }

    async fn set(&self, to: &str) -> Result<String, DriverError> {
        let action = "shop/1/1/0".parse().expect("an action");
        self.store.set(&to.parse().expect("a value"), &action).await
    }

    async fn read(&self) -> Result<Reading, DriverError> {
        if let Ok(Some(entry)) = self.bus.kv(Bucket::Flags).get("shop").await {
            let document = from_json("flag document", &entry.value.expect("a value")).expect("a document");
            self.served.replace(Snapshot { revision: entry.revision, document });
        }
        self.store.read_back().await
    }

    async fn until_applied(&self, value: &str) {
        let to = value.parse().expect("a value");
        testing::until(value, async || {
            let seen = self.read().await;
            let is_applied = |reading: &Reading| reading.targets.len() == 3 && reading.is_all_at(&to);
            if seen.as_ref().is_ok_and(is_applied) { Ok(()) } else { Err(seen) }
        })
        .await;
    }
}

fn flag() -> Value {
    json!({ "name": "new_checkout", "variants": { "on": true, "off": false }, "default": "off" })
}

/// An agent without an endpoint, which only moves a flag in flagd's file.
async fn flags_of_others_are_levers_too(dir: &Path, url: &str, bus: &Bus) {
    let file = dir.join("flags.json");
    let flag = json!({ "state": "ENABLED", "variants": { "on": true, "off": false }, "defaultVariant": "off" });
    std::fs::write(&file, json!({ "flags": { "banner": flag } }).to_string()).expect("written");
    let config = json!({
        "agent": { "region": "cliff", "name": "flag-1", "nats": { "url": url }, "state_dir": dir.join("cliff") },
        "flag": { "service": "shop", "levers": [{ "name": "banner", "flagd": { "file": file, "flag": "banner" } }] },
    });
    let path = testing::write(dir, "cliff.yaml", &config.to_string());
    let agent = tokio::spawn(async move { bellwether_flag::run(&path).await });
    let presence = testing::until("a reading of flagd's flag", async || {
        assert!(!agent.is_finished());
        let entry = bus.kv(Bucket::Presence).get("cliff.flag.flag-1").await.expect("read");
        let presence = entry.and_then(|entry| from_msgpack::<Presence>("presence", &entry.value?).ok());
        let reading = presence.as_ref().and_then(|presence| presence.levers.values().flatten().next());
        if reading.is_some_and(|reading| reading.value == "off".parse().ok()) {
            presence.ok_or(None)
        } else {
            Err(presence)
        }
    })
    .await;
    assert!(presence.serving.is_empty(), "it has no endpoint");
    agent.abort();
}

async fn a_flag_is_applied_everywhere_and_outlives_nats() {
    let testing::World { server, dir, .. } = testing::World::new().await;
    let east = Agent::start(dir.path(), "east", server.url());
    let west = Agent::start(dir.path(), "west", server.url());
    for agent in [&east, &west] {
        let never_set = json!({ "revision": 0 });
        agent.until("never set", |seen| seen["value"] == false && seen["metadata"] == never_set).await;
    }

    let lever = Lever::new(server.url()).await;
    lever.served.replace(Snapshot::default());
    lever.until_applied("off").await;
    lever.set("on").await.expect("set");
    lever.until_applied("on").await;
    for agent in [&east, &west] {
        agent.until("on", |seen| seen["value"] == true && seen["metadata"]["stale"].is_null()).await;
    }
    assert_eq!(lever.set("on").await, Ok("`new_checkout` was already set to on".to_owned()));
    assert!(matches!(lever.set("maybe").await, Err(DriverError::Refused(_))));

    flags_of_others_are_levers_too(dir.path(), server.url(), &lever.bus).await;

    server.stop().expect("stopped");
    east.until("old", |seen| seen["value"] == true && seen["metadata"]["stale"] == true).await;
    west.kill().await;
    let west = Agent::start(dir.path(), "west", server.url());
    west.until("from disk", |seen| seen["value"] == true && seen["metadata"]["stale"] == true).await;
    let south = Agent::start(dir.path(), "south", server.url());
    south.until("nothing known", |seen| seen["errorDetails"].is_string() && seen["value"].is_null()).await;
    south.kill().await;

    let again = Arc::clone(&server);
    tokio::task::spawn_blocking(move || again.restart()).await.expect("not cancelled").expect("restarted");
    for agent in [&east, &west] {
        agent.until("fresh again", |seen| seen["value"] == true && seen["metadata"]["stale"].is_null()).await;
    }
    lever.set("off").await.expect("set");
    lever.until_applied("off").await;
    for agent in [&east, &west] {
        agent.until("off", |seen| seen["value"] == false).await;
    }
}
