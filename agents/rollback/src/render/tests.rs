//! The Render driver against the strict fake, by itself and under the ledger.

use std::rc::Rc;
use std::sync::Arc;

use bellwether_fakes::render::{Render as Platform, TOKEN};
use bellwether_fakes::{Fake, Fault};
use bellwether_protocol::action::{ActionOutcome, ActionResult};
use bellwether_protocol::time::Span;
use bellwether_runtime::{Lever, act_alone};
use serde_json::json;

use super::*;
use crate::contract::{self, Bench, action, value};

const SITE: &str = "srv-site";
const WORKER: &str = "srv-worker";

/// Both services ran `v41` and run `v42`.
async fn platform() -> Rc<Fake<Platform>> {
    let mut platform = Platform::default().service(SITE, "v41").service(WORKER, "v41");
    for service in [SITE, WORKER] {
        platform.deploy_by_hand(service, "v42");
        platform.of(service).settle();
    }
    Rc::new(Fake::start(platform).await.unwrap())
}

fn config(fake: &Fake<Platform>, dir: &tempfile::TempDir, more: serde_json::Value) -> RenderConfig {
    let token = dir.path().join("token");
    std::fs::write(&token, TOKEN).unwrap();
    let account = json!({
        "token": format!("file:{}", token.display()), "api": format!("{}/v1", fake.url),
        "timeout": "1s", "poll_every": "5ms",
    });
    let mut config = json!({
        "account": account, "services": [SITE, WORKER], "pattern": "v[1-9][0-9]*", "may_switch_off_auto_deploy": true,
    });
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    serde_json::from_value(config).unwrap()
}

fn asked(fake: &Fake<Platform>) -> Vec<(String, String)> {
    let log = fake.log().into_iter().filter(|seen| seen.method == "POST");
    log.map(|seen| (seen.path.rsplit('/').next().unwrap_or_default().to_owned(), seen.body)).collect()
}

#[tokio::test]
async fn render_keeps_the_contract() {
    let (dir, fake) = (tempfile::tempdir().unwrap(), platform().await);
    let (moved, split) = (Rc::clone(&fake), Rc::clone(&fake));
    contract::check(&Bench {
        driver: Render::new(&config(&fake, &dir, json!({}))).unwrap(),
        moves: Box::new(move || asked(&moved).len()),
        split: Box::new(move |to| {
            split.with(|platform| {
                platform.deploy_by_hand(WORKER, to);
                platform.of(WORKER).settle();
            });
        }),
    })
    .await;
}

#[tokio::test]
async fn what_was_live_is_rolled_back_to_while_it_is_kept() {
    let (dir, fake) = (tempfile::tempdir().unwrap(), platform().await);
    let only = Render::new(&config(&fake, &dir, json!({ "services": [SITE] }))).unwrap();
    let set = async |to: &str, expected: &str| {
        let before = asked(&fake).len();
        only.set(&value(to), &action(1)).await.unwrap();
        let how: Vec<String> = asked(&fake).into_iter().skip(before).map(|(how, _)| how).collect();
        assert_eq!(how.join(" "), expected, "{to}");
        fake.with(|platform| {
            platform.of(SITE).settle();
            assert_eq!(platform.of(SITE).live(), Some(to));
        });
    };
    set("v41", "rollback").await;
    set("v43", "deploys").await;
    fake.with(|platform| platform.of(SITE).retained = 0);
    set("v42", "rollback deploys").await;
    // What is on its way elsewhere would be live in the end.
    fake.with(|platform| platform.deploy_by_hand(SITE, "v44"));
    let reading = only.read_back().await.unwrap();
    assert_eq!((reading.value.as_ref(), reading.targets.len()), (None, 2), "{reading:?}");
    set("v42", "cancel").await;
    let history = only.history().await.unwrap();
    assert_eq!(history.iter().map(Release::as_str).collect::<Vec<_>>(), ["v42", "v43", "v41"]);
}

#[tokio::test]
async fn a_push_cannot_undo_what_was_set() {
    let (dir, fake) = (tempfile::tempdir().unwrap(), platform().await);
    let watched = AutoDeploy::new(&config(&fake, &dir, json!({}))).unwrap();
    let reads = async |expected: Option<&str>| {
        assert_eq!(watched.read_back().await.unwrap().value, expected.map(value));
    };
    reads(Some("yes")).await;
    let cautious = config(&fake, &dir, json!({ "may_switch_off_auto_deploy": false }));
    let refused = Render::new(&cautious).unwrap().set(&value("v41"), &action(1)).await;
    assert!(matches!(&refused, Err(DriverError::Refused(why)) if why.contains("may_switch_off")), "{refused:?}");
    assert_eq!(asked(&fake).len(), 0);
    Render::new(&config(&fake, &dir, json!({}))).unwrap().set(&value("v41"), &action(1)).await.unwrap();
    reads(Some("no")).await;
    fake.with(|platform| platform.of(WORKER).auto_deploy = "yes".to_owned());
    reads(None).await;
    assert!(matches!(watched.set(&value("no"), &action(1)).await, Err(DriverError::Refused(_))));
}

