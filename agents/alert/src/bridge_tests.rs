use std::path::Path;
use std::time::Instant;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bellwether_bus::testing::wait_for;
use bellwether_fakes::pagerduty::Pagerduty as PagerdutyFake;
use bellwether_fakes::slack::Slack as SlackFake;
use bellwether_fakes::{Fake, Family, Fault, Reply, Seen};
use bellwether_protocol::alert::IncidentKind;
use bellwether_protocol::subject::Prefix;
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::task::JoinHandle;

use super::*;
use crate::OutboxError;
use crate::case::{Acknowledged, is_news};
use crate::claim::Mesh;
use crate::courier::{Courier, Pace, Shelf};
use crate::outbox::{Outbox, Waiting};
use crate::slack::REPLIES_MAX;

pub(crate) fn alert(seq: u32) -> Alert {
    let see = json!({ "why": "see why", "run": "bellwether rollout status estimator/42" });
    let alert = json!({
        "type": "incident.opened", "incident": "estimator/42-error_rate", "seq": seq, "severity": "warn",
        "state": "taking_back", "service": "estimator", "release": "v42", "stage": null, "regions": [],
        "headline": "error_rate 5.8% > 0.5% in sjc", "numbers": null, "record": 118, "next": [see],
        "proof": { "applied": null, "recovered": null }, "at": "2026-05-05T13:51:10Z",
    });
    serde_json::from_value(alert).unwrap()
}

fn at(seq: u32, kind: IncidentKind, state: &str) -> Alert {
    let at = alert(1).at + Span::from_secs(u64::from(seq));
    Alert { kind, state: state.to_owned(), headline: format!("{state} {seq}"), at, ..alert(seq) }
}

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const TOKEN: &str = "xoxb-hidden";
const CHANNEL: &str = "C0123456789";
const KEY: &str = "hidden00000000000000000000hidden";
const QUICK: Pace = Pace { first: Duration::from_millis(10), longest: Duration::from_millis(50) };

/// Takes whatever comes.
fn anything(_: &Seen) -> Reply {
    Reply::text(204, "")
}

/// One bridge, its outbox in a directory, and a courier between them.
struct Served {
    shelf: Shelf,
    takes: Takes,
    courier: JoinHandle<OutboxError>,
}

impl Served {
    /// `config` is the bridge's entry; `HIDDEN` in it becomes a file with `secret`.
    fn new(dir: &Path, config: &str, secret: &str) -> Self {
        let path = dir.join("secret");
        std::fs::write(&path, secret).unwrap();
        let yaml = config.replace("HIDDEN", &format!("\"file:{}\"", path.display()));
        let config = bellwether_runtime::parse_config("bridge.yaml", &yaml).unwrap();
        let client = bellwether_runtime::http().unwrap();
        let bridge = Bridge::new("under-test", &config, "https://x/{rollout}", &Prefix::default(), &client).unwrap();
        let (shelf, takes) = (Shelf::new(Outbox::open(dir).unwrap()), bridge.takes());
        let (mesh, pace) = (Mesh::default(), QUICK);
        let courier = tokio::spawn(Courier { bridge, shelf: shelf.clone(), mesh, pace }.serve());
        Self { shelf, takes, courier }
    }

    fn tell(&self, alert: &Alert, occasion: Occasion) {
        let mut outbox = self.shelf.lock();
        let is_news = is_news(outbox.case(alert).map(|case| &case.last), alert);
        let case = outbox.case_mut(alert);
        case.fold(alert);
        if occasion == Occasion::Acknowledged {
            case.acknowledged = Some(Acknowledged { by: "ann".parse().unwrap(), at: alert.at });
        }
        let (figure, seq) = (!is_news && self.takes == Takes::Newest, alert.seq);
        let new = Waiting::new("under-test", alert.clone(), Timestamp::default());
        let new = Waiting { occasion, figure, ..new };
        let wanted = is_news || occasion != Occasion::News || matches!(self.takes, Takes::Each | Takes::Newest);
        outbox.take_up(wanted.then_some(new).into_iter().collect(), Some(u64::from(seq))).unwrap();
        drop(outbox);
        self.shelf.ring();
    }

    async fn is_empty(&self) {
        let far = Timestamp::from_ms(i64::MAX);
        wait_for("an empty outbox", || self.shelf.lock().next("under-test", false, far).is_err()).await;
    }

    /// As when the process is killed: what is on disk stays.
    async fn stop(self) {
        self.courier.abort();
        let _ = self.courier.await;
    }
}

