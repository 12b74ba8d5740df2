//! Bringing an agent up: connected, present, assigned.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use bellwether_bus::{Bus, Clock, ConnectOptions, Credentials, JoinError, Trace};
use bellwether_protocol::assignment::Assignment;
use bellwether_protocol::id::{AgentId, Role, Service};
use bellwether_protocol::presence::Presence;
use bellwether_protocol::sample::{Portion, SAMPLES_MAX, Sample};
use bellwether_protocol::subject::Bucket;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;

use crate::config::AgentConfig;
use crate::gaps::Gaps;
use crate::looks::{Looker, Looks};
use crate::presence::Heartbeat;
use crate::secret::{SecretError, SecretRef};
use crate::spool::{SampleSender, SpoolError};
use crate::{assignments, spool};

/// A running agent. Its tasks end when it is dropped.
#[derive(Debug)]
pub struct Runtime {
    /// Who it is.
    pub agent: AgentId,
    /// Its connection.
    pub bus: Bus,
    /// Time, anchored on NATS.
    pub clock: Clock,
    /// Where it keeps what must outlive it.
    pub state_dir: PathBuf,
    pub(crate) heartbeat: Arc<Heartbeat>,
    beating: AbortHandle,
    assignments: watch::Receiver<BTreeMap<Service, Assignment>>,
    sender: SampleSender,
    _tasks: tokio::task::JoinSet<()>,
    _lock: std::fs::File,
}

