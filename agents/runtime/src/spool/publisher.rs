//! Sends what is spooled, in order, and again when the stream has lost it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bellwether_bus::{Bus, PublishError};
use bellwether_protocol::id::AgentId;
use bellwether_protocol::subject::Stream;
use bellwether_protocol::time::Timestamp;
use serde::{Deserialize, Serialize};

use super::Shared;
use crate::presence::Heartbeat;
use crate::store;

/// Sends what is spooled.
pub(crate) struct Publisher {
    agent: AgentId,
    bus: Bus,
    shared: Arc<Shared>,
    heartbeat: Arc<Heartbeat>,
    path: PathBuf,
    sent: Sent,
    dropped: u64,
}

/// How far it came, as the disk has it. Behind after a crash: then a few are sent twice, with the
/// same ids and numbers.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Sent {
    /// The number of the last tick that the stream has acknowledged.
    seq: u64,
    /// When the stream was created, and the last sequence it gave us.
    created: Timestamp,
    last: u64,
}

/// How often we look whether the stream still has what it acknowledged.
const CHECK_EVERY: Duration = Duration::from_secs(5);
/// How long to wait after a publish that failed.
const REPEAT_AFTER: Duration = Duration::from_secs(1);

impl Publisher {
    pub(super) fn new(dir: &Path, agent: AgentId, bus: Bus, shared: Arc<Shared>, heartbeat: Arc<Heartbeat>) -> Self {
        let path = dir.join("sent.json");
        // An unreadable position only means that more is sent twice.
        let sent = store::load(&path).ok().flatten().unwrap_or_default();
        Self { agent, bus, shared, heartbeat, path, sent, dropped: 0 }
    }

    pub(crate) async fn run(mut self) {
        let mut check = tokio::time::interval(CHECK_EVERY);
        check.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        check.tick().await;
        self.check().await;
        loop {
            self.publish_all(&mut check).await;
            let shared = Arc::clone(&self.shared);
            tokio::select! {
                () = shared.appended.notified() => {}
                _ = check.tick() => self.check().await,
            }
        }
    }

    async fn publish_all(&mut self, check: &mut tokio::time::Interval) {
        loop {
            let next = self.shared.disk().read_after(self.sent.seq);
            let (seq, body) = match next {
                Ok(Some(next)) => next,
                Ok(None) => return,
                Err(error) => {
                    tracing::error!(%error, seq = self.sent.seq, "cannot read the spool, one tick is lost");
                    self.sent.seq += 1;
                    continue;
                }
            };
            let subject = self.bus.prefix().sample(&self.agent);
            let id = id(&self.agent, seq);
            let publish = self.bus.publish(subject, &id, body);
            let published = tokio::select! {
                published = publish => published,
                // While NATS is away the spool must stay within its bounds, and the heartbeat true.
                _ = check.tick() => {
                    self.prune();
                    continue;
                }
            };
            match published {
                // A number that the stream had given before: it has lost its end since.
                Ok(stored) if !stored.duplicate && stored.seq <= self.sent.last => self.send_again(stored.seq),
                Ok(stored) => {
                    self.sent.seq = seq;
                    self.sent.last = self.sent.last.max(stored.seq);
                    self.note_waiting();
                }
                Err(PublishError::Unknown { .. }) => tokio::time::sleep(REPEAT_AFTER).await,
                Err(error) => {
                    tracing::error!(%error, "samples are not taken");
                    tokio::time::sleep(CHECK_EVERY).await;
                    self.prune();
                }
            }
        }
    }

    /// Sends the last minutes again when the stream is another one, or has lost its end.
    async fn check(&mut self) {
        let state = match tokio::time::timeout(CHECK_EVERY, self.bus.state(Stream::Samples)).await {
            Ok(Ok(state)) => state,
            Ok(Err(_)) | Err(_) => return self.prune(),
        };
        let is_known = self.sent.created != Timestamp::default();
        if is_known && (state.created != self.sent.created || state.last < self.sent.last) {
            tracing::warn!(
                last = state.last,
                had = self.sent.last,
                "the samples stream has lost messages, sending again"
            );
            self.sent = Sent { seq: 0, created: state.created, last: state.last };
        }
        self.sent.created = state.created;
        self.prune();
        if let Err(error) = store::save(&self.path, &self.sent) {
            tracing::warn!(%error, "cannot note how far the spool was sent");
        }
    }

    /// Begins anew with the oldest tick that is still on disk; `last` is the end of the stream now.
    fn send_again(&mut self, last: u64) {
        tracing::warn!(last, had = self.sent.last, "the samples stream has lost messages, sending again");
        self.sent.seq = 0;
        self.sent.last = last;
    }

    fn prune(&mut self) {
        let dropped = {
            let mut disk = self.shared.disk();
            disk.prune(self.sent.seq, self.heartbeat.now());
            disk.dropped
        };
        if dropped > self.dropped {
            tracing::warn!(ticks = dropped - self.dropped, "the spool is full, its oldest ticks are lost");
            self.dropped = dropped;
        }
        self.note_waiting();
    }

    fn note_waiting(&self) {
        let waiting = self.shared.disk().count_after(self.sent.seq);
        self.heartbeat.note(|presence| presence.spooled = waiting);
    }
}

/// The same tick always has the same id, so that a repeat is told from news.
fn id(agent: &AgentId, seq: u64) -> String {
    format!("{agent}/tick/{seq}")
}
