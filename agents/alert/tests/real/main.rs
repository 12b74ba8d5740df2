//! Alert agents on a real `nats-server`, with real receivers where there are any and strict fakes where not.
//!
//! This program is its own harness, so that it can also be the shim under which servers run.

#![expect(clippy::expect_used, reason = "a test")]

mod parts;
mod world;

use std::process::ExitCode;
use std::time::Duration;

use bellwether_bus::testing::{Test, WITHIN, harness, until, wait_for};
use bellwether_fakes::pagerduty::Pagerduty;
use bellwether_fakes::slack::Slack;
use bellwether_fakes::{Fake, Fault};
use bellwether_protocol::alert::{Alert, IncidentKind, Severity};
use bellwether_protocol::codec::to_json;
use bellwether_protocol::subject::Bucket;
use serde_json::{Value, json};

use parts::PASSWORD;
use world::{SECRET, World, alert};

const TESTS: [Test; 6] = bellwether_bus::tests![
    an_agent_that_starts_in_an_outage_pages,
    every_alert_is_told_once_whoever_stops,
    five_hundred_failing_slots_are_one_thread,
    real_receivers_agree_with_us,
    silence_pages_once,
    what_is_acknowledged_is_not_escalated,
];

fn main() -> ExitCode {
    harness(&TESTS, 4 * WITHIN + 2 * outage())
}

async fn every_alert_is_told_once_whoever_stops() {
    let world = World::new().await;
    // What was said before an agent was ever started is no longer news.
    world.publish(&alert(1)).await;
    let (east, west) = (world.agent("east", false), world.agent("west", false));
    east.is_ready().await;
    west.is_ready().await;
    let mut last = 0;
    for seq in 2..=6 {
        last = world.publish(&alert(seq)).await;
    }
    east.is_done_with(last).await;
    west.is_done_with(last).await;
    east.stop().await;
    west.stop().await;
    for seq in 7..=9 {
        last = world.publish(&alert(seq)).await;
    }
    // One comes back and tells what both missed; the other comes back later and finds it told.
    let east = world.agent("east", false);
    east.is_done_with(last).await;
    let west = world.agent("west", false);
    west.is_done_with(last).await;
    let expected: Vec<String> = (2..=9).map(|seq| format!("shop/7-error_rate.{seq}")).collect();
    assert_eq!(world.ids(), expected);
    east.stop().await;
    west.stop().await;
}

