//! Story 3 from end to end: `tests/plans/fault-lens.yaml`, shortened, against a service that runs on Render.
//!
//! | what happens | what follows |
//! |---|---|
//! | nothing | each stage waits for a person, who approves |
//! | nobody looks for a while | the stage takes longer by just that |
//! | one 5xx, a missing action, a SIGNED suggestion | the flag goes off, and the refusals prove it |
//! | too few handlers, whatever the flag | the flag goes off, then the release goes back |
//! | a variable is switched off by hand | it is switched on again, once |
//! | somebody else deploys | the flag goes off, then the release goes back |

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bellwether_fakes::Fake;
use bellwether_fakes::render::{Render, SITE_FLAGS, SiteFault, TOKEN};
use bellwether_protocol::alert::Alert;
use bellwether_protocol::reason::{Ending, Hold, Reason};
use bellwether_protocol::record::{Input, Record, Series};
use futures_util::future::join_all;
use serde_json::json;

use crate::mesh::{Log, Mesh, WITHIN};
use crate::{run, transcript};

const PLAN: &str = include_str!("../plans/fault-lens.yaml");
const STAGES: [&str; 4] = ["staging-canary", "staging", "production-canary", "production"];
/// Where the plan says that the service is, by environment.
const ENVIRONMENTS: [(&str, &str); 2] =
    [("staging", "https://staging.fault-lens.example.com"), ("production", "https://fault-lens.example.com")];
/// The release before, the one that is brought out, and one that nobody planned.
const OLD: &str = "v1";
const NEW: &str = "v2";
const FOREIGN: &str = "v9";
/// Slots of a soak.
const SOAK: usize = 7;

fn overrides() -> Vec<String> {
    let mut all: Vec<String> = ["slot=1s", "grace=900ms", "criteria.handlers.for=2s"].map(str::to_owned).into();
    all.extend(["list", "suggestions", "execute", "health"].map(|sli| format!("slis.{sli}.timeout=800ms")));
    all.extend(["list", "suggestions", "execute"].map(|sli| format!("criteria.{sli}_disabled.on_fail.1.for=3s")));
    all.extend(STAGES.map(|stage| format!("stages.{stage}.soak={SOAK}s")));
    all.extend(STAGES.map(|stage| format!("stages.{stage}.settle=1s")));
    all.extend(["take_back.levels.0.apply_within=12s", "take_back.levels.1.apply_within=30s"].map(str::to_owned));
    all
}

/// One rollout on services of Render's, one in each environment, in a mesh with others.
struct Story<'a> {
    render: &'a Fake<Render>,
    service: &'static str,
    log: Log,
}

fn id(service: &str, environment: &str) -> String {
    format!("{service}-{environment}")
}

/// An account with `services`, each with the old release live in both environments, its flag off.
async fn render(services: &[&str]) -> Fake<Render> {
    let mut platform = Render::default();
    for id in services.iter().flat_map(|service| ENVIRONMENTS.map(|(environment, _)| id(service, environment))) {
        platform = platform.service(&id, OLD);
        let service = platform.of(&id);
        service.auto_deploy = "no".to_owned();
        service.env = SITE_FLAGS.map(|flag| (flag.to_owned(), "false".to_owned())).into();
        platform.deploy_by_hand(&id, OLD);
        platform.of(&id).settle();
    }
    Fake::start(platform).await.expect("a port")
}

