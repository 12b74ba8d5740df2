//! From an origin to an open stream, phase by phase, so that each failure has its own class.
//!
//! The name is resolved once; every address is checked before any is dialled, and the checked address
//! is the one that is dialled. There are no connections to reuse: each look is a fresh one.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bellwether_protocol::sample::class;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;

use super::allow::Allow;
use super::exchange::{Failure, Phases};
use super::target::Origin;

/// Most addresses of one name that are tried, one after the other.
const ADDRESSES_MAX: usize = 8;

/// Opens connections, within the limits of this agent's own configuration.
pub struct Dialer {
    allow: Option<Allow>,
    tls: TlsConnector,
}

/// An open connection, with or without TLS.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Dialer {
    /// A dialer for targets that `allow` lists.
    pub fn new(allow: Allow, tls: Arc<ClientConfig>) -> Self {
        Self { allow: Some(allow), tls: tls.into() }
    }

    /// A dialer for the one target that is the agent's own, and in no plan.
    pub fn unguarded(tls: Arc<ClientConfig>) -> Self {
        Self { allow: None, tls: tls.into() }
    }

    /// Refuses an origin that this dialer may not reach.
    pub fn check(&self, origin: &Origin) -> Result<(), String> {
        self.allow.as_ref().map_or(Ok(()), |allow| allow.check(origin))
    }

    /// Resolves, connects and, where asked, secures; notes how long each took that ended.
    pub async fn dial(
        &self,
        origin: &Origin,
        deadline: Instant,
        phases: &mut Phases,
    ) -> Result<Box<dyn Stream>, Failure> {
        let begin = Instant::now();
        let addresses = self.resolve(origin, deadline).await?;
        phases.resolve = Some(begin.elapsed());
        let begin = Instant::now();
        let tcp = connect(&addresses, deadline).await?;
        phases.connect = Some(begin.elapsed());
        if !origin.is_tls {
            return Ok(Box::new(tcp));
        }
        let begin = Instant::now();
        let stream = self.secure(origin, tcp, deadline).await?;
        phases.tls = Some(begin.elapsed());
        Ok(stream)
    }

    async fn resolve(&self, origin: &Origin, deadline: Instant) -> Result<Vec<SocketAddr>, Failure> {
        let failed = |why: String| Failure::new(class::RESOLVE, format!("`{}` was not resolved: {why}", origin.host));
        let found: Vec<SocketAddr> = match timeout_at(deadline, lookup_host((origin.host.as_str(), origin.port))).await
        {
            Ok(Ok(found)) => found.collect(),
            Ok(Err(error)) => return Err(failed(error.to_string())),
            Err(_) => return Err(failed("no answer in time".to_owned())),
        };
        for (allow, address) in self.allow.iter().flat_map(|allow| found.iter().map(move |address| (allow, address))) {
            allow.check_resolved(origin, address.ip()).map_err(failed)?;
        }
        if found.is_empty() { Err(failed("no address".to_owned())) } else { Ok(found) }
    }

    async fn secure(&self, origin: &Origin, tcp: TcpStream, deadline: Instant) -> Result<Box<dyn Stream>, Failure> {
        let failed = |why: String| Failure::new(class::TLS, format!("no TLS session: {why}"));
        let name = ServerName::try_from(origin.host.clone()).map_err(|error| failed(error.to_string()))?;
        match timeout_at(deadline, self.tls.connect(name, tcp)).await {
            Ok(Ok(stream)) => Ok(Box::new(stream)),
            Ok(Err(error)) => Err(failed(error.to_string())),
            Err(_) => Err(failed("not in time".to_owned())),
        }
    }
}

/// Tries address after address, each for its share of the time, so that a dead one cannot use it all.
async fn connect(addresses: &[SocketAddr], deadline: Instant) -> Result<TcpStream, Failure> {
    let tried = addresses.len().min(ADDRESSES_MAX);
    let mut failure = Failure::new(class::CONNECT, "no connection: no address");
    for (place, address) in addresses.iter().take(tried).enumerate() {
        let left = deadline.saturating_duration_since(Instant::now());
        let share: Duration = left / u32::try_from(tried - place).unwrap_or(1);
        let why = match timeout_at(Instant::now() + share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                // One small request on a fresh connection: waiting to fill a packet only adds delay.
                // A socket that refuses the option still works.
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "not in time".to_owned(),
        };
        failure = Failure::new(class::CONNECT, format!("no connection to {address}: {why}"));
    }
    Err(failure)
}
