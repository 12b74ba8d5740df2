//! What compose.yaml stands on, without containers: every file that it mounts is there and is accepted by the program that
//! reads it. `tests/system/compose.sh` runs the whole of it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use bellwether_bus::server;
use bellwether_runtime::parse_config;
use serde_json::Value;

use crate::mesh::{Mesh, PROGRAM};
use crate::run;

fn root(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(file)
}

fn text(file: &str) -> String {
    std::fs::read_to_string(root(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

fn yaml(file: &str) -> Value {
    parse_config(file, &text(file)).unwrap_or_else(|error| panic!("{error}"))
}

fn words(value: &Value) -> Vec<&str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// The agents' files that a compose file names.
fn agent_files(compose: &Value) -> BTreeSet<String> {
    let services = compose["services"].as_object().expect("services").values();
    let named = services.flat_map(|service| words(&service["command"])).map(str::to_owned);
    named.filter_map(|word| Some(format!(".docker/{}", word.strip_prefix("/etc/bellwether/")?))).collect()
}

#[test]
fn every_file_is_there_and_of_the_same_versions() {
    let compose = yaml("compose.yaml");
    let services = compose["services"].as_object().expect("services");
    let volumes = compose["volumes"].as_object().expect("volumes");
    for (name, service) in services {
        for mount in words(&service["volumes"]) {
            let (from, _) = mount.split_once(':').expect("FROM:TO");
            let is_there = if from.starts_with("./") { root(from).exists() } else { volumes.contains_key(from) };
            assert!(is_there, "{name} mounts {mount}");
        }
    }
    let dockerfile = services["coordinator-1"]["build"]["dockerfile"].as_str().expect("a Dockerfile");
    let rust = format!("FROM rust:{}-bookworm AS build", env!("CARGO_PKG_RUST_VERSION"));
    assert!(text(dockerfile).contains(&rust), "{dockerfile} does not say `{rust}`");
    let image = services["nats"]["image"].as_str().expect("an image");
    assert!(image.contains(&format!("nats:{}-", server::VERSION)), "{image} is not what is tested");
    // The story counts who is there, and Prometheus scrapes every one.
    let stays = |service: &Value| ["agent", "coordinator"].contains(words(&service["command"]).first().unwrap_or(&""));
    let present: Vec<&String> = services.iter().filter(|(_, one)| stays(one)).map(|(name, _)| name).collect();
    assert!(text(".docker/story.sh").contains(&format!("-ge {} ]", present.len())), "story.sh waits for others");
    let scraped = yaml(".docker/prometheus.yml");
    let jobs = scraped["scrape_configs"].as_array().expect("jobs").iter();
    let targets = jobs.flat_map(|job| job["static_configs"].as_array().expect("targets"));
    let targets: Vec<&str> = targets.flat_map(|one| words(&one["targets"])).collect();
    let silent: Vec<_> = present.iter().filter(|name| !targets.contains(&format!("{name}:9600").as_str())).collect();
    assert!(silent.is_empty(), "not scraped: {silent:?}");
}

#[test]
fn the_plan_and_the_server_s_file_are_accepted() {
    let checked =
        Command::new(PROGRAM).args(["plan", "check", "--json", ".docker/shop.yaml"]).current_dir(root("")).output();
    let checked = checked.expect("the program runs");
    let findings: Value = serde_json::from_slice(&checked.stdout).expect("JSON");
    assert_eq!((checked.status.code(), &findings["findings"]), (Some(0), &serde_json::json!([])));
    let binary = server::find(None).or_else(|_| server::install(|line| eprintln!("{line}"))).expect("nats-server");
    let checked = Command::new(binary).arg("-t").arg("-c").arg(root(".docker/nats.conf")).output().expect("it runs");
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    assert!(text(".docker/nats.conf").contains("sync_interval: always"));
}

#[test]
fn every_agent_takes_its_file() {
    run(async {
        let mut mesh = Mesh::bare(&["coordinator-1"]).await;
        // The one of Slack stands in for another with the same name; it has nothing to connect to here.
        let mut files = agent_files(&yaml("compose.yaml"));
        files.extend(agent_files(&yaml(".docker/slack.yaml")));
        let all = std::fs::read_dir(root(".docker/agents")).expect("agents").count();
        assert_eq!(files.len(), all, "compose names these alone: {files:?}");
        for file in &files {
            let name = file.trim_start_matches(".docker/agents/").trim_end_matches(".yaml");
            let here = [
                ("nats://nats:4222", mesh.url().to_owned()),
                ("/var/lib/bellwether/", mesh.path(&format!("state-{name}-"))),
                ("0.0.0.0:8016", "127.0.0.1:0".to_owned()),
                ("env:SLACK_WEBHOOK_URL", format!("file:{}", mesh.path("slack"))),
            ];
            std::fs::write(mesh.path("slack"), "https://hooks.example.com/services/x").expect("written");
            let text = here.iter().fold(text(file), |text, (there, here)| text.replace(there, here));
            let path = mesh.path(&format!("{name}.yaml"));
            std::fs::write(&path, text).expect("written");
            let role = name.split_once('.').expect("REGION.ROLE").1;
            mesh.add(name, &["agent", role, "--config", &path].map(str::to_owned));
            mesh.until(&format!("{file} to be taken"), || mesh.log(name).contains("agent started").then_some(())).await;
        }
    });
}
