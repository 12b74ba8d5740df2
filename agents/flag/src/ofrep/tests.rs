//! The endpoint over a real socket, held against the shapes of OFREP 0.3.0.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::snapshot::Document;

struct Server {
    base: String,
    client: reqwest::Client,
    served: Served,
    is_stale: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn start(auth: Option<&str>) -> Server {
    let flag = |name: &str, variants: Value, default: &str| -> Flag {
        serde_json::from_value(json!({ "name": name, "variants": variants, "default": default })).expect("a flag")
    };
    let flags = [
        flag("new_checkout", json!({ "on": true, "off": false }), "off"),
        flag("banner", json!({ "plain": "Hello", "loud": "HELLO" }), "plain"),
        serde_json::from_value(
            json!({ "name": "retired", "variants": { "on": 1 }, "default": "on", "disabled": true }),
        )
        .expect("a flag"),
    ];
    let served = Served::default();
    let is_stale = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&is_stale);
    let endpoint = Endpoint {
        flags: flags.into_iter().map(|flag| (flag.name.clone(), flag)).collect(),
        served: served.clone(),
        is_stale: Box::new(move || told.load(Ordering::Relaxed)),
        auth: auth.map(|secret| secret.to_owned().into()),
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let base = format!("http://{}/ofrep/v1/evaluate/flags", listener.local_addr().expect("an address"));
    let task = tokio::spawn(async move {
        let _ = axum::serve(listener, routes(endpoint)).await;
    });
    Server { base, client: bellwether_runtime::http().expect("a client"), served, is_stale, task }
}

impl Server {
    fn set(&self, revision: u64, flags: Value) {
        let document: Document = serde_json::from_value(json!({ "flags": flags })).expect("a document");
        self.served.replace(Snapshot { revision, document });
    }

