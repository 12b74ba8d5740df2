//! What the connection went through: told to the log, and to whoever waits on it.
//!
//! A denied permission reaches us as an event of the connection, apart from the call that caused
//! it, which only times out. So the last complaint is kept, to be put into that call's error.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_nats::Event;
use tokio::sync::watch;

/// What the connection went through lately.
#[derive(Debug, Default)]
pub(crate) struct Health {
    last_error: Mutex<Option<(Instant, String)>>,
    last_answer: Mutex<Option<Instant>>,
    connects: watch::Sender<u64>,
}

impl Health {
    /// Notes one event of the connection.
    pub(crate) fn note(&self, event: &Event) {
        match event {
            Event::Connected => {
                tracing::info!("connected to NATS");
                self.connects.send_modify(|count| *count += 1);
            }
            Event::Disconnected => tracing::warn!("lost the connection to NATS, dialling again"),
            Event::ServerError(error) => self.complain(error.to_string()),
            Event::SlowConsumer(_) => self.complain("a subscription was too slow and lost messages".to_owned()),
            Event::ClientError(error) => tracing::debug!(%error, "NATS client"),
            Event::LameDuckMode | Event::Draining | Event::Closed => tracing::debug!(%event, "NATS connection"),
        }
    }

    fn complain(&self, text: String) {
        tracing::warn!(error = text, "NATS complains");
        let text = text.chars().take(COMPLAINT_LEN_MAX).collect();
        *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), text));
    }

    /// The last complaint of the server, when it is recent enough to explain a call that timed out.
    pub(crate) fn recent_error(&self) -> Option<String> {
        let last = self.last_error.lock().unwrap_or_else(PoisonError::into_inner);
        last.as_ref().filter(|(at, _)| at.elapsed() < COMPLAINT_AGE_MAX).map(|(_, text)| text.clone())
    }

    /// JetStream has answered, whatever it said.
    pub(crate) fn answered(&self) {
        *self.last_answer.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Whether it has lately.
    pub(crate) fn is_answered(&self) -> bool {
        let last = *self.last_answer.lock().unwrap_or_else(PoisonError::into_inner);
        last.is_some_and(|at| at.elapsed() < ANSWER_AGE_MAX)
    }

    /// Counts how often the connection came up; changes wake whoever must subscribe anew.
    pub(crate) fn connects(&self) -> watch::Receiver<u64> {
        self.connects.subscribe()
    }
}

/// Three heartbeats without an answer, as the anchor of the clock has it.
const ANSWER_AGE_MAX: Duration = crate::clock::ANCHOR_AGE_MAX;
/// A complaint older than this does not explain the call that just failed.
const COMPLAINT_AGE_MAX: Duration = Duration::from_secs(10);
/// Complaints are put into errors and logs; the server's own are far shorter.
const COMPLAINT_LEN_MAX: usize = 300;
