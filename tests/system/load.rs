//! Users who keep coming: a load agent's steady arrivals are the only evidence. Not one fails while a good
//! release comes out, a bad one is taken back for it, and nobody is loaded whom no coordinator watches.

use std::collections::BTreeMap;
use std::io::{Read, Write};

use bellwether_bus::From;
use bellwether_protocol::codec;
use bellwether_protocol::reason::{Cause, Ending, Reason};
use bellwether_protocol::sample::{Cohort, Control, Sample, Tick, class};
use bellwether_protocol::subject::Stream;
use bellwether_protocol::time::{Span, Timestamp};

use crate::mesh::{BAD, LOOK_EVERY, Mesh};
use crate::mistakes::{check, program};
use crate::regions::{now, start};
use crate::run;
use crate::telemetry::get;

const COORDINATOR: &str = "coordinator-1";
const LOAD: &str = "west.load.load-1";
/// Arrivals in one slot of a second, of each cohort.
const RATE: u64 = 20;
/// How long a load goes on that no coordinator watches: ten seconds, and a moment until that is noticed.
const SILENCE_MAX: Span = Span::from_secs(11);
const PLAN: &str = r#"
service: shop
slot: 1s
grace: 1s
regions: { west: "@WEST@" }
cohorts:
  canary: { headers: { x-cohort: canary } }
  baseline: { headers: { x-cohort: baseline } }
fingerprint: { header: x-release }
levers: { traffic: {}, release: { holds_release: true } }
slis: [{ name: users, timeout: 900ms, load: { path: /checkout, rate: 20/s, connections: 10, lag_max: 1m } }]
criteria: [{ name: zero_downtime, sli: users, must: no errors, hard: true, min_events: 40 }]
stages:
  - { name: canary, enter: [{ set: release, to: "{release}" }, { set: traffic, to: 10% }], soak: 3s }
take_back:
  within: 30
  levels: [{ set: [{ set: traffic, to: 0% }, { set: release, to: "{previous}" }], apply_within: 60s }]
"#;

#[test]
fn steady_users_are_evidence_enough() {
    run(async {
        let mut mesh = Mesh::bare(&[COORDINATOR]).await;
        mesh.start_site().await;
        mesh.plan = PLAN.replace("@WEST@", &mesh.site.environments["west"]);
        mesh.add_agent("west.rollback.roll-1");
        // What answers while this agent is well: another environment.
        let (site, control) = (host(&mesh, "west"), host(&mesh, "east"));
        let load = format!(
            "{{ allow: [\"{site}\"], control: \"http://{control}/health\", rate_max: 50/s, connections_max: 20, duration_max: 1h }}"
        );
        mesh.add_agent_with(LOAD, &format!("load: {load}\n"));
        mesh.until_ready().await;
        a_plan_cannot_widen_a_cap(&mesh).await;
        what_an_invited_agent_is_given_is_sound(&mesh);

        let mut log = mesh.log_from_now().await;
        start(&mesh, BAD, &[]).await;
        let is_for_users =
            |reason: &Reason| matches!(reason, Reason::TakingBack { cause: Cause::Criterion { .. }, .. });
        log.until("the take-back", is_for_users).await;
        assert_eq!(log.until_ended().await, Ending::RolledBack);
        assert_eq!((mesh.lever("traffic"), mesh.lever("release")), ("0%".to_owned(), "v41".to_owned()));

        let before = served(&mesh).await;
        start(&mesh, "v42", &[]).await;
        log.until("users are there", |reason| matches!(reason, Reason::Looking { .. })).await;
        nobody_comes_when_nobody_watches(&mut mesh).await;
        mesh.spawn(COORDINATOR, "");
        assert_eq!(log.until_ended().await, Ending::Completed);
        everyone_is_accounted_for(&mesh, before).await;
    });
}

/// Both cohorts together are over what the agent's file allows: nothing begins, and both numbers are told.
async fn a_plan_cannot_widen_a_cap(mesh: &Mesh) {
    let cap = "over this agent's `load.rate_max` of 50/s";
    let plan = mesh.path("too-much.yaml");
    std::fs::write(&plan, mesh.plan.replace("rate: 20/s", "rate: 30/s")).expect("written");
    let start = || {
        let ran = mesh.run(&["rollout", "start", &plan, "--release", "v42", "--wait", "--plain"]);
        // An agent that has just begun has not read its levers back.
        (!String::from_utf8_lossy(&ran.stdout).contains("no live agent")).then_some(ran)
    };
    let ran = mesh.until("a start", start).await;
    let words = [LOAD, "refused its assignment", "60 requests/s are", cap, "nothing was moved"];
    check(&ran, 2, &words);
    let url = format!("http://{}/checkout", host(mesh, "west"));
    let file = mesh.path(&format!("{LOAD}.yaml"));
    check(&program(&["load", "run", &url, "--rate", "60/s", "--config", &file]), 2, &["60 requests/s are", cap]);
    assert_eq!(served(mesh).await, 0, "somebody came");
}

