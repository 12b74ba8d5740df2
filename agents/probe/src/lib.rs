//! The probe agent: looks at services from where their users are, and tells what it saw.
//!
//! It judges nothing about a release and moves nothing. What it may look at, and how often at most, is
//! in its own configuration; a plan only names looks. "Could not look" is an observation, never an error.
//!
//! | module | room |
//! |---|---|
//! | `config` | the agent's own file |
//! | `http` | one file per kind of probe; the table is in the README |
//! | `aggregate`, `observation` | looks to samples, pure |
//! | `reconcile`, `look` | running looks |
//! | `once`, `verb` | one look, and one look by hand, without a mesh |

mod aggregate;
mod config;
mod http;
mod look;
mod observation;
mod once;
mod reconcile;
mod verb;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bellwether_protocol::id::Role;
use bellwether_protocol::plan::Flaw;
use bellwether_protocol::sample::SAMPLES_MAX;
use bellwether_runtime::web::{ControlLooks, Dialer, Target};
use bellwether_runtime::{ConfigError, HttpError, Looks, Runtime, StartError};
use serde_json::Value;
use tokio::time::MissedTickBehavior;

use crate::aggregate::Aggregate;
use crate::config::Config;
use crate::http::Http;
use crate::look::Post;
use crate::observation::Observation;
use crate::reconcile::Prober;

pub use once::Eyes;
pub use verb::ProbeVerb;

/// Why the agent did not start.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// Its file cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// What was asked for makes no sense, or is not allowed.
    #[error("{0}")]
    Refused(String),
    /// It cannot take part.
    #[error(transparent)]
    Start(#[from] StartError),
    /// Its certificates cannot be used.
    #[error(transparent)]
    Tls(#[from] HttpError),
}

/// How often slots are looked over; a sample leaves at most this long after its slot is over.
/// Shorter than the narrowest slot, so that no slot passes unseen.
const CLOSE_EVERY: Duration = Duration::from_millis(50);
/// How long the agent waits for its clock before it looks anyway, with samples that say so.
const ANCHOR_WAIT_MAX: Duration = Duration::from_secs(5);

/// Tells everything that is wrong with the settings of one kind of probe.
pub type Validator = fn(&Value) -> Vec<Flaw>;

/// The checks of each kind's settings, for `plan check`.
pub fn validators() -> [(&'static str, Validator); 1] {
    [("http", http::flaws)]
}

/// A probe of any kind, ready to look. A new kind is one variant, and one arm in each match.
#[derive(Debug)]
pub(crate) enum Probe {
    Http(Http),
}

impl Probe {
    pub(crate) fn read(kind: &str, settings: &Value) -> Result<Self, Vec<Flaw>> {
        match kind {
            "http" => Http::read(settings).map(Self::Http),
            _ => Err(vec![Flaw {
                pointer: String::new(),
                message: format!("this agent knows no probe of kind `{kind}`"),
                help: format!("use {}", validators().map(|(kind, _)| kind).join(", ")),
            }]),
        }
    }

    pub(crate) async fn look(&self, target: &Target, dialer: &Dialer) -> Observation {
        match self {
            Self::Http(http) => http.look(target, dialer).await,
        }
    }
}

/// Runs the agent until it is told to end.
///
/// # Errors
/// When its file is not sound, or it cannot reach NATS.
pub async fn run(config: &Path) -> Result<(), ProbeError> {
    let Config { agent, probe } = bellwether_runtime::load_config(config)?;
    let tls = match &probe.ca {
        Some(ca) => bellwether_runtime::tls_with_ca(ca)?,
        None => bellwether_runtime::tls(),
    };
    let runtime = Runtime::start(Role::Probe, &agent).await?;
    runtime.presence(|presence| presence.kinds = validators().map(|(kind, _)| kind.to_owned()).into());
    let clock = runtime.clock.clone();
    let anchored = async {
        while clock.is_adrift() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    if tokio::time::timeout(ANCHOR_WAIT_MAX, anchored).await.is_err() {
        tracing::warn!("the clock is not anchored yet; samples are flagged until it is");
    }
    let control = probe.control.is_some().then(ControlLooks::default);
    let post = Arc::new(Post::new(Aggregate::new(control), Arc::new(move || clock.now())));
    let dialer = Dialer::new(probe.allow.clone(), tls.clone());
    let prober = Prober::new(dialer, probe.every_min, Arc::clone(&post));
    let mut looks = Looks::new(runtime.agent.to_string(), prober);
    let mut tasks = tokio::task::JoinSet::new();
    if let Some(control) = probe.control {
        let (begins, ends) = (Arc::clone(&post), Arc::clone(&post));
        let begins = move || begins.with(Aggregate::control_begins);
        tasks.spawn(control.watch(tls, begins, move |is_well| ends.with(|own, _| own.control_ends(is_well))));
    }
    serve(&runtime, &mut looks, &post).await;
    Ok(())
}

async fn serve(runtime: &Runtime, looks: &mut Looks<Prober>, post: &Post) {
    let mut assignments = runtime.assignments();
    assignments.mark_changed();
    let sender = runtime.sender();
    let mut due = tokio::time::interval(CLOSE_EVERY);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let shutdown = runtime.shutdown();
    tokio::pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => return,
            Ok(()) = assignments.changed() => {
                let current = assignments.borrow_and_update().clone();
                let watching = looks.reconcile(&current);
                runtime.presence(|presence| presence.watching = watching);
            }
            _ = due.tick() => {
                let samples = post.close();
                let sending = async { samples.chunks(SAMPLES_MAX).for_each(|samples| sender.send(samples.to_vec())) };
                post.take_blamed().around(sending).await;
            }
        }
    }
}
