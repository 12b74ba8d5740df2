//! The metric agent: reads what others measured, and tells it slot by slot.
//!
//! It judges nothing, and moves nothing. What may be read is in its own configuration; a plan only names
//! it. What is empty, stale, or no finite number is missing: such a slot has no sample, and so is a gap.
//!
//! | module | room |
//! |---|---|
//! | `config` | the agent's own file |
//! | `host`, `json`, `log`, `prometheus`, `pushed`, `text` | one file per kind of source; the table is in the README |
//! | `measure`, `series`, `selector` | numbers, events and latencies out of series, pure |
//! | `endpoint`, `hear` | an endpoint of the service, a NATS subject |
//! | `found` | what one reading came to |
//! | `watch` | readings to samples |

mod config;
mod endpoint;
mod found;
mod hear;
mod host;
mod json;
mod log;
mod measure;
mod prometheus;
mod pushed;
mod selector;
mod series;
mod text;
mod watch;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bellwether_bus::{Bus, Trace};
use bellwether_protocol::assignment;
use bellwether_protocol::id::{Region, Revision, Role, Service};
use bellwether_protocol::plan::Flaw;
use bellwether_protocol::sample::{SAMPLES_MAX, Sample};
use bellwether_protocol::time::{Span, Timestamp};
use bellwether_runtime::web::Dialer;
use bellwether_runtime::{ConfigError, Gaps, HttpError, Looker, Looks, Runtime, StartError, Watch};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::config::{Config, MetricConfig};
use crate::found::Reading;
use crate::hear::Ear;
use crate::host::Host;
use crate::json::Json;
use crate::log::Log;
use crate::prometheus::{Prometheus, Server};
use crate::pushed::Pushed;
use crate::text::Text;
use crate::watch::{Look, Now, Pace, Running};

