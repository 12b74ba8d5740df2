//! One trace from a failing look to the message in Slack, figures and health of every process, and a
//! collector that is away.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::routing::post;
use bellwether_fakes::Fake;
use bellwether_fakes::slack::Slack;
use bellwether_protocol::reason::Ending;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::mesh::{BAD, Mesh};
use crate::run;

const COORDINATOR: &str = "coordinator-1";
const CHANNEL: &str = "C0123456789";

/// One hop, as a collector has it.
#[derive(Debug, Clone)]
struct Hop {
    trace: Vec<u8>,
    id: Vec<u8>,
    parent: Vec<u8>,
    name: String,
    process: String,
    attributes: BTreeMap<String, String>,
    failed: bool,
    began: u64,
}

/// What a collector was sent.
#[derive(Debug, Default)]
struct Sent {
    hops: Vec<Hop>,
    figures: BTreeSet<String>,
}

type Collector = Arc<Mutex<Sent>>;

fn attributes(pairs: Vec<KeyValue>) -> BTreeMap<String, String> {
    let text = |value| match value {
        Value::StringValue(text) => text,
        Value::IntValue(number) => number.to_string(),
        other => format!("{other:?}"),
    };
    pairs.into_iter().filter_map(|pair| Some((pair.key, text(pair.value?.value?)))).collect()
}

async fn take_traces(State(collector): State<Collector>, body: Bytes) {
    let request = ExportTraceServiceRequest::decode(body).expect("OTLP");
    let mut sent = collector.lock().unwrap_or_else(PoisonError::into_inner);
    for resource in request.resource_spans {
        let about = attributes(resource.resource.expect("a resource").attributes);
        for span in resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
            sent.hops.push(Hop {
                trace: span.trace_id,
                id: span.span_id,
                parent: span.parent_span_id,
                name: span.name,
                process: about["service.name"].clone(),
                attributes: attributes(span.attributes),
                failed: span.status.is_some_and(|status| status.code == 2),
                began: span.start_time_unix_nano,
            });
        }
    }
}

async fn take_figures(State(collector): State<Collector>, body: Bytes) {
    let request = ExportMetricsServiceRequest::decode(body).expect("OTLP");
    let scopes = request.resource_metrics.into_iter().flat_map(|resource| resource.scope_metrics);
    let names = scopes.flat_map(|scope| scope.metrics).map(|metric| metric.name);
    collector.lock().unwrap_or_else(PoisonError::into_inner).figures.extend(names);
}

/// A collector on a port of the system's choice. It ends with the runtime.
async fn collect() -> (String, Collector) {
    let collector = Collector::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let routes = Router::new().route("/v1/traces", post(take_traces)).route("/v1/metrics", post(take_figures));
    let routes = routes.with_state(Arc::clone(&collector));
    tokio::spawn(async move { axum::serve(listener, routes).await });
    (url, collector)
}

/// From `last` back to where its trace began, the beginning first.
fn way_to<'a>(hops: &'a [Hop], last: &'a Hop) -> Vec<&'a Hop> {
    let mut way = vec![last];
    while let Some(parent) = hops.iter().find(|hop| hop.id == way[way.len() - 1].parent) {
        assert_eq!(parent.trace, last.trace);
        way.push(parent);
    }
    way.reverse();
    way
}

fn told_slack(hops: &[Hop]) -> Option<&Hop> {
    let tells = |hop: &&Hop| hop.name == "POST" && hop.process == "bellwether-alert";
    let set = hops.iter().filter(|hop| hop.name == "set lever").min_by_key(|hop| {
        let is_back = hop.attributes.get("bellwether.lever.value").is_some_and(|value| value == "0%");
        (!is_back, hop.began)
    })?;
    hops.iter().filter(tells).find(|hop| hop.trace == set.trace && way_to(hops, hop)[0].name == "look")
}

fn names<'a>(way: &[&'a Hop]) -> Vec<(&'a str, &'a str)> {
    way.iter().map(|hop| (hop.process.trim_start_matches("bellwether-"), hop.name.as_str())).collect()
}

async fn mesh_with_slack(env: &[(&str, &str)]) -> (Mesh, Fake<Slack>) {
    let slack = Fake::start(Slack::new(CHANNEL, "xoxb-test")).await.expect("a fake");
    let mut mesh = Mesh::start_in(env, &[COORDINATOR]).await;
    let token = mesh.path("token");
    std::fs::write(&token, "xoxb-test").expect("written");
    let bridge = format!("{{ url: \"{}/api\", token: \"file:{token}\", channel: {CHANNEL} }}", slack.url);
    let rest = format!("alert:\n  bridges:\n    ops: {{ slack: {bridge} }}\n");
    mesh.add_agent_with("hub.alert.slack-1", &rest);
    mesh.until("the bridge", || mesh.log("hub.alert.slack-1").contains("agent started").then_some(())).await;
    (mesh, slack)
}

