//! A region joins over a link that anybody may hear: TLS and a key between hub and leaf, an agent that the leaf
//! lets in by its own key alone, started as its unit and its container line say.

use std::path::Path;
use std::process::{Command, Stdio};

use axum::Router;
use axum::routing::get;
use bellwether_bus::child::{Child, Output, Spec};
use bellwether_bus::server::HUB_DOMAIN;
use bellwether_bus::testing::{self, connect_options, free_port};
use bellwether_bus::{Bus, ConnectError, ConnectOptions, NewUser};
use bellwether_protocol::id::AgentId;
use bellwether_protocol::subject::Bucket;
use secrecy::ExposeSecret;

use crate::mesh::PROGRAM;
use crate::run;

/// The leaf's configuration as we ship it, with what it says of links off loopback taken in.
fn leaf_conf() -> String {
    let shipped = include_str!("../../protocol/bus/src/server/leaf.conf");
    let secured = shipped.replace("  # tls {", "  tls {").replace("  # nkey:", "  nkey:");
    assert_eq!(secured.lines().zip(shipped.lines()).filter(|(own, theirs)| own != theirs).count(), 2);
    secured
}

const HUB: &str = r#"
host: "127.0.0.1"
server_name: hub
jetstream { domain: hub, sync_interval: always }
tls { cert_file: "cert.pem", key_file: "key.pem" }
leafnodes {
  host: "127.0.0.1"
  tls { cert_file: "cert.pem", key_file: "key.pem" }
  authorization { nkey: LINK }
}
ping_interval: "5s"
"#;

fn spawn(dir: &Path, program: &Path, args: &[&str], env: &[(&str, &str)], log: &str) -> Child {
    let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let spec = Spec {
        shim: PROGRAM.into(),
        program: program.into(),
        args: args.iter().map(Into::into).collect(),
        env: env.collect(),
        output: Output::File(dir.join(log)),
    };
    Child::spawn(&spec).expect("started")
}

/// Both servers and what they need, each until this is dropped.
struct Link {
    dir: tempfile::TempDir,
    hub: String,
    leaf: String,
    leaf_config: std::path::PathBuf,
    leaf_process: Child,
    _hub_process: Child,
}

impl Link {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path();
        testing::certify(path);
        let key = NewUser::generate().expect("a key");
        let binary = testing::options(path.join("none"), 0).binary;
        let [hub, leaves, leaf] = [free_port(), free_port(), free_port()];
        let text = HUB
            .replace("cert.pem", &path.join("cert.pem").display().to_string())
            .replace("key.pem", &path.join("key.pem").display().to_string())
            .replace("LINK", &key.public)
            .replace("server_name", &format!("port: {hub}\nserver_name"))
            .replace("domain: hub", &format!("domain: hub, store_dir: \"{}\"", path.join("hub").display()))
            .replace("\n  tls", &format!("\n  port: {leaves}\n  tls"));
        let config = testing::write(path, "hub.conf", &text).display().to_string();
        let hub_process = spawn(path, &binary, &["--config", &config], &[], "hub.log");
        let tls = format!("tls {{ cert_file: \"{0}/cert.pem\", key_file: \"{0}/key.pem\" }}", path.display());
        let text = format!("host: \"127.0.0.1\"\nport: {leaf}\n{tls}\n{}", leaf_conf());
        let leaf_config = testing::write(path, "leaf.conf", &text);
        let (store, ca) = (path.join("leaf").display().to_string(), path.join("cert.pem").display().to_string());
        let env = [
            ("BELLWETHER_REGION", "sjc"),
            ("BELLWETHER_HUB", &format!("nats-leaf://127.0.0.1:{leaves}")),
            ("BELLWETHER_STORE", &store),
            ("BELLWETHER_HUB_CA", &ca),
            ("BELLWETHER_LINK_SEED", key.seed.expose_secret()),
        ];
        let config = leaf_config.display().to_string();
        let leaf_process = spawn(path, &binary, &["--config", &config], &env, "leaf.log");
        let url = |port| format!("nats://127.0.0.1:{port}");
        Self { hub: url(hub), leaf: url(leaf), leaf_config, leaf_process, _hub_process: hub_process, dir }
    }

    /// What an administrator does with the printed lines: only these are let in from now on.
    fn let_in(&self, users: &[&str]) {
        let before = std::fs::read_to_string(&self.leaf_config).expect("its configuration");
        let text = format!("{before}\nauthorization {{ users: [\n{}\n] }}\n", users.join("\n"));
        std::fs::write(&self.leaf_config, text).expect("written");
        let pid = i32::try_from(self.leaf_process.pid()).ok().and_then(rustix::process::Pid::from_raw);
        rustix::process::kill_process(pid.expect("a process id"), rustix::process::Signal::HUP).expect("told");
    }

    fn authority(&self) -> String {
        self.dir.path().join("cert.pem").display().to_string()
    }

    /// Runs the program to its end; gives its exit code and what it said.
    async fn ask(&self, args: &[&str]) -> (Option<i32>, String) {
        let mut command = tokio::process::Command::new(PROGRAM);
        let asked = command.args(args).env("BELLWETHER_PRINCIPAL", "me").env("BELLWETHER_NATS_DOMAIN", HUB_DOMAIN);
        let said = asked.env("BELLWETHER_NATS_CA", self.authority()).output().await.expect("it runs");
        let text = String::from_utf8_lossy(&said.stdout).into_owned() + &String::from_utf8_lossy(&said.stderr);
        (said.status.code(), text)
    }

    fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.path().join(name)).unwrap_or_default()
    }
}

