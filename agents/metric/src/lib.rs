//! The metric agent: reads what others measured, and tells it slot by slot.
//!
//! It judges nothing, and moves nothing. What may be read is in its own configuration; a plan only names
//! it. What is empty, stale, or no finite number is missing: such a slot has no sample, and so is a gap.
//!
//! | module | room |
//! |---|---|
//! | `config` | the agent's own file |
//! | `prometheus`, `host` | one file per kind of source; the table is in the README |
//! | `measure`, `series`, `selector` | numbers, events and latencies out of series, pure |
//! | `found` | what one reading came to |
//! | `watch` | readings to samples |

mod config;
mod found;
mod host;
mod measure;
mod prometheus;
mod selector;
mod series;
mod watch;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bellwether_protocol::assignment;
use bellwether_protocol::id::{Revision, Role};
use bellwether_protocol::plan::Flaw;
use bellwether_protocol::sample::{SAMPLES_MAX, Sample};
use bellwether_protocol::time::{Span, Timestamp};
use bellwether_runtime::{ConfigError, HttpError, Looker, Looks, Runtime, StartError, Watch};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::config::{Config, MetricConfig};
use crate::found::Reading;
use crate::host::Host;
use crate::prometheus::{Prometheus, Server};
use crate::watch::{Look, Now, Pace, Running};

