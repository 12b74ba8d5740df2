//! What one slot of one track costs the judge: time to fold, and bytes of state. Prints a table; it
//! asserts nothing about time, only that what is stored goes on as what was not.
//!
//! One track is one criterion in one region, or in all of them pooled. A soak of 48 h at 30 s has
//! 5,760 slots. `SLOTS=n` sets how many are folded (default 5,760).

#![expect(clippy::expect_used, clippy::print_stdout, reason = "a bench says what is wrong by panicking")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use bellwether_decide::kernel::share::{self, Batch};
use bellwether_decide::kernel::threshold::Counts;
use bellwether_decide::tally::Tally;
use bellwether_decide::test::Test;
use bellwether_decide::track::Pair;
use bellwether_protocol::plan::{Criterion, Objective, OnFail, Require};
use bellwether_protocol::ratio::{Ratio, Times};
use bellwether_protocol::sample::LATENCY_EDGES_MS;
use bellwether_protocol::time::{Span, Timestamp};

/// A soak of 48 hours.
const SLOTS: u64 = 5_760;
const SLOT: Span = Span::from_secs(30);
/// How often each soak is folded; the fastest one counts.
const ROUNDS: usize = 5;
/// How many copies of a state are made to see how much memory one takes.
const COPIES: u32 = 2_000;

fn main() {
    let slots = std::env::var("SLOTS").ok().and_then(|text| text.parse().ok()).unwrap_or(SLOTS);
    println!("one track, {slots} slots of {SLOT}, on one processor\n");
    println!("  {:<34} {:>12} {:>14} {:>10} {:>10}", "test", "ns per slot", "200 tracks", "stored", "in memory");
    for (name, objective) in objectives() {
        let criterion = criterion(objective);
        for regions in [1, 3] {
            let test = Test::new(&criterion, slots, SLOT).expect("a test");
            let (took, test) = fastest(test, |test| soak(test, slots, regions));
            row(&format!("{name}, {}", counted(regions)), took, slots, &test);
        }
    }
    println!("\n  kernel 2's proof that a canary is not worse, by how many bad answers one slot has\n");
    for bad in [10_u64, 1_000, 100_000, 10_000_000, 1_000_000_000] {
        let batch =
            Batch { canary: Counts::new(bad / 10, 100 * bad), baseline: Counts::new(bad - bad / 10, 900 * bad) };
        let folds = (10_000_000 / bad).clamp(1, 10_000);
        let (took, test) = fastest(share::Pass::new(2.0), |test| {
            (0..folds).for_each(|_| test.fold([black_box(batch)].into_iter(), true))
        });
        let each = took.as_nanos() / u128::from(folds);
        println!(
            "  {:<34} {each:>12} {:>14} {:>+10.3}",
            format!("{bad} bad"),
            "ln e of a slot",
            test.ln_e() / folds as f64
        );
    }
}

fn objectives() -> [(&'static str, Objective); 7] {
    let ratio = Ratio::from_ppb;
    let latency = |quantile| Objective::CompareLatency { quantile, times: Times::from_milli(1_500) };
    [
        ("ratio, limit 0.1 %", Objective::Ratio { bad: Vec::new(), max: ratio(1_000_000), target: None }),
        ("quantile, p99", Objective::Quantile { quantile: ratio(990_000_000), max: Span::from_ms(256), target: None }),
        ("errors beside the baseline", Objective::Compare { bad: Vec::new(), times: Times::from_milli(1_500) }),
        ("latency beside, anywhere", latency(None)),
        ("latency beside, at p99", latency(Some(ratio(990_000_000)))),
        (
            "burn rate",
            Objective::Burn {
                bad: Vec::new(),
                slo: ratio(999_000_000),
                period: Span::from_secs(30 * 86_400),
                spend: ratio(100_000_000),
            },
        ),
        (
            "stability",
            Objective::Stable { number: "rss".parse().expect("a name"), within: ratio(50_000_000), uptime: None },
        ),
    ]
}

fn criterion(objective: Objective) -> Criterion {
    Criterion {
        name: "tested".parse().expect("a name"),
        sli: "checkout".parse().expect("a name"),
        objective,
        hard: true,
        require: Require::NotFailed,
        hold_for: Span::ZERO,
        min_events: 1,
        on_fail: OnFail::Rollback.at_once(),
    }
}

/// 180 requests of the canary a slot and region, 1,620 of the baseline, one in a thousand bad.
fn soak(test: &mut Test, slots: u64, regions: usize) {
    let start = Timestamp::from_ms(1_800_000_000_000);
    let slower = |n: u64| LATENCY_EDGES_MS.map(|edge| n * 64 / (64 + edge)).to_vec();
    let tally =
        |n: u64, bad: u64| Tally { n, bad, over_target: bad, value: Some(2e8), uptime: None, slower: slower(n) };
    let quiet = vec![Pair { canary: tally(180, 0), baseline: tally(1_620, 1) }; regions];
    let noisy = vec![Pair { canary: tally(180, 1), baseline: tally(1_620, 3) }; regions];
    let pooled = [tally(180 * regions as u64, 0), tally(180 * regions as u64, regions as u64)];
    for slot in 0..slots {
        let at = start + SLOT.times(slot);
        if slot % 6 == 5 {
            test.fold(at, black_box(&pooled[1]), black_box(&noisy), true);
        } else {
            test.fold(at, black_box(&pooled[0]), black_box(&quiet), true);
        }
    }
}

/// The fastest of several runs from the same beginning, and what it came to.
fn fastest<T: Clone>(fresh: T, run: impl Fn(&mut T)) -> (Duration, T) {
    let rounds = (0..ROUNDS).map(|_| {
        let mut test = fresh.clone();
        let began = Instant::now();
        run(&mut test);
        (began.elapsed(), test)
    });
    rounds.min_by_key(|(took, _)| *took).expect("a round")
}

fn row(name: &str, took: Duration, slots: u64, test: &Test) {
    let stored = serde_json::to_string(test).expect("stored");
    let again: Test = serde_json::from_str(&stored).expect("read");
    assert_eq!(&again, test, "{name}: what is stored differs");
    let each = took.as_nanos() / u128::from(slots.max(1));
    let all = format!("{:.2} s", took.as_secs_f64() * 200.0);
    println!("  {name:<34} {each:>12} {all:>14} {:>8} B {:>8} B", stored.len(), in_memory(test));
}

/// Bytes that one state takes, by what the process grows by for many; 0 where that cannot be seen.
fn in_memory(test: &Test) -> u64 {
    let before = resident();
    let copies: Vec<Test> = (0..COPIES).map(|_| test.clone()).collect();
    let grown = resident().saturating_sub(before);
    black_box(copies);
    grown / u64::from(COPIES)
}

fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kb = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kb.unwrap_or(0) * 1_024
}

fn counted(regions: usize) -> String {
    if regions == 1 { "1 region".to_owned() } else { format!("{regions} regions") }
}