async fn is_here(bus: &Bus, agent: &str, log: impl Fn() -> String) {
    let found = testing::until(agent, async || match bus.kv(Bucket::Presence).get(agent).await {
        Ok(Some(entry)) => Ok(entry),
        other => Err(format!("{other:?}: {}", log())),
    });
    assert!(found.await.key.parse::<AgentId>().is_ok());
}

/// A token made at the hub and used up at the leaf, as one reads it from what is printed.
async fn join(link: &Link, name: &str, dir: &str, more: &[&str]) -> serde_json::Value {
    let invite =
        ["agents", "invite", "--nats", &link.hub, "--json", "--role", "probe", "--region", "sjc", "--name", name];
    let (code, invited) = link.ask(&invite).await;
    assert_eq!(code, Some(0), "{invited}");
    let invited: serde_json::Value = serde_json::from_str(&invited).expect("JSON");
    let token = invited["token"].as_str().expect("a token");
    let args = [&["agents", "join", "--nats", &link.leaf, "--json", token, "--dir", dir], more].concat();
    let (code, joined) = link.ask(&args).await;
    assert_eq!(code, Some(0), "{joined}");
    serde_json::from_str(&joined).expect("JSON")
}

/// Fills in what the probe may look at, as the first line of what is next says.
fn allow(dir: &str, site: u16) {
    let file = format!("{dir}/probe.yaml");
    let text = std::fs::read_to_string(&file).expect("its file");
    std::fs::write(&file, text.replace("allow: []", &format!("allow: [\"127.0.0.1:{site}\"]"))).expect("written");
}

/// What systemd would run: its command, as it reads it, and where.
fn unit_command(unit: &str) -> (Vec<String>, String) {
    match Command::new("systemd-analyze").args(["verify", "--man=no", unit]).output() {
        Ok(said) => {
            let text = String::from_utf8_lossy(&said.stderr).into_owned();
            assert!(said.status.success() && text.trim().is_empty(), "{text}");
        }
        Err(error) => println!("the unit is not verified: systemd-analyze: {error}"),
    }
    let text = std::fs::read_to_string(unit).expect("the unit");
    let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)).expect("a value").to_owned();
    assert_eq!(value("User="), rustix::process::getuid().as_raw().to_string());
    let words = value("ExecStart=").split(' ').map(|word| word.trim_matches('"').to_owned()).collect();
    (words, value("WorkingDirectory="))
}

/// A service on a port of the system's choice that is always well.
async fn serve() -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let routes = Router::new().route("/", get(async || ([("x-release", "v1")], "well")));
    tokio::spawn(async move { axum::serve(listener, routes).await });
    port
}

/// Ends its process, and all that it has started, when dropped.
struct Started(std::process::Child);

impl Started {
    /// As somebody else's supervisor does: nothing of ours in the environment, in a group of its own.
    fn new(command: &mut Command, log: &Path) -> Self {
        use std::os::unix::process::CommandExt;
        let log = std::fs::File::create(log).expect("a log");
        let command = command.env_clear().env("PATH", "/usr/bin:/bin").process_group(0).stdin(Stdio::null());
        Self(command.stdout(log.try_clone().expect("a log")).stderr(log).spawn().expect("started"))
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let group = i32::try_from(self.0.id()).ok().and_then(rustix::process::Pid::from_raw);
        let _ = group.map(|group| rustix::process::kill_process_group(group, rustix::process::Signal::KILL));
        let _ = self.0.wait();
    }
}

