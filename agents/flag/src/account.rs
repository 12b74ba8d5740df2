//! One exchange with a platform's JSON API: bounded, redacted, and with an error that says whether it
//! may have taken effect. Repeats nothing by itself.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bellwether_protocol::time::Span;
use bellwether_runtime::{DriverError, HttpError, SecretError, SecretRef};
use reqwest::header::{HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{Method, StatusCode, Url};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::Value;

/// Longest answer that is read, in bytes.
const BODY_LEN_MAX: usize = 1024 * 1024;
/// Characters of the platform's words that go into an error.
const SAID_LEN_MAX: usize = 300;
/// How long nothing is sent after a 429 that names no time, and the longest that one may name.
const PAUSE_DEFAULT: Duration = Duration::from_secs(5);
const PAUSE_MAX: Duration = Duration::from_secs(600);

/// Where an API is, and what it takes for a token.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Account {
    /// Where: `https`, or plain on this machine. Default: where the platform's own service is, if it has one.
    pub url: Option<String>,
    /// The token that is sent as `Authorization`.
    pub token: SecretRef,
    /// How long one exchange may take. Default 10 s.
    #[serde(default = "timeout")]
    pub timeout: Span,
}

fn timeout() -> Span {
    Span::from_secs(10)
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    /// No HTTP at all.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// The token is not there, or cannot be sent.
    #[error("`token` cannot be used")]
    Token(#[from] SecretError),
    /// The address is not one that a token may be sent to.
    #[error("`url` is not an https address, nor one of this machine")]
    Url,
}

/// A client of one account.
#[derive(Debug)]
pub(crate) struct Rest {
    client: reqwest::Client,
    url: Url,
    token: SecretString,
    timeout: Duration,
    quiet_until: Mutex<Option<Instant>>,
}

impl Rest {
    /// A client of `account`, which is at `service` unless it says otherwise. Sends nothing.
    pub(crate) fn new(account: &Account, service: Option<&str>) -> Result<Self, AccountError> {
        let url = account.url.as_deref().or(service).ok_or(AccountError::Url)?;
        let url: Url = url.parse().map_err(|_| AccountError::Url)?;
        let is_here = matches!(url.host_str(), Some("127.0.0.1" | "localhost" | "[::1]"));
        if url.scheme() != "https" && !(url.scheme() == "http" && is_here) {
            return Err(AccountError::Url);
        }
        let (client, token) = (bellwether_runtime::http()?, account.token.resolve()?);
        Ok(Self { client, url, token, timeout: account.timeout.to_std(), quiet_until: Mutex::default() })
    }

    /// Reads. Whatever goes wrong, nothing happened, so the error never says [`DriverError::Unknown`].
    pub(crate) async fn read(&self, path: &[&str], query: Option<&str>) -> Result<Value, DriverError> {
        let answer = self.call(Method::GET, path, query, None).await;
        answer.map_err(|error| match error {
            DriverError::Unknown(said) => DriverError::Retry(said),
            other => other,
        })
    }

    /// Changes something, with a JSON body of the kind `content` where there is one.
    pub(crate) async fn change(
        &self,
        method: Method,
        path: &[&str],
        body: Option<(&str, Value)>,
    ) -> Result<Value, DriverError> {
        self.call(method, path, None, body).await
    }

    async fn call(
        &self,
        method: Method,
        path: &[&str],
        query: Option<&str>,
        body: Option<(&str, Value)>,
    ) -> Result<Value, DriverError> {
        if self.quiet_until().is_some_and(|until| Instant::now() < until) {
            return Err(DriverError::Retry("the platform asked for a pause".to_owned()));
        }
        let mut url = self.url.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        url.set_query(query);
        let mut token = HeaderValue::from_str(self.token.expose_secret())
            .map_err(|_| DriverError::Refused("the token cannot be sent in a header".to_owned()))?;
        token.set_sensitive(true);
        let mut request = self.client.request(method, url).timeout(self.timeout).header("authorization", token);
        if let Some((content, body)) = body {
            request = request.header("content-type", content).body(body.to_string());
        }
        let mut response = request.send().await.map_err(|error| match error.is_connect() {
            true => DriverError::Retry("no connection to the platform".to_owned()),
            false => broken(&error),
        })?;
        let status = response.status();
        if status == StatusCode::TOO_MANY_REQUESTS {
            *self.quiet_until.lock().unwrap_or_else(PoisonError::into_inner) =
                Some(Instant::now() + pause(response.headers()));
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| broken(&error))? {
            if body.len() + chunk.len() > BODY_LEN_MAX {
                return Err(DriverError::Unknown(format!("the platform answered more than {BODY_LEN_MAX} bytes")));
            }
            body.extend_from_slice(&chunk);
        }
        judge(status, &body)
    }

    /// How long a call that was given up may still take effect.
    pub(crate) fn may_come_for(&self) -> Duration {
        self.timeout * 3 / 2
    }

    fn quiet_until(&self) -> Option<Instant> {
        *self.quiet_until.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn judge(status: StatusCode, body: &[u8]) -> Result<Value, DriverError> {
    let read = serde_json::from_slice::<Value>(body);
    // What is not the platform's JSON may be anything, and is not repeated.
    let message = read.as_ref().ok().and_then(|body| body.get("message")?.as_str()).unwrap_or("no reason given");
    let said = || format!("the platform answered {status}: {}", message.chars().take(SAID_LEN_MAX).collect::<String>());
    match status.as_u16() {
        200..=299 if body.is_empty() => Ok(Value::Null),
        200..=299 => read.map_err(|_| DriverError::Unknown("the platform did not answer with JSON".to_owned())),
        409 | 429 => Err(DriverError::Retry(said())),
        // A redirect is not followed: it could carry the token elsewhere.
        300..=499 => Err(DriverError::Refused(said())),
        _ => Err(DriverError::Unknown(said())),
    }
}

/// How long a 429 asks to wait: `Retry-After` in seconds, or LaunchDarkly's instant in milliseconds.
fn pause(headers: &HeaderMap) -> Duration {
    let number = |name: &str| headers.get(name)?.to_str().ok()?.trim().parse::<u64>().ok();
    let until_reset = || {
        let reset = UNIX_EPOCH.checked_add(Duration::from_millis(number("x-ratelimit-reset")?))?;
        // An instant that is over asks for nothing more.
        Some(reset.duration_since(SystemTime::now()).unwrap_or_default())
    };
    let asked = number(RETRY_AFTER.as_str()).map(Duration::from_secs).or_else(until_reset);
    asked.unwrap_or(PAUSE_DEFAULT).min(PAUSE_MAX)
}

/// The request may have arrived.
fn broken(error: &reqwest::Error) -> DriverError {
    let what = if error.is_timeout() { "no answer from the platform in time" } else { "the connection broke" };
    DriverError::Unknown(what.to_owned())
}
