//! Samples, on disk until NATS has them, and for a quarter of an hour after that: the stream may
//! lose its end, and then they are sent again.
//!
//! Bounded: what does not fit drops the oldest, and is counted. Samples are not the log; if the
//! machine loses power, the last of them may be lost, and then they are missing, never wrong.

mod disk;
mod publisher;

use std::path::Path;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use bellwether_bus::metrics::{self, Counter};
use bellwether_bus::{Bus, Clock, Trace};
use bellwether_protocol::codec::{MESSAGE_LEN_MAX, to_msgpack};
use bellwether_protocol::id::AgentId;
use bellwether_protocol::sample::{SAMPLES_MAX, Sample, Tick};
use tokio::sync::Notify;

use crate::presence::Heartbeat;
use disk::Disk;
pub(crate) use publisher::Publisher;

/// Why the spool cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the spool {path}")]
pub struct SpoolError {
    /// Where.
    pub path: String,
    /// Why.
    #[source]
    pub source: std::io::Error,
}

/// Where samples go. Cheap to clone.
#[derive(Debug, Clone)]
pub struct SampleSender {
    agent: AgentId,
    clock: Clock,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    disk: Mutex<Disk>,
    appended: Notify,
}

impl Shared {
    fn disk(&self) -> std::sync::MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A tick stays below what NATS takes, headers included.
const TICK_LEN_MAX: usize = MESSAGE_LEN_MAX - 64 * 1024;

static SAMPLES: LazyLock<Counter<u64>> =
    LazyLock::new(|| metrics::counter("bellwether.samples.taken", "Samples that were handed over to be sent"));

/// Opens the spool in `dir`; what it still holds is sent first.
pub(crate) fn open(
    dir: &Path,
    agent: AgentId,
    bus: Bus,
    clock: Clock,
    heartbeat: Arc<Heartbeat>,
) -> Result<(SampleSender, Publisher), SpoolError> {
    let wrong = |source| SpoolError { path: dir.display().to_string(), source };
    // Numbers go on even when the directory was lost, because a repeat of a number means a repeat
    // of its tick: they begin at the milliseconds of the moment, which no agent outruns.
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
    let disk = Disk::open(dir, u64::try_from(now_ms).unwrap_or(0)).map_err(wrong)?;
    let shared = Arc::new(Shared { disk: Mutex::new(disk), appended: Notify::new() });
    let own = Arc::clone(&shared);
    metrics::gauge("bellwether.spool.size", "By", "What the spool takes on disk", move |gauge| {
        gauge.observe(own.disk().len() as f64, &[]);
    });
    let own = Arc::clone(&heartbeat);
    metrics::gauge("bellwether.spool.waiting", "{tick}", "Ticks that NATS does not have yet", move |gauge| {
        gauge.observe(own.spooled() as f64, &[]);
    });
    let publisher = Publisher::new(dir, agent.clone(), bus, Arc::clone(&shared), heartbeat);
    Ok((SampleSender { agent, clock, shared }, publisher))
}

impl SampleSender {
    /// Sends what one tick saw, following where we are in a trace: at once when NATS is there, later when it is not, with the same
    /// times. Writes a few KiB to a local file, and never waits for NATS.
    pub fn send(&self, samples: Vec<Sample>) {
        let mut rest = vec![samples];
        while let Some(mut part) = rest.pop() {
            if part.is_empty() {
                continue;
            }
            let is_long = part.len() > SAMPLES_MAX;
            if is_long || !self.append(&part) {
                if part.len() == 1 {
                    tracing::error!("a sample is too long to send, and was dropped");
                    continue;
                }
                let half = part.split_off(part.len() / 2);
                rest.push(half);
                rest.push(part);
            }
        }
        self.shared.appended.notify_one();
    }

    /// Appends one tick; false when it must be cut first.
    fn append(&self, samples: &[Sample]) -> bool {
        let mut disk = self.shared.disk();
        let tick = Tick {
            agent: self.agent.clone(),
            seq: disk.next_seq(),
            clock_adrift: self.clock.is_adrift(),
            samples: samples.to_vec(),
        };
        let body = match to_msgpack("tick", &tick) {
            Ok(body) if body.len() > TICK_LEN_MAX => return false,
            Ok(body) => body,
            Err(error) => {
                tracing::error!(%error, "samples dropped");
                return true;
            }
        };
        if let Err(error) = disk.append(self.clock.now(), &placed(&Trace::current(), &body)) {
            tracing::error!(%error, "cannot write the spool, samples dropped");
            return true;
        }
        SAMPLES.add(u64::try_from(samples.len()).unwrap_or_default(), &[]);
        true
    }
}

/// A tick as the spool holds it: behind the place in a trace that it follows, so that what is sent
/// after a cut or a restart follows it too.
fn placed(trace: &Trace, tick: &[u8]) -> Vec<u8> {
    let place = trace.to_string();
    let len = u8::try_from(place.len()).unwrap_or_default();
    [&[len], place.as_bytes(), tick].concat()
}

/// The place and the tick of what the spool holds.
fn read_placed(held: &[u8]) -> Option<(Trace, &[u8])> {
    let (len, rest) = held.split_first()?;
    let (place, tick) = rest.split_at_checked(usize::from(*len))?;
    Some((Trace::read(std::str::from_utf8(place).ok()?), tick))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tick_is_held_with_its_place() {
        let here = Trace::read("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
        for trace in [Trace::default(), here] {
            assert_eq!(read_placed(&placed(&trace, b"tick")), Some((trace, b"tick".as_slice())));
        }
        assert_eq!(read_placed(b""), None);
        assert_eq!(read_placed(b"\x37short"), None);
    }
}
