//! What starts rollouts by itself: a message of a CI system, and the platform that other hands moved.

use std::time::Instant;

use bellwether_protocol::reason::{Ending, Reason};
use bellwether_protocol::record::Record;
use serde_json::json;

use crate::mesh::{LOOK_EVERY, Log, Mesh, WITHIN};
use crate::run;

/// Two agents with the same triggers.
const TRIGGERS: [&str; 2] = ["east.trigger.one", "west.trigger.two"];
/// The trace of the pipeline that says what it has built.
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const INTENT: &str = "between intent and start";

#[test]
fn a_release_that_is_named_or_seen_starts_one_rollout() {
    run(async {
        let mut mesh = Mesh::start(&["coordinator-1"]).await;
        let plan = mesh.path("shop.yaml");
        std::fs::write(&plan, &mesh.plan).expect("written");
        let mut ci = json!({ "name": "ci", "service": "shop", "plan": plan });
        ci["overrides"] = json!(["stages.canary.soak=1s", "stages.production.soak=1s"]);
        ci["message"] = json!({ "subject": "ci.>", "release": "$.image.tag", "where": { "$.env": "production" } });
        let mut seen = json!({ "name": "seen", "service": "shop", "plan": plan, "lever": "release" });
        seen["overrides"] = json!(["stages.canary.soak=10m"]);
        let mut late = json!({ "name": "late", "service": "shop", "plan": plan, "message": { "subject": "late" } });
        late["shadow"] = json!(true);
        for id in TRIGGERS {
            mesh.add_agent_with(id, &format!("trigger: {}\n", json!([ci, seen, late])));
        }
        mesh.until_ready().await;
        remembered(&mesh, "v41").await;
        let mut log = mesh.log_from_now().await;

        // By a message, twice, to two agents. Others are not for them, or not understood.
        let nats = async_nats::connect(mesh.url()).await.expect("connected");
        let say = async |body: &str| {
            let mut headers = async_nats::HeaderMap::new();
            headers.insert("traceparent", format!("00-{TRACE}-b7ad6b7169203331-01"));
            nats.publish_with_headers("ci.deployed", headers, body.to_owned().into()).await.expect("sent");
            nats.flush().await.expect("sent");
        };
        for body in [r#"{"env": "staging", "image": {"tag": "v44"}}"#, r#"{"env": "production"}"#, "{"] {
            say(body).await;
        }
        let named = r#"{"env": "production", "image": {"tag": "v42"}}"#;
        let mut said = 0;
        let principal = loop {
            // Whoever is not listening yet does not hear it; whoever hears it again does nothing more.
            say(named).await;
            say(named).await;
            if let Ok(principal) = tokio::time::timeout(WITHIN / 60, started(&mut log, "v42")).await {
                break principal;
            }
            said += 1;
            assert!(said < 60, "v42 was named {said} times, and nothing was started");
        };
        say(named).await;
        assert!(["one", "two"].contains(&principal.as_str()), "{principal}");
        let inbox = async_nats::jetstream::new(nats.clone()).get_stream("bw-inbox").await.expect("there");
        let asked = inbox.get_last_raw_message_by_subject(&format!("bw.command.shop.start.{principal}")).await;
        let headers = asked.expect("the command").headers;
        assert!(headers.get("traceparent").is_some_and(|place| place.as_str().contains(TRACE)), "{headers:?}");
        assert_eq!(log.until_ended().await, Ending::Completed);
        remembered(&mesh, "v42").await;

        // It moves while nobody looks, and the first one back is killed before it can ask.
        TRIGGERS.iter().for_each(|id| mesh.kill(id));
        assert!(mesh.run(&["site-lever", "--admin", &mesh.site.admin, "set", "release", "v70"]).status.success());
        mesh.spawn(TRIGGERS[0], INTENT);
        mesh.until("the intent", || (mesh.stalled(TRIGGERS[0], INTENT) == 1).then_some(())).await;
        mesh.kill_and_restart(TRIGGERS[0], "");
        mesh.spawn(TRIGGERS[1], "");
        assert_eq!(started(&mut log, "v70").await, "one");

        // A plan that is broken by now, and a rollout in the way: nothing starts, and that is told.
        std::fs::write(&plan, mesh.plan.replace("slot: 1s", "slot: soon")).expect("written");
        let named = r#"{"env": "production", "image": {"tag": "v71"}}"#;
        told(&mesh, "v71 not started by ci: the plan is refused: ", async || say(named).await).await;
        std::fs::write(&plan, &mesh.plan).expect("written");
        let named = r#"{"env": "production", "image": {"tag": "v72"}}"#;
        told(&mesh, "v72 not started by ci: refused: shop/2 is running", async || say(named).await).await;
        remembered(&mesh, "v70").await;
        let status = mesh.status().await.expect("a status");
        assert_eq!((status.rollout.to_string().as_str(), status.release.as_str()), ("shop/2", "v70"));

        // Nobody decides for a while: both are told, that and what was decided then.
        mesh.kill("coordinator-1");
        nats.publish("late", "v73".into()).await.expect("sent");
        told(&mesh, "v73 not started by late: stored, not yet decided", async || ()).await;
        mesh.spawn("coordinator-1", "");
        told(&mesh, "v73 not started by late: refused: shop/2 is running", async || ()).await;
    });
}

/// Waits until both have followed the lever to `release`.
async fn remembered(mesh: &Mesh, release: &str) {
    let has = |id: &&str| {
        let memory = std::fs::read_to_string(mesh.path(&format!("state-{id}/trigger-seen.json")));
        memory.is_ok_and(|memory| memory.contains(&format!("\"seen\":\"{release}\"")))
    };
    mesh.until(&format!("{release} seen"), || TRIGGERS.iter().all(has).then_some(())).await;
}

/// Waits until a rollout begins, which must be of `release`; says who asked for it.
async fn started(log: &mut Log, release: &str) -> String {
    let starts = |record: &Record| {
        record.reasons.iter().find_map(|reason| match reason {
            Reason::Started { release, principal, .. } => Some((release.to_string(), principal.to_string())),
            _ => None,
        })
    };
    let (begun, principal) = log.find("a start", starts).await;
    assert_eq!(begun, release);
    principal
}

/// Waits until the list of agents says `words`; what is answered like this is said until it is heard.
async fn told(mesh: &Mesh, words: &str, say: impl AsyncFn()) {
    let until = Instant::now() + WITHIN;
    loop {
        say().await;
        let listed = String::from_utf8_lossy(&mesh.run(&["agents", "list"]).stdout).into_owned();
        if listed.contains(words) {
            return;
        }
        assert!(Instant::now() < until, "no `{words}` in: {listed}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
