use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, Response};
use bellwether_bus::Clock;
use bellwether_protocol::alert::{IncidentKind, NextStep, Proof};
use bellwether_protocol::id::Ordinal;

use super::*;
use crate::bridge::Bridge;
use crate::courier::{self, Pace, Shelf};
use crate::outbox::Outbox;

pub(crate) fn alert(seq: u32) -> Alert {
    Alert {
        kind: IncidentKind::Opened,
        incident: "estimator/42-error_rate".parse().unwrap(),
        seq,
        severity: Severity::Warn,
        state: "taking_back".into(),
        service: "estimator".parse().unwrap(),
        release: "v42".parse().unwrap(),
        stage: None,
        regions: Vec::new(),
        headline: "error_rate 5.8% > 0.5% in sjc".into(),
        numbers: None,
        record: Ordinal(118),
        proof: Proof::default(),
        next: vec![NextStep { why: "see why".into(), run: "bellwether rollout status estimator/42".into() }],
        tell: Vec::new(),
        at: "2026-05-05T13:51:10Z".parse().unwrap(),
    }
}

/// One answer of the sink: a status, and one header.
type Answer = (u16, Option<(&'static str, String)>);

/// What came in, with when.
struct Post {
    at: Instant,
    headers: HeaderMap,
    body: Bytes,
}

/// A receiver on loopback that answers what it is told, then 204.
struct Sink {
    address: SocketAddr,
    posts: Arc<Mutex<Vec<Post>>>,
}

impl Sink {
    async fn start(answers: impl IntoIterator<Item = Answer>) -> Self {
        let posts: Arc<Mutex<Vec<Post>>> = Arc::default();
        let answers = Arc::new(Mutex::new(answers.into_iter().collect::<VecDeque<_>>()));
        let seen = Arc::clone(&posts);
        let handle = move |headers: HeaderMap, body: Bytes| {
            seen.lock().unwrap().push(Post { at: Instant::now(), headers, body });
            let (status, header) = answers.lock().unwrap().pop_front().unwrap_or((204, None));
            let mut response = Response::builder().status(status);
            if let Some((name, value)) = header {
                response = response.header(name, value);
            }
            async move { response.body(axum::body::Body::empty()).unwrap() }
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let app = Router::new().fallback(handle);
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { address, posts }
    }

    fn webhook(&self) -> Webhook {
        let url = format!("http://{}/hook?token=hidden", self.address);
        Webhook::new(bellwether_runtime::http().unwrap(), &url, &SECRET.to_owned().into(), Severity::Warn).unwrap()
    }

    async fn wait_for(&self, count: usize) {
        let until = Instant::now() + Duration::from_secs(20);
        while self.posts.lock().unwrap().len() < count {
            let seen = self.posts.lock().unwrap().len();
            assert!(Instant::now() < until, "{seen} of {count} posts came");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn ids(&self) -> Vec<String> {
        let posts = self.posts.lock().unwrap();
        posts.iter().map(|post| post.headers["webhook-id"].to_str().unwrap().to_owned()).collect()
    }
}

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

#[test]
fn the_signature_is_that_of_the_specification() {
    let key = STANDARD.decode(SECRET.strip_prefix("whsec_").unwrap()).unwrap();
    let signature = sign(&key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#);
    assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
}

#[test]
fn wrong_secrets_and_addresses_are_refused_without_showing_them() {
    let check = |url: &str, secret: &str| {
        let client = bellwether_runtime::http().unwrap();
        let error = Webhook::new(client, url, &secret.to_owned().into(), Severity::Warn).unwrap_err().to_string();
        assert!(!error.contains("hidden"), "{error}");
    };
    check("https://example.com/?hidden", "whsec_hidden");
    check("https://example.com/?hidden", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
    check("https://example.com/?hidden", "whsec_aGlkZGVu");
    check("ftp://example.com/?hidden", SECRET);
    check("https://me:hidden@example.com/", SECRET);
    check("hidden", SECRET);
}

/// HMAC-SHA256 by its definition, independent of the crate that signs.
fn hmac_sha256(key: &[u8], message: &[u8]) -> Vec<u8> {
    use sha2::Digest;
    let pad = |with: u8| -> Vec<u8> { (0..64).map(|i| key.get(i).copied().unwrap_or(0) ^ with).collect() };
    let inner = Sha256::new().chain_update(pad(0x36)).chain_update(message).finalize();
    Sha256::new().chain_update(pad(0x5c)).chain_update(inner).finalize().to_vec()
}

#[tokio::test]
async fn a_receiver_can_verify_what_it_gets() {
    let sink = Sink::start([]).await;
    let receipt = sink.webhook().deliver(&alert(3)).await.unwrap();
    assert!(receipt.said.ends_with("/hook answered 204"), "{}", receipt.said);
    let posts = sink.posts.lock().unwrap();
    let header = |name: &str| posts[0].headers[name].to_str().unwrap().to_owned();
    let signed = format!("{}.{}.", header("webhook-id"), header("webhook-timestamp")).into_bytes();
    let key = STANDARD.decode(SECRET.strip_prefix("whsec_").unwrap()).unwrap();
    let expected = hmac_sha256(&key, &[signed, posts[0].body.to_vec()].concat());
    assert_eq!(header("webhook-signature"), format!("v1,{}", STANDARD.encode(expected)));
    assert_eq!(header("webhook-id"), "estimator/42-error_rate.3");
    assert_eq!(serde_json::from_slice::<Alert>(&posts[0].body).unwrap(), alert(3));
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let other = Sink::start([]).await;
    let target = format!("http://{}/", other.address);
    let sink = Sink::start([(301, Some(("location", target)))]).await;
    let error = sink.webhook().deliver(&alert(1)).await.unwrap_err();
    assert!(
        matches!(&error, DeliveryError::Refused { why } if why.contains("not followed") && !why.contains("hidden"))
    );
    assert_eq!(other.posts.lock().unwrap().len(), 0);
}

#[tokio::test]
async fn a_receiver_that_is_not_there_is_tried_again() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let sink = Sink { address, posts: Arc::default() };
    let error = sink.webhook().deliver(&alert(1)).await.unwrap_err();
    assert!(matches!(&error, DeliveryError::Retry { why, .. } if !why.contains("hidden")), "{error}");
}

const QUICK: Pace = Pace { first: Duration::from_millis(10), longest: Duration::from_millis(50) };

fn serve(sink: &Sink, dir: &std::path::Path) -> (Shelf, tokio::task::JoinHandle<crate::OutboxError>) {
    let shelf = Shelf::new(Outbox::open(dir).unwrap());
    let courier = courier::serve(Bridge::Webhook(sink.webhook()), shelf.clone(), None, Clock::new(), QUICK);
    (shelf, tokio::spawn(courier))
}

async fn wait_until_empty(shelf: &Shelf, bridge: &str) {
    let until = Instant::now() + Duration::from_secs(20);
    let far = bellwether_protocol::time::Timestamp::from_ms(i64::MAX);
    while shelf.lock().next(bridge, far).is_ok() {
        assert!(Instant::now() < until, "the outbox is not empty");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn what_the_receiver_asks_for_is_honoured_and_no_message_doubled() {
    let dir = tempfile::tempdir().unwrap();
    let sink = Sink::start([(500, None), (429, Some(("retry-after", "1".to_owned())))]).await;
    let (shelf, courier) = serve(&sink, dir.path());
    let name = sink.webhook().name().to_owned();
    for seq in [1, 2] {
        shelf.lock().take_up(&alert(seq), &[&name], None, None).unwrap();
    }
    shelf.ring();
    sink.wait_for(4).await;
    wait_until_empty(&shelf, &name).await;
    let first = "estimator/42-error_rate.1";
    assert_eq!(sink.ids(), [first, first, first, "estimator/42-error_rate.2"]);
    let posts = sink.posts.lock().unwrap();
    assert!(posts[2].at - posts[1].at >= Duration::from_millis(990), "retry-after was not honoured");
    assert!(posts[1].at - posts[0].at < Duration::from_millis(900), "a 500 waited as long as a 429");
    courier.abort();
}

#[tokio::test]
async fn a_restart_delivers_what_was_left() {
    let dir = tempfile::tempdir().unwrap();
    let sink = Sink::start([(503, None)]).await;
    let name = sink.webhook().name().to_owned();
    let (shelf, courier) = serve(&sink, dir.path());
    shelf.lock().take_up(&alert(1), &[&name], None, Some(7)).unwrap();
    shelf.ring();
    sink.wait_for(1).await;
    courier.abort();
    let _ = courier.await;
    drop(shelf);
    let (shelf, courier) = serve(&sink, dir.path());
    assert_eq!(shelf.lock().position(), 7);
    sink.wait_for(2).await;
    wait_until_empty(&shelf, &name).await;
    assert!(sink.ids().iter().all(|id| id == "estimator/42-error_rate.1"));
    courier.abort();
}
