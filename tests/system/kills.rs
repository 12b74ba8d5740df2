//! A bad release is taken back although any process is killed with signal 9 at the worst moment.

use std::collections::BTreeSet;
use std::time::Instant;

use bellwether_bus::From;
use bellwether_protocol::id::LeverName;
use bellwether_protocol::reason::{Ending, Reason};
use bellwether_protocol::subject::{Bucket, Stream};

use crate::mesh::{LOOK_EVERY, Log, Mesh, WITHIN};
use crate::run;

/// The named points of a take-back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Point {
    AppendAndRelay,
    SetAndResult,
    ResultAndRecovered,
}

const COORDINATOR: &str = "coordinator-1";
const ROLLBACK: &str = "west.rollback.roll-1";
const APPEND_AND_RELAY: &str = "between append and relay";
const SET_AND_RESULT: &str = "between set and result: traffic to 0%";

impl Point {
    /// Where `victim` stalls, if it can be stopped exactly there.
    fn stall(self, victim: &str) -> &'static str {
        match (self, victim) {
            (Self::AppendAndRelay, COORDINATOR) => APPEND_AND_RELAY,
            (Self::SetAndResult, ROLLBACK) => SET_AND_RESULT,
            _ => "",
        }
    }

    /// Waits until the mesh as a whole is there.
    async fn reached(self, mesh: &Mesh, log: &mut Log) {
        if self == Self::ResultAndRecovered {
            log.until("the take-back applied", |reason| matches!(reason, Reason::Applied { .. })).await;
            return;
        }
        log.until("the take-back", |reason| matches!(reason, Reason::TakingBack { .. })).await;
        while self == Self::SetAndResult && mesh.lever("traffic") != "0%" {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

/// One bad release, during which `victim` is killed at `point` and started again.
async fn survives(mesh: &mut Mesh, release: u32, point: Point, victim: &str) {
    println!("v{release}: {victim}, {point:?}");
    let stall = point.stall(victim);
    let stalled = mesh.stalled(victim, stall);
    if !stall.is_empty() {
        mesh.kill_and_restart(victim, stall);
    }
    let mut log = mesh.log_from_now().await;
    // An agent that has just begun has not read its levers back: asked again, as a person would.
    let until = Instant::now() + WITHIN;
    while let Some(why) = mesh.start_rollout(&format!("v{release}")).await.refused {
        assert!(why.contains("lever") && Instant::now() < until, "{why}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
    if stall.is_empty() {
        point.reached(mesh, &mut log).await;
    } else {
        mesh.until(&format!("{victim} stalled"), || (mesh.stalled(victim, stall) > stalled).then_some(())).await;
    }
    mesh.kill_and_restart(victim, "");
    assert_eq!(log.until_ended().await, Ending::RolledBack, "v{release}");
    for (lever, expected) in [("traffic", "0%"), ("release", "v41"), ("stable", "v41")] {
        assert_eq!(mesh.lever(lever), expected, "{lever} after v{release}");
    }
    let flag: LeverName = "new_checkout".parse().expect("a lever");
    let status = mesh.status().await.expect("a status");
    let read = status.levers.into_iter().find(|lever| lever.lever == flag).and_then(|lever| lever.value);
    assert_eq!(read.map(|value| value.to_string()).as_deref(), Some("off"), "v{release}");
    let replayed = mesh.run(&["rollout", "replay", "shop"]);
    assert_eq!(replayed.status.code(), Some(0), "{}", String::from_utf8_lossy(&replayed.stderr));
}

fn survives_all(point: Point) {
    run(async {
        let mut mesh = Mesh::start(&[COORDINATOR]).await;
        let acting = mesh.bus.kv(Bucket::Claims).get("shop.new_checkout").await.expect("read").expect("claimed");
        let acting = String::from_utf8(acting.value.expect("a holder")).expect("a name");
        let victims =
            [COORDINATOR, ROLLBACK, "west.probe.probe-1", acting.as_str(), "west.alert.alert-1", "nats-server"];
        for (release, victim) in (43..).zip(victims) {
            survives(&mut mesh, release, point, victim).await;
        }
        every_incident_was_told(&mesh, victims.len()).await;
    });
}

/// Each rollout's incident is opened and resolved on the bus, and told on some console. A relay that
/// was cut off by the server's death comes a few seconds after the end of the rollout.
async fn every_incident_was_told(mesh: &Mesh, incidents: usize) {
    let mut alerts = mesh.bus.read(Stream::Alerts, vec!["bw.alert.>".to_owned()], From::Start);
    let mut said: BTreeSet<String> = BTreeSet::new();
    let count = |said: &BTreeSet<String>, word: &str| said.iter().filter(|line| line.ends_with(word)).count();
    while count(&said, "resolved") < incidents {
        let Ok(message) = tokio::time::timeout(WITHIN, alerts.next()).await else { panic!("only {said:?}") };
        let alert: serde_json::Value = serde_json::from_slice(&message.body).expect("JSON");
        let word = alert["type"].as_str().and_then(|kind| kind.strip_prefix("incident.")).expect("a type");
        said.insert(format!("{} {word}", alert["incident"].as_str().expect("an incident")));
    }
    assert!(count(&said, "opened") >= incidents, "{said:?}");
    for line in said.iter().filter(|line| !line.ends_with("updated")) {
        let is_told = || ["east", "west"].iter().any(|at| mesh.log(&format!("{at}.alert.alert-1")).contains(line));
        mesh.until(&format!("`{line}` on a console"), || is_told().then_some(())).await;
    }
}

#[test]
fn a_bad_release_is_taken_back_though_killed_between_append_and_relay() {
    survives_all(Point::AppendAndRelay);
}

#[test]
fn a_bad_release_is_taken_back_though_killed_between_set_and_result() {
    survives_all(Point::SetAndResult);
}

#[test]
fn a_bad_release_is_taken_back_though_killed_between_result_and_recovered() {
    survives_all(Point::ResultAndRecovered);
}
