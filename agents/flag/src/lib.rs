//! The flag agent: flips flags as levers, and serves them to its region over OFREP.
//!
//! It never judges and never decides what a flag should be. The endpoint answers before NATS is
//! reached and after it is lost, from the last snapshot on disk.
//!
//! | module | what |
//! |---|---|
//! | [`store`] | the built-in flag store, as a driver |
//! | [`snapshot`] | what is served now, and what is kept on disk |
//! | [`evaluate`] | what a flag's value means for one user |
//! | [`rule`] | targeting by attributes |
//! | [`ofrep`] | the endpoint |

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bellwether_bus::{Bus, ConnectError, Kv};
use bellwether_protocol::id::{AgentId, LeverName, Role, Service};
use bellwether_protocol::subject::Bucket;
use bellwether_runtime::{AgentConfig, ConfigError, Lever, LeverError, Runtime, SecretError, SecretRef, StartError};
use serde::Deserialize;
use tokio::net::TcpListener;

use crate::evaluate::Flag;
use crate::ofrep::Endpoint;
use crate::snapshot::{Served, Snapshot};
use crate::store::{Endpoints, Store};

pub mod evaluate;
mod fraction;
pub mod ofrep;
pub mod rule;
pub mod snapshot;
pub mod store;

/// How long to wait before NATS is dialled again at the start, or asked again.
const RETRY_EVERY: Duration = Duration::from_secs(2);

/// The file of one flag agent.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    agent: AgentConfig,
    flag: FlagConfig,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FlagConfig {
    service: Service,
    listen: SocketAddr,
    /// Where the bound address is written, for a port that the system chose.
    address_file: Option<PathBuf>,
    /// What clients must send.
    auth: Option<SecretRef>,
    /// Endpoints without which a flag is never applied.
    #[serde(default)]
    endpoints: Vec<AgentId>,
    flags: Vec<Flag>,
}

