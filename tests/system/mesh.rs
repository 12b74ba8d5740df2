//! A whole mesh in a temporary directory: NATS, the sample site, coordinators and agents, each a
//! process of the real program that can be killed and started again. All of it ends on drop.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bellwether_bus::child::{Child, Output, Spec};
use bellwether_bus::server::{self, LocalServer, ServerOptions};
use bellwether_bus::{Bus, ConnectOptions, From};
use bellwether_protocol::codec;
use bellwether_protocol::id::RolloutId;
use bellwether_protocol::presence::Presence;
use bellwether_protocol::reason::{Ending, Reason};
use bellwether_protocol::record::Record;
use bellwether_protocol::status::{State, Status};
use bellwether_protocol::subject::{Bucket, Stream};

/// The program under test.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_bellwether");
/// The plan that the demo plays too.
pub(crate) const SHOP: &str = include_str!("../plans/shop.yaml");
/// Every agent of a whole mesh, as presence names it.
pub(crate) const AGENTS: [&str; 8] = [
    "staging.probe.probe-1",
    "east.probe.probe-1",
    "west.probe.probe-1",
    "east.flag.flag-1",
    "west.flag.flag-1",
    "east.alert.alert-1",
    "west.alert.alert-1",
    "east.rollback.roll-1",
];
/// Its durations, short enough for a test.
const SHORT: [&str; 14] = [
    "slot=1s",
    "grace=1s",
    "slis.checkout.every=100ms",
    "slis.checkout.timeout=800ms",
    "slis.health.every=500ms",
    "slis.health.timeout=800ms",
    "criteria.error_rate.window=5s",
    "stages.staging.settle=1s",
    "stages.staging.soak=2s",
    "stages.canary.settle=1s",
    "stages.canary.soak=6s",
    "stages.production.settle=2s",
    "stages.production.soak=4s",
    "take_back.levels.0.apply_within=60s",
];
/// Longest wait for anything.
const WITHIN: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Tests take turns: a mesh wants the machine for itself.
pub(crate) static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// What a run of the program said.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    /// It must end with `code` and say each of `words`, on either stream.
    #[track_caller]
    pub(crate) fn says(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, code, "{self:#?}");
        for word in words {
            assert!(self.out.contains(word) || self.err.contains(word), "`{word}` is missing: {self:#?}");
        }
    }
}

/// Runs the program to its end, with nothing of this shell's settings.
pub(crate) async fn run(nats: &str, args: &[&str]) -> Ran {
    let mut command = tokio::process::Command::new(PROGRAM);
    command.args(args).env("BELLWETHER_NATS", nats).env("BELLWETHER_PRINCIPAL", "me").stdin(Stdio::null());
    command.kill_on_drop(true);
    let output = tokio::time::timeout(WITHIN * 2, command.output()).await;
    let output = output.unwrap_or_else(|_| panic!("{args:?} did not end")).expect("the program runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ran { code: output.status.code().unwrap_or(-1), out: text(&output.stdout), err: text(&output.stderr) }
}

pub(crate) fn kill_9(pid: u32) {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw).expect("a process id");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("killed");
}

/// A server of the pinned version, with our program as its shim.
pub(crate) async fn start_server(dir: PathBuf) -> LocalServer {
    let start = move || {
        let binary = server::find(None).or_else(|_| server::install(|line| eprintln!("{line}"))).expect("nats-server");
        LocalServer::start(&ServerOptions { binary, shim: PROGRAM.into(), dir, port: 0 }).expect("a server")
    };
    tokio::task::spawn_blocking(start).await.expect("not cancelled")
}

struct Process {
    args: Vec<String>,
    child: Option<Child>,
}

/// Everything that runs.
pub(crate) struct Mesh {
    pub(crate) bus: Bus,
    pub(crate) dir: tempfile::TempDir,
    server: Arc<LocalServer>,
    processes: BTreeMap<String, Process>,
    admin: String,
    records: Arc<Mutex<Vec<Record>>>,
    reader: tokio::task::JoinHandle<()>,
    began: Instant,
}

