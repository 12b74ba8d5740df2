//! Agents on a real `nats-server`, killed and started again.
//!
//! This program is its own harness, so that it can also be the shim under which servers run.

#![expect(clippy::expect_used, reason = "a test")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bellwether_bus::Hop;
use bellwether_bus::testing::{Test, World, harness};
use bellwether_bus::trace::SpanKind;
use bellwether_bus::{From, Reader};
use bellwether_protocol::action::{Action, ActionOutcome, ActionResult};
use bellwether_protocol::assignment::Assignment;
use bellwether_protocol::codec::{from_json, from_msgpack, to_json, to_msgpack};
use bellwether_protocol::id::{ActionId, AgentId, LeverValue, Ordinal, Release, Revision, Role};
use bellwether_protocol::presence::{Presence, Target};
use bellwether_protocol::sample::{Cohort, Control, Sample, Tick};
use bellwether_protocol::subject::{Bucket, Stream};
use bellwether_protocol::time::{Span, Timestamp};
use bellwether_runtime::{AgentConfig, Driver, DriverError, Lever, Reading, Runtime, parse_config};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;

const TESTS: [Test; 9] = bellwether_bus::tests![
    a_result_waits_until_there_is_room,
    an_agent_is_present_and_takes_assignments,
    who_ends_on_purpose_is_not_missed,
    samples_reach_the_stream_once_it_is_back,
    samples_are_sent_again_when_the_stream_lost_them,
    samples_are_sent_again_when_others_filled_their_numbers_up,
    spans_reach_a_collector,
    health_names_a_lever_that_was_not_read_yet,
    one_agent_acts_and_the_other_takes_over,
];

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|arg| arg == TRACE) {
        return trace();
    }
    harness(&TESTS, Duration::from_secs(90))
}

fn own_config(world: &World, name: &str) -> AgentConfig {
    config(world.server.url(), name, &world.dir.path().join(name))
}

async fn agent(world: &World, role: Role, name: &str) -> Runtime {
    Runtime::start(role, &own_config(world, name)).await.expect("an agent")
}

async fn presence_of(world: &World, agent: &AgentId) -> Option<Presence> {
    let entry = world.bus.kv(Bucket::Presence).get(&agent.to_string()).await.expect("read")?;
    Some(from_msgpack("presence", &entry.value.expect("a value")).expect("a presence"))
}

fn config(url: &str, name: &str, dir: &Path) -> AgentConfig {
    let text = format!("region: sjc\nname: {name}\nstate_dir: {}\nnats: {{ url: \"{url}\" }}\n", dir.display());
    parse_config("agent.yaml", &text).expect("a configuration")
}

/// Waits until `look` finds something.
async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    bellwether_bus::testing::until(what, async || look().await.ok_or(())).await
}

fn assignment(revision: u64) -> Vec<u8> {
    let assignment = Assignment {
        rollout: "shop/1".parse().expect("a rollout"),
        revision: Revision(revision),
        region: "sjc".parse().expect("a region"),
        slot: Span::from_secs(30),
        looks: Vec::new(),
    };
    to_msgpack("assignment", &assignment).expect("encoded")
}

async fn an_agent_is_present_and_takes_assignments() {
    let world = World::new().await;
    let agent = agent(&world, Role::Probe, "one").await;
    assert!(!agent.clock.is_adrift());
    assert!(agent.clock.offset_ms().abs() < 5_000);
    let presence = until("a presence", async || presence_of(&world, &agent.agent).await).await;
    assert_eq!((presence.agent, presence.watching.len()), (agent.agent.clone(), 0));
    let assignments = world.bus.kv(Bucket::Assignments);
    assignments.put("sjc.shop", assignment(3)).await.expect("stored");
    assignments.put("fra.shop", assignment(9)).await.expect("stored");
    let mut watch = agent.assignments();
    let found = watch.wait_for(|all| !all.is_empty()).await.expect("assigned").clone();
    assert_eq!(found.values().map(|found| found.revision).collect::<Vec<_>>(), [Revision(3)]);
    assignments.put("sjc.shop", b"broken".to_vec()).await.expect("stored");
    assignments.put("sjc.shop", assignment(2)).await.expect("stored");
    assignments.put("sjc.shop", assignment(4)).await.expect("stored");
    let newest = |all: &BTreeMap<_, Assignment>| all.values().all(|one| one.revision == Revision(4));
    watch.wait_for(newest).await.expect("assigned");
    agent.presence(|presence| {
        presence.serving.insert("shop".to_owned(), 7);
    });
    let is_told =
        async || presence_of(&world, &agent.agent).await.filter(|presence| presence.serving.contains_key("shop"));
    until("the change", is_told).await;
    let second = Runtime::start(Role::Probe, &own_config(&world, "one")).await;
    assert!(second.is_err(), "two processes with one state directory");
    let alert = Runtime::start(Role::Alert, &own_config(&world, "two")).await.expect("an agent");
    assert!(alert.assignments().has_changed().is_err(), "who does not look asks for nothing to look at");
}

