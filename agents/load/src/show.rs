//! What a person, or a machine, sees of a run. Results go to standard output.

use std::io::{self, Write};
use std::time::Duration;

use bellwether_protocol::time::Span;
use bellwether_runtime::Mode;
use hdrhistogram::Histogram;
use serde_json::{Value, json};

use crate::course::{Course, Unit};
use crate::tally::Tally;
use crate::threshold::{Judged, Verdict, percent};
use crate::window::{Window, quantile, shown};

/// How a run came to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ended {
    /// By a signal.
    Interrupted,
    /// Its course was over.
    Over,
    /// By itself, because nearly everything failed.
    Shut(String),
}

/// Where a run is shown.
#[derive(Debug)]
pub(crate) struct Screen {
    mode: Mode,
    url: String,
    model: &'static str,
    lasts: Duration,
    /// Lines of the block that stands.
    drawn: usize,
    told: u64,
}

/// Between two lines.
const LINE_EVERY: u64 = 10;

impl Screen {
    pub(crate) fn new(mode: Mode, url: &str, course: &Course) -> Self {
        let model = match course.unit {
            Unit::PerSecond => "open (arrivals come whether or not it keeps up)",
            Unit::Users => "closed (each user waits for its answer)",
        };
        let url = bellwether_runtime::web::without_query_values(url);
        Self { mode, url, model, lasts: course.lasts(), drawn: 0, told: 0 }
    }

    /// A window is complete.
    pub(crate) fn window(&mut self, window: &Window, void: Option<&str>, tally: &Tally, passed: Duration) {
        match self.mode {
            Mode::Json => self.print(&[json!({
                "type": "window", "start_ms": window.start.as_ms(), "width_ms": window.width.as_ms(),
                "counts": window.counts, "response_us": quantiles(&window.response),
                "lag_gen_us": quantiles(&window.lag_gen), "lag_pool_us": quantiles(&window.lag_pool), "void": void,
            })
            .to_string()]),
            Mode::Lines => {
                self.told += 1;
                if self.told.is_multiple_of(LINE_EVERY) {
                    self.print(&[format!("{} {}", clock(passed), outcome(tally))]);
                }
            }
            Mode::Live => {
                let head = format!("{}   {}   {} of {}", self.url, self.model, clock(passed), clock(self.lasts));
                let last = match void {
                    Some(why) => format!("last second   ? void: {why}"),
                    None => format!("last second   {} sent   {}", window.counts.sent, latency(&window.response)),
                };
                let block = [head, outcome(tally), latency(&tally.sound.response), last];
                self.draw(&block);
            }
        }
    }

    /// The run is over.
    pub(crate) fn end(&mut self, tally: &Tally, judged: &[Judged], ended: &Ended, passed: Duration, code: u8) {
        if self.mode == Mode::Json {
            return self.print(&[run(tally, judged, ended, passed, code).to_string()]);
        }
        let mut lines = vec![format!("{}   {}   {}", self.url, self.model, clock(passed)), outcome(tally)];
        let response = &tally.sound.response;
        lines.push(format!("from intended start   {}   n {}", latency(response), response.len()));
        lines.push(format!("from sending          {}", latency(&tally.sound.service)));
        let lag = |lag: &Histogram<u64>| quantile(lag, 0.99).map_or_else(|| "?".to_owned(), shown);
        let (pool, own) = (lag(&tally.sound.lag_pool), lag(&tally.sound.lag_gen));
        lines.push(format!("waited for a connection p99 {pool}   for this generator p99 {own}"));
        lines.extend(classes(tally));
        if let Some(why) = &tally.why {
            let are = if tally.voids == 1 { "is" } else { "are" };
            lines.push(format!("? {} of {} seconds {are} void: {why}", tally.voids, tally.windows));
        }
        lines.extend(
            tally.sound.gathered.evidence().iter().map(|seen| format!("  {} {}", clock_ms(seen.at.as_ms()), seen.text)),
        );
        if !judged.is_empty() {
            lines.push(String::new());
        }
        for Judged { threshold, verdict, measured } in judged {
            let glyph = match verdict {
                Verdict::Broken => "✗ broken",
                Verdict::CouldNotTell => "? could not tell",
                Verdict::Kept => "✓ kept",
            };
            lines.push(format!("{glyph:<16}  {threshold}   {measured}"));
        }
        lines.push(last_line(tally, judged, ended, code));
        self.draw(&[]);
        self.print(&lines);
    }

    fn draw(&mut self, block: &[String]) {
        let erase = if self.drawn == 0 { String::new() } else { format!("\x1b[{}A\r\x1b[J", self.drawn) };
        self.drawn = block.len();
        write(&(erase + &joined(block)));
    }

    fn print(&self, lines: &[String]) {
        write(&joined(lines));
    }
}

