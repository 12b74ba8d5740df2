//! The metric agent against a real Prometheus that scrapes a page of ours every half second.

#![expect(clippy::expect_used, clippy::panic, reason = "a test")]

mod world;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use bellwether_bus::child::{Child, Output, Spec};
use bellwether_bus::testing::{self, Test, harness};
use bellwether_fakes::parts::debian;
use bellwether_protocol::sample::{Histogram, Sample};
use bellwether_protocol::time::Span;
use serde_json::json;

use world::{Page, World};

const TESTS: [Test; 1] = bellwether_bus::tests![what_prometheus_says_becomes_the_right_samples];

fn main() -> ExitCode {
    harness(&TESTS, Duration::from_secs(120))
}

/// What is missing to the end, and a word of why.
const MISSING: [(&str, &str); 10] = [
    ("aged", "no value"),
    ("broken", "parse error"),
    ("empty", "no value"),
    ("empty_ratio", "no value"),
    ("inf", "is inf"),
    ("inf_ratio", "is inf"),
    ("nan", "is NaN"),
    ("no_counter", "no value that is new and finite"),
    ("no_label", "no series of `total` has the label `status`"),
    ("several", "several values"),
];

/// Long enough for every value on the page to be scraped.
const STEP: Duration = Duration::from_millis(1_600);

async fn what_prometheus_says_becomes_the_right_samples() {
    let page = Page::serve().await;
    let put = |text: Option<&str>| page.with(|page| page.put(text));
    put(Some(&text("v1", 100, None, [5, 9, 11])));
    let mut world = World::new(Span::from_secs(2)).await;
    let (_prometheus, url) = prometheus(world.dir.path(), page.url.trim_start_matches("http://")).await;
    let number = |query: &str| json!({"server": "main", "numbers": {"x": query}});
    let events = json!({"total": "n{job='shop'}", "bad": {"http_5xx": "{code=~'5..'}"}});
    let unknown = json!({"total": "n", "bad": {"http_5xx": "{status=~'5..'}"}});
    let looks = [
        ("level", number("sum(level)")),
        ("errors", json!({"server": "main", "events": events, "release_label": "version"})),
        ("latency", json!({"server": "main", "buckets": "d_bucket"})),
        ("aged", json!({"server": "main", "numbers": {"x": "aged"}, "stale_after": "3s"})),
        ("empty", number("no_such_metric")),
        ("empty_ratio", number("sum(no_such_metric) / sum(no_such_metric)")),
        ("nan", number("not_a_number")),
        ("inf", number("infinite")),
        ("inf_ratio", number("1 / 0")),
        ("several", number("d_bucket")),
        ("broken", number("sum(")),
        ("no_counter", json!({"server": "main", "buckets": "no_such_bucket"})),
        ("no_label", json!({"server": "main", "events": unknown})),
    ];
    let looks: Vec<_> =
        looks.iter().map(|(sli, settings)| (*sli, "prometheus", url.as_str(), settings.clone())).collect();
    world.agent(&json!({"prometheus": {"main": {"url": url}}}), &looks).await;
    world.until("a first count", |world| world.of("errors").count() > 0).await;

    // 100 -> 105; then a first error; then a restart with a new release, counters from zero; then 3 -> 7.
    for (release, good, bad, buckets) in [
        ("v1", 105, None, [6, 10, 12]),
        ("v1", 105, Some(2), [6, 10, 12]),
        ("v2", 3, None, [1, 1, 3]),
        ("v2", 7, None, [1, 3, 6]),
    ] {
        put(Some(&text(release, good, bad, buckets)));
        tokio::time::sleep(STEP).await;
    }
    let seen = world.of("errors").count();
    world.until("the last counts", |world| world.of("errors").count() > seen + 4).await;
    let counted: Vec<(String, u64)> = world.counted("errors").into_iter().collect();
    let expected = [("v1 http_5xx", 2), ("v1 ok", 5), ("v2 ok", 7)].map(|(name, count)| (name.to_owned(), count));
    assert_eq!(counted, expected, "every event is counted once, over births and restarts");
    let mut latency = Histogram::default();
    world.of("latency").flat_map(|sample| &sample.portions).for_each(|portion| latency.merge(&portion.latency));
    assert_eq!(latency.0.into_iter().collect::<Vec<_>>(), [(100, 2), (250, 2), (u64::MAX, 3)]);
    let values: Vec<f64> =
        world.of("level").flat_map(|s| &s.portions).flat_map(|p| p.numbers.values()).map(|l| l.last).collect();
    assert!(!values.is_empty() && values.iter().all(|value| (value - 42.5).abs() < 1e-9), "{values:?}");
    assert!(world.samples.iter().all(|sample| sample.source.as_deref() == Some("prometheus main")));
    // The page named its own time for this one, so that only its age tells.
    let begun = world.of("level").map(|sample| sample.slot).min().expect("samples");
    assert!(world.last("aged").is_none_or(|last| last.since(begun) < Span::from_secs(6)), "an old value is no value");

    put(None);
    let closed = world.last("level").expect("samples");
    tokio::time::sleep(STEP * 4).await;
    put(Some(&text("v2", 9, None, [1, 3, 6])));
    let is_later = |sample: &Sample| sample.slot.since(closed) > Span::from_secs(6);
    world.until("samples after the gap", |world| world.of("level").any(is_later)).await;
    let slots: Vec<u64> =
        world.of("level").map(|sample| sample.slot.since(closed).as_ms()).filter(|ms| *ms > 0).collect();
    let is_gap = |pair: &[u64]| pair[1] - pair[0] > 2_000;
    assert!(
        slots.windows(2).any(is_gap) || slots.first().is_some_and(|first| *first > 2_000),
        "a target that is away is a gap: {slots:?}"
    );
    every_gap_has_its_reason(&world).await;
    for (sli, _) in MISSING.iter().filter(|(sli, _)| *sli != "aged") {
        assert_eq!(world.of(sli).count(), 0, "`{sli}` is missing, never zero");
    }
}

