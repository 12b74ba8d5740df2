//! The bus against a real `nats-server`, killed and started again.
//!
//! This program is its own harness, so that it can also be the shim under which servers run.

#![expect(clippy::expect_used, clippy::panic, reason = "a test")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use bellwether_bus::server::{LocalServer, StartServerError};
use bellwether_bus::testing::{Test, WITHIN, World, certify, connect_options, harness, options, until};
use bellwether_bus::{
    AppendError, Bus, ConnectError, ConnectOptions, Credentials, From, JoinError, KvError, NewUser, Next,
    ProvisionError, PublishError, child, user_line,
};
use bellwether_protocol::cloud_event::CloudEvent;
use bellwether_protocol::command::Verb;
use bellwether_protocol::id::AgentId;
use bellwether_protocol::subject::{Bucket, Stream};
use bellwether_protocol::time::Timestamp;
const TESTS: [Test; 17] = bellwether_bus::tests![
    provisioning_is_idempotent_and_repairs,
    a_repeated_publish_is_stored_once,
    an_append_is_fenced,
    a_reader_survives_a_killed_server,
    a_reader_notices_a_lost_stream,
    a_watch_survives_a_killed_server,
    keys_are_compared_and_set,
    an_old_server_is_refused,
    an_absent_server_is_named,
    wrong_credentials_are_named,
    a_denied_subject_is_named,
    a_trigger_may_start_in_its_own_name_and_no_more,
    a_user_line_allows_what_an_agent_does_and_no_more,
    a_server_that_may_lose_what_it_acknowledged_is_named,
    a_server_is_supervised_and_dies_with_its_pipe,
    a_server_is_trusted_by_its_authority,
    a_server_dies_with_a_killed_parent,
];

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    if args.next().is_some_and(|arg| arg == HOLD) {
        return hold(args.next().expect("a directory").into());
    }
    harness(&TESTS, WITHIN)
}

async fn kill_and_restart(world: &World) {
    world.kill();
    world.restart().await;
}

fn subject(text: &str) -> String {
    format!("bw.decision.{text}")
}

async fn provisioning_is_idempotent_and_repairs() {
    let world = World::new().await;
    let bus = world.bus.clone();
    bus.provision().await.expect("twice");
    let client = async_nats::connect(world.server.url()).await.expect("connected");
    let admin = async_nats::jetstream::new(client);
    let mut config = admin.get_stream("bw-samples").await.expect("there").cached_info().config.clone();
    config.max_bytes = 1 << 20;
    admin.update_stream(config).await.expect("changed");
    bus.provision().await.expect("repaired");
    let stream = admin.get_stream("bw-samples").await.expect("there");
    assert_eq!(stream.cached_info().config.max_bytes, 1 << 30);
    assert!(stream.cached_info().config.persist_mode.is_some());
    // What a server does not let anyone change is named.
    admin.delete_stream("bw-decisions").await.expect("deleted");
    let other = async_nats::jetstream::stream::Config {
        name: "bw-decisions".to_owned(),
        subjects: vec!["bw.decision.>".to_owned()],
        storage: async_nats::jetstream::stream::StorageType::Memory,
        ..Default::default()
    };
    admin.create_stream(other).await.expect("created");
    let error = bus.provision().await.expect_err("memory is not a log");
    let text = format!("{error}");
    assert!(matches!(error, ProvisionError::Api { .. } | ProvisionError::Differs { .. }), "{text}");
    assert!(text.contains("bw-decisions"), "{text}");
}

async fn a_repeated_publish_is_stored_once() {
    let world = World::new().await;
    let bus = world.bus.clone();
    let first = bus.publish("bw.alert.page.shop".to_owned(), "one", b"{}".to_vec()).await.expect("stored");
    let again = bus.publish("bw.alert.page.shop".to_owned(), "one", b"{}".to_vec()).await.expect("stored");
    assert_eq!((first.seq, first.duplicate), (1, false));
    assert_eq!((again.seq, again.duplicate), (1, true));
    // Published while the server is away: stored when it is back, once.
    let late = bus.clone();
    kill_and_restart(&world).await;
    let stored = late.publish("bw.alert.page.shop".to_owned(), "two", b"{}".to_vec()).await.expect("stored");
    assert_eq!(stored.seq, 2);
    let error = bus.publish("bw.alert.page.shop".to_owned(), "big", vec![0; 2 << 20]).await.expect_err("too big");
    assert!(matches!(error, PublishError::Refused { .. }), "{error}");
}

