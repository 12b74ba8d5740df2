//! Mistakes that people make: each a clear error that says what to do, and nothing half done.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::{Command, Output};

use bellwether_bus::server::Link;
use bellwether_protocol::command::{CommandBody, Verb};
use bellwether_protocol::reason::Ending;
use bellwether_protocol::subject::Stream;

use crate::mesh::{Mesh, PROGRAM, start_server};
use crate::run;

pub(crate) fn program(args: &[&str]) -> Output {
    Command::new(PROGRAM).args(args).output().expect("the program runs")
}

/// The program ends with `code`, and says every one of `words`.
pub(crate) fn check(ran: &Output, code: i32, words: &[&str]) {
    let said = format!("{}{}", String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert_eq!(ran.status.code(), Some(code), "{said}");
    for word in words {
        assert!(said.contains(word), "no `{word}` in: {said}");
    }
}

fn file(dir: &tempfile::TempDir, name: &str, text: &str) -> String {
    let path = dir.path().join(name);
    std::fs::write(&path, text).expect("written");
    path.display().to_string()
}

#[test]
fn a_broken_plan_is_told_with_every_place() {
    let dir = tempfile::tempdir().expect("a directory");
    let plan = include_str!("plan.yaml").replace("@EAST@", "http://e").replace("@WEST@", "http://w");
    let plan = plan.replace("set: traffic, to: 10%", "set: trafic, to: 10%").replace("soak: 5s", "soak: 240");
    let path = file(&dir, "shop.yaml", &plan);
    let words =
        ["unknown lever `trafic`", "did you mean `traffic`", "shop.yaml:", "duration without a unit", "3 errors"];
    check(&program(&["plan", "check", &path]), 2, &words);
    check(&program(&["plan", "check", &path, "--json"]), 2, &["\"line\""]);
}

#[test]
fn a_mesh_that_is_not_there_is_told() {
    let port = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port();
    let url = format!("nats://127.0.0.1:{port}");
    check(&program(&["rollout", "list", "--nats", &url]), 2, &[&url, "  try: bellwether up"]);
    let told = program(&["rollout", "list", "--json", "--nats", &url]);
    let told: serde_json::Value = serde_json::from_slice(&told.stdout).expect("one object");
    assert!(told["error"].as_str().is_some_and(|why| why.contains(&url)) && told["exit"] == 2, "{told}");
}

#[test]
fn an_old_server_is_refused() {
    let url = pretend_server("2.9.10", "PONG");
    check(&program(&["rollout", "list", "--nats", &url]), 2, &["2.9.10", "2.12"]);
}

#[test]
fn a_server_that_does_not_let_us_in_is_told() {
    let url = pretend_server("2.15.1", "-ERR 'Authorization Violation'");
    check(&program(&["rollout", "list", "--nats", &url]), 2, &[&url, "refused our credentials", "`nats.credentials`"]);
}

#[test]
fn a_taken_port_is_told() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port().to_string();
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path().join("data").display().to_string();
    let words = [&format!("port {port} is in use"), "choose another port"];
    check(&program(&["up", "--dir", &dir, "--port", &port]), 2, &words);
}

/// A server of some version, which gives one answer to all that it is asked.
fn pretend_server(version: &str, answer: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("nats://{}", listener.local_addr().expect("an address"));
    let info = serde_json::json!({
        "server_id": "x", "server_name": "x", "version": version, "proto": 1, "host": "127.0.0.1", "port": 1,
        "headers": true, "max_payload": 1_048_576, "jetstream": true,
    });
    let (info, answer) = (format!("INFO {info}\r\n"), format!("{answer}\r\n"));
    std::thread::spawn(move || {
        // As many connections as one run of the program makes, and no more.
        for stream in listener.incoming().take(4) {
            let mut stream = stream.expect("a connection");
            let _ = stream.write_all(info.as_bytes());
            let mut buffer = [0; 1024];
            while let Ok(1..) = stream.read(&mut buffer) {
                let _ = stream.write_all(answer.as_bytes());
            }
        }
    });
    url
}

#[test]
fn a_missing_secret_and_a_taken_port_are_told() {
    run(async {
        let dir = tempfile::tempdir().expect("a directory");
        let server = start_server(&dir.path().join("nats"), Link::Alone).await;
        let agent = |role: &str, rest: &str| {
            let state = dir.path().join(role);
            let text = format!(
                "agent: {{ region: east, name: a, state_dir: {state:?}, nats: {{ url: {:?} }} }}\n{rest}",
                server.url()
            );
            file(&dir, &format!("{role}.yaml"), &text)
        };
        let alert = agent(
            "alert",
            "alert: { bridges: { a: { webhook: { url: \"http://127.0.0.1:9/\", secret: \"env:NOPE_NOT_SET\" } } } }\n",
        );
        check(&program(&["agent", "alert", "--config", &alert]), 2, &["NOPE_NOT_SET"]);
        let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = taken.local_addr().expect("an address");
        let flag = agent(
            "flag",
            &format!(
                "flag: {{ service: shop, listen: \"{address}\", flags: [{{ name: f, variants: {{ \"on\": true, \"off\": false }}, default: \"off\" }}] }}\n"
            ),
        );
        check(&program(&["agent", "flag", "--config", &flag]), 2, &[&address.to_string()]);
        let typo = agent("probe", "probe: { alow: [] }\n");
        check(&program(&["agent", "probe", "--config", &typo]), 2, &["alow", "probe.yaml"]);
        // Nobody decides here: what was asked is stored, and that is all that can be said.
        bellwether_provisioned(server.url()).await;
        let asked = Command::new(PROGRAM)
            .args(["command", "pause", "shop", "--timeout", "1s", "--nats", server.url(), "--as", "tester"])
            .output();
        check(&asked.expect("the program runs"), 3, &["stored, not yet decided"]);
        tokio::task::spawn_blocking(move || server.stop()).await.expect("joined").expect("stopped");
    });
}