async fn every_gap_has_its_reason(world: &World) {
    let said = testing::until("the reasons of every gap", async || {
        let gaps = world.gaps().await;
        if gaps.len() == MISSING.len() { Ok(gaps) } else { Err(gaps) }
    });
    for ((sli, why), (wanted, word)) in said.await.iter().zip(MISSING) {
        assert!(sli == wanted && why.contains(word), "{sli}: {why}");
    }
}

/// What the page exposes: a counter by code, a histogram, a level, and what is no value.
fn text(release: &str, good: u64, bad: Option<u64>, [fast, slow, all]: [u64; 3]) -> String {
    let bad = bad.map_or_else(String::new, |bad| format!("n{{code=\"503\",version=\"{release}\"}} {bad}\n"));
    let old = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_millis();
    let aged = if release == "v1" && good == 100 { format!("aged 1 {old}\n") } else { String::new() };
    format!(
        "n{{code=\"200\",version=\"{release}\"}} {good}\n{bad}level 42.5\nnot_a_number NaN\ninfinite +Inf\n{aged}\
         d_bucket{{le=\"0.1\"}} {fast}\nd_bucket{{le=\"0.25\"}} {slow}\nd_bucket{{le=\"+Inf\"}} {all}\n"
    )
}

/// Starts a Prometheus on a port of the system's choice; gives its address.
async fn prometheus(dir: &Path, target: &str) -> (Child, String) {
    let binary = tokio::task::spawn_blocking(installed).await.expect("not cancelled");
    let (config, log) = (dir.join("prometheus.yaml"), dir.join("prometheus.log"));
    let text = format!(
        "global: {{ scrape_interval: 500ms }}\n\
         scrape_configs: [{{ job_name: shop, static_configs: [{{ targets: ['{target}'] }}] }}]\n"
    );
    std::fs::write(&config, text).expect("written");
    let args = [
        format!("--config.file={}", config.display()),
        format!("--storage.tsdb.path={}", dir.join("prometheus").display()),
        "--web.listen-address=127.0.0.1:0".to_owned(),
    ];
    let child = Child::spawn(&Spec {
        shim: std::env::current_exe().expect("our own path"),
        program: binary,
        args: args.map(Into::into).into(),
        env: Default::default(),
        output: Output::File(log.clone()),
    });
    let child = child.expect("Prometheus starts");
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    loop {
        let said = std::fs::read_to_string(&log).unwrap_or_default();
        let line = said.lines().find(|line| line.contains("\"Listening on\""));
        if let Some((_, address)) = line.and_then(|line| line.rsplit_once("address=")) {
            return (child, format!("http://{address}"));
        }
        assert!(tokio::time::Instant::now() < deadline, "Prometheus did not come up: {said}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Prometheus of `PATH`, or Debian's, kept in the build directory.
fn installed() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let own = std::env::split_paths(&path).map(|dir| dir.join("prometheus")).find(|file| file.is_file());
    own.unwrap_or_else(|| debian(env!("CARGO_TARGET_TMPDIR").as_ref(), "prometheus").join("usr/bin/prometheus"))
}