/// One bad release, to its end and to its message. Prints its life as the logs tell it.
async fn take_back(mesh: &Mesh, slack: &Fake<Slack>) {
    let mut log = mesh.log_from_now().await;
    let before = mesh.log(COORDINATOR).lines().count();
    assert_eq!(mesh.start_rollout(BAD).await.refused, None);
    assert_eq!(log.until_ended().await, Ending::RolledBack);
    mesh.until("a message in Slack", || slack.with(|slack| (!slack.messages.is_empty()).then_some(()))).await;
    let said = mesh.log(COORDINATOR);
    let life: Vec<&str> = said.lines().skip(before).collect();
    println!("the life of a rollout in {} lines:", life.len());
    life.iter().for_each(|line| println!("  {}", line.chars().take(160).collect::<String>()));
}

/// What a process answers on its own address: status and body.
async fn ask(mesh: &Mesh, process: &str, path: &str) -> (u16, String) {
    let log = mesh.log(process);
    let line = log.lines().rev().find(|line| line.contains("serving /metrics")).expect("it listens");
    get(line.split("address=").nth(1).expect("an address").trim(), path).await
}

/// What is answered over plain HTTP: status and body.
pub(crate) async fn get(address: &str, path: &str) -> (u16, String) {
    let mut stream = tokio::net::TcpStream::connect(address).await.expect("connected");
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("written");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("read");
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    (status, answer.split_once("\r\n\r\n").expect("a body").1.to_owned())
}

fn listening(mesh: &Mesh) -> Vec<String> {
    mesh.logs().filter(|(_, log)| log.contains("serving /metrics")).map(|(name, _)| name.to_owned()).collect()
}

#[test]
fn one_trace_leads_from_a_failing_look_to_slack() {
    run(async {
        let (url, collector) = collect().await;
        let env = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", url.as_str()),
            ("OTEL_BSP_SCHEDULE_DELAY", "200"),
            ("OTEL_METRIC_EXPORT_INTERVAL", "500"),
        ];
        let (mesh, slack) = mesh_with_slack(&env).await;
        take_back(&mesh, &slack).await;
        let hops = || collector.lock().unwrap_or_else(PoisonError::into_inner).hops.clone();
        let hops = mesh.until("its hops", || Some(hops()).filter(|hops| told_slack(hops).is_some())).await;
        let told = told_slack(&hops).expect("found before");
        let way = way_to(&hops, told);
        println!("trace {} to Slack:", told.trace.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
        way.iter().for_each(|hop| println!("  {:22} {:18} {:?}", hop.process, hop.name, hop.attributes));
        let expected = [
            ("probe", "look"),
            ("probe", "publish bw.sample"),
            ("coordinator", "decide"),
            ("coordinator", "append bw.decision"),
            ("coordinator", "publish bw.alert"),
            ("alert", "take up bw.alert"),
            ("alert", "tell"),
            ("alert", "POST"),
        ];
        assert_eq!(names(&way), expected);
        assert!(way[0].failed && way[0].attributes["error.type"] == "http_5xx", "{:?}", way[0]);
        let looked = hops.iter().find(|hop| hop.parent == way[0].id).expect("a request");
        assert_eq!((looked.name.as_str(), looked.attributes["http.response.status_code"].as_str()), ("GET", "500"));

        let results = hops.iter().filter(|hop| hop.trace == told.trace && hop.name == "publish bw.result");
        let ways: Vec<Vec<&Hop>> = results.map(|hop| way_to(&hops, hop)).collect();
        println!("and {} results in it, the first:", ways.len());
        let way = ways.iter().find(|way| way.len() == 7).expect("a result of the first decision");
        way.iter().for_each(|hop| println!("  {:22} {:18}", hop.process, hop.name));
        let acting = [("publish bw.action", "coordinator"), ("act bw.action", "")];
        for ((name, process), hop) in acting.iter().zip(&way[4..6]) {
            assert!(hop.name == *name && hop.process.ends_with(process), "{hop:?}");
        }
        let set = hops.iter().filter(|hop| hop.name == "set lever" && hop.trace == told.trace);
        let set: BTreeSet<&str> = set.map(|hop| hop.attributes["bellwether.lever.value"].as_str()).collect();
        assert_eq!(set, BTreeSet::from(["0%", "v41", "off"]), "what the level sets is set in this trace");
        let figures = collector.lock().unwrap_or_else(PoisonError::into_inner).figures.clone();
        assert!(figures.contains("bellwether.relay.lag") && figures.contains("bellwether.alerts.told"), "{figures:?}");
    });
}