async fn an_append_is_fenced() {
    let world = World::new().await;
    let bus = world.bus.clone();
    let append = async |id: &str, expected: u64| {
        let event = CloudEvent::new(bus.prefix(), "decision", id.to_owned(), "shop".to_owned(), Timestamp::default());
        bus.append(subject("shop"), expected, &event, id.as_bytes().to_vec()).await
    };
    assert_eq!(append("a", 0).await.expect("first"), 1);
    assert!(matches!(append("b", 0).await, Err(AppendError::Conflict { .. })));
    assert_eq!(append("a", 0).await.expect("our own, again"), 1);
    assert_eq!(append("c", 1).await.expect("second"), 2);
    kill_and_restart(&world).await;
    assert!(matches!(append("d", 1).await, Err(AppendError::Conflict { .. })));
    assert_eq!(append("d", 2).await.expect("third"), 3);
    let last = bus.last(Stream::Decisions, &subject("shop")).await.expect("read").expect("there");
    assert_eq!((last.seq, last.id.as_deref(), last.body.as_slice()), (3, Some("d"), b"d".as_slice()));
    assert_eq!(bus.last(Stream::Decisions, &subject("other")).await.expect("read"), None);
    assert_eq!(bus.state(Stream::Decisions).await.expect("read").last, 3);
}

async fn a_reader_survives_a_killed_server() {
    let world = World::new().await;
    let bus = world.bus.clone();
    let mut all = bus.read(Stream::Decisions, Vec::new(), From::Start);
    let publish = async |n: u64| {
        let service = ["a", "b", "c"][usize::try_from(n % 3).expect("small")];
        bus.publish(subject(service), &format!("m{n}"), n.to_string().into_bytes()).await.expect("stored");
    };
    publish(0).await;
    let mut one = bus.read(Stream::Decisions, vec![subject("a"), subject("b")], From::Sequence(2));
    for n in 1..300 {
        publish(n).await;
        if n == 100 || n == 200 {
            kill_and_restart(&world).await;
        }
    }
    let mut last = Timestamp::default();
    for n in 0..300_u64 {
        let message = all.next().await;
        assert_eq!((message.seq, message.body), (n + 1, n.to_string().into_bytes()));
        assert!(message.at >= last && message.id == Some(format!("m{n}")));
        last = message.at;
    }
    for n in (1..300).filter(|n| n % 3 != 2) {
        assert_eq!(one.next().await.seq, n + 1);
    }
    let mut new = bus.read(Stream::Decisions, Vec::new(), From::Sequence(301));
    publish(300).await;
    assert_eq!(new.next().await.seq, 301);
}

async fn a_reader_notices_a_lost_stream() {
    let world = World::new().await;
    let bus = world.bus.clone();
    let mut reader = bus.read(Stream::Alerts, Vec::new(), From::Start);
    for n in 0..3 {
        bus.publish("bw.alert.page.shop".to_owned(), &format!("m{n}"), Vec::new()).await.expect("stored");
        reader.next().await;
    }
    let admin = async_nats::jetstream::new(async_nats::connect(world.server.url()).await.expect("connected"));
    admin.delete_stream("bw-alerts").await.expect("deleted");
    bus.provision().await.expect("created anew");
    bus.publish("bw.alert.page.shop".to_owned(), "again", b"again".to_vec()).await.expect("stored");
    let Next::Reset(state) = reader.next_or_reset().await else { panic!("nothing was noticed") };
    assert!(state.last <= 1 && state.created == bus.state(Stream::Alerts).await.expect("a stream").created);
    let message = reader.next().await;
    assert_eq!((message.seq, message.body.as_slice()), (1, b"again".as_slice()));
}