impl Drop for Mesh {
    fn drop(&mut self) {
        self.reader.abort();
        for process in self.processes.values_mut() {
            drop(process.child.take());
        }
        if std::thread::panicking() {
            for name in self.processes.keys() {
                let log = self.log(name);
                let lines: Vec<&str> = log.lines().collect();
                eprintln!("--- {name}\n{}", lines[lines.len().saturating_sub(15)..].join("\n"));
            }
        }
    }
}

impl Mesh {
    /// Starts all but `without`, and waits until what runs is ready to act.
    pub(crate) async fn start(without: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let server = Arc::new(start_server(dir.path().join("nats")).await);
        let url = server.url().to_owned();
        let options = ConnectOptions { url, prefix: Default::default(), name: "test".to_owned(), credentials: None };
        let bus = Bus::connect(&options).await.expect("connected");
        bus.provision().await.expect("provisioned");
        let records = Arc::<Mutex<Vec<Record>>>::default();
        let reader = tokio::spawn(read_log(bus.clone(), Arc::clone(&records)));
        let (processes, began) = (BTreeMap::new(), Instant::now());
        let mut mesh = Self { bus, dir, server, processes, admin: String::new(), records, reader, began };
        mesh.start_site().await;
        let data = mesh.path("coordinator-1");
        mesh.add("coordinator-1", &["coordinator", "--nats", mesh.server.url(), "--dir", &data].map(str::to_owned));
        for id in AGENTS.iter().filter(|id| !without.contains(id)) {
            mesh.add_agent(id);
        }
        mesh.until_ready().await;
        mesh
    }