async fn who_ends_on_purpose_is_not_missed() {
    let world = World::new().await;
    let (ends, falls) = (agent(&world, Role::Probe, "ends").await, agent(&world, Role::Probe, "falls").await);
    for one in [&ends, &falls] {
        until("a presence", async || presence_of(&world, &one.agent).await).await;
    }
    let (ended, fallen) = (ends.agent.clone(), falls.agent.clone());
    // As a heartbeat that is due at once would.
    ends.presence(|presence| presence.spooled = 1);
    ends.leave().await;
    drop((ends, falls));
    assert_eq!(presence_of(&world, &ended).await, None);
    assert!(presence_of(&world, &fallen).await.is_some(), "when it was last heard is lost");
}

fn sample(n: i64) -> Sample {
    Sample {
        rollout: "shop/1".parse().expect("a rollout"),
        revision: Revision(1),
        sli: "home".parse().expect("an sli"),
        cohort: Cohort::Canary,
        slot: Timestamp::from_ms(n),
        portions: Vec::new(),
        control: Control::Absent,
        evidence: Vec::new(),
        source: None,
    }
}

async fn ticks(reader: &mut Reader, count: i64) -> Vec<Tick> {
    let mut found = Vec::new();
    for _ in 0..count {
        found.push(from_msgpack("tick", &reader.next().await.body).expect("a tick"));
    }
    found
}

async fn samples_reach_the_stream_once_it_is_back() {
    let world = World::new().await;
    let agent = agent(&world, Role::Probe, "one").await;
    let sender = agent.sender();
    for n in 0..50 {
        sender.send(vec![sample(n)]);
        match n {
            20 => world.kill(),
            40 => world.restart().await,
            _ => {}
        }
    }
    // What the process did not send before it died is sent by the next one.
    drop(sender);
    drop(agent);
    let again = until("the lock", async || Runtime::start(Role::Probe, &own_config(&world, "one")).await.ok()).await;
    again.sender().send(vec![sample(50)]);
    let mut reader = world.bus.read(Stream::Samples, Vec::new(), From::Start);
    let found = ticks(&mut reader, 51).await;
    // Those that were under way when it went may come back in any order, each under its own number.
    let by_number: BTreeMap<u64, i64> = found.iter().map(|tick| (tick.seq, tick.samples[0].slot.as_ms())).collect();
    assert!(by_number.into_values().eq(0..51));
    // One call that is too much for one message becomes several.
    again.sender().send((0..2_500).map(sample).collect());
    let mut count = 0;
    while count < 2_500 {
        let tick = ticks(&mut reader, 1).await.remove(0);
        assert!(tick.is_sound());
        count += tick.samples.len();
    }
    let is_empty = async || presence_of(&world, &again.agent).await.filter(|presence| presence.spooled == 0);
    until("an empty spool", is_empty).await;
}

