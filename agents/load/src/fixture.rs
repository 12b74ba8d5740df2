//! A target for tests: a server of loopback that answers, hangs, and hands out tokens.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// What came in; a path that begins with `/hang` is never answered.
#[derive(Clone, Default)]
pub(crate) struct Server {
    asked: Arc<AtomicU64>,
    connections: Arc<AtomicU64>,
}

impl Server {
    /// How many requests came.
    pub(crate) fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }

    /// On how many connections.
    pub(crate) fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    /// Serves; gives the address.
    pub(crate) async fn start(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = self.clone();
        // In a thread of its own, so that whoever blocks the generator does not block the target.
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let listener = listener.into_std().unwrap();
            runtime.block_on(async move {
                let listener = TcpListener::from_std(listener).unwrap();
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(server.clone().answer(stream));
                }
            });
        });
        url
    }

    async fn answer(self, stream: TcpStream) {
        self.connections.fetch_add(1, Ordering::Relaxed);
        let mut stream = BufReader::new(stream);
        loop {
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                if stream.read_line(&mut head).await.unwrap_or(0) == 0 {
                    return;
                }
            }
            let n = self.asked.fetch_add(1, Ordering::Relaxed);
            let path = head.split(' ').nth(1).unwrap_or_default();
            let (status, body) = match path {
                path if path.starts_with("/hang") => std::future::pending().await,
                "/login" => ("200 OK", format!(r#"{{"token": "t-{n}", "user": {n}}}"#)),
                path if path.starts_with("/user/") => {
                    let own = path.trim_start_matches("/user/");
                    let is_own = head.contains(&format!("authorization: Bearer t-{own}\r\n"));
                    (if is_own { "200 OK" } else { "401 Unauthorized" }, "{}".to_owned())
                }
                _ => ("200 OK", "{}".to_owned()),
            };
            let head = format!("HTTP/1.1 {status}\r\nx-release: v42\r\ncontent-length: {}\r\n\r\n", body.len());
            if stream.write_all((head + &body).as_bytes()).await.is_err() {
                return;
            }
        }
    }
}
