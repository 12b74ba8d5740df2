//! What became of the arrivals that were intended in one stretch of time. Mergeable: the sum of the
//! windows of a run is the run, and the percentiles of the sum are those of one histogram of everything.

use std::time::Duration;

use bellwether_protocol::sample::{Portion, class};
use bellwether_protocol::time::{Span, Timestamp};
use bellwether_runtime::Gathered;
use hdrhistogram::Histogram;
use serde::Serialize;

/// One stretch of time.
#[derive(Debug, Clone)]
pub(crate) struct Window {
    /// When it began.
    pub(crate) start: Timestamp,
    /// How long it is.
    pub(crate) width: Span,
    /// How many arrivals came to what.
    pub(crate) counts: Counts,
    /// From the intended start to the end of the answer, in microseconds: what a user waited.
    pub(crate) response: Histogram<u64>,
    /// From sending to the end of the answer, in microseconds.
    pub(crate) service: Histogram<u64>,
    /// How long an arrival waited for a free connection, in microseconds: the target's doing.
    pub(crate) lag_pool: Histogram<u64>,
    /// How long an arrival waited for this generator, in microseconds: our own doing.
    pub(crate) lag_gen: Histogram<u64>,
    /// Classes by release, and latencies on the edges that were asked for.
    pub(crate) gathered: Gathered,
}

/// How many arrivals came to what. `planned = sent + shed`, and
/// `sent = ok + http_err + net_err + timeout + unfinished`: nothing vanishes.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Counts {
    /// Intended.
    pub(crate) planned: u64,
    /// Never sent: no connection was free in time.
    pub(crate) shed: u64,
    pub(crate) sent: u64,
    /// Answered, and as expected.
    pub(crate) ok: u64,
    /// Answered otherwise.
    pub(crate) http_err: u64,
    /// Not answered: no connection, or one that broke.
    pub(crate) net_err: u64,
    /// Not answered in time.
    pub(crate) timeout: u64,
    /// Not yet answered when the run was ended.
    pub(crate) unfinished: u64,
}

/// How one arrival ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Answered, or seen to fail; one of the words of [`class`].
    Class(&'static str),
    /// Never sent.
    Shed,
    /// Still on its way when the run was ended.
    Unfinished,
}

/// The times of one arrival.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Times {
    pub(crate) response: Duration,
    /// Absent when it was never sent.
    pub(crate) service: Option<Duration>,
    pub(crate) lag_pool: Duration,
    pub(crate) lag_gen: Duration,
}

/// Highest latency that is told apart, in microseconds.
const LATENCY_US_MAX: u64 = 120_000_000;
/// Significant digits of latencies.
const DIGITS: u8 = 3;
/// Lag of our own below this is never held against a window.
const LAG_FLOOR: Duration = Duration::from_millis(2);
/// Our own lag may be this part of what is measured.
const LAG_PART: u32 = 10;

impl Window {
    /// An empty one.
    pub(crate) fn new(start: Timestamp, width: Span) -> Self {
        let (response, service, lag_pool, lag_gen) = (histogram(), histogram(), histogram(), histogram());
        let (counts, gathered) = (Counts::default(), Gathered::default());
        Self { start, width, counts, response, service, lag_pool, lag_gen, gathered }
    }

