//! Where the demo is played: the server, the sample site, the coordinator and the agents.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bellwether_bus::Bus;
use bellwether_bus::child::Output;
use bellwether_bus::server::{self, InstallError, Link, LocalServer};
use bellwether_protocol::codec;
use bellwether_protocol::id::Role;
use bellwether_protocol::presence::Presence;
use bellwether_protocol::subject::Bucket;
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::files::{self, Setting};
use super::sink::{Received, Sink};
use super::tail::follow_console;
use crate::children::{Children, Watch};
use crate::error::VerbError;
use crate::up::{make_dir, start_server, stop_server};

/// The fault of the demo: one checkout in twenty of v43 fails, in one region only.
const FAULT: &str = "release=v43,env=west,path=/checkout,errors=5%";
/// How long a process may take to be ready.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// How often to look whether it is.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Last lines of each log that are shown when something went wrong.
const LOG_LINES: usize = 8;

/// Everything that runs.
#[derive(Debug)]
pub(super) struct Place {
    logs: PathBuf,
    server: LocalServer,
    watch: Watch,
    sink: Sink,
    plan: String,
    agents: Vec<String>,
    /// Reads what the console bridge of one region writes.
    console: tokio::task::JoinHandle<()>,
}

/// What the sample site says of itself.
#[derive(Debug, Deserialize)]
struct Addresses {
    admin: String,
    environments: BTreeMap<String, String>,
}

impl Place {
    /// Starts everything; says on `notes` what happens later.
    pub(super) async fn open(
        dir: &Path,
        nats_server: Option<&Path>,
        notes: mpsc::Sender<String>,
    ) -> Result<Self, VerbError> {
        let binary = binary(nats_server.map(Path::to_owned)).await?;
        let server = start_server(binary, dir.join("nats"), 0, None, Link::Alone).await?;
        eprintln!("nats-server  {}", server.url());
        let (sink, secret) = Sink::start(notes.clone()).await?;
        eprintln!("webhooks to  {}", sink.url());
        write(&files::secret_file(dir), &secret)?;
        let logs = dir.join("logs");
        make_dir(&logs)?;
        let mut children = Children::new()?;
        // Supervised from here on, even when something below fails: then the watch is dropped.
        match cast(dir, &logs, &server, sink.url(), &mut children).await {
            Ok((plan, agents)) => {
                let console = tokio::spawn(follow_console(logs.join("east.alert.alert-1.log"), notes.clone()));
                let watch = children.supervise(notes);
                Ok(Self { logs, server, watch, sink, plan, agents, console })
            }
            Err(error) => {
                let (tell, _) = mpsc::channel(1);
                children.supervise(tell).stop().await;
                stop_server(server).await;
                show_logs(&logs);
                Err(error)
            }
        }
    }

    pub(super) fn url(&self) -> &str {
        self.server.url()
    }

    pub(super) fn plan(&self) -> &str {
        &self.plan
    }

    pub(super) fn agents(&self) -> &[String] {
        &self.agents
    }

    pub(super) fn sink(&self) -> &Received {
        self.sink.received()
    }

