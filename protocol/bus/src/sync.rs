//! Whether the server writes what it acknowledges to disk at once. NATS itself does not tell its
//! clients; its monitoring port does, and a server that we started is configured so.

use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::connect::Bus;
use crate::server::LOCAL_NAME;

/// How long the monitoring port may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Most of an answer that is read, in bytes: `/varz` has a few KiB.
const ANSWER_LEN_MAX: u64 = 1024 * 1024;

/// Whether the server writes to disk what it acknowledges, before it does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Syncs {
    /// It does not, in words.
    No(String),
    /// It cannot be told, and why.
    Unknown(String),
    /// It does.
    Yes,
}

impl Bus {
    /// The server's name and version.
    pub fn server(&self) -> (String, String) {
        let info = self.client.server_info();
        (info.server_name, info.version)
    }

    /// Whether every write is synced; `monitor` is the address of the monitoring port.
    pub async fn syncs(&self, monitor: Option<&str>) -> Syncs {
        let server = self.client.server_info().server_name;
        if server == LOCAL_NAME {
            return Syncs::Yes;
        }
        let Some(monitor) = monitor else {
            return Syncs::Unknown(format!("it is not known whether NATS server {server} syncs every write"));
        };
        match tokio::time::timeout(ANSWER_WITHIN, ask(monitor)).await {
            Ok(Ok(varz)) if varz.jetstream.config.sync_always => Syncs::Yes,
            Ok(Ok(varz)) => Syncs::No(format!("NATS server {} does not sync every write", varz.server_name)),
            Ok(Err(error)) => {
                Syncs::Unknown(format!("{monitor} could not be asked whether NATS syncs every write: {error}"))
            }
            Err(_) => Syncs::Unknown(format!("{monitor} did not say within 5 s whether NATS syncs every write")),
        }
    }

    /// What people must know when it was not shown that the server syncs every write; `monitor` is the
    /// address of its monitoring port, such as `http://127.0.0.1:8222`. `None` when it does.
    pub async fn sync_doubt(&self, monitor: Option<&str>) -> Option<String> {
        let (Syncs::No(found) | Syncs::Unknown(found)) = self.syncs(monitor).await else { return None };
        let asked = if monitor.is_some() { "" } else { " and show it with `--nats-monitor http://HOST:8222`" };
        Some(format!(
            "{found}: with its power, it may lose up to 30 s of acknowledged decisions. \
             Set `jetstream {{ sync_interval: always }}` on every server that holds them{asked}"
        ))
    }
}

/// The part of `/varz` that we need; a server leaves out `sync_always` where it is not set.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Varz {
    server_name: String,
    jetstream: Jetstream,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Jetstream {
    config: Config,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Config {
    sync_always: bool,
}

async fn ask(monitor: &str) -> std::io::Result<Varz> {
    let host = monitor.trim_end_matches('/').strip_prefix("http://").filter(|host| !host.contains(['/', '@']));
    let host = host.ok_or_else(|| std::io::Error::other("write http://HOST:PORT"))?;
    let mut stream = TcpStream::connect(host).await?;
    // HTTP/1.0: the answer comes in one piece, and ends with the connection.
    stream.write_all(format!("GET /varz HTTP/1.0\r\nHost: {host}\r\n\r\n").as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(ANSWER_LEN_MAX).read_to_end(&mut answer).await?;
    read(&answer)
}

fn read(answer: &[u8]) -> std::io::Result<Varz> {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n");
    let end = end.ok_or_else(|| std::io::Error::other("that is not an HTTP answer"))?;
    serde_json::from_slice(&answer[end..]).map_err(std::io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_does_not_say_is_not_assumed() {
        let is_always = |body: &str| {
            read(format!("HTTP/1.0 200 OK\r\n\r\n{body}").as_bytes()).map(|varz| varz.jetstream.config.sync_always).ok()
        };
        assert_eq!(is_always(r#"{"jetstream": {"config": {"sync_always": true}}}"#), Some(true));
        assert_eq!(is_always(r#"{"jetstream": {"config": {"sync_interval": 120000000000}}}"#), Some(false));
        assert_eq!(is_always(r#"{"server_name": "a"}"#), Some(false));
        assert_eq!(is_always("404 page not found"), None);
        assert!(read(b"").is_err());
    }
}