/// Why an agent did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Another process uses the same state directory.
    #[error("another process uses {0}: give each agent its own `agent.state_dir`")]
    InUse(String),
    /// The mesh cannot be used.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// The credentials are not there.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The spool cannot be used.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// The state directory cannot be used.
    #[error("cannot use the state directory {path}")]
    StateDir {
        /// Which.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Runtime {
    /// Connects, checks the streams, and starts the heartbeat; for a role that looks, also the watch on
    /// assignments and the sending of samples. Waits while nobody answers, see [`Bus::join`].
    ///
    /// # Errors
    /// When NATS cannot be used, or the state directory cannot.
    pub async fn start(role: Role, config: &AgentConfig) -> Result<Self, StartError> {
        let agent = AgentId { region: config.region.clone(), role, name: config.name.clone() };
        let state_dir = config.state_dir.clone();
        let lock = lock(&state_dir)?;
        let bus = Bus::join(&connect_options(&agent, config)?).await?;
        let clock = Clock::new();
        bellwether_bus::metrics::watch(&bus, &clock);
        let mut tasks = tokio::task::JoinSet::new();
        let heartbeat = Arc::new(Heartbeat::new(agent.clone(), bus.clone(), clock.clone()));
        // The first heartbeat anchors the clock; without it the first samples would count as adrift.
        heartbeat.first().await;
        heartbeat.show();
        let beating = tasks.spawn(Arc::clone(&heartbeat).run());
        let (assigned, assignments) = watch::channel(BTreeMap::new());
        let (sender, publisher) =
            spool::open(&state_dir.join("spool"), agent.clone(), bus.clone(), clock.clone(), Arc::clone(&heartbeat))?;
        // Who does not look may read neither, and would be refused every few seconds.
        if matches!(role, Role::Load | Role::Metric | Role::Probe) {
            tasks.spawn(assignments::follow(bus.clone(), agent.region.clone(), assigned));
            tasks.spawn(publisher.run());
        }
        tracing::info!(%agent, url = config.nats.url, "agent started");
        Ok(Self { agent, bus, clock, state_dir, heartbeat, beating, assignments, sender, _tasks: tasks, _lock: lock })
    }

    /// Returns when the process is told to end, once others know that this agent ends on purpose: it is
    /// not missed then, as one that falls silent is. That it cannot say so is no reason to stay.
    pub async fn shutdown(&self) {
        crate::shutdown().await;
        self.leave().await;
    }

    /// Takes its presence back; it is not renewed.
    pub async fn leave(&self) {
        self.beating.abort();
        let presence = self.bus.kv(Bucket::Presence);
        let left = tokio::time::timeout(LEAVE_WITHIN, async { presence.delete(&self.agent.to_string()).await });
        if !matches!(left.await, Ok(Ok(()))) {
            tracing::warn!("could not say that this agent ends; it will be shown as silent");
        }
    }

    /// Changes what the next heartbeat says, and sends it at once when that made a difference.
    pub fn presence(&self, change: impl FnOnce(&mut Presence)) {
        self.heartbeat.change(change);
    }

    /// Changes what the next heartbeat says, and leaves it its time.
    pub fn note(&self, change: impl FnOnce(&mut Presence)) {
        self.heartbeat.note(change);
    }

    /// What this region is to watch, by service; never goes back to an older revision of a rollout. Closed for
    /// a role that does not look.
    pub fn assignments(&self) -> watch::Receiver<BTreeMap<Service, Assignment>> {
        self.assignments.clone()
    }

    /// Keeps looks in step with the assignments, and sends what they measure, until told to end. What is sent
    /// follows the look that saw something bad, or the first one.
    pub async fn look<L: Looker>(
        &self,
        looks: &mut Looks<L>,
        gaps: &Gaps,
        samples: &mut mpsc::Receiver<(Sample, Trace)>,
    ) {
        let mut bell = gaps.bell();
        let mut assignments = self.assignments();
        assignments.mark_changed();
        let shutdown = self.shutdown();
        tokio::pin!(shutdown);
        let mut batch = Vec::new();
        loop {
            tokio::select! {
                () = &mut shutdown => return,
                Ok(()) = assignments.changed() => {
                    let current = assignments.borrow_and_update().clone();
                    let mut watching = looks.reconcile(&current);
                    gaps.tell(&mut watching);
                    self.presence(|presence| presence.watching = watching);
                }
                Ok(()) = bell.changed() => {
                    // A source that comes and goes must not make a message each time.
                    self.note(|presence| gaps.tell(&mut presence.watching));
                }
                _ = samples.recv_many(&mut batch, SAMPLES_MAX) => {
                    let is_bad = |(sample, _): &&(Sample, Trace)| sample.portions.iter().any(Portion::has_bad);
                    let follows = batch.iter().find(is_bad).or(batch.first()).map(|(_, trace)| trace.clone());
                    let samples = batch.drain(..).map(|(sample, _)| sample).collect();
                    follows.unwrap_or_default().around(async { self.sender.send(samples) }).await;
                }
            }
        }
    }

    /// Where samples go; nowhere for a role that does not look.
    pub fn sender(&self) -> SampleSender {
        self.sender.clone()
    }
}

/// How long an agent that ends tries to say so.
const LEAVE_WITHIN: std::time::Duration = std::time::Duration::from_secs(2);

/// Two processes with one ledger would each believe that they look before they act.
fn lock(dir: &std::path::Path) -> Result<std::fs::File, StartError> {
    let wrong = |source| StartError::StateDir { path: dir.display().to_string(), source };
    std::fs::create_dir_all(dir).map_err(wrong)?;
    let file = std::fs::File::create(dir.join("lock")).map_err(wrong)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(StartError::InUse(dir.display().to_string())),
        Err(std::fs::TryLockError::Error(error)) => Err(wrong(error)),
    }
}

fn connect_options(agent: &AgentId, config: &AgentConfig) -> Result<ConnectOptions, StartError> {
    let credentials = config.nats.credentials.as_ref().map(SecretRef::resolve).transpose()?;
    Ok(ConnectOptions {
        url: config.nats.url.clone(),
        domain: config.nats.domain.clone(),
        prefix: config.prefix.clone(),
        name: format!("bellwether {agent}"),
        credentials: credentials.map(Credentials::read),
        ca: config.nats.ca.clone(),
    })
}
