//! Bad targets on loopback, each with the class and the evidence that it must lead to.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bellwether_protocol::assignment::Look;
use bellwether_protocol::plan::Fingerprint;
use bellwether_protocol::time::Span;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::*;

/// Answers every connection with `script`, for as long as the test runs.
async fn serve<F>(script: impl Fn(TcpStream) -> F + Send + 'static) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(script(stream));
        }
    });
    address
}

async fn request(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> String {
    let mut text = Vec::new();
    let mut byte = [0];
    while !text.ends_with(b"\r\n\r\n") && stream.read(&mut byte).await.is_ok_and(|n| n == 1) {
        text.extend_from_slice(&byte);
    }
    String::from_utf8(text).expect("a request in ASCII")
}

/// Answers every request with the same bytes, then closes.
async fn answering(answer: impl Into<Vec<u8>>) -> SocketAddr {
    let answer: Arc<Vec<u8>> = Arc::new(answer.into());
    serve(move |mut stream| {
        let answer = Arc::clone(&answer);
        async move {
            request(&mut stream).await;
            let _ = stream.write_all(&answer).await;
            let _ = stream.shutdown().await;
        }
    })
    .await
}

fn reply(head: &str, body: &str) -> String {
    format!("HTTP/1.1 {head}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

fn at(url: String, timeout_ms: u64) -> Look {
    let look = json!({
        "sli": "errors", "cohort": "canary", "url": url, "kind": "http", "settings": null, "every": "30s",
        "timeout": format!("{timeout_ms}ms"), "headers": { "x-cohort": "canary" },
        "fingerprint": { "header": "x-release" }, "edges_ms": [],
    });
    serde_json::from_value(look).unwrap()
}

fn dialer() -> Dialer {
    Dialer::new(
        serde_json::from_value(json!(["127.0.0.0/8", "localhost", "no-such-host.invalid"])).unwrap(),
        bellwether_runtime::tls(),
    )
}

async fn look_at(look: Look, settings: Value) -> Observation {
    let probe = Http::read(&settings).expect("sound settings");
    probe.look(&Target::read(&look).expect("a sound target"), &dialer()).await
}

async fn look(address: SocketAddr, settings: Value) -> Observation {
    look_at(at(format!("http://{address}"), 5_000), settings).await
}

fn check(seen: &Observation, class: &str, release: Option<&str>, evidence: &str) {
    let text = seen.evidence.as_deref().unwrap_or_default();
    assert_eq!(seen.class, class, "{text}");
    assert_eq!(seen.release.as_ref().map(Release::as_str), release);
    assert!(text.contains(evidence), "`{evidence}` is not in `{text}`");
    assert_eq!(text.is_empty(), class == class::OK, "{text}");
    assert!(text.chars().count() <= EVIDENCE_LEN_MAX);
}

fn root() -> Value {
    json!({"path": "/"})
}

#[tokio::test]
async fn a_good_answer() {
    let body = r#"{"checks": {"memory": "226MB of 239MB"}, "actions": [1, 2]}"#;
    let address = answering(reply("200 OK\r\nx-release: v42", body)).await;
    let settings = json!({
        "path": "/health", "expect": ["$.actions len == 2"],
        "numbers": {"memory": {"json": "$.checks.memory"}, "gone": {"json": "$.gone"}},
    });
    let seen = look(address, settings).await;
    check(&seen, class::OK, Some("v42"), "");
    assert_eq!(seen.numbers, BTreeMap::from([("memory".parse().unwrap(), 226e6)]));
    assert!(seen.latency.is_some());
}

#[tokio::test]
async fn the_request_is_what_was_asked_for() {
    let (tell, mut told) = tokio::sync::mpsc::channel(1);
    let address = serve(move |mut stream| {
        let tell = tell.clone();
        async move {
            let _ = tell.send(request(&mut stream).await).await;
            let _ = stream.write_all(reply("204 No Content", "").as_bytes()).await;
        }
    })
    .await;
    let settings = json!({"path": "/a?b=1", "method": "POST", "body": "{}", "headers": {"accept": "text/html", "x-cohort": "other"}});
    let seen = look_at(at(format!("http://{address}/base/"), 5_000), settings).await;
    check(&seen, class::OK, None, "");
    let asked = told.recv().await.expect("a request").to_lowercase();
    for part in [
        "post /base/a?b=1 http/1.1\r\n",
        "accept: text/html",
        "x-cohort: canary",
        &format!("host: {address}"),
        "content-length: 2",
    ] {
        assert!(asked.contains(part), "`{part}` is not in `{asked}`");
    }
    assert!(!asked.contains("other"), "{asked}");
}

#[tokio::test]
async fn a_bad_answer_is_classed_by_its_status() {
    for (head, body, settings, class, evidence) in [
        (
            "500 Oops",
            "boom password=hunter2",
            root(),
            class::HTTP_5XX,
            "status in 200 to 299: not so; 500 boom password=***",
        ),
        ("404 Not Found", "", root(), class::HTTP_4XX, "404"),
        (
            "302 Found\r\nlocation: http://other.example.com/?token=hunter2",
            "",
            root(),
            class::REDIRECT,
            "302 redirects to `other.example.com`",
        ),
        ("302 Found\r\nlocation: //other.example.com/x", "", root(), class::REDIRECT, "302 redirects to"),
        ("302 Found\r\nlocation: file:///etc/passwd", "", root(), class::REDIRECT, "302 redirects to"),
        ("302 Found\r\nlocation: /login", "", root(), class::REDIRECT, "the same host"),
        ("302 Found\r\nlocation: /login", "", json!({"path": "/", "expect": ["status == 302"]}), class::OK, ""),
        (
            "302 Found\r\nlocation: http://o.example.com",
            "",
            json!({"path": "/", "expect": ["status == 302"]}),
            class::REDIRECT,
            "o.example.com",
        ),
        (
            "302 Found\r\nlocation: http://o.example.com",
            "",
            json!({"path": "/", "expect": ["status == 302", "header location contains o.example"]}),
            class::OK,
            "",
        ),
        (
            "200 OK",
            "fine",
            json!({"path": "/", "expect": ["status == 503", "body contains FEATURE_DISABLED"]}),
            class::UNEXPECTED,
            "status == 503: was 200",
        ),
        (
            "503 Off",
            "FEATURE_DISABLED",
            json!({"path": "/", "expect": ["status == 503", "body contains FEATURE_DISABLED"]}),
            class::OK,
            "",
        ),
        (
            "200 OK",
            "<html>",
            json!({"path": "/", "expect": ["$.status == healthy"]}),
            class::UNEXPECTED,
            "the body is not JSON; 200 <html>",
        ),
        (
            "200 OK",
            "[1]",
            json!({"path": "/?key=hunter2", "expect": ["$ len == 12"]}),
            class::UNEXPECTED,
            "GET /?key=*** after",
        ),
    ] {
        let seen = look(answering(reply(head, body)).await, settings).await;
        check(&seen, class, None, evidence);
        assert!(!seen.evidence.unwrap_or_default().contains("hunter2"));
        assert!(seen.latency.is_some());
    }
}

#[tokio::test]
async fn a_secret_of_the_request_is_not_repeated_when_the_target_echoes_it() {
    let address = answering(reply("401 No", "no entry for tiny-pw")).await;
    let seen = look(address, json!({"path": "/", "headers": {"authorization": "Bearer tiny-pw"}})).await;
    check(&seen, class::HTTP_4XX, None, "no entry for ***");
}

#[tokio::test]
async fn a_refusal_is_one_only_when_all_that_makes_it_one_holds() {
    let refusal = json!(["status == 503", "$.error == FEATURE_DISABLED"]);
    let settings = json!({"path": "/", "expect": ["$.n == 1"], "refusal": refusal});
    for (status, body, class) in [
        ("503 No", r#"{"error": "FEATURE_DISABLED"}"#, class::REFUSED),
        ("503 No", r#"{"error": "OVERLOADED"}"#, class::HTTP_5XX),
        ("200 OK", r#"{"error": "FEATURE_DISABLED", "n": 1}"#, class::OK),
        ("503 No", "FEATURE_DISABLED", class::HTTP_5XX),
    ] {
        let seen = look(answering(reply(status, body)).await, settings.clone()).await;
        assert_eq!(seen.class, class, "{status} {body}");
    }
}

#[tokio::test]
async fn another_release_is_told() {
    let seen = look(answering(reply("200 OK\r\nx-release: v41", "")).await, root()).await;
    check(&seen, class::OK, Some("v41"), "");
    let seen = look(answering(reply("200 OK\r\nx-release: not a release", "")).await, root()).await;
    check(&seen, class::OK, None, "");
}

#[tokio::test]
async fn a_release_in_the_body_is_told() {
    let address = answering(reply("500 Oops", r#"{"release": "v42"}"#)).await;
    let fingerprint = Some(Fingerprint::Json("$.release".to_owned()));
    let seen = look_at(Look { fingerprint, ..at(format!("http://{address}"), 5_000) }, root()).await;
    check(&seen, class::HTTP_5XX, Some("v42"), "500");
}

#[tokio::test]
async fn a_target_that_hangs_is_a_timeout() {
    let address = serve(|mut stream| async move {
        request(&mut stream).await;
        std::future::pending::<()>().await;
    })
    .await;
    let seen = look_at(at(format!("http://{address}"), 100), root()).await;
    check(&seen, class::TIMEOUT, None, "no whole answer in time");
    assert!(seen.latency.is_some_and(|latency| latency >= Span::from_ms(100)));
}

#[tokio::test]
async fn a_target_that_drips_is_a_timeout() {
    let address = serve(|mut stream| async move {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nx-release: v42\r\n\r\n").await;
        while stream.write_all(b"x").await.is_ok() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    })
    .await;
    let seen = look_at(at(format!("http://{address}"), 150), root()).await;
    check(&seen, class::TIMEOUT, Some("v42"), "no whole answer in time");
}

#[tokio::test]
async fn a_connection_that_breaks_is_a_reset() {
    let seen = look(answering("").await, root()).await;
    check(&seen, class::RESET, None, "the connection broke");
    let seen =
        look(answering("HTTP/1.1 200 OK\r\nx-release: v42\r\ncontent-length: 99\r\n\r\nhalf").await, root()).await;
    check(&seen, class::RESET, Some("v42"), "the connection broke");
    assert_eq!(seen.latency, None);
}

#[tokio::test]
async fn an_answer_that_is_not_http_is_unexpected() {
    let seen = look(answering("SSH-2.0-OpenSSH_9.2\r\n\r\n").await, root()).await;
    check(&seen, class::UNEXPECTED, None, "no HTTP");
    let seen = look(answering(format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "y".repeat(100_000))).await, root()).await;
    check(&seen, class::UNEXPECTED, None, "too large");
}

#[tokio::test]
async fn a_body_of_100_mb_is_cut_off() {
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&sent);
    let address = serve(move |mut stream| {
        let sent = Arc::clone(&counted);
        async move {
            request(&mut stream).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
            let part = vec![b'x'; 100_000];
            while sent.load(Ordering::SeqCst) < 100_000_000 && stream.write_all(&part).await.is_ok() {
                sent.fetch_add(part.len(), Ordering::SeqCst);
            }
        }
    })
    .await;
    let seen = look(address, root()).await;
    check(&seen, class::TOO_LARGE, None, "over 1048576 bytes");
    // What was sent beyond the cap lies in the sockets' own buffers.
    assert!(sent.load(Ordering::SeqCst) < 50_000_000);
}

#[tokio::test]
async fn a_closed_port_is_no_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    drop(listener);
    let seen = look(address, root()).await;
    check(&seen, class::CONNECT, None, "no connection to 127.0.0.1");
    assert_eq!(seen.latency, None);
}

#[tokio::test]
async fn a_name_that_does_not_exist_is_not_resolved() {
    let seen = look_at(at("http://no-such-host.invalid".to_owned(), 2_000), root()).await;
    check(&seen, class::RESOLVE, None, "`no-such-host.invalid` was not resolved");
}

#[tokio::test]
async fn an_address_that_is_not_allowed_is_not_dialled() {
    let address = answering(reply("200 OK", "")).await;
    let only_names =
        Dialer::new(serde_json::from_value(json!(["localhost", "example.com"])).unwrap(), bellwether_runtime::tls());
    let probe = Http::read(&root()).unwrap();
    let target = Target::read(&at(format!("http://{address}"), 2_000)).unwrap();
    let seen = probe.look(&target, &only_names).await;
    check(&seen, class::RESOLVE, None, "is not in this agent's `allow`");
    let target = Target::read(&at(format!("http://localhost:{}", address.port()), 2_000)).unwrap();
    check(&probe.look(&target, &only_names).await, class::OK, None, "");
}

fn certificate(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/http/certificates").join(name)
}

/// A server whose certificate only `certificates/ca.pem` vouches for.
async fn secured() -> SocketAddr {
    let chain = vec![CertificateDer::from_pem_file(certificate("server.pem")).unwrap()];
    let key = PrivateKeyDer::from_pem_file(certificate("server.key")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = builder.with_no_client_auth().with_single_cert(chain, key).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    serve(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(mut stream) = acceptor.accept(stream).await else { return };
            request(&mut stream).await;
            let _ = stream.write_all(reply("200 OK\r\nx-release: v42", "").as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    })
    .await
}

#[tokio::test]
async fn tls_is_verified() {
    let address = secured().await;
    let look = at(format!("https://{address}"), 5_000);
    check(&look_at(look.clone(), root()).await, class::TLS, None, "no TLS session");
    let tls = bellwether_runtime::tls_with_ca(&certificate("ca.pem")).expect("a certificate");
    let trusting = Dialer::new(serde_json::from_value(json!(["127.0.0.1"])).unwrap(), tls);
    let probe = Http::read(&root()).unwrap();
    check(&probe.look(&Target::read(&look).unwrap(), &trusting).await, class::OK, Some("v42"), "");
}

#[tokio::test]
async fn broken_tls_has_its_own_class() {
    let plain = answering(reply("200 OK", "")).await;
    let hanging = serve(|stream| async move {
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await;
    for address in [plain, hanging] {
        let seen = look_at(at(format!("https://{address}"), 300), root()).await;
        check(&seen, class::TLS, None, "no TLS session");
        assert_eq!(seen.latency, None);
    }
}
