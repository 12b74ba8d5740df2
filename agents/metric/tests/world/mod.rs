//! A metric agent on a real `nats-server`, and a page that it reads.
//!
//! Each test program is its own harness, so that it can also be the shim under which servers run.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bellwether_bus::server::LocalServer;
use bellwether_bus::{Bus, From, Reader, testing};
use bellwether_fakes::{Fake, Family, Reply, Seen};
use bellwether_protocol::assignment::Assignment;
use bellwether_protocol::codec::{from_msgpack, to_msgpack};
use bellwether_protocol::presence::Presence;
use bellwether_protocol::sample::{Sample, Tick};
use bellwether_protocol::subject::{Bucket, Stream};
use bellwether_protocol::time::{Span, Timestamp};
use serde_json::{Value, json};

/// NATS, and one metric agent of region `sjc`.
pub(crate) struct World {
    server: Arc<LocalServer>,
    pub(crate) dir: tempfile::TempDir,
    pub(crate) bus: Bus,
    pub(crate) samples: Vec<Sample>,
    reader: Reader,
    slot: Span,
}

impl World {
    /// Starts NATS; every slot will be of this width.
    pub(crate) async fn new(slot: Span) -> Self {
        let testing::World { server, dir, bus } = testing::World::new().await;
        let reader = bus.read(Stream::Samples, Vec::new(), From::Start);
        Self { server, dir, bus, samples: Vec::new(), reader, slot }
    }

    /// Where NATS is.
    pub(crate) fn url(&self) -> &str {
        self.server.url()
    }

    /// Starts the agent with this `metric` block, and gives it looks: name, kind, address, settings.
    pub(crate) async fn agent(&self, metric: &Value, looks: &[(&str, &str, &str, Value)]) {
        let config = json!({
            "agent": {"region": "sjc", "name": "metric-1", "state_dir": self.dir.path().join("agent"), "nats": {"url": self.url()}},
            "metric": metric,
        });
        let path = testing::write(self.dir.path(), "metric.yaml", &config.to_string());
        tokio::spawn(async move { bellwether_metric::run(&path).await.expect("it runs") });
        let look = |(sli, kind, url, settings): &(&str, &str, &str, Value)| {
            json!({
                "sli": sli, "cohort": "canary", "url": url, "kind": kind, "settings": settings, "every": "500ms",
                "timeout": "2s", "headers": {}, "fingerprint": null, "edges_ms": [100],
            })
        };
        let looks: Vec<Value> = looks.iter().map(look).collect();
        let assignment =
            json!({ "rollout": "shop/1", "revision": 1, "region": "sjc", "slot": self.slot, "looks": looks });
        let assignment: Assignment = serde_json::from_value(assignment).expect("an assignment");
        let body = to_msgpack("assignment", &assignment).expect("encoded");
        self.bus.kv(Bucket::Assignments).put("sjc.shop", body).await.expect("stored");
    }

    /// Takes samples until all that came is as wanted.
    pub(crate) async fn until(&mut self, what: &str, is_it: impl Fn(&Self) -> bool) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(40);
        while !is_it(self) {
            let next = tokio::time::timeout_at(deadline, self.reader.next()).await;
            let message = next.unwrap_or_else(|_| panic!("{what} did not come; last: {:?}", self.samples.last()));
            let tick: Tick = from_msgpack("tick", &message.body).expect("a tick");
            assert!(tick.is_sound(), "{tick:?}");
            self.samples.extend(tick.samples);
        }
    }

    pub(crate) fn of<'a>(&'a self, sli: &'a str) -> impl Iterator<Item = &'a Sample> + Clone {
        self.samples.iter().filter(move |sample| sample.sli.as_str() == sli)
    }

    /// What was counted of one SLI in all, as `release class`.
    pub(crate) fn counted(&self, sli: &str) -> BTreeMap<String, u64> {
        let mut sums = BTreeMap::new();
        for portion in self.of(sli).flat_map(|sample| &sample.portions) {
            let release = portion.release.as_ref().map_or("-", |release| release.as_str());
            for (class, count) in portion.classes.iter().filter(|(_, count)| **count > 0) {
                *sums.entry(format!("{release} {class}")).or_default() += count;
            }
        }
        sums
    }

    /// What the agent says that it cannot measure, each with its reason, in the order of names.
    pub(crate) async fn gaps(&self) -> Vec<(String, String)> {
        let entry = self.bus.kv(Bucket::Presence).get("sjc.metric.metric-1").await.expect("read");
        let body = entry.and_then(|entry| entry.value).expect("a presence");
        let presence: Presence = from_msgpack("presence", &body).expect("a presence");
        let gaps = presence.watching.into_values().flat_map(|watching| watching.gaps);
        gaps.map(|gap| (gap.sli.to_string(), gap.why)).collect()
    }

    /// The last slot of one SLI.
    #[allow(dead_code, reason = "not every test program asks")]
    pub(crate) fn last(&self, sli: &str) -> Option<Timestamp> {
        self.of(sli).map(|sample| sample.slot).max()
    }
}

/// A page with a text on it; `None`: it is out of order.
pub(crate) struct Page(Option<String>);

impl Page {
    /// Serves a page with nothing on it.
    pub(crate) async fn serve() -> Fake<Self> {
        Fake::start(Self(None)).await.expect("a port")
    }

    pub(crate) fn put(&mut self, text: Option<&str>) {
        self.0 = text.map(str::to_owned);
    }
}

impl Family for Page {
    fn answer(&mut self, _: &Seen) -> Reply {
        let text = |text: &String| Reply::text(200, text).with("content-type", "text/plain; version=0.0.4");
        self.0.as_ref().map_or(Reply::text(503, ""), text)
    }
}

/// Appends to a file.
#[allow(dead_code, reason = "not every test program writes a log")]
pub(crate) fn append(path: &Path, text: &str) {
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path).expect("opened");
    std::io::Write::write_all(&mut file, text.as_bytes()).expect("written");
}
