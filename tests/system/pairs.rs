//! Two coordinators side by side: no decision twice, and one finishes what the other began.

use std::collections::BTreeMap;

use bellwether_bus::From;
use bellwether_protocol::action::Action;
use bellwether_protocol::codec;
use bellwether_protocol::reason::{Ending, Reason};
use bellwether_protocol::subject::Stream;

use crate::mesh::{BAD, Mesh};
use crate::{run, told};

#[test]
fn two_coordinators_decide_once_and_stand_in_for_each_other() {
    run(async {
        let mut mesh = Mesh::start(&["coordinator-1", "coordinator-2"]).await;
        let github = told::add_github(&mut mesh, &["v42", BAD]).await;
        let mut log = mesh.log_from_now().await;
        assert_eq!(mesh.start_rollout("v42").await.refused, None);
        log.until("the canary", |reason| matches!(reason, Reason::Looking { .. })).await;
        mesh.kill_and_restart(told::GITHUB, "");
        assert_eq!(log.until_ended().await, Ending::Completed);
        assert_eq!(mesh.start_rollout(BAD).await.refused, None);
        log.until("the take-back", |reason| matches!(reason, Reason::TakingBack { .. })).await;
        mesh.kill("coordinator-1");
        assert_eq!(log.until_ended().await, Ending::RolledBack);
        let last = log.seen.last().expect("records");
        assert_eq!(last.coordinator.as_str(), "coordinator-2", "the survivor finished it");
        let ordinals: Vec<u64> = log.seen.iter().map(|record| record.ordinal.0).collect();
        assert!(ordinals.windows(2).all(|pair| pair[1] == pair[0] + 1), "{ordinals:?}");
        assert_eq!(mesh.lever("traffic"), "0%");
        one_content_per_action(&mesh).await;
        each_outcome_once(&mesh).await;
        told::deployments_are_whole(&mesh, &github).await;
        let kinds = told::what_leaves_the_mesh_is_as_described(&mesh).await;
        let ours = ["alert", "decision", "outcome"].map(|word| format!("bellwether.{word}.v1"));
        let theirs = ["pipelinerun.finished", "service.published", "service.rolledback", "incident.resolved"];
        let theirs = theirs.map(|kind| format!("dev.cdevents.{kind}.0.3.0"));
        assert!(ours.iter().chain(&theirs).all(|kind| kinds.contains(kind)), "{kinds:?}");
    });
}

async fn one_content_per_action(mesh: &Mesh) {
    let state = mesh.bus.state(Stream::Actions).await.expect("a stream");
    let mut actions = mesh.bus.read(Stream::Actions, Vec::new(), From::Start);
    let mut seen: BTreeMap<String, Action> = BTreeMap::new();
    let mut last = 0;
    while last < state.last {
        let message = actions.next().await;
        last = message.seq;
        let action: Action = codec::from_json("action", &message.body).expect("an action");
        let before = seen.insert(action.id.to_string(), action.clone());
        assert!(before.is_none_or(|before| before == action), "two contents: {action:?}");
    }
    assert!(seen.len() >= 6, "{} actions", seen.len());
}

async fn each_outcome_once(mesh: &Mesh) {
    let filter = "bw.outcome.>";
    let last = mesh.bus.last(Stream::Alerts, filter).await.expect("a stream").expect("outcomes").seq;
    let mut outcomes = mesh.bus.read(Stream::Alerts, vec![filter.to_owned()], From::Start);
    let mut seen = Vec::new();
    loop {
        let message = outcomes.next().await;
        seen.push(message.subject);
        if message.seq >= last {
            break;
        }
    }
    let told = seen.len();
    seen.sort();
    seen.dedup();
    assert!(told == seen.len() && told >= 2, "{told} outcomes of {seen:?}");
}
