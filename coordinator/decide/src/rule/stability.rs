//! Does a level such as memory climb or scatter?
//!
//! Looked at four planned times, at a quarter, half, three quarters and the whole of the soak, each at
//! a quarter of 5 %: a trend test looked at more often cries wolf. A trend counts only when it is also
//! too steep to be tolerated, by its lower limit; and nothing is said across a restart.
//!
//! One level stands for a region: the last value of a slot, of several agents that of the last by name,
//! and a bucket is the median of its slots. Where several processes answer by turns that is the middle
//! one, and their difference is scatter: a leak of one among many is found by its own region or SLI.
//! The shortest uptime of the slot counts, so a restart of any of them begins the count anew.

use bellwether_protocol::time::{Span, Timestamp};
use serde::{Deserialize, Serialize};

use super::trend::{self, Trend};

/// The chance of a false alarm of all looks together, without autocorrelation.
const ALPHA: f64 = 0.05;
/// How many looks.
const LOOKS: u64 = 4;
/// A look at fewer buckets than this is skipped.
const BUCKETS_MIN: usize = 24;
/// Buckets that are kept; the oldest ones go. Four days of ten minutes.
const BUCKETS_MAX: usize = 576;
/// Longest bucket.
const BUCKET_MAX: Span = Span::from_secs(600);
/// How many buckets a soak is cut into, unless they would be longer than [`BUCKET_MAX`].
const BUCKETS: u64 = 48;
/// Longest time after a start that does not count: caches fill.
const WARM_UP_MAX: Span = Span::from_secs(1_800);
/// Autocorrelation of ranks above which neighbours are too alike to be counted one by one.
const LAG_1_MAX: f64 = 0.3;

/// One level of one region since the evidence epoch began. At most about 6 KB.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stability {
    /// By how much of its median it may climb in a day, and how widely it may scatter.
    within: f64,
    slot: Span,
    planned: u64,
    seen: u64,
    /// Slots since the last restart, the warm-up included.
    running: u64,
    filling: Vec<f64>,
    buckets: Vec<f64>,
    last_uptime: Option<f64>,
    /// Restarts that were seen, and when the last one was.
    pub restarts: u32,
    /// When the last one was.
    pub restarted_at: Option<Timestamp>,
    /// The last look that was not skipped.
    pub last_look: Option<Look>,
    is_broken: bool,
    is_kept: bool,
}

/// What one planned look found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Look {
    /// At the end of which slot of the epoch.
    pub slot: u64,
    /// Buckets that were looked at.
    pub buckets: usize,
    /// How long each was.
    pub bucket: Span,
    /// Median.
    pub median: f64,
    /// Slope, as a share of the median per day.
    pub slope: f64,
    /// Its lower limit.
    pub low: f64,
    /// Its upper limit.
    pub high: f64,
    /// Hamed and Rao's standard score.
    pub z: f64,
    /// The 5th to the 95th percentile, as a share of the median.
    pub spread: f64,
    /// Autocorrelation of the ranks at lag 1, without the slope.
    pub lag_1: f64,
}

impl Look {
    /// How long until the level reaches `limit`, at the steepest slope that the data allow.
    pub fn time_to(&self, limit: f64) -> Option<Span> {
        let left = limit / self.median - 1.0;
        let days = left / self.high;
        (left > 0.0 && self.high > 0.0 && days < 3_650.0).then(|| Span::from_ms((days * DAY_MS) as u64))
    }
}

const DAY_MS: f64 = 86_400_000.0;

impl Stability {
    /// Nothing was seen yet, in a stage of `planned` slots.
    pub fn new(within: f64, slot: Span, planned: u64) -> Self {
        Self {
            within,
            slot,
            planned: planned.max(1),
            seen: 0,
            running: 0,
            filling: Vec::new(),
            buckets: Vec::new(),
            last_uptime: None,
            restarts: 0,
            restarted_at: None,
            last_look: None,
            is_broken: false,
            is_kept: false,
        }
    }

    /// Folds one slot: its level, and how long the process has run. What is not finite is not seen.
    pub fn fold(&mut self, slot: Timestamp, level: Option<f64>, uptime: Option<f64>) {
        self.seen += 1;
        self.note_uptime(slot, uptime.filter(|uptime| uptime.is_finite()));
        self.running += 1;
        let soak = Span::from_ms(self.slot.as_ms().saturating_mul(self.planned));
        let warm_up = WARM_UP_MAX.min(Span::from_ms(soak.as_ms() / 8));
        if self.slot.times(self.running) > warm_up {
            self.filling.extend(level.filter(|level| level.is_finite()));
            let width = self.bucket_slots();
            if self.running.is_multiple_of(width) {
                self.buckets.extend(trend::median(&mut self.filling));
                self.filling.clear();
                let excess = self.buckets.len().saturating_sub(BUCKETS_MAX);
                self.buckets.drain(..excess);
            }
        }
        let is_look = (1..=LOOKS).any(|look| self.seen == (self.planned * look).div_ceil(LOOKS));
        if is_look && self.buckets.len() >= BUCKETS_MIN {
            self.look();
        }
    }

    /// Whether it climbs more than it may.
    pub fn is_broken(&self) -> bool {
        self.is_broken
    }

    /// Whether the last planned look showed that it neither climbs nor scatters more than it may.
    pub fn is_kept(&self) -> bool {
        self.is_kept
    }

