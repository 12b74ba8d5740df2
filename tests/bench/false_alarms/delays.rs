//! Streams with a regression: how long until it is seen.

use bellwether_decide::kernel::edges::{Anywhere, AtQuantile, Slower};
use bellwether_decide::kernel::share::{self, Ratios};
use bellwether_decide::kernel::starts::Weights;
use bellwether_decide::kernel::threshold;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::streams::{EDGES, Slow, batch, counts, each, slower};
use crate::{ALPHA, ALPHA_SHARE, Claims, ln_bar};

const DAY: usize = 1_440;

/// The median that a reference found in so many streams.
#[derive(Clone, Copy)]
struct Reference {
    median: f64,
    streams: usize,
}

/// Minutes until a bar is reached; `None` when it never is.
type Delay = Option<usize>;

pub(crate) fn run(streams: usize, claims: &mut Claims) {
    println!("  {:<44} {:>14} {:>12}   {:>14}", "", "measured", "reference", "product");
    let mut row = |name: String, Reference { median: reference, streams }: Reference, delays: &[(Delay, Delay)]| {
        let plain: Vec<Delay> = delays.iter().map(|(plain, _)| *plain).collect();
        let product: Vec<Delay> = delays.iter().map(|(_, product)| *product).collect();
        let (low, high) = bootstrap(&plain, streams);
        let median = quantile(&plain, 0.5);
        let near = (low..=high).contains(&reference) || (median - reference).abs() <= 1.0;
        let word = claims.check(near, &format!("{name}: {median} minutes instead of {reference}"));
        println!("  {name:<44} {:>14} {reference:>12}   {:>14}   {word}", both(&plain), both(&product));
    };
    let effects = (streams / 2).max(20);
    let of = |median, streams| Reference { median, streams };
    for (mean, references) in [(360.0, [4.0, 2.0, 1.0]), (6.0, [150.0, 43.0, 6.0])] {
        for (p, reference) in [0.005, 0.01, 0.05].into_iter().zip(references) {
            let delays = each(effects, 11, |rng| absolute(rng, mean, p));
            row(format!("limit 0.1 %, {} %, {mean} a minute", p * 100.0), of(reference, 500), &delays);
        }
    }
    for (total, references) in [(3_600.0, [3.0, 1.0, 1.0]), (60.0, [97.0, 33.0, 5.0])] {
        for (ratio, reference) in [5.0, 10.0, 50.0].into_iter().zip(references) {
            let delays = each(effects, 12, |rng| compared(rng, total, ratio));
            row(format!("0.1 % beside {}x, {} a minute", ratio, total / 10.0), of(reference, 250), &delays);
        }
    }
    let effects = [
        ("all 1.2x", Slow::All(1.2), [(1.0, 5.0), (6.0, 21.0)]),
        ("above p98 1.2x", Slow::Tail(1.2), [(6.0, 5.0), (36.0, 24.0)]),
        ("above p98 2x", Slow::Tail(2.0), [(1.0, 3.0), (5.0, 13.0)]),
    ];
    for (name, slow, references) in effects {
        for ((n, (anywhere, at_quantile)), salt) in [360, 60].into_iter().zip(references).zip(13..) {
            let delays = each((streams / 2).max(20), salt, |rng| latency(rng, n, slow));
            let column = |test: usize| delays.iter().map(|tests| tests[test]).collect::<Vec<_>>();
            row(format!("latency anywhere, {name}, {n} a minute"), of(anywhere, 200), &column(0));
            row(format!("latency at p99, {name}, {n} a minute"), of(at_quantile, 200), &column(1));
        }
    }
}

/// Onset at a random minute of hours 1 to 46 of 48, beside an onset at minute 10.
///
/// Only kernel 1 has a bound here. Kernel 2 tempers its later starts, so that two cohorts that drift
/// apart for minutes are no regression, and it pays for that with patience: the rows say how much.
pub(crate) fn late(streams: usize, claims: &mut Claims) {
    let streams = (streams / 4).max(20);
    let seen = |stream: &(dyn Fn(&mut SmallRng, usize) -> Delay + Sync)| {
        let early = each(streams, 21, |rng| stream(rng, 10));
        let late = each(streams, 22, |rng| {
            let onset = rng.random_range(60..46 * 60);
            stream(rng, onset)
        });
        (early, late)
    };
    let show = |name: &str, (early, late): &(Vec<Delay>, Vec<Delay>), word: &str| {
        println!("  {name:<44} {:>14} {:>22}   {word}", both(early), both(late));
    };
    println!("  {:<44} {:>14} {:>22}", "", "at minute 10", "in hours 1 to 46");
    let absolute = seen(&late_absolute);
    let keeps = quantile(&absolute.1, 0.9) <= 2.5 * quantile(&absolute.0, 0.9);
    let word = claims.check(keeps, "late onsets take more than 2.5 times as long");
    show("limit 0.5 %, 0.1 % -> 1 %, 360 a minute", &absolute, &format!("90 % at most 2.5x: {word}"));
    for ratio in [5.0, 10.0] {
        let compared = seen(&|rng, onset| late_compared(rng, onset, ratio));
        show(&format!("0.1 % beside {ratio}x, at most 1.5x, 360 a minute"), &compared, "no bound");
    }
}

const LATE_PLANNED: usize = 2 * DAY;

