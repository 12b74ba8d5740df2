//! One `nats-server` on loopback, as a child that dies with us and is started again when it dies.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bellwether_protocol::id::Region;

use crate::child::{Child, Output, Spec};

/// How to start a server.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// The server's binary; see [`super::find`] and [`super::install`].
    pub binary: PathBuf,
    /// The program whose hidden verb [`crate::child::VERB`] runs [`crate::child::shim`].
    pub shim: PathBuf,
    /// Where its store, configuration and log go. Made if missing.
    pub dir: PathBuf,
    /// Its port; 0 lets the system choose one, which restarts keep.
    pub port: u16,
    /// The port of its monitoring, on loopback too; none without.
    pub monitor: Option<u16>,
    /// How it is linked to other servers.
    pub link: Link,
}

/// How a server is linked to others: one hub, which holds every stream, and a leaf in each region.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Link {
    /// Not at all.
    #[default]
    Alone,
    /// It is the hub, and takes leaves on this port of loopback. Its JetStream domain is [`HUB_DOMAIN`].
    Hub {
        /// The port.
        port: u16,
    },
    /// It is a region's leaf, with a JetStream domain of its own.
    Leaf {
        /// The region, which names the domain.
        region: Region,
        /// Where the hub takes leaves, such as `nats-leaf://hub.example.com:7422`.
        hub: String,
    },
}

/// The JetStream domain of the hub.
pub const HUB_DOMAIN: &str = "hub";

/// Why a server does not run.
#[derive(Debug, thiserror::Error)]
pub enum StartServerError {
    /// It ended before it was ready.
    #[error("nats-server ended at once: {said} (its log: {log})")]
    Ended {
        /// The last line of its log.
        said: String,
        /// Where its log is.
        log: String,
    },
    /// A file could not be written, or the program not run.
    #[error("cannot start nats-server in {dir}")]
    Io {
        /// Where.
        dir: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Another process listens there.
    #[error("port {0} is in use: stop what listens there, or choose another port")]
    PortInUse(u16),
    /// It did not say that it is ready.
    #[error("nats-server was not ready within {} s (its log: {log})", READY_WITHIN.as_secs())]
    Slow {
        /// Where its log is.
        log: String,
    },
}

/// A running server. Stopped when dropped.
#[derive(Debug)]
pub struct LocalServer {
    inner: Arc<Mutex<Inner>>,
    url: String,
}

#[derive(Debug)]
struct Inner {
    options: ServerOptions,
    child: Child,
    is_stopped: bool,
}

impl LocalServer {
    /// Starts a server and waits until it takes connections. Blocks for up to a few seconds.
    ///
    /// # Errors
    /// When it cannot be started, or its port is taken.
    pub fn start(options: &ServerOptions) -> Result<Self, StartServerError> {
        let mut options = options.clone();
        let (child, port) = launch(&options)?;
        // The store belongs to whoever finds it at this address: a restart must come back to it.
        options.port = port;
        let url = format!("nats://127.0.0.1:{port}");
        Ok(Self { inner: Arc::new(Mutex::new(Inner { options, child, is_stopped: false })), url })
    }

    /// Its address.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The process id of the server itself.
    pub fn pid(&self) -> u32 {
        self.lock().child.pid()
    }

    /// Stops it if it still runs, and starts it again with the same port and store. Blocks.
    ///
    /// # Errors
    /// As [`LocalServer::start`].
    pub fn restart(&self) -> Result<(), StartServerError> {
        self.lock().restart()
    }

    /// Stops it for good, and waits for it. Blocks.
    ///
    /// # Errors
    /// When the system cannot tell how it ended.
    pub fn stop(&self) -> std::io::Result<()> {
        let mut inner = self.lock();
        inner.is_stopped = true;
        inner.child.stop().map(drop)
    }

