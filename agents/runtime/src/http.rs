//! One TLS configuration, and HTTP clients made from it.
//!
//! Redirects are off: a redirect is an answer, and following it could carry a secret to another host.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bellwether_bus::Hop;
use bellwether_bus::trace::{KeyValue, SpanKind, TRACEPARENT};
use hyper::HeaderMap;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

/// Why there is no HTTP client.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The certificates cannot be used.
    #[error("cannot use the certificates in {path}: {why}")]
    Certificates {
        /// The file.
        path: String,
        /// Why.
        why: String,
    },
    /// The client cannot be made.
    #[error("cannot make an HTTP client")]
    Client(#[from] reqwest::Error),
}

/// How long an HTTP exchange may take in all. Callers with a tighter limit set it per request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// An HTTP client with our TLS settings, timeouts, and without redirects.
///
/// # Errors
/// When the system's resolver cannot be set up.
pub fn http() -> Result<reqwest::Client, HttpError> {
    client(configured(roots()))
}

/// As [`http`], trusting also the certificates in the PEM file `ca`.
///
/// # Errors
/// When the file holds no certificate.
pub fn http_with_ca(ca: &Path) -> Result<reqwest::Client, HttpError> {
    client(ClientConfig::clone(&*tls_with_ca(ca)?))
}

/// Our TLS settings: the roots that browsers trust, `ring` underneath.
pub fn tls() -> Arc<ClientConfig> {
    Arc::new(configured(roots()))
}

/// As [`tls`], trusting also the certificates in the PEM file `ca`.
///
/// # Errors
/// When the file holds no certificate.
pub fn tls_with_ca(ca: &Path) -> Result<Arc<ClientConfig>, HttpError> {
    let wrong = |why: String| HttpError::Certificates { path: ca.display().to_string(), why };
    let mut roots = roots();
    let mut count = 0;
    for certificate in CertificateDer::pem_file_iter(ca).map_err(|error| wrong(error.to_string()))? {
        roots.add(certificate.map_err(|error| wrong(error.to_string()))?).map_err(|error| wrong(error.to_string()))?;
        count += 1;
    }
    if count == 0 {
        return Err(wrong("it holds none".to_owned()));
    }
    Ok(Arc::new(configured(roots)))
}

/// Sends `request` as a hop of the trace that we are in, and says so to whoever answers.
///
/// # Errors
/// As the client's own.
pub(crate) async fn send(request: reqwest::RequestBuilder) -> Result<reqwest::Response, reqwest::Error> {
    let (client, request) = request.build_split();
    let mut request = request?;
    let url = request.url();
    let hop = asking(request.method().as_str(), url.host_str().unwrap_or_default(), url.port_or_known_default());
    tell(request.headers_mut(), &hop);
    let answer = client.execute(request).await;
    match &answer {
        Ok(answer) => answered(&hop, answer.status().as_u16()),
        Err(error) if error.is_timeout() => hop.fail("timeout", "no answer in time"),
        Err(error) if error.is_connect() => hop.fail("connect", "no connection"),
        Err(_) => hop.fail("exchange", "no whole answer"),
    }
    answer
}

/// The hop of one request. Its path is left out: it may hold a secret.
pub(crate) fn asking(method: &str, host: &str, port: Option<u16>) -> Hop {
    let port = port.map(|port| KeyValue::new("server.port", i64::from(port)));
    let attributes =
        [KeyValue::new("http.request.method", method.to_owned()), KeyValue::new("server.address", host.to_owned())];
    Hop::begin(SpanKind::Client, method.to_owned(), attributes.into_iter().chain(port).collect())
}

/// Says in the headers of a request which hop it is.
pub(crate) fn tell(headers: &mut HeaderMap, hop: &Hop) {
    let trace = hop.trace();
    if !trace.is_none()
        && let Ok(value) = trace.to_string().parse()
    {
        headers.insert(TRACEPARENT, value);
    }
}

/// What came back.
pub(crate) fn answered(hop: &Hop, status: u16) {
    hop.note(KeyValue::new("http.response.status_code", i64::from(status)));
    if status >= 400 {
        hop.fail(status.to_string(), "");
    }
}

fn roots() -> RootCertStore {
    RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() }
}

#[expect(clippy::expect_used, reason = "ring has every safe default version of TLS; both are fixed when this is built")]
fn configured(roots: RootCertStore) -> ClientConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider);
    let builder = builder.with_safe_default_protocol_versions().expect("ring supports TLS 1.2 and 1.3");
    builder.with_root_certificates(roots).with_no_client_auth()
}

#[expect(clippy::disallowed_methods, reason = "this is the one place that may make a client")]
fn client(tls: ClientConfig) -> Result<reqwest::Client, HttpError> {
    let builder = reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .redirect(reqwest::redirect::Policy::none())
        .timeout(REQUEST_TIMEOUT)
        .connect_timeout(CONNECT_TIMEOUT)
        .user_agent(concat!("bellwether/", env!("CARGO_PKG_VERSION")));
    Ok(builder.build()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_can_be_made() {
        assert!(http().is_ok());
    }

    #[test]
    fn a_file_without_certificates_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("ca.pem");
        std::fs::write(&path, "not a certificate").expect("written");
        assert!(tls_with_ca(&path).is_err());
        assert!(tls_with_ca(&dir.path().join("absent.pem")).is_err());
    }
}
