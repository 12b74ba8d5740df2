//! The bus through a region's leaf node: every stream is the hub's, and the link between them fails.

#![expect(clippy::expect_used, reason = "a test")]

use std::process::ExitCode;
use std::time::Duration;

use bellwether_bus::server::{HUB_DOMAIN, Link, LocalServer};
use bellwether_bus::testing::{Fault, Test, WITHIN, Wire, connect_options, free_port, harness, start, until};
use bellwether_bus::{Bus, ConnectError, ConnectOptions, From, JoinError, KvError, Reader, metrics};
use bellwether_protocol::cloud_event::CloudEvent;
use bellwether_protocol::subject::{Bucket, Stream};
use bellwether_protocol::time::Timestamp;

const TESTS: [Test; 5] = bellwether_bus::tests![
    everything_is_the_hubs,
    a_domain_must_be_named_and_answer,
    a_start_waits_for_the_hub,
    a_reader_misses_nothing_of_a_cut_link,
    a_message_that_was_lost_with_the_link_is_noticed,
];

fn main() -> ExitCode {
    harness(&TESTS, WITHIN)
}

/// A hub, a wire, a leaf behind it, and a bus at either end.
struct Pair {
    at_hub: Bus,
    at_leaf: Bus,
    wire: Wire,
    leaf: LocalServer,
    _hub: LocalServer,
    _dir: tempfile::TempDir,
}

fn through(server: &LocalServer, domain: Option<&str>) -> ConnectOptions {
    ConnectOptions { domain: domain.map(ToOwned::to_owned), ..connect_options(server.url()) }
}

impl Pair {
    async fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let port = free_port();
        let hub = start(dir.path().join("hub"), Link::Hub { port }).await;
        let wire = Wire::to(port).await;
        let link =
            Link::Leaf { region: "sjc".parse().expect("a region"), hub: format!("nats-leaf://{}", wire.address()) };
        let leaf = start(dir.path().join("leaf"), link).await;
        let at_hub = Bus::connect(&through(&hub, Some(HUB_DOMAIN))).await.expect("connected");
        at_hub.provision().await.expect("provisioned");
        let options = through(&leaf, Some(HUB_DOMAIN));
        let at_leaf = until("the link", async || Bus::connect(&options).await.map_err(|error| error.to_string())).await;
        Self { at_hub, at_leaf, wire, leaf, _hub: hub, _dir: dir }
    }

    /// Publishes at the hub what a reader at the leaf is to get.
    async fn publish(&self, number: u64) {
        let body = number.to_string().into_bytes();
        self.at_hub.publish("bw.action.shop.traffic".to_owned(), &number.to_string(), body).await.expect("stored");
    }
}

async fn next(reader: &mut Reader) -> String {
    String::from_utf8(reader.next().await.body).expect("text")
}

async fn everything_is_the_hubs() {
    let pair = Pair::new().await;
    let bus = &pair.at_leaf;
    bus.provision().await.expect("seen from here");
    let stored = bus.publish("bw.sample.sjc.probe.p1".to_owned(), "1", b"a".to_vec()).await.expect("stored");
    assert_eq!((stored.seq, pair.at_hub.state(Stream::Samples).await.expect("there").last), (1, 1));
    let event =
        |id: &str| CloudEvent::new(bus.prefix(), "decision", id.to_owned(), "shop".to_owned(), Timestamp::default());
    bus.append("bw.decision.shop".to_owned(), 0, &event("1"), b"a".to_vec()).await.expect("appended");
    bus.append("bw.decision.shop".to_owned(), 0, &event("2"), b"b".to_vec()).await.expect_err("fenced");
    let (here, there) = (bus.kv(Bucket::Presence), pair.at_hub.kv(Bucket::Presence));
    let mut watch = there.watch();
    let revision = here.create("sjc.probe.p1", b"one".to_vec()).await.expect("created");
    assert!(matches!(here.create("sjc.probe.p1", Vec::new()).await, Err(KvError::Conflict { .. })));
    here.update("sjc.probe.p1", b"two".to_vec(), revision).await.expect("updated");
    here.put("sjc.probe.p2", b"three".to_vec()).await.expect("put");
    let entries = here.entries().await.expect("read");
    assert_eq!(entries.iter().map(|entry| entry.key.as_str()).collect::<Vec<_>>(), ["sjc.probe.p1", "sjc.probe.p2"]);
    assert_eq!(entries, there.entries().await.expect("read"));
    let (now, last) = here.time().await.expect("told");
    assert_eq!(entries.iter().map(|entry| entry.at).max(), last);
    assert!(last <= Some(now), "{now} is before {entries:?}");
    assert_eq!(watch.next().await.key, "sjc.probe.p1");
    here.delete("sjc.probe.p1").await.expect("deleted");
    assert_eq!(there.get("sjc.probe.p1").await.expect("read"), None);
    assert!(bus.is_answered());
    // The leaf's own JetStream holds nothing of ours.
    let own = Bus::connect(&through(&pair.leaf, Some("sjc"))).await.expect("connected");
    assert!(own.state(Stream::Samples).await.is_err());
}

