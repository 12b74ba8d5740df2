//! Samples, on disk until NATS has them, and for a quarter of an hour after that: the stream may
//! lose its end, and then they are sent again.
//!
//! Bounded: what does not fit drops the oldest, and is counted. Samples are not the log; if the
//! machine loses power, the last of them may be lost, and then they are missing, never wrong.

mod disk;
mod publisher;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use bellwether_bus::{Bus, Clock};
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
    let publisher = Publisher::new(dir, agent.clone(), bus, Arc::clone(&shared), heartbeat);
    Ok((SampleSender { agent, clock, shared }, publisher))
}

impl SampleSender {
    /// Sends what one tick saw: at once when NATS is there, later when it is not, with the same
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
        if let Err(error) = disk.append(self.clock.now(), &body) {
            tracing::error!(%error, "cannot write the spool, samples dropped");
        }
        true
    }
}
