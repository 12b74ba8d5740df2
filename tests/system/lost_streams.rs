//! A stream is deleted and created anew under a running rollout: it is noticed, told, and survived.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bellwether_protocol::command::{CommandBody, Verb};
use bellwether_protocol::reason::{Ending, Reason};
use bellwether_protocol::record::{Input, Record, Series, Source};
use bellwether_protocol::subject::Stream;

use crate::mesh::{BAD, Log, Mesh};
use crate::run;

async fn delete(mesh: &Mesh, stream: Stream) {
    let client = async_nats::connect(mesh.url()).await.expect("connected");
    let name = mesh.bus.prefix().stream(stream);
    async_nats::jetstream::new(client).delete_stream(name).await.expect("deleted");
}

async fn lose(mesh: &Mesh, log: &mut Log, stream: Stream, lost: Source) {
    delete(mesh, stream).await;
    mesh.bus.provision().await.expect("created anew");
    log.until("the reset", |reason| *reason == Reason::StreamReset { source: lost }).await;
}

/// The canary was not left before five whole seconds of both regions had been seen.
fn was_soaked(records: &[Record]) {
    let passed = |record: &Record| record.reasons.iter().any(|reason| matches!(reason, Reason::StagePassed { .. }));
    let until = records.iter().position(passed).expect("it was left");
    let mut seen: BTreeMap<Series, u32> = BTreeMap::new();
    for input in records[..=until].iter().flat_map(|record| &record.inputs) {
        if let Input::Closed(slot) = input {
            *seen.entry(slot.series.clone()).or_default() += u32::from(slot.reporters > 0);
        }
    }
    assert!(seen.len() == 4 && seen.values().all(|covered| *covered >= 5), "{seen:?}");
}

#[test]
fn a_rollout_survives_the_loss_of_samples_and_inbox() {
    run(async {
        let mut mesh = Mesh::start(&["coordinator-1"]).await;
        let mut log = mesh.log_from_now().await;
        assert_eq!(mesh.start_rollout("v42").await.refused, None);
        log.until("looking", |reason| matches!(reason, Reason::Looking { .. })).await;
        lose(&mesh, &mut log, Stream::Samples, Source::Samples).await;
        assert_eq!(log.until_ended().await, Ending::Completed);
        was_soaked(&log.seen);

        lose(&mesh, &mut log, Stream::Inbox, Source::Inbox).await;
        // Commands and results count anew from 1, also for a coordinator that was not there.
        assert_eq!(mesh.start_rollout(BAD).await.refused, None);
        log.until("the take-back", |reason| matches!(reason, Reason::TakingBack { .. })).await;
        mesh.kill_and_restart("coordinator-1", "");
        assert_eq!(log.until_ended().await, Ending::RolledBack);
        assert_eq!(mesh.lever("traffic"), "0%");
        let replayed = mesh.run(&["rollout", "replay", "shop"]);
        assert_eq!(replayed.status.code(), Some(0), "{}", String::from_utf8_lossy(&replayed.stderr));
    });
}

#[test]
fn actions_that_cannot_be_relayed_hold_up_no_answers() {
    run(async {
        let mesh = Mesh::start(&["coordinator-1"]).await;
        let mut log = mesh.log_from_now().await;
        delete(&mesh, Stream::Actions).await;
        assert_eq!(mesh.start_rollout("v42").await.refused, None);
        log.until("an action", |reason| matches!(reason, Reason::Asked { .. })).await;
        let asked = Instant::now();
        assert_eq!(mesh.ask(Verb::Pause, CommandBody::default()).await.refused, None);
        assert!(asked.elapsed() < Duration::from_secs(10), "answered after {:?}", asked.elapsed());
        assert_eq!(mesh.ask(Verb::Resume, CommandBody::default()).await.refused, None);
        mesh.bus.provision().await.expect("created anew");
        assert_eq!(log.until_ended().await, Ending::Completed);
    });
}
