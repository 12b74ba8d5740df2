//! A mesh, a receiver of webhooks, and alert agents in this process.

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode};
use bellwether_bus::testing::{self, wait_for};
use bellwether_protocol::alert::{Alert, IncidentKind, Proof, Severity};
use bellwether_protocol::codec::{from_json, to_json, to_msgpack};
use bellwether_protocol::id::Ordinal;
use bellwether_protocol::presence::Presence;
use bellwether_protocol::subject::Bucket;
use bellwether_protocol::time::Timestamp;
use serde_json::{Value, json};

pub(crate) const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// A mesh and a receiver.
pub(crate) struct World {
    mesh: testing::World,
    hook: String,
    posts: Arc<Mutex<Vec<Post>>>,
}

impl Deref for World {
    type Target = testing::World;

    fn deref(&self) -> &testing::World {
        &self.mesh
    }
}

/// What came to the webhook.
#[derive(Debug, Clone)]
pub(crate) struct Post {
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
    pub(crate) alert: Alert,
}

impl World {
    pub(crate) async fn new() -> Self {
        let mesh = testing::World::new().await;
        let posts: Arc<Mutex<Vec<Post>>> = Arc::default();
        let seen = Arc::clone(&posts);
        let take = move |headers: HeaderMap, body: Bytes| {
            let header = |(name, value): (&axum::http::HeaderName, &axum::http::HeaderValue)| {
                (name.to_string(), value.to_str().expect("text").to_owned())
            };
            let (headers, alert) = (headers.iter().map(header).collect(), from_json("alert", &body).expect("an alert"));
            let body = String::from_utf8(body.to_vec()).expect("text");
            seen.lock().expect("sound").push(Post { headers, body, alert });
            async { StatusCode::NO_CONTENT }
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let hook = format!("http://{}/", listener.local_addr().expect("bound"));
        tokio::spawn(async move { axum::serve(listener, Router::new().fallback(take)).await });
        Self { mesh, hook, posts }
    }

    /// A file with a secret, as a configuration names it.
    pub(crate) fn secret(&self, name: &str, text: &str) -> String {
        format!("file:{}", self.write(name, text).display())
    }

    /// The entry of a bridge to our receiver.
    pub(crate) fn hook(&self) -> Value {
        json!({ "webhook": { "url": self.hook, "secret": self.secret("secret", SECRET) } })
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

    pub(crate) fn posts(&self) -> Vec<Post> {
        self.posts.lock().expect("sound").clone()
    }

    pub(crate) fn ids(&self) -> Vec<String> {
        let id = |post: Post| post.headers.into_iter().find(|(name, _)| name == "webhook-id").expect("an id").1;
        let mut ids: Vec<String> = self.posts().into_iter().map(id).collect();
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
    Alert {
        kind: IncidentKind::Updated,
        incident: "shop/7-error_rate".parse().expect("an incident"),
        seq,
        severity: Severity::Warn,
        state: "taking_back".to_owned(),
        service: "shop".parse().expect("a service"),
        release: "v42".parse().expect("a release"),
        stage: None,
        regions: Vec::new(),
        headline: "error_rate 5.8% > 0.5%".to_owned(),
        numbers: None,
        record: Ordinal(118),
        proof: Proof::default(),
        next: Vec::new(),
        tell: Vec::new(),
        at: Timestamp::default(),
    }
}
