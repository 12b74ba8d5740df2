use std::time::Duration;

use bellwether_fakes::github::Github as GithubFake;
use bellwether_fakes::{Fake, Fault};

use super::*;

const TOKEN: &str = "ghp_hidden";

struct Trial {
    fake: Fake<GithubFake>,
    dir: tempfile::TempDir,
}

impl Trial {
    async fn new() -> Self {
        let fake = Fake::start(GithubFake::new("acme/shop", TOKEN, &["v42"])).await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("token"), TOKEN).unwrap();
        Self { fake, dir }
    }

    /// As after a restart: all that it knows is on disk.
    fn bridge(&self) -> Github {
        let config = json!({
            "repository": "acme/shop",
            "token": format!("file:{}", self.dir.path().join("token").display()),
            "environment_url": "https://shop.example.com",
            "url": self.fake.url,
        });
        let config: GithubConfig = serde_json::from_value(config).unwrap();
        let client = bellwether_runtime::http().unwrap();
        let link = "https://runs.example.com/{rollout}";
        let mut github = Github::new(&"shop".parse().unwrap(), &config, link, client, self.dir.path()).unwrap();
        github.pace = Pace { first: Duration::from_millis(1), longest: Duration::from_millis(5) };
        github
    }

    /// State and description of every status of every deployment.
    fn statuses(&self) -> Vec<Vec<(String, String)>> {
        let text = |status: &Value, key: &str| status[key].as_str().unwrap().to_owned();
        let all =
            |statuses: &Vec<Value>| statuses.iter().map(|own| (text(own, "state"), text(own, "description"))).collect();
        self.fake.with(|github| github.deployments.iter().map(|own| all(&own.statuses)).collect())
    }
}

fn event(kind: &str, release: &str, content: Value) -> CdEvent {
    let kind = format!("dev.cdevents.{kind}.0.3.0");
    let at = "2026-05-05T13:50:00Z";
    let context = json!({
        "specversion": "0.5.1", "id": "shop/7/0", "source": "/bellwether/bw", "type": kind, "timestamp": at, "chainId": "shop/42",
    });
    let event = json!({
        "context": context,
        "subject": { "id": "shop/42", "source": "/bellwether/bw", "content": content },
        "customData": { "record": 7, "release": release, "shadow": release == "shadow" },
        "customDataContentType": "application/json",
    });
    serde_json::from_value(event).unwrap()
}

fn started(release: &str) -> CdEvent {
    event("pipelinerun.started", release, json!({ "pipelineName": "shop", "uri": "bellwether:rollout/shop/42" }))
}

fn entered() -> CdEvent {
    event("taskrun.started", "v42", json!({ "taskName": "canary", "pipelineRun": { "id": "shop/42" } }))
}

fn finished(outcome: &str, errors: Option<&str>) -> CdEvent {
    let content =
        json!({ "pipelineName": "shop", "uri": "bellwether:rollout/shop/42", "outcome": outcome, "errors": errors });
    event("pipelinerun.finished", "v42", content)
}

fn incident(description: &str) -> CdEvent {
    let (place, service) = (json!({ "id": "east" }), json!({ "id": "shop" }));
    let content = json!({ "description": description, "environment": place, "service": service, "artifactId": "pkg:generic/shop@v42" });
    event("incident.detected", "v42", content)
}

fn expected(statuses: &[(&str, &str)]) -> Vec<(String, String)> {
    statuses.iter().map(|(state, text)| ((*state).to_owned(), (*text).to_owned())).collect()
}

