//! A load agent on a real `nats-server`: what it is assigned, what it says, and when it ends.
//!
//! The test program is its own harness, so that it can also be the shim under which the server runs.

#![expect(clippy::expect_used, reason = "a test")]

use std::process::ExitCode;
use std::time::Duration;

use bellwether_bus::From;
use bellwether_bus::testing::{Test, World, harness, until};
use bellwether_fakes::{Fake, Reply, Seen};
use bellwether_protocol::assignment::Assignment;
use bellwether_protocol::codec::{from_msgpack, to_msgpack};
use bellwether_protocol::id::{AgentId, Revision};
use bellwether_protocol::presence::Presence;
use bellwether_protocol::sample::{Sample, Tick};
use bellwether_protocol::subject::{Bucket, Stream};
use bellwether_protocol::time::Timestamp;
use serde_json::{Value, json};

const TESTS: [Test; 1] = bellwether_bus::tests![a_load_becomes_samples_and_ends_with_its_assignment];

fn main() -> ExitCode {
    harness(&TESTS, Duration::from_secs(120))
}

/// Says that a coordinator is there, again and again.
async fn coordinator(world: &World) -> tokio::task::JoinHandle<()> {
    let agent: AgentId = "hub.coordinator.one".parse().expect("an id");
    let presence = Presence::new(agent.clone(), "0", Timestamp::from_ms(0));
    let (bus, body) = (world.bus.clone(), to_msgpack("presence", &presence).expect("encoded"));
    tokio::spawn(async move {
        loop {
            bus.kv(Bucket::Presence).put(&agent.to_string(), body.clone()).await.expect("stored");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    })
}

async fn assign(world: &World, url: &str, revision: u64, loads: &[Value]) {
    let look = |settings: &Value| {
        json!({
            "sli": "load", "cohort": "canary", "url": url, "kind": "load", "settings": settings, "every": "1s",
            "timeout": "2s", "headers": {}, "fingerprint": { "header": "x-release" }, "edges_ms": [100, 1_000],
        })
    };
    let looks: Vec<Value> = loads.iter().map(look).collect();
    let assignment =
        json!({ "rollout": "shop/1", "revision": revision, "region": "sjc", "slot": "1s", "looks": looks });
    let assignment: Assignment = serde_json::from_value(assignment).expect("an assignment");
    let body = to_msgpack("assignment", &assignment).expect("encoded");
    world.bus.kv(Bucket::Assignments).put("sjc.shop", body).await.expect("stored");
}

async fn a_load_becomes_samples_and_ends_with_its_assignment() {
    let world = World::new().await;
    let site = Fake::start(|_: &Seen| Reply::text(200, "").with("x-release", "v42")).await.expect("a port");
    let config = json!({
        "agent": {"region": "sjc", "name": "load-1", "state_dir": world.dir.path().join("agent"), "nats": {"url": world.server.url()}},
        "load": {"allow": ["127.0.0.1"], "rate_max": "50/s", "connections_max": 10, "duration_max": "1h"},
    });
    let path = world.write("load.yaml", &config.to_string());
    tokio::spawn(async move { bellwether_load::run(&path).await.expect("it runs") });
    let here = coordinator(&world).await;
    let mut reader = world.bus.read(Stream::Samples, Vec::new(), From::Start);

    // A busy machine must not void what this test waits for.
    let load = |rate: &str| json!({"path": "/", "rate": rate, "connections": 5, "lag_max": "1m"});
    assign(&world, &site.url, 1, &[load("40/s")]).await;
    let mut full = 0;
    while full < 2 {
        let message = reader.next().await;
        let tick: Tick = from_msgpack("tick", &message.body).expect("a tick");
        assert!(tick.is_sound() && tick.agent.to_string() == "sjc.load.load-1", "{tick:?}");
        for Sample { portions, sli, revision, .. } in tick.samples {
            assert_eq!((sli.as_str(), revision), ("load", Revision(1)));
            let whole = portions.iter().filter(|p| p.release.as_ref().is_some_and(|release| release.as_str() == "v42"));
            full += usize::from(whole.map(|portion| portion.n()).sum::<u64>() >= 39);
        }
    }

    assign(&world, &site.url, 2, &[load("51/s")]).await;
    let key = "sjc.load.load-1";
    let refused = until("a refusal", async || {
        let entry = world.bus.kv(Bucket::Presence).get(key).await.expect("read").expect("there");
        let presence: Presence = from_msgpack("presence", &entry.value.expect("a value")).expect("presence");
        assert_eq!(presence.kinds, ["load".to_owned()].into());
        presence.watching.into_values().find_map(|watching| watching.refused).ok_or("no refusal")
    })
    .await;
    assert_eq!(refused, "51 requests/s are over this agent's `load.rate_max` of 50/s");
    let last = site.log().len();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(site.log().len(), last, "a load that is refused had not ended");
    here.abort();
}
