//! Sends what is spooled, the oldest first and several at once, and again when the stream has lost it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use bellwether_bus::metrics::{self, Counter};
use bellwether_bus::{Bus, PublishError, ReadError, Stored, StreamState, Trace};
use bellwether_protocol::id::AgentId;
use bellwether_protocol::subject::Stream;
use bellwether_protocol::time::Timestamp;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesOrdered;
use serde::{Deserialize, Serialize};

use super::{Shared, read_placed};
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
    /// When the stream was last seen to have what it acknowledged, and on which connection.
    looked: Option<(u64, Instant)>,
    dropped: u64,
    away: Option<Away>,
}

/// NATS does not answer.
struct Away {
    since: Instant,
    told: Instant,
    /// Most that waited: ticks and their bytes.
    kept: (u64, u64),
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

/// What became of one tick.
struct Answer {
    seq: u64,
    len: usize,
    /// The last sequence that the stream had given us when it was asked.
    last: u64,
    began: Instant,
    /// The connection when the answer was there.
    connection: u64,
    published: Result<Stored, PublishError>,
}

/// How often it is told how much waits.
const TELL_EVERY: Duration = Duration::from_secs(60);
/// Ticks that are under way at once.
const UNDER_WAY_MAX: usize = 64;
/// Their bytes, once there are several: on a slow link more would only be late, and sent twice.
const UNDER_WAY_LEN_MAX: usize = 64 * 1024;
static LOST: LazyLock<Counter<u64>> =
    LazyLock::new(|| metrics::counter("bellwether.spool.lost", "Ticks that the spool had no room for"));

/// How often we look whether the stream still has what it acknowledged.
const CHECK_EVERY: Duration = Duration::from_secs(5);
/// After a pause of that length, and on each new connection, we look before we send: a stream that has lost its end is filled up again, by all
/// who come back, in a moment, and what is acknowledged then hides the loss.
const LOOKED_FOR: Duration = Duration::from_secs(1);
/// How long to wait after a publish that failed.
const REPEAT_AFTER: Duration = Duration::from_secs(1);

impl Publisher {
    pub(super) fn new(dir: &Path, agent: AgentId, bus: Bus, shared: Arc<Shared>, heartbeat: Arc<Heartbeat>) -> Self {
        let path = dir.join("sent.json");
        LOST.add(0, &[]);
        // An unreadable position only means that more is sent twice.
        let sent = store::load(&path).ok().flatten().unwrap_or_default();
        Self { agent, bus, shared, heartbeat, path, sent, looked: None, dropped: 0, away: None }
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
                _ = check.tick() => drop(self.check().await),
            }
        }
    }

    async fn publish_all(&mut self, check: &mut tokio::time::Interval) {
        let shared = Arc::clone(&self.shared);
        let (waiting, _) = shared.disk().waiting_after(self.sent.seq);
        let is_seen = |(on, at): (u64, Instant)| on == self.bus.connection() && at.elapsed() <= LOOKED_FOR;
        if waiting > 0 && !self.looked.is_some_and(is_seen) {
            self.check().await;
        }
        let mut under_way: FuturesOrdered<BoxFuture<'static, Answer>> = FuturesOrdered::new();
        let (mut asked, mut len) = (self.sent.seq, 0);
        loop {
            // Several at once: a far hub costs a round trip for all of them, not for each.
            while len < UNDER_WAY_LEN_MAX && under_way.len() < UNDER_WAY_MAX {
                match self.shared.disk().read_after(asked) {
                    Ok(Some((seq, body))) => {
                        (asked, len) = (seq, len + body.len());
                        under_way.push_back(self.publish(seq, body));
                    }
                    Ok(None) => break,
                    Err(error) => {
                        tracing::error!(%error, seq = asked, "cannot read the spool, one tick is lost");
                        asked += 1;
                    }
                }
            }
            let answer = tokio::select! {
                answer = under_way.next() => answer,
                () = shared.appended.notified() => continue,
                // While NATS is away the spool must stay within its bounds, and the heartbeat true.
                _ = check.tick() => {
                    self.prune();
                    continue;
                }
            };
            let Some(Answer { seq, len: own, last, began, connection, published }) = answer else { return };
            len -= own;
            let is_elsewhere = |repeated| self.looked.is_none_or(|(on, at)| on != connection || repeated && at < began);
            match published {
                // A number that the stream had given before: it has lost its end since.
                Ok(stored) if !stored.duplicate && stored.seq <= last => return self.send_again(stored.seq),
                // The server may have been another one in between, which has less.
                Ok(stored) if is_elsewhere(stored.repeated) => {
                    if !self.check().await {
                        return tokio::time::sleep(REPEAT_AFTER).await;
                    }
                    // All of it is sent anew.
                    if self.sent.seq == 0 {
                        return;
                    }
                    self.note_sent(seq, &stored);
                    // This one may be what was lost: who answered, the one before or the one after?
                    if !self.check().await || self.sent.seq == 0 {
                        return;
                    }
                }
                Ok(stored) => self.note_sent(seq, &stored),
                Err(PublishError::Unknown { .. }) => return tokio::time::sleep(REPEAT_AFTER).await,
                Err(error) => {
                    tracing::error!(%error, "samples are not taken");
                    self.prune();
                    return tokio::time::sleep(CHECK_EVERY).await;
                }
            }
        }
    }

    fn note_sent(&mut self, seq: u64, stored: &Stored) {
        self.sent.seq = seq;
        self.sent.last = self.sent.last.max(stored.seq);
        self.note_waiting();
    }

    fn publish(&self, seq: u64, body: Vec<u8>) -> BoxFuture<'static, Answer> {
        let (bus, subject, id) = (self.bus.clone(), self.bus.prefix().sample(&self.agent), id(&self.agent, seq));
        let (len, last, began) = (body.len(), self.sent.last, Instant::now());
        // What holds no place was spooled by an earlier version, and is sent as it is.
        let (trace, tick) =
            read_placed(&body).map_or((Trace::default(), None), |(trace, tick)| (trace, Some(tick.to_vec())));
        let tick = tick.unwrap_or(body);
        Box::pin(async move {
            let published = trace.around(bus.publish(subject, &id, tick)).await;
            Answer { seq, len, last, began, connection: bus.connection(), published }
        })
    }

    /// Sends the last minutes again when the stream is another one, or has lost what it acknowledged; false when
    /// that cannot be told.
    async fn check(&mut self) -> bool {
        let connection = self.bus.connection();
        let looked = tokio::time::timeout(CHECK_EVERY, self.look()).await;
        let Ok(Ok(found)) = looked else {
            self.prune();
            return false;
        };
        self.looked = Some((connection, Instant::now()));
        if let Some((state, is_kept)) = found {
            let is_known = self.sent.created != Timestamp::default();
            if is_known && (state.created != self.sent.created || !is_kept) {
                self.send_again(state.last);
            }
            self.sent.created = state.created;
        }
        self.prune();
        if let Err(error) = store::save(&self.path, &self.sent) {
            tracing::warn!(%error, "cannot note how far the spool was sent");
        }
        true
    }

    /// Nothing while the stream has the last tick that it acknowledged; else how far it goes, and whether it has
    /// only let that tick go in time.
    async fn look(&self) -> Result<Option<(StreamState, bool)>, ReadError> {
        let last = self.sent.last;
        if last > 0 && self.sent.created != Timestamp::default() {
            // Others may have filled the numbers up again that were lost.
            let found = self.bus.at(Stream::Samples, last).await?;
            let own = self.bus.prefix().sample(&self.agent);
            if found.is_some_and(|found| found.subject == own) {
                return Ok(None);
            }
        }
        let state = self.bus.state(Stream::Samples).await?;
        Ok(Some((state, last <= state.last && (last == 0 || last < state.first))))
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
            LOST.add(dropped - self.dropped, &[]);
            tracing::warn!(ticks = dropped - self.dropped, "the spool is full, its oldest ticks are lost");
            self.dropped = dropped;
        }
        self.note_waiting();
    }

    fn note_waiting(&mut self) {
        let (ticks, bytes) = self.shared.disk().waiting_after(self.sent.seq);
        self.heartbeat.note(|presence| presence.spooled = ticks);
        self.tell(ticks, bytes);
    }

    /// Says that NATS is away, what waits for it every minute, and when all of that was sent.
    fn tell(&mut self, ticks: u64, bytes: u64) {
        let now = Instant::now();
        let is_answered = self.bus.is_answered();
        match &mut self.away {
            None if is_answered || ticks == 0 => {}
            None => {
                tracing::warn!(ticks, bytes, "NATS does not answer: samples are kept on disk");
                self.away = Some(Away { since: now, told: now, kept: (ticks, bytes) });
            }
            Some(away) if is_answered && ticks == 0 => {
                let (ticks, bytes) = away.kept;
                let away_s = away.since.elapsed().as_secs();
                tracing::info!(ticks, bytes, away_s, "NATS has every sample that was kept");
                self.away = None;
            }
            Some(away) => {
                away.kept = away.kept.max((ticks, bytes));
                if now - away.told >= TELL_EVERY {
                    tracing::warn!(ticks, bytes, "samples are still kept on disk");
                    away.told = now;
                }
            }
        }
    }
}

/// The same tick always has the same id, so that a repeat is told from news.
fn id(agent: &AgentId, seq: u64) -> String {
    format!("{agent}/tick/{seq}")
}
