//! Does any order of bad luck break a promise? A seed picks the faults; checkers stand beside.
//!
//! `SIM_SEEDS=<n>` plays more or fewer, `SIM_FROM=<n>` others; `SIM_SEED=<n> cargo test --test simulation one_seed -- --nocapture` plays one.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

mod check;
mod seed;
mod world;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use world::Bug;

type Found = (u64, Vec<(&'static str, String)>);

fn one(seed: u64, bug: Option<Bug>) -> Vec<(&'static str, String)> {
    check::check(&mut seed::play(seed, bug))
}

/// Plays seeds on every core until `stop` says that enough was found.
fn play(seeds: u64, bug: Option<Bug>, stop: impl Fn(&[Found]) -> bool + Sync) -> Vec<Found> {
    let from = number("SIM_FROM").unwrap_or(1);
    let next = AtomicU64::new(from);
    let found: Mutex<Vec<Found>> = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= from + seeds || stop(&found.lock().unwrap_or_else(PoisonError::into_inner)) {
                        return;
                    }
                    let complaints = one(seed, bug);
                    if !complaints.is_empty() {
                        found.lock().unwrap_or_else(PoisonError::into_inner).push((seed, complaints));
                    }
                }
            });
        }
    });
    found.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn seeds() -> u64 {
    number("SIM_SEEDS").unwrap_or(1_000)
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

#[test]
fn no_seed_breaks_a_promise() {
    let found = play(seeds(), None, |found| found.len() >= 40);
    for (seed, complaints) in &found {
        let (checker, what) = &complaints[0];
        println!("{checker}: {what}\n  SIM_SEED={seed} cargo test --test simulation one_seed -- --nocapture");
    }
    assert!(found.is_empty(), "{} seeds broke a promise", found.len());
}

#[test]
fn one_seed() {
    let seed = number("SIM_SEED");
    let mut run = seed::play(seed.unwrap_or(1), None);
    if seed.is_some() {
        println!("{:?}, {} events, {} crashes", run.kind, run.world.watch.handled, run.world.watch.crashes);
        for record in run.world.broker.records() {
            println!("{} {} {} {} inputs", record.ordinal, record.now, record.coordinator, record.inputs.len());
            record.reasons.iter().for_each(|reason| println!("    {reason:?}"));
        }
    }
    let complaints = check::check(&mut run);
    assert!(complaints.is_empty(), "seed {seed:?}: {complaints:#?}");
}

#[test]
fn planted_defects_are_found() {
    for (bug, checker) in [
        (Bug::ActTwice, "look_before_repeat"),
        (Bug::DoneUnread, "done_is_read_back"),
        (Bug::ForgetInbox, "one_command_one_outcome"),
        (Bug::HeardBlindly, "closed_with_all_stored"),
        (Bug::NoFence, "chain"),
        (Bug::ResetUnseen, "one_command_one_outcome"),
        (Bug::RelayFirst, "append_before_relay"),
        (Bug::SilentIsGreen, "no_blind_promotion"),
    ] {
        let by =
            |found: &[Found]| found.iter().any(|(_, complaints)| complaints.iter().any(|(own, _)| *own == checker));
        let found = play(seeds(), Some(bug), by);
        assert!(by(&found), "{bug:?} was not found by {checker} within {} seeds: {found:?}", seeds());
        println!("{bug:?} was found by {checker}");
    }
}