    async fn ask(&self, path: &str, body: &str) -> (u16, Value) {
        let answer = self.client.post(format!("{}{path}", self.base)).body(body.to_owned()).send().await;
        let answer = answer.expect("an answer");
        let status = answer.status().as_u16();
        (status, answer.json().await.unwrap_or(Value::Null))
    }
}

fn user(name: &str) -> String {
    json!({ "context": { "targetingKey": name, "plan": "free" } }).to_string()
}

/// What the schema of a success requires, and of which kinds.
fn is_success(body: &Value) -> bool {
    let metadata = body["metadata"].as_object().expect("metadata");
    let reasons = ["STATIC", "TARGETING_MATCH", "SPLIT", "DISABLED", "UNKNOWN"];
    body["key"].is_string()
        && body["reason"].as_str().is_some_and(|reason| reasons.contains(&reason))
        && body["variant"].is_string()
        && !body["value"].is_null()
        && metadata.values().all(|value| value.is_boolean() || value.is_string() || value.is_number())
}

#[tokio::test]
async fn a_flag_is_served_as_it_is_set_and_the_kill_switch_is_final() {
    let server = start(None).await;
    server.set(3, json!({ "new_checkout": { "value": "on" } }));
    let (status, body) = server.ask("/new_checkout", &user("user-1")).await;
    assert_eq!(status, 200);
    assert!(is_success(&body), "{body}");
    let expected = json!({
        "key": "new_checkout", "reason": "STATIC", "variant": "on", "value": true, "metadata": { "revision": 3 },
    });
    assert_eq!(body, expected);
    server.set(4, json!({ "new_checkout": { "value": "off" } }));
    for name in ["user-1", "user-2", "user-3"] {
        let (_, body) = server.ask("/new_checkout", &user(name)).await;
        assert_eq!((&body["value"], &body["reason"]), (&json!(false), &json!("STATIC")));
    }
    let (_, body) = server.ask("/banner", &user("user-1")).await;
    assert_eq!((&body["value"], &body["variant"]), (&json!("Hello"), &json!("plain")));
}

#[tokio::test]
async fn a_share_splits_and_says_so() {
    let server = start(None).await;
    server.set(1, json!({ "new_checkout": { "value": "50%" } }));
    let mut on = 0;
    for number in 0..100 {
        let (_, body) = server.ask("/new_checkout", &user(&format!("user-{number}"))).await;
        assert_eq!(body["reason"], "SPLIT");
        on += u32::from(body["value"] == json!(true));
    }
    assert!((25..=75).contains(&on), "{on} of 100");
}

#[tokio::test]
async fn failures_have_their_codes() {
    let server = start(None).await;
    server.set(1, json!({}));
    let check = async |path: &str, body: &str, status: u16, code: &str| {
        let (got, answer) = server.ask(path, body).await;
        assert_eq!((got, &answer["errorCode"]), (status, &json!(code)), "{path} {body}");
        // A failure of one flag names it; a failure of all has no name to give.
        assert_eq!(answer["key"].is_string(), !path.is_empty());
        assert!(answer["errorDetails"].is_string());
    };
    for path in ["/new_checkout", ""] {
        check(path, "not json", 400, "PARSE_ERROR").await;
        check(path, "", 400, "PARSE_ERROR").await;
        check(path, &format!("\"{}\"", "x".repeat(BODY_LEN_MAX)), 400, "PARSE_ERROR").await;
        check(path, "{}", 400, "INVALID_CONTEXT").await;
        check(path, r#"{"context":[]}"#, 400, "INVALID_CONTEXT").await;
        check(path, r#"{"context":{"targetingKey":7}}"#, 400, "INVALID_CONTEXT").await;
        check(path, r#"{"context":{}}"#, 400, "TARGETING_KEY_MISSING").await;
        check(path, r#"{"context":{"targetingKey":""}}"#, 400, "TARGETING_KEY_MISSING").await;
    }
    check("/unknown", &user("user-1"), 404, "FLAG_NOT_FOUND").await;
    check("/not%20a%20name", &user("user-1"), 404, "FLAG_NOT_FOUND").await;
}

#[tokio::test]
async fn bulk_answers_all_and_then_not_modified() {
    let server = start(None).await;
    server.set(7, json!({ "new_checkout": { "value": "on" } }));
    let ask = async |known: &str| {
        let request = server.client.post(&server.base).header("if-none-match", known).body(user("user-1"));
        let answer = request.send().await.expect("an answer");
        let etag = answer.headers()["etag"].to_str().expect("text").to_owned();
        (answer.status().as_u16(), etag, answer.text().await.expect("a body"))
    };
    let (status, etag, body) = ask("").await;
    assert_eq!(status, 200);
    let body: Value = serde_json::from_str(&body).expect("json");
    let flags = body["flags"].as_array().expect("flags");
    assert!(flags.len() == 3 && flags[..2].iter().all(is_success), "{body}");
    assert_eq!(body["metadata"], json!({ "revision": 7 }));
    assert_eq!(body["eventStreams"], json!([{ "type": "sse", "endpoint": { "requestUri": EVENTS } }]));
    assert_eq!(ask(&format!("\"other\", W/{etag}")).await, (304, etag.clone(), String::new()));
    server.set(8, json!({ "new_checkout": { "value": "off" } }));
    assert_eq!(ask(&etag).await.0, 200);
}

#[tokio::test]
async fn old_flags_say_that_they_are_old_and_no_flags_say_so_too() {
    let server = start(None).await;
    for path in ["/new_checkout", ""] {
        let (status, body) = server.ask(path, &user("user-1")).await;
        assert_eq!(status, 500);
        assert!(body["errorDetails"].is_string(), "{body}");
    }
    server.set(2, json!({}));
    server.is_stale.store(true, Ordering::Relaxed);
    let (_, body) = server.ask("/new_checkout", &user("user-1")).await;
    assert_eq!(body["metadata"], json!({ "revision": 2, "stale": true }));
}

#[tokio::test]
async fn a_wrong_token_is_not_let_in() {
    let server = start(Some("s3cr3t")).await;
    server.set(1, json!({}));
    let check = async |name: &str, value: &str, expected: u16| {
        for path in ["/new_checkout", ""] {
            let request = server.client.post(format!("{}{path}", server.base)).header(name, value).body(user("u"));
            let answer = request.send().await.expect("an answer");
            assert_eq!(answer.status().as_u16(), expected, "{name}: {value}");
        }
    };
    check("authorization", "Bearer s3cr3t", 200).await;
    check("authorization", "bearer s3cr3t", 200).await;
    check("x-api-key", "s3cr3t", 200).await;
    check("authorization", "Bearer wrong", 401).await;
    check("authorization", "s3cr3t", 401).await;
    check("accept", "*/*", 401).await;
}

#[tokio::test]
async fn a_change_is_told_to_whoever_listens() {
    let server = start(Some("s3cr3t")).await;
    server.set(1, json!({}));
    let request = server.client.post(&server.base).header("x-api-key", "s3cr3t").body(user("user-1"));
    let body: Value = request.send().await.expect("an answer").json().await.expect("json");
    let uri = body["eventStreams"][0]["endpoint"]["requestUri"].as_str().expect("an address").to_owned();
    assert!(!uri.contains("s3cr3t"), "{uri}");
    let origin = server.base.split("/ofrep").next().expect("an origin").to_owned();
    let listen = async |uri: &str| server.client.get(format!("{origin}{uri}")).send().await.expect("an answer");
    for wrong in [EVENTS.to_owned(), format!("{uri}0")] {
        assert_eq!(listen(&wrong).await.status().as_u16(), 401, "{wrong}");
    }
    let mut listening = listen(&uri).await;
    assert_eq!(listening.headers()["content-type"], "text/event-stream");
    for revision in [2, 3] {
        server.set(revision, json!({ "new_checkout": { "value": "on" } }));
        let chunk = listening.chunk().await.expect("a chunk").expect("an event");
        let told = String::from_utf8_lossy(&chunk).into_owned();
        let data = told.strip_prefix("data: ").and_then(|told| serde_json::from_str::<Value>(told.trim()).ok());
        let expected = json!({ "type": "refetchEvaluation", "etag": revision.to_string() });
        assert_eq!(data, Some(expected), "{told}");
    }
}

/// What a client needs to know of a flag that is switched off: that it is, and nothing else.
#[tokio::test]
async fn a_disabled_flag_leaves_the_choice_to_the_code() {
    let server = start(None).await;
    server.set(1, json!({ "retired": { "value": "on" } }));
    let (status, body) = server.ask("/retired", &user("user-1")).await;
    let expected = json!({ "key": "retired", "reason": "DISABLED", "metadata": { "revision": 1 } });
    assert_eq!((status, body), (200, expected));
}
