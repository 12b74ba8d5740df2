//! What one look is addressed to, read once from its assignment: where, with which headers, for how long.

use std::collections::BTreeMap;

use bellwether_protocol::assignment::Look;
use bellwether_protocol::id::Release;
use bellwether_protocol::plan::Fingerprint;
use bellwether_protocol::time::Span;
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CONNECTION, HOST, HeaderName, HeaderValue, USER_AGENT};
use hyper::{HeaderMap, Method, Request, Uri};
use serde_json::Value;

use super::answer::texts;
use super::json_path::JsonPath;

/// Longest headers of one request, names and values together, in bytes.
const HEADERS_LEN_MAX: usize = 16 * 1024;
/// Longest timeout of one look: a slot waits for it.
const TIMEOUT_MAX: Span = Span::from_secs(60);

const AGENT: &str = concat!("bellwether/", env!("CARGO_PKG_VERSION"));

/// Scheme, host and port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// Whether TLS is spoken.
    pub is_tls: bool,
    /// The host: a lower-case name, or an address without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

/// What one look is addressed to.
#[derive(Debug, Clone)]
pub struct Target {
    /// Where.
    pub origin: Origin,
    /// What comes before the probe's own path; empty, or `/` and more, without a slash at its end.
    pub base: String,
    /// Headers that address the cohort.
    pub headers: HeaderMap,
    /// How the release is read.
    pub fingerprint: Option<Mark>,
    /// For how long at most.
    pub timeout: Span,
}

/// A parsed fingerprint.
#[derive(Debug, Clone)]
pub enum Mark {
    /// In a header.
    Header(HeaderName),
    /// At a path in the body.
    Json(JsonPath),
}

impl Origin {
    /// Reads a URL into where it is and what path it has.
    pub fn parse(url: &str) -> Result<(Self, String), String> {
        let wrong = |why: &str| format!("`{}` {why}", super::redaction::redact(url, &[], 120));
        let uri: Uri = url.parse().map_err(|_| wrong("is not a URL"))?;
        let (is_tls, port) = match uri.scheme_str() {
            Some("http") => (false, 80),
            Some("https") => (true, 443),
            _ => return Err(wrong("must begin with http:// or https://")),
        };
        let authority = uri.authority().ok_or_else(|| wrong("has no host"))?;
        if authority.as_str().contains('@') {
            return Err(wrong("must not hold a password"));
        }
        if uri.query().is_some() {
            return Err(wrong("must not hold a query"));
        }
        let host = authority.host();
        let host = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
        if host.is_empty() || (authority.as_str() != authority.host() && authority.port_u16().is_none()) {
            return Err(wrong("has no sound host and port"));
        }
        let origin = Self { is_tls, host: host.to_ascii_lowercase(), port: authority.port_u16().unwrap_or(port) };
        Ok((origin, uri.path().trim_end_matches('/').to_owned()))
    }

    /// Reads a URL that a person gave into where it is and what is asked for there, query and all.
    ///
    /// # Errors
    /// When it is none, or hides something.
    pub fn split(url: &str) -> Result<(Self, String), String> {
        let uri: Uri =
            url.parse().map_err(|_| format!("`{}` is not a URL", super::redaction::redact(url, &[], 120)))?;
        let bare = match (uri.scheme_str(), uri.authority()) {
            (Some(scheme), Some(authority)) => format!("{scheme}://{authority}"),
            _ => url.to_owned(),
        };
        let (origin, _) = Self::parse(&bare)?;
        Ok((origin, uri.path_and_query().map_or("/", |path| path.as_str()).to_owned()))
    }

    /// The host, as it stands before a port.
    pub(crate) fn bracketed(&self) -> String {
        if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() }
    }

    /// `host:port`, the port left out where the scheme says it.
    pub fn authority(&self) -> String {
        let host = self.bracketed();
        let default = if self.is_tls { 443 } else { 80 };
        if self.port == default { host } else { format!("{host}:{}", self.port) }
    }
}

impl Target {
    /// Reads an assignment's look; the error says what in it cannot be done.
    pub fn read(look: &Look) -> Result<Self, String> {
        let (origin, base) = Origin::parse(&look.url)?;
        if look.timeout == Span::ZERO || look.timeout > TIMEOUT_MAX {
            return Err(format!("timeout {} is not between 1ms and {TIMEOUT_MAX}", look.timeout));
        }
        let fingerprint = match &look.fingerprint {
            Some(Fingerprint::Header(name)) => {
                Some(Mark::Header(name.parse().map_err(|_| format!("fingerprint: `{name}` is not a header name"))?))
            }
            Some(Fingerprint::Json(path)) => {
                Some(Mark::Json(JsonPath::parse(path).map_err(|error| format!("fingerprint: {error}"))?))
            }
            None => None,
        };
        Ok(Self { origin, base, headers: headers(&look.headers)?, fingerprint, timeout: look.timeout })
    }
}

