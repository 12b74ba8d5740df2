//! Places where the tests stall a process, to kill it exactly there.
//!
//! With `BELLWETHER_STALL_AT` set to the name of a point, a process that reaches it says so on
//! stderr and waits for ever. The points:
//!
//! | name | where |
//! |---|---|
//! | `between append and relay` | the coordinator has appended a take-back and not published its actions |
//! | `between intent and start` | a trigger has written down what it starts, and not asked for it |
//! | `between set and result: <lever> to <value>` | an agent has set a lever and neither read it back nor answered |

use std::sync::OnceLock;

/// Waits for ever when the tests ask for it at `name`; else returns at once.
pub async fn point(name: &str) {
    static STALL_AT: OnceLock<Option<String>> = OnceLock::new();
    let stall_at = STALL_AT.get_or_init(|| std::env::var("BELLWETHER_STALL_AT").ok());
    if stall_at.as_deref() == Some(name) {
        eprintln!("stalled at {name}");
        std::future::pending::<()>().await;
    }
}
