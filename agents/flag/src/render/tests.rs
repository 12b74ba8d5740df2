//! Three variables of story 3's service on a strict fake of Render.

use bellwether_fakes::render::{Render as Server, SITE_FLAGS, TOKEN};
use serde_json::json;

use super::*;
use crate::contract::{self, bring, fault, read, refuses, secret};

const SERVICE: &str = "srv-1";

type Bench = contract::Bench<RenderFlag, Server>;

async fn bench() -> Bench {
    contract::bench(Server::default().service(SERVICE, "c0ffee"), driver).await
}

fn driver(url: &str, dir: &tempfile::TempDir) -> RenderFlag {
    let api = format!("{url}/v1");
    let config = json!({
        "account": { "token": secret(dir, TOKEN), "api": api, "timeout": "1s", "poll_every": "10ms" },
        "service": SERVICE, "keys": SITE_FLAGS, "mark": "BELLWETHER_FLAGS",
        "values": { "on": "true", "off": "false" },
    });
    let config: RenderConfig = serde_json::from_value(config).expect("a configuration");
    RenderFlag::new(&config).expect("a driver")
}

impl Bench {
    async fn status(&self) -> u16 {
        let url = format!("{}/{SERVICE}/v1/actions/list", self.fake.url);
        bellwether_runtime::http().expect("a client").get(url).send().await.expect("an answer").status().as_u16()
    }
}

#[tokio::test]
async fn all_variables_go_together_in_one_deploy_of_what_is_live() {
    let bench = bench().await;
    assert_eq!(read(&bench.driver).await.as_deref(), Some("on"), "never changed by an agent");
    for (to, status) in [("off", 503), ("on", 200), ("off", 503)] {
        let before = bench.count("POST", "/deploys");
        assert_eq!(bring(&bench.driver, to).await, ["done"], "{to}");
        assert_eq!((bench.count("POST", "/deploys") - before, bench.status().await), (1, status), "{to}");
        assert_eq!(bring(&bench.driver, to).await, [""; 0], "{to}");
    }
    assert_eq!(bench.fake.with(|server| server.of(SERVICE).live().map(str::to_owned)).as_deref(), Some("c0ffee"));
    assert!(refuses(&bench.driver, "10%").await);
}

#[tokio::test]
async fn whatever_goes_wrong_is_looked_at_before_it_is_repeated() {
    let fault = |method: &str, path: &str, status, takes_effect, delay_ms| {
        fault(Some(method), &format!("/v1/services/{SERVICE}/{path}"), status, takes_effect, delay_ms)
    };
    let key = format!("env-vars/{}", SITE_FLAGS[1]);
    for (name, fault, expected, deploys) in [
        ("429 at a variable", fault("PUT", &key, Some(429), false, 0), vec!["unknown", "retry", "done"], 1),
        ("500 at a variable", fault("PUT", &key, Some(500), false, 0), vec!["unknown", "done"], 1),
        ("timeout after a variable", fault("PUT", &key, None, true, 1_600), vec!["unknown", "done"], 1),
        ("500 at the mark", fault("PUT", "env-vars/BELLWETHER_FLAGS", Some(500), false, 0), vec!["unknown", "done"], 1),
        ("500 at the deploy", fault("POST", "deploys", Some(500), false, 0), vec!["unknown", "done"], 2),
        ("503 after the deploy", fault("POST", "deploys", Some(503), true, 0), vec!["unknown", "done"], 1),
        ("timeout after the deploy", fault("POST", "deploys", None, true, 1_600), vec!["unknown", "done"], 1),
        ("not allowed", fault("PUT", &key, Some(403), false, 0), vec!["refused"], 0),
    ] {
        let bench = bench().await;
        bench.fake.fault(fault);
        let said = bring(&bench.driver, "off").await;
        let rest: Vec<_> = said.iter().filter(|word| !(**word == "retry" && expected.contains(word))).collect();
        let wanted: Vec<_> = expected.iter().filter(|word| **word != "retry").collect();
        assert_eq!(rest, wanted, "{name}: {said:?}");
        assert_eq!(bench.count("POST", "/deploys"), deploys, "{name}");
        let is_refused = expected == ["refused"];
        assert_eq!(bench.status().await, if is_refused { 200 } else { 503 }, "{name}");
        // Half set is not known to be anything.
        assert_eq!(read(&bench.driver).await.as_deref(), (!is_refused).then_some("off"), "{name}");
    }
}

