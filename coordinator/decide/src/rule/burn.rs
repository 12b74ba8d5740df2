//! Does the error budget of an SLO burn too fast?
//!
//! A burn rate is the share of bad answers over the share that the SLO allows. It is too high when it
//! is so in a long window and in the short one at its end: lasting, and still going on. A guard asks
//! of both that they are no accident: kernel 1 at 1 in 20, as a rule of thumb, for a sliding window has
//! no guarantee that holds at all times.

use bellwether_protocol::time::Span;
use serde::{Deserialize, Serialize};

use crate::kernel::threshold::{Counts, ln_e_fail};

/// Windows and the part of the period's budget that each may spend: an hour 2 %, six hours 5 %, three days 10 %.
const WINDOWS: [(Span, f64); 3] =
    [(Span::from_secs(3_600), 0.02), (Span::from_secs(6 * 3_600), 0.05), (Span::from_secs(72 * 3_600), 0.1)];
/// A short window is a twelfth of the long one, and is counted in six bins.
const SHORT: u64 = 12;
const BINS: u64 = 6;
/// How unlikely the counts of a window must be: `ln 20`.
const GUARD: f64 = 2.995_732_273_553_991;

/// One SLO of one region, or of all pooled, since the evidence epoch began.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Burn {
    /// The share of answers that may be bad.
    allowed: f64,
    windows: Vec<Window>,
    /// How many times as fast as planned the whole stage may burn.
    stage_factor: f64,
    planned: u64,
    seen: u64,
    total: Counts,
}

/// A long window, and the short one at its end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Window {
    long: Span,
    factor: f64,
    /// Slots in one bin.
    bin: u64,
    /// The last bins, the newest last, and how many slots it holds.
    bins: Vec<Counts>,
    filled: u64,
}

/// How fast an SLO burns.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// The long window.
    pub long: Span,
    /// How many times as fast as the SLO allows, over the long window.
    pub rate: f64,
    /// How many times as fast it may.
    pub factor: f64,
}

impl Burn {
    /// An SLO of `slo` good answers over `period`, of whose budget a stage of `planned` slots may spend `spend`.
    pub fn new(slo: f64, period: Span, spend: f64, slot: Span, planned: u64) -> Self {
        let stage = slot.times(planned);
        let factor = |budget: f64, over: Span| budget * period.as_ms() as f64 / over.as_ms().max(1) as f64;
        let stage_factor = factor(spend, stage);
        let fitting = WINDOWS.into_iter().filter(|(long, _)| *long <= stage && *long <= period);
        let fitting = fitting.map(|(long, budget)| Window::new(long, factor(budget, long), slot));
        let own = Window::new(stage, stage_factor, slot);
        let windows = fitting.filter(|window| window.long < stage).chain([own]).collect();
        Self { allowed: 1.0 - slo, windows, stage_factor, planned, seen: 0, total: Counts::default() }
    }

    /// Folds one slot.
    pub fn fold(&mut self, slot: Counts) {
        self.seen += 1;
        self.total = self.total.plus(slot);
        self.windows.iter_mut().for_each(|window| window.fold(slot));
    }

    /// Whether it burns too fast now.
    pub fn is_broken(&self) -> bool {
        self.windows.iter().any(|window| window.is_too_fast(self.allowed))
    }

    /// Whether the whole stage spent no more than it may.
    pub fn is_kept(&self) -> bool {
        self.seen >= self.planned && self.total.bad as f64 <= self.stage_factor * self.allowed * self.total.n() as f64
    }

    /// How fast it burns in each long window.
    pub fn windows(&self) -> impl Iterator<Item = Rate> {
        self.windows.iter().map(|window| Rate {
            long: window.long,
            rate: window.share(SHORT * BINS) / self.allowed,
            factor: window.factor,
        })
    }

    /// The window that is nearest to its limit, or furthest over it.
    pub fn rate(&self) -> Option<Rate> {
        self.windows().max_by(|a, b| (a.rate / a.factor).total_cmp(&(b.rate / b.factor)))
    }
}

impl Window {
    fn new(long: Span, factor: f64, slot: Span) -> Self {
        let bin = (long.as_ms() / (SHORT * BINS) / slot.as_ms().max(1)).max(1);
        Self { long, factor, bin, bins: Vec::new(), filled: 0 }
    }

    fn fold(&mut self, slot: Counts) {
        if self.filled == 0 || self.filled == self.bin {
            self.bins.push(Counts::default());
            self.filled = 0;
            let excess = self.bins.len().saturating_sub((SHORT * BINS) as usize);
            self.bins.drain(..excess);
        }
        self.filled += 1;
        if let Some(newest) = self.bins.last_mut() {
            *newest = newest.plus(slot);
        }
    }

    fn is_too_fast(&self, allowed: f64) -> bool {
        let limit = self.factor * allowed;
        let is_over = |bins: u64| {
            let counts = self.counts(bins);
            self.share(bins) > limit && ln_e_fail(counts, limit) >= GUARD
        };
        limit < 1.0 && is_over(SHORT * BINS) && is_over(BINS)
    }

    /// The share of bad answers in the last `bins` bins. What has not been seen yet counts as good,
    /// with as much traffic as there was since.
    fn share(&self, bins: u64) -> f64 {
        let counts = self.counts(bins);
        let (bad, n) = (counts.bad, counts.n());
        if n == 0 {
            return 0.0;
        }
        let whole = self.bins.len().saturating_sub(1) as u64;
        let seen = (whole * self.bin + self.filled) as f64 / (bins * self.bin) as f64;
        bad as f64 / n as f64 * seen.min(1.0)
    }

    fn counts(&self, bins: u64) -> Counts {
        self.bins.iter().rev().take(bins as usize).fold(Counts::default(), |all, bin| all.plus(*bin))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOT: Span = Span::from_secs(1);
    const PERIOD: Span = Span::from_secs(30 * 86_400);
    const DAY: u64 = 86_400;

    /// How many seconds of so many bad answers in a thousand each second until it is too fast.
    fn trips_after(bad: u64, planned: u64) -> Option<u64> {
        let mut burn = Burn::new(0.999, PERIOD, 0.1, SLOT, planned);
        (1..=planned).find(|_| {
            burn.fold(Counts::new(bad, 1_000));
            burn.is_broken()
        })
    }

    #[test]
    fn an_outage_trips_at_once_and_the_slo_itself_never() {
        // 0.864 minutes, as the long window's share of a total outage says.
        assert_eq!(trips_after(1_000, DAY), Some(52));
        assert_eq!(trips_after(100, DAY), Some(519));
        assert_eq!(trips_after(1, DAY), None);
    }

    #[test]
    fn a_stage_may_spend_its_part_of_the_budget() {
        let mut burn = Burn::new(0.999, PERIOD, 0.1, SLOT, DAY);
        (0..DAY).for_each(|_| burn.fold(Counts::new(2, 1_000)));
        assert!(burn.is_kept() && !burn.is_broken());
        assert!((burn.stage_factor - 3.0).abs() < 1e-12);
        let rate = burn.rate().unwrap();
        assert!((rate.rate - 2.0).abs() < 1e-9 && (rate.factor - 3.0).abs() < 1e-9);
    }

    #[test]
    fn one_bad_answer_among_few_is_an_accident() {
        let mut burn = Burn::new(0.999, PERIOD, 0.1, Span::from_secs(30), 2_880);
        for slot in 0..400 {
            burn.fold(Counts::new(u64::from(slot == 300), 1));
            assert!(!burn.is_broken(), "{slot}");
        }
    }
}
