//! When to end.

use tokio::signal::unix::{SignalKind, signal};

/// Returns when the process is told to end: SIGINT or SIGTERM.
pub async fn shutdown() {
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        // Without handlers the signals end the process themselves.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => tracing::info!("interrupted, ending"),
        _ = terminate.recv() => tracing::info!("terminated, ending"),
    }
}
