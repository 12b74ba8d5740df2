//! A nats-server of a benchmark's own.

use std::path::Path;

use bellwether_bus::server::{LocalServer, ServerOptions};
use bellwether_bus::testing;

/// Starts one below `dir`, on a port of the system's choice; it is installed first where there is none.
pub(crate) async fn start(dir: &Path, program: &str) -> LocalServer {
    let (dir, shim) = (dir.join("nats"), program.into());
    let start = move || LocalServer::start(&ServerOptions { shim, ..testing::options(dir, 0) });
    tokio::task::spawn_blocking(start).await.expect("joined").expect("started")
}
