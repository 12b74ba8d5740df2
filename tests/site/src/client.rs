//! The few HTTP requests that the site itself makes: to its flag endpoint and to its own admin
//! side. Plain HTTP/1.1, one connection per request; it refuses TLS, redirects and long answers.

use std::time::Duration;

use axum::body::Bytes;
use axum::http::{Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Longest answer that is read, in bytes.
const ANSWER_LEN_MAX: usize = 64 * 1024;

/// What came back.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) body: Bytes,
}

/// Why nothing came back.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// It was never reached, so nothing happened there.
    #[error("could not connect to {0}")]
    Connect(String, #[source] std::io::Error),
    /// It was reached, and then something broke: it may have happened.
    #[error("no answer from {0}")]
    Lost(String, #[source] Box<dyn std::error::Error + Send + Sync>),
    /// It was reached and did not answer in time: it may have happened.
    #[error("no answer from {0} within {1:?}")]
    Timeout(String, Duration),
    /// Not a plain HTTP address.
    #[error("`{0}` is not an address such as http://127.0.0.1:8080")]
    Url(String),
}

/// Sends one request with a JSON body and reads the whole answer.
pub(crate) async fn send(method: Method, url: &str, body: Vec<u8>, within: Duration) -> Result<Answer, ClientError> {
    let wrong = || ClientError::Url(url.chars().take(200).collect());
    let uri: Uri = url.parse().map_err(|_| wrong())?;
    let host = uri.authority().filter(|_| uri.scheme_str() == Some("http")).ok_or_else(wrong)?.as_str().to_owned();
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, &host)
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body)))
        .map_err(|_| wrong())?;
    tokio::time::timeout(within, exchange(&host, request))
        .await
        .unwrap_or_else(|_| Err(ClientError::Timeout(host.clone(), within)))
}

async fn exchange(host: &str, request: Request<Full<Bytes>>) -> Result<Answer, ClientError> {
    let address = if host.contains(':') { host.to_owned() } else { format!("{host}:80") };
    let stream = TcpStream::connect(&address).await.map_err(|e| ClientError::Connect(host.to_owned(), e))?;
    let lost = |e: hyper::Error| ClientError::Lost(host.to_owned(), e.into());
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(lost)?;
    let ask = async {
        let answer = sender.send_request(request).await.map_err(lost)?;
        let (parts, body) = answer.into_parts();
        let body = Limited::new(body, ANSWER_LEN_MAX).collect().await;
        let body = body.map_err(|e| ClientError::Lost(host.to_owned(), e))?.to_bytes();
        Ok(Answer { status: parts.status, body })
    };
    // The connection is driven beside the request and dropped with it, so that a timeout leaves no task behind.
    let drive = async {
        // Whatever ends the connection early also fails the request, which reports it.
        let _ = connection.await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        answer = ask => answer,
        () = drive => Err(ClientError::Url(host.to_owned())),
    }
}
