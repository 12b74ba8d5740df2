//! What a stall of the target does to the p99 of a steady load, as this product and others tell it.
//!
//! The sample site is frozen for 2 s in a run of 10 s at 1,000 arrivals a second: a fifth of them waits
//! between 0 and 2 s, so that the p99 from the intended start is 1.90 s. Ends with 1 when ours is not within
//! 3 % of that. Others stand beside it where they are installed; nothing is asserted of them, nor of time.

#![expect(clippy::expect_used, clippy::print_stdout, reason = "a bench says what is wrong by panicking")]

use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_bellwether");
/// When the site is frozen, and for how long.
const FREEZE_AT: Duration = Duration::from_secs(4);
const FREEZE_FOR: Duration = Duration::from_secs(2);
/// The p99 that follows, in seconds, and how far off it may be.
const ANALYTIC_S: f64 = 1.90;
const OFF_MAX: f64 = 0.03;
/// Our own lag may be a tenth of that, as everywhere.
const LAG_MAX: &str = "190ms";

/// The site, as a process that can be frozen. It dies with this.
struct Site {
    child: Child,
    url: String,
}

impl Drop for Site {
    fn drop(&mut self) {
        self.signal(Signal::CONT);
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Site {
    fn start(dir: &Path) -> Self {
        let file = dir.join("ports.json");
        let child = Command::new(PROGRAM).args(["site", "--env", "east", "--ports-file"]).arg(&file).spawn();
        let child = child.expect("a site");
        let begin = Instant::now();
        let text = loop {
            match std::fs::read_to_string(&file) {
                Ok(text) => break text,
                Err(error) => assert!(begin.elapsed() < Duration::from_secs(20), "no site: {error}"),
            }
            sleep(Duration::from_millis(20));
        };
        let ports: Value = serde_json::from_str(&text).expect("json");
        Self { child, url: format!("{}/", ports["environments"]["east"].as_str().expect("an address")) }
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a process id");
        let _ = kill_process(pid, signal);
    }

    /// Runs a load and freezes the site meanwhile; gives what the load printed.
    fn stall(&self, mut load: Command) -> Option<String> {
        let mut child = load.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().ok()?;
        sleep(FREEZE_AT);
        self.signal(Signal::STOP);
        sleep(FREEZE_FOR);
        self.signal(Signal::CONT);
        let mut text = String::new();
        child.stdout.take()?.read_to_string(&mut text).ok()?;
        child.wait().ok()?;
        Some(text)
    }
}

fn main() -> ExitCode {
    let dir = tempfile::tempdir().expect("a directory");
    let site = Site::start(dir.path());
    println!(
        "1,000 arrivals/s for 10 s, the site frozen for 2 s: the p99 from the intended start is {ANALYTIC_S:.2} s\n"
    );
    println!("  {:<34} {:>9} {:>9}   what else it says", "load", "p99", "of 1.90s");
    let is_right = ours(&site);
    others(&site);
    memory(&site);
    if is_right { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn ours(site: &Site) -> bool {
    let mut load = Command::new(PROGRAM);
    load.args(["load", "run", &site.url, "--rate", "1000/s", "--duration", "10s", "--lag-max", LAG_MAX, "--json"]);
    let text = site.stall(load).expect("our own load");
    let run: Value = serde_json::from_str(text.lines().last().expect("a last line")).expect("json");
    let seconds = |value: &Value| value.as_f64().map(|us| us / 1e6);
    let number = |pointer: &str| run.pointer(pointer).cloned().unwrap_or_default();
    let told = format!(
        "sent {} of {} planned, {} ok; from sending {}; our lag p99 {}; waited for a connection p99 {}; {} of {} seconds void",
        number("/counts/sent"),
        number("/counts/planned"),
        number("/counts/ok"),
        shown(seconds(&run["service_us"]["p99"])),
        shown(seconds(&run["lag_gen_us"]["p99"])),
        shown(seconds(&run["lag_pool_us"]["p99"])),
        run["void"],
        run["windows"],
    );
    let p99 = seconds(&run["response_us"]["p99"]);
    row("bellwether load run --rate 1000/s", p99, &told);
    let is_right = p99.is_some_and(|p99| (p99 / ANALYTIC_S - 1.0).abs() <= OFF_MAX);
    if !is_right {
        println!("  not within 3 %: {}", run["void_because"].as_str().unwrap_or("and no second is void"));
    }
    is_right
}

/// The same stall, as others tell it: the line of their report with the 99th percentile.
fn others(site: &Site) {
    let loads: [(&str, &[&str]); 5] = [
        ("wrk", &["-t1", "-c50", "-d10s", "--latency"]),
        ("hey", &["-z", "10s", "-c", "50", "-q", "20"]),
        ("oha", &["-z", "10s", "-c", "50", "-q", "1000", "--no-tui"]),
        ("oha", &["-z", "10s", "-c", "50", "-q", "1000", "--no-tui", "--latency-correction"]),
        ("h2load", &["--h1", "-t1", "-c50", "-D", "10"]),
    ];
    for (name, args) in loads {
        let mut load = Command::new(name);
        load.args(args).arg(&site.url);
        let label = format!("{name} {}", args.join(" "));
        match site.stall(load) {
            None => println!("  {label:<34} {:>9}", "not installed"),
            Some(text) => {
                let line =
                    text.lines().map(str::trim).find(|line| line.starts_with("99%") || line.starts_with("99.00%"));
                let p99 = line.and_then(latency);
                let also = text.lines().map(str::trim).find(|line| line.to_ascii_lowercase().contains("requests/sec"));
                row(&label, p99, also.unwrap_or_default());
            }
        }
    }
}

/// `99%    0.73ms`, `99% in 0.0042 secs`, `99.00% in 1.6 ms`: in seconds.
fn latency(line: &str) -> Option<f64> {
    let words: Vec<&str> = line.split_whitespace().filter(|word| *word != "in").collect();
    let text = words.get(1)?;
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = if digits.len() < text.len() { &text[digits.len()..] } else { words.get(2).copied().unwrap_or("s") };
    let scale = match unit {
        "us" | "µs" => 1e-6,
        "ms" => 1e-3,
        "m" => 60.0,
        _ => 1.0,
    };
    digits.parse::<f64>().ok().map(|value| value * scale)
}

/// How much the memory of a load grows with each request, once it is warm.
fn memory(site: &Site) {
    let mut load = Command::new(PROGRAM);
    load.args(["load", "run", &site.url, "--users", "50", "--duration", "10s", "--json"]);
    let mut child = load.stdout(Stdio::piped()).spawn().expect("our own load");
    let resident = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.trim().trim_end_matches(" kB");
        line.parse::<f64>().ok().map(|kb| kb * 1024.0)
    };
    sleep(Duration::from_secs(4));
    let warm = resident();
    sleep(Duration::from_secs(5));
    let late = resident();
    let mut text = String::new();
    child.stdout.take().expect("piped").read_to_string(&mut text).expect("read");
    child.wait().expect("ended");
    let windows = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let between = |window: &Value| window["start_ms"].as_i64().is_some_and(|start| (4_000..9_000).contains(&start));
    let sent: f64 = windows.filter(between).filter_map(|window| window["counts"]["sent"].as_f64()).sum();
    match (warm, late) {
        (Some(warm), Some(late)) if sent > 0.0 => println!(
            "\n  memory: {:.1} MB, and {:.2} bytes more per request over {sent} requests",
            late / 1e6,
            (late - warm) / sent
        ),
        _ => println!("\n  memory: this system does not tell"),
    }
}

fn row(label: &str, p99: Option<f64>, told: &str) {
    let part = p99.map_or("?".to_owned(), |p99| format!("{:.2} %", 100.0 * p99 / ANALYTIC_S));
    println!("  {label:<34} {:>9} {part:>9}   {told}", shown(p99));
}

fn shown(seconds: Option<f64>) -> String {
    match seconds {
        None => "?".to_owned(),
        Some(s) if s < 1.0 => format!("{:.2} ms", s * 1e3),
        Some(s) => format!("{s:.3} s"),
    }
}