/// Why the agent did not start.
#[derive(Debug, thiserror::Error)]
pub enum MetricError {
    /// Its file cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A server that its file names cannot be used.
    #[error("`metric.prometheus.{name}`: {why}")]
    Server {
        /// Which.
        name: String,
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
pub fn validators() -> [(&'static str, Validator); 6] {
    [
        ("host", host::flaws),
        ("json", json::flaws),
        ("log", log::flaws),
        ("prometheus", prometheus::flaws),
        ("pushed", pushed::flaws),
        ("text", text::flaws),
    ]
}

/// A source of any kind, ready to be read. A new kind is one variant, and one arm in each match.
pub(crate) enum Source {
    Host(Host),
    Json(Json),
    Log(Log),
    Prometheus(Prometheus),
    Pushed(Pushed),
    Text(Text),
}

/// How long after its end a slot is read: a scrape that began in it may take a moment to be stored.
const SETTLE: Span = Span::from_ms(500);
/// How far apart the readings of one slot may lie.
const SPREAD: Span = Span::from_ms(500);
/// Longest time between two readings of what comes by itself.
const HEAR_EVERY: Span = Span::from_ms(250);

impl Source {
    fn new(service: &Service, look: &assignment::Look, site: &Site) -> Result<Self, String> {
        let (settings, cohort) = (&look.settings, look.cohort);
        match look.kind.as_str() {
            "host" => Host::read(settings, &site.disk).map(Self::Host),
            "json" => Json::read(look, &site.dialer).map(Self::Json),
            "log" => Log::read(settings, site).map(Self::Log),
            "prometheus" => Prometheus::read(settings, cohort, &site.region, &site.servers).map(Self::Prometheus),
            "pushed" => {
                let subject = site.bus.prefix().pushed(service, &site.region, &look.sli);
                Pushed::read(settings, cohort, Ear::new(&site.bus, subject)).map(Self::Pushed)
            }
            "text" => Text::read(look, &site.dialer).map(Self::Text),
            kind => Err(format!("this agent knows no source of kind `{kind}`")),
        }
    }

    fn pace(&self, look: &assignment::Look, slot: Span, phase: Span) -> Pace {
        let hear = |hold| Pace::Every { every: HEAR_EVERY.min(look.every), phase: Span::ZERO, hold };
        match self {
            Self::Host(_) | Self::Json(_) | Self::Text(_) => Pace::Every { every: look.every, phase, hold: Span::ZERO },
            Self::Log(_) => hear(HEAR_EVERY),
            // Not all looks at one instant: the server would answer the last of them late.
            Self::Prometheus(_) => Pace::AfterSlot(Span::from_ms(SETTLE.as_ms() + phase.as_ms() % SPREAD.as_ms())),
            // What names its own instant may come a little late.
            Self::Pushed(_) => hear(HEAR_EVERY.max(Span::from_ms(look.timeout.min(slot).as_ms() / 2))),
        }
    }

    /// Who counted, when every agent that reads there sees the same; then it counts once.
    fn counted_by(&self, look: &assignment::Look) -> Option<String> {
        let name = match self {
            Self::Host(_) | Self::Json(_) => return None,
            Self::Log(log) => log.shared()?.to_owned(),
            Self::Prometheus(prometheus) => prometheus.name.clone(),
            Self::Pushed(_) => look.sli.to_string(),
            Self::Text(text) => text.name(),
        };
        Some(format!("{} {name}", look.kind))
    }

    /// Whether reading it asks somebody; what comes by itself is no hop of a trace.
    fn is_asked(&self) -> bool {
        matches!(self, Self::Json(_) | Self::Prometheus(_) | Self::Text(_))
    }

    /// Reads what is new at `now`; whole slots are read from `from` to `to`.
    pub(crate) async fn read(&mut self, from: Timestamp, to: Timestamp, now: Timestamp, timeout: Span) -> Reading {
        match self {
            Self::Host(host) => host.look(now),
            Self::Json(json) => json.look(now).await,
            Self::Log(log) => log.look(now).await,
            Self::Prometheus(prometheus) => prometheus.look(from, to, timeout).await,
            Self::Pushed(pushed) => pushed.look(now).await,
            Self::Text(text) => text.look(now).await,
        }
    }
}

/// What the agent's own configuration names, ready to be used.
struct Site {
    bus: Bus,
    commands: BTreeMap<String, Vec<String>>,
    dialer: Arc<Dialer>,
    disk: PathBuf,
    files: BTreeMap<String, PathBuf>,
    region: Region,
    servers: BTreeMap<String, Server>,
    subjects: BTreeMap<String, String>,
}

impl Site {
    fn ear(&self, name: &str) -> Option<Ear> {
        self.subjects.get(name).map(|subject| Ear::new(&self.bus, subject.clone()))
    }
}

fn servers(config: &MetricConfig) -> Result<BTreeMap<String, Server>, MetricError> {
    let client = match &config.ca {
        Some(ca) => bellwether_runtime::http_with_ca(ca)?,
        None => bellwether_runtime::http()?,
    };
    let ready = config.prometheus.iter().map(|(name, server)| {
        let wrong = |why| MetricError::Server { name: name.clone(), why };
        Ok((name.clone(), Server::new(server, &client).map_err(wrong)?))
    });
    ready.collect()
}

/// What this agent does itself about looks.
struct Reader {
    site: Site,
    now: Now,
    gaps: Gaps,
    samples: mpsc::Sender<(Sample, Trace)>,
    tasks: JoinSet<()>,
}

impl Looker for Reader {
    type Ready = Source;
    type Running = Running;

    fn knows(&self, kind: &str) -> bool {
        validators().iter().any(|(known, _)| *known == kind)
    }

    fn read(&self, service: &Service, look: &assignment::Look) -> Result<Source, String> {
        Source::new(service, look, &self.site)
    }

    fn begin(&mut self, watch: Watch, look: &assignment::Look, source: Source, phase: Span) -> Running {
        // Ended tasks are taken out, or they would pile up.
        while self.tasks.try_join_next().is_some() {}
        let revision = Arc::new(AtomicU64::new(watch.revision.0));
        let look = Look {
            revision: Arc::clone(&revision),
            pace: source.pace(look, watch.slot, phase),
            counted_by: source.counted_by(look),
            place: self.gaps.place(&watch),
            watch,
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
    let servers = servers(&metric)?;
    let tls = match &metric.ca {
        Some(ca) => bellwether_runtime::tls_with_ca(ca)?,
        None => bellwether_runtime::tls(),
    };
    let runtime = Runtime::start(Role::Metric, &agent).await?;
    runtime.presence(|presence| presence.kinds = validators().map(|(kind, _)| kind.to_owned()).into());
    let site = Site {
        bus: runtime.bus.clone(),
        commands: metric.commands,
        dialer: Arc::new(Dialer::new(metric.allow, tls)),
        disk: metric.disk.unwrap_or_else(|| "/".into()),
        files: metric.files,
        region: agent.region.clone(),
        servers,
        subjects: metric.subjects,
    };
    let clock = runtime.clock.clone();
    let (samples, mut taken) = mpsc::channel(SAMPLES_MAX);
    let gaps = Gaps::default();
    let (now, tasks) = (Arc::new(move || clock.now()), JoinSet::new());
    let reader = Reader { site, now, gaps: gaps.clone(), samples, tasks };
    let mut looks = Looks::new(runtime.agent.to_string(), reader);
    runtime.look(&mut looks, &gaps, &mut taken).await;
    // Commands that are read must not outlive the agent.
    looks.end().tasks.shutdown().await;
    Ok(())
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
