//! A whole answer, as conditions, numbers and fingerprints read it.

use hyper::HeaderMap;
use hyper::header::HeaderName;
use serde_json::Value;

use crate::redaction::redact;

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer {
    /// Its status.
    pub(crate) status: u16,
    /// Its headers.
    pub(crate) headers: HeaderMap,
    /// Its body as text; bytes that are not UTF-8 are replaced.
    pub(crate) text: String,
    /// Its body as JSON, when it was asked for and is JSON.
    pub(crate) json: Option<Value>,
    /// What the request held and must never be repeated.
    pub(crate) secrets: Vec<String>,
}

impl Answer {
    /// At most `len` characters of some of it, as evidence may show it.
    pub(crate) fn quote(&self, text: &str, len: usize) -> String {
        redact(text, &self.secrets, len)
    }

    /// Every value of a header that is text.
    pub(crate) fn header<'a>(&'a self, name: &HeaderName) -> Vec<&'a str> {
        texts(&self.headers, name)
    }
}

/// Every value of a header that is text.
pub(crate) fn texts<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Vec<&'a str> {
    headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).map(str::trim).collect()
}
