//! `bellwether up`: a mesh on this machine. A local `nats-server`, one coordinator, and the agents
//! that were named, each as a child process. For one machine; anything larger has its own init.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use bellwether_bus::child::Output;
use bellwether_bus::server::{self, HUB_DOMAIN, Link, LocalServer, ServerOptions};
use bellwether_protocol::id::{IdError, Region, Role};
use tokio::sync::mpsc;

use crate::children::Children;
use crate::error::{VerbError, exit};

/// Run a mesh on this machine: a local NATS server, a coordinator and agents
#[derive(Debug, clap::Args)]
pub struct UpArgs {
    /// A folder, such as `init` writes: each ROLE.yaml and ROLE-….yaml in it is an agent
    folder: Option<PathBuf>,
    /// Where everything is kept
    #[arg(long, default_value = "./bellwether-data")]
    dir: PathBuf,
    /// An agent and its file, such as `probe:probe.yaml`; give it once for each
    #[arg(long = "agent", value_name = "ROLE:FILE")]
    agents: Vec<AgentFile>,
    /// Port of the NATS server, on loopback
    #[arg(long, default_value_t = 4222)]
    port: u16,
    /// Port of its monitoring, on loopback; probes of this machine take it for their control target
    #[arg(long, default_value_t = 8222, value_name = "PORT")]
    monitor: u16,
    /// Be the hub: take the leaves of regions on this port of loopback
    #[arg(long, value_name = "PORT", conflicts_with = "leaf")]
    leaves: Option<u16>,
    /// Be a region's leaf, without a coordinator, such as `sjc=nats-leaf://127.0.0.1:7422`
    #[arg(long, value_name = "REGION=HUB")]
    leaf: Option<Leaf>,
    /// The nats-server to run; default: the one on PATH or in the cache
    #[arg(long, value_name = "PATH")]
    nats_server: Option<PathBuf>,
}

/// A region, and where its hub takes leaves.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Leaf {
    region: Region,
    hub: String,
}

impl FromStr for Leaf {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let (region, hub) = text.split_once('=').unwrap_or((text, ""));
        if !hub.contains("://") {
            let expected = "write REGION=nats-leaf://HOST:PORT";
            return Err(IdError { kind: "leaf", text: text.chars().take(80).collect(), expected });
        }
        Ok(Self { region: region.parse()?, hub: hub.to_owned() })
    }
}

impl UpArgs {
    fn link(&self) -> Link {
        match (&self.leaf, self.leaves) {
            (Some(Leaf { region, hub }), _) => Link::Leaf { region: region.clone(), hub: hub.clone() },
            (None, Some(port)) => Link::Hub { port },
            (None, None) => Link::Alone,
        }
    }

