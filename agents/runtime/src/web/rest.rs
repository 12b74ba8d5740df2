//! A client of a platform's JSON API: bounded, redacted, and with errors that say whether a call may
//! have taken effect. It repeats nothing by itself, and sends nothing while the platform asks for a pause.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use reqwest::header::HeaderValue;
use reqwest::{Client, Method, Url};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use tokio::time::Instant;

use super::reply::{Reply, ReplyError, reply};
use crate::driver::DriverError;
use crate::http::{HttpError, http};
use crate::secret::SecretError;

/// Longest answer that is read, in bytes: commit messages make a list of deploys long.
const BODY_LEN_MAX: usize = 4 * 1024 * 1024;
/// Characters of the platform's words that go into an error.
const SAID_LEN_MAX: usize = 300;
/// How long nothing is sent after a 429 that names no time, and the longest that one may name.
const PAUSE_DEFAULT: Duration = Duration::from_secs(5);
const PAUSE_MAX: Duration = Duration::from_secs(600);

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    /// The token holds what no header may.
    #[error("`token` cannot be sent in a header")]
    Header,
    /// No HTTP at all.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// The token is not there.
    #[error("`token` cannot be used")]
    Token(#[from] SecretError),
    /// The address is not one that a token may be sent to.
    #[error("the address is not an https address, nor one of this machine")]
    Url,
}

/// Why a call did not do it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RestError {
    /// Nothing happened, and the platform will not do it.
    #[error("{said}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// What was said.
        said: String,
    },
    /// Nothing happened; it may be asked again after `after`.
    #[error("{said}; nothing happened")]
    Retry {
        /// How long to wait at least.
        after: Duration,
        /// What was said.
        said: String,
    },
    /// It may have happened.
    #[error("{0}")]
    Unknown(String),
}

impl From<RestError> for DriverError {
    fn from(error: RestError) -> Self {
        let said = error.to_string();
        match error {
            RestError::Refused { .. } => Self::Refused(said),
            RestError::Retry { .. } => Self::Retry(said),
            RestError::Unknown(_) => Self::Unknown(said),
        }
    }
}

/// A client of one account.
#[derive(Debug)]
pub struct Rest {
    name: &'static str,
    client: Client,
    url: Url,
    /// Marked as sensitive, so that it is never shown.
    authorization: HeaderValue,
    timeout: Duration,
    quiet_until: Mutex<Option<Instant>>,
}

impl Rest {
    /// A client of what people call `name`, at `url`: `https`, or plain on this machine. Sends nothing.
    ///
    /// # Errors
    /// When it could never work.
    pub fn new(
        name: &'static str,
        url: &str,
        authorization: SecretString,
        timeout: Duration,
    ) -> Result<Self, AccountError> {
        let url: Url = url.parse().map_err(|_| AccountError::Url)?;
        let is_here = matches!(url.host_str(), Some("127.0.0.1" | "localhost" | "[::1]"));
        if url.scheme() != "https" && !(url.scheme() == "http" && is_here) {
            return Err(AccountError::Url);
        }
        let mut authorization =
            HeaderValue::from_str(authorization.expose_secret()).map_err(|_| AccountError::Header)?;
        authorization.set_sensitive(true);
        Ok(Self { name, client: http()?, url, authorization, timeout, quiet_until: Mutex::default() })
    }

    /// Reads. Whatever goes wrong, nothing happened: the error is never [`RestError::Unknown`].
    ///
    /// # Errors
    /// When it could not be read.
    pub async fn read(&self, path: &[&str], query: Option<&str>) -> Result<Value, RestError> {
        let answer = self.call(Method::GET, path, query, None).await;
        answer.map_err(|error| match error {
            RestError::Unknown(said) => RestError::Retry { after: Duration::ZERO, said },
            other => other,
        })
    }

    /// Changes something, with a JSON body of the kind `content` where there is one. An answer without
    /// a body is [`Value::Null`].
    ///
    /// # Errors
    /// When it was not, or may not have been, done.
    pub async fn change(&self, method: Method, path: &[&str], body: Option<(&str, Value)>) -> Result<Value, RestError> {
        self.call(method, path, None, body).await
    }

