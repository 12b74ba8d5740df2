//! A fleet that returns at once: many agents in this process, each with the real runtime, its own connection and
//! its own spool; their one server is killed, stays away, and comes back. Prints how long it takes until all of
//! them are heard again, have taken a new assignment and have sent what they kept, and what the server takes.
//! Ends with 1 when a sample is lost; asserts nothing about time.
//!
//! `AGENTS=n` (500) in five regions, `AWAY=s` (20) seconds.

#![expect(clippy::expect_used, clippy::print_stdout, reason = "a bench says what is wrong by panicking")]

mod server;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bellwether_bus::testing::connect_options;
use bellwether_bus::{Bus, Clock, From, Trace};
use bellwether_protocol::assignment::{Assignment, Look};
use bellwether_protocol::codec::{from_msgpack, to_msgpack};
use bellwether_protocol::id::{Revision, Role, Service};
use bellwether_protocol::presence::Presence;
use bellwether_protocol::sample::{Cohort, Control, Sample, Tick};
use bellwether_protocol::subject::{Bucket, Stream};
use bellwether_protocol::time::{Span, Timestamp};
use bellwether_runtime::{Gaps, Looker, Looks, Runtime, Watch, parse_config};
use futures_util::StreamExt;
use tokio::sync::mpsc;

const PROGRAM: &str = env!("CARGO_BIN_EXE_bellwether");
const REGIONS: usize = 5;
/// Agents that start at once: what is measured is their return, not their start.
const STARTING: usize = 50;
const TICK: Duration = Duration::from_secs(1);
/// What does not come within this is lost.
const QUIET: Duration = Duration::from_secs(30);
/// Longer than this nothing is waited for.
const WITHIN: Duration = Duration::from_secs(300);

/// Takes assignments and looks at nothing.
struct Idle;

impl Looker for Idle {
    type Ready = ();
    type Running = ();

    fn knows(&self, _: &str) -> bool {
        true
    }

    fn read(&self, _: &Service, _: &Look) -> Result<(), String> {
        Ok(())
    }

    fn begin(&mut self, _: Watch, _: &Look, (): (), _: Span) {}

    fn renew(&mut self, (): &(), _: Revision) {}
}

/// What was heard of each agent: when it last said that it is there, and which assignment it had then.
type Heard = Arc<Mutex<BTreeMap<String, (Timestamp, Revision)>>>;
/// The seconds of which a sample is stored, by agent.
type Stored = Arc<Mutex<BTreeMap<String, BTreeSet<Timestamp>>>>;

