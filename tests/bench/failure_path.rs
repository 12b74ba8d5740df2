//! How long a hard failure takes from the first bad answer to traffic off, hop by hop, beside what
//! the bus itself takes in the same run. Prints a table; it asserts nothing about time.
//!
//! One process holds coordinator and agents; the server and the levers' commands are real processes.
//! `RUNS=n` sets how many releases are taken back (default 10).

#![expect(clippy::expect_used, clippy::print_stdout, reason = "a bench says what is wrong by panicking")]

mod server;

use std::path::Path;
use std::time::{Duration, Instant};

use bellwether_bus::testing::{connect_options, write};
use bellwether_bus::{Bus, From};
use bellwether_protocol::action::{Action, ActionResult};
use bellwether_protocol::alert::Severity;
use bellwether_protocol::codec;
use bellwether_protocol::command::{CommandBody, Verb};
use bellwether_protocol::reason::{Ending, Reason};
use bellwether_protocol::record::{Input, Record};
use bellwether_protocol::sample::Tick;
use bellwether_protocol::subject::Stream;
use bellwether_protocol::time::Timestamp;
use bellwether_site::{Site, SiteArgs};

const PROGRAM: &str = env!("CARGO_BIN_EXE_bellwether");
/// One rollout that takes longer than this hangs.
const RUN_WITHIN: Duration = Duration::from_secs(60);
/// How many messages measure the bus.
const FLOOR_RUNS: usize = 200;

/// When each hop of one failure happened, by NATS's clock.
#[derive(Debug, Default, Clone, Copy)]
struct Hops {
    bad: Option<Timestamp>,
    sample: Option<Timestamp>,
    decision: Option<Timestamp>,
    action: Option<Timestamp>,
    off: Option<Timestamp>,
}

fn main() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(bench());
}

