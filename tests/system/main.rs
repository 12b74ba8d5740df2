//! What a user does, through the real program and a real `nats-server`, each killed where it hurts.
//!
//! | file | task |
//! |---|---|
//! | `compose` | start from what compose.yaml stands on |
//! | `fault_lens` | live through story 3 on Render |
//! | `by_hand` | ask and read with any NATS client |
//! | `first_hour` | go from an empty folder to an alert |
//! | `full_disk` | be told that nothing can be stored |
//! | `joining` | let the agents of a region in over TLS, by their keys |
//! | `kills` | lose any process at any named point |
//! | `load` | keep users coming, and lose none |
//! | `lost_streams` | lose a stream under a rollout |
//! | `mistakes` | be told what to do |
//! | `pairs` | run two coordinators |
//! | `parent` | kill what started everything |
//! | `regions` | lose the hub, a region, or the link between them |
//! | `telemetry` | follow a failing sample to the message about it, and read the figures |
//! | `told` | be told of rollouts without knowing us |
//! | `triggers` | have a rollout started by a message, or by the platform |
//! | `ways` | look in the shadow, hotfix, amend, freeze, run, and not undo |

#![expect(clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

mod by_hand;
mod compose;
mod fault_lens;
mod first_hour;
mod full_disk;
mod joining;
mod kills;
mod load;
mod lost_streams;
mod mesh;
mod mistakes;
mod pairs;
mod parent;
mod regions;
mod telemetry;
mod told;
#[path = "../scenarios/transcript.rs"]
mod transcript;
mod triggers;
mod ways;

use tokio::runtime::Runtime;
use tokio::sync::Semaphore;

/// Two meshes at a time: a sample site and ten processes each, which mostly wait.
static TURNS: Semaphore = Semaphore::const_new(2);

/// Runs a test when it is its turn.
fn run(test: impl Future<Output = ()>) {
    Runtime::new().expect("a runtime").block_on(async {
        let _turn = TURNS.acquire().await.expect("never closed");
        test.await;
    });
}