async fn a_domain_must_be_named_and_answer() {
    let pair = Pair::new().await;
    let named = Bus::connect(&through(&pair.leaf, None)).await.expect_err("two places for one stream");
    assert!(matches!(&named, ConnectError::Domain { domain, .. } if domain == "sjc"), "{named}");
    let wrong = Bus::connect(&through(&pair.leaf, Some("hup"))).await.expect_err("nobody is called that");
    assert!(matches!(&wrong, ConnectError::DomainSilent { domain, .. } if domain == "hup"), "{wrong}");
    pair.wire.set(Fault::Cut);
    let options = through(&pair.leaf, Some(HUB_DOMAIN));
    until("the cut", async || match Bus::connect(&options).await {
        Err(ConnectError::DomainSilent { .. }) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
}

async fn a_start_waits_for_the_hub() {
    let pair = Pair::new().await;
    let options = through(&pair.leaf, Some(HUB_DOMAIN));
    pair.wire.set(Fault::Cut);
    until("the cut", async || Bus::connect(&options).await.map_or(Ok(()), |bus| Err(format!("{bus:?}")))).await;
    let joining = tokio::spawn({
        let options = options.clone();
        async move { Bus::join(&options).await }
    });
    let waits_for = || metrics::checks().into_iter().find(|(name, _)| *name == "start").and_then(|(_, why)| why);
    until("its health to say so", async || waits_for().filter(|why| why.contains(HUB_DOMAIN)).ok_or(())).await;
    assert!(!joining.is_finished());
    pair.wire.set(Fault::None);
    let bus = joining.await.expect("joined").expect("let in");
    assert!(bus.is_answered() && waits_for().is_none());
    let wrong = Bus::join(&through(&pair.leaf, None)).await.expect_err("waiting would not help");
    assert!(matches!(wrong, JoinError::Connect(ConnectError::Domain { .. })), "{wrong}");
}

async fn a_reader_misses_nothing_of_a_cut_link() {
    let pair = Pair::new().await;
    let mut reader = pair.at_leaf.read(Stream::Actions, Vec::new(), From::Start);
    let mut watch = pair.at_leaf.kv(Bucket::Assignments).watch();
    for number in 0..200 {
        pair.publish(number).await;
        match number % 100 {
            20 => pair.wire.set(Fault::Cut),
            40 => pair.wire.set(Fault::None),
            60 => pair.wire.set(Fault::Hang),
            80 => pair.wire.set(Fault::None),
            _ => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
    pair.at_hub.kv(Bucket::Assignments).put("sjc.shop", b"a".to_vec()).await.expect("put");
    for number in 0..200 {
        assert_eq!(next(&mut reader).await, number.to_string());
    }
    assert_eq!(watch.next().await.key, "sjc.shop");
    // What is published here while the link is cut arrives when it is up again, once.
    pair.wire.set(Fault::Cut);
    let bus = pair.at_leaf.clone();
    let late = tokio::spawn(async move { bus.publish("bw.sample.sjc.probe.p1".to_owned(), "1", b"a".to_vec()).await });
    tokio::time::sleep(Duration::from_secs(1)).await;
    pair.wire.set(Fault::None);
    late.await.expect("joined").expect("stored");
    assert_eq!(pair.at_hub.state(Stream::Samples).await.expect("there").last, 1);
}

/// The link takes a message with it and is up again before a heartbeat is missed. The client, which is
/// connected to the leaf all the while, sees nothing of it, and no other message follows.
async fn a_message_that_was_lost_with_the_link_is_noticed() {
    let pair = Pair::new().await;
    let mut reader = pair.at_leaf.read(Stream::Actions, Vec::new(), From::Start);
    pair.publish(1).await;
    assert_eq!(next(&mut reader).await, "1");
    pair.wire.set(Fault::Slow { delay: Duration::from_millis(500), bytes_per_s: 1 << 30 });
    pair.publish(2).await;
    pair.wire.set(Fault::Cut);
    tokio::time::sleep(Duration::from_millis(200)).await;
    pair.wire.set(Fault::None);
    let two = tokio::time::timeout(Duration::from_secs(30), next(&mut reader)).await;
    assert_eq!(two.expect("noticed"), "2");
}
