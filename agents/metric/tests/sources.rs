//! Every other kind of source, through a real `nats-server`.

#![expect(clippy::expect_used, clippy::panic, reason = "a test")]

mod world;

use std::process::ExitCode;
use std::time::Duration;

use bellwether_bus::testing::{self, Test, harness};
use bellwether_fakes::Fault;
use bellwether_protocol::sample::{Portion, Sample};
use bellwether_protocol::time::Span;
use serde_json::json;

use world::{Page, World, append};

const TESTS: [Test; 1] = bellwether_bus::tests![every_source_reaches_the_stream];

fn main() -> ExitCode {
    harness(&TESTS, Duration::from_secs(120))
}

async fn every_source_reaches_the_stream() {
    let mut world = World::new(Span::from_secs(1)).await;
    let (metrics, health, failing) = (Page::serve().await, Page::serve().await, Page::serve().await);
    let (metrics_url, health_url, failing_url) = (&*metrics.url, &*health.url, &*failing.url);
    failing.fault(Fault::status("/", 500, u32::MAX));
    metrics.with(|page| page.put(Some("n{code=\"200\"} 100\n")));
    health.with(|page| page.put(Some(r#"{"memory": "226MB of 239MB"}"#)));
    let log = world.dir.path().join("app.log");
    append(&log, "before\n");
    let metric = json!({
        "allow": ["127.0.0.1"],
        "files": {"app": log},
        "commands": {"beat": ["sh", "-c", "while echo beat; do sleep 0.2; done"]},
        "subjects": {"lines": "app.lines"},
    });
    let patterns = json!({"db_error": "refused"});
    let events = json!({"total": "n", "bad": {"http_5xx": "{code=~'5..'}"}});
    let looks = [
        ("text", "text", metrics_url, json!({"path": "/", "events": events})),
        ("json", "json", health_url, json!({"path": "/", "numbers": {"used": {"json": "$.memory"}}})),
        ("host", "host", "http://127.0.0.1", json!({"numbers": ["cpu", "memory_share", "disk_share"]})),
        ("file", "log", "http://127.0.0.1", json!({"file": "app", "patterns": patterns})),
        ("command", "log", "http://127.0.0.1", json!({"command": "beat", "patterns": {"db_error": "beat"}})),
        ("subject", "log", "http://127.0.0.1", json!({"subject": "lines", "patterns": patterns})),
        ("pushed", "pushed", "http://127.0.0.1", json!({})),
        ("absent", "text", metrics_url, json!({"path": "/", "numbers": {"x": "no_such_metric"}})),
        ("elsewhere", "json", health_url, json!({"path": "/", "numbers": {"x": {"json": "$.no.such"}}})),
        ("gone", "json", failing_url, json!({"path": "/", "numbers": {"x": {"json": "$.x"}}})),
    ];
    world.agent(&metric, &looks).await;
    for sli in ["json", "host", "file", "command"] {
        world.until(sli, |world| world.of(sli).count() > 0).await;
    }
    let later = "n{code=\"200\"} 103\nn{code=\"500\"} 2\n";
    metrics.with(|page| page.put(Some(later)));
    append(&log, "fine\nconnection refused, password=hunter2\n");
    let nats = async_nats::connect(world.url()).await.expect("connected");
    nats.publish("app.lines", "one\nconnection refused\n".into()).await.expect("published");
    let subject = bellwether_protocol::subject::Prefix::default().pushed(
        &"shop".parse().expect("a service"),
        &"sjc".parse().expect("a region"),
        &"pushed".parse().expect("an sli"),
    );
    assert_eq!(subject, "bw.pushed.shop.sjc.pushed");
    for document in [r#"{"n": 10, "bad": 1, "release": "v2"}"#, "nonsense", r#"{"n": 1}"#] {
        nats.publish(subject.clone(), document.into()).await.expect("published");
    }
    nats.flush().await.expect("flushed");
    let has_bad = |sample: &Sample| sample.portions.iter().any(Portion::has_bad);
    for sli in ["pushed", "text", "file", "subject"] {
        world.until(sli, |world| world.of(sli).any(has_bad)).await;
    }
    // Two slots more, in which nothing may be counted twice.
    let seen = world.of("host").count();
    world.until("more slots", |world| world.of("host").count() > seen + 2).await;

    check(&world);
    let wanted = [
        "absent: number `x` has no value",
        &format!("elsewhere: {}/: ", health_url.trim_start_matches("http://")),
        &format!("gone: {}/: status 500", failing_url.trim_start_matches("http://")),
    ];
    let told = testing::until("the reasons of every gap", async || {
        let gaps: Vec<String> = world.gaps().await.into_iter().map(|(sli, why)| format!("{sli}: {why}")).collect();
        if gaps.len() == wanted.len() { Ok(gaps) } else { Err(gaps) }
    });
    let told = told.await;
    assert!(told.iter().zip(wanted).all(|(gap, wanted)| gap.starts_with(wanted)), "{told:?}");
}

fn check(world: &World) {
    let counted = |sli: &str| world.counted(sli).into_iter().map(|(name, n)| format!("{name} {n}")).collect::<Vec<_>>();
    assert_eq!(counted("text"), ["- http_5xx 2", "- ok 3"]);
    assert_eq!(counted("file"), ["- db_error 1", "- ok 1"]);
    assert_eq!(counted("subject"), ["- db_error 1", "- ok 1"]);
    assert_eq!(counted("pushed"), ["v2 bad 1", "v2 ok 9"], "what is unclear counts nothing");
    assert_eq!(world.of("pushed").count(), 1, "silence is a gap");
    assert!(counted("command")[0].starts_with("- db_error "));
    let evidence: Vec<&str> =
        world.of("file").flat_map(|sample| &sample.evidence).map(|one| one.text.as_str()).collect();
    assert_eq!(evidence, ["connection refused, password=***"]);
    let used: Vec<f64> =
        world.of("json").flat_map(|s| &s.portions).flat_map(|p| p.numbers.values()).map(|l| l.max).collect();
    assert!(used.iter().all(|used| (used - 226e6).abs() < 1.0) && !used.is_empty(), "{used:?}");
    let shares: Vec<_> = world.of("host").flat_map(|s| &s.portions).flat_map(|p| p.numbers.values()).collect();
    assert!(shares.len() >= 3 && shares.iter().all(|level| (0.0..=1_000.0).contains(&level.last)));
    let sources: Vec<Option<&str>> = ["pushed", "subject", "file"]
        .iter()
        .map(|sli| world.of(sli).next().and_then(|s| s.source.as_deref()))
        .collect();
    assert_eq!(sources, [Some("pushed pushed"), Some("log lines"), None]);
}
