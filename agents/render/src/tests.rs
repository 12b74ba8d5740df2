//! The client against the strict fake.

use bellwether_fakes::render::{Render as Platform, SiteFault, TOKEN};
use bellwether_fakes::{Fake, Fault};

use super::*;

const SERVICE: &str = "srv-1";

async fn fake() -> (Fake<Platform>, Render) {
    let fake = Fake::start(Platform::default().service(SERVICE, "aaa1")).await.unwrap();
    let render = client(&fake.url, TOKEN);
    (fake, render)
}

fn client(url: &str, token: &str) -> Render {
    within(url, token, Duration::from_secs(5))
}

fn within(url: &str, token: &str, timeout: Duration) -> Render {
    let rest = Rest::new("Render", &format!("{url}/v1"), format!("Bearer {token}").into(), timeout).unwrap();
    Render { rest, poll_every: Duration::from_millis(5) }
}

fn id(text: &str) -> Id {
    text.parse().unwrap()
}

fn commit(text: &str) -> LeverValue {
    text.parse().unwrap()
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

/// How often a deploy was asked for.
fn asked(fake: &Fake<Platform>) -> usize {
    let is_ask = |path: &str| path.ends_with("/deploys") || path.ends_with("/rollback");
    fake.log().iter().filter(|seen| seen.method == "POST" && is_ask(&seen.path)).count()
}

#[tokio::test]
async fn a_variable_counts_when_a_deploy_with_it_is_live() {
    let (fake, render) = fake().await;
    let (service, flag) = (id(SERVICE), id("FAULT_LENS_V1_ENABLED"));
    let visit = async || {
        let answer = bellwether_runtime::http()
            .unwrap()
            .get(format!("{}/{SERVICE}/v1/actions/list", fake.url))
            .send()
            .await
            .unwrap();
        (answer.status().as_u16(), answer.json::<Value>().await.unwrap())
    };
    let (status, body) = visit().await;
    let actions = body["actions"].as_array().map(Vec::len);
    assert_eq!((status, actions, &body["version"]), (200, Some(12), &json!("aaa1")));
    render.set_env_var(&service, &flag, "false").await.unwrap();
    assert_eq!(render.env_var(&service, &flag).await, Ok(Some("false".to_owned())));
    assert_eq!(visit().await.0, 200, "not deployed yet");
    let before = render.deploys(&service).await.unwrap();
    let now = live(&before).unwrap();
    let release = now.release().unwrap();
    let begun = render.ask(&service, &Ask::Deploy(&release), Some(&now.id)).await.unwrap();
    assert!(begun.status.is_open() && begun.is_of(&commit("aaa1")));
    assert_eq!(visit().await.0, 200, "not live yet");
    let done = render.wait_until_live(&service, &begun.id, soon()).await.unwrap();
    assert_eq!((done.status, done.trigger.as_deref()), (Status::Live, Some("api")));
    assert_eq!(visit().await, (503, json!({ "error": "FEATURE_DISABLED", "version": "aaa1" })));
    assert_eq!(render.deploys(&service).await.unwrap()[1].status, Status::Deactivated);
    assert_eq!(render.env_var(&service, &id("NOT_THERE")).await, Ok(None));
}

#[tokio::test]
async fn what_is_live_or_under_way_is_not_asked_again() {
    let (fake, render) = fake().await;
    let (service, new) = (id(SERVICE), commit("bbb2"));
    let there = render.ask(&service, &Ask::Deploy(&commit("aaa1")), None).await.unwrap();
    assert_eq!((there.status, asked(&fake)), (Status::Live, 0));
    fake.with(|render| render.of(SERVICE).looks_per_step = 50);
    let first = render.ask(&service, &Ask::Deploy(&new), None).await.unwrap();
    let again = render.ask(&service, &Ask::Deploy(&new), None).await.unwrap();
    assert_eq!((&first.id, asked(&fake)), (&again.id, 1));
    // It was begun before the variable was set, so it may not hold it.
    let newer = render.ask(&service, &Ask::Deploy(&new), Some(&first.id)).await.unwrap();
    assert!(newer.id != first.id && asked(&fake) == 2);
    render.cancel(&service, &newer.id).await.unwrap();
    render.cancel(&service, &first.id).await.unwrap();
    let over = render.cancel(&service, &first.id).await;
    assert!(matches!(over, Err(RenderError::Rest(RestError::Refused { status: 400, .. }))), "{over:?}");
    assert_eq!(pending(&render.deploys(&service).await.unwrap()).count(), 0);
}

#[tokio::test]
async fn what_was_only_accepted_is_found() {
    let (fake, render) = fake().await;
    fake.with(|render| render.of(SERVICE).accepted_only = 1);
    let begun = render.ask(&id(SERVICE), &Ask::Deploy(&commit("bbb2")), None).await.unwrap();
    assert!(begun.is_of(&commit("bbb2")) && asked(&fake) == 1);
    render.wait_until_live(&id(SERVICE), &begun.id, soon()).await.unwrap();
    let deploys = render.deploys(&id(SERVICE)).await.unwrap();
    let back = render.ask(&id(SERVICE), &Ask::Rollback(&deploys[1]), None).await.unwrap();
    assert_eq!(back.trigger.as_deref(), Some("rollback"));
    render.wait_until_live(&id(SERVICE), &back.id, soon()).await.unwrap();
    fake.with(|render| assert_eq!(render.of(SERVICE).live(), Some("aaa1")));
    assert!(render.auto_deploy(&id(SERVICE)).await.unwrap(), "a rollback through the API leaves it on");
    render.set_auto_deploy(&id(SERVICE), false).await.unwrap();
    fake.with(|render| render.push(SERVICE, "ccc3"));
    assert!(!render.auto_deploy(&id(SERVICE)).await.unwrap());
    fake.with(|render| assert_eq!(render.of(SERVICE).deploys().len(), 3, "nothing deploys itself"));
}

#[tokio::test]
async fn a_deploy_that_does_not_get_there_says_how_it_ended() {
    let (fake, render) = fake().await;
    let service = id(SERVICE);
    let check = async |ending: &'static str, expected: &str| {
        fake.with(|render| render.of(SERVICE).endings.push(ending));
        let begun = render.ask(&service, &Ask::Deploy(&commit("bbb2")), None).await.unwrap();
        let ended = render.wait_until_live(&service, &begun.id, soon()).await.unwrap_err();
        assert_eq!(ended.to_string(), format!("deploy {} ended as {expected}", begun.id));
        assert!(matches!(DriverError::from(ended), DriverError::Refused(_)));
    };
    check("build_failed", "build_failed").await;
    check("pre_deploy_failed", "pre_deploy_failed").await;
    check("update_failed", "update_failed").await;
    // A word that nobody knows is neither good nor bad, so it is waited for until the time is over.
    fake.with(|render| render.of(SERVICE).odd_status = Some("teleporting"));
    fake.with(|render| render.of(SERVICE).looks_per_step = 1_000);
    let begun = render.ask(&service, &Ask::Deploy(&commit("ccc3")), None).await.unwrap();
    assert_eq!(begun.status, Status::Other("teleporting".to_owned()));
    let late = render.wait_until_live(&service, &begun.id, Instant::now() + Duration::from_millis(50)).await;
    assert!(
        matches!(&late, Err(RenderError::Rest(RestError::Unknown(said))) if said.contains("teleporting")),
        "{late:?}"
    );
}