fn retry_after(path: &str, times: u32) -> Fault {
    Fault { headers: vec![("retry-after".into(), "1".into())], ..Fault::status(path, 429, times) }
}

/// HMAC-SHA256 by its definition, independent of the crate that signs.
fn hmac_sha256(key: &[u8], message: &[u8]) -> Vec<u8> {
    let pad = |with: u8| -> Vec<u8> { (0..64).map(|i| key.get(i).copied().unwrap_or(0) ^ with).collect() };
    let inner = Sha256::new().chain_update(pad(0x36)).chain_update(message).finalize();
    Sha256::new().chain_update(pad(0x5c)).chain_update(inner).finalize().to_vec()
}

async fn webhook(dir: &Path) -> (Fake<impl Family>, impl Fn() -> Served) {
    let fake = Fake::start(anything).await.unwrap();
    let config = format!("webhook: {{ url: \"{}/hook?token=hidden\", secret: HIDDEN }}", fake.url);
    let dir = dir.to_owned();
    (fake, move || Served::new(&dir, &config, SECRET))
}

fn ids<F: Family>(fake: &Fake<F>) -> Vec<String> {
    fake.log().iter().map(|seen| seen.header("webhook-id").unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_webhook_is_signed_honours_a_pause_and_doubles_no_message() {
    let dir = tempfile::tempdir().unwrap();
    let (fake, serve) = webhook(dir.path()).await;
    fake.fault(Fault::status("/hook", 500, 1));
    fake.fault(retry_after("/hook", 1));
    let (served, began) = (serve(), Instant::now());
    for seq in [1, 2] {
        served.tell(&alert(seq), Occasion::News);
    }
    served.tell(&alert(2), Occasion::Reminder(3));
    served.is_empty().await;
    assert!(began.elapsed() >= Duration::from_millis(990), "retry-after was not honoured");
    let first = "estimator/42-error_rate.1";
    let second = "estimator/42-error_rate.2";
    assert_eq!(ids(&fake), [first, first, first, second, &format!("{second}.reminder-3")]);
    let seen = fake.log().remove(2);
    let header = |name| seen.header(name).unwrap();
    let signed = format!("{}.{}.{}", header("webhook-id"), header("webhook-timestamp"), seen.body);
    let key = STANDARD.decode(SECRET.strip_prefix("whsec_").unwrap()).unwrap();
    let signature = STANDARD.encode(hmac_sha256(&key, signed.as_bytes()));
    assert_eq!(header("webhook-signature"), format!("v1,{signature}"));
    assert_eq!(serde_json::from_str::<Alert>(&seen.body).unwrap(), alert(1));
    served.stop().await;
}

#[tokio::test]
async fn a_redirect_is_not_followed_and_a_restart_tells_what_was_left() {
    let dir = tempfile::tempdir().unwrap();
    let (fake, serve) = webhook(dir.path()).await;
    let elsewhere = vec![("location".into(), format!("{}/elsewhere", fake.url))];
    fake.fault(Fault { headers: elsewhere, ..Fault::status("/hook", 301, 1) });
    fake.fault(Fault::status("/hook", 503, u32::MAX));
    let served = serve();
    served.tell(&alert(1), Occasion::News);
    served.tell(&alert(2), Occasion::News);
    wait_for("a second message", || fake.log().len() >= 3).await;
    served.stop().await;
    fake.heal();
    let served = serve();
    assert_eq!(served.shelf.lock().position(), 2);
    served.is_empty().await;
    assert!(fake.log().iter().all(|seen| seen.path == "/hook"));
    assert_eq!(ids(&fake).iter().filter(|id| id.ends_with(".1")).count(), 1, "a redirect is final");
    served.stop().await;
}

#[tokio::test]
async fn an_alertmanager_is_signed_in_to() {
    let basic = "auth: { basic: { user: ann, password: HIDDEN } }";
    let encoded = format!("Basic {}", STANDARD.encode("ann:hidden"));
    for (auth, expected) in
        [("", None), (basic, Some(encoded.as_str())), ("auth: { bearer: HIDDEN }", Some("Bearer hidden"))]
    {
        let dir = tempfile::tempdir().unwrap();
        let fake = Fake::start(anything).await.unwrap();
        // What a person can put right is tried again.
        fake.fault(Fault::status("/", 401, 1));
        let config = format!("alertmanager: {{ url: \"{}\", {auth} }}", fake.url);
        let served = Served::new(dir.path(), &config, "hidden");
        served.tell(&at(1, IncidentKind::Resolved, "recovered"), Occasion::News);
        served.is_empty().await;
        let seen: Vec<_> = fake.log().iter().map(|seen| seen.header("authorization").map(str::to_owned)).collect();
        assert_eq!(seen, [expected.map(str::to_owned), expected.map(str::to_owned)]);
        served.stop().await;
    }
}

async fn slack(dir: &Path) -> (Fake<SlackFake>, impl Fn() -> Served) {
    let fake = Fake::start(SlackFake::new(CHANNEL, TOKEN)).await.unwrap();
    let config = format!("slack: {{ url: \"{}/api\", token: HIDDEN, channel: {CHANNEL} }}", fake.url);
    let dir = dir.to_owned();
    (fake, move || Served::new(&dir, &config, TOKEN))
}

/// What a channel shows: roots, replies, and the header of the first root.
fn seen(fake: &Fake<SlackFake>) -> (usize, usize, String) {
    fake.with(|slack| {
        let (all, roots) = (slack.messages.len(), slack.roots());
        let header =
            roots.first().map(|root| root["blocks"][0]["text"]["text"].as_str().unwrap_or_default().to_owned());
        (roots.len(), all - roots.len(), header.unwrap_or_default())
    })
}

#[tokio::test]
async fn an_incident_is_one_thread_whose_root_is_true_now() {
    let dir = tempfile::tempdir().unwrap();
    let (fake, serve) = slack(dir.path()).await;
    let served = serve();
    served.tell(&alert(1), Occasion::News);
    served.is_empty().await;
    assert_eq!(seen(&fake), (1, 1, "✗ Taking back: estimator v42".to_owned()));
    // Answers 429, then nothing at all; meanwhile it goes on.
    fake.fault(retry_after("/api/", 1));
    fake.fault(Fault::status("/api/", 503, 20));
    for seq in 2..400 {
        served.tell(&at(seq, IncidentKind::Updated, "taking_back"), Occasion::News);
    }
    served.tell(&at(400, IncidentKind::Updated, "applied"), Occasion::News);
    served.tell(&at(400, IncidentKind::Updated, "applied"), Occasion::Acknowledged);
    served.is_empty().await;
    assert_eq!(seen(&fake), (1, 2, "! Applied, not yet recovered: estimator v42".to_owned()));
    assert!(fake.with(|slack| slack.messages[0].to_string().contains("ann took it up 13:57:50Z")));
    for seq in 401..410 {
        served.tell(&at(seq, IncidentKind::Updated, &format!("odd_{seq}")), Occasion::News);
    }
    served.tell(&at(410, IncidentKind::Resolved, "recovered"), Occasion::News);
    served.is_empty().await;
    assert_eq!(seen(&fake), (1, REPLIES_MAX, "✓ Recovered: estimator v42".to_owned()));
    let last = fake.with(|slack| slack.messages.last().unwrap()["text"].as_str().unwrap().to_owned());
    assert!(last.starts_with("13:58:00Z recovered 410\n`bellwether rollout"), "{last}");
    // Somebody deletes the thread; then the next that happens begins another.
    fake.with(|slack| slack.messages.clear());
    served.tell(&at(411, IncidentKind::Opened, "taking_back"), Occasion::News);
    served.is_empty().await;
    assert_eq!((seen(&fake).0, seen(&fake).1), (1, 1));
    served.stop().await;
}

#[tokio::test]
async fn what_may_have_been_posted_is_looked_for() {
    let dir = tempfile::tempdir().unwrap();
    let (fake, serve) = slack(dir.path()).await;
    // Others talk in the channel, so that the root is not on the first page.
    let chatter = |slack: &mut SlackFake| {
        slack.messages.extend((0..3).map(|i| json!({ "ts": format!("1.{i}"), "text": "hello" })));
    };
    // The root's answer is lost with the process, the reply's by a bad gateway.
    fake.fault(Fault { takes_effect: true, delay_ms: 60_000, ..Fault::status("/api/chat.postMessage", 200, 1) });
    let served = serve();
    served.tell(&alert(1), Occasion::News);
    wait_for("a root", || !fake.with(|slack| slack.messages.is_empty())).await;
    served.stop().await;
    fake.with(chatter);
    fake.fault(Fault { takes_effect: true, ..Fault::status("/api/chat.postMessage", 502, 1) });
    let served = serve();
    served.is_empty().await;
    fake.with(|slack| slack.messages.retain(|message| message["text"] != "hello"));
    assert_eq!((seen(&fake).0, seen(&fake).1), (1, 1));
    served.stop().await;
    // An agent of another region takes over: it has no notes, and finds the root.
    std::fs::remove_file(dir.path().join("outbox.json")).unwrap();
    let served = serve();
    served.tell(&at(2, IncidentKind::Resolved, "recovered"), Occasion::News);
    served.is_empty().await;
    assert_eq!(seen(&fake), (1, 2, "✓ Recovered: estimator v42".to_owned()));
    served.stop().await;
}

#[tokio::test]
async fn what_slack_says_is_final_or_not() {
    let dir = tempfile::tempdir().unwrap();
    let (fake, serve) = slack(dir.path()).await;
    let served = serve();
    for (seq, code, posted) in [(1, "not_in_channel", 2), (2, "invalid_blocks", 1), (3, "internal_error", 2)] {
        let before = fake.log().len();
        let body = json!({ "ok": false, "error": code }).to_string();
        fake.fault(Fault { body, ..Fault::status("/api/chat.postMessage", 200, 1) });
        let incident = format!("estimator/{seq}-tti").parse().unwrap();
        served.tell(&Alert { incident, ..alert(1) }, Occasion::News);
        served.is_empty().await;
        let log = fake.log();
        let roots =
            log[before..].iter().filter(|seen| seen.path.ends_with("postMessage") && seen.json()["blocks"].is_array());
        assert_eq!(roots.count(), posted, "{code}");
    }
    served.stop().await;
}

#[tokio::test]
async fn an_incoming_webhook_tells_beginning_and_end() {
    let dir = tempfile::tempdir().unwrap();
    let fake = Fake::start(SlackFake::new(CHANNEL, TOKEN)).await.unwrap();
    let served = Served::new(dir.path(), "slack_webhook: { url: HIDDEN }", &format!("{}/services/T/B/x", fake.url));
    for alert in [
        alert(1),
        at(2, IncidentKind::Updated, "taking_back"),
        at(3, IncidentKind::Updated, "applied"),
        at(4, IncidentKind::Resolved, "recovered"),
    ] {
        served.tell(&alert, Occasion::News);
        served.is_empty().await;
    }
    let said = fake
        .with(|slack| slack.hooked.iter().map(|body| body["text"].as_str().unwrap().to_owned()).collect::<Vec<_>>());
    assert_eq!(said.len(), 2);
    assert!(said[0].starts_with("[warn] ✗ Taking back") && said[1].starts_with("[warn] ✓ Recovered"), "{said:?}");
    served.stop().await;
}

#[tokio::test]
async fn pagerduty_rings_once_and_is_resolved_once() {
    let dir = tempfile::tempdir().unwrap();
    let fake = Fake::start(PagerdutyFake::new(KEY)).await.unwrap();
    let config = format!("pagerduty: {{ url: \"{}\", routing_key: HIDDEN }}", fake.url);
    let served = Served::new(dir.path(), &config, KEY);
    fake.fault(retry_after("/v2/enqueue", 1));
    fake.fault(Fault { takes_effect: true, ..Fault::status("/v2/enqueue", 500, 2) });
    let page = |seq, kind, state| Alert { severity: Severity::Page, ..at(seq, kind, state) };
    served.tell(&alert(1), Occasion::News);
    served.is_empty().await;
    for seq in 2..500 {
        served.tell(&at(seq, IncidentKind::Updated, "taking_back"), Occasion::News);
    }
    served.tell(&page(500, IncidentKind::Updated, "not_taken_back"), Occasion::News);
    served.is_empty().await;
    served.tell(&page(500, IncidentKind::Updated, "not_taken_back"), Occasion::Acknowledged);
    served.is_empty().await;
    served.tell(&page(501, IncidentKind::Resolved, "over"), Occasion::News);
    served.is_empty().await;
    let alerts = fake.with(|pagerduty| pagerduty.alerts.clone());
    let found = &alerts["estimator/42-error_rate"];
    assert_eq!(alerts.len(), 1);
    assert_eq!((found.rings, found.acknowledges, found.resolves, found.is_open), (1, 1, 1, false));
    // Twice where the answer was lost, once more where it grew.
    assert_eq!((found.triggers, found.severity.as_str()), (4, "critical"));
    assert_eq!(found.summary, "estimator v42: not_taken_back 500");
    // What it will never take is not tried again.
    let before = fake.log().len();
    fake.fault(Fault::status("/v2/enqueue", 400, u32::MAX));
    served.tell(&Alert { incident: "estimator/43-tti".parse().unwrap(), ..alert(1) }, Occasion::News);
    served.is_empty().await;
    assert_eq!(fake.log().len(), before + 1);
    served.stop().await;
}
