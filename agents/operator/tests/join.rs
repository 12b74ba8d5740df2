//! Joining by token on a real `nats-server`: once, in time, and with a folder that is whole or not there. And
//! a server on which there is no mesh to join.

#![expect(clippy::expect_used, clippy::panic, reason = "a test")]

use std::os::unix::fs::PermissionsExt;
use std::process::ExitCode;

use bellwether_bus::testing::{Test, WITHIN, World, harness};
use bellwether_operator::{AgentsVerb, InviteArgs, JoinArgs, Judge, Mesh, Verb};
use bellwether_protocol::plan::Validators;
use bellwether_protocol::time::{Span, Timestamp};
use clap::Parser;

const TESTS: [Test; 2] = bellwether_bus::tests![a_command_to_nobody_is_told_at_once, a_token_makes_one_agent];

fn main() -> ExitCode {
    harness(&TESTS, WITHIN)
}

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    mesh: Mesh,
    #[command(subcommand)]
    verb: AgentsVerb,
}

fn invite(flags: &str) -> InviteArgs {
    let line = format!("agents invite --role probe --region sjc --as ann {flags}");
    match Line::parse_from(line.split_whitespace()).verb {
        AgentsVerb::Invite(args) => args,
        other => panic!("{other:?}"),
    }
}

fn join(world: &World, token: &str, dir: &std::path::Path) -> (Mesh, JoinArgs) {
    let dir = dir.to_str().expect("text");
    let line = Line::parse_from(["agents", "--nats", world.server.url(), "join", token, "--dir", dir]);
    match line.verb {
        AgentsVerb::Join(args) => (line.mesh, args),
        other => panic!("{other:?}"),
    }
}

/// Nothing is judged here.
const JUDGE: Judge = Judge {
    backtest: |_| Err("not asked".into()),
    dry_run: |_, _, _| Err("not asked".into()),
    evidence: |_, _, _| Err("not asked".into()),
    explain: |_, _| Err("not asked".into()),
    power: |_, _| Vec::new(),
    records: |_| Err("not asked".into()),
    report: |_, _| Err("not asked".into()),
    verify: |_| Err("not asked".into()),
};

#[derive(Debug, Parser)]
struct Whole {
    #[command(flatten)]
    mesh: Mesh,
    #[command(subcommand)]
    verb: Verb,
}

async fn a_command_to_nobody_is_told_at_once() {
    let world = World::new().await;
    let line =
        ["bellwether", "--nats", world.server.url(), "--prefix", "nobody", "command", "pause", "shop", "--as", "ann"];
    let Whole { mesh, verb } = Whole::parse_from(line);
    let error = verb.run(&mesh, &Validators::new(), &JUDGE).await.expect_err("there is no stream");
    assert!(error.to_string().contains("`nobody-inbox`") && error.exit_code() == 4, "{error}");
    assert!(error.hint().is_some_and(|hint| hint.starts_with("bellwether doctor")), "{error}");
}

async fn a_token_makes_one_agent() {
    let world = World::new().await;
    let now: Timestamp = "2026-05-05T14:00:00Z".parse().expect("an instant");
    let dir = |name: &str| world.dir.path().canonicalize().expect("there").join(name);
    let invited = invite("").invite(&world.bus, now).await.expect("invited");
    let kept = world.bus.kv(bellwether_protocol::subject::Bucket::Invites).entries().await.expect("read");
    assert!(
        kept.iter()
            .all(|entry| !String::from_utf8_lossy(entry.value.as_deref().unwrap_or_default()).contains(&invited.token))
    );

    let refused = async |token: &str, name: &str, now: Timestamp, why: &str| {
        let (mesh, args) = join(&world, token, &dir(name));
        let error = args.join(&world.bus, &mesh, now).await.expect_err("refused");
        assert!(error.to_string().contains(why) && error.exit_code() == 2, "{error}");
        assert!(!dir(&format!("{name}.joining")).exists());
    };
    refused("0123", "unknown", now, "not known").await;
    refused(&invited.token, "late", now + Span::from_secs(86_401), "was good until 2026-05-06").await;
    std::fs::create_dir(dir("full")).expect("made");
    std::fs::write(dir("full").join("probe.yaml"), "mine").expect("written");
    refused(&invited.token, "full", now, "full/probe.yaml").await;

    // Two at once: one of them joins.
    let ((mesh, one), (_, other)) = (join(&world, &invited.token, &dir("a")), join(&world, &invited.token, &dir("b")));
    let (one, other) = tokio::join!(one.join(&world.bus, &mesh, now), other.join(&world.bus, &mesh, now));
    assert!(one.is_ok() != other.is_ok(), "{one:?} {other:?}");
    assert!(dir("a").exists() != dir("b").exists() && !dir("late").exists() && !dir("unknown").exists());
    refused(&invited.token, "again", now, "was used at 2026-05-05").await;

    let joined = one.or(other).expect("one of them");
    // A join that was cut off after it had used the token goes on.
    let own = joined.written[0].parent().expect("a folder").to_owned();
    let staged = own.with_extension("joining");
    std::fs::rename(&own, &staged).expect("as it was before its last step");
    refused(&invited.token, "elsewhere", now, "was used at 2026-05-05").await;
    let (mesh, args) = join(&world, &invited.token, &own);
    let again = args.join(&world.bus, &mesh, now).await.expect("goes on");
    assert_eq!((again.user == joined.user, again.written.len(), staged.exists()), (true, 3, false), "{again:?}");
    let second = invite("--name two").invite(&world.bus, now).await.expect("invited");
    std::fs::create_dir(dir("left.joining")).expect("made");
    let (mesh, args) = join(&world, &second.token, &dir("left"));
    let error = args.join(&world.bus, &mesh, now).await.expect_err("in the way");
    assert!(error.to_string().contains("rm -r ") && error.exit_code() == 2, "{error}");
    std::fs::remove_dir(dir("left.joining")).expect("removed, as it says");
    args.join(&world.bus, &mesh, now).await.expect("joined");
    assert_eq!(joined.agent.to_string(), "sjc.probe.probe-1");
    let [seed, config, unit] = joined.written.as_slice() else { panic!("{joined:?}") };
    assert_eq!(std::fs::metadata(seed).expect("there").permissions().mode() & 0o777, 0o600);
    let read = |path| std::fs::read_to_string(path).expect("read");
    assert!(read(seed).starts_with("SU") && read(unit).contains("agent probe --config /"));
    let text = read(config);
    let read: serde_json::Value = bellwether_runtime::parse_config("probe.yaml", &text).expect("a configuration");
    assert_eq!(read["agent"]["region"], "sjc", "{text}");
}