async fn a_watch_survives_a_killed_server() {
    let world = World::new().await;
    let bus = world.bus.clone();
    let kv = bus.kv(Bucket::Assignments);
    kv.put("sjc.shop", b"1".to_vec()).await.expect("stored");
    kv.put("sjc.other", b"1".to_vec()).await.expect("stored");
    kv.put("sjc.shop", b"2".to_vec()).await.expect("stored");
    let mut watch = kv.watch();
    let until = async |watch: &mut bellwether_bus::KvWatch, key: &str, value: Option<&[u8]>| {
        loop {
            let entry = watch.next().await;
            if entry.key == key && entry.value.as_deref() == value {
                return;
            }
        }
    };
    until(&mut watch, "sjc.shop", Some(b"2")).await;
    kill_and_restart(&world).await;
    kv.put("sjc.shop", b"3".to_vec()).await.expect("stored");
    until(&mut watch, "sjc.shop", Some(b"3")).await;
    kv.delete("sjc.shop").await.expect("deleted");
    until(&mut watch, "sjc.shop", None).await;
    let entries = kv.entries().await.expect("read");
    assert_eq!(entries.iter().map(|entry| entry.key.as_str()).collect::<Vec<_>>(), ["sjc.other"]);
}

async fn keys_are_compared_and_set() {
    let world = World::new().await;
    let bus = world.bus.clone();
    let kv = bus.kv(Bucket::Claims);
    let first = kv.create("shop.traffic", b"a".to_vec()).await.expect("created");
    assert!(matches!(kv.create("shop.traffic", b"b".to_vec()).await, Err(KvError::Conflict { .. })));
    let second = kv.update("shop.traffic", b"a".to_vec(), first).await.expect("updated");
    assert!(matches!(kv.update("shop.traffic", b"b".to_vec(), first).await, Err(KvError::Conflict { .. })));
    let entry = kv.get("shop.traffic").await.expect("read").expect("there");
    assert_eq!((entry.revision, entry.value.as_deref()), (second, Some(b"a".as_slice())));
    kv.delete("shop.traffic").await.expect("deleted");
    kv.delete("shop.traffic").await.expect("deleted already");
    assert_eq!(kv.get("shop.traffic").await.expect("read"), None);
    kv.create("shop.traffic", b"b".to_vec()).await.expect("created over a deletion");
    assert!(matches!(kv.put("a key", Vec::new()).await, Err(KvError::Key(_))));
    // Seen by any other client as an ordinary bucket.
    let other = async_nats::jetstream::new(async_nats::connect(world.server.url()).await.expect("connected"));
    let store = other.get_key_value("bw-claims").await.expect("a bucket");
    assert_eq!(store.get("shop.traffic").await.expect("read").as_deref(), Some(b"b".as_slice()));
}

/// Says the little that a client needs to hear from a server of 2023.
fn pretend_old_server() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("nats://{}", listener.local_addr().expect("an address"));
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client");
        let info = r#"{"server_id":"X","server_name":"old","version":"2.9.10","go":"go1.19","host":"127.0.0.1","port":4222,"headers":true,"max_payload":1048576,"jetstream":true,"proto":1,"client_id":1}"#;
        stream.write_all(format!("INFO {info}\r\n").as_bytes()).expect("written");
        let mut seen = Vec::new();
        let mut buffer = [0; 1024];
        while let Ok(n @ 1..) = std::io::Read::read(&mut stream, &mut buffer) {
            seen.extend_from_slice(&buffer[..n]);
            if seen.ends_with(b"PING\r\n") {
                stream.write_all(b"PONG\r\n").expect("written");
                seen.clear();
            }
        }
    });
    url
}

async fn an_old_server_is_refused() {
    let error = Bus::join(&connect_options(&pretend_old_server())).await.expect_err("too old");
    let text = error.to_string();
    assert!(matches!(error, JoinError::Connect(ConnectError::TooOld { .. })), "{text}");
    assert!(text.contains("old") && text.contains("2.9.10") && text.contains("2.12"), "{text}");
}

async fn an_absent_server_is_named() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("nats://{}", listener.local_addr().expect("an address"));
    drop(listener);
    let error = Bus::connect(&connect_options(&url)).await.expect_err("nobody there");
    assert!(matches!(error, ConnectError::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains(&url), "{error}");
}

