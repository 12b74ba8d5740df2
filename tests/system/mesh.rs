//! A whole mesh in a temporary directory: NATS, the sample site, coordinators and agents, each a
//! process of the real program that can be killed and started again. All of it ends on drop.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bellwether_bus::child::{Child, Output as Said, Spec};
use bellwether_bus::server::{HUB_DOMAIN, Link, LocalServer, ServerOptions};
use bellwether_bus::testing::{Wire, connect_options, free_port, options};
use bellwether_bus::{Bus, ConnectError, ConnectOptions, From, Reader};
use bellwether_protocol::codec;
use bellwether_protocol::command::{CommandBody, Outcome, Verb};
use bellwether_protocol::presence::Presence;
use bellwether_protocol::reason::{Ending, Reason};
use bellwether_protocol::record::Record;
use bellwether_protocol::status::Status;
use bellwether_protocol::subject::{Bucket, Stream};

/// The program under test.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_bellwether");
/// Every agent, as presence names it.
pub(crate) const AGENTS: [&str; 7] = [
    "east.probe.probe-1",
    "west.probe.probe-1",
    "east.flag.flag-1",
    "west.flag.flag-1",
    "east.alert.alert-1",
    "west.alert.alert-1",
    "west.rollback.roll-1",
];
/// A release of which one checkout in five fails in west; so do all up to [`BAD_LAST`].
pub(crate) const BAD: &str = "v43";
const BAD_LAST: u32 = 69;
/// Longest wait for anything.
pub(crate) const WITHIN: Duration = Duration::from_secs(60);
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(50);

pub(crate) fn kill_9(pid: u32) {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw).expect("a process id");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("killed");
}

/// A server of the pinned version, with our program as its shim.
pub(crate) async fn start_server(dir: &Path, link: Link) -> LocalServer {
    let dir = dir.to_owned();
    let start = move || {
        let options = ServerOptions { shim: PROGRAM.into(), link, ..options(dir, 0) };
        LocalServer::start(&options).expect("a server")
    };
    tokio::task::spawn_blocking(start).await.expect("not cancelled")
}

pub(crate) async fn connect(url: &str) -> Result<Bus, ConnectError> {
    Bus::connect(&connect_options(url)).await
}

struct Process {
    args: Vec<String>,
    child: Option<Child>,
}

/// Everything that runs.
pub(crate) struct Mesh {
    pub(crate) bus: Bus,
    pub(crate) dir: tempfile::TempDir,
    /// The plan, with the addresses of the site.
    pub(crate) plan: String,
    pub(crate) site: bellwether_site::Addresses,
    server: Arc<LocalServer>,
    /// A region's leaf, and its wire to the hub; none where agents connect to the one server.
    pub(crate) leaves: BTreeMap<String, (LocalServer, Wire)>,
    processes: BTreeMap<String, Process>,
    /// What every process finds in its environment.
    env: BTreeMap<String, String>,
    began: Instant,
}