/// Agents that act on `service`, and its plan.
fn add(mesh: &mut Mesh, render: &Fake<Render>, service: &str) {
    let token = mesh.path(&format!("{service}.token"));
    std::fs::write(&token, TOKEN).expect("written");
    let account =
        json!({ "token": format!("file:{token}"), "api": format!("{}/v1", render.url), "poll_every": "50ms" });
    let flag = |name: &str, environment: &str| {
        let values = json!({ "on": "true", "off": "false" });
        let own = json!({ "account": account, "service": id(service, environment), "keys": SITE_FLAGS, "values": values, "mark": "BELLWETHER_FAULT_LENS" });
        json!({ "name": name, "render": own })
    };
    let release = |environment: &str| {
        let services = [id(service, environment)];
        json!({ "account": account, "services": services, "pattern": "v[0-9]+", "may_switch_off_auto_deploy": true })
    };
    let flags = [flag("fault_lens", "production"), flag("staging_fault_lens", "staging")];
    let flags = json!({ "flag": { "service": service, "levers": flags } });
    let releases = [
        json!({ "name": "release", "render": release("production") }),
        json!({ "name": "staging_release", "render": release("staging") }),
        json!({ "name": "auto_deploy", "render_auto_deploy": release("production") }),
        json!({ "name": "staging_auto_deploy", "render_auto_deploy": release("staging") }),
    ];
    let releases = json!({ "rollback": { "service": service, "levers": releases } });
    for (role, own) in [("flag", flags), ("rollback", releases)] {
        let own: BTreeMap<String, serde_json::Value> = serde_json::from_value(own).expect("an object");
        let own: String = own.iter().map(|(key, value)| format!("{key}: {value}\n")).collect();
        mesh.add_agent_with(&format!("staging.{role}.{service}"), &own);
    }
    let mut plan = PLAN.replace("service: fault-lens\n", &format!("service: {service}\n"));
    for (environment, address) in ENVIRONMENTS {
        plan = plan.replace(&format!(" {address}\n"), &format!(" {}/{}\n", render.url, id(service, environment)));
    }
    std::fs::write(mesh.path(&format!("{service}.plan.yaml")), plan).expect("written");
}

fn add_probe(mesh: &mut Mesh, id: &str) {
    mesh.add_agent_with(id, "probe:\n  allow: [\"127.0.0.1\"]\n");
}

impl<'a> Story<'a> {
    /// Asks for the new release until it begins: agents that have just begun have not read their levers back.
    async fn begin(mesh: &Mesh, render: &'a Fake<Render>, service: &'static str) -> Self {
        let plan = mesh.path(&format!("{service}.plan.yaml"));
        let overrides = overrides();
        let mut args = vec!["rollout", "start", &plan, "--release", NEW];
        args.extend(overrides.iter().flat_map(|text| ["--override", text]));
        succeeds(mesh, || args.iter().map(ToString::to_string).collect()).await;
        Self { render, service, log: mesh.log_of(service) }
    }

    /// Approves as a person does who has looked at the status.
    async fn approve(&self, mesh: &Mesh) {
        let look = || {
            let status = mesh.run(&["rollout", "status", self.service, "--json"]);
            let status: serde_json::Value = serde_json::from_slice(&status.stdout).expect("JSON");
            let [entry, gate] = ["entry", "gate"].map(|key| status[key].to_string());
            ["command", "approve", self.service, "--entry", &entry, "--gate", &gate].map(str::to_owned).into()
        };
        succeeds(mesh, look).await;
    }

    /// Reads on until the first slot of a stage was judged.
    async fn until_judged(&mut self, stage: &str) {
        let is_it = |reason: &Reason| matches!(reason, Reason::Looking { stage: own, .. } if own.as_str() == stage);
        self.log.until(&format!("looking in {stage}"), is_it).await;
        self.log
            .until(&format!("a verdict in {stage}"), |reason| matches!(reason, Reason::VerdictChanged { .. }))
            .await;
    }

    /// Something happens in staging, behind everybody's back.
    fn happens(&self, what: impl FnOnce(&mut Render, &str)) {
        self.render.with(|render| what(render, &id(self.service, "staging")));
    }

    /// What became of it, but for what the clock decides, and the deploys in staging.
    fn told(&self) -> String {
        let mut told = String::new();
        for record in &self.log.seen {
            for line in transcript::lines(record).iter().filter_map(|line| plain(line)) {
                told += &format!("{line}{}\n", if line.starts_with("takes") { within(record) } else { String::new() });
            }
        }
        let deploys = |render: &mut Render| {
            let deploys = render.of(&id(self.service, "staging")).deploys();
            let mut names: Vec<String> =
                deploys.iter().map(|(trigger, release, _)| format!("{trigger} {release}")).collect();
            // Flag and release are then taken back at once: the clock decides whose deploy comes first.
            if let Some(pushed) = names.iter().position(|name| name.starts_with("new_commit")) {
                names.truncate(pushed + 1);
                names.extend(deploys.last().map(|(_, release, _)| format!("at last {release}")));
            }
            names.join(", ")
        };
        told + &format!("on Render: {}\n", self.render.with(deploys))
    }