    async fn start_site(&mut self) {
        let mut args = vec!["site".to_owned(), "--stable".to_owned(), "v41".to_owned()];
        for env in ["staging", "east", "west"] {
            args.extend(["--env".to_owned(), env.to_owned()]);
        }
        for env in ["east", "west"] {
            args.extend(["--flags".to_owned(), format!("{env}=file:{}", self.path(&format!("{env}-flags.address")))]);
        }
        for release in 43..=60 {
            args.extend(["--fault".to_owned(), format!("release=v{release},env=west,path=/checkout,errors=20%")]);
        }
        let file = self.path("site.json");
        args.extend(["--ports-file".to_owned(), file.clone()]);
        self.add("site", &args);
        let text = self.until("the sample site", || std::fs::read_to_string(&file).ok()).await;
        let addresses: bellwether_site::Addresses = codec::from_json("addresses", text.as_bytes()).expect("addresses");
        self.admin = addresses.admin;
        let written = ["staging", "east", "west"].into_iter().zip(8001..);
        let plan = written.fold(SHOP.to_owned(), |plan, (env, port)| {
            plan.replace(&format!("http://127.0.0.1:{port}"), &addresses.environments[env])
        });
        std::fs::write(self.path("shop.yaml"), plan).expect("written");
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    pub(crate) fn url(&self) -> &str {
        self.server.url()
    }

    /// What a process has said since the beginning.
    pub(crate) fn log(&self, name: &str) -> String {
        String::from_utf8_lossy(&std::fs::read(self.path(&format!("{name}.log"))).unwrap_or_default()).into_owned()
    }

    pub(crate) fn add(&mut self, name: &str, args: &[String]) {
        self.processes.insert(name.to_owned(), Process { args: args.to_vec(), child: None });
        self.spawn(name, "");
    }

    pub(crate) fn add_agent(&mut self, id: &str) {
        let [region, role, name] = id.split('.').collect::<Vec<_>>()[..] else { panic!("{id}") };
        let plan = std::fs::read_to_string(self.path("shop.yaml")).expect("the plan");
        let host = |line: &str| Some(line.strip_prefix(&format!("  {region}: http://"))?.to_owned());
        let host = plan.lines().find_map(host).expect("the region");
        let state = self.path(&format!("state-{region}-{role}"));
        let head = format!(
            "agent:\n  region: {region}\n  name: {name}\n  state_dir: {state}\n  nats:\n    url: {}\n",
            self.server.url()
        );
        let rest = match role {
            "alert" => "alert:\n  console: true\n".to_owned(),
            "flag" => format!(
                "flag:\n  service: shop\n  listen: 127.0.0.1:0\n  address_file: {}\n  \
                 endpoints: [east.flag.flag-1, west.flag.flag-1]\n  flags:\n    \
                 - {{ name: new_checkout, variants: {{ \"on\": true, \"off\": false }}, default: \"off\" }}\n",
                self.path(&format!("{region}-flags.address"))
            ),
            "probe" => format!("probe:\n  allow: [\"{host}\"]\n  every_min: 100ms\n"),
            _ => rollback(&self.admin),
        };
        let file = self.path(&format!("{id}.yaml"));
        std::fs::write(&file, head + &rest).expect("written");
        self.add(id, &["agent", role, "--config", &file].map(str::to_owned));
    }

    /// Starts a process that does not run, perhaps to stall at a point.
    fn spawn(&mut self, name: &str, stall_at: &str) {
        let path = self.dir.path().join(format!("{name}.log"));
        let process = self.processes.get_mut(name).expect("a process of that name");
        let child = Child::spawn(&Spec {
            shim: PROGRAM.into(),
            program: PROGRAM.into(),
            args: process.args.iter().map(Into::into).collect(),
            env: BTreeMap::from([("BELLWETHER_STALL_AT".to_owned(), stall_at.to_owned())]),
            output: Output::File(path),
        });
        process.child = Some(child.expect("started"));
    }

    /// Kills a process with signal 9, and waits until it is gone.
    pub(crate) async fn kill(&mut self, name: &str) {
        println!("{:5.1} s  kill -9 {name}", self.began.elapsed().as_secs_f64());
        let child = self.processes.get_mut(name).and_then(|process| process.child.take());
        let mut child = child.expect("it runs");
        kill_9(child.pid());
        tokio::task::spawn_blocking(move || child.stop()).await.expect("not cancelled").expect("gone");
    }

    pub(crate) async fn kill_and_restart(&mut self, name: &str, stall_at: &str) {
        if name == "nats-server" {
            println!("{:5.1} s  kill -9 nats-server", self.began.elapsed().as_secs_f64());
            kill_9(self.server.pid());
            let server = Arc::clone(&self.server);
            tokio::task::spawn_blocking(move || server.restart()).await.expect("not cancelled").expect("restarted");
            return;
        }
        self.kill(name).await;
        self.spawn(name, stall_at);
    }

    pub(crate) async fn until_stalled(&self, name: &str, point: &str, times: usize) {
        let said = format!("stalled at {point}");
        self.until(&format!("{name} {said}"), || (self.log(name).matches(&said).count() > times).then_some(())).await;
    }

    /// Runs the program against this mesh.
    pub(crate) async fn run(&self, args: &[&str]) -> Ran {
        run(self.server.url(), args).await
    }

    /// Starts a release with short durations and what `more` says.
    pub(crate) async fn begin(&self, release: &str, more: &[&str]) -> Ran {
        let plan = self.path("shop.yaml");
        let mut args = vec!["rollout", "start", &plan, "--release", release];
        SHORT.iter().for_each(|short| args.extend(["--override", short]));
        args.extend(more);
        self.run(&args).await
    }

    /// Waits until `look` finds something.
    pub(crate) async fn until<T>(&self, what: &str, look: impl Fn() -> Option<T>) -> T {
        let until = Instant::now() + WITHIN;
        loop {
            if let Some(found) = look() {
                return found;
            }
            if Instant::now() > until {
                panic!("not within {} s: {what}; the status is {:#?}", WITHIN.as_secs(), self.status().await);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    pub(crate) async fn status(&self) -> Option<Status> {
        let entry = self.bus.kv(Bucket::Status).get("shop").await.ok()??;
        codec::from_json("status", &entry.value?).ok()
    }

    async fn until_ready(&self) {
        let until = Instant::now() + WITHIN;
        loop {
            let here = self.presences().await;
            let is_read = |one: &&Presence| {
                let mut levers = one.levers.values().flatten().peekable();
                levers.peek().is_some() && levers.all(|lever| lever.value.is_some())
            };
            let wanted = self.processes.keys().filter(|name| name.contains("flag") || name.contains("rollback"));
            let acting = here.iter().filter(is_read).count();
            // Of two flag agents one stands by.
            if here.len() + 1 >= self.processes.len() && acting + 1 >= wanted.count() {
                return;
            }
            assert!(Instant::now() < until, "only these are here: {here:#?}");
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn presences(&self) -> Vec<Presence> {
        let bucket = self.bus.kv(Bucket::Presence);
        let mut here = Vec::new();
        for key in bucket.keys().await.unwrap_or_default() {
            if let Ok(Some(bytes)) = bucket.get(&key).await.map(|entry| entry.and_then(|entry| entry.value)) {
                here.push(codec::from_msgpack("presence", &bytes).expect("a presence"));
            }
        }
        here
    }

    /// Every record of the log so far.
    pub(crate) fn records(&self) -> Vec<Record> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for a reason in the log behind its first `skip` records.
    pub(crate) async fn until_reason(&self, skip: usize, what: &str, is_it: impl Fn(&Reason) -> bool) -> Reason {
        let find = || self.records().into_iter().skip(skip).flat_map(|record| record.reasons).find(&is_it);
        self.until(what, find).await
    }

    pub(crate) async fn until_ended(&self, skip: usize) -> Ending {
        match self.until_reason(skip, "the end", |reason| matches!(reason, Reason::Ended { .. })).await {
            Reason::Ended { ending, .. } => ending,
            other => panic!("{other:?}"),
        }
    }

    /// Where the platform itself says that a lever stands.
    pub(crate) async fn lever(&self, lever: &str) -> Option<String> {
        let read = self.run(&["site-lever", "--admin", &self.admin, "read", lever]).await;
        let reading: serde_json::Value = serde_json::from_str(&read.out).unwrap_or_default();
        reading["value"].as_str().map(str::to_owned)
    }

    /// Every lever of the site must stand where it stood before anything began.
    pub(crate) async fn is_back(&self, release: &str) {
        for (lever, expected) in [("traffic", "0%"), ("release", release), ("stable", release), ("staging", release)] {
            assert_eq!(self.lever(lever).await.as_deref(), Some(expected), "{lever}");
        }
    }

    /// The log must be decided again to the same bytes.
    pub(crate) async fn replays(&self) -> String {
        let replayed = self.run(&["rollout", "replay", "shop"]).await;
        replayed.says(0, &["each the same to the byte"]);
        replayed.out
    }

    /// Approves as soon as a rollout waits for it, through the program.
    pub(crate) async fn approve(&self) -> RolloutId {
        let until = Instant::now() + WITHIN;
        loop {
            let status = self.status().await;
            if let Some(status) = status.as_ref().filter(|status| status.state == State::Waiting) {
                let (entry, gate) = (status.entry.to_string(), status.gate.to_string());
                let args = ["command", "approve", "shop", "--entry", &entry, "--gate", &gate];
                if self.run(&args).await.code == 0 {
                    return status.rollout.clone();
                }
            }
            assert!(Instant::now() < until, "nothing waits for an approval: {status:#?}");
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

fn rollback(admin: &str) -> String {
    let tool = format!("\"{PROGRAM}\", site-lever, --admin, \"{admin}\"");
    let lever = |lever| {
        format!(
            "    - name: {lever}\n      exec:\n        set: [{tool}, set, {lever}, \"{{value}}\"]\n        \
             read_back: [{tool}, read, {lever}]\n        history: [{tool}, history, {lever}]\n        timeout: 10s\n"
        )
    };
    "rollback:\n  service: shop\n  levers:\n".to_owned() + &["release", "stable", "staging", "traffic"].map(lever).concat()
}

async fn read_log(bus: Bus, records: Arc<Mutex<Vec<Record>>>) {
    let mut log = bus.read(Stream::Decisions, Vec::new(), From::Start);
    loop {
        let message = log.next().await;
        let record = codec::from_json("record", &message.body).expect("a record");
        records.lock().unwrap_or_else(PoisonError::into_inner).push(record);
    }
}

/// Whether a file is there; for processes, `/proc/PID`.
pub(crate) fn is_there(path: impl AsRef<Path>) -> bool {
    path.as_ref().exists()
}