async fn an_agent_that_starts_in_an_outage_pages() {
    let world = World::new().await;
    world.publish(&alert(1)).await;
    world.kill();
    // The receiver is still at it when the mesh answers.
    world.hook.hold(true);
    let west = world.agent("west", true);
    wait_for("a page", || world.posts().len() == 1).await;
    world.restart().await;
    // What was said before it was ever started is no longer news, though it has told something since.
    until("its place in the stream", async || if west.position() == 1 { Ok(()) } else { Err(west.position()) }).await;
    world.hook.hold(false);
    wait_for("nothing waits", || west.waiting() == 0).await;
    let claims = world.bus.kv(Bucket::Told).entries().await.expect("read");
    let claims: Vec<String> = claims.into_iter().filter_map(|claim| String::from_utf8(claim.value?).ok()).collect();
    assert_eq!(claims, [r#"{"by":"west.alert.alert-1","done":true}"#], "nobody else has to tell it");
    world.coordinator_is_here().await;
    wait_for("a resolution", || world.posts().len() == 2).await;
    let told = world.told();
    assert!(told[0].headline.contains("west is cut off from NATS since"), "{}", told[0].headline);
    assert_eq!(told.iter().map(|alert| alert.severity).collect::<Vec<_>>(), [Severity::Page, Severity::Page]);
    assert_eq!((told[0].kind, told[1].kind), (IncidentKind::Opened, IncidentKind::Resolved));
    assert_eq!(told[0].incident, told[1].incident);
    west.stop().await;
}

async fn silence_pages_once() {
    let world = World::new().await;
    let (east, west) = (world.agent("east", true), world.agent("west", true));
    east.is_ready().await;
    west.is_ready().await;
    // Both hear the same last heartbeat, so both name the silence after it.
    world.coordinator_is_here().await;
    // The one that loses the claim keeps the page back, to see that it is told.
    let told = async |count: usize| {
        let (ids, east, west) = (world.ids(), east.waiting(), west.waiting());
        if (ids.len(), east + west) == (count, count) { Ok(()) } else { Err((ids, east, west)) }
    };
    until("one page told and one kept back", async || told(1).await).await;
    world.coordinator_is_here().await;
    until("a resolution told and one kept back", async || told(2).await).await;
    let ids = world.ids();
    let incident = ids.first().and_then(|id| id.strip_suffix("-no_coordinator.1")).expect("a page");
    assert_eq!(ids.last(), Some(&format!("{incident}-no_coordinator.2")));
    let severities: Vec<Severity> = world.told().iter().map(|alert| alert.severity).collect();
    assert_eq!(severities, [Severity::Page, Severity::Page]);
    east.stop().await;
    west.stop().await;
}

const TOKEN: &str = "xoxb-hidden";
const CHANNEL: &str = "C0123456789";
const KEY: &str = "hidden00000000000000000000hidden";

/// For how many seconds Slack stays down, once everything else is told. Default 0.
const OUTAGE: &str = "SLACK_OUTAGE_SECONDS";

/// Three regions fail in 500 slots. Meanwhile Slack answers 429, is down, and the agent that tells dies.
async fn five_hundred_failing_slots_are_one_thread() {
    let world = World::new().await;
    let slack = Fake::start(Slack::new(CHANNEL, TOKEN)).await.expect("a fake");
    let pagerduty = Fake::start(Pagerduty::new(KEY)).await.expect("a fake");
    let config = json!({
        "console": false,
        "pages_when_silent": false,
        "bridges": {
            "chat": { "slack": { "url": format!("{}/api", slack.url), "token": world.secret("token", TOKEN), "channel": CHANNEL } },
            "oncall": { "pagerduty": { "url": pagerduty.url, "routing_key": world.secret("key", KEY) } },
        },
        "routes": [{ "severity": "warn", "to": ["chat"] }, { "severity": "page", "to": ["oncall"] }],
    });
    let mut east = world.agent_with("east", &config);
    east.is_ready().await;
    world.publish(&Alert { kind: IncidentKind::Opened, ..alert(1) }).await;
    wait_for("a root", || slack.with(|slack| !slack.messages.is_empty())).await;
    let west = world.agent_with("west", &config);
    west.is_ready().await;
    let mut last = 0;
    for slot in 2..=501 {
        match slot {
            50 => slack
                .fault(Fault { headers: vec![("retry-after".into(), "2".into())], ..Fault::status("/api/", 429, 3) }),
            100 => slack.fault(Fault::status("/api/", 503, u32::MAX)),
            240 => pagerduty.fault(Fault { takes_effect: true, ..Fault::status("/v2/", 502, 1) }),
            300 => {
                east.stop().await;
                east = world.agent_with("east", &config);
            }
            _ => {}
        }
        last = world.publish(&of_slot(slot)).await;
    }
    wait_for("everything to be read", || east.position() >= last).await;
    wait_for("PagerDuty to hear of the end", || pagerduty.with(|p| p.alerts.values().any(|alert| alert.resolves == 1)))
        .await;
    tokio::time::sleep(outage()).await;
    let before = slack.with(|slack| slack.messages.len());
    assert!(before <= 2, "Slack was down, and yet took {before} messages");
    let in_vain = slack.log().len();
    slack.heal();
    let healed = tokio::time::Instant::now();
    // Each wait between two tries is twice the one before, so the last may be as long as the outage was.
    tokio::time::timeout(outage() + WITHIN, until_told(&slack, before)).await.expect("told once Slack is back");
    println!(
        "Slack was down for {} s after everything else was told: {in_vain} requests by then, told {} s after its return",
        outage().as_secs(),
        healed.elapsed().as_secs()
    );
    east.is_done_with(last).await;
    let alerts = pagerduty.with(|pagerduty| pagerduty.alerts.clone());
    let found = alerts.values().next().expect("an alert");
    assert_eq!((alerts.len(), found.rings, found.resolves, found.is_open), (1, 1, 1, false));
    slack.with(|slack| {
        let said: Vec<&str> = slack.messages.iter().filter_map(|message| message["text"].as_str()).collect();
        assert_eq!(slack.roots().len(), 1, "{said:?}");
        assert_eq!(said.len(), 6 - 1, "root, began, not applied, applied, recovered: {said:?}");
        let header = &slack.messages[0]["blocks"][0]["text"]["text"];
        assert_eq!(header, "✓ Recovered: shop v42");
        assert!(slack.edits < 50, "{} edits", slack.edits);
        println!("one page, one resolve; in the channel, {} edits of the root: {said:#?}", slack.edits);
    });
    east.stop().await;
    west.stop().await;
}

/// What the coordinator says of a slot.
fn of_slot(slot: u32) -> Alert {
    let (kind, severity, state) = match slot {
        ..250 => (IncidentKind::Updated, Severity::Warn, "taking_back"),
        250..400 => (IncidentKind::Updated, Severity::Page, "not_taken_back"),
        400..=500 => (IncidentKind::Updated, Severity::Page, "applied"),
        _ => (IncidentKind::Resolved, Severity::Page, "recovered"),
    };
    let region = ["sjc", "iad", "fra"][slot as usize % 3].parse().expect("a region");
    let headline = format!("error_rate {slot} of 2,000 > 0.5% in {region}");
    Alert { kind, severity, state: state.to_owned(), headline, regions: vec![region], ..alert(slot) }
}

fn outage() -> Duration {
    let seconds = std::env::var(OUTAGE).ok().map(|text| text.parse().expect("a number of seconds"));
    Duration::from_secs(seconds.unwrap_or(0))
}

async fn until_told(slack: &Fake<Slack>, before: usize) {
    while slack.with(|slack| slack.messages.len()) <= before {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn what_is_acknowledged_is_not_escalated() {
    let world = World::new().await;
    let pagerduty = Fake::start(Pagerduty::new(KEY)).await.expect("a fake");
    let config = json!({
        "console": false,
        "pages_when_silent": false,
        "bridges": {
            "hook": world.hook(),
            "oncall": { "pagerduty": { "url": pagerduty.url, "routing_key": world.secret("key", KEY) } },
        },
        "routes": [{ "to": ["hook"], "remind_every": "3s", "escalate": { "after": "4s", "to": ["oncall"] } }],
    });
    let agents = [world.agent_with("east", &config), world.agent_with("west", &config)];
    for agent in &agents {
        agent.is_ready().await;
    }
    let at = bellwether_bus::Clock::new().now();
    for number in [7, 8] {
        let incident = format!("shop/{number}-error_rate").parse().expect("an incident");
        world.publish(&Alert { kind: IncidentKind::Opened, incident, at, ..alert(1) }).await;
    }
    let body = to_json("ack", &json!({ "incident": "shop/7-error_rate" })).expect("encoded");
    let subject = world.bus.prefix().ack(&"shop".parse().expect("a service"), &"ann".parse().expect("a name"));
    let last = world.bus.publish(subject, "ack-1", body).await.expect("stored").seq;
    wait_for("an escalation", || pagerduty.with(|pagerduty| !pagerduty.alerts.is_empty())).await;
    wait_for("both to read the acknowledgement", || agents.iter().all(|agent| agent.position() >= last)).await;
    wait_for("a second reminder", || world.ids().iter().any(|id| id.ends_with("reminder-2"))).await;
    let alerts = pagerduty.with(|pagerduty| pagerduty.alerts.clone());
    assert_eq!(alerts.keys().collect::<Vec<_>>(), ["shop/8-error_rate"]);
    assert_eq!((alerts["shop/8-error_rate"].rings, alerts["shop/8-error_rate"].severity.as_str()), (1, "critical"));
    let expected = ["7-error_rate.1", "8-error_rate.1", "8-error_rate.1.reminder-1", "8-error_rate.1.reminder-2"];
    assert_eq!(world.ids(), expected.map(|id| format!("shop/{id}")));
    for agent in agents {
        agent.stop().await;
    }
}

async fn real_receivers_agree_with_us() {
    let world = World::new().await;
    let dir = world.dir.path().to_owned();
    let (relay, alertmanager) = {
        let dir = dir.clone();
        tokio::task::spawn_blocking(move || (parts::relay(&dir), parts::alertmanager(&dir))).await.expect("started")
    };
    let read = |name: &str| std::fs::read_to_string(dir.join(name)).unwrap_or_default();
    wait_for("a relay", || !read("smtp.port").is_empty()).await;
    let listens = || {
        read("alertmanager.log")
            .split("address=127.0.0.1:")
            .nth(1)
            .and_then(|rest| rest.split_whitespace().next().map(str::to_owned))
    };
    wait_for("an Alertmanager", || listens().is_some()).await;
    let metrics = format!("http://127.0.0.1:{}", listens().expect("an address"));
    let mail = |to: &[&str]| {
        json!({ "email": {
            "relay": "localhost", "port": read("smtp.port").parse::<u16>().expect("a port"), "ca": dir.join("smtp.pem"),
            "user": "bellwether", "password": world.secret("password", PASSWORD),
            "from": "Bellwether <bellwether@example.com>", "to": to,
        } })
    };
    let auth = json!({ "basic": { "user": "bellwether", "password": world.secret("password", PASSWORD) } });
    let agent = world.agent_with(
        "east",
        &json!({
            "console": false,
            "pages_when_silent": false,
            "bridges": {
                "hook": world.hook(),
                "metrics": { "alertmanager": { "url": metrics, "resend_every": "1s", "auth": auth } },
                "refused": mail(&["nobody@example.com"]),
                "team": mail(&["later@example.com", "team@example.com"]),
            },
        }),
    );
    agent.is_ready().await;
    let at = bellwether_bus::Clock::new().now();
    let stage = "canary".parse().ok();
    world.publish(&Alert { kind: IncidentKind::Opened, stage: stage.clone(), at, ..alert(1) }).await;
    let firing = async |what: &str, is_so: fn(&[Value]) -> bool| firing(&metrics, what, is_so).await;
    let first = firing("one alert", |alerts| alerts.len() == 1).await;
    // It would have ended by itself by now, were it not posted again.
    tokio::time::sleep(Duration::from_secs(6)).await;
    let again = firing("the same alert", |alerts| alerts.len() == 1).await;
    let identity = |alerts: &[Value]| (alerts[0]["fingerprint"].clone(), alerts[0]["startsAt"].clone());
    assert_eq!(identity(&first), identity(&again));
    assert_eq!(again[0]["status"]["state"], "active");
    assert_ne!(first[0]["updatedAt"], again[0]["updatedAt"]);
    let page = Alert { severity: Severity::Page, state: "not_taken_back".into(), stage, at, ..alert(2) };
    world.publish(&page).await;
    firing("one alert, a page", |alerts| alerts.len() == 1 && alerts[0]["labels"]["severity"] == "page").await;
    let end = Alert { kind: IncidentKind::Resolved, seq: 3, state: "recovered".into(), ..page };
    let last = world.publish(&end).await;
    firing("no alert", <[Value]>::is_empty).await;
    agent.is_done_with(last).await;
    mail_threads(&read("smtp.jsonl"));
    reference_library_verifies(&world).await;
    agent.stop().await;
    tokio::task::spawn_blocking(move || drop((relay, alertmanager))).await.expect("stopped");
}

/// Waits until what an Alertmanager shows `is_so`.
async fn firing(url: &str, what: &str, is_so: fn(&[Value]) -> bool) -> Vec<Value> {
    let client = bellwether_runtime::http().expect("a client");
    until(what, async || {
        let request = client.get(format!("{url}/api/v2/alerts")).basic_auth("bellwether", Some(PASSWORD));
        let answer = request.send().await.expect("an answer");
        let alerts: Vec<Value> = answer.json().await.expect("alerts");
        if is_so(&alerts) { Ok(alerts) } else { Err(alerts) }
    })
    .await
}

fn mail_threads(lines: &str) {
    let mails: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let did = |what: &str| mails.iter().filter(|mail| mail["did"] == what).collect::<Vec<_>>();
    assert_eq!(did("refused").len(), 3, "each once, none again: {mails:?}");
    assert_eq!((did("deferred").len(), did("queued").len()), (1, 3), "{mails:?}");
    let queued = did("queued");
    assert_eq!(did("deferred")[0]["id"], queued[0]["id"]);
    assert_eq!(queued[0]["id"], "<shop/7-error_rate@example.com>");
    for (mail, state) in queued.iter().zip(["✗ Taking back", "✗ NOT taken back", "✓ Recovered"]) {
        assert_eq!(mail["tls"], true);
        assert_eq!(mail["subject"], "[warn] shop v42: error_rate 5.8% > 0.5%");
        let first_line = mail["text"].as_str().and_then(|text| text.lines().next()).unwrap_or_default();
        assert_eq!(first_line, format!("{state}: shop v42 in canary"));
    }
    assert!(queued.iter().skip(1).all(|mail| mail["references"] == queued[0]["id"]), "{mails:?}");
}

async fn reference_library_verifies(world: &World) {
    let lines: Vec<String> = world
        .posts()
        .iter()
        .map(|post| {
            let headers: serde_json::Map<String, Value> =
                post.headers.iter().map(|(name, value)| (name.clone(), value.as_str().into())).collect();
            json!({ "headers": headers, "body": post.body }).to_string()
        })
        .collect();
    let file = world.dir.path().join("posts.jsonl");
    std::fs::write(&file, lines.join("\n")).expect("written");
    let verified = tokio::task::spawn_blocking(move || parts::verify(SECRET, &file));
    assert_eq!(verified.await.expect("run").trim(), "3");
}