    /// The slots of one stage by how many agents reported them. It went on, or waited for a person, with
    /// the very record in which the last series had soaked: it took longer by what nobody saw, and no more.
    fn soaked(&self, stage: &str) -> BTreeMap<u32, usize> {
        let is_it = |reason: &&Reason| matches!(reason, Reason::Looking { stage: own, .. } if own.as_str() == stage);
        let mut records = self.log.seen.iter().skip_while(|record| !record.reasons.iter().any(|own| is_it(&own)));
        let looking = records.next().and_then(|record| record.reasons.iter().find(is_it));
        let Some(Reason::Looking { from, .. }) = looking else { panic!("{stage} was never looked at") };
        let mut series: BTreeMap<&Series, BTreeMap<u32, usize>> = BTreeMap::new();
        for record in records {
            for input in &record.inputs {
                if let Input::Closed(slot) = input
                    && slot.slot >= *from
                {
                    *series.entry(&slot.series).or_default().entry(slot.reporters).or_default() += 1;
                }
            }
            let covered = |slots: &BTreeMap<u32, usize>| slots.range(1..).map(|(_, count)| count).sum::<usize>();
            let is_soaked = series.values().map(covered).min() >= Some(SOAK);
            let goes_on =
                |reason: &Reason| matches!(reason, Reason::Held { hold: Hold::Approval } | Reason::StagePassed { .. });
            let goes_on = record.reasons.iter().any(goes_on);
            assert_eq!(goes_on, is_soaked, "{stage}: {series:#?}");
            if goes_on {
                return series.into_values().next().unwrap_or_default();
            }
        }
        panic!("{stage} never soaked")
    }
}

