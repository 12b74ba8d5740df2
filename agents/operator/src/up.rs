//! `bellwether up`: a mesh on this machine. A local `nats-server`, one coordinator, and the agents
//! that were named, each as a child process. For one machine; anything larger has its own init.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use bellwether_bus::child::Output;
use bellwether_bus::server::{self, Link, LocalServer, ServerOptions};
use bellwether_protocol::id::{IdError, Role};
use tokio::sync::mpsc;

use crate::children::Children;
use crate::error::{VerbError, exit};

/// Run a mesh on this machine: a local NATS server, a coordinator and agents
#[derive(Debug, clap::Args)]
pub struct UpArgs {
    /// Where everything is kept
    #[arg(long, default_value = "./bellwether-data")]
    dir: PathBuf,
    /// An agent and its file, such as `probe:probe.yaml`; give it once for each
    #[arg(long = "agent", value_name = "ROLE:FILE")]
    agents: Vec<AgentFile>,
    /// Port of the NATS server, on loopback
    #[arg(long, default_value_t = 4222)]
    port: u16,
    /// The nats-server to run; default: the one on PATH or in the cache
    #[arg(long, value_name = "PATH")]
    nats_server: Option<PathBuf>,
}

/// A role and the file that configures it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AgentFile {
    role: Role,
    file: PathBuf,
}

impl FromStr for AgentFile {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let (role, file) = text.split_once(':').unwrap_or((text, ""));
        let role: Role = role.parse()?;
        if role == Role::Coordinator || file.is_empty() {
            let expected = "write ROLE:FILE with alert, flag, probe or rollback";
            return Err(IdError { kind: "agent", text: text.chars().take(80).collect(), expected });
        }
        Ok(Self { role, file: file.into() })
    }
}

/// Lines of children that wait to be printed.
const LINES_MAX: usize = 64;

/// Runs until told to stop; then stops everything it started.
///
/// # Errors
/// When the server or a child cannot be started at all. One that dies later is started again.
pub(crate) async fn up(args: &UpArgs, prefix: &str) -> Result<u8, VerbError> {
    let binary = server::find(args.nats_server.as_deref())?;
    let server = start_server(binary, args.dir.join("nats"), args.port).await?;
    println!("nats         {}   (loopback, without credentials: names are claims)", server.url());
    let mut children = Children::new()?;
    let outcome = start(args, prefix, &server, &mut children).await;
    let (tell, mut lines) = mpsc::channel(LINES_MAX);
    let watch = children.supervise(tell);
    if outcome.is_ok() {
        println!("Ctrl-C stops all of it. next: bellwether agents list --nats {}", server.url());
        loop {
            tokio::select! {
                () = bellwether_runtime::shutdown() => break,
                () = server.supervise() => break,
                Some(line) = lines.recv() => eprintln!("{line}"),
            }
        }
    }
    watch.stop().await;
    stop_server(server).await;
    outcome.map(|()| exit::DONE)
}

async fn start(args: &UpArgs, prefix: &str, server: &LocalServer, children: &mut Children) -> Result<(), VerbError> {
    let dir = args.dir.join("coordinator").display().to_string();
    let coordinator = ["coordinator", "--nats", server.url(), "--prefix", prefix, "--dir", &dir];
    children.start("coordinator", coordinator, Output::Inherit).await?;
    println!("coordinator  {dir}");
    for AgentFile { role, file } in &args.agents {
        let path = file.display().to_string();
        children.start(&format!("{role} {path}"), ["agent", role.as_str(), "--config", &path], Output::Inherit).await?;
        println!("{role:12} {path}");
    }
    Ok(())
}

pub(crate) async fn start_server(binary: PathBuf, dir: PathBuf, port: u16) -> Result<LocalServer, VerbError> {
    make_dir(&dir)?;
    let shim = std::env::current_exe().map_err(VerbError::System)?;
    let options = ServerOptions { binary, shim, dir, port, link: Link::Alone };
    let started = tokio::task::spawn_blocking(move || LocalServer::start(&options)).await;
    Ok(started.map_err(|error| VerbError::System(std::io::Error::other(error)))??)
}

pub(crate) async fn stop_server(server: LocalServer) {
    // It is stopped by being dropped as well; this waits for it.
    let _ = tokio::task::spawn_blocking(move || server.stop()).await;
}

pub(crate) fn make_dir(dir: &Path) -> Result<(), VerbError> {
    std::fs::create_dir_all(dir).map_err(|source| VerbError::File { doing: "make", path: dir.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agents_are_named_by_role_and_file() {
        let read = |text: &str| text.parse::<AgentFile>();
        assert_eq!(read("probe:a/b.yaml").unwrap(), AgentFile { role: Role::Probe, file: "a/b.yaml".into() });
        for wrong in ["probe", "probe:", "coordinator:a.yaml", "load:a.yaml", ""] {
            assert!(read(wrong).is_err(), "`{wrong}` was accepted");
        }
    }
}
