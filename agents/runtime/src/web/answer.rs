//! A whole answer, as conditions, numbers and fingerprints read it.

use hyper::HeaderMap;
use hyper::header::HeaderName;
use serde_json::Value;

use super::redaction::redact;

/// A whole answer.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body as text; bytes that are not UTF-8 are replaced.
    pub text: String,
    /// Its body as JSON, when it was asked for and is JSON.
    pub json: Option<Value>,
    /// What the request held and must never be repeated.
    pub secrets: Vec<String>,
}

impl Answer {
    /// At most `len` characters of some of it, as evidence may show it.
    pub fn quote(&self, text: &str, len: usize) -> String {
        redact(text, &self.secrets, len)
    }

    /// Every value of a header that is text.
    pub fn header<'a>(&'a self, name: &HeaderName) -> Vec<&'a str> {
        texts(&self.headers, name)
    }
}

/// Every value of a header that is text.
pub fn texts<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Vec<&'a str> {
    headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).map(str::trim).collect()
}
