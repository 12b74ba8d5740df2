//! NATS: connection, typed publish and consume, assets, health, and a local server.
//!
//! This crate knows how bytes travel and nothing of what they mean: it never decodes a message
//! and never decides. What it promises: an acknowledged publish is stored once, a [`Reader`]
//! neither skips nor repeats while its stream keeps its history, and both survive the death and
//! restart of the server.
//!
//! | module | room |
//! |---|---|
//! | [`Bus`] | connecting, with a clear refusal of servers that are too old |
//! | `outage` | starting while nobody answers |
//! | `assets` | streams and buckets: created, read back, compared |
//! | `publish` | acknowledged publish, and append at an expected sequence |
//! | [`Reader`] | messages in order |
//! | [`Subscription`] | messages that no stream keeps |
//! | [`Kv`] | the latest value of each key, and its changes |
//! | `sync` | whether what is acknowledged is on disk |
//! | [`trace`] | where a message stands in a trace |
//! | [`metrics`] | figures of this process, and what is wrong with it |
//! | [`Clock`] | time anchored on NATS |
//! | `joining` | keys of a new user, and what it may do |
//! | [`server`] | finding, installing and supervising a local `nats-server` |
//! | [`child`] | processes that die with their parent |
//! | `testing` | for the tests of other rooms, with the feature of that name |
//! | [`fault`] | places where the tests stall a process to kill it |

mod assets;
pub mod child;
mod clock;
mod connect;
pub mod fault;
mod health;
mod joining;
mod kv;
pub mod metrics;
mod outage;
mod publish;
mod read;
pub mod server;
mod subscribe;
mod sync;
#[cfg(feature = "testing")]
pub mod testing;
pub mod trace;

pub use assets::ProvisionError;
pub use clock::{ANCHOR_AGE_MAX, Clock};
pub use connect::{Bus, ConnectError, ConnectOptions, Credentials};
pub use joining::{NewUser, one_time_token, user_line};
pub use kv::{Kv, KvEntry, KvError, KvWatch};
pub use outage::JoinError;
pub use publish::{AppendError, PUBLISH_DEADLINE, PublishError, Stored};
pub use read::{From, Message, Next, ReadError, Reader, StreamState};
pub use subscribe::{SubscribeError, Subscription};
pub use sync::Syncs;
pub use trace::{Hop, Trace};
