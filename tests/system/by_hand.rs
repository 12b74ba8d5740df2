//! By hand: a client that shares no code with ours speaks the NATS protocol over a plain socket.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use bellwether_protocol::reason::{Ending, Reason};

use crate::mesh::{BAD, Mesh};
use crate::run;

#[test]
fn anyone_with_a_plain_nats_client_can_ask_and_read() {
    run(async {
        let mesh = Mesh::start(&["coordinator-1"]).await;
        let mut log = mesh.log_from_now().await;
        let (url, plan) = (mesh.url().to_owned(), mesh.plan.clone());
        let mut client = tokio::task::spawn_blocking(move || Raw::connect(&url)).await.expect("joined");
        client.subscribe("bw.outcome.>", 2);
        client.subscribe("bw.alert.>", 3);

        // Refused: there is nothing to pause. The acknowledgement says only that it is stored.
        let seq = client.request("bw.command.shop.pause.me", "");
        let outcome = client.next_on(2);
        assert_eq!(outcome["command"], format!("seq-{seq}"));
        assert_eq!(outcome["refused"], "shop has no rollout");

        // Malformed: recorded and refused, with what is wrong.
        client.request("bw.command.shop.approve.me", r#"{"entri": 1}"#);
        let outcome = client.next_on(2);
        assert!(outcome["refused"].as_str().unwrap().contains("entri"), "{outcome}");

        let body = serde_json::json!({ "release": BAD, "plan": plan, "reason": "by hand" });
        client.request("bw.command.shop.start.me", &body.to_string());
        let outcome = client.next_on(2);
        assert_eq!((&outcome["refused"], &outcome["rollout"]), (&serde_json::Value::Null, &"shop/1".into()));
        client.request("bw.command.shop.pause.me", "");
        assert_eq!(client.next_on(2)["refused"], serde_json::Value::Null);
        client.request("bw.command.shop.resume.me", r#"{"reason": "looked at it"}"#);
        assert_eq!(client.next_on(2)["refused"], serde_json::Value::Null);

        // The bad release is taken back, and the alert that says so is JSON that a person can read.
        log.until("the take-back", |reason| matches!(reason, Reason::TakingBack { .. })).await;
        let alert = client.next_on(3);
        assert_eq!((&alert["type"], &alert["service"]), (&"incident.opened".into(), &"shop".into()));
        assert!(alert["headline"].as_str().unwrap().contains("error_rate"), "{alert}");
        assert_eq!(log.until_ended().await, Ending::RolledBack);
    });
}

/// Sixty lines of the NATS protocol, enough to publish with a reply and to subscribe.
struct Raw {
    reader: BufReader<TcpStream>,
    waiting: Vec<(u32, serde_json::Value)>,
}

impl Raw {
    fn connect(url: &str) -> Self {
        let stream = TcpStream::connect(url.trim_start_matches("nats://")).expect("connected");
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("set");
        let mut raw = Self { reader: BufReader::new(stream), waiting: Vec::new() };
        assert!(raw.line().starts_with("INFO "));
        raw.send("CONNECT {\"verbose\":false,\"headers\":true}\r\n");
        raw.subscribe("_INBOX.raw", 1);
        raw
    }

    fn subscribe(&mut self, subject: &str, sid: u32) {
        self.send(&format!("SUB {subject} {sid}\r\n"));
    }

    /// Publishes with a reply subject, and returns the sequence that the stream acknowledges.
    fn request(&mut self, subject: &str, body: &str) -> u64 {
        self.send(&format!("PUB {subject} _INBOX.raw {}\r\n{body}\r\n", body.len()));
        let ack = self.next_on(1);
        assert_eq!(ack["stream"], "bw-inbox", "{ack}");
        ack["seq"].as_u64().expect("a sequence")
    }

    /// The next message of one subscription, as JSON.
    fn next_on(&mut self, sid: u32) -> serde_json::Value {
        loop {
            if let Some(index) = self.waiting.iter().position(|(waiting, _)| *waiting == sid) {
                return self.waiting.remove(index).1;
            }
            let line = self.line();
            let words: Vec<&str> = line.split_whitespace().collect();
            match words.first().copied() {
                Some("PING") => self.send("PONG\r\n"),
                Some("MSG") => self.message(&words, 0),
                // Headers come before the body; a person's client shows them apart.
                Some("HMSG") => {
                    let header = words[words.len() - 2].parse().expect("a length");
                    self.message(&words, header);
                }
                _ => {}
            }
        }
    }

    fn message(&mut self, words: &[&str], header: usize) {
        let len: usize = words[words.len() - 1].parse().expect("a length");
        let mut body = vec![0; len + 2];
        self.reader.read_exact(&mut body).expect("a body");
        let value = serde_json::from_slice(&body[header..len]).expect("JSON, as a person reads it");
        self.waiting.push((words[2].parse().expect("a subscription"), value));
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.reader.read_line(&mut line).expect("a line in time");
        line
    }

    fn send(&mut self, text: &str) {
        self.reader.get_mut().write_all(text.as_bytes()).expect("sent");
    }
}
