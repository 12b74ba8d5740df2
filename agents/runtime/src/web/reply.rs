//! One exchange of an HTTP client: as much of the answer as may be kept, or why there is none.

use std::time::Duration;

use reqwest::header::RETRY_AFTER;
use reqwest::{Error, RequestBuilder};

/// What was answered, whatever its status.
#[derive(Debug)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// The whole body.
    pub body: Vec<u8>,
    /// How long it asks to wait: `Retry-After` in seconds.
    pub after: Option<Duration>,
    /// How many more requests it takes now: `X-RateLimit-Remaining`.
    pub left: Option<u64>,
    /// The instant from which it takes requests again, since 1970 in a unit of its own: `X-RateLimit-Reset`.
    pub reset: Option<u64>,
}

/// Why there is no whole answer.
#[derive(Debug, thiserror::Error)]
pub enum ReplyError {
    /// Nothing was sent.
    #[error("no connection")]
    Connect(#[source] Error),
    /// It may have arrived.
    #[error("no answer in time")]
    Late,
    /// It may have arrived.
    #[error("the connection broke")]
    Lost(#[source] Error),
    /// It arrived.
    #[error("it answered more than {0} bytes")]
    TooLong(usize),
}

impl From<Error> for ReplyError {
    fn from(error: Error) -> Self {
        // Addresses may hold secrets.
        let error = error.without_url();
        match (error.is_connect(), error.is_timeout()) {
            (true, _) => Self::Connect(error),
            (_, true) => Self::Late,
            _ => Self::Lost(error),
        }
    }
}

/// An error with its causes, in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Sends, and reads an answer of at most `len_max` bytes.
///
/// # Errors
/// When no whole answer came.
pub async fn reply(request: RequestBuilder, len_max: usize) -> Result<Reply, ReplyError> {
    let mut response = crate::http::send(request).await?;
    let number = |name: &str| response.headers().get(name)?.to_str().ok()?.trim().parse::<u64>().ok();
    let after = number(RETRY_AFTER.as_str()).map(Duration::from_secs);
    let (left, reset) = (number("x-ratelimit-remaining"), number("x-ratelimit-reset"));
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > len_max {
            return Err(ReplyError::TooLong(len_max));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Reply { status: response.status().as_u16(), body, after, left, reset })
}
