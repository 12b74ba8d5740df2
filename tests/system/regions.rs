//! Two regions, each behind a leaf node, and one hub: the hub is cut off, killed, far away, or one region is.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bellwether_bus::From;
use bellwether_bus::testing::Fault;
use bellwether_protocol::codec;
use bellwether_protocol::id::{AgentId, Role};
use bellwether_protocol::reason::{Ending, Hold, Reason};
use bellwether_protocol::record::{Input, Record, Series};
use bellwether_protocol::sample::Tick;
use bellwether_protocol::status::State;
use bellwether_protocol::subject::Stream;
use bellwether_protocol::time::{Span, Timestamp};

use crate::mesh::{BAD, LOOK_EVERY, Log, Mesh, WITHIN, kill_9};
use crate::run;

const REGIONS: [&str; 2] = ["east", "west"];
/// What a process says that came up while nobody answers.
const WAITS: &str = "waits until the mesh answers";
/// Where every lever of a release that was taken back stands.
const BACK: [(&str, &str); 3] = [("traffic", "0%"), ("release", "v41"), ("stable", "v41")];

fn set(mesh: &Mesh, regions: &[&str], fault: Fault) {
    regions.iter().for_each(|region| mesh.leaves[*region].1.set(fault));
}

/// Seconds, from the environment for a longer run by hand.
fn cut_for() -> Duration {
    let given = std::env::var("BELLWETHER_CUT_S").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(given.unwrap_or(36))
}

pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock");
    Timestamp::from_ms(i64::try_from(since.as_millis()).expect("a time"))
}