/// The file that `agents join` writes is read: what it lacks is a target, which nobody can guess.
fn what_an_invited_agent_is_given_is_sound(mesh: &Mesh) {
    let invited = mesh.run(&["agents", "invite", "--role", "load", "--region", "west", "--json"]);
    let invited: serde_json::Value = serde_json::from_slice(&invited.stdout).expect("JSON");
    let dir = mesh.path("joined");
    let joined = mesh.run(&["agents", "join", invited["token"].as_str().expect("a token"), "--dir", &dir]);
    check(&joined, 0, &[]);
    let args = ["load", "run", "http://127.0.0.1:1/", "--rate", "60/s", "--config", &format!("{dir}/load.yaml")];
    check(&program(&args), 2, &["127.0.0.1 is not in this agent's `allow`; list it"]);
}

/// Every user waits, some to no end; it is the target's doing, and is told as that.
#[test]
fn a_target_that_stalls_is_told_as_slow() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}/", listener.local_addr().expect("an address"));
    let load = |seconds: &str, more: &[&str]| {
        let args = ["load", "run", &url, "--rate", "20/s", "--duration", seconds, "--lag-max", "1m", "--plain"];
        program(&[&args, more].concat())
    };
    // Nobody accepts yet: the system takes connections up, and nothing comes back.
    let words = ["sent 20 of 20 planned   failed 20 (100.0%)", "failed as   timeout 20", "BROKEN errors < 1%: 100.0%"];
    check(&load("1s", &["--timeout", "3s", "--threshold", "errors < 1%"]), 1, &words);

    std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_secs(1));
        while let Ok((mut stream, _)) = listener.accept() {
            std::thread::spawn(move || {
                while let Ok(1..) = stream.read(&mut [0; 4096]) {
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
                }
            });
        }
    });
    let words = ["sent 40 of 40 planned   failed 0 ", "BROKEN p99 < 500ms: "];
    check(&load("2s", &["--threshold", "p99 < 500ms", "--threshold", "errors < 1%"]), 1, &words);
}

/// The load goes on without a coordinator for ten seconds, and no longer.
async fn nobody_comes_when_nobody_watches(mesh: &mut Mesh) {
    mesh.kill(COORDINATOR);
    let killed_at = now();
    let said = "no coordinator was heard for 10s";
    mesh.until("the end of the load", || mesh.log(LOAD).contains(said).then_some(())).await;
    let before = served(mesh).await;
    tokio::time::sleep(LOOK_EVERY * 10).await;
    assert_eq!(served(mesh).await, before, "users still come");
    let last = samples(mesh).await.into_iter().map(|(slot, _)| slot).max().expect("slots");
    assert!(last > killed_at && last < killed_at + SILENCE_MAX, "killed at {killed_at}, the last slot is {last}");
}

/// Every arrival was intended in its slot, and either sent or shed; all that were sent were answered, well.
async fn everyone_is_accounted_for(mesh: &Mesh, before: u64) {
    let mut told: BTreeMap<Cohort, BTreeMap<Timestamp, u64>> = BTreeMap::new();
    let mut sent = 0;
    for (slot, sample) in samples(mesh).await.into_iter().filter(|(_, sample)| sample.rollout.number == 3) {
        assert_eq!(sample.control, Control::Well, "{sample:?}");
        let classes = sample.portions.iter().flat_map(|portion| &portion.classes);
        for (own, count) in classes {
            assert_eq!(own.as_str(), class::OK, "{sample:?}");
            sent += count;
            *told.entry(sample.cohort).or_default().entry(slot).or_default() += count;
        }
    }
    assert_eq!(told.len(), 2, "{told:?}");
    // A load begins and ends within a slot; the clock that names slots is corrected by some milliseconds.
    let whole = told.values().map(|slots| slots.values().filter(|n| n.abs_diff(RATE) <= 1).count());
    let all: usize = told.values().map(BTreeMap::len).sum();
    assert!(whole.clone().sum::<usize>() + 8 >= all && whole.min() >= Some(4), "{told:#?}");
    let served = served(mesh).await - before;
    // What was on its way when a load ended is told nowhere.
    assert!((sent..=sent + 8 * RATE).contains(&served), "{sent} told, {served} served: {told:#?}");
}

/// Every sample with anything in it, by slot.
async fn samples(mesh: &Mesh) -> Vec<(Timestamp, Sample)> {
    let last = mesh.bus.state(Stream::Samples).await.expect("samples").last;
    let mut reader = mesh.bus.read(Stream::Samples, Vec::new(), From::Start);
    let (mut found, mut seq) = (Vec::new(), 0);
    while seq < last {
        let message = reader.next().await;
        seq = message.seq;
        let tick: Tick = codec::from_msgpack("tick", &message.body).expect("a tick");
        let samples = tick.samples.into_iter().filter(|sample| sample.portions.iter().any(|p| p.n() > 0));
        found.extend(samples.map(|sample| (sample.slot, sample)));
    }
    found
}

fn host(mesh: &Mesh, env: &str) -> String {
    mesh.site.environments[env].trim_start_matches("http://").to_owned()
}

/// How many checkouts the site has answered, by its own count.
async fn served(mesh: &Mesh) -> u64 {
    let (_, metrics) = get(&host(mesh, "west"), "/metrics").await;
    let checkouts = metrics.lines().filter(|line| line.contains("path=\"/checkout\""));
    checkouts.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}
