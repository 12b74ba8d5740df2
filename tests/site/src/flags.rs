//! How the site reads its flags: over OFREP, from its own region's endpoint, with a short cache.
//! Whatever goes wrong, the flag is off: the coded default is the safe one.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::client;

/// How long an evaluation is believed. Also holds after a failure, so that a dead endpoint does
/// not slow every request down.
const BELIEVED_FOR: Duration = Duration::from_millis(200);
/// How long an evaluation may take.
const ANSWER_WITHIN: Duration = Duration::from_millis(250);
/// Evaluations remembered at one time.
const CACHE_LEN_MAX: usize = 1_024;

/// Where the flags of one environment are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FlagSource {
    /// A file that holds the address; it is read again each time, for the endpoint may move.
    File(PathBuf),
    /// The address, such as `http://127.0.0.1:8016`.
    Url(String),
}

impl FromStr for FlagSource {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text.strip_prefix("file:") {
            Some(path) => Self::File(path.into()),
            None => Self::Url(text.to_owned()),
        })
    }
}

/// Reads flags for one environment.
#[derive(Debug)]
pub(crate) struct FlagReader {
    source: Option<FlagSource>,
    cache: Mutex<BTreeMap<(String, String), (Instant, bool)>>,
}

impl FlagReader {
    pub(crate) fn new(source: Option<FlagSource>) -> Self {
        Self { source, cache: Mutex::default() }
    }

    /// Whether a flag is on for a user.
    pub(crate) async fn is_on(&self, flag: &str, user: &str) -> bool {
        let key = (flag.to_owned(), user.to_owned());
        if let Some((at, on)) = self.cache.lock().unwrap_or_else(PoisonError::into_inner).get(&key)
            && at.elapsed() < BELIEVED_FOR
        {
            return *on;
        }
        let on = self.evaluate(flag, user).await.unwrap_or(false);
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if cache.len() >= CACHE_LEN_MAX {
            cache.clear();
        }
        cache.insert(key, (Instant::now(), on));
        on
    }

    async fn evaluate(&self, flag: &str, user: &str) -> Option<bool> {
        let base = match self.source.as_ref()? {
            FlagSource::File(path) => tokio::fs::read_to_string(path).await.ok()?,
            FlagSource::Url(url) => url.clone(),
        };
        let url = format!("{}/ofrep/v1/evaluate/flags/{flag}", base.trim().trim_end_matches('/'));
        let body = json!({ "context": { "targetingKey": user } }).to_string().into_bytes();
        let answer = client::send(Method::POST, &url, body, ANSWER_WITHIN).await.ok()?;
        if answer.status != StatusCode::OK {
            return None;
        }
        serde_json::from_slice::<Value>(&answer.body).ok()?.get("value")?.as_bool()
    }
}
