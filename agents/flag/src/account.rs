//! An account on a platform with a JSON API.

use bellwether_protocol::time::Span;
use bellwether_runtime::SecretRef;
use bellwether_runtime::web::{AccountError, Rest};
use serde::Deserialize;

/// Where an API is, and what it takes for a token.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Account {
    /// Where: `https`, or plain on this machine. Default: where the platform's own service is, if it has one.
    pub(crate) url: Option<String>,
    /// The token that is sent as `Authorization`.
    pub(crate) token: SecretRef,
    /// How long one exchange may take. Default 10 s.
    #[serde(default = "timeout")]
    pub(crate) timeout: Span,
}

fn timeout() -> Span {
    Span::from_secs(10)
}

impl Account {
    /// A client, for the platform of this name that is at `service` unless the account says otherwise.
    pub(crate) fn client(&self, name: &'static str, service: Option<&str>) -> Result<Rest, AccountError> {
        let url = self.url.as_deref().or(service).ok_or(AccountError::Url)?;
        Rest::new(name, url, self.token.resolve()?, self.timeout.to_std())
    }
}
