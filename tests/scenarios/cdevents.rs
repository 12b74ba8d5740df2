//! What every story comes to in the words of CDEvents, held against their own schemas.

use std::collections::{BTreeMap, BTreeSet};

use bellwether_coordinator::cdevents::events;
use bellwether_decide::{Desk, step};
use bellwether_fakes::public::cdevent_flaws;
use bellwether_protocol::cdevent::CdEvent;
use bellwether_protocol::subject::Prefix;

use crate::world::World;

/// The kinds of events of some stories, in their order.
const TOLD: [(&str, &[&str]); 3] = [
    (
        "healthy",
        &[
            "pipelinerun.started",
            "taskrun.started",
            "service.upgraded",
            "taskrun.finished",
            "taskrun.started",
            "service.upgraded",
            "taskrun.finished",
            "service.published",
            "pipelinerun.finished",
        ],
    ),
    (
        "machine-lost",
        &["pipelinerun.started", "taskrun.started", "service.upgraded", "incident.detected", "incident.resolved"],
    ),
    (
        "superseded",
        &[
            "pipelinerun.started",
            "taskrun.started",
            "service.upgraded",
            "taskrun.finished",
            "pipelinerun.finished",
            "pipelinerun.started",
            "taskrun.started",
            "service.upgraded",
            "taskrun.finished",
            "incident.detected",
            "service.rolledback",
            "pipelinerun.finished",
            "incident.resolved",
        ],
    ),
];

/// Tells the story, and complains of every event that is not as CDEvents wants it.
pub(crate) fn check(name: &str, world: &World) {
    let told = told(world);
    let ids: BTreeSet<&str> = told.iter().map(|event| event.context.id.as_str()).collect();
    assert_eq!(ids.len(), told.len(), "{name}: an id is used twice");
    for event in &told {
        let said = serde_json::to_value(event).unwrap();
        let wrong = cdevent_flaws(&said);
        assert!(wrong.is_empty(), "{name}: {said}: {wrong:?}");
    }
    // Nothing is over that did not begin, and of runs at most the last one is still on.
    for (run, begin, end) in [
        ("incident", "detected", "resolved"),
        ("pipelinerun", "started", "finished"),
        ("taskrun", "started", "finished"),
    ] {
        let of = |word: &str| -> Vec<&str> {
            let kind = format!("dev.cdevents.{run}.{word}.0.3.0");
            told.iter().filter(|event| event.context.kind == kind).map(|event| event.subject.id.as_str()).collect()
        };
        let (began, ended) = (of(begin), of(end));
        assert!(ended.iter().all(|subject| began.contains(subject)), "{name}: {run}: {began:?}, {ended:?}");
        let on = began.iter().filter(|subject| !ended.contains(subject)).count();
        assert!(on <= 1 || run == "incident", "{name}: {run}: {began:?}, {ended:?}");
    }
    if let Some((_, expected)) = TOLD.iter().find(|(own, _)| *own == name) {
        let kinds =
            told.iter().map(|event| event.context.kind.trim_start_matches("dev.cdevents.").trim_end_matches(".0.3.0"));
        assert_eq!(kinds.collect::<Vec<_>>(), *expected, "{name}");
    }
}

/// Every event, as it leaves the mesh.
fn told(world: &World) -> Vec<CdEvent> {
    let mut desks = BTreeMap::new();
    let mut told = Vec::new();
    for record in world.broker.records() {
        let desk = desks.entry(record.service.clone()).or_insert_with(|| Desk::new(record.service.clone()));
        let after = step(desk, &record.inputs, record.now).desk;
        told.extend(events(&record, desk.rollout.as_ref(), after.rollout.as_ref()));
        *desk = after;
    }
    told.into_iter().map(|event| event.from_mesh(&Prefix::default())).collect()
}