fn lock<T>(shared: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn main() -> ExitCode {
    let (agents, away) = (variable("AGENTS", 500), variable("AWAY", 20));
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let lost = runtime.block_on(run(agents, Duration::from_secs(away as u64)));
    runtime.shutdown_background();
    if lost == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn variable(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

async fn run(agents: usize, away: Duration) -> usize {
    let dir = tempfile::tempdir().expect("a directory");
    let server = Arc::new(server::start(dir.path(), PROGRAM).await);
    let bus = Bus::connect(&connect_options(server.url())).await.expect("connected");
    bus.provision().await.expect("provisioned");
    let (heard, stored) = (Heard::default(), Stored::default());
    tokio::spawn(hear(bus.clone(), Arc::clone(&heard)));
    tokio::spawn(count(bus.clone(), Arc::clone(&stored)));
    assign(&bus, Revision(1)).await;

    let (sent, is_over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let began = Instant::now();
    let starting = futures_util::stream::iter(0..agents).map(|number| {
        let (sent, is_over) = (Arc::clone(&sent), Arc::clone(&is_over));
        start(server.url().to_owned(), dir.path().to_owned(), number, sent, is_over)
    });
    starting.buffer_unordered(STARTING).collect::<Vec<()>>().await;
    let have = |since: Timestamp, revision: Revision| {
        let heard = Arc::clone(&heard);
        move || lock(&heard).values().filter(|(at, own)| *at >= since && *own >= revision).count()
    };
    until(agents, have(Timestamp::default(), Revision(1))).await;
    println!("{agents} agents in {REGIONS} regions are here and assigned after {}", secs(began));
    tokio::time::sleep(TICK * 5).await;
    println!("the server takes {} MB before it is killed", memory(server.pid(), "VmRSS"));

    bellwether_bus::testing::kill(server.pid());
    tokio::time::sleep(away).await;
    let kept = sent.load(Ordering::Relaxed) - all(&stored);
    let restarted = Arc::clone(&server);
    tokio::task::spawn_blocking(move || restarted.restart()).await.expect("joined").expect("restarted");
    let (back, at) = (Instant::now(), Clock::new().now());
    println!("{} s away: {kept} ticks wait on disk; the server is back", away.as_secs());
    let assigning = tokio::spawn({
        let bus = bus.clone();
        async move { assign(&bus, Revision(2)).await }
    });
    until(agents, have(at, Revision(0))).await;
    println!("all are heard again after       {}", secs(back));
    until(agents, have(at, Revision(2))).await;
    assigning.await.expect("joined");
    println!("all have the new assignment after {}", secs(back));
    let before = sent.load(Ordering::Relaxed);
    let is_sent = Arc::clone(&stored);
    until(usize::try_from(before).expect("a count"), move || usize::try_from(all(&is_sent)).expect("a count")).await;
    println!("all that was kept is stored after {}", secs(back));
    is_over.store(true, Ordering::Relaxed);
    // Until all is there, or nothing more comes: longer than any pause of ours.
    let (mut had, mut since) = (0, Instant::now());
    while had < sent.load(Ordering::Relaxed) && since.elapsed() < QUIET {
        tokio::time::sleep(TICK).await;
        if all(&stored) > had {
            (had, since) = (all(&stored), Instant::now());
        }
    }
    let (sent, stored) = (sent.load(Ordering::Relaxed), all(&stored));
    println!("{sent} samples taken, {stored} stored, {} lost", sent.saturating_sub(stored));
    println!("the server takes {} MB, {} MB at most", memory(server.pid(), "VmRSS"), memory(server.pid(), "VmHWM"));
    tokio::task::spawn_blocking(move || server.stop()).await.expect("joined").expect("stopped");
    usize::try_from(sent.saturating_sub(stored)).expect("a count")
}

/// Starts one agent, which takes a sample a second until it is over.
async fn start(url: String, dir: std::path::PathBuf, number: usize, sent: Arc<AtomicU64>, is_over: Arc<AtomicBool>) {
    let config = config(&url, &dir, number);
    let runtime = Runtime::start(Role::Probe, &config).await.expect("an agent");
    let (samples, mut taken) = mpsc::channel(16);
    let clock = runtime.clock.clone();
    tokio::spawn(async move {
        let mut looks = Looks::new(runtime.agent.to_string(), Idle);
        runtime.look(&mut looks, &Gaps::default(), &mut taken).await;
    });
    tokio::spawn(async move {
        let mut tick = tokio::time::interval(TICK);
        let mut last = Timestamp::default();
        while !is_over.load(Ordering::Relaxed) {
            tick.tick().await;
            // The clock steps when it is anchored anew; a slot has one sample.
            let slot = clock.now().max(last + Span::from_ms(1));
            last = slot;
            sent.fetch_add(1, Ordering::Relaxed);
            samples.send((sample(slot), Trace::default())).await.expect("taken");
        }
    });
}

fn config(url: &str, dir: &Path, number: usize) -> bellwether_runtime::AgentConfig {
    let state = dir.join(format!("agent-{number}")).display().to_string();
    let region = number % REGIONS;
    let text = format!("region: r{region}\nname: probe-{number}\nstate_dir: {state}\nnats: {{ url: \"{url}\" }}\n");
    parse_config("agent.yaml", &text).expect("a configuration")
}

fn sample(slot: Timestamp) -> Sample {
    Sample {
        rollout: "shop/1".parse().expect("a rollout"),
        revision: Revision(1),
        sli: "home".parse().expect("an sli"),
        cohort: Cohort::Canary,
        slot,
        portions: Vec::new(),
        control: Control::Absent,
        evidence: Vec::new(),
        source: None,
    }
}

async fn assign(bus: &Bus, revision: Revision) {
    for region in 0..REGIONS {
        let region = format!("r{region}");
        let assignment = Assignment {
            rollout: "shop/1".parse().expect("a rollout"),
            revision,
            region: region.parse().expect("a region"),
            slot: Span::from_secs(1),
            looks: Vec::new(),
        };
        let body = to_msgpack("assignment", &assignment).expect("encoded");
        bus.kv(Bucket::Assignments).put(&format!("{region}.shop"), body).await.expect("stored");
    }
}

async fn hear(bus: Bus, heard: Heard) {
    let mut watch = bus.kv(Bucket::Presence).watch();
    loop {
        let entry = watch.next().await;
        let Some(value) = entry.value else { continue };
        let presence: Presence = from_msgpack("presence", &value).expect("a presence");
        let revision = presence.watching.values().map(|watching| watching.revision).max().unwrap_or(Revision(0));
        lock(&heard).insert(entry.key, (entry.at, revision));
    }
}

async fn count(bus: Bus, stored: Stored) {
    let mut reader = bus.read(Stream::Samples, Vec::new(), From::Start);
    loop {
        let tick: Tick = from_msgpack("tick", &reader.next().await.body).expect("a tick");
        let slots = tick.samples.iter().map(|sample| sample.slot);
        lock(&stored).entry(tick.agent.to_string()).or_default().extend(slots);
    }
}

fn all(stored: &Stored) -> u64 {
    lock(stored).values().map(|slots| slots.len() as u64).sum()
}

async fn until(wanted: usize, have: impl Fn() -> usize) {
    let until = Instant::now() + WITHIN;
    while have() < wanted {
        assert!(Instant::now() < until, "{} of {wanted} within {} s", have(), WITHIN.as_secs());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// In MB, as the kernel tells.
fn memory(pid: u32, what: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find(|line| line.starts_with(what)).expect("told");
    let kb = line.split_whitespace().nth(1).and_then(|kb| kb.parse::<u64>().ok()).expect("a number");
    kb / 1024
}

fn secs(since: Instant) -> String {
    format!("{:.1} s", since.elapsed().as_secs_f64())
}