    fn note_uptime(&mut self, slot: Timestamp, uptime: Option<f64>) {
        if uptime.zip(self.last_uptime).is_some_and(|(now, before)| now < before) {
            self.restarts = self.restarts.saturating_add(1);
            self.restarted_at = Some(slot);
            self.running = 0;
            self.filling.clear();
            self.buckets.clear();
        }
        self.last_uptime = uptime.or(self.last_uptime);
    }

    /// Slots in one bucket.
    pub(crate) fn bucket_slots(&self) -> u64 {
        let longest = (BUCKET_MAX.as_ms() / self.slot.as_ms().max(1)).max(1);
        (self.planned / BUCKETS).clamp(1, longest)
    }

    fn look(&mut self) {
        let mut buckets = self.buckets.clone();
        let mut width = self.bucket_slots();
        let mut found = Trend::of(&buckets);
        // Neighbours that are alike are one observation: wider buckets, as long as there are enough.
        while found.is_some_and(|trend| trend.lag_1 > LAG_1_MAX) && buckets.len() / 2 >= BUCKETS_MIN {
            buckets = buckets.chunks_exact(2).map(|pair| pair.iter().sum::<f64>() / 2.0).collect();
            width *= 2;
            found = Trend::of(&buckets);
        }
        let Some(look) = self.measure(&buckets, width, found) else { return };
        let critical = trend::normal_quantile(1.0 - ALPHA / LOOKS as f64);
        let is_independent = look.lag_1 <= LAG_1_MAX;
        self.is_broken |= is_independent && look.z > critical && look.low > self.within;
        self.is_kept = self.seen >= self.planned && look.high < self.within && look.spread <= self.within;
        self.last_look = Some(look);
    }

    fn measure(&self, buckets: &[f64], width: u64, found: Option<Trend>) -> Option<Look> {
        let median = trend::median(&mut buckets.to_vec()).filter(|median| *median > 0.0)?;
        let bucket = self.slot.times(width);
        let per_day = DAY_MS / bucket.as_ms().max(1) as f64 / median;
        let critical = trend::normal_quantile(1.0 - ALPHA / LOOKS as f64);
        // A level that never moves has no trend and no limits but 0.
        let (slope, z, lag_1, (low, high)) = match found {
            Some(trend) => {
                // Neighbours that alternate would make the correction a lever for false alarms.
                let variance = trend.variance * trend.inflation.max(1.0);
                let limits = trend::slope_limits(buckets, variance, critical)?;
                (trend.slope, trend.z(variance), trend.lag_1, limits)
            }
            None => (0.0, 0.0, 0.0, (0.0, 0.0)),
        };
        Some(Look {
            slot: self.seen,
            buckets: buckets.len(),
            bucket,
            median,
            slope: slope * per_day,
            low: low * per_day,
            high: high * per_day,
            z,
            spread: trend::spread(buckets)?,
            lag_1,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOT: Span = Span::from_secs(600);

    /// A day of ten-minute slots of a level around 200 MB that climbs by `leak` a day.
    fn day(leak: f64, mut restart_at: Option<u32>) -> Stability {
        let mut stability = Stability::new(0.05, SLOT, 144);
        let mut started = 0;
        for slot in 0..144_u32 {
            if restart_at == Some(slot) {
                (started, restart_at) = (slot, None);
            }
            // A fixed scatter of 1 %, without correlation between neighbours.
            let noise = f64::from((slot * 37) % 101) / 101.0 - 0.5;
            let level = 2e8 * (1.0 + leak * f64::from(slot - started) / 144.0 + 0.02 * noise);
            stability.fold(Timestamp::default(), Some(level), Some(f64::from(slot - started)));
        }
        stability
    }

    #[test]
    fn a_level_that_stays_is_kept_and_a_leak_is_not() {
        let flat = day(0.0, None);
        assert!(flat.is_kept() && !flat.is_broken(), "{:?}", flat.last_look);
        let leak = day(0.2, None);
        assert!(leak.is_broken() && !leak.is_kept(), "{:?}", leak.last_look);
        assert!((leak.last_look.unwrap().slope - 0.18).abs() < 0.03);
    }

    #[test]
    fn nothing_is_said_across_a_restart() {
        let leak = day(0.2, Some(130));
        assert_eq!((leak.restarts, leak.buckets.len() < BUCKETS_MIN), (1, true));
        let early = day(0.04, Some(10));
        assert!(!early.is_broken(), "{:?}", early.last_look);
    }

    #[test]
    fn what_is_no_number_is_not_seen() {
        let mut stability = Stability::new(0.05, SLOT, 144);
        for _ in 0..144 {
            stability.fold(Timestamp::default(), Some(f64::NAN), Some(f64::INFINITY));
        }
        assert_eq!((stability.is_broken(), stability.is_kept(), stability.last_look), (false, false, None));
    }

    #[test]
    fn the_time_to_a_limit_follows_the_steepest_slope() {
        let look = day(0.2, None).last_look.unwrap();
        let left = look.time_to(look.median * 1.2).unwrap();
        assert!(left > Span::from_secs(12 * 3_600) && left < Span::from_secs(48 * 3_600), "{left}");
        assert_eq!(look.time_to(look.median * 0.9), None);
    }
}
