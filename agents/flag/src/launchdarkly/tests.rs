//! LaunchDarkly in front of a strict fake that misbehaves.

use bellwether_fakes::Fault;
use bellwether_fakes::launchdarkly::{LaunchDarkly as Server, TOKEN};

use super::*;
use crate::contract::{self, WITHIN, action, bring, read, refuses, secret, value};

type Bench = contract::Bench<LaunchDarkly, Server>;

async fn bench() -> Bench {
    contract::bench(Server::default(), |url, dir| {
        let config = json!({
            "account": { "url": url, "token": secret(dir, TOKEN), "timeout": "1s" },
            "project": "shop",
            "environment": "production",
            "flag": "new-checkout",
        });
        let config: LaunchDarklyConfig = serde_json::from_value(config).expect("a configuration");
        LaunchDarkly::new(&config).expect("a driver")
    })
    .await
}

#[tokio::test]
async fn shares_and_the_switch_are_one_patch_each() {
    let bench = bench().await;
    for (to, exposure) in [("10%", 10_000), ("0.001%", 1), ("on", 100_000), ("off", 0), ("50%", 50_000)] {
        assert_eq!(bring(&bench.driver, to).await, ["done"], "{to}");
        assert_eq!(bench.fake.with(|server| server.exposure()), exposure, "{to}");
        assert_eq!(bring(&bench.driver, to).await, [""; 0], "{to}");
    }
    let patches: Vec<_> = bench.fake.log().into_iter().filter(|seen| seen.method == "PATCH").collect();
    assert_eq!(patches.len(), 5);
    assert!(patches.iter().all(|seen| seen.json()["comment"] == "bellwether shop/42/7/0"));
    for odd in ["0.0001%", "100%", "maybe"] {
        assert!(refuses(&bench.driver, odd).await, "{odd}");
    }
}

#[tokio::test]
async fn whatever_goes_wrong_is_looked_at_before_it_is_repeated() {
    let fault = |status, takes_effect, delay_ms, header: (&str, &str)| Fault {
        headers: vec![(header.0.to_owned(), header.1.to_owned())],
        ..contract::fault(Some("PATCH"), "", status, takes_effect, delay_ms)
    };
    let none = ("x-none", "");
    for (name, fault, expected, patches) in [
        ("429", fault(Some(429), false, 0, ("retry-after", "1")), vec!["retry", "done"], 2),
        (
            "429 until an instant that is over",
            fault(Some(429), false, 0, ("x-ratelimit-reset", "1")),
            vec!["retry", "done"],
            2,
        ),
        ("409", fault(Some(409), false, 0, none), vec!["retry", "done"], 2),
        ("500 without effect", fault(Some(500), false, 0, none), vec!["unknown", "done"], 2),
        ("502 after effect", fault(Some(502), true, 0, none), vec!["unknown"], 1),
        ("timeout after effect", fault(None, true, 1_600, none), vec!["unknown"], 1),
        ("a redirect", fault(Some(302), false, 0, ("location", "http://127.0.0.1:9/")), vec!["refused"], 1),
        ("approval is needed", fault(Some(405), false, 0, none), vec!["refused"], 1),
    ] {
        let bench = bench().await;
        bench.fake.fault(fault);
        assert_eq!(bring(&bench.driver, "10%").await, expected, "{name}");
        assert_eq!(bench.count("PATCH", ""), patches, "{name}");
        assert!(bench.fake.with(|server| server.peak) <= 10_000, "{name}");
    }
}

#[tokio::test]
async fn nothing_is_said_to_have_happened_while_nobody_answers() {
    let Bench { driver, fake, .. } = bench().await;
    bring(&driver, "10%").await;
    drop(fake);
    // The port is closed once its task has ended.
    let began = std::time::Instant::now();
    loop {
        let said = driver.set(&value("off"), &action()).await;
        if matches!(&said, Err(DriverError::Retry(why)) if why == "LaunchDarkly: no connection; nothing happened") {
            break;
        }
        assert!(began.elapsed() < WITHIN, "{said:?}");
    }
    assert_eq!(read(&driver).await, None);
}

#[tokio::test]
async fn a_pause_is_kept() {
    let bench = bench().await;
    let headers = vec![("retry-after".to_owned(), "60".to_owned())];
    bench.fake.fault(Fault { headers, ..Fault::status("", 429, 1) });
    assert_eq!(read(&bench.driver).await, None);
    for _ in 0..3 {
        assert_eq!(read(&bench.driver).await, None);
    }
    assert_eq!(bench.fake.log().len(), 1, "asked during the pause");
}

#[tokio::test]
async fn an_old_answer_is_waited_out() {
    let bench = bench().await;
    bring(&bench.driver, "10%").await;
    bench.fake.with(|server| server.stale_looks = 3);
    assert_eq!(bring(&bench.driver, "off").await, ["done"]);
}

#[tokio::test]
async fn what_the_fallthrough_does_not_decide_is_unknown_and_only_turned_off() {
    for (key, value, is_refused) in [
        ("rules", json!([{ "clauses": [] }]), true),
        ("prerequisites", json!([{ "key": "other" }]), true),
        ("targets", json!([{ "values": ["ada"], "variation": 0 }]), true),
        ("contextTargets", json!([{ "values": ["ada"], "variation": 0 }]), true),
        ("fallthrough", json!({ "variation": 2 }), false),
        ("fallthrough", json!({ "rollout": { "variations": [{ "variation": 0, "weight": 10_000 }] } }), false),
    ] {
        let bench = bench().await;
        bring(&bench.driver, "10%").await;
        bench.fake.with(|server| server.environment[key] = value);
        assert_eq!(read(&bench.driver).await, None, "{key}");
        assert_eq!(is_refused, refuses(&bench.driver, "50%").await, "{key}");
        bench.fake.with(|server| server.environment["on"] = json!(true));
        assert_eq!(bring(&bench.driver, "off").await, ["done"], "{key}");
    }
    let bench = bench().await;
    bench.fake.with(|server| server.environment["targets"] = json!([{ "values": [], "variation": 0 }]));
    assert_eq!(bring(&bench.driver, "10%").await, ["done"], "a list that names nobody");
    bench.fake.with(|server| server.environment["offVariation"] = Value::Null);
    bench.fake.with(|server| server.environment["on"] = json!(false));
    assert_eq!(read(&bench.driver).await, None, "off, and nothing says what that serves");
}
