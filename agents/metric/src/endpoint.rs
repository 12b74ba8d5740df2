//! An endpoint of the service itself, read under this agent's own `allow` list.

use std::sync::Arc;

use bellwether_protocol::assignment::Look;
use bellwether_runtime::web::{Dialer, Target, ask, redact, secrets, without_query_values};
use reqwest::Method;
use reqwest::header::HeaderMap;
use tokio::time::Instant;

use crate::found::Missing;

/// Where to read.
pub(crate) struct Endpoint {
    /// Who, with the cohort's headers and the plan's fingerprint.
    pub(crate) target: Target,
    path: String,
    dialer: Arc<Dialer>,
}

/// Longest body that is read, in bytes. A large service exposes a few MiB.
const BODY_LEN_MAX: usize = 8 * 1024 * 1024;

impl Endpoint {
    /// Checks that it may be read.
    pub(crate) fn new(look: &Look, path: &str, dialer: &Arc<Dialer>) -> Result<Self, String> {
        let target = Target::read(look)?;
        dialer.check(&target.origin)?;
        Ok(Self { path: target.path(path), target, dialer: Arc::clone(dialer) })
    }

    /// Which endpoint, without what its query may hide.
    pub(crate) fn name(&self) -> String {
        format!("{}{}", self.target.origin.authority(), without_query_values(&self.path))
    }

    /// Headers and body of an answer of 200 to 299.
    pub(crate) async fn get(&self) -> Result<(HeaderMap, Vec<u8>), Missing> {
        let request = self.target.request(Method::GET, &self.path, &HeaderMap::new(), Vec::new().into());
        let own = secrets(request.headers());
        let deadline = Instant::now() + self.target.timeout.to_std();
        let received = ask(&self.dialer, &self.target.origin, request, deadline, BODY_LEN_MAX).await;
        let missing = |why: &str| Missing(format!("{}: {}", self.name(), redact(why, &own, 200)));
        match (received.head, received.body) {
            (Some((200..=299, headers)), Ok(body)) => Ok((headers, body)),
            (Some((status, _)), Ok(_)) => Err(missing(&format!("status {status}"))),
            (_, Err(failure)) => Err(missing(&failure.text)),
            (None, Ok(_)) => Err(missing("no answer")),
        }
    }
}
