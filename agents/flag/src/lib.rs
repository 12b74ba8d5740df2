//! The flag agent: flips flags as levers, and serves them to its region over OFREP.
//!
//! It never judges and never decides what a flag should be. The endpoint answers before NATS is
//! reached and after it is lost, from the last snapshot on disk.
//!
//! | module | what |
//! |---|---|
//! | [`store`] | the built-in flag store, as a driver |
//! | [`snapshot`] | what is served now, and what is kept on disk |
//! | [`evaluate`], [`rule`] | what a flag's value means for one user |
//! | [`ofrep`] | the endpoint |
//! | [`flagd`], `launchdarkly`, `render`, `unleash` | drivers for flags that are kept elsewhere |

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bellwether_bus::Bus;
use bellwether_protocol::id::{LeverName, Role, Service};
use bellwether_protocol::subject::Bucket;
use bellwether_runtime::{AgentConfig, ConfigError, Lever, LeverError, Runtime, SecretError, SecretRef, StartError};
use futures_util::future::{BoxFuture, OptionFuture};
use tokio::net::TcpListener;

use crate::config::{Config, FlagConfig};
use crate::evaluate::Flag;
use crate::ofrep::Endpoint;
use crate::snapshot::{Served, Snapshot};
use crate::store::{Endpoints, Store};

mod account;
mod config;
#[cfg(test)]
mod contract;
pub mod evaluate;
mod exposure;
pub mod flagd;
mod fraction;
mod launchdarkly;
pub mod ofrep;
mod render;
pub mod rule;
pub mod snapshot;
pub mod store;
mod unleash;

pub use config::FlagConfigError;

/// How long to wait before NATS is dialled again at the start, or asked again.
const RETRY_EVERY: Duration = Duration::from_secs(2);

