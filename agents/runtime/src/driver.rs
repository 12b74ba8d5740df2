//! What a driver is: three verbs, and errors that say what may be done next.

use std::sync::Arc;

use bellwether_protocol::id::{ActionId, LeverName, LeverValue, Release, Service};
use bellwether_protocol::presence::Target;
use futures_util::future::BoxFuture;

/// Something in production that can be set, and how.
#[derive(Clone)]
pub struct Lever {
    /// For which service.
    pub service: Service,
    /// Its name, as the agent's own configuration gives it.
    pub name: LeverName,
    /// How it is set and read.
    pub driver: Arc<dyn Driver>,
}

impl std::fmt::Debug for Lever {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lever").field("service", &self.service).field("name", &self.name).finish_non_exhaustive()
    }
}

/// How one kind of lever is moved and looked at. Whatever it is told, it must be harmless when repeated.
pub trait Driver: Send + Sync {
    /// Sets the lever. `Ok` holds what the platform said, redacted, and is no proof. Called again
    /// with the same `action` after a doubt, so that it can serve as an idempotency key.
    fn set<'a>(&'a self, to: &'a LeverValue, action: &'a ActionId) -> BoxFuture<'a, Result<String, DriverError>>;

    /// Reads the lever and every target behind it, from where the platform applies it.
    fn read_back(&self) -> BoxFuture<'_, Result<Reading, DriverError>>;

    /// What `set` does, in one line and without secrets, such as its command.
    fn describe(&self) -> String;

    /// Releases it has held, newest first; empty where it holds none, or the platform does not tell.
    fn history(&self) -> BoxFuture<'_, Result<Vec<Release>, DriverError>> {
        Box::pin(async { Ok(Vec::new()) })
    }
}

/// Where a lever stands.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Reading {
    /// Its value; `None` when its targets do not agree or it could not be told.
    pub value: Option<LeverValue>,
    /// Every target behind it.
    pub targets: Vec<Target>,
}

impl Reading {
    /// What `targets` show: the value that is common to all, if there is one.
    pub fn of(targets: Vec<Target>) -> Self {
        let first = targets.first().and_then(|target| target.value.clone());
        let value = first.filter(|value| targets.iter().all(|target| target.value.as_ref() == Some(value)));
        Self { value, targets }
    }

    /// Whether the lever and every target behind it stand at `to`. Without any target, nothing was proven.
    pub fn is_all_at(&self, to: &LeverValue) -> bool {
        self.value.as_ref() == Some(to)
            && !self.targets.is_empty()
            && self.targets.iter().all(|target| target.value.as_ref() == Some(to))
    }
}

/// Why a driver did not do it. Each variant answers one question: what may be done next?
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DriverError {
    /// Never: the platform or the configuration says no.
    #[error("refused: {0}")]
    Refused(String),
    /// Try again: it certainly did not happen.
    #[error("try again: {0}")]
    Retry(String),
    /// Read back before acting again: it may have happened.
    #[error("outcome unknown: {0}")]
    Unknown(String),
}

impl DriverError {
    /// In one word, for figures.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Refused(_) => "refused",
            Self::Retry(_) => "retry",
            Self::Unknown(_) => "unknown",
        }
    }
}
