//! `bellwether rollback assess` in one process: the real judge, probes and drivers, wired as in `main`.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

use bellwether_coordinator::assess;
use bellwether_fakes::render::{Render, SiteFault, TOKEN};
use bellwether_fakes::{Fake, Family, Reply, Seen};
use bellwether_operator::{AssessArgs, Mesh};
use bellwether_protocol::plan::Validators;
use clap::Parser;
use serde_json::json;

#[derive(Debug, Parser)]
struct Cli {
    #[command(flatten)]
    mesh: Mesh,
    #[command(flatten)]
    args: AssessArgs,
}

async fn run(words: &[&str]) -> anyhow::Result<u8> {
    let Cli { mesh, args } = Cli::try_parse_from([&["assess"], words].concat())?;
    let validators: Validators = bellwether_probe::validators().into_iter().collect();
    let kinds: Vec<&str> = validators.keys().copied().collect();
    let levers = bellwether_rollback::configured(&args.config)?;
    let eyes = bellwether_probe::Eyes::open(args.probe.as_deref())?;
    Ok(args.run(&mesh, &validators, levers, assess::JUDGE, &kinds, async |glance| eyes.see(glance).await).await?)
}

/// The site of story 4: what it answers depends on the release, which the platform keeps in a file.
#[derive(Debug)]
struct Pipeline {
    dir: PathBuf,
    /// Releases without a key.
    keyless: Vec<&'static str>,
}

impl Family for Pipeline {
    fn answer(&mut self, request: &Seen) -> Reply {
        let release = fs::read_to_string(self.dir.join("release")).unwrap();
        let keys = if self.keyless.contains(&release.as_str()) { json!([]) } else { json!([{ "kty": "RSA" }]) };
        let mut reply = match request.path.as_str() {
            "/" => Reply::text(200, "hello"),
            "/health" => Reply::json(200, &json!({ "status": "healthy" })),
            "/.well-known/jwks.json" => Reply::json(200, &json!({ "keys": keys })),
            _ => Reply::text(404, "no such page"),
        };
        for (name, value) in [
            ("x-release", release.as_str()),
            ("strict-transport-security", "max-age=1"),
            ("x-content-type-options", "nosniff"),
            ("cache-control", "max-age=60"),
        ] {
            reply.headers.push((name.to_owned(), value.to_owned()));
        }
        reply
    }
}

/// A directory with everything that one assessment needs.
struct World {
    dir: tempfile::TempDir,
    site: Fake<Pipeline>,
}

impl World {
    /// A site on the first release of `history`, moved by small scripts; `keyless` ones are broken.
    async fn new(history: &[&str], keyless: &[&'static str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let site = Pipeline { dir: dir.path().to_owned(), keyless: keyless.to_vec() };
        let world = Self { site: Fake::start(site).await.unwrap(), dir };
        world.write("release", history[0]);
        world.write("history", &json!(history).to_string());
        let set = r#"[ -e "$0/refuse" ] && exit 64; echo "$1" >> "$0/moves"; printf %s "$1" > "$0/release""#;
        let read = r#"r=$(cat "$0/release"); printf '{"value":"%s","targets":[{"id":"all","value":"%s"}]}' "$r" "$r""#;
        let at = world.dir.path();
        let exec = json!({
            "set": ["sh", "-c", set, at, "{value}"],
            "read_back": ["sh", "-c", read, at],
            "history": ["cat", at.join("history")],
        });
        world.write("rollback.yaml", &agent(at, "pipeline", &json!({ "name": "release", "exec": exec })));
        let url = world.site.url.clone();
        world.plan("pipeline", &[("https://pipeline.example.com", &url)]);
        world.control(&url);
        world
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.dir.path().join(name), text).unwrap();
    }

    /// A plan of `tests/plans`, at other addresses.
    fn plan(&self, name: &str, addresses: &[(&str, &str)]) {
        self.write("plan.yaml", &plan(name, addresses));
    }

    /// The probe agent's file, with a control target.
    fn control(&self, url: &str) {
        let head = "agent: { region: east, name: p, state_dir: s, nats: { url: nats://127.0.0.1 } }";
        self.write("probe.yaml", &format!("{head}\nprobe: {{ allow: ['127.0.0.1'], control: '{url}/' }}\n"));
    }

