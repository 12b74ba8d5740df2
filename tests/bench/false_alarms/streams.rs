//! Random traffic, seeded stream by stream, on as many threads as the machine has.

use bellwether_decide::kernel::share::Batch;
use bellwether_decide::kernel::threshold::Counts;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use rand_distr::{Binomial, Distribution, Normal, Poisson};

/// Upper edges of latency buckets in milliseconds: four to each doubling, 16 ms to 4 s.
pub(crate) const EDGES: usize = 33;

/// Runs `stream` for seeds 0 to `count`, and gives what each came to, in order.
pub(crate) fn each<T: Send>(count: usize, salt: u64, stream: impl Fn(&mut SmallRng) -> T + Sync) -> Vec<T> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let of = |seed: usize| stream(&mut SmallRng::seed_from_u64(salt.wrapping_mul(1_000_003) + seed as u64));
    let part = |thread: usize| (thread..count).step_by(threads).map(|seed| (seed, of(seed))).collect::<Vec<_>>();
    let mut all: Vec<(usize, T)> = std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|thread| scope.spawn(move || part(thread))).collect();
        running.into_iter().flat_map(|thread| thread.join().expect("a thread")).collect()
    });
    all.sort_by_key(|(seed, _)| *seed);
    all.into_iter().map(|(_, value)| value).collect()
}

pub(crate) fn poisson(rng: &mut SmallRng, mean: f64) -> u64 {
    Poisson::new(mean).expect("a mean").sample(rng) as u64
}

pub(crate) fn binomial(rng: &mut SmallRng, n: u64, p: f64) -> u64 {
    Binomial::new(n, p.clamp(0.0, 1.0)).expect("a share").sample(rng)
}

/// `n` requests around a mean, of which a share is bad.
pub(crate) fn counts(rng: &mut SmallRng, mean: f64, p: f64) -> Counts {
    let n = poisson(rng, mean);
    Counts::new(binomial(rng, n, p), n)
}

/// A wave of one day, from 0.5 to 1.5.
pub(crate) fn daily(minute: usize, shift: usize) -> f64 {
    1.0 + 0.5 * (std::f64::consts::TAU * (minute + shift) as f64 / 1_440.0).sin()
}

/// One minute of a canary with a tenth of the traffic, `ratio` times as bad as the baseline.
pub(crate) fn batch(rng: &mut SmallRng, minute: usize, total: f64, base: f64, ratio: f64) -> Batch {
    let n = poisson(rng, total * daily(minute, 0));
    let canary = binomial(rng, n, 0.1);
    let p = base * daily(minute, 360);
    Batch {
        canary: Counts::new(binomial(rng, canary, p * ratio), canary),
        baseline: Counts::new(binomial(rng, n - canary, p), n - canary),
    }
}

/// The share of errors of an arm with its own noise: lognormal with mean 1, autocorrelated.
pub(crate) struct Noise {
    state: f64,
    deviation: f64,
    correlation: f64,
}

impl Noise {
    pub(crate) fn new(rng: &mut SmallRng, deviation: f64, correlation: f64) -> Self {
        Self { state: normal(rng), deviation, correlation }
    }

    pub(crate) fn next(&mut self, rng: &mut SmallRng) -> f64 {
        let factor = (self.deviation * self.state - self.deviation * self.deviation / 2.0).exp();
        let fresh = (1.0 - self.correlation * self.correlation).sqrt() * normal(rng);
        self.state = self.correlation * self.state + fresh;
        factor
    }
}

fn normal(rng: &mut SmallRng) -> f64 {
    Normal::new(0.0, 1.0).expect("a normal").sample(rng)
}

/// What befalls latencies.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Slow {
    /// Every one takes so many times as long.
    All(f64),
    /// Only those above the 98th percentile.
    Tail(f64),
}

/// How many of `n` lognormal latencies (median 100 ms by day and night, sigma 0.6) are over each edge.
pub(crate) fn slower(rng: &mut SmallRng, minute: usize, n: u64, slow: Slow) -> Vec<u64> {
    let median = 100.0 * (1.0 + 0.3 * (std::f64::consts::TAU * minute as f64 / 240.0).sin());
    let mut left = n;
    let mut over_before = 1.0;
    let over = (0..EDGES).map(|edge| exceedance(2_f64.powf((edge + 16) as f64 / 4.0), median, slow));
    // Bucket by bucket: of those that are over one edge, how many are over the next.
    over.map(|over| {
        let share = if over_before > 0.0 { over / over_before } else { 0.0 };
        left = binomial(rng, left, share);
        over_before = over;
        left
    })
    .collect()
}

fn exceedance(edge: f64, median: f64, slow: Slow) -> f64 {
    let over = |edge: f64| 0.5 * libm::erfc((edge / median).ln() / 0.6 * std::f64::consts::FRAC_1_SQRT_2);
    match slow {
        Slow::All(times) => over(edge / times),
        Slow::Tail(times) => {
            let from = median * (0.6 * 2.053_748_910_631_823_f64).exp();
            if edge <= from {
                over(edge)
            } else if edge <= from * times {
                0.02
            } else {
                over(edge / times)
            }
        }
    }
}