    /// How verbs name the domain of a hub; nothing without one.
    fn domain(&self) -> Option<String> {
        (self.link() != Link::Alone).then(|| format!("--nats-domain={HUB_DOMAIN}"))
    }
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
            let expected = "write ROLE:FILE with alert, flag, load, metric, probe, rollback or trigger";
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
    let agents = args.agents.iter().cloned().chain(in_folder(args.folder.as_deref())?).collect::<Vec<_>>();
    let binary = server::find(args.nats_server.as_deref())?;
    let server = start_server(binary, args.dir.join("nats"), args.port, monitor(args.monitor), args.link()).await?;
    println!("nats         {}   (loopback, without credentials: names are claims)", server.url());
    match args.link() {
        Link::Alone => {}
        Link::Hub { port } => println!("hub          nats-leaf://127.0.0.1:{port}   takes the leaves of regions"),
        Link::Leaf { region, hub } => {
            println!("leaf         of {region}, to {hub}; its agents' files need `nats.domain: {HUB_DOMAIN}`");
        }
    }
    let mut children = Children::new()?.quiet();
    let outcome = start(args, &agents, prefix, &server, &mut children).await;
    let (tell, mut lines) = mpsc::channel(LINES_MAX);
    let watch = children.supervise(tell);
    if outcome.is_ok() {
        println!("alerts and warnings follow; with BELLWETHER_LOG=info decisions too. Ctrl-C stops all of it");
        let domain = args.domain().map(|domain| format!(" {domain}")).unwrap_or_default();
        println!("next: bellwether agents list --nats {}{domain}", server.url());
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

/// The monitoring port, when it is free: the mesh works without it.
fn monitor(port: u16) -> Option<u16> {
    let is_free = std::net::TcpListener::bind(("127.0.0.1", port)).is_ok();
    if !is_free {
        eprintln!("port {port} is in use, so NATS is not monitored; --monitor names another one");
    }
    is_free.then_some(port)
}

/// Files of a folder that `init` may have written, at most.
const FILES_MAX: usize = 256;

/// The agents whose files are in a folder, in the order of their names.
fn in_folder(folder: Option<&Path>) -> Result<Vec<AgentFile>, VerbError> {
    let Some(folder) = folder else { return Ok(Vec::new()) };
    let wrong = |source| VerbError::File { doing: "read", path: folder.to_owned(), source };
    let mut agents: Vec<AgentFile> = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(wrong)?.take(FILES_MAX) {
        let file = entry.map_err(wrong)?.path();
        let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let stem = name.strip_suffix(".yaml").unwrap_or_default();
        let role: Option<Role> = stem.split('-').next().and_then(|role| role.parse().ok());
        agents.extend(role.filter(|role| *role != Role::Coordinator).map(|role| AgentFile { role, file }));
    }
    agents.sort_by(|a, b| a.file.cmp(&b.file));
    if agents.is_empty() {
        let why = format!(
            "{} holds no probe.yaml, alert-east.yaml or the like; `bellwether init` writes some",
            folder.display()
        );
        return Err(VerbError::Setup(why));
    }
    Ok(agents)
}

async fn start(
    args: &UpArgs,
    agents: &[AgentFile],
    prefix: &str,
    server: &LocalServer,
    children: &mut Children,
) -> Result<(), VerbError> {
    let dir = args.dir.join("coordinator").display().to_string();
    let coordinator = ["coordinator", "--nats", server.url(), "--prefix", prefix, "--dir", &dir].map(str::to_owned);
    if args.leaf.is_none() {
        children.start("coordinator", coordinator.into_iter().chain(args.domain()), Output::Inherit).await?;
        println!("coordinator  {dir}{}", children.listens());
    }
    for AgentFile { role, file } in agents {
        let path = file.display().to_string();
        children.start(&format!("{role} {path}"), ["agent", role.as_str(), "--config", &path], Output::Inherit).await?;
        println!("{role:12} {path}{}", children.listens());
        if let Some(url) = bellwether_runtime::read_text(file).ok().and_then(|text| elsewhere(&text, server.url())) {
            eprintln!(
                "{path}: `agent.nats.url` is {url}, so this agent is not seen at {}: change it, or --port",
                server.url()
            );
        }
    }
    Ok(())
}

/// Where an agent's file looks for NATS, when that is another port than that of `here`.
fn elsewhere(text: &str, here: &str) -> Option<String> {
    let file: serde_json::Value = bellwether_runtime::parse_config("", text).ok()?;
    let url = file.pointer("/agent/nats/url")?.as_str()?;
    let port = |url: &str| url.rsplit(':').next().and_then(|port| port.trim_end_matches('/').parse::<u16>().ok());
    (port(url)? != port(here)?).then(|| url.to_owned())
}

pub(crate) async fn start_server(
    binary: PathBuf,
    dir: PathBuf,
    port: u16,
    monitor: Option<u16>,
    link: Link,
) -> Result<LocalServer, VerbError> {
    make_dir(&dir)?;
    let shim = std::env::current_exe().map_err(VerbError::System)?;
    let options = ServerOptions { binary, shim, dir, port, monitor, link };
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
    fn a_folder_names_its_agents_by_their_files() {
        let dir = tempfile::tempdir().unwrap();
        assert!(in_folder(Some(dir.path())).is_err());
        for name in
            ["probe-west.yaml", "alert.yaml", "plan.yaml", "ci.yaml", "lever.sh", "coordinator.yaml", "probe.txt"]
        {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        let found: Vec<_> = in_folder(Some(dir.path())).unwrap().into_iter().map(|agent| agent.role).collect();
        assert_eq!(found, [Role::Alert, Role::Probe]);
        assert!(in_folder(None).unwrap().is_empty());
    }

    #[test]
    fn an_agent_of_another_server_is_told_of() {
        let told = |url: &str| elsewhere(&format!("agent: {{ nats: {{ url: {url:?} }} }}"), "nats://127.0.0.1:4300");
        assert_eq!(told("nats://127.0.0.1:4222"), Some("nats://127.0.0.1:4222".to_owned()));
        assert_eq!((told("nats://localhost:4300/"), told("nats://hub")), (None, None));
        assert_eq!(elsewhere("agent: {}", "nats://127.0.0.1:4300"), None);
    }

    #[test]
    fn a_leaf_is_a_region_and_its_hub() {
        let read = |text: &str| text.parse::<Leaf>();
        let hub = "nats-leaf://hub:7422";
        assert_eq!(read(&format!("sjc={hub}")).unwrap(), Leaf { region: "sjc".parse().unwrap(), hub: hub.into() });
        for wrong in ["sjc", "sjc=hub", "=nats-leaf://hub", hub, "a.b=nats-leaf://hub"] {
            assert!(read(wrong).is_err(), "`{wrong}` was accepted");
        }
    }

    #[test]
    fn agents_are_named_by_role_and_file() {
        let read = |text: &str| text.parse::<AgentFile>();
        assert_eq!(read("probe:a/b.yaml").unwrap(), AgentFile { role: Role::Probe, file: "a/b.yaml".into() });
        for wrong in ["probe", "probe:", "coordinator:a.yaml", "dashboard:a.yaml", ""] {
            assert!(read(wrong).is_err(), "`{wrong}` was accepted");
        }
    }
}
