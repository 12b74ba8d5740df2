//! Unleash in front of a strict fake that misbehaves.

use bellwether_fakes::unleash::{TOKEN, Unleash as Server};

use super::*;
use crate::contract::{self, bring, fault, read, refuses, secret};

type Bench = contract::Bench<Unleash, Server>;

async fn bench() -> Bench {
    contract::bench(Server::default(), |url, dir| {
        let config = json!({
            "account": { "url": url, "token": secret(dir, TOKEN), "timeout": "1s" },
            "environment": "production",
            "feature": "new-checkout",
        });
        let config: UnleashConfig = serde_json::from_value(config).expect("a configuration");
        Unleash::new(&config).expect("a driver")
    })
    .await
}

#[tokio::test]
async fn a_share_is_set_before_the_switch_and_changed_in_place() {
    let bench = bench().await;
    for (to, exposure, changes) in
        [("10%", 10, 2), ("10%", 10, 0), ("50%", 50, 1), ("on", 100, 1), ("off", 0, 1), ("5%", 5, 2)]
    {
        let before = bench.fake.log().iter().filter(|seen| seen.method != "GET").count();
        bring(&bench.driver, to).await;
        let log = bench.fake.log();
        let changed: Vec<&str> =
            log.iter().filter(|seen| seen.method != "GET").skip(before).map(|seen| seen.path.as_str()).collect();
        assert_eq!(changed.len(), changes, "{to}: {changed:?}");
        assert_eq!(bench.fake.with(|server| (server.exposure(), server.strategies.len())), (exposure, 1), "{to}");
    }
    for odd in ["150%", "0.5%", "100%", "maybe", "-1%"] {
        assert!(refuses(&bench.driver, odd).await, "{odd}");
    }
    assert_eq!(read(&bench.driver).await.as_deref(), Some("5%"));
}

#[tokio::test]
async fn whatever_goes_wrong_there_is_one_strategy_and_nobody_more_is_served() {
    let fault = |path: &str, status, takes_effect, delay_ms| fault(None, path, status, takes_effect, delay_ms);
    let place = "/api/admin/projects/default/features/new-checkout/environments/production";
    let (strategies, on) = (format!("{place}/strategies"), format!("{place}/on"));
    for (name, fault, expected) in [
        ("429", fault(&strategies, Some(429), false, 0), vec!["retry", "done"]),
        ("500 without effect", fault(&strategies, Some(500), false, 0), vec!["unknown", "retry", "done"]),
        ("503 after effect", fault(&strategies, Some(503), true, 0), vec!["unknown", "done"]),
        ("timeout after effect", fault(&strategies, None, true, 1_600), vec!["unknown", "done"]),
        ("429 at the switch", fault(&on, Some(429), false, 0), vec!["retry", "done"]),
        ("timeout at the switch", fault(&on, None, true, 1_600), vec!["unknown"]),
        ("500 at the switch", fault(&on, Some(500), false, 0), vec!["unknown", "done"]),
        ("a change request is needed", fault(&strategies, Some(403), false, 0), vec!["refused"]),
    ] {
        let bench = bench().await;
        bench.fake.fault(fault);
        let said = bring(&bench.driver, "10%").await;
        assert_eq!(said, expected, "{name}");
        let (exposure, peak, count) =
            bench.fake.with(|server| (server.exposure(), server.peak, server.strategies.len()));
        let reached = !expected.contains(&"refused");
        assert_eq!((exposure, peak, count), if reached { (10, 10, 1) } else { (0, 0, 0) }, "{name}");
    }
}

#[tokio::test]
async fn a_strategy_that_is_not_seen_yet_is_not_added_again() {
    let bench = bench().await;
    bench.fake.with(|server| server.stale_looks = 3);
    // The fake begins to show old states with the first change.
    bench.fake.with(|server| server.enabled = false);
    let said = bring(&bench.driver, "10%").await;
    assert_eq!(said.last(), Some(&"done"), "{said:?}");
    assert_eq!((bench.count("POST", "/strategies"), bench.fake.with(|server| server.peak)), (1, 10));
}

#[tokio::test]
async fn strategies_of_others_are_unknown_and_only_switched_off() {
    let ours = json!({ "id": "a", "name": STRATEGY, "parameters": { "rollout": "10" } });
    let with = |key: &str, value: Value| {
        let mut strategy = ours.clone();
        strategy[key] = value;
        strategy
    };
    for (name, strategies) in [
        ("two", json!([ours, ours])),
        ("another kind", json!([with("name", json!("userWithId"))])),
        ("constrained", json!([with("constraints", json!([{ "contextName": "country" }]))])),
        ("a segment", json!([with("segments", json!([1]))])),
        ("variants", json!([with("variants", json!([{ "name": "blue" }]))])),
        ("disabled", json!([with("disabled", json!(true))])),
        ("150 %", json!([with("parameters", json!({ "rollout": "150" }))])),
        ("none", json!([])),
    ] {
        let bench = bench().await;
        bench.fake.with(|server| {
            server.enabled = true;
            server.strategies = strategies.as_array().cloned().unwrap_or_default();
        });
        assert_eq!(read(&bench.driver).await, None, "{name}");
        if name != "none" {
            assert!(refuses(&bench.driver, "10%").await, "{name}");
        }
        assert_eq!(bring(&bench.driver, "off").await, ["done"], "{name}");
        assert_eq!(bench.fake.with(|server| server.exposure()), 0, "{name}");
    }
}