async fn samples_are_sent_again_when_the_stream_lost_them() {
    let world = World::new().await;
    let agent = agent(&world, Role::Probe, "one").await;
    let mut reader = world.bus.read(Stream::Samples, Vec::new(), From::Start);
    for n in 0..3 {
        agent.sender().send(vec![sample(n)]);
    }
    ticks(&mut reader, 3).await;
    // Power is lost before anything reached the disk: the whole store is gone.
    world.kill();
    let nats = world.dir.path().join("nats/store");
    until("the end of the server", async || std::fs::remove_dir_all(&nats).ok()).await;
    world.restart().await;
    until("a new stream", async || world.bus.provision().await.ok()).await;
    agent.sender().send(vec![sample(3)]);
    let mut reader = world.bus.read(Stream::Samples, Vec::new(), From::Start);
    let mut seen = BTreeSet::new();
    while seen.len() < 4 {
        seen.insert(ticks(&mut reader, 1).await.remove(0).samples[0].slot.as_ms());
    }
}

async fn samples_are_sent_again_when_others_filled_their_numbers_up() {
    let world = World::new().await;
    let agent = agent(&world, Role::Probe, "one").await;
    let [store, old] = ["nats/store", "old"].map(|name| world.dir.path().join(name));
    let own = vec![world.bus.prefix().sample(&agent.agent)];
    let all = async |upto: i64| {
        let mut reader = world.bus.read(Stream::Samples, own.clone(), From::Start);
        let mut seen = BTreeSet::new();
        while seen.len() < usize::try_from(upto).expect("a few") {
            seen.insert(ticks(&mut reader, 1).await.remove(0).samples[0].slot.as_ms());
        }
    };
    let down = async || {
        world.kill();
        let address = world.server.url().trim_start_matches("nats://").to_owned();
        until("the end of the server", async || std::net::TcpStream::connect(&address).err()).await;
    };
    let copy = |from: &Path, to: &Path| {
        let copied = std::process::Command::new("cp").arg("-r").args([from, to]).status();
        assert!(copied.expect("run").success());
    };
    (0..3).for_each(|n| agent.sender().send(vec![sample(n)]));
    all(3).await;
    down().await;
    copy(&store, &old);
    world.restart().await;
    (3..6).for_each(|n| agent.sender().send(vec![sample(n)]));
    all(6).await;
    // The machine comes back with what its disk had, and another agent is faster.
    down().await;
    std::fs::remove_dir_all(&store).expect("removed");
    copy(&old, &store);
    world.restart().await;
    for n in 0..9 {
        world.bus.publish("bw.sample.sjc.probe.two".to_owned(), &format!("two/{n}"), Vec::new()).await.expect("stored");
    }
    // What is acknowledged now must not hide what was lost.
    agent.sender().send(vec![sample(6)]);
    all(7).await;
}

/// A platform in memory, shared by two agents as a real one would be.
#[derive(Default)]
struct Platform {
    value: Mutex<String>,
    sets: Mutex<Vec<String>>,
}

impl Driver for Platform {
    fn set<'a>(&'a self, to: &'a LeverValue, action: &'a ActionId) -> BoxFuture<'a, Result<String, DriverError>> {
        async move {
            to.to_string().clone_into(&mut self.value.lock().expect("not poisoned"));
            self.sets.lock().expect("not poisoned").push(action.to_string());
            Ok("ok".to_owned())
        }
        .boxed()
    }

    fn describe(&self) -> String {
        "memory".to_owned()
    }

    fn read_back(&self) -> BoxFuture<'_, Result<Reading, DriverError>> {
        async {
            let value = self.value.lock().expect("not poisoned").parse::<LeverValue>().ok();
            Ok(Reading { value: value.clone(), targets: vec![Target { id: "all".to_owned(), value }] })
        }
        .boxed()
    }

    fn history(&self) -> BoxFuture<'_, Result<Vec<Release>, DriverError>> {
        async { Ok(vec!["v40".parse::<Release>().expect("a release")]) }.boxed()
    }
}

/// A platform that answers once it is let.
#[derive(Default)]
struct Slow {
    door: tokio::sync::Notify,
    platform: Platform,
}