/// A server with users, which [`LocalServer`] does not configure: its configuration, run directly.
async fn a_server_is_trusted_by_its_authority() {
    let (mut child, url, dir) = guarded().await;
    let with = |name: &str| ConnectOptions { ca: Some(dir.path().join(name)), ..as_user(&url, "admin", "right") };
    // Who names an authority wants TLS, and nothing less.
    let error = Bus::connect(&with("cert.pem")).await.expect_err("no TLS");
    assert!(matches!(error, ConnectError::Tls { .. }), "{error:?}");
    tokio::task::spawn_blocking(move || child.stop()).await.expect("not cancelled").expect("stopped");

    let tls = |dir: &Path| format!("tls {{ cert_file: \"{0}/cert.pem\", key_file: \"{0}/key.pem\" }}", dir.display());
    let (mut child, url, dir) = guarded_with("", tls).await;
    let with = |name: &str| ConnectOptions { ca: Some(dir.path().join(name)), ..as_user(&url, "admin", "right") };
    Bus::connect(&with("cert.pem")).await.expect("trusted");
    let error = Bus::connect(&as_user(&url, "admin", "right")).await.expect_err("a stranger");
    assert!(matches!(error, ConnectError::Tls { .. }) && error.to_string().contains("`--nats-ca`"), "{error:?}");
    for name in ["nowhere.pem", "key.pem"] {
        let error = Bus::join(&with(name)).await.expect_err("no authority").to_string();
        assert!(error.contains(name), "{error}");
    }
    tokio::task::spawn_blocking(move || child.stop()).await.expect("not cancelled").expect("stopped");
}

async fn guarded() -> (child::Child, String, tempfile::TempDir) {
    let probe = "{ user: probe, password: right, permissions: { publish: [\"$JS.API.>\", \"bw.sample.>\"], subscribe: [\"_INBOX.>\"] } }";
    guarded_with(probe, |_| String::new()).await
}

/// `more` is added to the configuration; it may name the certificate in the directory.
async fn guarded_with(user: &str, more: impl Fn(&Path) -> String) -> (child::Child, String, tempfile::TempDir) {
    let dir = tempfile::tempdir().expect("a directory");
    certify(dir.path());
    let more = more(dir.path());
    let options = options(dir.path().to_owned(), 0);
    let config = dir.path().join("guarded.conf");
    let text = format!(
        "host: \"127.0.0.1\"\nport: -1\nhttp: \"127.0.0.1:-1\"\nports_file_dir: \"{0}\"\njetstream {{ store_dir: \"{0}/store\" }}\n\
         authorization {{ users: [\n {{ user: admin, password: right }}\n {user}\n] }}\n{1}\n",
        dir.path().display(),
        more
    );
    std::fs::write(&config, text).expect("written");
    let spec = child::Spec {
        shim: options.shim,
        program: options.binary,
        args: vec!["--config".into(), config.into()],
        env: Default::default(),
        output: child::Output::File(dir.path().join("log")),
    };
    let child = child::Child::spawn(&spec).expect("started");
    let url = listens_at(&child, &dir, if more.is_empty() { "nats://" } else { "tls://" }).await;
    let url = url.replace("tls://", "nats://");
    (child, url, dir)
}

