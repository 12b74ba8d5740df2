//! The ways beside the straight one: in the shadow, in another's place, with another plan, through a
//! freeze, with runs on the way, and past a stage that cannot be undone. Slack is down for a part of it.

use bellwether_fakes::slack::Slack;
use bellwether_fakes::{Fake, Fault};
use bellwether_protocol::alert::Severity;
use bellwether_protocol::reason::{Cause, Ending, Hold, Reason};
use bellwether_protocol::record::{Input, Record};
use bellwether_protocol::time::{Span, Timestamp};
use serde_json::{Value, json};

use crate::mesh::{BAD, Log, Mesh};
use crate::run;

/// Releases, good in every region, and one more that is bad in west.
const OLD: &str = "v41";
const GOOD: &str = "v42";
const ALSO_BAD: &str = "v44";
const CHANNEL: &str = "C0123456789";
const TOKEN: &str = "xoxb-hidden";
/// Where the clocks are 14 hours ahead of UTC all year.
const FAR_EAST: &str = "Pacific/Kiritimati";
const AHEAD: Span = Span::from_secs(14 * 3_600);
/// A number that is not there, and what is to be judged by it.
const NOWHERE: [(&str, &str); 2] = [
    ("slis:\n", "slis:\n  - { name: memory, json: { path: /health, numbers: { used: { json: $.nowhere } } } }\n"),
    ("criteria:\n", "criteria:\n  - { name: memory, sli: memory, must: used < 1GB }\n"),
];
const HOUR: Span = Span::from_secs(3_600);

#[test]
fn every_way_beside_the_straight_one() {
    run(async {
        let slack = Fake::start(Slack::new(CHANNEL, TOKEN)).await.expect("a port");
        let mut mesh = Mesh::start(&["coordinator-1"]).await;
        add_slack(&mut mesh, &slack);
        add_task(&mut mesh);
        ["east", "west"].iter().for_each(|region| {
            mesh.add_agent_with(&format!("{region}.metric.metric-1"), "metric: { allow: [\"127.0.0.1\"] }\n");
        });
        mesh.until_ready().await;
        a_shadow_says_what_it_would_do_and_moves_nothing(&mesh).await;
        a_hotfix_goes_back_to_what_stood_before_both(&mesh, &slack).await;
        what_cannot_be_undone_is_paged(&mesh).await;
        everything_was_told(&mesh, &slack).await;
    });
}

/// An alert agent beside those of the regions, which tells Slack.
fn add_slack(mesh: &mut Mesh, slack: &Fake<Slack>) {
    let token = mesh.path("slack.token");
    std::fs::write(&token, TOKEN).expect("written");
    let own = json!({ "url": format!("{}/api", slack.url), "token": format!("file:{token}"), "channel": CHANNEL });
    let alert = json!({ "console": false, "bridges": { "chat": { "slack": own } } });
    mesh.add_agent_with("east.alert.slack", &format!("alert: {alert}\n"));
}

/// A lever that runs a command, which writes down that it ran and fails while a file says so.
fn add_task(mesh: &mut Mesh) {
    let script = format!("echo run >> {}; test ! -e {}", mesh.path("runs"), mesh.path("broken"));
    let task = json!({ "name": "paths", "task": { "command": ["sh", "-c", script], "timeout": "5s" } });
    let own = json!({ "service": "shop", "levers": [task] });
    mesh.add_agent_with("west.rollback.paths", &format!("rollback: {own}\n"));
}

