//! Alert agents on a real `nats-server`: two regions, one receiver, agents stopped and started again.
//!
//! This program is its own harness, so that it can also be the shim under which the server runs.

#![expect(clippy::expect_used, reason = "a test")]

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode};
use bellwether_bus::server::{self, LocalServer, ServerOptions};
use bellwether_bus::{Bus, ConnectOptions, child};
use bellwether_protocol::alert::{Alert, IncidentKind, Proof, Severity};
use bellwether_protocol::codec::{from_json, to_json, to_msgpack};
use bellwether_protocol::id::Ordinal;
use bellwether_protocol::presence::Presence;
use bellwether_protocol::subject::Bucket;
use bellwether_protocol::time::Timestamp;
use serde_json::{Value, json};

const WITHIN: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1).peekable();
    if args.next_if(|arg| arg == child::VERB).is_some() {
        return child::shim(args);
    }
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let both = async { tokio::join!(every_alert_is_told_once_whoever_stops(), silence_pages_once()) };
        tokio::time::timeout(3 * WITHIN, both).await.expect("within three minutes");
    });
    println!("test every_alert_is_told_once_whoever_stops ... ok");
    println!("test silence_pages_once ... ok");
    ExitCode::SUCCESS
}

struct World {
    server: LocalServer,
    dir: tempfile::TempDir,
    bus: Bus,
    hook: String,
    posts: Arc<Mutex<Vec<(String, Alert)>>>,
}

impl World {
    async fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let store = dir.path().join("nats");
        let server = tokio::task::spawn_blocking(move || {
            let binary = server::find(None).or_else(|_| server::install(|line| eprintln!("{line}"))).expect("a binary");
            let shim = std::env::current_exe().expect("our own path");
            LocalServer::start(&ServerOptions { binary, shim, dir: store, port: 0 }).expect("a server")
        });
        let server = server.await.expect("started");
        let (url, name) = (server.url().to_owned(), "test".to_owned());
        let options = ConnectOptions { url, prefix: Default::default(), name, credentials: None };
        let bus = Bus::connect(&options).await.expect("connected");
        bus.provision().await.expect("provisioned");
        std::fs::write(dir.path().join("secret"), "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").expect("written");
        let posts: Arc<Mutex<Vec<(String, Alert)>>> = Arc::default();
        let seen = Arc::clone(&posts);
        let take = move |headers: HeaderMap, body: Bytes| {
            let id = headers.get("webhook-id").and_then(|id| id.to_str().ok()).expect("an id").to_owned();
            seen.lock().expect("sound").push((id, from_json("alert", &body).expect("an alert")));
            async { StatusCode::NO_CONTENT }
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let hook = format!("http://{}/", listener.local_addr().expect("bound"));
        tokio::spawn(async move { axum::serve(listener, Router::new().fallback(take)).await });
        Self { server, dir, bus, hook, posts }
    }

    fn agent(&self, region: &str, pages_when_silent: bool) -> Agent {
        let state = self.dir.path().join(region);
        std::fs::create_dir_all(&state).expect("a directory");
        let secret = format!("file:{}", self.dir.path().join("secret").display());
        let config = json!({
            "agent": { "region": region, "name": "alert-1", "nats": { "url": self.server.url() }, "state_dir": state },
            "alert": {
                "console": false,
                "bridges": { "hook": { "webhook": { "url": self.hook, "secret": secret } } },
                "pages_when_silent": pages_when_silent,
            },
        });
        let path = state.join("alert.yaml");
        // JSON is YAML.
        std::fs::write(&path, config.to_string()).expect("written");
        let task = tokio::spawn(async move {
            if let Err(error) = bellwether_alert::run(&path).await {
                eprintln!("the agent ended: {error:?}");
            }
        });
        Agent { task, outbox: state.join("outbox.json") }
    }

    async fn publish(&self, seq: u32) -> u64 {
        let alert = alert(seq);
        let subject = self.bus.prefix().alert(alert.severity, &alert.service);
        let body = to_json("alert", &alert).expect("encoded");
        self.bus.publish(subject, &format!("alert-{seq}"), body).await.expect("stored").seq
    }