    /// Waits until every agent is there and has read its levers back, and a coordinator is.
    pub(super) async fn wait_for_agents(&self, bus: &Bus) -> Result<(), VerbError> {
        let until = Instant::now() + READY_WITHIN;
        loop {
            let missing = match self.missing(bus).await {
                Ok(missing) if missing.is_empty() => return Ok(()),
                Ok(missing) => missing,
                Err(error) => error.to_string(),
            };
            if Instant::now() > until {
                return Err(VerbError::Demo(format!("not ready within {} s: {missing}", READY_WITHIN.as_secs())));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn missing(&self, bus: &Bus) -> Result<String, VerbError> {
        let bucket = bus.kv(Bucket::Presence);
        let mut here: Vec<Presence> = Vec::new();
        for entry in bucket.entries().await? {
            here.push(codec::from_msgpack("presence", &entry.value.unwrap_or_default())?);
        }
        // Of several agents that hold one lever, only the acting one reads it back.
        let is_read = |presence: &Presence| {
            let mut levers = presence.levers.values().flatten().peekable();
            levers.peek().is_some() && levers.all(|lever| lever.value.is_some())
        };
        let flags_read = here.iter().any(|one| one.agent.role == Role::Flag && is_read(one));
        let is_ready = |presence: &Presence| match presence.agent.role {
            Role::Flag => flags_read && !presence.serving.is_empty(),
            Role::Rollback => is_read(presence),
            Role::Alert | Role::Coordinator | Role::Load | Role::Metric | Role::Probe | Role::Trigger => true,
        };
        let ready: Vec<String> = here.iter().filter(|one| is_ready(one)).map(|one| one.agent.to_string()).collect();
        let mut missing: Vec<&str> = self.agents.iter().filter(|id| !ready.contains(id)).map(String::as_str).collect();
        if !here.iter().any(|one| one.agent.role == Role::Coordinator) {
            missing.push("coordinator");
        }
        Ok(missing.join(", "))
    }

    /// Shows the end of every log on standard error.
    pub(super) fn show_logs(&self) {
        show_logs(&self.logs);
    }

    /// Stops everything, and waits for it.
    pub(super) async fn close(self) {
        self.console.abort();
        self.watch.stop().await;
        stop_server(self.server).await;
    }
}

async fn binary(explicit: Option<PathBuf>) -> Result<PathBuf, VerbError> {
    let look = move || match server::find(explicit.as_deref()) {
        Err(InstallError::NotFound) => server::install(|line| eprintln!("{line}")),
        found => found,
    };
    let found = tokio::task::spawn_blocking(look).await;
    Ok(found.map_err(|error| VerbError::System(std::io::Error::other(error)))??)
}

async fn cast(
    dir: &Path,
    logs: &Path,
    server: &LocalServer,
    hook: &str,
    children: &mut Children,
) -> Result<(String, Vec<String>), VerbError> {
    let log = |name: &str| Output::File(logs.join(format!("{name}.log")));
    let text = |path: PathBuf| path.display().to_string();
    let ports = dir.join("site.json");
    let flags = ["east", "west"].map(|region| format!("{region}=file:{}", text(files::address_file(dir, region))));
    let [east, west] = &flags;
    let site = ["site", "--env", "staging", "--env", "east", "--env", "west", "--stable", "v41", "--fault", FAULT];
    let ports_text = text(ports.clone());
    let more = ["--ports-file", &ports_text, "--flags", east, "--flags", west];
    children.start("sample site", site.into_iter().chain(more), log("site")).await?;
    let addresses = wait_for_file(&ports).await?;
    for (region, url) in &addresses.environments {
        eprintln!("sample site  {url}   {region}");
    }
    let data = text(dir.join("coordinator"));
    let coordinator = ["coordinator", "--nats", server.url(), "--dir", &data];
    children.start("coordinator", coordinator, log("coordinator")).await?;
    let program = std::env::current_exe().map_err(VerbError::System)?;
    let (site, admin, nats) = (&addresses.environments, &addresses.admin, server.url());
    let agents = files::agents(&Setting { dir, program: &program, nats, admin, site, hook });
    for agent in &agents {
        let path = dir.join(format!("{}.yaml", agent.id()));
        write(&path, &agent.text)?;
        let path = text(path);
        children.start(&agent.id(), ["agent", agent.role, "--config", &path], log(&agent.id())).await?;
    }
    let plan = files::plan(site).ok_or_else(|| VerbError::Demo("the built-in plan has other addresses".to_owned()))?;
    write(&dir.join(files::PLAN), &plan)?;
    Ok((plan, agents.iter().map(files::AgentFile::id).collect()))
}

async fn wait_for_file(path: &Path) -> Result<Addresses, VerbError> {
    let until = Instant::now() + READY_WITHIN;
    loop {
        match std::fs::read(path) {
            Ok(bytes) => return Ok(codec::from_json("address file of the sample site", &bytes)?),
            Err(source) if Instant::now() > until => {
                return Err(VerbError::File { doing: "read", path: path.to_owned(), source });
            }
            Err(_) => tokio::time::sleep(LOOK_EVERY).await,
        }
    }
}

fn write(path: &Path, text: &str) -> Result<(), VerbError> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let wrong = |source| VerbError::File { doing: "write", path: path.to_owned(), source };
    let file = std::fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes())).map_err(wrong)
}

fn show_logs(logs: &Path) {
    let Ok(entries) = std::fs::read_dir(logs) else { return };
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect();
    paths.sort();
    for path in paths {
        let text = std::fs::read(&path).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        eprintln!("--- {}", path.file_name().unwrap_or_default().to_string_lossy());
        lines.iter().skip(lines.len().saturating_sub(LOG_LINES)).for_each(|line| eprintln!("{line}"));
    }
}
