//! A nats-server of a benchmark's own.

use std::path::Path;

use bellwether_bus::server::{self, LocalServer, ServerOptions};

/// Starts one below `dir`, on a port of the system's choice; it is installed first where there is none.
pub(crate) async fn start(dir: &Path, program: &str) -> LocalServer {
    let options = ServerOptions {
        binary: tokio::task::spawn_blocking(|| {
            server::find(None).or_else(|_| server::install(|line| println!("{line}")))
        })
        .await
        .expect("joined")
        .expect("a nats-server"),
        shim: program.into(),
        dir: dir.join("nats"),
        port: 0,
        monitor: None,
        link: Default::default(),
    };
    tokio::task::spawn_blocking(move || LocalServer::start(&options)).await.expect("joined").expect("started")
}