#[tokio::test]
async fn an_answer_says_whether_it_may_have_happened() {
    let (fake, render) = fake().await;
    let ask = async |new: &str| render.ask(&id(SERVICE), &Ask::Deploy(&commit(new)), None).await.map(drop);
    let post = |status| Fault { method: Some("POST".to_owned()), ..Fault::status("/v1", status, 1) };
    for (status, expected) in
        [(400, "Refused"), (401, "Refused"), (404, "Refused"), (410, "Refused"), (409, "Retry"), (503, "Unknown")]
    {
        fake.fault(post(status));
        let said = format!("{:?}", DriverError::from(ask("bbb2").await.unwrap_err()));
        assert!(said.starts_with(expected), "{status}: {said}");
    }
    fake.with(|render| assert_eq!(render.of(SERVICE).deploys().len(), 1, "none of them took effect"));
    // It took effect, and its answer was lost: looking finds it, and nothing is asked twice.
    for (new, broken) in [
        ("ccc3", Fault { takes_effect: true, ..post(500) }),
        ("ddd4", Fault { takes_effect: true, body: "<html>".to_owned(), ..post(201) }),
    ] {
        fake.with(|render| render.of(SERVICE).settle());
        fake.fault(broken);
        let doubt = ask(new).await;
        assert!(matches!(doubt, Err(RenderError::Rest(RestError::Unknown(_)))), "{doubt:?}");
        let before = asked(&fake);
        assert_eq!(ask(new).await, Ok(()));
        assert_eq!(asked(&fake), before);
    }
}

#[tokio::test]
async fn a_late_answer_is_a_doubt() {
    let (fake, _) = fake().await;
    let render = within(&fake.url, TOKEN, Duration::from_millis(200));
    let slow = Fault { status: None, delay_ms: 2_000, method: Some("POST".to_owned()), ..Fault::status("/v1", 0, 1) };
    fake.fault(slow);
    let doubt = render.ask(&id(SERVICE), &Ask::Deploy(&commit("bbb2")), None).await;
    assert_eq!(doubt, Err(unknown("Render: no answer in time".to_owned())));
    fake.with(|render| assert_eq!(render.of(SERVICE).deploys().len(), 2));
    let gone = client("http://127.0.0.1:1", TOKEN).deploys(&id(SERVICE)).await;
    assert!(matches!(gone, Err(RenderError::Rest(RestError::Retry { .. }))), "{gone:?}");
}