#[tokio::test]
async fn a_deploy_that_fails_is_told_and_the_next_action_deploys_again() {
    let bench = bench().await;
    bench.fake.with(|server| server.of(SERVICE).endings = vec!["build_failed"]);
    assert_eq!(bring(&bench.driver, "off").await, ["refused"]);
    assert_eq!(read(&bench.driver).await, None, "set, and not live");
    assert_eq!(bring(&bench.driver, "off").await, ["done"]);
    assert_eq!(bench.status().await, 503);
}

#[tokio::test]
async fn an_answer_without_words_and_words_that_are_new_are_waited_out() {
    let bench = bench().await;
    bench.fake.with(|server| server.of(SERVICE).accepted_only = 1);
    assert_eq!(bring(&bench.driver, "off").await, ["done"]);
    bench.fake.with(|server| server.of(SERVICE).odd_status = Some("being_polished"));
    assert_eq!(bring(&bench.driver, "on").await, ["done"]);
    assert_eq!((bench.count("POST", "/deploys"), bench.status().await), (2, 200));
}

#[tokio::test]
async fn what_was_set_after_the_live_deploy_began_is_not_known() {
    let bench = bench().await;
    bring(&bench.driver, "off").await;
    // By hand, without a deploy.
    bench.fake.with(|server| {
        for key in SITE_FLAGS {
            server.of(SERVICE).env.insert(key.to_owned(), "true".to_owned());
        }
    });
    assert_eq!(read(&bench.driver).await, None);
    // With a deploy, but still by hand: no mark says that it is newer.
    bench.fake.with(|server| {
        server.deploy_by_hand(SERVICE, "c0ffee");
        server.of(SERVICE).settle();
    });
    assert_eq!(read(&bench.driver).await, None);
    assert_eq!(bring(&bench.driver, "on").await, ["done"]);
    assert_eq!(bench.status().await, 200);
    // One of three.
    bench.fake.with(|server| server.of(SERVICE).env.insert(SITE_FLAGS[0].to_owned(), "false".to_owned()));
    assert_eq!(read(&bench.driver).await, None);
}

/// Another agent takes over after a crash at any request, and nobody is told of what is not live.
#[tokio::test]
async fn a_crash_at_any_request_leaves_nothing_that_is_believed() {
    for crash_at in 0..40 {
        let bench = bench().await;
        bring(&bench.driver, "off").await;
        let before = bench.fake.log().len();
        let crashed = async {
            while bench.fake.log().len() < before + crash_at {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let is_done = tokio::select! {
            _ = bring(&bench.driver, "on") => true,
            () = crashed => false,
        };
        let other = driver(&bench.fake.url, &bench.dir);
        let seen = read(&other).await;
        let is_live = bench.status().await == 200;
        assert!(
            seen.as_deref() != Some("on") || is_live,
            "after {crash_at} requests `on` is believed, and is not live"
        );
        bring(&other, "on").await;
        assert_eq!(bench.status().await, 200, "after {crash_at} requests");
        if is_done {
            return;
        }
    }
    panic!("it never came to an end");
}

#[tokio::test]
async fn a_deploy_of_others_that_is_under_way_is_not_undone() {
    let bench = bench().await;
    bench.fake.with(|server| {
        server.of(SERVICE).looks_per_step = 4;
        server.deploy_by_hand(SERVICE, "beefed");
    });
    bring(&bench.driver, "off").await;
    let live = bench.fake.with(|server| server.of(SERVICE).live().map(str::to_owned));
    assert_eq!((live.as_deref(), bench.status().await), (Some("beefed"), 503));
}