async fn bench() {
    let runs: usize = std::env::var("RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(10);
    let dir = tempfile::tempdir().expect("a directory");
    let server = server::start(dir.path(), PROGRAM).await;
    let url = server.url().to_owned();
    let site = start_site(runs).await;
    let bus = Bus::connect(&connect_options(&url)).await.expect("connected");
    bus.provision().await.expect("provisioned");
    start_mesh(dir.path(), &url, &site).await;
    let plan = include_str!("plan.yaml").replace("@SITE@", &site.addresses().environments["west"]);
    let mut hops = Vec::new();
    for run in 0..runs {
        hops.push(take_back(&bus, &plan, &format!("v{}", 100 + run)).await);
    }
    print_table(&hops, &floor(&bus).await);
    drop(site);
    tokio::task::spawn_blocking(move || server.stop()).await.expect("joined").expect("stopped");
}

async fn start_site(runs: usize) -> Site {
    let fault = |run| format!("release=v{},env=west,path=/checkout,errors=20%", 100 + run).parse().expect("a fault");
    let args = SiteArgs {
        listen: "127.0.0.1:0".parse().expect("an address"),
        envs: vec!["west".to_owned()],
        stable: "v41".parse().expect("a release"),
        ports_file: None,
        flags: Vec::new(),
        faults: (0..runs).map(fault).collect(),
        lag: "50ms".parse().expect("a span"),
    };
    Site::start(&args).await.expect("a site")
}

async fn start_mesh(dir: &Path, url: &str, site: &Site) {
    let options = bellwether_coordinator::Options {
        connect: connect_options(url),
        id: None,
        dir: dir.join("coordinator"),
        monitor: None,
    };
    tokio::spawn(async move {
        bellwether_coordinator::run(options, std::future::pending()).await.expect("the coordinator runs")
    });
    let head = |role: &str| {
        let state = dir.join(role);
        format!("agent: {{ region: west, name: {role}-1, state_dir: {state:?}, nats: {{ url: {url:?} }} }}\n")
    };
    let west = site.addresses().environments["west"].trim_start_matches("http://");
    let text = format!("{}probe: {{ allow: [{west:?}], every_min: 10ms }}\n", head("probe"));
    let probe = write(dir, "probe.yaml", &text);
    tokio::spawn(async move { bellwether_probe::run(&probe).await.expect("the probe runs") });
    let tool = |verb: &str, lever: &str, value: &str| {
        let admin = &site.addresses().admin;
        format!("[{PROGRAM:?}, site-lever, --admin, {admin:?}, {verb}, {lever}{value}]")
    };
    let lever = |name: &str| {
        let (set, read) = (tool("set", name, ", \"{value}\""), tool("read", name, ""));
        format!("    - {{ name: {name}, exec: {{ set: {set}, read_back: {read} }} }}\n")
    };
    let levers = format!("rollback:\n  service: bench\n  levers:\n{}{}", lever("traffic"), lever("release"));
    let rollback = write(dir, "rollback.yaml", &format!("{}{levers}", head("rollback")));
    tokio::spawn(async move { bellwether_rollback::run(&rollback).await.expect("the rollback agent runs") });
}

/// Starts a bad release again until it is let in, and follows it until it is back.
async fn take_back(bus: &Bus, plan: &str, release: &str) -> Hops {
    let began = Instant::now();
    let from = |stream| async move { bus.state(stream).await.expect("a stream").last + 1 };
    let mut decisions = bus.read(Stream::Decisions, Vec::new(), From::Sequence(from(Stream::Decisions).await));
    let mut samples = bus.read(Stream::Samples, Vec::new(), From::Sequence(from(Stream::Samples).await));
    let mut actions = bus.read(Stream::Actions, Vec::new(), From::Sequence(from(Stream::Actions).await));
    let mut results = bus.read(Stream::Inbox, Vec::new(), From::Sequence(from(Stream::Inbox).await));
    start(bus, plan, release).await;
    let mut hops = Hops::default();
    let mut bad_ticks: Vec<(Timestamp, Timestamp)> = Vec::new();
    loop {
        assert!(began.elapsed() < RUN_WITHIN, "{release} hangs: {hops:?}");
        tokio::select! {
            message = decisions.next() => {
                let record: Record = codec::from_json("record", &message.body).expect("a record");
                for reason in &record.reasons {
                    match reason {
                        Reason::TakingBack { .. } => {
                            hops.decision = Some(message.at);
                            hops.bad = first_bad(&record);
                        }
                        Reason::CommandRefused { why, .. } => {
                            println!("waiting: {why}");
                            tokio::time::sleep(Duration::from_secs(1)).await;
                            start(bus, plan, release).await;
                        }
                        Reason::Ended { ending, .. } => {
                            assert_eq!(*ending, Ending::RolledBack, "{release}");
                            // Bad answers of a slot that straddles the entry are no evidence: the path
                            // begins with the first one that the decision rests on.
                            hops.sample = bad_ticks.iter().find(|(bad, _)| Some(*bad) == hops.bad).map(|(_, at)| *at);
                            return hops;
                        }
                        _ => {}
                    }
                }
            }
            message = samples.next() => {
                let tick: Option<Tick> = codec::from_msgpack("tick", &message.body).ok();
                let first = tick.and_then(|t| t.samples.iter().flat_map(|s| &s.evidence).map(|e| e.at).min());
                bad_ticks.extend(first.map(|first| (first, message.at)));
            }
            message = actions.next() => {
                let action: Action = codec::from_json("action", &message.body).expect("an action");
                if action.to.as_str() == "0%" {
                    hops.action = Some(message.at);
                }
            }
            message = results.next() => {
                let result: Option<ActionResult> = codec::from_json("result", &message.body).ok();
                if let Some(result) = result.filter(|r| r.targets.iter().any(|t| t.value.as_ref().is_some_and(|v| v.as_str() == "0%"))) {
                    hops.off = Some(result.at);
                }
            }
        }
    }
}

async fn start(bus: &Bus, plan: &str, release: &str) {
    let body = CommandBody {
        plan: Some(plan.to_owned()),
        release: Some(release.parse().expect("a release")),
        ..CommandBody::default()
    };
    let (service, principal) = ("bench".parse().expect("a service"), "bench".parse().expect("a principal"));
    let subject = bus.prefix().command(&service, Verb::Start, &principal);
    let body = codec::to_json("command", &body).expect("encoded");
    bus.publish(subject, &uuid::Uuid::now_v7().to_string(), body).await.expect("stored");
}

fn first_bad(record: &Record) -> Option<Timestamp> {
    let slots = record.inputs.iter().filter_map(|input| match input {
        Input::Closed(slot) => Some(slot),
        _ => None,
    });
    slots.flat_map(|slot| &slot.evidence).map(|evidence| evidence.at).min()
}

/// One acked publish, and its hop to a reader: what no path over this bus can beat.
async fn floor(bus: &Bus) -> [Vec<f64>; 2] {
    let subject = bus.prefix().alert(Severity::Info, &"floor".parse().expect("a service"));
    let mut reader = bus.read(Stream::Alerts, vec![subject.clone()], From::New);
    tokio::time::sleep(Duration::from_millis(500)).await;
    let (mut acked, mut heard) = (Vec::new(), Vec::new());
    for index in 0..FLOOR_RUNS {
        let began = Instant::now();
        bus.publish(subject.clone(), &format!("floor-{index}"), b"{}".to_vec()).await.expect("stored");
        acked.push(began.elapsed().as_secs_f64() * 1e3);
        reader.next().await;
        heard.push(began.elapsed().as_secs_f64() * 1e3);
    }
    [acked, heard]
}

fn print_table(hops: &[Hops], floor: &[Vec<f64>; 2]) {
    let between = |from: fn(&Hops) -> Option<Timestamp>, to: fn(&Hops) -> Option<Timestamp>| -> Vec<f64> {
        let pairs = hops.iter().filter_map(|hop| Some((from(hop)?, to(hop)?)));
        pairs.map(|(from, to)| f64::from(i32::try_from(to.as_ms() - from.as_ms()).unwrap_or(i32::MAX))).collect()
    };
    println!("\n{} releases taken back; slot 1s, grace 1s, looks every 50ms, platform lag 50ms\n", hops.len());
    println!("{:<44} {:>9} {:>9} {:>4}", "hop", "p50 ms", "p99 ms", "n");
    row("first bad answer -> sample stored", &between(|h| h.bad, |h| h.sample));
    row("sample stored -> decision stored", &between(|h| h.sample, |h| h.decision));
    row("decision stored -> action stored", &between(|h| h.decision, |h| h.action));
    row("action stored -> traffic read back off", &between(|h| h.action, |h| h.off));
    row("first bad answer -> traffic read back off", &between(|h| h.bad, |h| h.off));
    row("floor: acked publish", &floor[0]);
    row("floor: acked publish and hop to a reader", &floor[1]);
}

fn row(name: &str, times: &[f64]) {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |percent: usize| sorted.get((sorted.len() * percent / 100).min(sorted.len().saturating_sub(1)));
    let show = |value: Option<&f64>| value.map_or_else(|| "no data".to_owned(), |value| format!("{value:.1}"));
    println!("{name:<44} {:>9} {:>9} {:>4}", show(at(50)), show(at(99)), sorted.len());
}