#[test]
fn a_region_joins_over_tls_with_keys() {
    run(async {
        let link = Link::new();
        let path = |name: &str| link.dir.path().canonicalize().expect("there").join(name).display().to_string();
        let (domain, ca) = (Some(HUB_DOMAIN.to_owned()), Some(link.authority().into()));
        let at_hub = ConnectOptions { domain, ca, ..connect_options(&link.hub) };
        let bus = Bus::join(&at_hub).await.expect("the hub");
        let (data, ca) = (path("coordinator"), link.authority());
        let args = ["coordinator", "--nats", &link.hub, "--nats-domain", HUB_DOMAIN, "--dir", &data, "--id", "one"];
        let args = [&args[..], &["--nats-ca", &ca]].concat();
        let _coordinator = spawn(link.dir.path(), Path::new(PROGRAM), &args, &[], "coordinator.log");
        let at_leaf = ConnectOptions { url: link.leaf.clone(), ..at_hub.clone() };
        let linked =
            async || Bus::connect(&at_leaf).await.map_err(|error| format!("{error}: {}", link.log("leaf.log")));
        testing::until("the link", linked).await;

        let (one, two) = (path("one"), path("two"));
        let joined = join(&link, "one", &one, &[]).await;
        let contained = join(&link, "two", &two, &["--container"]).await;
        let users = [&joined, &contained].map(|joined| joined["user"].as_str().expect("a line"));
        link.let_in(&users);
        let refused = async || match Bus::connect(&at_leaf).await {
            Err(ConnectError::Refused { .. }) => Ok(()),
            other => Err(format!("{:?}: {}", other.map(drop), link.log("leaf.log"))),
        };
        testing::until("strangers to be refused", refused).await;

        let site = serve().await;
        [&one, &two].into_iter().for_each(|dir| allow(dir, site));
        let (words, place) = unit_command(&format!("{one}/bellwether-sjc-one.service"));
        assert_eq!((words[0].as_str(), &place), (PROGRAM, &one));
        let log = link.dir.path().join("one.log");
        let _one = Started::new(Command::new(&words[0]).args(&words[1..]).current_dir(&place), &log);
        is_here(&bus, "sjc.probe.one", || link.log("one.log")).await;

        // Who has a key of the mesh may ask, also where strangers are refused.
        let listed =
            link.ask(&["agents", "list", "--nats", &link.leaf, "--credentials", &format!("{one}/agent.nk")]).await;
        assert!(listed.0 == Some(0) && listed.1.contains("sjc/one"), "{listed:?}");

        // The line for a container, read by a shell; what stands in for `docker` runs what is behind the image.
        let bin = testing::write(
            &link.dir.path().join("bin"),
            "docker",
            &format!("#!/bin/sh\nwhile [ \"$1\" != bellwether ]; do shift; done; shift\nexec {PROGRAM} \"$@\"\n"),
        );
        let mode = <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o755);
        std::fs::set_permissions(&bin, mode).expect("runs");
        let line = contained["next"][1].as_str().expect("a line");
        assert!(line.starts_with("docker run ") && line.contains(&format!("--volume {two}:{two}")), "{line}");
        let line = line.replacen("docker", &bin.display().to_string(), 1);
        let log = link.dir.path().join("two.log");
        let _two = Started::new(Command::new("sh").args(["-c", &line]), &log);
        is_here(&bus, "sjc.probe.two", || link.log("two.log")).await;

        // And what they see reaches the coordinator, which decides on it.
        let plan = format!(
            "service: hello\nslot: 1s\ngrace: 1s\nquorum: 2\nregions: {{ sjc: \"http://127.0.0.1:{site}\" }}\n\
             fingerprint: {{ header: x-release }}\nslis: [{{ name: home, every: 200ms, http: {{ path: / }} }}]\n\
             criteria: [{{ name: down, must: never 3 slots down }}]\nstages: [{{ name: live, soak: 3s }}]\n"
        );
        let plan = testing::write(link.dir.path(), "plan.yaml", &plan).display().to_string();
        let start = ["rollout", "start", &plan, "--release", "v1", "--shadow", "--wait", "--plain", "--timeout", "60s"];
        let (code, said) = link.ask(&[&start[..], &["--nats", &link.hub]].concat()).await;
        assert_eq!(code, Some(0), "{said}\n{}\n{}", link.log("one.log"), link.log("coordinator.log"));
    });
}
