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
//! | `route` | who is told of what, when; pure |
//! | `case` | one incident, as this agent knows it; pure |
//! | `bridge` | one arm per bridge; what it answers, and why not |
//! | `alertmanager`, `console`, `email`, `pagerduty`, `slack`, `slack_webhook`, `webhook` | one file per bridge |
//! | `github` | deployments on GitHub, of what the coordinators tell of rollouts |
//! | `http`, `words` | what bridges share: an exchange, and the words for people |
//! | `outbox` | what is still to be told, on disk |
//! | `courier` | tries again until it is told, or it is too late |
//! | `claim` | which agent tells |
//! | `trial` | `bellwether alert test` |
//! | `silence` | notices that no coordinator is there |

mod agent;
mod alertmanager;
mod bridge;
mod case;
mod claim;
mod config;
mod console;
mod courier;
mod email;
mod github;
mod http;
mod outbox;
mod pagerduty;
mod route;
mod silence;
mod slack;
mod slack_webhook;
mod trial;
mod webhook;
mod words;

pub use agent::{AlertError, run};
pub use config::{BridgeFlaw, ConfigFlaw};
pub use outbox::OutboxError;
pub use trial::TestArgs;