async fn bellwether_provisioned(url: &str) {
    crate::mesh::connect(url).await.expect("connected").provision().await.expect("provisioned");
}

#[test]
fn a_start_that_cannot_work_is_refused_and_the_log_replays_alone() {
    run(async {
        let mut mesh = Mesh::start(&["coordinator-1"]).await;
        let plan = |from: &str, to: &str| CommandBody {
            plan: Some(mesh.plan.replace(from, to)),
            release: Some("v42".parse().unwrap()),
            ..CommandBody::default()
        };
        let unknown_lever = mesh.ask(Verb::Start, plan("  traffic: {}", "  traffic: {}\n  weight: {}")).await;
        assert_eq!(unknown_lever.refused.as_deref(), Some("no live agent holds lever weight"));
        let north = "regions: { north: \"http://127.0.0.1:1\", east:";
        let unknown_region = mesh.ask(Verb::Start, plan("regions: { east:", north)).await;
        assert_eq!(unknown_region.refused.as_deref(), Some("region north has 0 of 1 agents that look by http"));
        let mut log = mesh.log_from_now().await;
        let not_allowed = mesh.ask(Verb::Start, plan(&mesh.site.environments["east"], "http://127.0.0.1:1")).await;
        assert_eq!(not_allowed.refused, None, "the start is stored; the agent refuses what it is told to look at");
        assert_eq!(log.until_ended().await, Ending::NotStarted);

        // A file for the verb as CI runs it: good, then a second one while it runs.
        let path = mesh.dir.path().join("shop.yaml");
        std::fs::write(&path, &mesh.plan).expect("written");
        let path = path.display().to_string();
        let start = ["rollout", "start", path.as_str(), "--release"];
        let good = mesh.run(&[&start[..], &["v42", "--wait", "--plain", "--timeout", "60s"]].concat());
        check(&good, 0, &["COMPLETED"]);
        let mut log = mesh.log_from_now().await;
        assert_eq!(mesh.start_rollout("v44").await.refused, None);
        let second = mesh.start_rollout("v45").await;
        assert!(second.refused.is_some_and(|why| why.contains("is running")));
        let aborted = mesh.ask(Verb::Abort, CommandBody::default()).await;
        assert_eq!(aborted.refused, None);
        assert_eq!(log.until_ended().await, Ending::Aborted);
        let bad = mesh.run(&[&start[..], &["v43", "--wait", "--plain", "--timeout", "60s"]].concat());
        check(&bad, 1, &["ROLLED BACK"]);

        // Without the lever's agent nothing may start.
        mesh.kill("west.rollback.roll-1");
        // Asked with a region that nobody watches, so that nothing begins before the agent counts as gone.
        let body = CommandBody {
            plan: Some(mesh.plan.replace("regions: { east:", north)),
            release: Some("v46".parse().unwrap()),
            ..CommandBody::default()
        };
        let until = std::time::Instant::now() + crate::mesh::WITHIN;
        loop {
            let refused = mesh.ask(Verb::Start, body.clone()).await.refused.expect("never begins");
            if refused.contains("no live agent holds lever traffic") {
                break;
            }
            assert!(std::time::Instant::now() < until, "{refused}");
            tokio::time::sleep(crate::mesh::LOOK_EVERY).await;
        }
        replays_without_samples(&mesh).await;
    });
}

/// The log alone is the truth: with the samples gone, every decision comes out again.
async fn replays_without_samples(mesh: &Mesh) {
    let client = async_nats::connect(mesh.url()).await.expect("connected");
    let stream = mesh.bus.prefix().stream(Stream::Samples);
    async_nats::jetstream::new(client).delete_stream(stream).await.expect("deleted");
    let replayed = mesh.run(&["rollout", "replay", "--json"]);
    check(&replayed, 0, &["rolled_back"]);
    let explained = mesh.run(&["rollout", "explain", "shop"]);
    check(&explained, 0, &["v43 was taken back", "users get", "LIMIT", "not the day", "recovered"]);
    check(&mesh.run(&["rollout", "explain", "shop/99"]), 2, &["no rollout shop/99"]);
    verifies_offline(mesh);
}

/// A log in a file is decided again without a mesh, and the first difference is named.
fn verifies_offline(mesh: &Mesh) {
    let exported = mesh.run(&["audit", "export", "shop"]);
    check(&exported, 0, &["error_rate"]);
    let log = String::from_utf8(exported.stdout).expect("text");
    let path = mesh.dir.path().join("shop.jsonl");
    let name = path.display().to_string();
    std::fs::write(&path, &log).expect("written");
    check(&mesh.run(&["audit", "verify", &name]), 0, &["each the same to the byte"]);
    let forged = log.replacen("\"http_5xx\":", "\"http_4xx\":", 1);
    let line = 1 + log.lines().zip(forged.lines()).position(|(own, other)| own != other).expect("a bad answer");
    std::fs::write(&path, forged).expect("written");
    check(&mesh.run(&["audit", "verify", &name]), 4, &[&format!("line {line} ")]);
}
