//! Which agent tells. One agent runs in each region and reads every alert; the first to claim a
//! message tells it, the others keep it only to see that it was told. Who told an incident's last
//! message goes first with the next, since threads are kept where they were begun.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bellwether_bus::{Clock, Kv, KvError};
use bellwether_protocol::alert::Alert;
use bellwether_protocol::codec;
use bellwether_protocol::id::AgentId;
use bellwether_protocol::time::Timestamp;
use serde::{Deserialize, Serialize};

use crate::case::Occasion;

/// How long the mesh may take to answer a claim.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// How long the agent that told what came before is waited for.
const YIELD: Duration = Duration::from_secs(3);

/// What the bucket holds of one message.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Told {
    /// Who tells, or told.
    by: AgentId,
    /// Whether every bridge of that agent is done with it.
    done: bool,
}

/// Who tells a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Teller {
    /// Another agent does.
    Another,
    /// We do.
    Us,
    /// The mesh did not answer.
    Unknown,
}

/// The mesh as one agent has it: nothing of it until it answers.
#[derive(Debug, Clone, Default)]
pub(crate) struct Mesh(Arc<OnceLock<(Claims, Clock)>>);

impl Mesh {
    /// It answers from now on.
    pub(crate) fn answers(&self, claims: Claims, clock: Clock) {
        // A second time says nothing new.
        let _ = self.0.set((claims, clock));
    }

    pub(crate) fn claims(&self) -> Option<&Claims> {
        self.0.get().map(|(claims, _)| claims)
    }

    /// The mesh's time; this machine's own until it answers.
    pub(crate) fn now(&self) -> Timestamp {
        self.0.get().map_or_else(|| Clock::new().now(), |(_, clock)| clock.now())
    }
}

/// Claims messages for one agent.
#[derive(Debug, Clone)]
pub(crate) struct Claims {
    pub(crate) kv: Kv,
    pub(crate) agent: AgentId,
}

impl Claims {
    /// Claims `alert`, or says who has.
    pub(crate) async fn claim(&self, alert: &Alert, occasion: Occasion) -> Teller {
        let told = Told { by: self.agent.clone(), done: false };
        let Ok(bytes) = codec::to_json("claim", &told) else { return Teller::Unknown };
        match tokio::time::timeout(ANSWER_WITHIN, self.kv.create(&key(alert, occasion), bytes)).await {
            Ok(Ok(_)) => Teller::Us,
            Ok(Err(KvError::Conflict { .. })) => match self.holder(&key(alert, occasion)).await {
                // Ours from before a restart, or from a try whose answer was lost.
                Some(told) if told.by == self.agent => Teller::Us,
                Some(_) => Teller::Another,
                None => Teller::Unknown,
            },
            Ok(Err(error)) => {
                tracing::warn!(error = %error, "claim not confirmed");
                Teller::Unknown
            }
            Err(_) => Teller::Unknown,
        }
    }

    /// Lets the agent go first that told what came before: it has the thread. It gets [`YIELD`].
    pub(crate) async fn yield_to_last(&self, alert: &Alert, occasion: Occasion, has_thread: bool) {
        let before = match (occasion, alert.seq.checked_sub(1)) {
            _ if has_thread => return,
            (Occasion::News, None | Some(0)) => return,
            (Occasion::News, Some(seq)) => Alert { seq, ..alert.clone() },
            _ => alert.clone(),
        };
        match self.holder(&key(&before, Occasion::News)).await {
            Some(told) if told.by == self.agent => return,
            // Nobody was asked to tell what came before; or it was forgotten, and what is late can wait.
            None if occasion == Occasion::News => return,
            _ => {}
        }
        let asked = tokio::time::Instant::now();
        while asked.elapsed() < YIELD && self.holder(&key(alert, occasion)).await.is_none() {
            tokio::time::sleep(YIELD / 10).await;
        }
    }

    /// Says that every bridge is done with `alert`.
    pub(crate) async fn told(&self, alert: &Alert, occasion: Occasion) {
        let told = Told { by: self.agent.clone(), done: true };
        let Ok(bytes) = codec::to_json("claim", &told) else { return };
        // When this fails a page may be told twice, which is better than not at all.
        if !matches!(tokio::time::timeout(ANSWER_WITHIN, self.kv.put(&key(alert, occasion), bytes)).await, Ok(Ok(_))) {
            tracing::warn!(incident = %alert.incident, seq = alert.seq, "told, but could not say so to the other agents");
        }
    }

    /// Whether some agent has told `alert`.
    pub(crate) async fn is_told(&self, alert: &Alert, occasion: Occasion) -> bool {
        self.holder(&key(alert, occasion)).await.is_some_and(|told| told.done)
    }

    async fn holder(&self, key: &str) -> Option<Told> {
        let entry = tokio::time::timeout(ANSWER_WITHIN, self.kv.get(key)).await.ok()?.ok()??;
        codec::from_json("claim", &entry.value?).ok()
    }
}

fn key(alert: &Alert, occasion: Occasion) -> String {
    let rollout = &alert.incident.rollout;
    let suffix = occasion.suffix();
    format!("{}.{}.{}.{}{suffix}", rollout.service, rollout.number, alert.incident.cause, alert.seq)
}
