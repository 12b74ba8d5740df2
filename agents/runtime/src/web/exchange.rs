//! One request on a fresh connection, and as much of its answer as came.
//!
//! It never follows a redirect, never keeps a connection, and never reads more of a body than it was told.

use std::time::Duration;

use bellwether_protocol::sample::class;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, timeout_at};

use super::dial::{Dialer, Stream};
use super::redaction::is_sensitive;
use super::target::Origin;
use crate::http;

/// Longest head of an answer that is read, in bytes.
pub const HEAD_LEN_MAX: usize = 64 * 1024;

/// As much of an answer as came.
#[derive(Debug, Clone)]
pub struct Received {
    /// Status and headers, if they came.
    pub head: Option<(u16, HeaderMap)>,
    /// The whole body, or why it is not there.
    pub body: Result<Vec<u8>, Failure>,
    /// How long it all took.
    pub phases: Phases,
}

/// How long each phase of an exchange took, as far as it came. What was not done is absent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Phases {
    /// Finding the addresses of the name.
    pub resolve: Option<Duration>,
    /// Connecting to one of them.
    pub connect: Option<Duration>,
    /// Securing the connection.
    pub tls: Option<Duration>,
    /// From sending the request to the head of the answer.
    pub first_byte: Option<Duration>,
    /// From there to the end of its body.
    pub transfer: Option<Duration>,
}

/// Why there is no whole answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// One of the words of [`class`].
    pub class: &'static str,
    /// What happened.
    pub text: String,
}

impl Failure {
    /// A failure of that class.
    pub fn new(class: &'static str, text: impl Into<String>) -> Self {
        Self { class, text: text.into() }
    }
}

/// Asks once, until `deadline`; a body of more than `body_len_max` bytes is a failure. A hop of the
/// trace that we are in.
pub async fn ask(
    dialer: &Dialer,
    origin: &Origin,
    mut request: Request<Full<Bytes>>,
    deadline: Instant,
    body_len_max: usize,
) -> Received {
    let hop = http::asking(request.method().as_str(), &origin.host, Some(origin.port));
    http::tell(request.headers_mut(), &hop);
    let mut phases = Phases::default();
    let received = match dialer.dial(origin, deadline, &mut phases).await {
        Ok(stream) => exchange(stream, request, deadline, body_len_max, phases).await,
        Err(failure) => Received { head: None, body: Err(failure), phases },
    };
    if let Some((status, _)) = &received.head {
        http::answered(&hop, *status);
    }
    if let Err(failure) = &received.body {
        hop.fail(failure.class, failure.text.clone());
    }
    received
}

/// Values that must never be repeated, even where the target echoes them.
pub fn secrets(headers: &HeaderMap) -> Vec<String> {
    let sensitive = headers.iter().filter(|(name, _)| is_sensitive(name.as_str()));
    sensitive
        .filter_map(|(_, value)| value.to_str().ok())
        .flat_map(|value| {
            // `Bearer x` is echoed as `x` too.
            let last = value.rsplit(' ').next().unwrap_or(value);
            [value.to_owned(), last.to_owned()]
        })
        .collect()
}

async fn exchange(
    stream: Box<dyn Stream>,
    request: Request<Full<Bytes>>,
    deadline: Instant,
    body_len_max: usize,
    mut phases: Phases,
) -> Received {
    let mut head = None;
    let work = async {
        let mut builder = http1::Builder::new();
        builder.max_buf_size(HEAD_LEN_MAX).max_header_size(HEAD_LEN_MAX);
        let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(|e| broken(&e))?;
        let talk = async {
            let begin = Instant::now();
            let response = sender.send_request(request).await.map_err(|e| broken(&e))?;
            phases.first_byte = Some(begin.elapsed());
            head = Some((response.status().as_u16(), response.headers().clone()));
            let begin = Instant::now();
            let body = body(response, body_len_max).await?;
            phases.transfer = Some(begin.elapsed());
            Ok(body)
        };
        // The connection is driven here rather than in a task of its own, so that it ends with the look.
        tokio::pin!(talk);
        tokio::select! {
            biased;
            done = &mut talk => done,
            _ = connection => talk.await,
        }
    };
    let body = timeout_at(deadline, work).await;
    let body = body.unwrap_or_else(|_| Err(Failure::new(class::TIMEOUT, "no whole answer in time")));
    Received { head, body, phases }
}

/// The whole body of an answer.
///
/// # Errors
/// When it breaks off, or is over `len_max` bytes.
pub async fn body(response: Response<hyper::body::Incoming>, len_max: usize) -> Result<Vec<u8>, Failure> {
    let mut incoming = response.into_body();
    let mut body = Vec::new();
    while let Some(frame) = incoming.frame().await {
        let frame = frame.map_err(|e| broken(&e))?;
        if let Some(part) = frame.data_ref() {
            if body.len() + part.len() > len_max {
                return Err(Failure::new(class::TOO_LARGE, format!("the body is over {len_max} bytes")));
            }
            body.extend_from_slice(part);
        }
    }
    Ok(body)
}

/// Why a connection failed that had been open.
pub fn broken(error: &hyper::Error) -> Failure {
    if error.is_parse() {
        Failure::new(class::UNEXPECTED, format!("the answer is no HTTP that can be read: {error}"))
    } else {
        Failure::new(class::RESET, format!("the connection broke: {error}"))
    }
}
