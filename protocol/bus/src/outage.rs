//! Starting in the middle of an outage: a machine that comes up then waits for NATS, as one that was up does.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::assets::ProvisionError;
use crate::connect::{Bus, ConnectError, ConnectOptions, backoff};
use crate::metrics;

/// Why the mesh cannot be joined, however long one waits.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The connection is refused, or could never be.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The streams are not as they must be.
    #[error(transparent)]
    Provision(#[from] ProvisionError),
}

impl JoinError {
    /// Whether it may pass by itself: nobody answers, or does not yet.
    fn may_pass(&self) -> bool {
        match self {
            Self::Connect(error) => matches!(
                error,
                ConnectError::DomainSilent { .. }
                    | ConnectError::NotReady { .. }
                    | ConnectError::Tls { .. }
                    | ConnectError::Unreachable { .. }
            ),
            // What cannot be created or changed is refused; what cannot be read is away.
            Self::Provision(error) => matches!(error, ProvisionError::Api { doing: "read", .. }),
        }
    }
}

impl Bus {
    /// Connects and provisions. While NATS, or the hub behind a leaf node, does not answer, it waits: the log
    /// says so at once and then every minute, and this process's health says what for.
    ///
    /// # Errors
    /// At once, when waiting would not help: wrong credentials or settings, a server that is too old.
    pub async fn join(options: &ConnectOptions) -> Result<Self, JoinError> {
        let waits_for: Arc<Mutex<Option<String>>> = Arc::new(Mutex::new(Some("not connected yet".to_owned())));
        let seen = Arc::clone(&waits_for);
        metrics::check("start", move || seen.lock().unwrap_or_else(PoisonError::into_inner).clone());
        let mut told: Option<Instant> = None;
        for attempts in 1.. {
            let error = match Self::try_join(options).await {
                Ok(bus) => {
                    *waits_for.lock().unwrap_or_else(PoisonError::into_inner) = None;
                    return Ok(bus);
                }
                Err(error) if error.may_pass() => crate::read::chain(&error),
                Err(error) => return Err(error),
            };
            if told.is_none_or(|at| at.elapsed() >= TELL_EVERY) {
                tracing::warn!(error, "this process waits until the mesh answers");
                told = Some(Instant::now());
            }
            *waits_for.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            tokio::time::sleep(backoff(attempts)).await;
        }
        std::future::pending().await
    }

    async fn try_join(options: &ConnectOptions) -> Result<Self, JoinError> {
        let bus = Self::connect(options).await?;
        bus.provision().await?;
        Ok(bus)
    }
}

/// Often enough for whoever looks at the log at night, and no flood.
const TELL_EVERY: Duration = Duration::from_secs(60);
