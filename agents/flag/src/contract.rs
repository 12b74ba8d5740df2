//! What the ledger does with a driver, in small: look, set, and look again before a repeat.

use std::time::{Duration, Instant};

use bellwether_fakes::{Fake, Family, Fault};
use bellwether_protocol::id::{ActionId, LeverValue};
use bellwether_runtime::{Driver, DriverError, SecretRef};
use tempfile::TempDir;

/// A driver in front of a strict fake.
pub(crate) struct Bench<D, F: Family> {
    pub(crate) driver: D,
    pub(crate) fake: Fake<F>,
    pub(crate) dir: TempDir,
}

impl<D, F: Family> Bench<D, F> {
    /// How many requests of this method went to paths that end so.
    pub(crate) fn count(&self, method: &str, end: &str) -> usize {
        self.fake.log().iter().filter(|seen| seen.method == method && seen.path.ends_with(end)).count()
    }
}

/// One request goes wrong.
pub(crate) fn fault(method: Option<&str>, path: &str, status: Option<u16>, takes_effect: bool, delay_ms: u64) -> Fault {
    Fault {
        path: path.to_owned(),
        method: method.map(str::to_owned),
        headers: vec![("retry-after".to_owned(), "1".to_owned())],
        body: r#"{"message":"no"}"#.to_owned(),
        status,
        takes_effect,
        delay_ms,
        times: 1,
    }
}

/// Starts a fake, and the driver that `driver` makes for its address; secrets lie in the directory.
pub(crate) async fn bench<D, F: Family>(server: F, driver: impl FnOnce(&str, &TempDir) -> D) -> Bench<D, F> {
    let dir = tempfile::tempdir().expect("a directory");
    let fake = Fake::start(server).await.expect("a port");
    Bench { driver: driver(&fake.url, &dir), fake, dir }
}

/// How long anything here may take.
pub(crate) const WITHIN: Duration = Duration::from_secs(20);

/// Brings a lever to a value, and tells what the driver said on the way, repetitions left out.
pub(crate) async fn bring(driver: &impl Driver, to: &str) -> Vec<&'static str> {
    let (to, began, mut said, mut begun) = (value(to), Instant::now(), Vec::new(), false);
    loop {
        let reading = driver.read_back().await;
        if reading.as_ref().is_ok_and(|reading| reading.is_all_at(&to)) {
            said.dedup();
            return said;
        }
        let may_set = said.last() != Some(&"done") && (reading.is_ok() || !begun);
        if may_set {
            let set = driver.set(&to, &action()).await;
            begun = !matches!(set, Err(DriverError::Retry(_)));
            said.push(match set {
                Ok(_) => "done",
                Err(DriverError::Refused(_)) => {
                    said.push("refused");
                    said.dedup();
                    return said;
                }
                Err(DriverError::Retry(_)) => "retry",
                Err(DriverError::Unknown(_)) => "unknown",
            });
        }
        assert!(began.elapsed() < WITHIN, "not at {to}: {said:?}, last seen {reading:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// What a driver reads; `None` when it cannot, or does not know.
pub(crate) async fn read(driver: &impl Driver) -> Option<String> {
    driver.read_back().await.ok()?.value.map(|value| value.to_string())
}

/// Whether a driver refuses a value.
pub(crate) async fn refuses(driver: &impl Driver, to: &str) -> bool {
    matches!(driver.set(&value(to), &action()).await, Err(DriverError::Refused(_)))
}

pub(crate) fn value(text: &str) -> LeverValue {
    text.parse().expect("a value")
}

pub(crate) fn action() -> ActionId {
    "shop/42/7/0".parse().expect("an id")
}

/// A secret in a file of `dir`, as a configuration names it.
pub(crate) fn secret(dir: &TempDir, text: &str) -> String {
    let path = dir.path().join("token");
    std::fs::write(&path, text).expect("written");
    SecretRef::File(path).to_string()
}