impl Driver for Slow {
    fn set<'a>(&'a self, to: &'a LeverValue, action: &'a ActionId) -> BoxFuture<'a, Result<String, DriverError>> {
        self.platform.set(to, action)
    }

    fn describe(&self) -> String {
        self.platform.describe()
    }

    fn read_back(&self) -> BoxFuture<'_, Result<Reading, DriverError>> {
        async {
            self.door.notified().await;
            self.platform.read_back().await
        }
        .boxed()
    }

    fn history(&self) -> BoxFuture<'_, Result<Vec<Release>, DriverError>> {
        self.platform.history()
    }
}

async fn health_names_a_lever_that_was_not_read_yet() {
    let world = World::new().await;
    let slow = Arc::new(Slow::default());
    "v40".clone_into(&mut slow.platform.value.lock().expect("not poisoned"));
    let (service, name) = ("shop".parse().expect("a service"), "slow".parse().expect("a lever"));
    let (agent, driver) = (agent(&world, Role::Rollback, "slow").await, Arc::clone(&slow));
    let task = tokio::spawn(async move { agent.serve_levers(vec![Lever { service, name, driver }]).await });
    let is_early = || {
        let mut wrong = bellwether_bus::metrics::checks().into_iter().filter_map(|(_, wrong)| wrong);
        wrong.any(|why| why.contains("not read yet: shop.slow"))
    };
    until("its health to say so", async || is_early().then_some(())).await;
    slow.door.notify_one();
    until("its health to be well", async || (!is_early()).then_some(())).await;
    task.abort();
}

fn action(generation: u64, to: &str, deadline: Timestamp) -> Action {
    Action {
        id: format!("shop/1/{generation}/0").parse().expect("an action"),
        service: "shop".parse().expect("a service"),
        lever: "release".parse().expect("a lever"),
        to: to.parse().expect("a value"),
        generation: Ordinal(generation),
        deadline,
    }
}

async fn a_result_waits_until_there_is_room() {
    let world = World::new().await;
    let client = async_nats::connect(world.server.url()).await.expect("connected");
    let jetstream = async_nats::jetstream::new(client);
    let bound = async |max_bytes: i64| {
        let mut inbox = jetstream.get_stream(world.bus.prefix().stream(Stream::Inbox)).await.expect("the inbox");
        let config = inbox.info().await.expect("its settings").config.clone();
        let config = async_nats::jetstream::stream::Config { max_bytes, ..config };
        jetstream.update_stream(config).await.expect("changed")
    };
    let platform = Arc::new(Platform::default());
    "v40".clone_into(&mut platform.value.lock().expect("not poisoned"));
    let (service, name) = ("shop".parse().expect("a service"), "release".parse().expect("a lever"));
    let (agent, driver) = (agent(&world, Role::Rollback, "one").await, Arc::clone(&platform));
    let task = tokio::spawn(async move { agent.serve_levers(vec![Lever { service, name, driver }]).await });
    let room = bound(1).await.config.max_bytes;
    assert_eq!(room, 1);
    // The second is taken up after the first was answered, and its answer refused.
    for (generation, to) in [(5, "v41"), (6, "v42")] {
        let action = action(generation, to, Timestamp::from_ms(now_ms() + 60_000));
        let subject = world.bus.prefix().action(&action.service, &action.lever);
        let body = to_json("action", &action).expect("encoded");
        world.bus.publish(subject, &action.id.to_string(), body).await.expect("stored");
        let is_set = async || (*platform.value.lock().expect("not poisoned") == to).then_some(());
        until("the lever", is_set).await;
    }
    assert_eq!(world.bus.state(Stream::Inbox).await.expect("its state").last, 0);
    bound(1 << 20).await;
    let mut inbox = world.bus.read(Stream::Inbox, Vec::new(), From::Start);
    let mut answered = BTreeSet::new();
    while answered.len() < 2 {
        let answer: ActionResult = from_json("result", &inbox.next().await.body).expect("a result");
        assert_eq!(answer.outcome, ActionOutcome::Done, "{answer:?}");
        answered.insert(answer.action.generation.0);
    }
    task.abort();
}

