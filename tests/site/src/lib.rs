//! The sample site: several environments in one process, each with a stable release and one
//! beside it, a traffic weight between them, and faults on demand.
//!
//! It stands for somebody else's platform, so it knows nothing of Bellwether: it speaks HTTP, and
//! `site-lever` is its command-line tool. It writes one file, the addresses it listens on.
//!
//! | module | what |
//! |---|---|
//! | `front` | what users see |
//! | `admin` | the platform's side: levers, faults, scripted refusals |
//! | [`world`] | the state behind both, without I/O or clock |
//! | [`fault`] | what goes wrong with a release |
//! | [`flags`] | how a flag is read, over OFREP |
//! | [`lever`] | the platform's command-line tool |

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use bellwether_protocol::id::Release;
use bellwether_protocol::time::Span;
use clap::Args;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::fault::Fault;
use crate::flags::{FlagReader, FlagSource};
use crate::front::Front;
use crate::world::World;

pub mod fault;
pub mod flags;
pub mod lever;
pub mod world;

mod admin;
mod client;
mod front;

/// The whole state, shared by every listener.
pub(crate) type Shared = Arc<Mutex<World>>;

/// How the site is started.
#[derive(Debug, Clone, Args)]
pub struct SiteArgs {
    /// Where to listen; a port other than 0 goes to the first environment, the next ones follow, the platform side last
    #[arg(long, default_value = "127.0.0.1:0")]
    pub listen: SocketAddr,
    /// An environment; give it once for each
    #[arg(long = "env", value_name = "NAME", required = true)]
    pub envs: Vec<String>,
    /// The release that runs everywhere at the start
    #[arg(long, default_value = "v41")]
    pub stable: Release,
    /// File to write the addresses to, as JSON
    #[arg(long, value_name = "FILE")]
    pub ports_file: Option<PathBuf>,
    /// Where an environment reads its flags: `east=http://127.0.0.1:8016` or `east=file:PATH` with the address in it
    #[arg(long, value_name = "ENV=SOURCE", value_parser = flag_source)]
    pub flags: Vec<(String, FlagSource)>,
    /// A fault from the start, such as `release=v43,env=west,errors=5%`
    #[arg(long = "fault", value_name = "FAULT")]
    pub faults: Vec<Fault>,
    /// How long a lever takes to move after the platform said yes
    #[arg(long, default_value = "300ms")]
    pub lag: Span,
}

fn flag_source(text: &str) -> Result<(String, FlagSource), String> {
    let (env, source) = text.split_once('=').ok_or("write ENV=URL or ENV=file:PATH")?;
    let source = source.parse().map_err(|e: std::convert::Infallible| e.to_string())?;
    Ok((env.to_owned(), source))
}

/// Where a running site listens. This is what the ports file holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    /// The platform's side.
    pub admin: String,
    /// Each environment.
    pub environments: BTreeMap<String, String>,
}

/// Why the site did not start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum SiteError {
    /// A port is taken, or not ours to use.
    #[error("could not listen on {0}")]
    Listen(SocketAddr, #[source] io::Error),
    /// The addresses could not be written.
    #[error("could not write {}", .0.display())]
    PortsFile(PathBuf, #[source] io::Error),
    /// A listener broke.
    #[error("the site stopped serving")]
    Serve(#[source] io::Error),
    /// More faults at the start than it can hold.
    #[error("too many faults")]
    TooManyFaults,
}

/// A running site. It stops when this is dropped.
#[derive(Debug)]
pub struct Site {
    addresses: Addresses,
    listeners: JoinSet<io::Result<()>>,
}

impl Site {
    /// Binds every listener, writes the ports file and begins to serve.
    ///
    /// # Errors
    /// When an address cannot be bound or the ports file cannot be written.
    pub async fn start(args: &SiteArgs) -> Result<Self, SiteError> {
        let mut world = World::new(&args.envs, &args.stable, args.lag.to_std());
        if !args.faults.iter().all(|fault| world.set_fault(fault.clone())) {
            return Err(SiteError::TooManyFaults);
        }
        let world: Shared = Arc::new(Mutex::new(world));
        let sources: BTreeMap<String, FlagSource> = args.flags.iter().cloned().collect();
        let mut listeners = JoinSet::new();
        let mut environments = BTreeMap::new();
        let mut address = args.listen;
        for env in &args.envs {
            let flags = FlagReader::new(sources.get(env).cloned());
            let routes = front::routes(Front { env: env.clone(), world: Arc::clone(&world), flags });
            environments.insert(env.clone(), listen(&mut listeners, &mut address, routes).await?);
        }
        let admin = listen(&mut listeners, &mut address, admin::routes(world)).await?;
        let addresses = Addresses { admin, environments };
        if let Some(path) = &args.ports_file {
            write(path, &addresses).map_err(|e| SiteError::PortsFile(path.clone(), e))?;
        }
        Ok(Self { addresses, listeners })
    }

    /// Where it listens.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    async fn broken(mut self) -> SiteError {
        let first = self.listeners.join_next().await;
        let ended = || io::Error::other("a listener ended");
        SiteError::Serve(match first {
            Some(Ok(Err(e))) => e,
            Some(Err(e)) => io::Error::other(e),
            Some(Ok(Ok(()))) | None => ended(),
        })
    }
}

/// The site, and its platform's tool.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum SiteVerb {
    /// The site
    #[command(hide = true)]
    Site(SiteArgs),
    /// The tool
    #[command(hide = true)]
    SiteLever(lever::LeverArgs),
}

/// Serves until something breaks or the process is stopped, or asks the platform once.
///
/// # Errors
/// When the site cannot start, or a listener breaks.
pub async fn run(verb: &SiteVerb) -> Result<ExitCode, SiteError> {
    match verb {
        SiteVerb::Site(args) => Err(Site::start(args).await?.broken().await),
        SiteVerb::SiteLever(args) => Ok(lever::lever(args).await),
    }
}

async fn listen(
    listeners: &mut JoinSet<io::Result<()>>,
    address: &mut SocketAddr,
    routes: Router,
) -> Result<String, SiteError> {
    let listener = TcpListener::bind(*address).await.map_err(|e| SiteError::Listen(*address, e))?;
    let bound = listener.local_addr().map_err(|e| SiteError::Listen(*address, e))?;
    if address.port() != 0 {
        address.set_port(address.port().wrapping_add(1));
    }
    listeners.spawn(async move { axum::serve(listener, routes).await });
    Ok(format!("http://{bound}"))
}

// Whoever waits for the file must never read half of it, so it appears by renaming.
fn write(path: &Path, addresses: &Addresses) -> io::Result<()> {
    let text = serde_json::to_vec_pretty(addresses)?;
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    std::fs::write(&beside, text)?;
    std::fs::rename(&beside, path)
}

pub(crate) fn lock(world: &Shared) -> MutexGuard<'_, World> {
    // A panic elsewhere leaves counters that are at most one off; the site goes on.
    world.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