/// Nobody may read any more; a load that was asked for goes on, and its exit code still tells.
fn write(text: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

fn joined(lines: &[String]) -> String {
    lines.iter().map(|line| format!("{line}\n")).collect()
}

fn clock(passed: Duration) -> String {
    clock_ms(i64::try_from(passed.as_millis()).unwrap_or(i64::MAX))
}

fn clock_ms(ms: i64) -> String {
    Span::from_ms(u64::try_from(ms).unwrap_or_default()).rounded().to_string()
}

fn outcome(tally: &Tally) -> String {
    let counts = tally.counts();
    let failed = counts.planned - counts.ok - counts.unfinished;
    let parts = [("shed", counts.shed), ("unfinished", counts.unfinished)];
    let extra: String = parts.iter().filter(|(_, n)| *n > 0).map(|(word, n)| format!("   {word} {n}")).collect();
    format!(
        "sent {} of {} planned   failed {failed} ({}){extra}",
        counts.sent,
        counts.planned,
        percent(failed, counts.planned)
    )
}

fn latency(response: &Histogram<u64>) -> String {
    let one = |(word, q)| format!("{word} {}", quantile(response, q).map_or_else(|| "?".to_owned(), shown));
    [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0)].map(one).join("   ")
}

/// What failed how, and which release answered.
fn classes(tally: &Tally) -> Vec<String> {
    let (mut classes, mut releases) = (std::collections::BTreeMap::<&str, u64>::new(), Vec::new());
    for portion in [&tally.sound, &tally.void].into_iter().flat_map(|window| window.gathered.portions()) {
        for (class, n) in portion.classes.iter().filter(|(class, _)| class.as_str() != "ok") {
            *classes.entry(class.as_str()).or_default() += n;
        }
    }
    for portion in tally.sound.gathered.portions() {
        let name = portion.release.as_ref().map_or("none", |release| release.as_str());
        releases.push(format!("{name} {}", portion.n()));
    }
    let failed: Vec<String> = classes.iter().map(|(class, n)| format!("{class} {n}")).collect();
    let mut lines = Vec::new();
    if !failed.is_empty() {
        lines.push(format!("failed as   {}", failed.join("   ")));
    }
    if releases.iter().any(|release| !release.starts_with("none ")) {
        lines.push(format!("releases    {}", releases.join("   ")));
    }
    lines
}

fn last_line(tally: &Tally, judged: &[Judged], ended: &Ended, code: u8) -> String {
    let with = |verdict: Verdict| judged.iter().find(|judged| judged.verdict == verdict);
    let named = |judged: &Judged| format!("{}: {}", judged.threshold, judged.measured);
    let said = match (with(Verdict::Broken), ended, with(Verdict::CouldNotTell)) {
        (Some(judged), _, _) => format!("BROKEN {}", named(judged)),
        (None, Ended::Shut(why), _) => format!("ENDED {why}"),
        (None, Ended::Interrupted, _) => "INTERRUPTED: what was not waited for is unknown".to_owned(),
        (None, Ended::Over, Some(judged)) => {
            let why = tally.why.as_ref().map(|why| format!("; {why}")).unwrap_or_default();
            format!("COULD NOT TELL {}{why}", named(judged))
        }
        (None, Ended::Over, None) if code != 0 => {
            format!("COULD NOT TELL: {}", tally.why.as_deref().unwrap_or("nothing was sent"))
        }
        (None, Ended::Over, None) if judged.is_empty() => "DONE: no threshold was asked for".to_owned(),
        (None, Ended::Over, None) => format!("KEPT {} of {} thresholds", judged.len(), judged.len()),
    };
    format!("{said}   exit {code}")
}

fn quantiles(histogram: &Histogram<u64>) -> Value {
    let at = |q| quantile(histogram, q).map(|latency| u64::try_from(latency.as_micros()).unwrap_or(u64::MAX));
    json!({"n": histogram.len(), "p50": at(0.5), "p90": at(0.9), "p99": at(0.99), "p999": at(0.999), "max": at(1.0)})
}

fn run(tally: &Tally, judged: &[Judged], ended: &Ended, passed: Duration, code: u8) -> Value {
    let ended = match ended {
        Ended::Interrupted => "interrupted",
        Ended::Over => "over",
        Ended::Shut(why) => why,
    };
    let sound = &tally.sound;
    json!({
        "type": "run", "ended": ended, "passed_ms": u64::try_from(passed.as_millis()).unwrap_or(u64::MAX),
        "counts": tally.counts(), "windows": tally.windows, "void": tally.voids, "void_because": tally.why,
        "response_us": quantiles(&sound.response), "service_us": quantiles(&sound.service),
        "lag_gen_us": quantiles(&sound.lag_gen), "lag_pool_us": quantiles(&sound.lag_pool),
        "portions": sound.gathered.portions().map(|portion| json!({"release": portion.release, "classes": portion.classes})).collect::<Vec<_>>(),
        "evidence": sound.gathered.evidence(), "thresholds": judged, "exit": code,
    })
}
