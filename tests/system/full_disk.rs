//! The server has no room: nothing is decided, and whoever looks is told so.

use std::collections::BTreeMap;
use std::time::Instant;

use bellwether_bus::child::{Child, Output, Spec};
use bellwether_bus::testing;
use bellwether_protocol::reason::{Ending, Reason};
use bellwether_protocol::subject::Stream;

use crate::mesh::{LOOK_EVERY, Mesh, PROGRAM, WITHIN};
use crate::run;

/// Runs the server of a mesh, whose own must be dead, where its streams already take more than they may.
fn without_room(mesh: &Mesh) -> Child {
    let dir = mesh.dir.path().join("nats");
    let own = std::fs::read_to_string(dir.join("nats-server.conf")).expect("its configuration");
    let tiny = own.replace("max_file_store: 8GB", "max_file_store: 1KB");
    assert_ne!(own, tiny);
    let port = mesh.url().rsplit(':').next().expect("a port");
    let tiny = tiny.replace("port: -1", &format!("port: {port}"));
    let config = testing::write(&dir, "tiny.conf", &tiny);
    let spec = Spec {
        shim: PROGRAM.into(),
        program: testing::options(dir.clone(), 0).binary,
        args: vec!["--config".into(), config.into()],
        env: BTreeMap::new(),
        output: Output::File(dir.join("tiny.log")),
    };
    Child::spawn(&spec).expect("started")
}

/// Bounds the log, or lets it grow as it was made to.
async fn bound_log(mesh: &Mesh, is_full: bool) {
    let client = async_nats::connect(mesh.url()).await.expect("connected");
    let jetstream = async_nats::jetstream::new(client);
    let name = mesh.bus.prefix().stream(Stream::Decisions);
    let mut stream = jetstream.get_stream(name).await.expect("the log");
    let info = stream.info().await.expect("its state");
    let bytes = i64::try_from(info.state.bytes).expect("its size");
    let mut config = info.config.clone();
    config.max_bytes = if is_full { bytes + 1 } else { 1 << 30 };
    jetstream.update_stream(config).await.expect("changed");
}

/// Waits until `rollout status` shows `expected`.
async fn shows(mesh: &Mesh, expected: &str) -> String {
    let until = Instant::now() + WITHIN;
    loop {
        let shown = mesh.run(&["rollout", "status", "shop"]);
        let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
        if shown.contains(expected) {
            return shown;
        }
        assert!(Instant::now() < until, "no `{expected}` in: {shown}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn doctor_says(mesh: &Mesh, expected: &str) {
    let told = mesh.run(&["doctor"]);
    let text = String::from_utf8_lossy(&told.stdout).into_owned();
    assert!(told.status.code() == Some(2) && text.contains(expected), "{text}");
}

#[test]
fn decisions_that_cannot_be_stored_are_seen() {
    run(async {
        let mesh = Mesh::start(&["coordinator-1"]).await;
        let mut log = mesh.log_from_now().await;
        assert_eq!(mesh.start_changed("v42", &["stages.canary.soak=5s"]).await.refused, None);
        log.until("looking", |reason| matches!(reason, Reason::Looking { .. })).await;

        // The log alone is full: everything else goes on, and its coordinator says why.
        bound_log(&mesh, true).await;
        let shown = shows(&mesh, "HOLDING: decisions cannot be stored").await;
        assert!(shown.contains("maximum bytes exceeded") && shown.contains("do    bellwether doctor"), "{shown}");
        doctor_says(&mesh, "decisions cannot be stored for");
        let json = mesh.run(&["rollout", "status", "shop", "--json"]);
        let json: serde_json::Value = serde_json::from_slice(&json.stdout).expect("JSON");
        assert_eq!(json["stuck"]["what"], "decisions cannot be stored");

        // The whole disk is full: no coordinator can say anything.
        mesh.end_server();
        let mut tiny = without_room(&mesh);
        let shown = shows(&mesh, "HOLDING: nothing is stored").await;
        assert!(shown.contains("needs you: nothing is decided"), "{shown}");
        doctor_says(&mesh, "nothing is stored for");
        let watched = mesh.run(&["rollout", "watch", "shop", "--plain", "--timeout", "2s"]);
        let text = String::from_utf8_lossy(&watched.stdout).into_owned();
        assert!(text.contains("HOLDING: nothing is stored since") && text.contains("not over in time"), "{text}");
        assert!(watched.status.code().is_some_and(|code| code != 0), "{text}");
        tokio::task::block_in_place(|| tiny.stop()).expect("stopped");
        mesh.restart_server();
        shows(&mesh, "HOLDING: decisions cannot be stored").await;
        bound_log(&mesh, false).await;
        assert_eq!(log.until_ended().await, Ending::Completed);
        let replayed = mesh.run(&["rollout", "replay", "shop"]);
        assert_eq!(replayed.status.code(), Some(0), "{}", String::from_utf8_lossy(&replayed.stderr));
    });
}
