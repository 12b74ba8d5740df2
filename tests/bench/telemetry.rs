//! What telemetry costs: the same messages, stored one after the other, by a process without it and by
//! one that sends every hop to a collector and shows its figures; then the processor time of the whole demo,
//! every process of it, without and with a collector. Prints ratios; asserts nothing about time.
//!
//! `RUNS=n` sets how often each is measured, in turn (default 5), `DEMOS=n` the same for the demo (default 2).

#![expect(clippy::expect_used, clippy::print_stdout, reason = "a bench says what is wrong by panicking")]

mod server;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use axum::Router;
use axum::routing::any;
use bellwether_bus::testing::connect_options;
use bellwether_bus::trace::SpanKind;
use bellwether_bus::{Bus, Hop};

const PROGRAM: &str = env!("CARGO_BIN_EXE_bellwether");
/// How many messages one process sends, each about as long as a tick of ten samples.
const MESSAGES: u32 = 2_000;
const BODY_LEN: usize = 2_048;

fn main() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    match std::env::args().find(|argument| argument.starts_with("nats://")) {
        Some(url) => runtime.block_on(send(&url)),
        None => runtime.block_on(compare()),
    }
}

/// Sends, and prints the microseconds that one message took.
async fn send(url: &str) {
    let _telemetry = bellwether_runtime::telemetry::init("bellwether-bench");
    let bus = Bus::connect(&connect_options(url)).await.expect("connected");
    let begun = Instant::now();
    for number in 0..MESSAGES {
        let hop = Hop::begin(SpanKind::Internal, "look", Vec::new());
        let id = format!("{}-{number}", std::process::id());
        let subject = "bw.sample.west.probe.bench".to_owned();
        hop.run(bus.publish(subject, &id, vec![0; BODY_LEN])).await.expect("stored");
    }
    println!("{}", begun.elapsed().as_micros() / u128::from(MESSAGES));
}

async fn compare() {
    let (runs, demos) = (count("RUNS", 5), count("DEMOS", 2));
    let dir = tempfile::tempdir().expect("a directory");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let collector = format!("http://{}", listener.local_addr().expect("an address"));
    let taken = Arc::new(AtomicUsize::new(0));
    let take = Arc::clone(&taken);
    let router = Router::new().fallback(any(async move || {
        take.fetch_add(1, Ordering::Relaxed);
    }));
    tokio::spawn(async move { axum::serve(listener, router).await });
    let server = server::start(dir.path(), PROGRAM).await;
    let bus = Bus::connect(&connect_options(server.url())).await.expect("connected");
    bus.provision().await.expect("provisioned");
    let (mut off, mut on) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        off.push(measure(server.url(), &[]).await);
        on.push(
            measure(server.url(), &[("OTEL_EXPORTER_OTLP_ENDPOINT", &collector), ("BELLWETHER_LISTEN", "127.0.0.1:0")])
                .await,
        );
    }
    println!("microseconds for one stored message, {MESSAGES} of {BODY_LEN} bytes, {runs} runs each");
    compare_medians(&mut off, &mut on);
    tokio::task::spawn_blocking(move || server.stop()).await.expect("joined").expect("stopped");
    let (mut off, mut on) = (Vec::new(), Vec::new());
    let before = taken.load(Ordering::Relaxed);
    for _ in 0..demos {
        off.push(demo(&[]).await);
        on.push(demo(&[("OTEL_EXPORTER_OTLP_ENDPOINT", &collector)]).await);
    }
    let requests = taken.load(Ordering::Relaxed) - before;
    assert!(demos == 0 || requests > 0, "the collector was sent nothing");
    println!("milliseconds of processor time for the demo, two rollouts and every process of it, {demos} runs each");
    println!("  the collector took {requests} requests");
    compare_medians(&mut off, &mut on);
}

fn compare_medians(off: &mut [u32], on: &mut [u32]) {
    println!("  off {off:?}, median {}", median(off));
    println!("  on  {on:?}, median {}", median(on));
    println!("  on / off = {:.3}", f64::from(median(on)) / f64::from(median(off)));
}

fn count(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|count| count.parse().ok()).unwrap_or(default)
}

/// The processor time of the demo and of all that it started, in milliseconds.
async fn demo(env: &[(&str, &str)]) -> u32 {
    let before = reaped_ms();
    let ran =
        tokio::process::Command::new(PROGRAM).arg("demo").envs(env.iter().copied()).output().await.expect("it runs");
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    reaped_ms() - before
}

/// The processor time of all children that have ended, and of theirs, in milliseconds: proc_pid_stat(5), fields 16
/// and 17, in ticks of 10 ms.
fn reaped_ms() -> u32 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux");
    let (_, fields) = stat.rsplit_once(')').expect("a name in parentheses");
    fields.split_whitespace().skip(13).take(2).map(|ticks| ticks.parse::<u32>().expect("ticks") * 10).sum()
}

async fn measure(url: &str, env: &[(&str, &str)]) -> u32 {
    let mut command = tokio::process::Command::new(std::env::current_exe().expect("our own path"));
    let said = command.arg(url).envs(env.iter().copied()).output().await.expect("it runs");
    String::from_utf8_lossy(&said.stdout).trim().parse().expect("a figure")
}

fn median(figures: &mut [u32]) -> u32 {
    figures.sort_unstable();
    figures[figures.len() / 2]
}