    /// Counts what one arrival came to, and gives the portion's word for it.
    pub(crate) fn record(&mut self, outcome: &Outcome, times: Times) -> &'static str {
        let counts = &mut self.counts;
        let (word, count) = match outcome {
            Outcome::Shed => (class::SHED, &mut counts.shed),
            Outcome::Unfinished => (class::TIMEOUT, &mut counts.unfinished),
            Outcome::Class(word) => match *word {
                class::OK => (class::OK, &mut counts.ok),
                class::TIMEOUT => (class::TIMEOUT, &mut counts.timeout),
                class::RESOLVE | class::CONNECT | class::TLS | class::RESET => (*word, &mut counts.net_err),
                word => (word, &mut counts.http_err),
            },
        };
        *count += 1;
        counts.sent += u64::from(*outcome != Outcome::Shed);
        // A connection that is refused at once is no fast answer.
        if is_timed(word) {
            record(&mut self.response, times.response);
        }
        if let Some(service) = times.service {
            record(&mut self.service, service);
        }
        record(&mut self.lag_pool, times.lag_pool);
        record(&mut self.lag_gen, times.lag_gen);
        word
    }

    /// Adds another window. The order does not matter.
    pub(crate) fn merge(&mut self, other: Self) {
        self.start = self.start.min(other.start);
        self.counts.merge(other.counts);
        let pairs = [
            (&mut self.response, other.response),
            (&mut self.service, other.service),
            (&mut self.lag_pool, other.lag_pool),
            (&mut self.lag_gen, other.lag_gen),
        ];
        for (own, other) in pairs {
            // All have the same bounds, so there is nothing that would not fit.
            let _ = own.add(other);
        }
        self.gathered.merge(other.gathered);
    }

    /// Why this window says nothing about the target, when our own lag spoils it.
    ///
    /// Without `lag_max`, a lag is too long that is over 2 ms and over a tenth of what was measured.
    pub(crate) fn void(&self, lag_max: Option<Duration>) -> Option<String> {
        let tenth = || quantile(&self.response, 0.99).unwrap_or_default() / LAG_PART;
        let limit = lag_max.unwrap_or_else(tenth).max(LAG_FLOOR);
        let lag = quantile(&self.lag_gen, 0.99)?;
        if lag > limit {
            return Some(format!("this generator was late: p99 {}, limit {}", shown(lag), shown(limit)));
        }
        let Counts { planned, shed, .. } = self.counts;
        let is_ours = self.lag_pool.max() == 0 && shed.saturating_mul(100) > planned;
        is_ours.then(|| format!("this generator did not send {shed} of {planned}, and no connection was waited for"))
    }
}

impl Counts {
    /// What did not go well, of all that was planned. What was not waited for is not known to be bad.
    pub(crate) fn failed(&self) -> u64 {
        self.planned.saturating_sub(self.ok + self.unfinished)
    }

    pub(crate) fn merge(&mut self, other: Self) {
        self.planned += other.planned;
        self.shed += other.shed;
        self.sent += other.sent;
        self.ok += other.ok;
        self.http_err += other.http_err;
        self.net_err += other.net_err;
        self.timeout += other.timeout;
        self.unfinished += other.unfinished;
    }
}

/// Counts one arrival in the portion of the release that answered.
pub(crate) fn count(portion: &mut Portion, word: &'static str, edges_ms: &[u64], response: Duration) {
    *portion.classes.entry(class::known(word)).or_default() += 1;
    if is_timed(word) {
        // Rounded up: what took longer than a limit must not look as if it did not.
        let ms = u64::try_from(response.as_micros().div_ceil(1_000)).unwrap_or(u64::MAX);
        portion.latency.record(edges_ms, Span::from_ms(ms));
    }
}

/// Whether an arrival of that class has a latency: it was answered whole, or waited for nothing.
fn is_timed(word: &str) -> bool {
    !matches!(word, class::RESOLVE | class::CONNECT | class::TLS | class::RESET | class::TOO_LARGE)
}

#[expect(clippy::expect_used, reason = "the bounds are constants")]
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_US_MAX, DIGITS).expect("sound bounds")
}

fn record(histogram: &mut Histogram<u64>, value: Duration) {
    histogram.saturating_record(u64::try_from(value.as_micros()).unwrap_or(u64::MAX));
}

/// A quantile, when there is anything to take it from.
pub(crate) fn quantile(histogram: &Histogram<u64>, q: f64) -> Option<Duration> {
    (!histogram.is_empty()).then(|| Duration::from_micros(histogram.value_at_quantile(q)))
}

