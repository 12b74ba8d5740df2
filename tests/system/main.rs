//! What a user does, through the real program and a real `nats-server`, each killed where it hurts.
//!
//! One mesh at a time: the sample site and a dozen processes are enough for two cores.

#![expect(clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

mod byhand;
mod coordinators;
mod faults;
mod kills;
mod mesh;
