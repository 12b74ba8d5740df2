//! What a run must keep: `p99 < 500ms`, `errors < 1%`. Pure.
//!
//! Windows that say nothing do not help: a threshold is kept when it holds even if everything in them
//! was bad, broken when it does not hold even if all of it was good, and otherwise could not be told.

use std::str::FromStr;
use std::time::Duration;

use bellwether_protocol::ratio::{ONE_PPB, Ratio};
use bellwether_protocol::time::Span;
use serde::Serialize;

use crate::tally::Tally;
use crate::window::{quantile, shown};

#[derive(Debug, Clone)]
pub(crate) struct Threshold {
    text: String,
    limit: Limit,
}

#[derive(Debug, Clone, Copy)]
enum Limit {
    /// The share of arrivals that did not go well.
    Errors(Ratio),
    /// The mean of the response times.
    Mean(Span),
    /// The share of response times that may be longer, and how long.
    Quantile(Ratio, Span),
}

/// What became of a threshold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verdict {
    Broken,
    CouldNotTell,
    Kept,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Judged {
    pub(crate) threshold: String,
    pub(crate) verdict: Verdict,
    /// What was measured, and of how many.
    pub(crate) measured: String,
}

/// Why a text is no threshold.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is no threshold: write `p99 < 500ms` (any p, or `max`), `mean < 3s` or `errors < 1%`")]
pub(crate) struct ThresholdError(String);

impl FromStr for Threshold {
    type Err = ThresholdError;

    fn from_str(text: &str) -> Result<Self, ThresholdError> {
        let wrong = || ThresholdError(text.chars().take(80).collect());
        let (metric, limit) = text.split_once('<').ok_or_else(wrong)?;
        let (metric, limit) = (metric.trim(), limit.trim_start_matches('=').trim());
        let span = || limit.parse::<Span>().map_err(|_| wrong());
        let limit = match metric {
            "errors" => Limit::Errors(limit.parse().map_err(|_| wrong())?),
            "max" => Limit::Quantile(Ratio::ZERO, span()?),
            "mean" => Limit::Mean(span()?),
            _ => {
                let percent = metric.strip_prefix('p').ok_or_else(wrong)?;
                let q: Ratio = format!("{percent}%").parse().map_err(|_| wrong())?;
                Limit::Quantile(q.complement(), span()?)
            }
        };
        Ok(Self { text: text.trim().to_owned(), limit })
    }
}

impl Threshold {
    /// The latency it is about, if it is about one.
    pub(crate) fn latency(&self) -> Option<Duration> {
        match self.limit {
            Limit::Errors(_) => None,
            Limit::Mean(limit) | Limit::Quantile(_, limit) => Some(limit.to_std()),
        }
    }

    pub(crate) fn judge(&self, tally: &Tally) -> Judged {
        let (sound, unknown) = (&tally.sound, tally.unknown());
        let response = &sound.response;
        let (verdict, measured) = match self.limit {
            Limit::Errors(allowed) => {
                let (n, failed) = (sound.counts.planned - sound.counts.unfinished, sound.counts.failed());
                (verdict(failed, unknown, n, allowed), format!("{}, {failed} of {n}", percent(failed, n)))
            }
            Limit::Quantile(allowed, limit) => {
                let us = u64::try_from(limit.to_std().as_micros()).unwrap_or(u64::MAX);
                let over = response.len() - response.count_between(0, us).min(response.len());
                let at = f64::from(ONE_PPB - allowed.ppb()) / f64::from(ONE_PPB);
                let measured = quantile(response, at).map_or_else(|| "nothing".to_owned(), shown);
                (verdict(over, unknown, response.len(), allowed), format!("{measured} of {}", response.len()))
            }
            Limit::Mean(limit) => {
                let mean = Duration::from_secs_f64(response.mean() / 1e6);
                // What is unknown took some time, however little.
                #[expect(clippy::cast_precision_loss, reason = "no run has 2^53 arrivals")]
                let known = response.len() as f64 / (response.len() + unknown).max(1) as f64;
                let verdict = match (response.len(), unknown) {
                    (1.., _) if mean.mul_f64(known) > limit.to_std() => Verdict::Broken,
                    (1.., 0) => Verdict::Kept,
                    _ => Verdict::CouldNotTell,
                };
                (verdict, format!("{} of {}", shown(mean), response.len()))
            }
        };
        let unknown = if unknown > 0 { format!("; {unknown} unknown") } else { String::new() };
        Judged { threshold: self.text.clone(), verdict, measured: measured + &unknown }
    }
}