impl Drop for Mesh {
    fn drop(&mut self) {
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
    /// Starts everything, and waits until it is ready to act.
    pub(crate) async fn start(coordinators: &[&str]) -> Self {
        Self::start_in(&[], coordinators).await
    }

    /// As [`Mesh::start`], with these variables.
    pub(crate) async fn start_in(env: &[(&str, &str)], coordinators: &[&str]) -> Self {
        Self::linked(env, coordinators, Link::Alone).await.filled().await
    }

    /// As [`Mesh::start`], with a leaf in each region that its agents connect to.
    pub(crate) async fn start_with_leaves(coordinators: &[&str]) -> Self {
        let port = free_port();
        let mut mesh = Self::linked(&[], coordinators, Link::Hub { port }).await;
        for name in ["east", "west"] {
            let wire = Wire::to(port).await;
            let (region, hub) = (name.parse().expect("a region"), format!("nats-leaf://{}", wire.address()));
            let leaf = start_server(&mesh.dir.path().join(name), Link::Leaf { region, hub }).await;
            mesh.leaves.insert(name.to_owned(), (leaf, wire));
        }
        mesh.filled().await
    }

    async fn filled(mut self) -> Self {
        self.start_site().await;
        AGENTS.iter().for_each(|id| self.add_agent(id));
        self.until_ready().await;
        self
    }

    /// Starts a server and coordinators, with nothing to look at.
    pub(crate) async fn bare(coordinators: &[&str]) -> Self {
        Self::linked(&[], coordinators, Link::Alone).await
    }

    async fn linked(env: &[(&str, &str)], coordinators: &[&str], link: Link) -> Self {
        let domain = (link != Link::Alone).then(|| HUB_DOMAIN.to_owned());
        let dir = tempfile::tempdir().expect("a directory");
        let server = Arc::new(start_server(&dir.path().join("nats"), link).await);
        let options = ConnectOptions { domain: domain.clone(), ..connect_options(server.url()) };
        let bus = Bus::connect(&options).await.expect("connected");
        bus.provision().await.expect("provisioned");
        let site = bellwether_site::Addresses { admin: String::new(), environments: BTreeMap::new() };
        let (processes, began) = (BTreeMap::new(), Instant::now());
        let leaves = BTreeMap::new();
        let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let mut mesh = Self { bus, dir, plan: String::new(), site, server, leaves, processes, env, began };
        let domain = domain.map(|domain| format!("--nats-domain={domain}"));
        for id in coordinators {
            let data = mesh.path(id);
            let args = ["coordinator", "--nats", mesh.server.url(), "--dir", &data, "--id", id];
            let args: Vec<String> = args.map(str::to_owned).into_iter().chain(domain.clone()).collect();
            mesh.add(id, &args);
        }
        mesh
    }

    pub(crate) async fn start_site(&mut self) {
        let mut args = vec!["site".to_owned(), "--stable".to_owned(), "v41".to_owned()];
        for env in ["east", "west"] {
            let flags = format!("{env}=file:{}", self.path(&format!("{env}-flags.address")));
            args.extend(["--env".to_owned(), env.to_owned(), "--flags".to_owned(), flags]);
        }
        for release in 43..=BAD_LAST {
            args.extend(["--fault".to_owned(), format!("release=v{release},env=west,path=/checkout,errors=20%")]);
        }
        let file = self.path("site.json");
        args.extend(["--ports-file".to_owned(), file.clone()]);
        self.add("site", &args);
        let text = self.until("the sample site", || std::fs::read_to_string(&file).ok()).await;
        self.site = codec::from_json("addresses", text.as_bytes()).expect("addresses");
        let [east, west] = ["east", "west"].map(|env| self.site.environments[env].clone());
        self.plan = include_str!("plan.yaml").replace("@EAST@", &east).replace("@WEST@", &west);
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
        let [region, role, _] = id.split('.').collect::<Vec<_>>()[..] else { panic!("{id}") };
        let host = self.site.environments[region].trim_start_matches("http://");
        let rest = match role {
            "alert" => "alert:\n  console: true\n".to_owned(),
            "flag" => format!(
                "flag:\n  service: shop\n  listen: 127.0.0.1:0\n  address_file: {}\n  \
                 endpoints: [east.flag.flag-1, west.flag.flag-1]\n  flags:\n    \
                 - {{ name: new_checkout, variants: {{ \"on\": true, \"off\": false }}, default: \"off\" }}\n",
                self.path(&format!("{region}-flags.address"))
            ),
            "probe" => format!("probe:\n  allow: [\"{host}\"]\n  every_min: 100ms\n"),
            _ => rollback(&self.site.admin),
        };
        self.add_agent_with(id, &rest);
    }

    /// Adds an agent whose own part of its file is `rest`.
    pub(crate) fn add_agent_with(&mut self, id: &str, rest: &str) {
        let [region, role, name] = id.split('.').collect::<Vec<_>>()[..] else { panic!("{id}") };
        let state = self.path(&format!("state-{id}"));
        let nats = match self.leaves.get(region) {
            Some((leaf, _)) => format!("url: \"{}\", domain: {HUB_DOMAIN}", leaf.url()),
            None => format!("url: \"{}\"", self.server.url()),
        };
        let head = format!("agent:\n  region: {region}\n  name: {name}\n  state_dir: {state}\n  nats: {{ {nats} }}\n");
        let file = self.path(&format!("{id}.yaml"));
        std::fs::write(&file, head + rest).expect("written");
        self.add(id, &["agent", role, "--config", &file].map(str::to_owned));
    }

    /// Starts a process that does not run, perhaps to stall at a point.
    pub(crate) fn spawn(&mut self, name: &str, stall_at: &str) {
        let path = self.dir.path().join(format!("{name}.log"));
        let process = self.processes.get_mut(name).expect("a process of that name");
        let mut env = self.env.clone();
        env.insert("BELLWETHER_STALL_AT".to_owned(), stall_at.to_owned());
        let child = Child::spawn(&Spec {
            shim: PROGRAM.into(),
            program: PROGRAM.into(),
            args: process.args.iter().map(Into::into).collect(),
            env,
            output: Said::File(path),
        });
        process.child = Some(child.expect("started"));
    }

    /// Kills a process with signal 9, and waits until it is gone.
    pub(crate) fn kill(&mut self, name: &str) {
        println!("{:5.1} s  kill -9 {name}", self.began.elapsed().as_secs_f64());
        let child = self.processes.get_mut(name).and_then(|process| process.child.take());
        let mut child = child.expect("it runs");
        kill_9(child.pid());
        child.stop().expect("gone");
    }

    pub(crate) fn kill_and_restart(&mut self, name: &str, stall_at: &str) {
        if name == "nats-server" {
            println!("{:5.1} s  kill -9 nats-server", self.began.elapsed().as_secs_f64());
            kill_9(self.server.pid());
            return self.restart_server();
        }
        self.kill(name);
        self.spawn(name, stall_at);
    }

    /// Starts the server again, which was killed.
    pub(crate) fn restart_server(&self) {
        self.server.restart().expect("restarted");
    }

    /// Ends the server, until it is started again.
    pub(crate) fn end_server(&self) {
        kill_9(self.server.pid());
    }

    /// Every process, with what it has said.
    pub(crate) fn logs(&self) -> impl Iterator<Item = (&str, String)> {
        self.processes.keys().map(|name| (name.as_str(), self.log(name)))
    }

    /// How often a process has said that it stalls at a point.
    pub(crate) fn stalled(&self, name: &str, point: &str) -> usize {
        self.log(name).matches(&format!("stalled at {point}")).count()
    }

    /// Runs the program against this mesh, to its end.
    pub(crate) fn run(&self, args: &[&str]) -> Output {
        let mut command = Command::new(PROGRAM);
        command.args(args).env("BELLWETHER_NATS", self.url()).env("BELLWETHER_PRINCIPAL", "me");
        if !self.leaves.is_empty() {
            command.env("BELLWETHER_NATS_DOMAIN", HUB_DOMAIN);
        }
        tokio::task::block_in_place(|| command.output()).expect("the program runs")
    }

    /// Asks, and waits for what is decided.
    pub(crate) async fn ask(&self, verb: Verb, body: CommandBody) -> Outcome {
        let (service, principal) = ("shop".parse().expect("a service"), "me".parse().expect("a principal"));
        let id = format!("test-{}", self.began.elapsed().as_nanos());
        let subject = self.bus.prefix().command(&service, verb, &principal);
        let body = codec::to_json("command", &body).expect("JSON");
        self.bus.publish(subject, &id, body).await.expect("stored");
        let subject = self.bus.prefix().outcome(&service, &id.parse().expect("an id"));
        let mut outcomes = self.bus.read(Stream::Alerts, vec![subject], From::Start);
        let outcome = tokio::time::timeout(WITHIN, outcomes.next()).await.expect("decided in time");
        codec::from_json("outcome", &outcome.body).expect("an outcome")
    }

    pub(crate) async fn start_rollout(&self, release: &str) -> Outcome {
        self.start_changed(release, &[]).await
    }

    /// Starts a rollout with parts of the plan overridden, such as `stages.canary.soak=9s`.
    pub(crate) async fn start_changed(&self, release: &str, overrides: &[&str]) -> Outcome {
        let release = Some(release.parse().expect("a release"));
        let overrides = overrides.iter().map(|one| (*one).to_owned()).collect();
        let body = CommandBody { release, plan: Some(self.plan.clone()), overrides, ..CommandBody::default() };
        self.ask(Verb::Start, body).await
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
        status(&self.bus, "shop").await
    }

    /// Waits until everyone is here and every lever was read back.
    pub(crate) async fn until_ready(&self) {
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
        for entry in bucket.entries().await.unwrap_or_default() {
            here.push(codec::from_msgpack("presence", &entry.value.expect("a value")).expect("a presence"));
        }
        here
    }

    /// The log from here on.
    pub(crate) async fn log_from_now(&self) -> Log {
        let last = self.bus.state(Stream::Decisions).await.expect("the log").last;
        let reader = self.bus.read(Stream::Decisions, Vec::new(), From::Sequence(last + 1));
        Log { reader, seen: Vec::new(), bus: self.bus.clone(), service: "shop".to_owned() }
    }

    /// The whole log of one service.
    pub(crate) fn log_of(&self, service: &str) -> Log {
        let subject = self.bus.prefix().decision(&service.parse().expect("a service"));
        let reader = self.bus.read(Stream::Decisions, vec![subject], From::Start);
        Log { reader, seen: Vec::new(), bus: self.bus.clone(), service: service.to_owned() }
    }

    /// Where the platform itself says that a lever stands.
    pub(crate) fn lever(&self, lever: &str) -> String {
        let read = self.run(&["site-lever", "--admin", &self.site.admin, "read", lever]);
        let reading: serde_json::Value = serde_json::from_slice(&read.stdout).unwrap_or_default();
        reading["value"].as_str().unwrap_or("?").to_owned()
    }
}

/// The log, read on.
pub(crate) struct Log {
    reader: Reader,
    pub(crate) seen: Vec<Record>,
    bus: Bus,
    service: String,
}

impl Log {
    /// Reads on until a record gives a reason like that.
    pub(crate) async fn until(&mut self, what: &str, is_it: impl Fn(&Reason) -> bool) -> Reason {
        self.find(what, |record| record.reasons.iter().find(|reason| is_it(reason)).cloned()).await
    }

