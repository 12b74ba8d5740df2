//! One connection that is kept for the next request. It is driven by whoever asks, not by a task of its own.

use std::pin::Pin;

use bellwether_protocol::sample::class;
use bellwether_runtime::web::{Dialer, Failure, HEAD_LEN_MAX, Origin, Phases, Stream, body, broken};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::TokioIo;
use tokio::time::Instant;

/// A place for one connection; empty until the first request.
#[derive(Default)]
pub(crate) struct Connection(Option<Open>);

type Driver = http1::Connection<TokioIo<Box<dyn Stream>>, Full<Bytes>>;

struct Open {
    sender: http1::SendRequest<Full<Bytes>>,
    driver: Pin<Box<Driver>>,
}

/// As much of an answer as came: status and headers, and the whole body, or why it is not there.
pub(crate) type Received = (Option<(u16, HeaderMap)>, Result<Vec<u8>, Failure>);

/// Longest body that is looked at, in bytes.
const BODY_LEN_MAX: usize = 1024 * 1024;

impl Connection {
    /// Asks once, on a connection that is opened where there is none. Whoever gives up waiting must
    /// [drop](Self::drop_unless_well) what is here. With `keeps`, the body is handed over, else only read.
    pub(crate) async fn ask(
        &mut self,
        dialer: &Dialer,
        origin: &Origin,
        request: Request<Full<Bytes>>,
        deadline: Instant,
        keeps: bool,
    ) -> Received {
        let mut head = None;
        let mut again = Some(request);
        loop {
            let is_fresh = self.0.is_none();
            let Some(request) = again.take() else {
                return (head, Err(Failure::new(class::RESET, "the connection broke twice")));
            };
            let open = match self.0.take() {
                Some(open) => open,
                None => match Open::dial(dialer, origin, deadline).await {
                    Ok(open) => open,
                    Err(failure) => return (head, Err(failure)),
                },
            };
            let Open { sender, driver } = self.0.insert(open);
            let (done, is_over) = {
                let talk = async {
                    // It may still have to notice that the last answer is over, or that the other side is gone.
                    if let Err(error) = sender.ready().await {
                        return Err((broken(&error), Some(request)));
                    }
                    let response = match sender.try_send_request(request).await {
                        Ok(response) => response,
                        Err(mut error) => return Err((broken(error.error()), error.take_message())),
                    };
                    head = Some((response.status().as_u16(), response.headers().clone()));
                    let read = if keeps { body(response, BODY_LEN_MAX).await } else { drained(response).await };
                    read.map_err(|failure| (failure, None))
                };
                tokio::pin!(talk);
                tokio::select! {
                    biased;
                    done = &mut talk => (done, false),
                    _ = driver => (talk.await, true),
                }
            };
            if is_over || done.is_err() {
                self.0 = None;
            }
            match done {
                Ok(body) => return (head, Ok(body)),
                // It was closed while nobody used it, and the request never left.
                Err((_, Some(request))) if !is_fresh => again = Some(request),
                Err((failure, _)) => return (head, Err(failure)),
            }
        }
    }

    /// Forgets a connection on which an answer may still be on its way.
    pub(crate) fn drop_unless_well(&mut self, done: &Result<(), Failure>) {
        if done.as_ref().is_err_and(|failure| failure.class == class::TIMEOUT) {
            self.0 = None;
        }
    }

    /// Returns when the other side has closed it; never, while there is none.
    pub(crate) async fn closed(&mut self) {
        match &mut self.0 {
            Some(open) => {
                let _ = (&mut open.driver).await;
                self.0 = None;
            }
            None => std::future::pending().await,
        }
    }
}

impl Open {
    async fn dial(dialer: &Dialer, origin: &Origin, deadline: Instant) -> Result<Self, Failure> {
        let stream = dialer.dial(origin, deadline, &mut Phases::default()).await?;
        let mut builder = http1::Builder::new();
        builder.max_buf_size(HEAD_LEN_MAX).max_header_size(HEAD_LEN_MAX);
        let (sender, driver) = builder.handshake(TokioIo::new(stream)).await.map_err(|error| broken(&error))?;
        Ok(Self { sender, driver: Box::pin(driver) })
    }
}

async fn drained(response: Response<Incoming>) -> Result<Vec<u8>, Failure> {
    let mut incoming = response.into_body();
    while let Some(frame) = incoming.frame().await {
        frame.map_err(|error| broken(&error))?;
    }
    Ok(Vec::new())
}