/// Why a flag agent did not start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum FlagAgentError {
    /// Its file cannot be read.
    #[error("could not read the configuration")]
    Config(#[from] ConfigError),
    /// Two flags with one name.
    #[error("flag `{0}` is configured twice")]
    Duplicate(LeverName),
    /// Its levers cannot be acted on.
    #[error("could not hold the levers")]
    Lever(#[from] LeverError),
    /// Its port is taken, or a file cannot be written.
    #[error("could not serve flags on {0}")]
    Listen(SocketAddr, #[source] io::Error),
    /// No flag at all.
    #[error("`flag.flags` is empty, so there would be nothing to serve")]
    NoFlag,
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
    let flags = flags(&config.flags)?;
    let auth = config.auth.as_ref().map(SecretRef::resolve).transpose()?;
    let served = Served::default();
    let kept = agent.state_dir.join(format!("flags-{}.json", config.service));
    if let Some(snapshot) = Snapshot::load(&kept) {
        served.replace(snapshot);
    }
    let link: Arc<OnceLock<Bus>> = Arc::default();
    let watched = Arc::clone(&link);
    let is_stale = Box::new(move || !watched.get().is_some_and(Bus::is_connected));
    let endpoint = Endpoint { flags: flags.clone(), served: served.clone(), is_stale, auth };
    let listening = listen(&config, endpoint).await.map_err(|e| FlagAgentError::Listen(config.listen, e))?;
    let joined = async {
        let runtime = join(&agent).await?;
        let _ = link.set(runtime.bus.clone());
        Ok(serve(&runtime, &config, flags, &served, &kept).await?)
    };
    tokio::select! {
        ended = joined => ended,
        broken = listening => Err(FlagAgentError::Listen(config.listen, broken)),
        () = bellwether_runtime::shutdown() => Ok(()),
    }
}

fn flags(configured: &[Flag]) -> Result<BTreeMap<LeverName, Flag>, FlagAgentError> {
    let mut flags = BTreeMap::new();
    for flag in configured {
        if flags.insert(flag.name.clone(), flag.clone()).is_some() {
            return Err(FlagAgentError::Duplicate(flag.name.clone()));
        }
    }
    if flags.is_empty() { Err(FlagAgentError::NoFlag) } else { Ok(flags) }
}

/// Binds the endpoint and answers with the future that serves it.
async fn listen(config: &FlagConfig, endpoint: Endpoint) -> io::Result<impl Future<Output = io::Error> + use<>> {
    let listener = TcpListener::bind(config.listen).await?;
    let address = listener.local_addr()?;
    if let Some(path) = &config.address_file {
        // Whoever waits for the file must never read half of it.
        let beside = path.with_extension("new");
        std::fs::write(&beside, format!("http://{address}\n"))?;
        std::fs::rename(&beside, path)?;
    }
    tracing::info!(%address, "serving flags");
    let routes = ofrep::routes(endpoint);
    Ok(async move {
        let ended = axum::serve(listener, routes).await;
        ended.err().unwrap_or_else(|| io::Error::other("the listener ended"))
    })
}

async fn join(agent: &AgentConfig) -> Result<Runtime, StartError> {
    let mut told = false;
    loop {
        match Runtime::start(Role::Flag, agent).await {
            Err(StartError::Connect(e @ ConnectError::Unreachable { .. })) => {
                if !told {
                    tracing::warn!(error = %e, "serving the last snapshot, if there is one, until NATS answers");
                    told = true;
                }
                tokio::time::sleep(RETRY_EVERY).await;
            }
            started => return started,
        }
    }
}

async fn serve(
    runtime: &Runtime,
    config: &FlagConfig,
    flags: BTreeMap<LeverName, Flag>,
    served: &Served,
    kept: &Path,
) -> Result<(), LeverError> {
    let bucket = runtime.bus.kv(Bucket::Flags);
    let presence = runtime.bus.kv(Bucket::Presence);
    let expected = config.endpoints.clone();
    let endpoints = Arc::new(Endpoints::new(runtime.agent.clone(), presence, runtime.clock.clone(), expected));
    let lever = |(name, flag): (LeverName, Flag)| {
        let store = Store::new(flag, config.service.clone(), bucket.clone(), served.clone(), Arc::clone(&endpoints));
        Lever { service: config.service.clone(), name, driver: Arc::new(store) }
    };
    let levers: Vec<Lever> = flags.into_iter().map(lever).collect();
    tokio::select! {
        ended = runtime.serve_levers(levers) => ended,
        () = follow(runtime, &bucket, &config.service, served, kept) => Ok(()),
    }
}

/// Serves each revision of the store as it comes, and says so in the presence.
async fn follow(runtime: &Runtime, bucket: &Kv, service: &Service, served: &Served, kept: &Path) {
    let take = |snapshot: Snapshot| {
        let revision = snapshot.revision;
        if let Err(e) = snapshot.keep(kept) {
            // It is still served; only a restart without NATS would miss it.
            tracing::warn!(error = %e, path = %kept.display(), "could not keep the flags on disk");
        }
        served.replace(snapshot);
        runtime.presence(|presence| {
            presence.serving.insert(service.to_string(), revision);
        });
    };
    // A watch says nothing of a key that was never set, so that is asked first.
    loop {
        match bucket.get(service.as_str()).await {
            Ok(Some(_)) => break,
            Ok(None) => {
                take(Snapshot::default());
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
            Ok(snapshot) => take(snapshot),
            Err(e) => {
                tracing::error!(error = %e, entry.revision, "flags cannot be read; still serving the ones before")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_names_its_flaw() {
        let text = "
agent: { region: east, name: flag-1, nats: { url: 'nats://127.0.0.1:4222' }, state_dir: ./state }
flag:
  service: shop
  listen: 127.0.0.1:0
  flags:
    - { name: new_checkout, variants: { on: true, off: false }, default: off }
";
        let check = |text: &str, expected: Option<&str>| {
            let read = bellwether_runtime::parse_config::<Config>("flag.yaml", text).map_err(FlagAgentError::from);
            let said = read.and_then(|config| flags(&config.flag.flags)).err();
            let said = said
                .map(|e| format!("{e}{}", std::error::Error::source(&e).map(|e| format!(": {e}")).unwrap_or_default()));
            match (&said, expected) {
                (None, None) => {}
                (Some(said), Some(expected)) if said.contains(expected) => {}
                (said, expected) => panic!("{said:?} instead of {expected:?}"),
            }
        };
        check(text, None);
        check(&text.replace("default: off", "default: no"), Some("the default `no` is not one of its variants"));
        check(&text.replace("service: shop", "service: a shop"), Some("flag.yaml:4:"));
        let twice = format!("{text}    - {{ name: new_checkout, variants: {{ a: 1 }}, default: a }}\n");
        check(&twice, Some("flag `new_checkout` is configured twice"));
        let none = text.split("    - {").next().unwrap_or_default().replace("flags:", "flags: []");
        check(&none, Some("nothing to serve"));
    }
}