    /// Reads on until something is found in a record.
    pub(crate) async fn find<T>(&mut self, what: &str, mut look: impl FnMut(&Record) -> Option<T>) -> T {
        let until = tokio::time::Instant::now() + WITHIN;
        loop {
            let Ok(message) = tokio::time::timeout_at(until, self.reader.next()).await else {
                let status = status(&self.bus, &self.service).await;
                panic!("{} not within {} s: {what}; the status is {status:#?}", self.service, WITHIN.as_secs());
            };
            let record: Record = codec::from_json("record", &message.body).expect("a record");
            let found = look(&record);
            self.seen.push(record);
            if let Some(found) = found {
                return found;
            }
        }
    }

    pub(crate) async fn until_ended(&mut self) -> Ending {
        match self.until("the end", |reason| matches!(reason, Reason::Ended { .. })).await {
            Reason::Ended { ending, .. } => ending,
            other => panic!("{other:?}"),
        }
    }
}

async fn status(bus: &Bus, service: &str) -> Option<Status> {
    let entry = bus.kv(Bucket::Status).get(service).await.ok()??;
    codec::from_json("status", &entry.value?).ok()
}

fn rollback(admin: &str) -> String {
    let tool = format!("\"{PROGRAM}\", site-lever, --admin, \"{admin}\"");
    let lever = |lever| {
        format!(
            "    - name: {lever}\n      exec:\n        set: [{tool}, set, {lever}, \"{{value}}\"]\n        \
             read_back: [{tool}, read, {lever}]\n        history: [{tool}, history, {lever}]\n        timeout: 10s\n"
        )
    };
    "rollback:\n  service: shop\n  levers:\n".to_owned() + &["release", "stable", "traffic"].map(lever).concat()
}