/// Why a flag agent did not start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum FlagAgentError {
    /// Its file cannot be read.
    #[error("could not read the configuration")]
    Config(#[from] ConfigError),
    /// Its file says what could never work.
    #[error(transparent)]
    Flags(#[from] FlagConfigError),
    /// Its levers cannot be acted on.
    #[error("could not hold the levers")]
    Lever(#[from] LeverError),
    /// Its port is taken, or a file cannot be written.
    #[error("could not serve flags on {0}")]
    Listen(SocketAddr, #[source] io::Error),
    /// The secret that clients must send is not there.
    #[error("`flag.auth` cannot be used")]
    Secret(#[from] SecretError),
    /// It could not join the mesh.
    #[error("could not start")]
    Start(#[from] StartError),
}

/// Runs the agent that `config` describes until the process is told to stop.
///
/// # Errors
/// When the configuration cannot work, or the mesh refuses the agent. That nobody answers at all is
/// no error: the endpoint serves what it has, and the agent keeps trying.
pub async fn run(config: &Path) -> Result<(), FlagAgentError> {
    let Config { agent, flag: config } = bellwether_runtime::load_config(config)?;
    let (flags, elsewhere) = config.read()?;
    let link: Arc<OnceLock<Bus>> = Arc::default();
    let own = match config.listen.filter(|_| !flags.is_empty()) {
        Some(listen) => Some(Own::open(&agent, &config, listen, flags, Arc::clone(&link)).await?),
        None => None,
    };
    let (own, listening) = own.unzip();
    let joined = async {
        let runtime = tokio::select! {
            started = Runtime::start(Role::Flag, &agent) => started?,
            () = bellwether_runtime::shutdown() => return Ok(()),
        };
        let _ = link.set(runtime.bus.clone());
        let Some(own) = own else { return Ok(runtime.serve_levers(elsewhere).await?) };
        let levers = own.levers(&runtime, &config).chain(elsewhere).collect();
        tokio::select! {
            ended = runtime.serve_levers(levers) => Ok(ended?),
            () = own.follow(&runtime, &config.service) => Ok(()),
        }
    };
    tokio::select! {
        ended = joined => ended,
        Some(broken) = OptionFuture::from(listening) => Err(broken),
    }
}

/// The flags of the built-in store, and what is known of them.
struct Own {
    flags: BTreeMap<LeverName, Flag>,
    served: Served,
    /// Where the last snapshot is kept.
    kept: PathBuf,
}

impl Own {
    /// Opens the endpoint; the future serves it, and ends only with an error.
    async fn open(
        agent: &AgentConfig,
        config: &FlagConfig,
        listen: SocketAddr,
        flags: BTreeMap<LeverName, Flag>,
        link: Arc<OnceLock<Bus>>,
    ) -> Result<(Self, BoxFuture<'static, FlagAgentError>), FlagAgentError> {
        let auth = config.auth.as_ref().map(SecretRef::resolve).transpose()?;
        let (served, kept) = (Served::default(), agent.state_dir.join(format!("flags-{}.json", config.service)));
        match bellwether_runtime::store::load::<Snapshot>(&kept) {
            Ok(Some(snapshot)) => served.replace(snapshot),
            Ok(None) => {}
            Err(e) => tracing::warn!(error = %e, path = %kept.display(), "the last flags on disk cannot be read"),
        }
        let is_stale = Box::new(move || !link.get().is_some_and(Bus::is_answered));
        let endpoint = Endpoint { flags: flags.clone(), served: served.clone(), is_stale, auth };
        let broken = move |e| FlagAgentError::Listen(listen, e);
        let listener = bind(listen, config.address_file.as_deref()).await.map_err(broken)?;
        let listening = async move {
            let ended = axum::serve(listener, ofrep::routes(endpoint)).await;
            broken(ended.err().unwrap_or_else(|| io::Error::other("the listener ended")))
        };
        Ok((Self { flags, served, kept }, Box::pin(listening)))
    }

    fn levers<'a>(&'a self, runtime: &Runtime, config: &'a FlagConfig) -> impl Iterator<Item = Lever> + 'a {
        let (bucket, presence) = (runtime.bus.kv(Bucket::Flags), runtime.bus.kv(Bucket::Presence));
        let expected = config.endpoints.clone();
        let endpoints = Arc::new(Endpoints::new(runtime.agent.clone(), presence, runtime.clock.clone(), expected));
        self.flags.iter().map(move |(name, flag)| {
            let (service, served) = (config.service.clone(), self.served.clone());
            let store = Store::new(flag.clone(), service.clone(), bucket.clone(), served, Arc::clone(&endpoints));
            Lever { service, name: name.clone(), driver: Arc::new(store) }
        })
    }

    /// Serves each revision of the store as it comes, and says so in the presence.
    async fn follow(&self, runtime: &Runtime, service: &Service) {
        let bucket = runtime.bus.kv(Bucket::Flags);
        // A watch says nothing of a key that was never set, so that is asked first.
        loop {
            match bucket.get(service.as_str()).await {
                Ok(Some(_)) => break,
                Ok(None) => {
                    self.take(Snapshot::default(), runtime, service);
                    break;
                }
                Err(e) => tracing::warn!(error = %e, "could not read the flags; trying again"),
            }
            tokio::time::sleep(RETRY_EVERY).await;
        }
        let mut changes = bucket.watch();
        loop {
            let entry = changes.next().await;
            if entry.key != service.as_str() {
                continue;
            }
            match store::decode(&entry) {
                Ok(snapshot) => self.take(snapshot, runtime, service),
                Err(e) => {
                    tracing::error!(error = %e, entry.revision, "flags cannot be read; still serving the ones before")
                }
            }
        }
    }

    fn take(&self, snapshot: Snapshot, runtime: &Runtime, service: &Service) {
        let revision = snapshot.revision;
        if let Err(e) = bellwether_runtime::store::save(&self.kept, &snapshot) {
            // It is still served; only a restart without NATS would miss it.
            tracing::warn!(error = %e, path = %self.kept.display(), "could not keep the flags on disk");
        }
        self.served.replace(snapshot);
        runtime.presence(|presence| {
            presence.serving.insert(service.to_string(), revision);
        });
    }
}

async fn bind(listen: SocketAddr, address_file: Option<&Path>) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(listen).await?;
    let address = listener.local_addr()?;
    if let Some(path) = address_file {
        // Whoever waits for the file must never read half of it.
        let beside = path.with_extension("new");
        std::fs::write(&beside, format!("http://{address}\n"))?;
        std::fs::rename(&beside, path)?;
    }
    tracing::info!(%address, "serving flags");
    Ok(listener)
}