async fn one_agent_acts_and_the_other_takes_over() {
    let world = World::new().await;
    let platform = Arc::new(Platform::default());
    "v40".clone_into(&mut platform.value.lock().expect("not poisoned"));
    let serve = async |name: &str| {
        let agent = agent(&world, Role::Rollback, name).await;
        let driver: Arc<dyn Driver> = platform.clone();
        let lever =
            Lever { service: "shop".parse().expect("a service"), name: "release".parse().expect("a lever"), driver };
        let id = agent.agent.clone();
        (id, tokio::spawn(async move { agent.serve_levers(vec![lever]).await }))
    };
    let deadline = Timestamp::from_ms(now_ms() + 60_000);
    let order = async |action: Action| {
        let subject = world.bus.prefix().action(&action.service, &action.lever);
        let body = to_json("action", &action).expect("encoded");
        world.bus.publish(subject, &action.id.to_string(), body).await.expect("stored");
    };
    let mut inbox = world.bus.read(Stream::Inbox, Vec::new(), From::Start);
    let mut result = async || from_json::<ActionResult>("result", &inbox.next().await.body).expect("a result");
    // Published before any agent lives: done all the same.
    order(action(5, "v41", deadline)).await;
    let (first, first_task) = serve("one").await;
    let answer = result().await;
    assert_eq!((answer.outcome, &answer.agent), (ActionOutcome::Done, &first), "{answer:?}");
    let is_read = async || {
        let presence = presence_of(&world, &first).await?;
        let reading = presence.levers.values().flatten().next()?.clone();
        (reading.value.as_ref().map(ToString::to_string) == Some("v41".to_owned()) && !reading.history.is_empty())
            .then_some(reading)
    };
    until("the reading", is_read).await;
    // A second one stands by, over a killed server too.
    let (second, second_task) = serve("two").await;
    world.kill();
    world.restart().await;
    order(action(4, "v39", deadline)).await;
    assert_eq!(result().await.outcome, ActionOutcome::Refused);
    first_task.abort();
    let _ = first_task.await;
    // Nobody acts until the claim runs out; then the other one looks first, and does what is left.
    order(action(6, "v42", deadline)).await;
    let answer = result().await;
    assert_eq!((answer.outcome, &answer.agent), (ActionOutcome::Done, &second), "{answer:?}");
    assert_eq!(*platform.sets.lock().expect("not poisoned"), ["shop/1/5/0", "shop/1/6/0"]);
    second_task.abort();
    let _ = second_task.await;
    // It comes back, is told everything again, and does nothing twice.
    let (_, task) = serve("two").await;
    order(action(7, "v42", deadline)).await;
    let answer = result().await;
    // The repeated answer to generation 6 has the id of the first, and so was stored once.
    assert_eq!((answer.outcome, answer.action.generation), (ActionOutcome::Done, Ordinal(7)), "{answer:?}");
    assert_eq!(platform.sets.lock().expect("not poisoned").len(), 2);
    task.abort();
}

/// The verb under which this program makes one span and ends; the collector is in its environment.
const TRACE: &str = "make-a-span";

fn trace() -> ExitCode {
    tokio::runtime::Runtime::new()
        .expect("a runtime")
        .block_on(async {
            let _telemetry = bellwether_runtime::telemetry::init("bellwether-test");
            tokio::spawn(async { drop(Hop::begin(SpanKind::Internal, "one hop", Vec::new())) }).await
        })
        .map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS)
}

async fn spans_reach_a_collector() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
    let mut child = tokio::process::Command::new(std::env::current_exe().expect("our own path"))
        .arg(TRACE)
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("a process");
    let (mut stream, _) = listener.accept().await.expect("a connection");
    let mut seen = Vec::new();
    let holds = |seen: &[u8], text: &str| seen.windows(text.len()).any(|part| part == text.as_bytes());
    while !(holds(&seen, "POST /v1/traces") && holds(&seen, "one hop") && holds(&seen, "bellwether-test")) {
        let read = tokio::io::AsyncReadExt::read_buf(&mut stream, &mut seen).await.expect("read");
        assert!(read > 0, "it ended early: {}", String::from_utf8_lossy(&seen));
    }
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
    tokio::io::AsyncWriteExt::write_all(&mut stream, answer).await.expect("written");
    assert!(child.wait().await.expect("ended").success());
}

fn now_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    i64::try_from(since.as_millis()).expect("in range")
}
