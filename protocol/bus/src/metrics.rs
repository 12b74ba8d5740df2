//! Figures of this process, and what is wrong with it. Counted where it happens, under OpenTelemetry's
//! names where it has some; who shows them is elsewhere. Without anybody to show them nothing is counted.

use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use opentelemetry::global;
use opentelemetry::metrics::{Meter, ObservableGauge};

use crate::clock::{ANCHOR_AGE_MAX, Clock};
use crate::connect::Bus;

pub use opentelemetry::KeyValue;
pub use opentelemetry::metrics::{AsyncInstrument, Counter, Histogram};

/// A count that only grows.
pub fn counter(name: &'static str, about: &'static str) -> Counter<u64> {
    meter().u64_counter(name).with_description(about).build()
}

/// How long something took, in seconds.
pub fn seconds(name: &'static str, about: &'static str) -> Seconds {
    let edges = vec![0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0];
    Seconds(meter().f64_histogram(name).with_unit("s").with_description(about).with_boundaries(edges).build())
}

/// How long something took.
#[derive(Debug)]
pub struct Seconds(Histogram<f64>);

impl Seconds {
    /// Counts one that took as long.
    pub fn record(&self, took: Duration, labels: &[KeyValue]) {
        self.0.record(took.as_secs_f64(), labels);
    }
}

/// What is read when somebody looks; `unit` as in UCUM, such as `By` or `s`. It lasts as long as the process.
pub fn gauge(
    name: &'static str,
    unit: &'static str,
    about: &'static str,
    read: impl Fn(&dyn AsyncInstrument<f64>) + Send + Sync + 'static,
) {
    let _: ObservableGauge<f64> =
        meter().f64_observable_gauge(name).with_unit(unit).with_description(about).with_callback(read).build();
}

fn meter() -> Meter {
    global::meter("bellwether")
}

/// How long a message took to be stored, or not to be: OpenTelemetry's own name for it.
pub(crate) static SENT: LazyLock<Seconds> = LazyLock::new(|| {
    seconds("messaging.client.operation.duration", "Time until a message was known to be stored, or given up")
});

/// Something to look at: tells what is wrong, if anything.
type Check = Box<dyn Fn() -> Option<String> + Send>;

static CHECKS: Mutex<Vec<(&'static str, Check)>> = Mutex::new(Vec::new());

/// Adds something to look at when somebody asks for this process's health.
pub fn check(name: &'static str, check: impl Fn() -> Option<String> + Send + 'static) {
    lock().push((name, Box::new(check)));
}

/// Everything there is to look at, and what is wrong with it.
pub fn checks() -> Vec<(&'static str, Option<String>)> {
    lock().iter().map(|(name, check)| (*name, check())).collect()
}

fn lock() -> MutexGuard<'static, Vec<(&'static str, Check)>> {
    CHECKS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Watches what every process has: its connection and its clock.
pub fn watch(bus: &Bus, clock: &Clock) {
    let (own, is) = (bus.clone(), |is: bool| if is { 1.0 } else { 0.0 });
    gauge("bellwether.nats.connected", "1", "Whether NATS is there", move |gauge| {
        gauge.observe(is(own.is_connected()), &[]);
    });
    let own = clock.clone();
    gauge("bellwether.clock.offset", "s", "The host's clock minus that of NATS", move |gauge| {
        gauge.observe(own.offset_ms() as f64 / 1_000.0, &[]);
    });
    let own = clock.clone();
    gauge("bellwether.clock.adrift", "1", "Whether nothing vouches for the time", move |gauge| {
        gauge.observe(is(own.is_adrift()), &[]);
    });
    let own = bus.clone();
    check("nats", move || (!own.is_connected()).then(|| "no connection to NATS; it is dialled again".to_owned()));
    let own = clock.clone();
    check("clock", move || {
        let limit = ANCHOR_AGE_MAX.as_secs();
        own.is_adrift()
            .then(|| format!("NATS has not vouched for the time for {limit} s: nothing is decided or counted on it"))
    });
}