/// Every figure that a dashboard asks for.
fn asked_for(dashboard: &serde_json::Value) -> BTreeSet<String> {
    let panels = dashboard["panels"].as_array().expect("panels");
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().cloned().unwrap_or_default());
    let queries: Vec<String> = targets.map(|target| target["expr"].as_str().expect("a query").to_owned()).collect();
    let words = queries.iter().flat_map(|query| query.split(|c: char| !c.is_ascii_alphanumeric() && c != '_'));
    let is_ours = |word: &&str| word.starts_with("bellwether_") || word.starts_with("messaging_");
    let is_label = |word: &str| {
        queries.iter().any(|query| query.contains(&format!("by ({word}")) || query.contains(&format!("{word}=")))
    };
    words.filter(is_ours).filter(|word| !is_label(word)).map(str::to_owned).collect()
}

#[test]
fn a_collector_that_is_away_slows_nothing_down_and_figures_say_so() {
    run(async {
        // A port that was free a moment ago: connections to it are refused.
        let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", closed.local_addr().expect("an address"));
        drop(closed);
        let env = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", url.as_str()),
            ("OTEL_BSP_SCHEDULE_DELAY", "200"),
            ("BELLWETHER_LISTEN", "127.0.0.1:0"),
        ];
        let (mesh, slack) = mesh_with_slack(&env).await;
        take_back(&mesh, &slack).await;

        let (mut exported, mut pages) = (BTreeSet::new(), BTreeMap::new());
        for process in listening(&mesh) {
            let (status, said) = ask(&mesh, &process, "/healthz").await;
            assert_eq!(status, 200, "{process}: {said}");
            let (status, page) = ask(&mesh, &process, "/metrics").await;
            assert_eq!(status, 200);
            let names =
                page.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split(['{', ' ']).next());
            exported.extend(names.map(str::to_owned));
            pages.insert(process, page);
        }
        assert_eq!(pages.len(), 9, "a coordinator and eight agents: {:?}", pages.keys());
        let lost = pages[COORDINATOR].lines().find(|line| line.starts_with("bellwether_telemetry_spans_lost_total{"));
        println!("coordinator: {}", lost.expect("what was lost is counted"));

        let dashboard = include_str!("../../.docker/grafana/bellwether.json");
        let asked = asked_for(&serde_json::from_str(dashboard).expect("JSON"));
        let missing: Vec<&String> = asked.difference(&exported).collect();
        assert!(asked.len() > 10 && missing.is_empty(), "the dashboard asks for {missing:?}; there are {exported:#?}");

        mesh.end_server();
        for process in [COORDINATOR, "west.rollback.roll-1"] {
            let until = std::time::Instant::now() + crate::mesh::WITHIN;
            let (mut status, mut said) = ask(&mesh, process, "/healthz").await;
            while status != 503 && std::time::Instant::now() < until {
                tokio::time::sleep(crate::mesh::LOOK_EVERY).await;
                (status, said) = ask(&mesh, process, "/healthz").await;
            }
            assert!(status == 503 && said.contains("\"check\":\"nats\""), "{process}: {status} {said}");
        }
    });
}

#[test]
fn what_a_metric_agent_asks_and_sends_is_one_trace() {
    run(async {
        let (url, collector) = collect().await;
        let env = [("OTEL_EXPORTER_OTLP_ENDPOINT", url.as_str()), ("OTEL_BSP_SCHEDULE_DELAY", "200")];
        let mut mesh = Mesh::start_in(&env, &[COORDINATOR]).await;
        for region in ["east", "west"] {
            let host = mesh.site.environments[region].trim_start_matches("http://").to_owned();
            mesh.add_agent_with(&format!("{region}.metric.metric-1"), &format!("metric:\n  allow: [\"{host}\"]\n"));
        }
        let numbers = "  - name: health\n    json: { path: /health, numbers: { uptime: { json: $.uptime } } }\n";
        let criterion = "  - { name: young, number: { sli: health, number: uptime, min: 0 } }\n";
        mesh.plan = mesh.plan.replace("criteria:\n", &format!("{numbers}criteria:\n{criterion}"));
        let list = || String::from_utf8(mesh.run(&["agents", "list", "--json"]).stdout).ok();
        let both = || list().filter(|listed| listed.matches("\"json\"").count() == 2);
        mesh.until("both metric agents", both).await;
        assert_eq!(mesh.start_rollout("v42").await.refused, None);
        let found = || {
            let hops = collector.lock().unwrap_or_else(PoisonError::into_inner).hops.clone();
            let reads = |hop: &&Hop| hop.process == "bellwether-metric" && hop.name == "publish bw.sample";
            let way = hops.iter().filter(reads).map(|hop| way_to(&hops, hop)).find(|way| way.len() > 1)?;
            assert_eq!(names(&way), [("metric", "look"), ("metric", "publish bw.sample")]);
            hops.iter().any(|hop| hop.parent == way[0].id && hop.name == "GET").then_some(())
        };
        mesh.until("a question and a sample of one look", found).await;
    });
}
