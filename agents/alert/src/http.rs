//! One HTTP exchange of a bridge, and what its status means.
//!
//! A redirect is a failure: the body must not travel to a host that nobody configured. Addresses and
//! answers may hold secrets, so what is said of them is cut.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bellwether_runtime::web::{Reply, chain, reply};

use crate::bridge::DeliveryError;

/// How long one exchange may take, as Standard Webhooks suggests.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(15);
/// Longest wait that a receiver may ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3_600);
/// Longest answer that is read, in bytes: a page of a channel's history.
const BODY_LEN_MAX: usize = 4 * 1024 * 1024;
/// How much of an answer is shown, in characters.
const SHOWN_MAX: usize = 200;
/// A piece of a path that is as long may be a key.
const KEY_LEN_MIN: usize = 16;

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
    after: Option<Duration>,
}

/// Reads an address.
pub(crate) fn parse(url: &str) -> Result<reqwest::Url, String> {
    let parsed: Option<reqwest::Url> = url.parse().ok();
    let parsed = parsed.filter(|url| matches!(url.scheme(), "http" | "https") && url.password().is_none());
    parsed.ok_or_else(|| format!("{} is not an http or https address without a password", shown(url)))
}

/// An address as logs may show it: without user, query, fragment, and pieces that may be keys.
pub(crate) fn shown(url: &str) -> String {
    let Ok(url) = url.parse::<reqwest::Url>() else { return "an address that cannot be read".to_owned() };
    let hidden = |piece: &str| if piece.len() < KEY_LEN_MIN { piece.to_owned() } else { "***".to_owned() };
    let path = url.path().split('/').map(hidden).collect::<Vec<_>>().join("/");
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}://{}{port}{path}", url.scheme(), url.host_str().unwrap_or("?"))
}

/// Sends, and reads a bounded answer, whatever its status.
pub(crate) async fn send(request: reqwest::RequestBuilder) -> Result<Answer, DeliveryError> {
    let retry = |error| DeliveryError::Retry { why: chain(&error), after: None };
    let Reply { status, body, after, left, reset } =
        reply(request.timeout(TIMEOUT), BODY_LEN_MAX).await.map_err(retry)?;
    // Who counts requests says when they may go on, as an instant in seconds.
    let spent = reset.filter(|_| left == Some(0)).and_then(|reset| UNIX_EPOCH.checked_add(Duration::from_secs(reset)));
    let after = after.or_else(|| spent.map(|until| until.duration_since(SystemTime::now()).unwrap_or_default()));
    Ok(Answer { status, body, after: after.map(|wait| wait.min(RETRY_AFTER_MAX)) })
}

impl Answer {
    /// Success, or what is wrong. A redirect and what is in `refused` are final, all else is tried again:
    /// told twice is better than not at all, so nothing depends on whether it may have arrived.
    pub(crate) fn judge(&self, refused: &[u16]) -> Result<(), DeliveryError> {
        let said = match self.text() {
            text if text.is_empty() => format!("it answered {}", self.status),
            text => format!("it answered {}: {text}", self.status),
        };
        match self.status {
            200..=299 => Ok(()),
            300..=399 => Err(DeliveryError::Refused {
                why: format!("it answered {}, not followed. fix: set the final URL", self.status),
            }),
            status if refused.contains(&status) => Err(DeliveryError::Refused { why: said }),
            _ => Err(DeliveryError::Retry { why: said, after: self.after }),
        }
    }

    /// That it asks for a pause, for `why`.
    pub(crate) fn retry(&self, why: String) -> DeliveryError {
        DeliveryError::Retry { why, after: self.after }
    }

    /// The beginning of the answer, on one line.
    pub(crate) fn text(&self) -> String {
        let start = self.body.get(..4 * SHOWN_MAX).unwrap_or(&self.body);
        let text = String::from_utf8_lossy(start);
        let words = text.split_whitespace().map(|word| if word.len() < 4 * KEY_LEN_MIN { word } else { "***" });
        let text = words.collect::<Vec<_>>().join(" ");
        text.chars().filter(|c| !c.is_control()).take(SHOWN_MAX).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_shows_no_secret() {
        for (url, expected) in [
            ("https://me:hidden@example.com:8443/hook?sig=hidden#hidden", "https://example.com:8443/hook"),
            ("https://hooks.slack.com/services/T0/B0/hiddenhiddenhidden", "https://hooks.slack.com/services/T0/B0/***"),
            ("hidden", "an address that cannot be read"),
        ] {
            assert_eq!(shown(url), expected);
        }
        assert!(parse("https://me:hidden@example.com/").is_err());
        assert!(parse("ftp://example.com/").is_err());
    }
}