    /// For how long at most one call takes.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    async fn call(
        &self,
        method: Method,
        path: &[&str],
        query: Option<&str>,
        body: Option<(&str, Value)>,
    ) -> Result<Value, RestError> {
        let name = self.name;
        if let Some(after) = self.quiet_for() {
            return Err(RestError::Retry { after, said: format!("{name} asked for a pause") });
        }
        let mut url = self.url.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        url.set_query(query);
        let mut request = self.client.request(method, url).timeout(self.timeout);
        request = request.header("authorization", self.authorization.clone());
        request = request.header("accept", "application/json");
        if let Some((content, body)) = body {
            request = request.header("content-type", content).body(body.to_string());
        }
        match reply(request, BODY_LEN_MAX).await {
            Ok(reply) => self.judge(&reply),
            Err(error @ ReplyError::Connect(_)) => {
                Err(RestError::Retry { after: Duration::ZERO, said: format!("{name}: {error}") })
            }
            Err(error) => Err(RestError::Unknown(format!("{name}: {error}"))),
        }
    }

    fn judge(&self, reply: &Reply) -> Result<Value, RestError> {
        let (name, status) = (self.name, reply.status);
        let read = serde_json::from_slice::<Value>(&reply.body);
        // What is not the platform's JSON may be anything, and is not repeated.
        let message = read.as_ref().ok().and_then(|body| body.get("message")?.as_str()).unwrap_or("no reason given");
        let message: String = message.chars().take(SAID_LEN_MAX).collect();
        let said = format!("{name} answered {status}: {message}");
        match status {
            200..=299 if reply.body.is_empty() => Ok(Value::Null),
            200..=299 => read.map_err(|_| RestError::Unknown(format!("{name} did not answer with JSON"))),
            429 => {
                let after = pause(reply);
                *self.quiet_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + after);
                Err(RestError::Retry { after, said })
            }
            // Something else is in the way; later it will not be.
            409 => Err(RestError::Retry { after: reply.after.unwrap_or_default().min(PAUSE_MAX), said }),
            // A redirect is not followed: it could carry the token elsewhere.
            300..=499 => Err(RestError::Refused { status, said }),
            _ => Err(RestError::Unknown(said)),
        }
    }

    /// What is left of a pause that was asked for.
    fn quiet_for(&self) -> Option<Duration> {
        let until = *self.quiet_until.lock().unwrap_or_else(PoisonError::into_inner);
        until?.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
    }
}

/// How long a 429 asks to wait, bounded.
fn pause(reply: &Reply) -> Duration {
    let until_reset = || {
        let reset = UNIX_EPOCH.checked_add(Duration::from_millis(reply.reset?))?;
        // An instant that is over asks for nothing more.
        Some(reset.duration_since(SystemTime::now()).unwrap_or_default())
    };
    reply.after.or_else(until_reset).unwrap_or(PAUSE_DEFAULT).min(PAUSE_MAX)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn reply(status: u16, body: &str, after: Option<u64>, reset: Option<u64>) -> Reply {
        let (body, after) = (body.as_bytes().to_vec(), after.map(Duration::from_secs));
        Reply { status, body, after, left: None, reset }
    }

    #[test]
    fn a_status_says_whether_it_may_have_happened() {
        let client = |url: &str, token: &str| Rest::new("Shop", url, token.into(), Duration::from_secs(1));
        let said = |status: u16, body: &str| {
            let rest = client("http://127.0.0.1:1/v1", "hidden").unwrap();
            rest.judge(&reply(status, body, None, None)).map_err(|error| DriverError::from(error).to_string())
        };
        for (status, body, expected) in [
            (301, "", "refused: Shop answered 301: no reason given"),
            (400, r#"{"message": "no such thing"}"#, "refused: Shop answered 400: no such thing"),
            (404, "<html>", "refused: Shop answered 404: no reason given"),
            (409, "", "try again: Shop answered 409: no reason given; nothing happened"),
            (429, "", "try again: Shop answered 429: no reason given; nothing happened"),
            (200, "<html>", "outcome unknown: Shop did not answer with JSON"),
            (500, "", "outcome unknown: Shop answered 500: no reason given"),
        ] {
            assert_eq!(said(status, body), Err(expected.to_owned()));
        }
        assert_eq!(said(204, ""), Ok(Value::Null));
        assert_eq!(said(200, "[1]"), Ok(json!([1])));
        assert!(matches!(client("http://example.com", "hidden"), Err(AccountError::Url)));
        let broken = client("https://example.com", "hid\nden");
        assert!(matches!(broken, Err(AccountError::Header)), "{broken:?}");
        assert!(!format!("{:?}", client("https://example.com", "hidden")).contains("hidden"));
    }

    #[test]
    fn a_pause_is_as_long_as_asked_and_no_longer_than_ours() {
        for (after, reset, expected) in [
            (None, None, PAUSE_DEFAULT),
            (Some(7), Some(u64::MAX), Duration::from_secs(7)),
            (Some(u64::MAX), None, PAUSE_MAX),
            (None, Some(1), Duration::ZERO),
            (None, Some(4_000_000_000_000), PAUSE_MAX),
        ] {
            assert_eq!(pause(&reply(429, "", after, reset)), expected, "{after:?} {reset:?}");
        }
    }
}