/// Starts it, again where a lever was not read back yet, as a person would.
pub(crate) async fn start(mesh: &Mesh, release: &str, overrides: &[&str]) {
    let until = Instant::now() + WITHIN;
    while let Some(why) = mesh.start_changed(release, overrides).await.refused {
        assert!(why.contains("lever") && Instant::now() < until, "{why}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Waits until the canary has soaked for some slots.
async fn soaking(mesh: &Mesh) {
    loop {
        if let Some(status) = mesh.status().await
            && status.state == State::Soaking
            && status.stages[0].soaked >= Span::from_secs(3)
        {
            return;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// How often any agent has moved a lever.
fn moves(mesh: &Mesh) -> usize {
    let acting = ["west.rollback.roll-1", "east.flag.flag-1", "west.flag.flag-1"];
    acting.iter().map(|name| mesh.log(name).matches(" setting").count()).sum()
}

fn list(mesh: &Mesh) -> Option<String> {
    String::from_utf8(mesh.run(&["agents", "list"]).stdout).ok()
}

/// What a region's endpoint says of the new checkout.
async fn flag(mesh: &Mesh, region: &str) -> serde_json::Value {
    let address = std::fs::read_to_string(mesh.path(&format!("{region}-flags.address"))).expect("an address");
    let url = format!("{}/ofrep/v1/evaluate/flags/new_checkout", address.trim());
    let answer = bellwether_runtime::http()
        .expect("a client")
        .post(url)
        .body(r#"{"context":{"targetingKey":"one"}}"#)
        .send()
        .await
        .expect("answered");
    answer.json().await.expect("JSON")
}

/// Bytes in the spools of all agents that look.
fn spooled(mesh: &Mesh) -> u64 {
    let files = REGIONS.iter().flat_map(|region| {
        let dir = mesh.dir.path().join(format!("state-{region}.probe.probe-1")).join("spool");
        std::fs::read_dir(dir).expect("a spool").map(|entry| entry.expect("a file"))
    });
    let segments = files.filter(|file| file.path().extension().is_some_and(|extension| extension == "spool"));
    segments.map(|file| file.metadata().expect("its length").len()).sum()
}

/// Every tick that the samples stream holds: by agent and number, when it was stored, its latest slot.
async fn ticks(mesh: &Mesh) -> BTreeMap<AgentId, BTreeMap<u64, (Timestamp, Timestamp)>> {
    let last = mesh.bus.state(Stream::Samples).await.expect("samples").last;
    let mut reader = mesh.bus.read(Stream::Samples, Vec::new(), From::Start);
    let mut found: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
    loop {
        let message = reader.next().await;
        let tick: Tick = codec::from_msgpack("tick", &message.body).expect("a tick");
        if tick.agent.role != Role::Coordinator {
            let slot = tick.samples.iter().map(|sample| sample.slot).max().expect("a sample");
            found.entry(tick.agent).or_default().insert(tick.seq, (message.at, slot));
        }
        if message.seq >= last {
            return found;
        }
    }
}

/// Nothing that an agent saw is missing from the stream.
async fn nothing_is_lost(mesh: &Mesh) -> BTreeMap<AgentId, BTreeMap<u64, (Timestamp, Timestamp)>> {
    let ticks = ticks(mesh).await;
    assert_eq!(ticks.len(), REGIONS.len());
    for (agent, numbers) in &ticks {
        let (first, last) = (numbers.keys().min().expect("some"), numbers.keys().max().expect("some"));
        assert_eq!(numbers.len() as u64, last - first + 1, "{agent} has gaps");
    }
    let replayed = mesh.run(&["rollout", "replay", "shop"]);
    assert_eq!(replayed.status.code(), Some(0), "{}", String::from_utf8_lossy(&replayed.stderr));
    ticks
}

/// What the canary's slots came to.
#[derive(Debug, Default)]
struct Soak {
    covered: BTreeMap<Series, BTreeSet<Timestamp>>,
    uncovered: BTreeMap<Series, BTreeSet<Timestamp>>,
    late: BTreeSet<(Series, Timestamp)>,
}

fn soak(records: &[Record]) -> Soak {
    let passed = |record: &Record| record.reasons.iter().any(|reason| matches!(reason, Reason::StagePassed { .. }));
    let until = records.iter().position(passed).expect("the canary was left");
    let looking = records.iter().flat_map(|record| &record.reasons).find_map(|reason| match reason {
        Reason::Looking { from, .. } => Some(*from),
        _ => None,
    });
    let mut soak = Soak::default();
    for input in records[..=until].iter().flat_map(|record| &record.inputs) {
        match input {
            // A slot that began before the entry was read back counts for nothing.
            Input::Closed(slot) if Some(slot.slot) >= looking => {
                let side = if slot.reporters > 0 { &mut soak.covered } else { &mut soak.uncovered };
                side.entry(slot.series.clone()).or_default().insert(slot.slot);
            }
            Input::Late(slot) => drop(soak.late.insert((slot.series.clone(), slot.slot))),
            _ => {}
        }
    }
    soak
}

async fn is_taken_back(mesh: &Mesh, log: &mut Log) {
    assert_eq!(log.until_ended().await, Ending::RolledBack);
    for (lever, expected) in BACK {
        assert_eq!(mesh.lever(lever), expected, "{lever}");
    }
}

#[test]
fn a_cut_from_the_hub_costs_a_rollout_exactly_what_was_not_seen() {
    // Its own turn: it waits most of the time, for half a minute of silence to be paged.
    tokio::runtime::Runtime::new().expect("a runtime").block_on(async {
        let mesh = Mesh::start_with_leaves(&["coordinator-1"]).await;
        let mut log = mesh.log_from_now().await;
        start(&mesh, "v42", &["stages.canary.soak=12s"]).await;
        soaking(&mesh).await;
        let (moved, bytes, cut_at) = (moves(&mesh), spooled(&mesh), now());
        set(&mesh, &REGIONS, Fault::Cut);
        tokio::time::sleep(cut_for()).await;
        for region in REGIONS {
            let said = mesh.log(&format!("{region}.alert.alert-1"));
            assert!(said.contains("[page]") && said.contains(&format!("{region} is cut off")), "{said}");
        }
        let status = mesh.status().await.expect("a status");
        for region in REGIONS {
            let is_silent = |hold: &Hold| matches!(hold, Hold::NoData { region: own, .. } if own.as_str() == region);
            assert!(status.holds.iter().any(is_silent), "{:?}", status.holds);
        }
        assert_eq!((moves(&mesh), mesh.lever("traffic")), (moved, "10%".to_owned()), "a lever moved");
        let (spool, restored_at) = (spooled(&mesh) - bytes, now());
        set(&mesh, &REGIONS, Fault::None);
        assert_eq!(log.until_ended().await, Ending::Completed);

        let soak = soak(&log.seen);
        let least = soak.covered.values().map(BTreeSet::len).min();
        assert_eq!((least, soak.covered.len()), (Some(12), 4), "{soak:#?}");
        let longest = soak.uncovered.values().map(BTreeSet::len).max().unwrap_or(0);
        assert!(longest as u64 >= cut_for().as_secs() - 2, "only {longest} slots were not covered");
        let all = nothing_is_lost(&mesh).await;
        let backlog = all.values().flat_map(BTreeMap::values).filter(|(_, slot)| *slot < restored_at);
        let (backfilled, caught_up_at) =
            backlog.filter(|(at, _)| *at >= restored_at).fold((0, restored_at), |(n, last), (at, _)| (n + 1, last.max(*at)));
        println!(
            "cut {}, spooled {spool} bytes in {backfilled} ticks, not covered {longest} slots, soak 12 + {longest} slots, \
             late slots {}, caught up in {} ms",
            restored_at.since(cut_at),
            soak.late.len(),
            caught_up_at.since(restored_at).as_ms(),
        );
    });
}

#[test]
fn a_killed_hub_loses_nothing_of_a_rollout() {
    run(async {
        let mut mesh = Mesh::start_with_leaves(&["coordinator-1"]).await;
        let mut log = mesh.log_from_now().await;
        start(&mesh, "v42", &["stages.canary.soak=8s"]).await;
        soaking(&mesh).await;
        // A coordinator that comes up meanwhile waits for it.
        mesh.end_server();
        mesh.kill_and_restart("coordinator-1", "");
        mesh.until("it waits", || mesh.log("coordinator-1").contains(WAITS).then_some(())).await;
        mesh.restart_server();
        assert_eq!(log.until_ended().await, Ending::Completed);
        start(&mesh, BAD, &[]).await;
        log.until("the take-back", |reason| matches!(reason, Reason::TakingBack { .. })).await;
        mesh.kill_and_restart("nats-server", "");
        assert_eq!(log.until_ended().await, Ending::RolledBack);
        nothing_is_lost(&mesh).await;
    });
}

#[test]
fn a_far_hub_loses_no_decision() {
    run(async {
        let mesh = Mesh::start_with_leaves(&["coordinator-1"]).await;
        set(&mesh, &REGIONS, Fault::Slow { delay: Duration::from_millis(500), bytes_per_s: 20_000 });
        let mut log = mesh.log_from_now().await;
        start(&mesh, BAD, &[]).await;
        is_taken_back(&mesh, &mut log).await;
        nothing_is_lost(&mesh).await;
    });
}

#[test]
fn one_region_that_is_cut_off_holds_the_gate_alone() {
    run(async {
        let mut mesh = Mesh::start_with_leaves(&["coordinator-1"]).await;
        let mut log = mesh.log_from_now().await;
        start(&mesh, "v42", &["stages.canary.soak=8s"]).await;
        soaking(&mesh).await;
        set(&mesh, &["east"], Fault::Cut);
        let held =
            log.until("the gate held", |reason| matches!(reason, Reason::Held { hold: Hold::NoData { .. } })).await;
        assert!(
            matches!(&held, Reason::Held { hold: Hold::NoData { region, .. } } if region.as_str() == "east"),
            "{held:?}"
        );
        // West goes on, past its own soak, and nothing is promoted.
        let status = loop {
            let status = mesh.status().await.expect("a status");
            if status.regions.iter().any(|one| one.region.as_str() == "west" && one.covered >= 12) {
                break status;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        };
        assert_eq!(status.state, State::Soaking);
        let shown = mesh.run(&["rollout", "status", "shop"]);
        let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
        assert!(shown.lines().any(|line| line.starts_with("east") && line.contains("silent")), "{shown}");
        let listed = mesh.until("the silent", || list(&mesh).filter(|listed| listed.contains("3 silent"))).await;
        for (agent, is_silent) in [("east/probe-1", true), ("east/flag-1", true), ("west/probe-1", false)] {
            let row = listed.lines().find(|line| line.starts_with(agent));
            assert!(row.is_some_and(|row| row.contains("silent") == is_silent), "{agent}: {listed}");
        }
        // Their machine comes up meanwhile: they wait, and flags are served as they last were.
        for agent in ["east.alert.alert-1", "east.flag.flag-1"] {
            mesh.kill_and_restart(agent, "");
            mesh.until("it waits", || mesh.log(agent).contains(WAITS).then_some(())).await;
        }
        let served = flag(&mesh, "east").await;
        assert_eq!((&served["value"], &served["metadata"]["stale"]), (&true.into(), &true.into()), "{served}");
        set(&mesh, &["east"], Fault::None);
        // A leaf that dies takes its agents' connections with it; they come back to it.
        let leaf = &mesh.leaves["west"].0;
        kill_9(leaf.pid());
        leaf.restart().expect("restarted");
        assert_eq!(log.until_ended().await, Ending::Completed);
        nothing_is_lost(&mesh).await;
    });
}
