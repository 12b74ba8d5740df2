//! For tests with a real `nats-server`: a harness whose program can also be the shim under which servers
//! run, a server of one's own with a bus, and waiting for something. They panic, as tests do.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use tempfile::TempDir;
use tokio::time::Instant;

use crate::server::{self, Link, LocalServer, ServerOptions};
use crate::{Bus, ConnectOptions, child};

mod wire;

pub use wire::{Fault, Wire};

/// How long [`until`] waits.
pub const WITHIN: Duration = Duration::from_secs(60);
/// How often [`until`] looks.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A test and its name.
pub type Test = (&'static str, fn() -> LocalBoxFuture<'static, ()>);

/// The tests of a program, from the names of its functions.
#[macro_export]
macro_rules! tests {
    ($($name:ident),* $(,)?) => { [$((stringify!($name), || Box::pin($name()))),*] };
}

/// The `main` of a test program: runs the tests whose names hold the first argument, all at once,
/// each for at most `within`. Every test needs a server of its own, so none disturbs another.
pub fn harness(tests: &[Test], within: Duration) -> ExitCode {
    let mut args = std::env::args_os().skip(1).peekable();
    if args.next_if(|arg| arg == child::VERB).is_some() {
        return child::shim(args);
    }
    let filter = args.map(|arg| arg.to_string_lossy().into_owned()).find(|arg| !arg.starts_with('-'));
    let chosen = tests.iter().filter(|(name, _)| filter.as_ref().is_none_or(|filter| name.contains(filter)));
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let local = tokio::task::LocalSet::new();
    let bounded = |test: LocalBoxFuture<'static, ()>| async move {
        tokio::time::timeout(within, test).await.expect("within its time");
    };
    let running: Vec<_> = chosen.map(|(name, test)| (*name, local.spawn_local(bounded(test())))).collect();
    let (all, mut failed) = (running.len(), 0);
    for (name, test) in running {
        let is_ok = local.block_on(&runtime, test).is_ok();
        failed += usize::from(!is_ok);
        println!("test {name} ... {}", if is_ok { "ok" } else { "FAILED" });
    }
    println!("{} passed, {failed} failed", all - failed);
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A server of its own for one test, where it keeps its things, and a bus with every asset.
#[derive(Debug)]
pub struct World {
    /// The server.
    pub server: Arc<LocalServer>,
    /// The test's own directory; the server's is `nats` in it.
    pub dir: TempDir,
    /// Connected and provisioned.
    pub bus: Bus,
}

impl World {
    /// Starts it; installs `nats-server` when it is nowhere.
    pub async fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let options = options(dir.path().join("nats"), 0);
        let server = tokio::task::spawn_blocking(move || LocalServer::start(&options)).await.expect("not cancelled");
        let server = Arc::new(server.expect("a server"));
        let bus = Bus::connect(&connect_options(server.url())).await.expect("connected");
        bus.provision().await.expect("provisioned");
        Self { server, dir, bus }
    }

    /// Kills the server, as hard as it gets.
    pub fn kill(&self) {
        kill(self.server.pid());
    }

    /// Starts it again with the same port and store.
    pub async fn restart(&self) {
        let server = Arc::clone(&self.server);
        tokio::task::spawn_blocking(move || server.restart()).await.expect("not cancelled").expect("restarted");
    }

    /// Writes a file into the test's directory.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        write(self.dir.path(), name, text)
    }
}

/// Writes a file into `dir`, which is made when it is not there.
pub fn write(dir: &Path, name: &str, text: &str) -> PathBuf {
    std::fs::create_dir_all(dir).expect("a directory");
    let path = dir.join(name);
    std::fs::write(&path, text).expect("written");
    path
}

/// Sends SIGKILL.
pub fn kill(pid: u32) {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw).expect("a process id");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("killed");
}

/// A server in `dir`, with this program as its shim.
pub fn options(dir: PathBuf, port: u16) -> ServerOptions {
    let binary = server::find(None).or_else(|_| server::install(|line| eprintln!("{line}"))).expect("nats-server");
    ServerOptions {
        binary,
        shim: std::env::current_exe().expect("our own path"),
        dir,
        port,
        monitor: None,
        link: Link::Alone,
    }
}

/// A server in `dir` that is linked to others.
pub async fn start(dir: PathBuf, link: Link) -> LocalServer {
    let options = ServerOptions { link, ..options(dir, 0) };
    tokio::task::spawn_blocking(move || LocalServer::start(&options)).await.expect("not cancelled").expect("a server")
}

/// A port of loopback that nobody listens on.
pub fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    listener.local_addr().expect("an address").port()
}

/// A connection without credentials.
pub fn connect_options(url: &str) -> ConnectOptions {
    ConnectOptions {
        url: url.to_owned(),
        domain: None,
        prefix: Default::default(),
        name: "test".to_owned(),
        credentials: None,
        ca: None,
    }
}

/// A certificate for loopback that signs itself, as `cert.pem`, and its `key.pem`, in `dir`.
pub fn certify(dir: &Path) {
    let mut openssl = std::process::Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]);
    openssl.args(["-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]);
    // An authority is no server: clients refuse one that is both.
    openssl.args(["-addext", "basicConstraints=critical,CA:FALSE", "-keyout", "key.pem", "-out", "cert.pem"]);
    assert!(
        openssl.current_dir(dir).stderr(std::process::Stdio::null()).status().expect("openssl is installed").success()
    );
}

/// Looks until it finds something, for [`WITHIN`]. When it does not, the panic says what was seen last.
pub async fn until<T, S: std::fmt::Debug>(what: &str, mut look: impl AsyncFnMut() -> Result<T, S>) -> T {
    let deadline = Instant::now() + WITHIN;
    loop {
        match look().await {
            Ok(found) => return found,
            Err(seen) => assert!(Instant::now() < deadline, "{what} did not come about; last seen {seen:?}"),
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Looks until it is so.
pub async fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    until(what, async || is_so().then_some(()).ok_or(())).await;
}