async fn a_shadow_says_what_it_would_do_and_moves_nothing(mesh: &Mesh) {
    let mut log = mesh.log_from_now().await;
    // Somebody else brings it out.
    assert!(mesh.run(&["site-lever", "--admin", &mesh.site.admin, "set", "release", BAD]).status.success());
    let plan = file(mesh, "shadow.yaml", &mesh.plan);
    let waited = mesh.run(&["rollout", "start", &plan, "--release", BAD, "--shadow", "--wait", "--plain"]);
    let said = String::from_utf8_lossy(&waited.stdout).into_owned();
    assert_eq!(waited.status.code(), Some(1), "{said}");
    for words in ["shadow traffic=10%", "would have set traffic 0%, release v41"] {
        assert!(said.contains(words), "no `{words}` in {said}");
    }
    assert_eq!(log.until_ended().await, Ending::WouldTakeBack);
    let acted = |reason: &&Reason| matches!(reason, Reason::Asked { .. } | Reason::Answered { .. });
    assert_eq!(log.seen.iter().flat_map(|record| &record.reasons).find(acted), None);
    let alerts: Vec<&str> = log.seen.iter().flat_map(|record| &record.alerts).map(|a| a.headline.as_str()).collect();
    assert!(alerts.iter().any(|headline| headline.contains("would have set")), "{alerts:?}");
    assert_eq!(stands(mesh), [BAD, OLD, "0%"], "as others put it");
    shows(mesh, "/ending", json!("would_take_back")).await;
    assert_eq!(status(mesh)["is_shadow"], json!(true));
    assert!(mesh.run(&["site-lever", "--admin", &mesh.site.admin, "set", "release", OLD]).status.success());
    mesh.until("the old release", || (stands(mesh)[0] == OLD).then_some(())).await;
}

async fn a_hotfix_goes_back_to_what_stood_before_both(mesh: &Mesh, slack: &Fake<Slack>) {
    let mut log = mesh.log_from_now().await;
    let plan = file(mesh, "shop.yaml", &mesh.plan);
    // Presence tells of the lever a moment after it stands.
    let answer = accepted(mesh, &["rollout", "start", &plan, "--release", GOOD, "--json"]).await;
    assert_eq!(answer["outcome"]["rollout"], "shop/2", "{answer}");
    log.until("looking", |reason| matches!(reason, Reason::Looking { .. })).await;
    assert_eq!(stands(mesh), [GOOD, OLD, "10%"]);
    let args = ["rollout", "start", &plan, "--release", BAD];
    let second = mesh.run(&[&args[..], &["--json"]].concat());
    assert_eq!(second.status.code(), Some(2));
    let why = json(&second.stdout)["outcome"]["refused"].to_string();
    assert!(why.contains("shop/2 is running"), "{why}");

    // Slack asks to wait, and then it is gone, from before the fix fails until after it is back.
    let wait = vec![("retry-after".to_owned(), "1".to_owned())];
    slack.fault(Fault { headers: wait, ..Fault::status("/api/", 429, 1) });
    slack.fault(Fault::status("/api/", 503, u32::MAX));
    let before = slack.with(|slack| slack.messages.len());
    let waited = mesh.run(&[&args[..], &["--supersede", "--wait", "--plain"]].concat());
    let said = String::from_utf8_lossy(&waited.stdout).into_owned();
    assert_eq!(waited.status.code(), Some(1), "{said}");
    let first = mesh.run(&["rollout", "watch", "shop/2", "--plain"]);
    let said = String::from_utf8_lossy(&first.stdout).into_owned();
    assert_eq!(first.status.code(), Some(3), "{said}");
    assert!(said.contains("SUPERSEDED shop v42: gave way to v43 (shop/3)"), "{said}");
    assert_eq!(log.until_ended().await, Ending::Superseded);
    let set = log
        .find("the take-back", |record| {
            record.reasons.iter().find_map(|reason| match reason {
                Reason::TakingBack { cause: Cause::Criterion { .. }, set, .. } => Some(set.clone()),
                _ => None,
            })
        })
        .await;
    let set: Vec<String> = set.iter().map(|(lever, to)| format!("{lever} {to}")).collect();
    assert!(set.contains(&format!("release {OLD}")), "{set:?}");
    assert_eq!(log.until_ended().await, Ending::RolledBack);
    assert_eq!(stands(mesh), [OLD, OLD, "0%"], "what stood before both");
    // It was told to Slack from the first alert on, in vain to the end: nobody waited for that.
    let taken_back = log.seen.iter().flat_map(|record| &record.alerts).filter(|alert| alert.release.as_str() == BAD);
    assert_eq!(taken_back.count(), 3, "taking back, applied, recovered");
    mesh.until("a try in vain", || (!in_vain(slack).is_empty()).then_some(())).await;
    assert_eq!(slack.with(|slack| slack.messages.len()), before);
    slack.heal();
}

