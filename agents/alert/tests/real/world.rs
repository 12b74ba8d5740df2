//! A mesh, a receiver of webhooks, and alert agents in this process.

use std::ops::Deref;
use std::path::{Path, PathBuf};

use bellwether_bus::testing::{self, wait_for};
use bellwether_fakes::{Fake, Reply, Seen};
use bellwether_protocol::alert::Alert;
use bellwether_protocol::codec::{to_json, to_msgpack};
use bellwether_protocol::presence::Presence;
use bellwether_protocol::subject::Bucket;
use bellwether_protocol::time::Timestamp;
use serde_json::{Value, json};

pub(crate) const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// A mesh and a receiver.
pub(crate) struct World {
    mesh: testing::World,
    pub(crate) hook: Fake<fn(&Seen) -> Reply>,
}

impl Deref for World {
    type Target = testing::World;

    fn deref(&self) -> &testing::World {
        &self.mesh
    }
}

impl World {
    pub(crate) async fn new() -> Self {
        let take: fn(&Seen) -> Reply = |_| Reply::text(204, "");
        Self { mesh: testing::World::new().await, hook: Fake::start(take).await.expect("a port") }
    }

    /// A file with a secret, as a configuration names it.
    pub(crate) fn secret(&self, name: &str, text: &str) -> String {
        format!("file:{}", self.write(name, text).display())
    }

    /// The entry of a bridge to our receiver.
    pub(crate) fn hook(&self) -> Value {
        json!({ "webhook": { "url": self.hook.url, "secret": self.secret("secret", SECRET) } })
    }

    /// An agent that tells only our receiver.
    pub(crate) fn agent(&self, region: &str, pages_when_silent: bool) -> Agent {
        let bridges = json!({ "hook": self.hook() });
        self.agent_with(
            region,
            &json!({ "bridges": bridges, "pages_when_silent": pages_when_silent, "console": false }),
        )
    }

    /// An agent with `alert` in its file.
    pub(crate) fn agent_with(&self, region: &str, alert: &Value) -> Agent {
        let state = self.dir.path().join(region);
        let config = json!({
            "agent": { "region": region, "name": "alert-1", "nats": { "url": self.server.url() }, "state_dir": state },
            "alert": alert,
        });
        // JSON is YAML.
        let path = testing::write(&state, "alert.yaml", &config.to_string());
        let task = tokio::spawn(async move {
            if let Err(error) = bellwether_alert::run(&path).await {
                eprintln!("the agent ended: {error:?}");
            }
        });
        Agent { task, outbox: state.join("outbox.json") }
    }

    pub(crate) async fn publish(&self, alert: &Alert) -> u64 {
        let subject = self.bus.prefix().alert(alert.severity, &alert.service);
        let body = to_json("alert", alert).expect("encoded");
        let id = format!("{}-{}", alert.incident, alert.seq);
        self.bus.publish(subject, &id, body).await.expect("stored").seq
    }

    /// What came to the webhook.
    pub(crate) fn posts(&self) -> Vec<Seen> {
        self.hook.log()
    }

    pub(crate) fn told(&self) -> Vec<Alert> {
        self.posts().iter().map(|post| serde_json::from_str(&post.body).expect("an alert")).collect()
    }

    pub(crate) fn ids(&self) -> Vec<String> {
        let posts = self.posts();
        let mut ids: Vec<String> =
            posts.iter().map(|post| post.header("webhook-id").expect("an id").to_owned()).collect();
        ids.sort();
        ids
    }

    pub(crate) async fn coordinator_is_here(&self) {
        let presence = Presence::new("hub.coordinator.one".parse().expect("an id"), "0", Timestamp::default());
        let bytes = to_msgpack("presence", &presence).expect("encoded");
        self.bus.kv(Bucket::Presence).put("hub.coordinator.one", bytes).await.expect("stored");
    }
}

/// One agent in this process. What it keeps on disk is all that outlives it.
pub(crate) struct Agent {
    task: tokio::task::JoinHandle<()>,
    outbox: PathBuf,
}

impl Agent {
    pub(crate) async fn stop(self) {
        self.task.abort();
        let _ = self.task.await;
    }

    pub(crate) async fn is_ready(&self) {
        wait_for("a place in the stream", || read(&self.outbox)["is_new"] == false).await;
    }

    pub(crate) fn waiting(&self) -> usize {
        read(&self.outbox)["waiting"].as_array().map_or(0, Vec::len)
    }

    pub(crate) fn position(&self) -> u64 {
        read(&self.outbox)["position"].as_u64().unwrap_or(0)
    }

    /// Waits until everything up to `seq` is read, and nothing waits to be told.
    pub(crate) async fn is_done_with(&self, seq: u64) {
        wait_for("an empty outbox", || self.position() >= seq && self.waiting() == 0).await;
    }
}

pub(crate) fn read(path: &Path) -> Value {
    std::fs::read(path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}

pub(crate) fn alert(seq: u32) -> Alert {
    let alert = json!({
        "type": "incident.updated", "incident": "shop/7-error_rate", "seq": seq, "severity": "warn",
        "state": "taking_back", "service": "shop", "release": "v42", "stage": null, "regions": [],
        "headline": "error_rate 5.8% > 0.5%", "numbers": null, "record": 118, "next": [],
        "proof": { "applied": null, "recovered": null }, "at": Timestamp::default(),
    });
    serde_json::from_value(alert).expect("an alert")
}
