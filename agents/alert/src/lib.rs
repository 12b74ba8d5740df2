//! The alert agent: tells people, once per message of an incident, and never forgets one.
//!
//! One runs in each region. It reads alerts from the mesh, claims each message so that two agents
//! do not tell twice, puts it in an outbox on disk, and has every bridge deliver it. It also
//! watches the coordinators itself and pages when none is there: somebody must tell when the
//! teller of all else has died. It never judges, and never improves the words of an alert.
//!
//! | module | what |
//! |---|---|
//! | `agent` | reading alerts and filling the outbox |
//! | `config` | the agent's file |
//! | `bridge` | one arm per bridge; [`Receipt`] and [`DeliveryError`] |
//! | `console`, `webhook` | one file per bridge |
//! | `outbox` | what is still to be told, on disk |
//! | `courier` | tries again until it is told, or it is too late |
//! | `claim` | which agent tells |
//! | `silence` | notices that no coordinator is there |

mod agent;
mod bridge;
mod claim;
mod config;
mod console;
mod courier;
mod outbox;
mod silence;
mod webhook;

pub use agent::{AlertError, run};
pub use bridge::{DeliveryError, Receipt};
pub use config::{Bridges, ConfigFlaw, WebhookConfig};
pub use outbox::OutboxError;
pub use webhook::WebhookFlaw;
