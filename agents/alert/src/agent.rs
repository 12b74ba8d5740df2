//! The running agent: reads alerts, watches the coordinators, fills the outbox, starts couriers.

use std::path::Path;
use std::time::Duration;

use bellwether_bus::{From as Begin, Message, ReadError};
use bellwether_protocol::alert::{Alert, Severity};
use bellwether_protocol::codec;
use bellwether_protocol::id::{AgentId, IdError, Role};
use bellwether_protocol::subject::{Bucket, Stream};
use bellwether_protocol::time::{Span, Timestamp};
use bellwether_runtime::{ConfigError, HttpError, Runtime, SecretError, StartError, load_config};
use tokio::task::JoinSet;

use crate::bridge::Bridge;
use crate::claim::{Claims, Teller};
use crate::config::{Bridges, Config, ConfigFlaw};
use crate::console::Console;
use crate::courier::{self, PACE, Shelf};
use crate::outbox::{Outbox, OutboxError};
use crate::silence::Silence;
use crate::webhook::{Webhook, WebhookFlaw};

/// Why the agent did not start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum AlertError {
    /// The stream of alerts cannot be asked where it stands.
    #[error("cannot tell where the stream of alerts stands")]
    Alerts(#[source] ReadError),
    /// Its file cannot be read.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Its file makes no sense.
    #[error(transparent)]
    Flaw(#[from] ConfigFlaw),
    /// No HTTP client.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// A name of ours is not one.
    #[error(transparent)]
    Name(#[from] IdError),
    /// What waits to be told cannot be kept.
    #[error(transparent)]
    Outbox(#[from] OutboxError),
    /// A secret is missing.
    #[error("the secret of a webhook cannot be had")]
    Secret(#[from] SecretError),
    /// The mesh cannot be joined.
    #[error(transparent)]
    Start(#[from] StartError),
    /// A webhook cannot be served.
    #[error(transparent)]
    Webhook(#[from] WebhookFlaw),
}

/// How long an unconfirmed claim holds up an alert that is not a page.
const CLAIM_WAIT: Duration = Duration::from_secs(60);
/// Between two tries to claim.
const CLAIM_EVERY: Duration = Duration::from_secs(2);
/// How long another agent has to tell a page that it claimed.
const STANDBY: Span = Span::from_secs(60);
/// How often to look whether a coordinator is there.
const LISTEN_EVERY: Duration = Duration::from_secs(1);

/// Runs the agent described by the file `config` until the process is told to stop.
///
/// # Errors
/// When it cannot start, or its outbox cannot be written.
pub async fn run(config: &Path) -> Result<(), AlertError> {
    let config: Config = load_config(config)?;
    config.alert.check()?;
    let bridges = bridges(&config.alert)?;
    let runtime = Runtime::start(Role::Alert, &config.agent).await?;
    let outbox = open(&runtime).await?;
    let shelf = Shelf::new(outbox);
    let claims = Claims { kv: runtime.bus.kv(Bucket::Told), agent: runtime.agent.clone() };
    let teller = Desk { runtime, shelf, claims, routes: bridges.iter().map(Route::of).collect() };
    let mut couriers = JoinSet::new();
    for bridge in bridges {
        let (shelf, claims, clock) = (teller.shelf.clone(), teller.claims.clone(), teller.runtime.clock.clone());
        couriers.spawn(courier::serve(bridge, shelf, Some(claims), clock, PACE));
    }
    tokio::select! {
        () = bellwether_runtime::shutdown() => Ok(()),
        result = teller.read() => result,
        result = teller.listen(), if config.alert.pages_when_silent => result,
        Some(Ok(error)) = couriers.join_next() => Err(error.into()),
    }
}

fn bridges(config: &Bridges) -> Result<Vec<Bridge>, AlertError> {
    let mut bridges = Vec::new();
    if config.console {
        bridges.push(Bridge::Console(Console));
    }
    let client = bellwether_runtime::http()?;
    for webhook in &config.webhooks {
        let secret = webhook.secret.resolve()?;
        let bridge = Webhook::new(client.clone(), &webhook.url, &secret, webhook.min_severity)?;
        bridges.push(Bridge::Webhook(bridge));
    }
    Ok(bridges)
}

// A new outbox begins at the end of the stream: what was said before it was made is no longer news.
async fn open(runtime: &Runtime) -> Result<Outbox, AlertError> {
    let mut outbox = Outbox::open(&runtime.state_dir)?;
    let state = runtime.bus.state(Stream::Alerts).await.map_err(AlertError::Alerts)?;
    if outbox.is_new() {
        outbox.skip_to(state.last)?;
    } else if outbox.position() > state.last {
        // The stream was made anew; to wait for its old numbers would be to wait for ever.
        outbox.skip_to(0)?;
    }
    Ok(outbox)
}

/// What the desk needs to know of a bridge.
#[derive(Debug)]
struct Route {
    name: String,
    is_local: bool,
    wants: [bool; 3],
}

impl Route {
    fn of(bridge: &Bridge) -> Self {
        let wants = [Severity::Info, Severity::Warn, Severity::Page].map(|severity| bridge.wants(severity));
        Self { name: bridge.name().to_owned(), is_local: bridge.is_local(), wants }
    }

    fn wants(&self, severity: Severity) -> bool {
        let [info, warn, page] = self.wants;
        match severity {
            Severity::Info => info,
            Severity::Warn => warn,
            Severity::Page => page,
        }
    }
}

/// Decides which bridge gets what.
struct Desk {
    runtime: Runtime,
    shelf: Shelf,
    claims: Claims,
    routes: Vec<Route>,
}

impl Desk {
    async fn read(&self) -> Result<(), AlertError> {
        let from = Begin::Sequence(self.shelf.lock().position() + 1);
        let mut alerts = self.runtime.bus.read(Stream::Alerts, vec![self.runtime.bus.prefix().alerts()], from);
        loop {
            let Message { seq, body, .. } = alerts.next().await;
            match codec::from_json::<Alert>("alert", &body) {
                Ok(alert) => self.take_up(&alert, Some(seq)).await?,
                Err(error) => {
                    tracing::error!(error = %error, seq, "an alert cannot be read");
                    self.shelf.lock().skip_to(seq)?;
                }
            }
        }
    }

    async fn listen(&self) -> Result<(), AlertError> {
        let Runtime { agent, bus, clock, .. } = &self.runtime;
        let mut presence = bus.kv(Bucket::Presence).watch();
        let mut silence = Silence::new(agent.region.clone(), clock.now())?;
        let mut look = tokio::time::interval(LISTEN_EVERY);
        loop {
            tokio::select! {
                entry = presence.next() => {
                    let is_coordinator = entry.key.parse::<AgentId>().is_ok_and(|id| id.role == Role::Coordinator);
                    if is_coordinator && entry.value.is_some() {
                        silence.heard(entry.at);
                    }
                }
                _ = look.tick() => {
                    if let Some(alert) = silence.check(clock.now(), bus.is_connected()) {
                        self.take_up(&alert, None).await?;
                    }
                }
            }
        }
    }

    async fn take_up(&self, alert: &Alert, position: Option<u64>) -> Result<(), AlertError> {
        let wanted = |local| {
            let routes = self.routes.iter().filter(move |route| route.is_local == local);
            routes.filter(|route| route.wants(alert.severity)).map(|route| route.name.as_str()).collect::<Vec<_>>()
        };
        let (local, shared) = (wanted(true), wanted(false));
        let teller = if shared.is_empty() { Teller::Another } else { self.teller(alert).await };
        let standby: Option<Timestamp> = match (teller, alert.severity) {
            (Teller::Us | Teller::Unknown, _) => None,
            (Teller::Another, Severity::Page) => Some(self.runtime.clock.now() + STANDBY),
            (Teller::Another, Severity::Info | Severity::Warn) => {
                self.shelf.lock().take_up(alert, &local, None, position)?;
                self.shelf.ring();
                return Ok(());
            }
        };
        let mut outbox = self.shelf.lock();
        outbox.take_up(alert, &local, None, None)?;
        outbox.take_up(alert, &shared, standby, position)?;
        drop(outbox);
        self.shelf.ring();
        Ok(())
    }

    // A page does not wait for the mesh; the rest waits a little rather than be told twice.
    async fn teller(&self, alert: &Alert) -> Teller {
        let asked = tokio::time::Instant::now();
        loop {
            let teller = self.claims.claim(alert).await;
            let unknown = teller == Teller::Unknown;
            if !unknown || alert.severity == Severity::Page || asked.elapsed() > CLAIM_WAIT {
                return teller;
            }
            tokio::time::sleep(CLAIM_EVERY).await;
        }
    }
}