    fn ids(&self) -> Vec<String> {
        let mut ids: Vec<String> = self.posts.lock().expect("sound").iter().map(|(id, _)| id.clone()).collect();
        ids.sort();
        ids
    }

    async fn coordinator_is_here(&self) {
        let presence = Presence {
            agent: "hub.coordinator.one".parse().expect("an id"),
            version: "0".to_owned(),
            at: Timestamp::default(),
            clock_offset_ms: 0,
            spooled: 0,
            kinds: Default::default(),
            watching: Default::default(),
            levers: Default::default(),
            serving: Default::default(),
        };
        let bytes = to_msgpack("presence", &presence).expect("encoded");
        self.bus.kv(Bucket::Presence).put("hub.coordinator.one", bytes).await.expect("stored");
    }
}

/// One agent in this process. What it keeps on disk is all that outlives it.
struct Agent {
    task: tokio::task::JoinHandle<()>,
    outbox: PathBuf,
}

impl Agent {
    async fn stop(self) {
        self.task.abort();
        let _ = self.task.await;
    }

    async fn is_ready(&self) {
        wait_for("an outbox", || self.outbox.is_file()).await;
    }

    fn waiting(&self) -> usize {
        read(&self.outbox)["waiting"].as_array().map_or(0, Vec::len)
    }

    /// Waits until everything up to `seq` is read, and nothing waits to be told.
    async fn is_done_with(&self, seq: u64) {
        let has_read = || read(&self.outbox)["position"].as_u64().is_some_and(|position| position >= seq);
        wait_for("an empty outbox", || has_read() && self.waiting() == 0).await;
    }
}

fn read(path: &Path) -> Value {
    std::fs::read(path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}

async fn wait_for(what: &str, is_so: impl Fn() -> bool) {
    let until = Instant::now() + WITHIN;
    while !is_so() {
        assert!(Instant::now() < until, "not within {WITHIN:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn alert(seq: u32) -> Alert {
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

async fn every_alert_is_told_once_whoever_stops() {
    let world = World::new().await;
    // What was said before an agent was ever started is no longer news.
    world.publish(1).await;
    let (east, west) = (world.agent("east", false), world.agent("west", false));
    east.is_ready().await;
    west.is_ready().await;
    let mut last = 0;
    for seq in 2..=6 {
        last = world.publish(seq).await;
    }
    east.is_done_with(last).await;
    west.is_done_with(last).await;
    east.stop().await;
    west.stop().await;
    for seq in 7..=9 {
        last = world.publish(seq).await;
    }
    // One comes back and tells what both missed; the other comes back later and finds it told.
    let east = world.agent("east", false);
    east.is_done_with(last).await;
    let west = world.agent("west", false);
    west.is_done_with(last).await;
    let expected: Vec<String> = (2..=9).map(|seq| format!("shop/7-error_rate.{seq}")).collect();
    assert_eq!(world.ids(), expected);
    east.stop().await;
    west.stop().await;
}

async fn silence_pages_once() {
    let world = World::new().await;
    let (east, west) = (world.agent("east", true), world.agent("west", true));
    east.is_ready().await;
    west.is_ready().await;
    // Both hear the same last heartbeat, so both name the silence after it.
    world.coordinator_is_here().await;
    // The one that loses the claim keeps the page back, to see that it is told.
    let posts = || world.ids().len();
    wait_for("one page told and one kept back", || posts() == 1 && east.waiting() + west.waiting() == 1).await;
    world.coordinator_is_here().await;
    wait_for("a resolution", || posts() == 2 && east.waiting() + west.waiting() == 2).await;
    let ids = world.ids();
    let incident = ids.first().and_then(|id| id.strip_suffix("-no_coordinator.1")).expect("a page");
    assert_eq!(ids.last(), Some(&format!("{incident}-no_coordinator.2")));
    let severities: Vec<Severity> =
        world.posts.lock().expect("sound").iter().map(|(_, alert)| alert.severity).collect();
    assert_eq!(severities, [Severity::Page, Severity::Page]);
    east.stop().await;
    west.stop().await;
}