/// Runs the program until it succeeds.
async fn succeeds(mesh: &Mesh, args: impl Fn() -> Vec<String>) {
    let until = Instant::now() + WITHIN;
    loop {
        let args = args();
        let ran = mesh.run(&args.iter().map(String::as_str).collect::<Vec<_>>());
        if ran.status.success() {
            return;
        }
        assert!(Instant::now() < until, "{args:?}: {}", String::from_utf8_lossy(&ran.stdout));
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// The deadline of the level that began in a record.
fn within(record: &Record) -> String {
    let due = record.reasons.iter().find_map(|reason| match reason {
        Reason::TakingBack { due, .. } => Some(due.since(record.now)),
        _ => None,
    });
    due.map(|due| format!(", within {due}")).unwrap_or_default()
}

/// A line of the transcript as it is each time, if it is: without spans and counts.
fn plain(line: &str) -> Option<String> {
    let noise = ["verdict", "answered", "started", "command", "released", "held      no data", "held      too few"];
    if noise.iter().any(|word| line.starts_with(word)) || line.contains("[no-data-") {
        return None;
    }
    let mut words: Vec<&str> = line.split(' ').filter(|word| !word.is_empty()).collect();
    if words.first() == Some(&"action") {
        words.remove(1);
    }
    for at in 0..words.len() {
        let word = words[at].trim_end_matches([',', ':', ';']);
        let is_span = word.parse::<bellwether_protocol::time::Span>().is_ok();
        if is_span || words.get(at + 1) == Some(&">") {
            words[at] = if word.len() < words[at].len() { "*," } else { "*" };
        }
    }
    Some(words.join(" "))
}

/// Each goes wrong in its own way, in staging, once its first slot was judged.
async fn goes_wrong(mesh: &Mesh, render: &Fake<Render>, service: &'static str) {
    let mut story = Story::begin(mesh, render, service).await;
    story.until_judged(STAGES[0]).await;
    let fault = |fault: SiteFault| move |render: &mut Render, id: &str| render.of(id).faults.push(fault);
    // One of the three is switched off in Render's own pages, and deployed.
    let switch_off = |render: &mut Render, id: &str| {
        render.of(id).env.insert(SITE_FLAGS[1].to_owned(), "false".to_owned());
        render.deploy_by_hand(id, NEW);
        render.of(id).settle();
    };
    match service {
        "one-5xx" => {
            let path = "v1/actions/execute".to_owned();
            story.happens(fault(SiteFault::Answers { release: None, path, status: 500, times: 1 }));
        }
        "eleven" => story.happens(fault(SiteFault::ElevenActions)),
        "signed" => story.happens(fault(SiteFault::SignedSuggestion)),
        "handlers" => story.happens(fault(SiteFault::Handlers { release: Some(NEW.to_owned()), loaded: 3 })),
        "switched" => {
            story.happens(switch_off);
            story.log.until("set again", |reason| matches!(reason, Reason::Reapplied { .. })).await;
            story.until_judged(STAGES[0]).await;
            story.happens(switch_off);
        }
        _ => {
            story.happens(|render, id| render.of(id).auto_deploy = "yes".to_owned());
            story.log.until("auto-deploy seen", |reason| matches!(reason, Reason::Drifted { .. })).await;
            story.happens(|render, id| {
                render.push(id, FOREIGN);
                render.of(id).settle();
            });
        }
    }
    story.log.until_ended().await;
    compare(service, &story.told());
}

/// Holds what was told against what `fault-lens.txt` says of `service`.
fn compare(service: &str, told: &str) {
    let text = include_str!("fault-lens.txt");
    let expected =
        text.split("\n# ").find_map(|part| part.strip_prefix(service)?.strip_prefix(':')?.split_once("\n---\n"));
    let expected = expected.map(|(_, expected)| expected.trim_end()).unwrap_or_default();
    assert!(told.trim_end() == expected, "{service} went otherwise:\n{told}\nexpected:\n{expected}");
}

#[test]
fn what_goes_wrong_is_taken_back_as_the_plan_says() {
    run(async {
        let services = ["one-5xx", "eleven", "signed", "handlers", "switched", "foreign"];
        let render = render(&services).await;
        let mut mesh = Mesh::bare(&["coordinator-1"]).await;
        ENVIRONMENTS.iter().for_each(|(region, _)| add_probe(&mut mesh, &format!("{region}.probe.probe-1")));
        services.iter().for_each(|service| add(&mut mesh, &render, service));
        join_all(services.map(|service| goes_wrong(&mesh, &render, service))).await;
    });
}

#[test]
fn every_stage_waits_for_its_soak_and_for_a_person() {
    run(async {
        const ONLY: &str = "staging.probe.probe-1";
        const SECOND: &str = "production.probe.probe-2";
        let render = render(&["green"]).await;
        let mut mesh = Mesh::bare(&["coordinator-1"]).await;
        [ONLY, "production.probe.probe-1", SECOND].iter().for_each(|id| add_probe(&mut mesh, id));
        add(&mut mesh, &render, "green");
        let mut story = Story::begin(&mesh, &render, "green").await;
        let waits = |reason: &Reason| matches!(reason, Reason::Held { hold: Hold::Approval });
        for stage in &STAGES[..3] {
            story.until_judged(stage).await;
            if *stage == "staging" {
                mesh.kill(ONLY);
                // Told after three slots.
                let is_told = |alert: &Alert| alert.incident.cause.as_str() == "no-data-staging";
                let told = |record: &Record| record.alerts.iter().any(is_told).then_some(());
                story.log.find("the silence is told", told).await;
                mesh.spawn(ONLY, "");
            } else if *stage == "production-canary" {
                mesh.kill(SECOND);
            }
            story.log.until("waiting for a person", waits).await;
            story.approve(&mesh).await;
        }
        assert_eq!(story.log.until_ended().await, Ending::Completed);
        compare("green", &story.told());
        let longer = STAGES.map(|stage| story.soaked(stage));
        println!("slots by their number of reporters: {longer:?}");
        let [_, alone, second, _] = longer;
        assert!(alone.get(&0) >= Some(&3), "three slots without the only agent");
        assert!(second.get(&1) >= Some(&3) && second.get(&1) > second.get(&0), "one agent alone");
    });
}
