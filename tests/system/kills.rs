//! A bad release is taken back although any process is killed with signal 9 at the worst moment.

use bellwether_protocol::id::AgentId;
use bellwether_protocol::reason::{Ending, Reason};
use bellwether_protocol::subject::{Bucket, Stream};

use crate::mesh::{Mesh, TURN};

/// The named points of a take-back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Point {
    AppendAndRelay,
    SetAndResult,
    ResultAndRecovered,
}

impl Point {
    /// Its name for processes that stall there.
    fn name(self) -> &'static str {
        match self {
            Self::AppendAndRelay => "between append and relay",
            Self::SetAndResult => "between set and result",
            Self::ResultAndRecovered => "between result and recovered",
        }
    }

    /// Waits until the mesh as a whole is there.
    async fn reached(self, mesh: &Mesh, skip: usize) {
        match self {
            Self::AppendAndRelay => {
                mesh.until_reason(skip, "taking back", |reason| matches!(reason, Reason::TakingBack { .. })).await;
            }
            Self::SetAndResult => {
                mesh.until_reason(skip, "taking back", |reason| matches!(reason, Reason::TakingBack { .. })).await;
                while mesh.lever("traffic").await.as_deref() != Some("0%") {}
            }
            Self::ResultAndRecovered => {
                mesh.until_reason(skip, "applied", |reason| matches!(reason, Reason::Applied { .. })).await;
            }
        }
    }
}

/// One bad release; `victims` are killed and started again at `point`, one after the other.
async fn survives(mesh: &mut Mesh, release: u32, point: Point, victims: &[&str]) {
    let skip = mesh.records().len();
    println!("v{release}: {victims:?} killed {}", point.name());
    // A process that can stall there is killed exactly there; the others when the mesh is there.
    let staller = match (point, victims) {
        (Point::AppendAndRelay, ["coordinator-1"]) => Some("coordinator-1"),
        (Point::SetAndResult, ["east.rollback.roll-1"]) => Some("east.rollback.roll-1"),
        _ => None,
    };
    if staller == Some("coordinator-1") {
        mesh.kill_and_restart("coordinator-1", point.name()).await;
    }
    mesh.begin(&format!("v{release}"), &[]).await.says(0, &["done: start"]);
    if let Some(agent) = staller.filter(|agent| *agent != "coordinator-1") {
        let in_canary = |reason: &Reason| matches!(reason, Reason::Looking { stage, .. } if stage.as_str() == "canary");
        mesh.until_reason(skip, "looking at the canary", in_canary).await;
        mesh.kill_and_restart(agent, point.name()).await;
    }
    match staller {
        Some(name) => mesh.until_stalled(name, point.name(), 0).await,
        None => point.reached(mesh, skip).await,
    }
    for victim in victims {
        mesh.kill_and_restart(victim, "").await;
    }
    assert_eq!(mesh.until_ended(skip).await, Ending::RolledBack, "v{release}");
    mesh.is_back("v41").await;
    let off = mesh.status().await.and_then(|status| {
        let flag = status.levers.into_iter().find(|lever| lever.lever.as_str() == "new_checkout")?;
        Some(flag.value?.to_string())
    });
    assert_eq!(off.as_deref(), Some("off"), "v{release}");
    mesh.replays().await;
}

/// Kills whom one rollout can lose together: the others each get a rollout of their own.
async fn survives_all(point: Point) {
    let _turn = TURN.lock().await;
    let mut mesh = Mesh::start(&[]).await;
    survives(&mut mesh, 43, point, &["coordinator-1"]).await;
    survives(&mut mesh, 44, point, &["east.rollback.roll-1"]).await;
    let acting = mesh.bus.kv(Bucket::Claims).get("shop.new_checkout").await.expect("read").expect("claimed");
    let acting: AgentId = String::from_utf8_lossy(&acting.value.expect("a value")).parse().expect("an agent");
    let acting = acting.to_string();
    let agents = ["west.probe.probe-1", &acting, "east.alert.alert-1", "west.alert.alert-1"];
    survives(&mut mesh, 45, point, &agents).await;
    survives(&mut mesh, 46, point, &["nats-server"]).await;
    every_incident_was_told(&mesh).await;
}

/// Each rollout's incident was opened and resolved on the bus, and told on some console.
async fn every_incident_was_told(mesh: &Mesh) {
    let last = mesh.bus.state(Stream::Alerts).await.expect("the stream").last;
    let mut alerts = mesh.bus.read(Stream::Alerts, vec!["bw.alert.>".to_owned()], bellwether_bus::From::Start);
    let told = || mesh.log("east.alert.alert-1") + &mesh.log("west.alert.alert-1");
    let mut opened = 0;
    while let Ok(message) = tokio::time::timeout(std::time::Duration::from_secs(1), alerts.next()).await {
        let alert: serde_json::Value = serde_json::from_slice(&message.body).expect("JSON");
        let (kind, incident) = (alert["type"].as_str().expect("a type"), alert["incident"].as_str().expect("an id"));
        opened += usize::from(kind == "incident.opened");
        if kind != "incident.updated" {
            let word = kind.trim_start_matches("incident.");
            mesh.until(&format!("{incident} {word} told"), || told().contains(&format!("{incident} {word}")).then_some(()))
                .await;
        }
        if message.seq >= last {
            break;
        }
    }
    assert!(opened >= 4, "{opened} incidents");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_release_is_taken_back_though_killed_between_append_and_relay() {
    survives_all(Point::AppendAndRelay).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_release_is_taken_back_though_killed_between_set_and_result() {
    survives_all(Point::SetAndResult).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_release_is_taken_back_though_killed_between_result_and_recovered() {
    survives_all(Point::ResultAndRecovered).await;
}