/// A latency as people read it: three digits, and a unit.
pub(crate) fn shown(latency: Duration) -> String {
    let us = latency.as_micros();
    match us {
        0..1_000 => format!("{us}us"),
        1_000..10_000 => format!("{:.2}ms", latency.as_secs_f64() * 1e3),
        10_000..100_000 => format!("{:.1}ms", latency.as_secs_f64() * 1e3),
        100_000..1_000_000 => format!("{:.0}ms", latency.as_secs_f64() * 1e3),
        _ => format!("{:.2}s", latency.as_secs_f64()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn outcome(n: u8) -> Outcome {
        match n {
            0 => Outcome::Shed,
            1 => Outcome::Unfinished,
            n => Outcome::Class(class::ALL[usize::from(n) % class::ALL.len()]),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// The percentiles of merged windows are those of one histogram that saw everything.
        #[test]
        fn merged_is_the_same_as_one(
            arrivals in prop::collection::vec((0_u8..14, 0_u64..200_000_000, 0_u64..10_000, 0_usize..6), 0..200),
        ) {
            let empty = || Window::new(Timestamp::from_ms(0), Span::from_secs(1));
            let mut parts: Vec<Window> = (0..6).map(|_| empty()).collect();
            let mut whole = empty();
            for (n, response, lag, part) in arrivals {
                let (response, lag) = (Duration::from_micros(response), Duration::from_micros(lag));
                let times = Times { response, service: (n > 0).then_some(response), lag_pool: lag, lag_gen: lag / 2 };
                for window in [&mut whole, &mut parts[part]] {
                    window.counts.planned += 1;
                    let word = window.record(&outcome(n), times);
                    count(window.gathered.portion(None), word, &[10, 100], response);
                }
            }
            let mut merged = empty();
            for part in parts.into_iter().rev() {
                merged.merge(part);
            }
            prop_assert_eq!(merged.counts, whole.counts);
            prop_assert!(merged.gathered == whole.gathered);
            let counts = whole.counts;
            prop_assert_eq!(counts.planned, counts.sent + counts.shed);
            prop_assert_eq!(counts.sent, counts.ok + counts.http_err + counts.net_err + counts.timeout + counts.unfinished);
            let all = |window: &Window| [window.response.clone(), window.service.clone(), window.lag_pool.clone(), window.lag_gen.clone()];
            prop_assert_eq!(all(&merged), all(&whole));
        }
    }

    #[test]
    fn our_own_lag_voids_a_window_and_a_slow_target_does_not() {
        let check = |lag_gen: u64, lag_pool: u64, response: u64, lag_max: Option<u64>, expected: Option<&str>| {
            let mut window = Window::new(Timestamp::from_ms(0), Span::from_secs(1));
            let ms = Duration::from_millis;
            for _ in 0..100 {
                window.counts.planned += 1;
                let times =
                    Times { response: ms(response), service: None, lag_pool: ms(lag_pool), lag_gen: ms(lag_gen) };
                window.record(&Outcome::Class(class::OK), times);
            }
            assert_eq!(window.void(lag_max.map(ms)).as_deref(), expected);
        };
        check(0, 900, 1_000, None, None);
        check(2, 0, 3, None, None);
        check(5, 0, 10, None, Some("this generator was late: p99 5.00ms, limit 2.00ms"));
        check(5, 0, 1_000, None, None);
        check(150, 0, 1_000, None, Some("this generator was late: p99 150ms, limit 100ms"));
        check(40, 0, 45, Some(50), None);
        let mut window = Window::new(Timestamp::from_ms(0), Span::from_secs(1));
        assert_eq!(window.void(None), None, "where nothing was planned, nothing is spoilt");
        window.counts.planned = 10;
        (0..10).for_each(|_| _ = window.record(&Outcome::Shed, Times::default()));
        assert!(window.void(None).is_some_and(|why| why.contains("did not send 10 of 10")));
    }
}
