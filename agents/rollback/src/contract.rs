//! What every driver promises, as a list that each runs against a fake of its platform.
//!
//! Older generations, claims and deadlines are the ledger's business, and tested there.

use std::time::{Duration, Instant};

use bellwether_protocol::id::{ActionId, LeverValue};
use bellwether_runtime::{Driver, DriverError, Reading};

/// A driver in front of a fake platform that stands at `v42` in two places, and refuses `v0`.
pub(crate) struct Bench<D> {
    pub(crate) driver: D,
    /// How often the platform was told to move.
    pub(crate) moves: Box<dyn Fn() -> usize>,
    /// Moves one of the two places to another value behind the driver's back.
    pub(crate) split: Box<dyn Fn(&str)>,
}

const WITHIN: Duration = Duration::from_secs(10);

/// Runs the list.
pub(crate) async fn check<D: Driver>(bench: &Bench<D>) {
    rolls_back(&bench.driver).await;
    is_harmless_when_repeated(&bench.driver).await;
    refuses_a_value_that_is_not_allowed(bench).await;
    reads_back_truthfully(bench).await;
}

async fn rolls_back(driver: &impl Driver) {
    assert_eq!(read(driver).await.value, Some(value("v42")));
    driver.set(&value("v41"), &action(1)).await.expect("set");
    until(driver, "v41").await;
}

async fn is_harmless_when_repeated(driver: &impl Driver) {
    for _ in 0..2 {
        driver.set(&value("v41"), &action(1)).await.expect("set");
        until(driver, "v41").await;
    }
}

async fn refuses_a_value_that_is_not_allowed<D: Driver>(bench: &Bench<D>) {
    let before = (bench.moves)();
    for text in ["v0", "-v41", "--help"] {
        let refused = bench.driver.set(&value(text), &action(2)).await;
        assert!(matches!(refused, Err(DriverError::Refused(_))), "`{text}`: {refused:?}");
    }
    assert_eq!((bench.moves)(), before, "the platform was asked for a value that is not allowed");
    assert_eq!(read(&bench.driver).await.value, Some(value("v41")));
}

async fn reads_back_truthfully<D: Driver>(bench: &Bench<D>) {
    (bench.split)("v42");
    let reading = read(&bench.driver).await;
    assert_eq!(reading.value, None, "places that do not agree have no common value");
    let mut values: Vec<_> = reading.targets.into_iter().filter_map(|target| target.value).collect();
    values.sort();
    assert_eq!(values, [value("v41"), value("v42")]);
}

async fn until(driver: &impl Driver, expected: &str) {
    let deadline = Instant::now() + WITHIN;
    loop {
        let reading = read(driver).await;
        if reading.value == Some(value(expected)) {
            assert_eq!(reading.targets.len(), 2);
            return;
        }
        assert!(Instant::now() < deadline, "last seen: {reading:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn read(driver: &impl Driver) -> Reading {
    driver.read_back().await.expect("a reading")
}

pub(crate) fn value(text: &str) -> LeverValue {
    text.parse().expect("a value")
}

pub(crate) fn action(generation: u64) -> ActionId {
    format!("shop/42/{generation}/0").parse().expect("an id")
}