/// Why the agent did not start.
#[derive(Debug, thiserror::Error)]
pub enum MetricError {
    /// Its file cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Something that its file names cannot be used.
    #[error("`metric.{key}`: {why}")]
    Named {
        /// Which key.
        key: String,
        /// Why.
        why: String,
    },
    /// It cannot take part.
    #[error(transparent)]
    Start(#[from] StartError),
    /// There is no HTTP client.
    #[error(transparent)]
    Tls(#[from] HttpError),
}

/// Tells everything that is wrong with the settings of one kind of source.
pub type Validator = fn(&Value) -> Vec<Flaw>;

/// The checks of each kind's settings, for `plan check`.
pub fn validators() -> [(&'static str, Validator); 2] {
    [("host", host::flaws), ("prometheus", prometheus::flaws)]
}

/// A source of any kind, ready to be read. A new kind is one variant, and one arm in each match.
#[derive(Debug)]
pub(crate) enum Source {
    Host(Host),
    Prometheus(Prometheus),
}

/// How long after its end a slot is read: a scrape that began in it may take a moment to be stored.
const SETTLE: Span = Span::from_ms(500);

impl Source {
    fn read_settings(look: &assignment::Look, site: &Site) -> Result<Self, String> {
        let (settings, cohort) = (&look.settings, look.cohort);
        match look.kind.as_str() {
            "host" => Host::read(settings, &site.disk).map(Self::Host),
            "prometheus" => Prometheus::read(settings, cohort, &site.servers).map(Self::Prometheus),
            kind => Err(format!("this agent knows no source of kind `{kind}`")),
        }
    }

    fn pace(&self, look: &assignment::Look, phase: Span) -> Pace {
        match self {
            Self::Host(_) => Pace::Every { every: look.every, phase, hold: Span::ZERO },
            Self::Prometheus(_) => Pace::AfterSlot(SETTLE),
        }
    }

    /// Who counted, when every agent that reads there sees the same; then it counts once.
    fn counted_by(&self, look: &assignment::Look) -> Option<String> {
        match self {
            Self::Host(_) => None,
            Self::Prometheus(prometheus) => Some(format!("{} {}", look.kind, prometheus.server())),
        }
    }

    /// Reads what is new at `now`; whole slots are read from `from` to `to`.
    pub(crate) async fn read(&mut self, from: Timestamp, to: Timestamp, now: Timestamp, timeout: Span) -> Reading {
        match self {
            Self::Host(host) => host.look(now),
            Self::Prometheus(prometheus) => prometheus.look(from, to, timeout).await,
        }
    }
}

/// What the agent's own configuration names, ready to be used.
#[derive(Debug)]
struct Site {
    disk: PathBuf,
    servers: BTreeMap<String, Server>,
}

impl Site {
    fn new(config: &MetricConfig) -> Result<Self, MetricError> {
        let client = bellwether_runtime::http()?;
        let mut servers = BTreeMap::new();
        for (name, server) in &config.prometheus {
            let ready = Server::new(server, &client);
            let ready = ready.map_err(|why| MetricError::Named { key: format!("prometheus.{name}"), why })?;
            servers.insert(name.clone(), ready);
        }
        Ok(Self { disk: config.disk.clone(), servers })
    }
}

/// What this agent does itself about looks.
struct Reader {
    site: Site,
    now: Now,
    samples: mpsc::Sender<Sample>,
    tasks: JoinSet<()>,
}

impl Looker for Reader {
    type Ready = Source;
    type Running = Running;

    fn knows(&self, kind: &str) -> bool {
        validators().iter().any(|(known, _)| *known == kind)
    }

    fn read(&self, look: &assignment::Look) -> Result<Source, String> {
        Source::read_settings(look, &self.site)
    }

    fn begin(&mut self, watch: Watch, look: &assignment::Look, source: Source, phase: Span) -> Running {
        // Ended tasks are taken out, or they would pile up.
        while self.tasks.try_join_next().is_some() {}
        let revision = Arc::new(AtomicU64::new(watch.revision.0));
        let look = Look {
            watch,
            revision: Arc::clone(&revision),
            pace: source.pace(look, phase),
            counted_by: source.counted_by(look),
            source,
            now: Arc::clone(&self.now),
            samples: self.samples.clone(),
        };
        Running { revision, task: self.tasks.spawn(look.repeat()) }
    }

    fn renew(&mut self, running: &Running, revision: Revision) {
        running.revision.store(revision.0, Ordering::Relaxed);
    }
}

/// Runs the agent until it is told to end.
///
/// # Errors
/// When its file is not sound, or it cannot reach NATS.
pub async fn run(config: &Path) -> Result<(), MetricError> {
    let Config { agent, metric } = bellwether_runtime::load_config(config)?;
    let site = Site::new(&metric)?;
    let runtime = Runtime::start(Role::Metric, &agent).await?;
    runtime.presence(|presence| presence.kinds = validators().map(|(kind, _)| kind.to_owned()).into());
    let clock = runtime.clock.clone();
    let (samples, mut taken) = mpsc::channel(SAMPLES_MAX);
    let reader = Reader { site, now: Arc::new(move || clock.now()), samples, tasks: JoinSet::new() };
    let mut looks = Looks::new(runtime.agent.to_string(), reader);
    let mut assignments = runtime.assignments();
    assignments.mark_changed();
    let sender = runtime.sender();
    let shutdown = bellwether_runtime::shutdown();
    tokio::pin!(shutdown);
    let mut batch = Vec::new();
    loop {
        tokio::select! {
            () = &mut shutdown => return Ok(()),
            Ok(()) = assignments.changed() => {
                let current = assignments.borrow_and_update().clone();
                let watching = looks.reconcile(&current);
                runtime.presence(|presence| presence.watching = watching);
            }
            _ = taken.recv_many(&mut batch, SAMPLES_MAX) => sender.send(std::mem::take(&mut batch)),
        }
    }
}

/// Settings as a `T`; what is wrong with their shape is one flaw.
pub(crate) fn settings<T: DeserializeOwned>(settings: &Value) -> Result<T, Vec<Flaw>> {
    T::deserialize(settings).map_err(|error| {
        vec![Flaw {
            pointer: String::new(),
            message: error.to_string(),
            help: "the agent's README lists the keys".to_owned(),
        }]
    })
}

/// One text of the settings that is the kind's own, and the others.
pub(crate) fn split(settings: &Value, key: &str, help: &str) -> Result<(String, Value), Vec<Flaw>> {
    let mut rest = settings.clone();
    match rest.as_object_mut().and_then(|fields| fields.remove(key)) {
        Some(Value::String(text)) => Ok((text, rest)),
        _ => Err(vec![Flaw {
            pointer: String::new(),
            message: format!("`{key}` is missing, or no text"),
            help: help.to_owned(),
        }]),
    }
}

/// Flaws as one text, for the reason of a refusal.
pub(crate) fn told(flaws: &[Flaw]) -> String {
    let texts: Vec<String> = flaws.iter().take(3).map(|flaw| format!("{} {}", flaw.pointer, flaw.message)).collect();
    texts.join("; ").trim().to_owned()
}