/// Whether a share of bad ones is allowed, with so many that are unknown beside the `n` known ones.
fn verdict(bad: u64, unknown: u64, n: u64, allowed: Ratio) -> Verdict {
    let all = n + unknown;
    match () {
        () if n == 0 => Verdict::CouldNotTell,
        () if allowed.is_exceeded_by(bad, all) => Verdict::Broken,
        () if allowed.is_exceeded_by(bad + unknown, all) => Verdict::CouldNotTell,
        () => Verdict::Kept,
    }
}

/// A share as people read it.
pub(crate) fn percent(part: u64, whole: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "no run has 2^53 arrivals")]
    let share = 100.0 * part as f64 / whole.max(1) as f64;
    match share {
        0.0 => "0%".to_owned(),
        0.0..1.0 => format!("{share:.3}%"),
        _ => format!("{share:.1}%"),
    }
}

#[cfg(test)]
mod tests {
    use bellwether_protocol::sample::class;
    use bellwether_protocol::time::Timestamp;

    use super::*;
    use crate::window::{Outcome, Times, Window};

    /// Windows of so many arrivals each: latency in ms, lag of our own in ms, how they ended.
    fn tally(windows: &[(u64, u64, u64, &'static str)]) -> Tally {
        let mut tally = Tally::new(Some(Duration::from_millis(5)));
        for (n, response, lag, word) in windows {
            let mut window = Window::new(Timestamp::from_ms(0), Span::from_secs(1));
            for _ in 0..*n {
                window.counts.planned += 1;
                let ms = Duration::from_millis;
                let times = Times { response: ms(*response), service: None, lag_pool: ms(0), lag_gen: ms(*lag) };
                window.record(&Outcome::Class(word), times);
            }
            tally.add(window);
        }
        tally
    }

    #[test]
    fn missing_data_never_helps() {
        use Verdict::{Broken, CouldNotTell, Kept};
        let check = |threshold: &str, windows: &[(u64, u64, u64, &'static str)], expected: Verdict, measured: &str| {
            let judged = threshold.parse::<Threshold>().unwrap().judge(&tally(windows));
            assert_eq!((judged.verdict, judged.measured.as_str()), (expected, measured), "{threshold} {windows:?}");
        };
        let ok = class::OK;
        check("p99 < 500ms", &[(1_000, 20, 0, ok), (10, 900, 0, ok)], Kept, "20.0ms of 1010");
        check("p99 < 500ms", &[(1_000, 20, 0, ok), (11, 900, 0, ok)], Broken, "900ms of 1011");
        check("max < 500ms", &[(1_000, 20, 0, ok), (1, 900, 0, ok)], Broken, "900ms of 1001");
        check("p99 < 500ms", &[(1_000, 20, 0, ok), (10, 20, 9, ok)], Kept, "20.0ms of 1000; 10 unknown");
        check("p99 < 500ms", &[(1_000, 20, 0, ok), (100, 20, 9, ok)], CouldNotTell, "20.0ms of 1000; 100 unknown");
        check("p99 < 500ms", &[(1_000, 900, 0, ok), (100, 20, 9, ok)], Broken, "900ms of 1000; 100 unknown");
        check("p99 < 500ms", &[(1_000, 20, 9, ok)], CouldNotTell, "nothing of 0; 1000 unknown");
        check("p99 < 500ms", &[], CouldNotTell, "nothing of 0");
        check("p50 < 500ms", &[(10, 1, 0, class::CONNECT)], CouldNotTell, "nothing of 0");
        check("errors < 1%", &[(99, 1, 0, ok), (1, 1, 0, class::HTTP_5XX)], Kept, "1.0%, 1 of 100");
        check("errors < 1%", &[(98, 1, 0, ok), (2, 1, 0, class::CONNECT)], Broken, "2.0%, 2 of 100");
        check("errors < 1%", &[(990, 1, 0, ok), (30, 1, 9, ok)], CouldNotTell, "0%, 0 of 990; 30 unknown");
        check("mean < 3s", &[(9, 1_000, 0, ok), (1, 9_000, 0, ok)], Kept, "1.80s of 10");
        check("mean < 1s", &[(9, 1_000, 0, ok), (1, 9_000, 0, ok)], Broken, "1.80s of 10");
        check("mean < 3s", &[(9, 1_000, 0, ok), (1, 9_000, 9, ok)], CouldNotTell, "1.00s of 9; 1 unknown");
    }

    #[test]
    fn thresholds_without_sense_are_refused() {
        for text in ["p99 < 500ms", "p99.9<=1s", "max < 2s", "mean < 3s", "errors < 0.1%"] {
            assert!(text.parse::<Threshold>().is_ok(), "{text}");
        }
        for text in ["", "p99", "p99 > 5ms", "p99 < 500", "p101 < 1s", "errors < 5ms", "speed < 1s"] {
            assert!(text.parse::<Threshold>().is_err(), "`{text}` was accepted");
        }
    }
}