    async fn assess(&self, more: &[&str]) -> anyhow::Result<u8> {
        assess_in(self.dir.path(), more).await
    }

    fn release(&self) -> String {
        fs::read_to_string(self.dir.path().join("release")).unwrap()
    }

    fn moves(&self) -> usize {
        fs::read_to_string(self.dir.path().join("moves")).map_or(0, |text| text.lines().count())
    }
}

fn agent(dir: &Path, service: &str, lever: &serde_json::Value) -> String {
    let agent = json!({
        "region": "east", "name": "roll-1", "state_dir": dir.join("state"), "nats": { "url": "nats://127.0.0.1:1" },
    });
    json!({ "agent": agent, "rollback": { "service": service, "levers": [lever] } }).to_string()
}

fn plan(name: &str, addresses: &[(&str, &str)]) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/plans/{name}.yaml"));
    let text = fs::read_to_string(path).unwrap();
    addresses.iter().fold(text, |text, (from, to)| text.replace(from, to))
}

async fn assess_in(dir: &Path, more: &[&str]) -> anyhow::Result<u8> {
    let [plan, config, probe] = ["plan.yaml", "rollback.yaml", "probe.yaml"].map(|name| dir.join(name));
    let [plan, config, probe] = [&plan, &config, &probe].map(|path| path.to_str().unwrap());
    let words = [plan, "--config", config, "--probe", probe, "--every", "50ms"];
    run(&[&words, more].concat()).await
}

const GONE: &str = "http://127.0.0.1:1";

#[tokio::test]
async fn each_state_of_a_release_has_its_exit_code() {
    struct Case {
        name: &'static str,
        keyless: &'static [&'static str],
        script: fn(&World),
        more: &'static [&'static str],
        exit: u8,
        release: &'static str,
    }
    let nothing: fn(&World) = |_| {};
    let unreachable: fn(&World) = |world| world.plan("pipeline", &[("https://pipeline.example.com", GONE)]);
    let cut_off: fn(&World) = |world| {
        world.plan("pipeline", &[("https://pipeline.example.com", GONE)]);
        world.control(GONE);
    };
    let case = |name, keyless, script, more, exit, release| Case { name, keyless, script, more, exit, release };
    let cases = [
        case("all well", &[], nothing, &[], 0, "v43"),
        case("well, only checked", &[], nothing, &["--check-only"], 0, "v43"),
        case("no key", &["v43"], nothing, &[], 1, "v42"),
        case("no key, only checked", &["v43"], nothing, &["--check-only", "--json"], 3, "v43"),
        case("no key, refused", &["v43"], |world| world.write("refuse", ""), &[], 5, "v43"),
        case("no key, nothing before", &["v43"], |world| world.write("history", "[\"v43\"]"), &[], 5, "v43"),
        case("no key before either", &["v43", "v42"], nothing, &[], 5, "v42"),
        case("emergency", &[], nothing, &["--emergency", "--json"], 1, "v42"),
        case("unreachable", &[], unreachable, &[], 5, "v42"),
        case("cut off", &[], cut_off, &[], 4, "v43"),
        case("cut off, in an emergency", &[], cut_off, &["--emergency"], 4, "v42"),
    ];
    for Case { name, keyless, script, more, exit, release } in cases {
        let world = World::new(&["v43", "v42", "v41"], keyless).await;
        script(&world);
        assert_eq!(world.assess(more).await.unwrap(), exit, "{name}");
        assert_eq!((world.release().as_str(), world.moves()), (release, usize::from(release != "v43")), "{name}");
    }
}