#[tokio::test]
async fn nothing_is_sent_while_render_asks_for_a_pause() {
    let (fake, render) = fake().await;
    let headers = vec![("Retry-After".to_owned(), "30".to_owned())];
    fake.fault(Fault { headers, ..Fault::status("/v1", 429, 1) });
    for _ in 0..3 {
        let paused = render.deploys(&id(SERVICE)).await;
        let left = |after: &Duration| (28..=30).contains(&after.as_secs());
        assert!(matches!(&paused, Err(RenderError::Rest(RestError::Retry { after, .. })) if left(after)), "{paused:?}");
    }
    assert_eq!(fake.log().len(), 1);
}

#[tokio::test]
async fn the_fake_refuses_what_render_refuses() {
    let (fake, render) = fake().await;
    let refuses = async |method: Method, path: &str, body: Value, expected: &str| {
        let path: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        let refused = render.change(method, &id(SERVICE), &path, Some(body)).await.unwrap_err();
        assert!(refused.to_string().contains(expected), "{refused}");
    };
    refuses(Method::POST, "/deploys", json!({ "commit": "a" }), "unknown field commit").await;
    refuses(Method::POST, "/deploys", json!({ "deployMode": "deploy_only", "commitId": "a" }), "deploy_only").await;
    refuses(Method::POST, "/rollback", json!({}), "missing field deployId").await;
    refuses(Method::POST, "/rollback", json!({ "deployId": "dep-0" }), "404").await;
    refuses(Method::PATCH, "", json!({ "autoDeploy": false }), "yes or no").await;
    refuses(Method::PUT, "/env-vars/A", json!({ "value": 1 }), "string").await;
    let stranger = client(&fake.url, "other").deploys(&id(SERVICE)).await;
    assert!(matches!(stranger, Err(RenderError::Rest(RestError::Refused { status: 401, .. }))), "{stranger:?}");
    fake.with(|render| {
        render.deploy_by_hand(SERVICE, "bbb2");
        render.of(SERVICE).retained = 0;
        render.of(SERVICE).settle();
    });
    let deploys = render.deploys(&id(SERVICE)).await.unwrap();
    let gone = render.ask(&id(SERVICE), &Ask::Rollback(&deploys[1]), None).await;
    assert!(
        matches!(&gone, Err(RenderError::Rest(RestError::Refused { said, .. })) if said.contains("not kept")),
        "{gone:?}"
    );
}

#[tokio::test]
async fn the_sample_service_goes_wrong_as_told() {
    let (fake, _) = fake().await;
    let get = async |path: &str| {
        let answer =
            bellwether_runtime::http().unwrap().get(format!("{}/{SERVICE}/{path}", fake.url)).send().await.unwrap();
        (answer.status().as_u16(), answer.json::<Value>().await.unwrap())
    };
    let signed = |body: &Value| {
        let actions = body["actions"].as_array().unwrap();
        (actions.len(), actions.iter().any(|action| action["kind"] == "SIGNED"))
    };
    assert_eq!(signed(&get("v1/actions/list").await.1), (12, true));
    assert_eq!(signed(&get("v1/actions/suggestions").await.1), (11, false));
    assert_eq!(get("v1/actions/execute").await.0, 200);
    assert_eq!(get("health").await.1["handlers"]["loaded"], 4);
    let release = Some("aaa1".to_owned());
    fake.with(|render| {
        let faults = &mut render.of(SERVICE).faults;
        faults.extend([
            SiteFault::ElevenActions,
            SiteFault::SignedSuggestion,
            SiteFault::Handlers { release: None, loaded: 3 },
        ]);
        let path = "v1/actions/execute".to_owned();
        faults.push(SiteFault::Answers { release, path, status: 500, times: 1 });
    });
    assert_eq!(signed(&get("v1/actions/list").await.1), (11, true));
    assert_eq!(signed(&get("v1/actions/suggestions").await.1), (11, true));
    assert_eq!(get("health").await.1["handlers"]["loaded"], 3);
    assert_eq!((get("v1/actions/execute").await.0, get("v1/actions/execute").await.0), (500, 200));
}

#[test]
fn a_token_is_never_sent_in_the_clear_to_another_machine() {
    let account = |api: &str| Account {
        token: "env:PATH".parse().unwrap(),
        api: api.to_owned(),
        timeout: timeout(),
        poll_every: poll_every(),
    };
    for (api, is_good) in [
        ("https://api.render.com/v1", true),
        ("http://127.0.0.1:1/v1", true),
        ("http://api.render.com/v1", false),
        ("ftp://127.0.0.1", false),
        ("x", false),
    ] {
        assert_eq!(Render::new(&account(api)).is_ok(), is_good, "{api}");
    }
    let shown = format!("{:?}", client("http://127.0.0.1:1", "hunter2"));
    assert!(!shown.contains("hunter2"), "{shown}");
    assert!("../x".parse::<Id>().is_err() && "".parse::<Id>().is_err());
}
