//! What telemetry costs: the same messages, stored one after the other, by a process without it and by
//! one that sends every hop to a collector and shows its figures. Prints a ratio; asserts nothing about time.
//!
//! `RUNS=n` sets how often each is measured, in turn (default 5).

#![expect(clippy::expect_used, clippy::print_stdout, reason = "a bench says what is wrong by panicking")]

mod server;

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
    let runs: usize = std::env::var("RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(5);
    let dir = tempfile::tempdir().expect("a directory");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let collector = format!("http://{}", listener.local_addr().expect("an address"));
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(any(async || ""))).await });
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
    println!("  off {off:?}, median {}", median(&mut off));
    println!("  on  {on:?}, median {}", median(&mut on));
    println!("  on / off = {:.3}", f64::from(median(&mut on)) / f64::from(median(&mut off)));
    tokio::task::spawn_blocking(move || server.stop()).await.expect("joined").expect("stopped");
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