/// One action under the ledger, from intent to proof, with whatever goes wrong on the way.
async fn move_to(fake: &Fake<Platform>, dir: &tempfile::TempDir, to: &str, within: Span) -> ActionResult {
    let driver = Arc::new(Render::new(&config(fake, dir, json!({}))).unwrap());
    let lever = Lever { service: "shop".parse().unwrap(), name: "release".parse().unwrap(), driver };
    let agent = "east.rollback.one".parse().unwrap();
    act_alone(&lever, &agent, &dir.path().join("journal.json"), value(to), within).await.unwrap()
}

#[tokio::test]
async fn every_fault_ends_with_one_deploy_per_service_and_proof() {
    let post = |status| Fault { method: Some("POST".to_owned()), ..Fault::status("/v1", status, 1) };
    let slow = Fault { status: None, delay_ms: 1_500, ..post(0) };
    let pause = Fault { headers: vec![("retry-after".to_owned(), "1".to_owned())], ..Fault::status("/v1", 429, 1) };
    let cases: [(&str, Vec<Fault>, u32); 9] = [
        ("nothing", vec![], 0),
        ("refused for now", vec![post(409)], 0),
        ("failed before effect", vec![post(503)], 0),
        ("failed after effect", vec![Fault { takes_effect: true, ..post(500) }], 0),
        ("garbage after effect", vec![Fault { takes_effect: true, body: "<".to_owned(), ..post(201) }], 0),
        ("no answer, after effect", vec![slow], 0),
        ("asked to pause", vec![pause], 0),
        ("accepted, and listed later", vec![], 2),
        ("unreadable for a while", vec![Fault { method: Some("GET".to_owned()), ..Fault::status("/v1", 502, 4) }], 0),
    ];
    // Side by side: under the ledger most of the time is spent waiting.
    futures_util::future::join_all(cases.map(async |(case, faults, accepted_only)| {
        let (dir, fake) = (tempfile::tempdir().unwrap(), platform().await);
        fake.with(|platform| {
            for service in [SITE, WORKER] {
                platform.of(service).accepted_only = accepted_only / 2;
            }
        });
        faults.into_iter().for_each(|fault| fake.fault(fault));
        let result = move_to(&fake, &dir, "v41", Span::from_secs(20)).await;
        assert_eq!(result.outcome, ActionOutcome::Done, "{case}: {result:?}");
        assert_eq!(result.targets.len(), 2, "{case}");
        fake.with(|platform| {
            for service in [SITE, WORKER] {
                let deploys = platform.of(service).deploys();
                assert_eq!(deploys.last(), Some(&("rollback", "v41", "live")), "{case}");
                assert_eq!(deploys.len(), 3, "{case}: {deploys:?}");
            }
        });
        // Looked at first: what is there already is not set again.
        let before = asked(&fake).len();
        let again = move_to(&fake, &dir, "v41", Span::from_secs(5)).await;
        assert_eq!((again.outcome, again.detail.as_str()), (ActionOutcome::Done, "it was there already"), "{case}");
        assert_eq!(asked(&fake).len(), before, "{case}");
    }))
    .await;
}

#[tokio::test]
async fn what_does_not_get_there_is_never_called_done() {
    let check = async |script: fn(&mut Platform), expected: ActionOutcome| {
        let (dir, fake) = (tempfile::tempdir().unwrap(), platform().await);
        fake.with(script);
        let result = move_to(&fake, &dir, "v41", Span::from_ms(700)).await;
        assert_eq!(result.outcome, expected, "{result:?}");
    };
    check(|platform| platform.of(WORKER).endings.push("build_failed"), ActionOutcome::Partial).await;
    check(
        |platform| [SITE, WORKER].into_iter().for_each(|it| platform.of(it).endings.push("update_failed")),
        ActionOutcome::Unknown,
    )
    .await;
    check(
        |platform| {
            for service in [SITE, WORKER] {
                platform.of(service).odd_status = Some("teleporting");
                platform.of(service).looks_per_step = 1_000;
            }
        },
        ActionOutcome::Unknown,
    )
    .await;
}

#[test]
fn only_whole_commits_are_set_where_nothing_is_said() {
    let silent = Allowed::new(None, None).unwrap();
    assert!(silent.is_silent() && silent.allows(&value("evil.example/image:1")));
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    std::fs::write(&token, "x").unwrap();
    let read = |more: serde_json::Value| {
        let mut config = json!({ "account": { "token": format!("file:{}", token.display()) }, "services": ["srv-1"] });
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        Render::new(&serde_json::from_value(config).unwrap())
    };
    let plain = read(json!({})).unwrap();
    let commit = "0123456789abcdef0123456789abcdef01234567";
    for (text, is_allowed) in [(commit, true), (&commit[..7], false), ("evil.example/image:1", false)] {
        assert_eq!(plain.allows(&value(text)), is_allowed, "{text}");
    }
    let own = read(json!({ "pattern": "registry\\.example/shop@sha256:[0-9a-f]+" })).unwrap();
    assert!(own.allows(&value("registry.example/shop@sha256:00ff")) && !own.allows(&value("evil.example/shop")));
    assert!(read(json!({ "services": [] })).is_err());
    assert!(read(json!({ "services": ["srv-1", "srv-1"] })).is_err());
    assert!(read(json!({ "pattern": "(" })).is_err());
}