/// What Slack was asked to post of the bad release.
fn in_vain(slack: &Fake<Slack>) -> Vec<String> {
    slack.log().into_iter().map(|seen| seen.body).filter(|body| body.contains("shop/3-")).collect()
}

async fn what_cannot_be_undone_is_paged(mesh: &Mesh) {
    let mut log = mesh.log_from_now().await;
    // Ten minutes of soak would outlast this test: only another plan ends them.
    let plan = mesh
        .plan
        .replace("  new_checkout:", "  paths: { runs: true }\n  new_checkout:")
        .replace(
            "    soak: 5s",
            "    regions: [east]\n    soak: 10m\n    during: [{ every: 2s, run: paths, within: 1s }]",
        )
        .replace("    soak: 2s", "    irreversible: true\n    soak: 1m");
    let now = log_time(mesh).await;
    let at = |span: Span| (now + AHEAD + span).seconds().chars().take(16).collect::<String>();
    let from = (now + AHEAD - HOUR).seconds().chars().take(16).collect::<String>();
    let blind = NOWHERE.iter().fold(plan.clone(), |plan, (from, to)| plan.replace(from, to));
    let freeze = format!("freeze: [{{ from: {from}, to: {}, zone: {FAR_EAST} }}]\n", at(HOUR));
    let frozen = file(mesh, "frozen.yaml", &format!("{blind}{freeze}"));
    accepted(mesh, &["rollout", "start", &frozen, "--release", ALSO_BAD, "--json"]).await;
    let is_frozen = |reason: &Reason| matches!(reason, Reason::Held { hold: Hold::Frozen { .. } });
    let held = log.until("frozen", is_frozen).await;
    let Reason::Held { hold: Hold::Frozen { until } } = held else { panic!("{held:?}") };
    assert_eq!((until + AHEAD).seconds().chars().take(16).collect::<String>(), at(HOUR), "by the clocks of the zone");
    shows(mesh, "/holds/0/frozen/until", json!(until)).await;
    assert_eq!(stands(mesh), [OLD, OLD, "0%"]);

    let why = || status(mesh)["regions"][0]["gaps"][0][1]["why"].as_str().map(str::to_owned);
    let why = mesh.until("why nothing is measured", why).await;
    assert!(why.ends_with("/health: number `used` is not there"), "{why}");

    let thawed = file(mesh, "thawed.yaml", &plan);
    let amended =
        accepted(mesh, &["command", "amend", "shop", "--plan", &thawed, "--reason", "checked", "--json"]).await;
    assert_eq!(amended["outcome"]["rollout"], "shop/4", "{amended}");
    log.until("looking", |reason| matches!(reason, Reason::Looking { .. })).await;
    let runs = || std::fs::read_to_string(mesh.path("runs")).unwrap_or_default().lines().count();
    mesh.until("a second run", || (runs() >= 2).then_some(())).await;
    std::fs::write(mesh.path("broken"), "").expect("written");
    let is_of_paths = |hold: &Hold| matches!(hold, Hold::Activity { lever } if lever.as_str() == "paths");
    log.until("a run that failed", |reason| matches!(reason, Reason::Held { hold } if is_of_paths(hold))).await;
    shows(mesh, "/holds/0", json!({ "activity": { "lever": "paths" } })).await;
    std::fs::remove_file(mesh.path("broken")).expect("removed");
    log.until("a run that is done", |reason| matches!(reason, Reason::Released { hold } if is_of_paths(hold))).await;

    let amend = ["command", "amend", "shop", "--plan", &thawed, "--override", "stages.canary.soak=3s", "--json"];
    accepted(mesh, &amend).await;
    log.until("another plan", |reason| matches!(reason, Reason::Amended { .. })).await;
    let amended_at = log.seen.last().map(|record| record.now).expect("a record");
    log.until("canary passed", |reason| matches!(reason, Reason::StagePassed { .. })).await;
    assert!(closed_since(&log, amended_at) >= 3, "what was seen before counts no more");
    let watched = mesh.run(&["rollout", "watch", "shop", "--plain"]);
    let said = String::from_utf8_lossy(&watched.stdout).into_owned();
    assert_eq!(watched.status.code(), Some(5), "{said}");
    assert!(said.contains("cannot be undone"), "{said}");
    assert_eq!(log.until_ended().await, Ending::NotTakenBack);
    let pages = |record: &Record| record.alerts.iter().any(|alert| alert.severity == Severity::Page);
    assert!(log.seen.last().is_some_and(pages), "paged with the very record");
    assert_eq!(stands(mesh), [ALSO_BAD, ALSO_BAD, "100%"], "nothing was taken back");
}

