//! Ends a load by itself when nearly everything fails: what is broken is not to be hammered. Pure.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bellwether_protocol::sample::class;

/// What came back over the last seconds.
#[derive(Debug, Default)]
pub(crate) struct Valve {
    seconds: VecDeque<Second>,
}

#[derive(Debug)]
struct Second {
    begun: Instant,
    all: u64,
    failed: u64,
}

/// How long nearly everything must fail.
const FOR: Duration = Duration::from_secs(10);
/// How much of everything, in percent.
const SHARE: u64 = 95;
/// Fewer than this many in all that time say nothing.
const MIN: u64 = 10;

impl Valve {
    /// Counts one answer, or what came instead.
    pub(crate) fn count(&mut self, word: &str, now: Instant) {
        let is_new = self.seconds.back().is_none_or(|last| now >= last.begun + Duration::from_secs(1));
        if is_new {
            self.seconds.push_back(Second { begun: now, all: 0, failed: 0 });
        }
        if let Some(second) = self.seconds.back_mut() {
            second.all += 1;
            second.failed += u64::from(word != class::OK);
        }
    }

    /// Why the load must end, when it must.
    pub(crate) fn shut(&mut self, now: Instant) -> Option<String> {
        while self.seconds.front().is_some_and(|first| now >= first.begun + FOR + Duration::from_secs(1)) {
            self.seconds.pop_front();
        }
        let whole = self.seconds.front().is_some_and(|first| now >= first.begun + FOR);
        let (all, failed) = self.seconds.iter().fold((0, 0), |(a, f), second| (a + second.all, f + second.failed));
        let is_bad = whole && all >= MIN && failed * 100 >= all * SHARE;
        is_bad
            .then(|| format!("{failed} of {all} failed in {} s, limit {SHARE}%: the load ended itself", FOR.as_secs()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_shuts_when_nearly_everything_failed_for_long() {
        let begin = Instant::now();
        let check = |per_second: u64, good_every: u64, until: u64, expected: bool| {
            let mut valve = Valve::default();
            let (mut n, mut shut) = (0, None);
            for tenth in 0..until * 10 {
                let now = begin + Duration::from_millis(100 * tenth);
                for _ in 0..per_second / 10 {
                    n += 1;
                    let is_good = good_every > 0 && n % good_every == 0;
                    valve.count(if is_good { class::OK } else { class::HTTP_5XX }, now);
                }
                shut = shut.or(valve.shut(now));
            }
            assert_eq!(shut.is_some(), expected, "{per_second}/s, one in {good_every} good, {until} s: {shut:?}");
        };
        check(50, 0, 12, true);
        check(50, 20, 12, true);
        check(50, 10, 60, false);
        check(50, 0, 9, false);
        check(50, 1, 60, false);
    }
}
