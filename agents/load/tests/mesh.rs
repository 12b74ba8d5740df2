//! A load agent on a real `nats-server`: what it is assigned, what it says, and when it ends.
//!
//! The test program is its own harness, so that it can also be the shim under which the server runs.

#![expect(clippy::expect_used, reason = "a test")]

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bellwether_bus::From;
use bellwether_bus::testing::{Test, World, harness};
use bellwether_protocol::assignment::{Assignment, Look};
use bellwether_protocol::codec::{from_msgpack, to_msgpack};
use bellwether_protocol::id::{AgentId, Revision};
use bellwether_protocol::presence::Presence;
use bellwether_protocol::sample::{Cohort, Sample, Tick};
use bellwether_protocol::subject::{Bucket, Stream};
use bellwether_protocol::time::{Span, Timestamp};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const TESTS: [Test; 1] = bellwether_bus::tests![a_load_becomes_samples_and_ends_with_its_assignment];

fn main() -> ExitCode {
    harness(&TESTS, Duration::from_secs(120))
}

/// Answers everything on kept connections, and counts it.
async fn site(asked: Arc<AtomicU64>) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let asked = Arc::clone(&asked);
            tokio::spawn(async move {
                // A request without a body fits into one read, and nobody sends a second one before the answer.
                while stream.read(&mut [0; 4096]).await.is_ok_and(|n| n > 0) {
                    asked.fetch_add(1, Ordering::Relaxed);
                    let answer = b"HTTP/1.1 200 OK\r\nx-release: v42\r\ncontent-length: 0\r\n\r\n";
                    if stream.write_all(answer).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    url
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
    let look = |settings: &Value| Look {
        sli: "load".parse().expect("an sli"),
        cohort: Cohort::Canary,
        url: url.to_owned(),
        kind: "load".to_owned(),
        settings: settings.clone(),
        every: Span::from_secs(1),
        timeout: Span::from_secs(2),
        headers: BTreeMap::new(),
        fingerprint: Some(serde_json::from_value(json!({"header": "x-release"})).expect("a fingerprint")),
        edges_ms: vec![100, 1_000],
    };
    let assignment = Assignment {
        rollout: "shop/1".parse().expect("a rollout"),
        revision: Revision(revision),
        region: "sjc".parse().expect("a region"),
        slot: Span::from_secs(1),
        looks: loads.iter().map(look).collect(),
    };
    let body = to_msgpack("assignment", &assignment).expect("encoded");
    world.bus.kv(Bucket::Assignments).put("sjc.shop", body).await.expect("stored");
}

async fn a_load_becomes_samples_and_ends_with_its_assignment() {
    let world = World::new().await;
    let asked = Arc::new(AtomicU64::new(0));
    let url = site(Arc::clone(&asked)).await;
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
    assign(&world, &url, 1, &[load("40/s")]).await;
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

    assign(&world, &url, 2, &[load("51/s")]).await;
    let key = "sjc.load.load-1";
    let refused = loop {
        let entry = world.bus.kv(Bucket::Presence).get(key).await.expect("read").expect("there");
        let presence: Presence = from_msgpack("presence", &entry.value.expect("a value")).expect("presence");
        assert_eq!(presence.kinds, ["load".to_owned()].into());
        if let Some(refused) = presence.watching.into_values().find_map(|watching| watching.refused) {
            break refused;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!(refused, "51 requests/s are over this agent's `load.rate_max` of 50/s");
    let last = asked.load(Ordering::Relaxed);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(asked.load(Ordering::Relaxed), last, "a load that is refused had not ended");
    here.abort();
}
