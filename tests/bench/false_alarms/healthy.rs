//! Healthy streams: how many of them ever raise an alarm.

use bellwether_decide::kernel::edges::{Anywhere, AtQuantile, Slower};
use bellwether_decide::kernel::share::{self, Batch, Ratios};
use bellwether_decide::kernel::starts::Weights;
use bellwether_decide::kernel::threshold::{self, Counts};

use crate::streams::{EDGES, Noise, Slow, batch, binomial, counts, each, slower};
use crate::{ALPHA, Claims, ln_bar, plan};

const DAY: usize = 1_440;

pub(crate) fn run(streams: usize, claims: &mut Claims) {
    let mut row =
        |name: &str, bound: f64, alarms: &[bool]| show(name, with_chance(bound, alarms.len()), alarms, claims);
    for (p0, mean) in [(0.005, 360.0), (0.001, 6.0)] {
        let alarms = each(streams, 1, |rng| {
            let mut test = threshold::Fail::new(p0, DAY as u64, Weights::Spread);
            (0..DAY).for_each(|_| test.fold(counts(rng, mean, p0)));
            test.ln_e_max() >= ln_bar(ALPHA)
        });
        row(&format!("kernel 1, p = p0 = {} %, {mean} a minute, 24 h", p0 * 100.0), ALPHA, &alarms);
        let alarms = each(streams, 2, |rng| {
            let mut sum = Counts::default();
            (0..DAY).any(|_| {
                sum = sum.plus(counts(rng, mean, p0));
                threshold::ln_e_pass(sum, p0) >= ln_bar(ALPHA)
            })
        });
        row(&format!("kernel 1 Pass, p = p1 = {} %, {mean} a minute, 24 h", p0 * 100.0), ALPHA, &alarms);
    }
    for (total, base) in [(3_600.0, 0.001), (3_600.0, 0.01), (60.0, 0.001), (60.0, 0.01)] {
        let alarms = each(streams, 3, |rng| {
            let mut test = share::Fail::new(1.0, Ratios::ERRORS, DAY as u64, Weights::Spread);
            (0..DAY).for_each(|minute| test.fold([batch(rng, minute, total, base, 1.0)].into_iter()));
            test.ln_e_max() >= ln_bar(ALPHA)
        });
        row(&format!("kernel 2, {} % errors, {total} a minute, 24 h", base * 100.0), ALPHA, &alarms);
    }
    let alarms = each(streams, 4, |rng| {
        let mut test = share::Pass::new(2.0);
        (0..DAY).any(|minute| {
            test.fold([batch(rng, minute, 3_600.0, 0.001, 2.0)].into_iter(), true);
            test.ln_e() >= ln_bar(ALPHA)
        })
    });
    row("kernel 2 Pass, ratio = r1 = 2, 0.1 % errors, 3600 a minute", ALPHA, &alarms);
    let alarms = each(streams, 5, latencies);
    row("latency anywhere, 33 edges, 360 of 3600 a minute, 4 h", ALPHA, &column(&alarms, |pair| pair.0));
    row("latency at p99, 360 of 3600 a minute, 4 h", ALPHA, &column(&alarms, |pair| pair.1));
    let alarms = each(streams, 6, noisy_arms);
    show("kernel 2 at 1.5x, arms with noise of their own, 1 % errors", 0.045, &alarms, claims);
}

/// The real gates, on everything that a plan may ask at once.
pub(crate) fn whole_plan(streams: usize, claims: &mut Claims) {
    let alarms = each(streams, 7, plan::is_taken_back);
    show("a whole plan: 6 hard criteria x 3 regions and pooled, 24 h", with_chance(ALPHA, streams), &alarms, claims);
}

/// A bound, and three standard deviations of what chance does to it.
fn with_chance(bound: f64, streams: usize) -> f64 {
    bound + 3.0 * (bound * (1.0 - bound) / streams as f64).sqrt()
}

fn show(name: &str, most: f64, alarms: &[bool], claims: &mut Claims) {
    let share = alarms.iter().filter(|alarm| **alarm).count() as f64 / alarms.len() as f64;
    let word = claims.check(share <= most, &format!("{name}: {:.2} % of false alarms", share * 100.0));
    println!("  {name:<60} {:>5.2} %   at most {:.1} %   {word}", share * 100.0, most * 100.0);
}

fn column(pairs: &[(bool, bool)], of: fn(&(bool, bool)) -> bool) -> Vec<bool> {
    pairs.iter().map(of).collect()
}

fn latencies(rng: &mut rand::rngs::SmallRng) -> (bool, bool) {
    let mut anywhere = Anywhere::new(EDGES, 240, Weights::Spread);
    let mut at_quantile = AtQuantile::new(0.99, 2.0, 240, Weights::Spread);
    for minute in 0..240 {
        let canary = slower(rng, minute, 360, Slow::All(1.0));
        let baseline = slower(rng, minute, 3_240, Slow::All(1.0));
        let slot = Slower { canary_n: 360, canary: &canary, baseline_n: 3_240, baseline: &baseline };
        anywhere.fold([slot].into_iter());
        at_quantile.fold([slot].into_iter(), true);
    }
    (anywhere.ln_e_max() >= ln_bar(ALPHA), at_quantile.ln_e_max() >= ln_bar(ALPHA))
}

fn noisy_arms(rng: &mut rand::rngs::SmallRng) -> bool {
    let mut test = share::Fail::new(1.5, Ratios::ERRORS, DAY as u64, Weights::Spread);
    let (mut canary, mut baseline) = (Noise::new(rng, 0.3, 0.9), Noise::new(rng, 0.3, 0.9));
    for _ in 0..DAY {
        let (p_canary, p_baseline) = (0.01 * canary.next(rng), 0.01 * baseline.next(rng));
        let slot = Batch {
            canary: Counts::new(binomial(rng, 360, p_canary), 360),
            baseline: Counts::new(binomial(rng, 3_240, p_baseline), 3_240),
        };
        test.fold([slot].into_iter());
    }
    test.ln_e_max() >= ln_bar(ALPHA)
}