#[tokio::test]
async fn what_was_taken_back_is_nothing_to_go_back_to() {
    let world = World::new(&["v43", "v42", "v41"], &["v43", "v42"]).await;
    assert_eq!(world.assess(&[]).await.unwrap(), 5);
    // As platforms tell it: what was gone back to comes first again.
    world.write("history", r#"["v42","v43","v42","v41"]"#);
    assert_eq!(world.assess(&[]).await.unwrap(), 1);
    assert_eq!((world.release().as_str(), world.moves()), ("v41", 2));
    assert_eq!(world.assess(&[]).await.unwrap(), 0);
}

#[tokio::test]
async fn what_an_earlier_run_began_is_finished() {
    let world = World::new(&["v43", "v42"], &["v43"]).await;
    world.write("refuse", "");
    assert_eq!(world.assess(&[]).await.unwrap(), 5);
    fs::remove_file(world.dir.path().join("refuse")).unwrap();
    let begun = json!({ "begun": { "from": "v43", "to": "v42" }, "taken_back": [] });
    world.write("state/assess/pipeline.release.json", &begun.to_string());
    // It was killed after the lever had moved: it is looked at, and not moved again.
    world.write("release", "v42");
    assert_eq!(world.assess(&[]).await.unwrap(), 1);
    assert_eq!(world.moves(), 0);
    assert_eq!(world.assess(&[]).await.unwrap(), 0, "and that is over");
}

#[tokio::test]
async fn what_does_not_fit_together_is_refused_before_anything_is_done() {
    let world = World::new(&["v43", "v42"], &["v43"]).await;
    let refuses = async |more: &[&str], expected: &str| {
        let refused = world.assess(more).await.unwrap_err().to_string();
        assert!(refused.contains(expected), "{refused}");
        assert_eq!(world.moves(), 0);
    };
    refuses(&["--region", "mars"], "the plan has no region `mars`").await;
    refuses(&["--looks", "0"], "1..=100").await;
    refuses(&["--check-only", "--emergency"], "cannot be used with").await;
    world.plan("pipeline", &[("https://pipeline.example.com", "http://10.0.0.1")]);
    refuses(&[], "10.0.0.1 is not in this agent's `allow`").await;
    world.plan("shop", &[]);
    refuses(&[], "the agent's file has no lever `stable` of `shop`").await;
    let both = World::new(&["v43", "v42"], &[]).await;
    let (first, second) = tokio::join!(both.assess(&[]), both.assess(&[]));
    let ends = [first, second].map(|end| end.map_err(|error| error.to_string()));
    let busy = Err("another assessment of `release` is under way".to_owned());
    assert!(ends.contains(&Ok(0)) && ends.contains(&busy), "{ends:?}");
}

#[tokio::test]
async fn a_service_on_render_is_taken_back_with_its_auto_deploy_off() {
    const SERVICE: &str = "srv-1";
    let mut platform = Render::default().service(SERVICE, "v42");
    platform.deploy_by_hand(SERVICE, "v43");
    let service = platform.of(SERVICE);
    service.settle();
    let (release, path) = (Some("v43".to_owned()), "v1/actions/list".to_owned());
    service.faults.push(SiteFault::Answers { release, path, status: 500, times: 1_000 });
    let fake = Fake::start(platform).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
    write("token", TOKEN);
    let account = json!({
        "token": format!("file:{}", dir.path().join("token").display()),
        "api": format!("{}/v1", fake.url), "poll_every": "10ms",
    });
    let render = json!({
        "account": account, "services": [SERVICE], "pattern": "v[0-9]+", "may_switch_off_auto_deploy": true,
    });
    write("rollback.yaml", &agent(dir.path(), "fault-lens", &json!({ "name": "release", "render": render })));
    let url = format!("{}/{SERVICE}", fake.url);
    let addresses = [("https://staging.fault-lens.example.com", GONE), ("https://fault-lens.example.com", &url)];
    write("plan.yaml", &plan("fault-lens", &addresses));
    let head = "agent: { region: east, name: p, state_dir: s, nats: { url: nats://127.0.0.1 } }";
    write("probe.yaml", &format!("{head}\nprobe: {{ allow: ['127.0.0.1'] }}\n"));
    let region = ["--region", "production"];
    assert_eq!(assess_in(dir.path(), &[&region[..], &["--check-only"]].concat()).await.unwrap(), 3);
    fake.with(|platform| assert_eq!(platform.of(SERVICE).live(), Some("v43")));
    assert_eq!(assess_in(dir.path(), &region).await.unwrap(), 1);
    fake.with(|platform| {
        let service = platform.of(SERVICE);
        assert_eq!((service.live(), service.auto_deploy.as_str()), (Some("v42"), "no"));
        assert_eq!(service.deploys().last(), Some(&("rollback", "v42", "live")));
    });
    assert_eq!(assess_in(dir.path(), &region).await.unwrap(), 0);
}