impl Target {
    /// A probe's own path below the target's.
    pub fn path(&self, own: &str) -> String {
        match format!("{}{own}", self.base) {
            path if path.is_empty() => "/".to_owned(),
            path => path,
        }
    }

    /// A request of the whole `path`, which must be a sound one.
    pub fn request(&self, method: Method, path: &str, own: &HeaderMap, body: Bytes) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        // Both halves were checked when they were read, so this parses.
        *request.uri_mut() = path.parse().unwrap_or_else(|_| Uri::from_static("/"));
        let headers = request.headers_mut();
        headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        headers.extend(own.clone());
        // The cohort's headers come last: a probe's own settings must not address another cohort.
        headers.extend(self.headers.clone());
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
        if let Ok(host) = self.origin.authority().parse() {
            headers.insert(HOST, host);
        }
        request
    }
}

impl Mark {
    /// Whether it needs the body as JSON.
    pub fn needs_json(&self) -> bool {
        matches!(self, Self::Json(_))
    }

    /// The release that answered, when the answer names exactly one.
    pub fn read(&self, headers: &HeaderMap, json: Option<&Value>) -> Option<Release> {
        let text = match self {
            Self::Header(name) => {
                let values = texts(headers, name);
                let first = *values.first()?;
                // Two proxies that each name a release name none.
                if values.iter().any(|value| *value != first) {
                    return None;
                }
                first
            }
            Self::Json(path) => path.one(json?)?.as_str()?.trim(),
        };
        text.parse().ok()
    }
}

/// Checks and converts headers; those that steer the connection itself are not a plan's to set.
pub fn headers(from: &BTreeMap<String, String>) -> Result<HeaderMap, String> {
    const OWN: [&str; 6] = ["connection", "content-length", "host", "te", "transfer-encoding", "upgrade"];
    let mut into = HeaderMap::new();
    let mut len = 0;
    for (name, value) in from {
        let parsed: HeaderName = name.parse().map_err(|_| format!("`{name}` is not a header name"))?;
        if OWN.contains(&parsed.as_str()) {
            return Err(format!("header `{name}` is the probe's own to set"));
        }
        // The value may be a secret: it stays out of the message.
        let value: HeaderValue =
            value.parse().map_err(|_| format!("header `{name}` has a value that cannot be sent"))?;
        len += name.len() + value.len();
        into.insert(parsed, value);
    }
    if len > HEADERS_LEN_MAX { Err("the headers are over 16 KiB".to_owned()) } else { Ok(into) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_into_origin_and_base() {
        let check = |url: &str, authority: &str, base: &str| {
            let (origin, path) = Origin::parse(url).unwrap();
            assert_eq!((origin.authority().as_str(), path.as_str()), (authority, base), "{url}");
        };
        check("https://Shop.example.com", "shop.example.com", "");
        check("https://shop.example.com:443/", "shop.example.com", "");
        check("http://127.0.0.1:8080/api/", "127.0.0.1:8080", "/api");
        check("http://[::1]:8080", "[::1]:8080", "");
    }

    #[test]
    fn urls_that_hide_something_are_refused() {
        for url in [
            "",
            "shop.example.com",
            "file:///etc/passwd",
            "gopher://a",
            "http://",
            "http://user:pw@a",
            "http://a:99999",
            "http://a/?x=1",
            "http://a b",
        ] {
            assert!(Origin::parse(url).is_err(), "`{url}` was accepted");
        }
        assert!(!Origin::parse("http://joe:hunter2@a").unwrap_err().contains("hunter2"));
    }

    #[test]
    fn a_release_is_read_only_when_exactly_one_is_named() {
        let check = |values: &[&str], expected: Option<&str>| {
            let name: HeaderName = "x-release".parse().unwrap();
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(name.clone(), value.parse().unwrap());
            }
            let read = Mark::Header(name).read(&headers, None);
            assert_eq!(read.as_ref().map(Release::as_str), expected, "{values:?}");
        };
        check(&["v42"], Some("v42"));
        check(&["v42", "v42"], Some("v42"));
        check(&["v41", "v42"], None);
        check(&[], None);
        check(&["not a release"], None);
        let json = serde_json::json!({"release": "v42", "n": 42});
        let mark = |path: &str| Mark::Json(JsonPath::parse(path).unwrap()).read(&HeaderMap::new(), Some(&json));
        assert_eq!(mark("$.release").map(|r| r.to_string()), Some("v42".to_owned()));
        assert_eq!(mark("$.n"), None);
    }

    #[test]
    fn headers_that_steer_the_connection_are_refused() {
        let one = |name: &str, value: &str| headers(&[(name.to_owned(), value.to_owned())].into());
        assert!(one("x-cohort", "canary").is_ok());
        for (name, value) in
            [("Host", "a"), ("content-length", "0"), ("a b", "c"), ("x", "a\r\nb: c"), ("x", &"y".repeat(20_000))]
        {
            assert!(one(name, value).is_err(), "`{name}` was accepted");
        }
    }
}