#[tokio::test]
async fn a_rollout_is_one_deployment_with_a_status_for_each_turn() {
    let trial = Trial::new().await;
    let mut github = trial.bridge();
    let long = "x".repeat(300);
    for event in [started("v42"), entered(), incident(&long), finished("failure", Some("taken back to v41"))] {
        github.tell(&event).await;
    }
    let statuses = trial.statuses();
    let cut = words::cut(&long, DESCRIPTION_MAX);
    let all = [
        ("queued", "v42 is to travel through its stages"),
        ("in_progress", "stage canary"),
        ("in_progress", cut.as_str()),
        ("failure", "taken back to v41"),
    ];
    assert_eq!(statuses, [expected(&all)]);
    trial.fake.with(|fake| {
        assert_eq!(fake.deployments[0].asked["ref"], "v42");
        assert_eq!(fake.deployments[0].asked["environment"], "production");
        assert_eq!(fake.deployments[0].statuses[0]["log_url"], "https://runs.example.com/shop/42");
        assert_eq!(fake.deployments[0].statuses[0]["environment_url"], "https://shop.example.com");
    });
    for (outcome, state) in [("success", "success"), ("cancel", "inactive"), ("error", "error")] {
        assert_eq!(told(&finished(outcome, None)).unwrap().state, state);
    }
    assert_eq!(told(&started("shadow")), None);
}

/// Each turn is told, by an agent that has just started, while one call in three fails in its own way.
#[tokio::test]
async fn faults_and_restarts_neither_lose_nor_double_a_turn() {
    let secondary = || {
        let body = json!({ "message": "You have exceeded a secondary rate limit" }).to_string();
        Fault { headers: vec![("retry-after".to_owned(), "0".to_owned())], body, ..Fault::status("/", 403, 1) }
    };
    let primary = || {
        let headers = [("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "1")];
        let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        Fault { headers, ..Fault::status("/", 429, 1) }
    };
    let lost = || Fault { method: Some("POST".to_owned()), takes_effect: true, ..Fault::status("/", 502, 1) };
    for fault in [secondary, primary, lost, || Fault::status("/", 500, 2), || Fault::status("/", 401, 1)] {
        let trial = Trial::new().await;
        for event in [started("v42"), entered(), finished("success", None)] {
            trial.fake.fault(fault());
            trial.bridge().tell(&event).await;
            // It died before it had noted where it is, and hears the same again.
            trial.bridge().tell(&event).await;
            trial.fake.heal();
        }
        let all = [
            ("queued", "v42 is to travel through its stages"),
            ("in_progress", "stage canary"),
            ("success", "v42 passed every stage"),
        ];
        assert_eq!(trial.statuses(), [expected(&all)], "{:?}", fault());
        // Without its place on disk it finds the deployment again.
        std::fs::remove_file(trial.dir.path().join("github-shop.json")).unwrap();
        trial.bridge().tell(&finished("success", None)).await;
        assert_eq!(trial.statuses(), [expected(&all)], "{:?}", fault());
    }
}

#[tokio::test]
async fn what_github_will_not_have_is_not_tried_again() {
    let trial = Trial::new().await;
    for event in [started("v43"), entered()] {
        trial.bridge().tell(&event).await;
    }
    let posts = trial.fake.log().iter().filter(|seen| seen.method == "POST").count();
    assert_eq!((posts, trial.statuses().len()), (1, 0), "a release that is no ref was asked for again");
    // A pause that is asked for is longer than any of ours.
    let fault = Fault { headers: vec![("retry-after".to_owned(), "7200".to_owned())], ..Fault::status("/", 403, 1) };
    trial.fake.fault(fault);
    let mut github = trial.bridge();
    let url = github.url.clone();
    let refused = github.get(&url, &[]).await.unwrap_err();
    let DeliveryError::Retry { why, after } = refused else { panic!("{refused:?}") };
    assert_eq!(after, Some(Duration::from_secs(3_600)));
    assert!(!why.contains(TOKEN), "{why}");
    github.config.repository = "shop".to_owned();
    let client = bellwether_runtime::http().unwrap();
    let flaw = Github::new(&"shop".parse().unwrap(), &github.config, "", client, trial.dir.path()).unwrap_err();
    assert!(flaw.to_string().contains("OWNER/NAME"), "{flaw}");
}