    /// Starts it again, with growing pauses, whenever it ends by itself. Ends after [`LocalServer::stop`].
    pub async fn supervise(&self) {
        let mut failures: usize = 0;
        loop {
            tokio::time::sleep(WATCH_EVERY).await;
            let inner = Arc::clone(&self.inner);
            let look = tokio::task::spawn_blocking(move || {
                let mut inner = inner.lock().unwrap_or_else(PoisonError::into_inner);
                if inner.is_stopped {
                    return Look::Stopped;
                }
                match inner.child.try_wait() {
                    Ok(None) => Look::Runs,
                    Ok(Some(status)) => {
                        tracing::warn!(%status, "nats-server ended, starting it again");
                        Look::Restarted(inner.restart())
                    }
                    Err(error) => {
                        tracing::warn!(%error, "cannot tell whether nats-server runs");
                        Look::Runs
                    }
                }
            });
            match look.await {
                Ok(Look::Stopped) | Err(_) => return,
                Ok(Look::Runs) => {}
                Ok(Look::Restarted(Ok(()))) => failures = 0,
                Ok(Look::Restarted(Err(error))) => {
                    failures += 1;
                    tracing::error!(%error, failures, "nats-server does not start");
                    tokio::time::sleep(crate::connect::backoff(failures)).await;
                }
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Look {
    Restarted(Result<(), StartServerError>),
    Runs,
    Stopped,
}

impl Inner {
    fn restart(&mut self) -> Result<(), StartServerError> {
        let _ = self.child.stop();
        self.child = launch(&self.options)?.0;
        Ok(())
    }
}

/// How long a server may take until it listens. Measured: 30 to 800 ms.
const READY_WITHIN: Duration = Duration::from_secs(15);
/// How often we look whether it is ready.
const READY_POLL: Duration = Duration::from_millis(10);
/// How often a supervisor looks whether it still runs.
const WATCH_EVERY: Duration = Duration::from_millis(500);
/// Disk that its streams may take together.
const STORE_MAX: &str = "8GB";

fn launch(options: &ServerOptions) -> Result<(Child, u16), StartServerError> {
    let dir = &options.dir;
    let io = |source| StartServerError::Io { dir: dir.display().to_string(), source };
    let (ports, log) = (dir.join("ports"), dir.join("nats-server.log"));
    // A ports file of the last run would name a port that nobody listens on.
    let _ = std::fs::remove_dir_all(&ports);
    std::fs::create_dir_all(&ports).map_err(io)?;
    std::fs::write(dir.join("nats-server.conf"), configuration(options)).map_err(io)?;
    let log_start = std::fs::metadata(&log).map_or(0, |found| found.len());
    let mut child = Child::spawn(&Spec {
        shim: options.shim.clone(),
        program: options.binary.clone(),
        args: vec!["--config".into(), dir.join("nats-server.conf").into()],
        env: BTreeMap::new(),
        output: Output::File(log.clone()),
    })
    .map_err(io)?;
    let ports_file = ports.join(format!("nats-server_{}.ports", child.pid()));
    let deadline = Instant::now() + READY_WITHIN;
    loop {
        if let Some(port) = std::fs::read(&ports_file).ok().and_then(|bytes| port_in(&bytes))
            && std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
        {
            return Ok((child, port));
        }
        let log_text = log.display().to_string();
        if child.try_wait().map_err(io)?.is_some() {
            let said = last_line(&log, log_start);
            if said.contains("address already in use") {
                let is_its = |port: &u16| said.contains(&format!(":{port}:"));
                return Err(StartServerError::PortInUse(options.monitor.filter(is_its).unwrap_or(options.port)));
            }
            return Err(StartServerError::Ended { said, log: log_text });
        }
        if Instant::now() >= deadline {
            let _ = child.stop();
            return Err(StartServerError::Slow { log: log_text });
        }
        std::thread::sleep(READY_POLL);
    }
}

/// How a server that we configured calls itself.
pub(crate) const LOCAL_NAME: &str = "bellwether-local";

fn configuration(options: &ServerOptions) -> String {
    let port = if options.port == 0 { -1 } else { i32::from(options.port) };
    // JSON strings are valid here, and quote whatever a path may hold.
    let quoted = |text: &str| serde_json::Value::String(text.to_owned());
    let path = |name: &str| quoted(&options.dir.join(name).display().to_string());
    let (store, ports) = (path("store"), path("ports"));
    let monitor = options.monitor.map(|port| format!("http: \"127.0.0.1:{port}\"\n")).unwrap_or_default();
    let head = format!(
        "# Written by Bellwether at each start; changes are lost.\n\
         host: \"127.0.0.1\"\n\
         port: {port}\n\
         {monitor}ports_file_dir: {ports}\n"
    );
    // Without `always`, an acknowledged decision can be lost with the machine's power.
    let jetstream = format!("store_dir: {store}, sync_interval: always, max_file_store: {STORE_MAX}");
    let body = match &options.link {
        Link::Alone => format!("server_name: {LOCAL_NAME}\njetstream {{ {jetstream} }}\n"),
        Link::Hub { port } => format!(
            "server_name: {LOCAL_NAME}\n\
             jetstream {{ {jetstream}, domain: {HUB_DOMAIN} }}\n\
             leafnodes {{ host: \"127.0.0.1\", port: {port}, no_advertise: true }}\n\
             ping_interval: \"5s\"\n"
        ),
        Link::Leaf { region, hub } => {
            format!(
                "BELLWETHER_REGION: {}\nBELLWETHER_HUB: {}\nBELLWETHER_STORE: {store}\n{LEAF}",
                quoted(region.as_str()),
                quoted(hub)
            )
        }
    };
    head + &body
}

/// A leaf's configuration, as one writes it without us.
const LEAF: &str = include_str!("leaf.conf");

#[derive(serde::Deserialize)]
struct Ports {
    #[serde(default)]
    nats: Vec<String>,
}

fn port_in(bytes: &[u8]) -> Option<u16> {
    let ports: Ports = serde_json::from_slice(bytes).ok()?;
    ports.nats.first()?.rsplit(':').next()?.parse().ok()
}

fn last_line(log: &std::path::Path, from: u64) -> String {
    let bytes = std::fs::read(log).unwrap_or_default();
    let fresh = bytes.get(usize::try_from(from).unwrap_or(0)..).unwrap_or_default();
    let text = String::from_utf8_lossy(fresh);
    // The reason is on the fatal line; what follows is only the farewell.
    let fatal = text.lines().find(|line| line.contains("[FTL]") || line.contains("error:"));
    let line = fatal.or_else(|| text.lines().next_back()).unwrap_or("it said nothing");
    line.chars().take(300).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ports_file_is_read() {
        assert_eq!(port_in(br#"{"nats": ["nats://127.0.0.1:41233"]}"#), Some(41233));
        assert_eq!(port_in(br#"{"nats": []}"#), None);
        assert_eq!(port_in(b"{\"nats\": [\"na"), None);
    }
}