async fn listens_at(child: &child::Child, dir: &tempfile::TempDir, scheme: &str) -> String {
    let file = dir.path().join(format!("nats-server_{}.ports", child.pid()));
    loop {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        if let Some(found) = text.split('"').find(|part| part.starts_with(scheme) && text.ends_with('}')) {
            return found.to_owned();
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn a_server_that_may_lose_what_it_acknowledged_is_named() {
    let own = World::new().await;
    assert_eq!(own.bus.sync_doubt(None).await, None);
    let (mut child, url, dir) = guarded().await;
    let bus = Bus::connect(&as_user(&url, "admin", "right")).await.expect("let in");
    let monitor = listens_at(&child, &dir, "http://").await;
    let nats = url.replace("nats://", "http://");
    for (asked, word) in [
        (None, "--nats-monitor"),
        (Some(monitor.as_str()), "does not sync every write"),
        (Some(nats.as_str()), "could not be asked"),
        (Some("https://127.0.0.1:1"), "write http://HOST:PORT"),
    ] {
        let doubt = bus.sync_doubt(asked).await.expect("a doubt");
        assert!(doubt.contains(word) && doubt.contains("sync_interval: always"), "{doubt}");
    }
    tokio::task::spawn_blocking(move || child.stop()).await.expect("not cancelled").expect("stopped");
}

/// The verb under which this program is a parent that only holds a server, to be killed.
const HOLD: &str = "hold-a-server";

fn hold(dir: PathBuf) -> ExitCode {
    let server = LocalServer::start(&options(dir, 0)).expect("a server");
    println!("{}", server.pid());
    loop {
        std::thread::park();
    }
}

async fn a_server_dies_with_a_killed_parent() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut parent = std::process::Command::new(std::env::current_exe().expect("our own path"))
        .arg(HOLD)
        .arg(dir.path())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("a parent");
    let mut line = String::new();
    let stdout = parent.stdout.take().expect("piped");
    std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line).expect("a process id");
    let server = PathBuf::from(format!("/proc/{}", line.trim()));
    assert!(server.exists());
    parent.kill().expect("killed, as by `kill -9`");
    parent.wait().expect("dead");
    while server.exists() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn as_user(url: &str, user: &str, password: &str) -> ConnectOptions {
    let credentials = Credentials::UserPassword { user: user.to_owned(), password: password.to_owned().into() };
    ConnectOptions { credentials: Some(credentials), ..connect_options(url) }
}

async fn wrong_credentials_are_named() {
    let (mut child, url, _dir) = guarded().await;
    for (options, shown) in [(connect_options(&url), "none were given"), (as_user(&url, "admin", "wrong"), "`admin`")] {
        let error = Bus::join(&options).await.expect_err("refused");
        let text = error.to_string();
        assert!(matches!(error, JoinError::Connect(ConnectError::Refused { .. })), "{text}");
        assert!(text.contains(shown) && !text.contains("wrong"), "{text}");
    }
    Bus::connect(&as_user(&url, "admin", "right")).await.expect("let in");
    tokio::task::spawn_blocking(move || child.stop()).await.expect("not cancelled").expect("stopped");
}

async fn a_denied_subject_is_named() {
    let (mut child, url, _dir) = guarded().await;
    Bus::connect(&as_user(&url, "admin", "right")).await.expect("let in").provision().await.expect("provisioned");
    let probe = Bus::connect(&as_user(&url, "probe", "right")).await.expect("let in");
    probe.publish("bw.sample.sjc.probe.one".to_owned(), "a", Vec::new()).await.expect("allowed");
    let error = probe.publish("bw.command.shop.pause.me".to_owned(), "b", Vec::new()).await.expect_err("denied");
    assert!(matches!(error, PublishError::Forbidden { .. }), "{error}");
    tokio::task::spawn_blocking(move || child.stop()).await.expect("not cancelled").expect("stopped");
}

async fn a_user_line_allows_what_an_agent_does_and_no_more() {
    let agent: AgentId = "sjc.probe.one".parse().expect("an agent");
    let user = NewUser::generate().expect("a key");
    let prefix = connect_options("").prefix;
    let (mut child, url, _dir) = guarded_with(&user_line(&prefix, &agent, None, &user.public), |_| String::new()).await;
    let admin = Bus::connect(&as_user(&url, "admin", "right")).await.expect("let in");
    admin.provision().await.expect("provisioned");
    let options = ConnectOptions { credentials: Some(Credentials::NkeySeed(user.seed)), ..connect_options(&url) };
    let bus = Bus::connect(&options).await.expect("let in");
    bus.provision().await.expect("all is as it must be");
    let presence = bus.kv(Bucket::Presence);
    presence.put("sjc.probe.one", b"here".to_vec()).await.expect("its own");
    presence.get("sjc.probe.one").await.expect("read");
    let stored = bus.publish(prefix.sample(&agent), "a", Vec::new()).await.expect("its own");
    bus.at(Stream::Samples, stored.seq).await.expect("looked at").expect("still there");
    admin.kv(Bucket::Assignments).put("sjc.shop", b"look".to_vec()).await.expect("assigned");
    assert_eq!(bus.kv(Bucket::Assignments).watch().next().await.key, "sjc.shop");
    for other in ["bw.sample.iad.probe.one", "bw.sample.sjc.probe.two", "bw.command.shop.pause.me", "bw.decision.shop"]
    {
        let error = bus.publish(other.to_owned(), other, Vec::new()).await.expect_err("denied");
        assert!(matches!(error, PublishError::Forbidden { .. }), "{error}");
    }
    assert!(presence.put("sjc.probe.two", Vec::new()).await.is_err());
    assert!(bus.kv(Bucket::Assignments).put("sjc.shop", Vec::new()).await.is_err());
    tokio::task::spawn_blocking(move || child.stop()).await.expect("not cancelled").expect("stopped");
}

async fn a_trigger_may_start_in_its_own_name_and_no_more() {
    let agent: AgentId = "sjc.trigger.one".parse().expect("an agent");
    let user = NewUser::generate().expect("a key");
    let prefix = connect_options("").prefix;
    let line = user_line(&prefix, &agent, None, &user.public);
    // What its messages come on is added by hand.
    let line = line.replace("\"_INBOX.>\"", "\"_INBOX.>\", \"ci.deployed\"");
    let (mut child, url, _dir) = guarded_with(&line, |_| String::new()).await;
    let admin = Bus::connect(&as_user(&url, "admin", "right")).await.expect("let in");
    admin.provision().await.expect("provisioned");
    let options = ConnectOptions { credentials: Some(Credentials::NkeySeed(user.seed)), ..connect_options(&url) };
    let bus = Bus::connect(&options).await.expect("let in");
    bus.provision().await.expect("all is as it must be");
    let start =
        |name: &str| prefix.command(&"shop".parse().expect("a service"), Verb::Start, &name.parse().expect("a name"));
    bus.publish(start("one"), "a", Vec::new()).await.expect("its own");
    let pause = "bw.command.shop.pause.one".to_owned();
    let outcome = "bw.outcome.shop.a".to_owned();
    for other in [start("two"), start("alice"), pause, outcome.clone(), "bw.decision.shop".to_owned()] {
        let error = bus.publish(other.clone(), &other, Vec::new()).await.expect_err("denied");
        assert!(matches!(error, PublishError::Forbidden { .. }), "{other}: {error}");
    }
    assert!(bus.kv(Bucket::Status).put("shop", Vec::new()).await.is_err());
    // It hears what was decided, where a rollout stands, and its messages.
    admin.publish(outcome.clone(), "b", b"done".to_vec()).await.expect("stored");
    let mut outcomes = bus.read(Stream::Alerts, vec![outcome.clone()], From::Start);
    assert_eq!(outcomes.next().await.body, b"done");
    bus.last(Stream::Alerts, &outcome).await.expect("looked at").expect("there");
    admin.kv(Bucket::Status).put("shop", b"on".to_vec()).await.expect("said");
    bus.kv(Bucket::Status).get("shop").await.expect("looked at").expect("there");
    admin.kv(Bucket::Presence).put("sjc.rollback.one", b"here".to_vec()).await.expect("said");
    assert_eq!(bus.kv(Bucket::Presence).watch().next().await.key, "sjc.rollback.one");
    let mut ear = bus.subscribe("ci.deployed").await.expect("a subject");
    let nats = async_nats::ConnectOptions::with_user_and_password("admin".to_owned(), "right".to_owned());
    let nats = nats.connect(&url).await.expect("let in");
    until("it hears", async || {
        nats.publish("ci.deployed", "v43".into()).await.map_err(|error| error.to_string())?;
        ear.take().ok_or_else(|| "nothing".to_owned())
    })
    .await;
    tokio::task::spawn_blocking(move || child.stop()).await.expect("not cancelled").expect("stopped");
}

async fn a_server_is_supervised_and_dies_with_its_pipe() {
    let world = World::new().await;
    let supervised = Arc::clone(&world.server);
    let supervisor = tokio::spawn(async move { supervised.supervise().await });
    let bus = world.bus.clone();
    let first = world.server.pid();
    world.kill();
    bus.publish("bw.alert.page.shop".to_owned(), "after", Vec::new()).await.expect("stored after it came back");
    assert_ne!(world.server.pid(), first);
    // Its port is taken while it runs.
    let port = world.server.url().rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
    let taken = options(world.dir.path().join("second"), port);
    let error = tokio::task::spawn_blocking(move || LocalServer::start(&taken)).await.expect("not cancelled");
    assert!(matches!(error, Err(StartServerError::PortInUse(_))), "{error:?}");
    let pid = world.server.pid();
    let server = Arc::clone(&world.server);
    tokio::task::spawn_blocking(move || server.stop()).await.expect("not cancelled").expect("stopped");
    supervisor.await.expect("ended");
    assert!(!PathBuf::from(format!("/proc/{pid}")).exists(), "nats-server {pid} still runs");
}
