//! One load on a server of loopback.

use bellwether_protocol::time::Span;
use bellwether_runtime::web::Target;
use serde_json::json;

use super::*;
use crate::fixture::Server;
use crate::settings::Load;
use crate::tally::Tally;

fn work(url: &str, settings: &serde_json::Value, course: &str) -> Work {
    let load = Load::read(settings).unwrap();
    let look = json!({
        "sli": "load", "cohort": "canary", "url": url, "kind": "load", "settings": settings, "every": "1s",
        "timeout": "2s", "headers": {}, "fingerprint": {"header": "x-release"}, "edges_ms": [100],
    });
    let target = Target::read(&serde_json::from_value(look).unwrap()).unwrap();
    let allow = serde_json::from_value(json!(["127.0.0.1"])).unwrap();
    let dialer = Arc::new(bellwether_runtime::web::Dialer::new(allow, bellwether_runtime::tls()));
    let rules = Rules {
        timeout: Duration::from_secs(2),
        connections_max: load.connections,
        width: Span::from_ms(200),
        edges_ms: vec![100],
    };
    let begin = Instant::now();
    let now = move || Timestamp::from_ms(i64::try_from(begin.elapsed().as_millis()).unwrap());
    let chain = Chain { target, dialer, steps: load.steps };
    let course = Course::new(&[course.parse().unwrap()], false).unwrap();
    Work { chain, course, think: load.think, rules, now: Arc::new(now) }
}

async fn all(mut engine: Engine) -> Tally {
    let mut tally = Tally::new(Some(Duration::from_secs(60)));
    while let Some(word) = engine.next().await {
        if let Word::Window(window) = word {
            tally.add(*window);
        }
    }
    let counts = tally.counts();
    assert_eq!(counts.planned, counts.sent + counts.shed, "{counts:?}");
    let sent = counts.ok + counts.http_err + counts.net_err + counts.timeout + counts.unfinished;
    assert_eq!(counts.sent, sent, "{counts:?}");
    tally
}

#[tokio::test]
async fn every_planned_arrival_is_answered_on_kept_connections() {
    let server = Server::default();
    let url = server.start().await;
    let settings = json!({"path": "/", "rate": "1/s", "connections": 5});
    let tally = all(Engine::start(work(&url, &settings, "200/s for 500ms")).unwrap()).await;
    assert_eq!((tally.counts().planned, tally.counts().ok), (100, 100), "{:?}", tally.counts());
    assert_eq!(server.asked(), 100);
    assert!((1..=5).contains(&server.connections()), "{} connections", server.connections());
    let releases: Vec<_> = tally.sound.gathered.portions().map(|portion| portion.release.clone().unwrap()).collect();
    assert_eq!(releases.iter().map(|release| release.as_str()).collect::<Vec<_>>(), ["v42"]);
}

#[tokio::test]
async fn users_carry_values_through_a_chain() {
    let server = Server::default();
    let url = server.start().await;
    let settings = json!({"users": 3, "think": "20ms", "chain": [
        {"path": "/login", "capture": {"token": {"json": "$.token"}, "user": {"json": "$.user"}}},
        {"path": "/user/{user}", "headers": {"authorization": "Bearer {token}"}, "expect": ["status == 200"]},
    ]});
    let counts = all(Engine::start(work(&url, &settings, "3 for 500ms")).unwrap()).await.counts();
    assert!(counts.ok >= 6 && counts.ok == counts.planned, "{counts:?}");
    assert_eq!(server.connections(), 3, "each user has one");
    let settings = json!({"users": 1, "chain": [
        {"path": "/login", "capture": {"token": {"json": "$.tokens"}}},
        {"path": "/never"},
    ]});
    let tally = all(Engine::start(work(&url, &settings, "1 for 100ms")).unwrap()).await;
    assert_eq!((tally.counts().http_err, tally.counts().ok), (1, 0));
    assert!(tally.sound.gathered.evidence()[0].text.ends_with("there is no `token` to carry on"));
}

#[tokio::test]
async fn a_stop_ends_sending_at_once_and_nothing_vanishes() {
    let server = Server::default();
    let url = server.start().await;
    let settings = json!({"path": "/hang", "rate": "1/s", "connections": 4});
    let engine = Engine::start(work(&url, &settings, "200/s for 1h")).unwrap();
    while server.asked() < 4 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    engine.stop();
    let tally = all(engine).await;
    assert_eq!((tally.counts().unfinished, tally.counts().ok), (4, 0), "{:?}", tally.counts());
    assert!(tally.counts().shed > 0 || tally.counts().planned == 4);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(server.asked(), 4, "something was sent after the end");
}

#[tokio::test]
async fn what_hangs_is_shed_or_over_in_time() {
    let url = Server::default().start().await;
    let settings = json!({"path": "/hang", "rate": "1/s", "connections": 2});
    let tally = all(Engine::start(work(&url, &settings, "50/s for 200ms")).unwrap()).await;
    let counts = tally.counts();
    assert_eq!((counts.planned, counts.ok, counts.unfinished), (10, 0, 0), "{counts:?}");
    assert!(counts.timeout >= 2 && counts.shed + counts.timeout == 10, "{counts:?}");
    assert!(tally.sound.lag_pool.max() > 1_000_000, "who was shed had waited for a connection");
}

/// The generator is starved on purpose: its windows are void, and no fault of the target's.
#[tokio::test]
async fn a_starved_generator_voids_its_windows() {
    let url = Server::default().start().await;
    let (say, mut words) = mpsc::channel(WORDS_MAX);
    let (_stop, stopped) = watch::channel(false);
    let work = work(&url, &json!({"path": "/", "rate": "1/s"}), "100/s for 1s");
    let starve = async {
        tokio::time::sleep(Duration::from_millis(450)).await;
        std::thread::sleep(Duration::from_millis(400));
    };
    let load = tokio::task::LocalSet::new();
    load.run_until(async { tokio::join!(drive(work, stopped, say), starve) }).await;
    // As a threshold of 1 s would judge it.
    let mut tally = Tally::new(Some(Duration::from_millis(100)));
    while let Some(Word::Window(window)) = words.recv().await {
        tally.add(*window);
    }
    assert!(tally.voids >= 2, "{} of {}", tally.voids, tally.windows);
    assert!(tally.why.as_ref().is_some_and(|why| why.starts_with("this generator was late")), "{:?}", tally.why);
    let counts = tally.counts();
    assert_eq!((counts.planned, counts.ok), (100, 100), "{counts:?}");
    let judge = |text: &str| text.parse::<crate::threshold::Threshold>().unwrap().judge(&tally).verdict;
    assert_eq!(judge("p99 < 1s"), crate::threshold::Verdict::CouldNotTell);
}