async fn everything_was_told(mesh: &Mesh, slack: &Fake<Slack>) {
    let roots = || {
        slack.with(|slack| {
            let roots = slack.roots().into_iter();
            roots.map(|root| root["metadata"]["event_payload"]["incident"].to_string()).collect::<Vec<_>>()
        })
    };
    let expected = ["shop/1-error_rate", "shop/3-error_rate", "shop/4-run-paths", "shop/4-error_rate"];
    let mut expected = expected.map(|incident| json!(incident).to_string());
    expected.sort();
    let told = || {
        let mut roots = roots();
        roots.sort();
        (roots == expected).then_some(())
    };
    mesh.until("one thread for each incident", told).await;
    let pages = mesh.log("east.alert.alert-1");
    assert!(pages.contains("cannot be undone") && pages.contains("would have set"), "{pages}");
}

/// Slots of checkouts that began after `since`, in the log up to here; of the series with the fewest.
fn closed_since(log: &Log, since: Timestamp) -> usize {
    let mut series = std::collections::BTreeMap::new();
    for input in log.seen.iter().flat_map(|record| &record.inputs) {
        if let Input::Closed(slot) = input
            && slot.series.sli.as_str() == "checkout"
        {
            *series.entry(&slot.series).or_default() += usize::from(slot.slot >= since);
        }
    }
    series.into_values().min().unwrap_or(0)
}

/// Where the platform says that the release, the stable one and the traffic stand.
fn stands(mesh: &Mesh) -> [String; 3] {
    ["release", "stable", "traffic"].map(|lever| mesh.lever(lever))
}

fn file(mesh: &Mesh, name: &str, plan: &str) -> String {
    let path = mesh.path(name);
    std::fs::write(&path, plan).expect("written");
    path
}

fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(bytes)))
}

fn status(mesh: &Mesh) -> Value {
    json(&mesh.run(&["rollout", "status", "shop", "--json"]).stdout)
}

/// Waits until the status says `expected` at `pointer`: it is shown a moment after the record it is made of.
async fn shows(mesh: &Mesh, pointer: &str, expected: Value) {
    let is_shown = || (status(mesh).pointer(pointer) == Some(&expected)).then_some(());
    mesh.until(&format!("{expected} at {pointer}"), is_shown).await;
}

/// Asks until it is done: agents that have just begun have not read their levers back.
async fn accepted(mesh: &Mesh, args: &[&str]) -> Value {
    let ask = || {
        let ran = mesh.run(args);
        ran.status.success().then(|| json(&ran.stdout))
    };
    mesh.until(&args.join(" "), ask).await
}

/// By the clock that decides.
async fn log_time(mesh: &Mesh) -> Timestamp {
    mesh.status().await.expect("a status").decided_at
}
