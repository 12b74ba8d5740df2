//! The site over real sockets on loopback.

use std::time::{Duration, Instant};

use axum::http::{Method, StatusCode};
use clap::Parser;
use serde_json::{Value, json};

use super::*;
use crate::client::{self, Answer};
use crate::lever::LeverArgs;

const WITHIN: Duration = Duration::from_secs(5);

#[derive(Parser)]
struct SiteCommand {
    #[command(flatten)]
    args: SiteArgs,
}

#[derive(Parser)]
struct LeverCommand {
    #[command(flatten)]
    args: LeverArgs,
}

async fn start(line: &str) -> Site {
    let words = "site --env staging --env east --env west".split(' ').chain(line.split_whitespace());
    let command = SiteCommand::try_parse_from(words).expect("arguments");
    Site::start(&command.args).await.expect("a site")
}

async fn get(url: &str) -> Answer {
    client::send(Method::GET, url, Vec::new(), WITHIN).await.expect("an answer")
}

async fn put(url: &str, body: Value) -> StatusCode {
    client::send(Method::PUT, url, body.to_string().into_bytes(), WITHIN).await.expect("an answer").status
}

async fn tool(site: &Site, line: &str) -> (u8, String) {
    let words = ["site-lever", "--admin", &site.addresses().admin].into_iter().chain(line.split(' '));
    let command = LeverCommand::try_parse_from(words).expect("arguments");
    lever::ask(&command.args).await
}

#[tokio::test]
async fn the_tool_sets_and_reads_back_target_by_target() {
    let site = start("--lag 100ms").await;
    assert_eq!(tool(&site, "set release v42").await, (0, "accepted\n".to_owned()));
    let deadline = Instant::now() + WITHIN;
    let moved = r#"{"value":"v42","targets":[{"id":"east","value":"v42"},{"id":"west","value":"v42"}]}"#;
    loop {
        let (code, text) = tool(&site, "read release").await;
        assert_eq!(code, 0);
        if text == moved {
            break;
        }
        assert!(Instant::now() < deadline, "last seen: {text}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(tool(&site, "history release").await, (0, r#"["v42","v41"]"#.to_owned()));
    assert_eq!(tool(&site, "set traffic much").await.0, 64);
}

#[tokio::test]
async fn scripted_refusals_have_their_exit_codes() {
    let site = start("").await;
    let refuse = format!("{}/admin/refuse", site.addresses().admin);
    for (how, expected) in [("refuse", 64), ("busy", 75), ("partial", 0), ("none", 0)] {
        assert_eq!(put(&refuse, json!({ "lever": "traffic", "how": how })).await, StatusCode::NO_CONTENT);
        assert_eq!(tool(&site, "set traffic 10%").await.0, expected, "{how}");
    }
    let admin = site.addresses().admin.clone();
    drop(site);
    let command =
        LeverCommand::try_parse_from(["site-lever", "--admin", &admin, "read", "traffic"]).expect("arguments");
    let deadline = Instant::now() + WITHIN;
    while lever::ask(&command.args).await.0 != 75 {
        assert!(Instant::now() < deadline, "a site that is gone must say try again");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_fault_hits_one_release_in_one_environment() {
    let site = start("--fault release=v41,env=west,path=/,errors=5%").await;
    let bad = async |env: &str, path: &str| {
        let mut bad = 0;
        for _ in 0..40 {
            let url = format!("{}{path}", site.addresses().environments[env]);
            bad += usize::from(get(&url).await.status == StatusCode::INTERNAL_SERVER_ERROR);
        }
        bad
    };
    assert_eq!(bad("west", "/").await, 2);
    assert_eq!(bad("west", "/health").await, 0);
    assert_eq!(bad("east", "/").await, 0);
    let counted = get(&format!("{}/metrics", site.addresses().environments["west"])).await;
    let counted = String::from_utf8_lossy(&counted.body).into_owned();
    for (path, code, n) in [("/", 200, 38), ("/", 500, 2), ("/health", 200, 40)] {
        let series = format!("shop_requests_total{{release=\"v41\",path=\"{path}\",code=\"{code}\"}} {n}\n");
        assert!(counted.contains(&series), "{series} is not in {counted}");
    }
    let fault = format!("{}/admin/fault", site.addresses().admin);
    let body = json!({ "release": "v41", "env": "east", "errors": "50%", "path": "/" });
    assert_eq!(put(&fault, body).await, StatusCode::NO_CONTENT);
    assert_eq!(bad("east", "/").await, 20);
    assert_eq!(put(&fault, json!({ "release": "v41", "wrong": 1 })).await, StatusCode::UNPROCESSABLE_ENTITY);
}

#[tokio::test]
async fn health_tells_memory_and_version() {
    let site = start("--fault release=v41,memory=226MB").await;
    let answer = get(&format!("{}/health", site.addresses().environments["east"])).await;
    let body: Value = serde_json::from_slice(&answer.body).expect("json");
    assert_eq!(body["version"], "v41");
    assert_eq!(body["checks"]["memory"]["message"], "226MB of 239MB");
    assert_eq!(body["status"], "warning");
    assert_eq!(get(&format!("{}/nothing", site.addresses().environments["east"])).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_flag_is_read_over_ofrep_and_off_without_an_endpoint() {
    let ofrep = Router::new().route(
        "/ofrep/v1/evaluate/flags/{key}",
        axum::routing::post(|axum::extract::Path(key): axum::extract::Path<String>| async move {
            axum::Json(json!({ "key": key, "reason": "STATIC", "value": true, "variant": "on" }))
        }),
    );
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("flags");
    std::fs::write(&file, format!("http://{}\n", listener.local_addr().expect("an address"))).expect("written");
    let server = tokio::spawn(async move { axum::serve(listener, ofrep).await });
    let ports = directory.path().join("ports.json");
    let site = start(&format!("--flags east=file:{} --ports-file {}", file.display(), ports.display())).await;
    let written: Addresses = serde_json::from_slice(&std::fs::read(&ports).expect("a file")).expect("json");
    assert_eq!(written, *site.addresses());
    for (env, expected) in [("east", true), ("west", false)] {
        let answer = get(&format!("{}/checkout", written.environments[env])).await;
        let body: Value = serde_json::from_slice(&answer.body).expect("json");
        assert_eq!(body["new_checkout"], expected, "{env}");
    }
    server.abort();
}