fn late_absolute(rng: &mut SmallRng, onset: usize) -> Delay {
    let mut test = threshold::Fail::new(0.005, LATE_PLANNED as u64, Weights::Spread);
    since(onset, |minute| {
        test.fold(counts(rng, 360.0, if minute < onset { 0.001 } else { 0.01 }));
        test.ln_e()
    })
}

fn late_compared(rng: &mut SmallRng, onset: usize, ratio: f64) -> Delay {
    let mut test = share::Fail::new(1.5, Ratios::ERRORS, LATE_PLANNED as u64, Weights::Spread);
    since(onset, |minute| {
        test.fold([batch(rng, minute, 3_600.0, 0.001, if minute < onset { 1.0 } else { ratio })].into_iter());
        test.ln_e()
    })
}

/// Minutes from the onset to the first alarm. An alarm before it is a false one, and found nothing.
fn since(onset: usize, mut look: impl FnMut(usize) -> f64) -> Delay {
    let alarm = (0..LATE_PLANNED).find(|minute| look(*minute) >= ln_bar(ALPHA))?;
    (alarm + 1).checked_sub(onset).filter(|delay| *delay > 0)
}

/// The plain test at 5 %, and the product's at its share, on one stream.
fn absolute(rng: &mut SmallRng, mean: f64, p: f64) -> (Delay, Delay) {
    let mut plain = threshold::Fail::new(0.001, DAY as u64, Weights::First);
    let mut product = threshold::Fail::new(0.001, DAY as u64, Weights::Spread);
    first(DAY, |_| {
        let slot = counts(rng, mean, p);
        plain.fold(slot);
        product.fold(slot);
        (plain.ln_e(), product.ln_e())
    })
}

fn compared(rng: &mut SmallRng, total: f64, ratio: f64) -> (Delay, Delay) {
    let mut plain = share::Fail::new(1.0, Ratios::ERRORS, DAY as u64, Weights::First);
    let mut product = share::Fail::new(1.5, Ratios::ERRORS, DAY as u64, Weights::Spread);
    first(DAY, |minute| {
        let slot = batch(rng, minute, total, 0.001, ratio);
        plain.fold([slot].into_iter());
        product.fold([slot].into_iter());
        (plain.ln_e(), product.ln_e())
    })
}

fn latency(rng: &mut SmallRng, n: u64, slow: Slow) -> [(Delay, Delay); 2] {
    const MINUTES: usize = 240;
    let both = [Weights::First, Weights::Spread];
    let mut anywhere = both.map(|weights| Anywhere::new(EDGES, MINUTES as u64, weights));
    let mut at_quantile = both.map(|weights| AtQuantile::new(0.99, 2.0, MINUTES as u64, weights));
    let mut told = [(None, None); 2];
    for minute in 0..MINUTES {
        let canary = slower(rng, minute, n, slow);
        let baseline = slower(rng, minute, 9 * n, Slow::All(1.0));
        let slot = Slower { canary_n: n, canary: &canary, baseline_n: 9 * n, baseline: &baseline };
        anywhere.iter_mut().for_each(|test| test.fold([slot].into_iter()));
        at_quantile.iter_mut().for_each(|test| test.fold([slot].into_iter(), true));
        let ln_e = [anywhere.each_ref().map(Anywhere::ln_e), at_quantile.each_ref().map(AtQuantile::ln_e)];
        for ((plain, product), [of_plain, of_product]) in told.iter_mut().zip(ln_e) {
            note(plain, of_plain, ALPHA, minute);
            note(product, of_product, ALPHA_SHARE, minute);
        }
        if told.iter().all(|(plain, product)| plain.is_some() && product.is_some()) {
            break;
        }
    }
    told
}

fn first(minutes: usize, mut look: impl FnMut(usize) -> (f64, f64)) -> (Delay, Delay) {
    let (mut plain, mut product) = (None, None);
    for minute in 0..minutes {
        let (of_plain, of_product) = look(minute);
        note(&mut plain, of_plain, ALPHA, minute);
        note(&mut product, of_product, ALPHA_SHARE, minute);
        if plain.is_some() && product.is_some() {
            break;
        }
    }
    (plain, product)
}

fn note(delay: &mut Delay, ln_e: f64, alpha: f64, minute: usize) {
    if ln_e >= ln_bar(alpha) {
        delay.get_or_insert(minute + 1);
    }
}

/// Infinite when so many never saw it.
fn quantile(delays: &[Delay], q: f64) -> f64 {
    let mut sorted: Vec<f64> =
        delays.iter().map(|delay| delay.map_or(f64::INFINITY, |minutes| minutes as f64)).collect();
    sorted.sort_by(f64::total_cmp);
    let at = (q * (sorted.len() - 1) as f64).ceil() as usize;
    sorted[at]
}

fn both(delays: &[Delay]) -> String {
    let word = |q| {
        let minutes = quantile(delays, q);
        if minutes.is_finite() { format!("{minutes}") } else { "never".to_owned() }
    };
    format!("{} / {}", word(0.5), word(0.9))
}

/// The interval in which the median of so many streams lies with 95 %, by drawing that many again.
fn bootstrap(delays: &[Delay], streams: usize) -> (f64, f64) {
    let mut rng = SmallRng::seed_from_u64(99);
    let mut medians: Vec<f64> = (0..2_000)
        .map(|_| {
            let again: Vec<Delay> = (0..streams).map(|_| delays[rng.random_range(0..delays.len())]).collect();
            quantile(&again, 0.5)
        })
        .collect();
    medians.sort_by(f64::total_cmp);
    (medians[50], medians[1_949])
}
