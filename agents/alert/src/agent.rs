//! The running agent: reads alerts and acknowledgements, watches the coordinators and the clock,
//! fills the outbox, starts couriers.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use bellwether_bus::{From as Begin, Message, ReadError, Trace};
use bellwether_protocol::alert::{Acknowledgement, Alert, Severity};
use bellwether_protocol::codec;
use bellwether_protocol::id::{AgentId, IdError, Region, Role};
use bellwether_protocol::subject::{Bucket, Prefix, Stream};
use bellwether_protocol::time::Span;
use bellwether_runtime::{ConfigError, HttpError, Runtime, StartError, load_config};
use tokio::task::JoinSet;

use crate::bridge::{Bridge, Kind, Takes};
use crate::case::{Acknowledged, Case, Occasion, is_news};
use crate::claim::{Claims, Mesh, Teller};
use crate::config::{AlertConfig, BridgeFlaw, CONSOLE, Config, ConfigFlaw};
use crate::console::Console;
use crate::courier::{Courier, PACE, Shelf};
use crate::github::Github;
use crate::outbox::{Outbox, OutboxError, Waiting};
use crate::route::{Due, Routes};
use crate::silence::Silence;

/// Why the agent did not start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum AlertError {
    /// The stream of alerts cannot be asked where it stands.
    #[error("cannot tell where the stream of alerts stands")]
    Alerts(#[source] ReadError),
    /// A bridge cannot be served.
    #[error(transparent)]
    Bridge(#[from] BridgeFlaw),
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
    /// There is no bridge of that name or kind.
    #[error("neither `alert.bridges` nor `alert.github` has one of the name or kind `{0}`")]
    NoSuchBridge(String),
    /// What waits to be told cannot be kept.
    #[error(transparent)]
    Outbox(#[from] OutboxError),
    /// The mesh cannot be joined.
    #[error(transparent)]
    Start(#[from] StartError),
}

/// How long an unconfirmed claim holds up an alert that is not a page.
const CLAIM_WAIT: Duration = Duration::from_secs(60);
/// Between two tries to claim.
const CLAIM_EVERY: Duration = Duration::from_secs(2);
/// How long another agent has to tell a page that it claimed.
const STANDBY: Span = Span::from_secs(60);
/// How long changes of a mere figure are gathered before they are told at once.
const GROUP_FOR: Span = Span::from_secs(5);
/// How often to look whether a coordinator is there.
const LISTEN_EVERY: Duration = Duration::from_secs(1);

/// Runs the agent described by the file `config` until the process is told to stop.
///
/// # Errors
/// When it cannot start, or its outbox cannot be written.
pub async fn run(config: &Path) -> Result<(), AlertError> {
    let config: Config = load_config(config)?;
    config.alert.check()?;
    let mut bridges = bridges(&config.alert, &config.agent.prefix)?;
    let shelf = Shelf::new(Outbox::open(&config.agent.state_dir)?);
    let counter = |bridge: &Bridge| Counter { takes: bridge.takes(), is_local: bridge.is_local() };
    let counters = bridges.iter().map(|bridge| (bridge.name.clone(), counter(bridge))).collect();
    let routes = Routes(config.alert.routes());
    let names: Vec<String> = bridges.iter().map(|bridge| bridge.name.clone()).collect();
    let mesh = Mesh::default();
    let desk = Desk { mesh: mesh.clone(), shelf: shelf.clone(), routes, counters };
    let mut couriers = JoinSet::new();
    let starting = Runtime::start(Role::Alert, &config.agent);
    let (runtime, paged) = if config.alert.pages_when_silent {
        desk.start(starting, config.agent.region.clone(), &mut bridges, &mut couriers).await?
    } else {
        (starting.await?, None)
    };
    mesh.answers(Claims { kv: runtime.bus.kv(Bucket::Told), agent: runtime.agent.clone() }, runtime.clock.clone());
    shelf.lock().keep_only(&names)?;
    let last = begin(&runtime, &shelf).await?;
    shelf.show(&names);
    desk.send_out(&mut bridges, &mut couriers);
    for (service, github) in &config.alert.github {
        let (client, Runtime { bus, state_dir, .. }) = (bellwether_runtime::http()?, &runtime);
        let github = Github::new(service, github, &config.alert.link, client, state_dir)?;
        couriers.spawn(github.serve(bus.clone(), last));
    }
    tokio::select! {
        () = runtime.shutdown() => Ok(()),
        result = desk.read(&runtime) => result,
        result = desk.remind() => result,
        result = desk.listen(&runtime, paged), if config.alert.pages_when_silent => result,
        Some(Ok(error)) = couriers.join_next() => Err(error.into()),
    }
}

/// The bridges that the file names.
fn bridges(config: &AlertConfig, prefix: &Prefix) -> Result<Vec<Bridge>, AlertError> {
    let client = bellwether_runtime::http()?;
    let named = config.bridges.iter();
    let named = named.map(|(name, bridge)| Bridge::new(name.as_str(), bridge, &config.link, prefix, &client));
    let mut bridges = named.collect::<Result<Vec<_>, _>>()?;
    if config.console {
        bridges.push(Bridge { name: CONSOLE.to_owned(), kind: Kind::Console(Console) });
    }
    Ok(bridges)
}

// A new outbox begins at the end of the stream: what was said before it was made is no longer news.
async fn begin(runtime: &Runtime, shelf: &Shelf) -> Result<u64, AlertError> {
    let last = runtime.bus.state(Stream::Alerts).await.map_err(AlertError::Alerts)?.last;
    let mut outbox = shelf.lock();
    if outbox.is_new() {
        outbox.skip_to(last)?;
    } else if outbox.position() > last {
        // The stream was made anew; to wait for its old numbers would be to wait for ever.
        outbox.skip_to(0)?;
    }
    Ok(last)
}

/// What the desk needs to know of a bridge.
#[derive(Debug)]
struct Counter {
    takes: Takes,
    is_local: bool,
}

/// Decides which bridge gets what.
struct Desk {
    mesh: Mesh,
    shelf: Shelf,
    routes: Routes,
    /// By name.
    counters: BTreeMap<String, Counter>,
}

impl Desk {
    /// Waits until the mesh answers. When that takes so long that no coordinator could be heard, people are
    /// paged: this agent may be what came up last in a region that is cut off. The silence they were told of
    /// is handed on, so that its end is told too; and who was sent out goes on with what is under way.
    async fn start(
        &self,
        starting: impl Future<Output = Result<Runtime, StartError>>,
        region: Region,
        bridges: &mut Vec<Bridge>,
        couriers: &mut JoinSet<OutboxError>,
    ) -> Result<(Runtime, Option<Silence>), AlertError> {
        let mut silence = Silence::new(region, self.mesh.now())?;
        let mut look = tokio::time::interval(LISTEN_EVERY);
        tokio::pin!(starting);
        let alert = loop {
            tokio::select! {
                biased;
                started = &mut starting => return Ok((started?, None)),
                _ = look.tick() => if let Some(alert) = silence.check(self.mesh.now(), false) { break alert },
            }
        };
        self.take_up(&alert, None).await?;
        self.send_out(bridges, couriers);
        tokio::select! {
            started = starting => Ok((started?, Some(silence))),
            Some(Ok(error)) = couriers.join_next() => Err(error.into()),
        }
    }

    /// Sends out a courier for each of the bridges, which have none yet.
    fn send_out(&self, bridges: &mut Vec<Bridge>, couriers: &mut JoinSet<OutboxError>) {
        for bridge in bridges.drain(..) {
            let (shelf, mesh) = (self.shelf.clone(), self.mesh.clone());
            couriers.spawn(Courier { bridge, shelf, mesh, pace: PACE }.serve());
        }
    }

    async fn read(&self, runtime: &Runtime) -> Result<(), AlertError> {
        let bus = &runtime.bus;
        let from = Begin::Sequence(self.shelf.lock().position() + 1);
        let filters = vec![bus.prefix().alerts(), bus.prefix().acks()];
        let mut messages = bus.read(Stream::Alerts, filters, from);
        loop {
            let message = messages.next().await;
            let hop = message.process("take up");
            let Message { seq, subject, body, at, .. } = message;
            let read = match bus.prefix().read_ack(&subject) {
                Some((_, by)) => match codec::from_json::<Acknowledgement>("acknowledgement", &body) {
                    Ok(ack) => Ok(hop.run(self.acknowledge(&ack, Acknowledged { by, at }, seq)).await?),
                    Err(error) => Err(error),
                },
                None => match codec::from_json::<Alert>("alert", &body) {
                    Ok(alert) => Ok(hop.run(self.take_up(&alert, Some(seq))).await?),
                    Err(error) => Err(error),
                },
            };
            if let Err(error) = read {
                tracing::error!(error = %error, seq, "a message about an incident cannot be read");
                self.shelf.lock().skip_to(seq)?;
            }
        }
    }

    async fn listen(&self, runtime: &Runtime, paged: Option<Silence>) -> Result<(), AlertError> {
        let Runtime { agent, bus, clock, .. } = runtime;
        let mut presence = bus.kv(Bucket::Presence).watch();
        let mut silence = match paged {
            Some(silence) => silence,
            None => Silence::new(agent.region.clone(), clock.now())?,
        };
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
                    if let Some(alert) = silence.check(clock.now(), bus.is_answered()) {
                        self.take_up(&alert, None).await?;
                    }
                }
            }
        }
    }

    /// Tells again what nobody took up, as the routes want it.
    async fn remind(&self) -> Result<(), AlertError> {
        let mut look = tokio::time::interval(LISTEN_EVERY);
        loop {
            look.tick().await;
            let now = self.mesh.now();
            let overdue: Vec<(Case, Occasion, Due)> = {
                let outbox = self.shelf.lock();
                let of = |case: &Case| {
                    self.routes
                        .overdue(case, now)
                        .into_iter()
                        .map(|(why, due)| (case.clone(), why, due))
                        .collect::<Vec<_>>()
                };
                outbox.cases().flat_map(of).collect()
            };
            for (case, occasion, due) in overdue {
                let Alert { severity, headline, .. } = &case.last;
                let open = now.since(case.since).rounded();
                let (severity, headline) = match occasion {
                    Occasion::Escalated { .. } => {
                        (Severity::Page, format!("{headline} (nobody took it up for {open})"))
                    }
                    _ => (*severity, format!("{headline} (still open after {open})")),
                };
                let alert = Alert { severity, headline, ..case.last.clone() };
                let names: Vec<String> = due.keys().cloned().collect();
                self.tell(&alert, occasion, due, None, |case| match occasion {
                    _ if !case.waits_for_people() => false,
                    Occasion::Reminder(number) => std::mem::replace(&mut case.reminded, number) < number,
                    _ => {
                        case.bridges.extend(names.iter().cloned());
                        case.escalated.extend(names);
                        true
                    }
                })
                .await?;
            }
        }
    }

    async fn acknowledge(&self, ack: &Acknowledgement, by: Acknowledged, position: u64) -> Result<(), AlertError> {
        let case = self.shelf.lock().cases().find(|case| case.last.incident == ack.incident).cloned();
        let Some(case) = case.filter(Case::waits_for_people) else {
            self.shelf.lock().skip_to(position)?;
            return Ok(());
        };
        let now = self.mesh.now();
        let due = case.bridges.iter().map(|bridge| (bridge.clone(), now)).collect();
        let acknowledged = |case: &mut Case| case.waits_for_people() && case.acknowledged.replace(by).is_none();
        self.tell(&case.last, Occasion::Acknowledged, due, Some(position), acknowledged).await
    }

    async fn take_up(&self, alert: &Alert, position: Option<u64>) -> Result<(), AlertError> {
        let now = self.mesh.now();
        let (known, is_news, mut due) = {
            let outbox = self.shelf.lock();
            let case = outbox.case(alert);
            let is_news = is_news(case.map(|case| &case.last), alert);
            (case.is_some_and(|case| case.knows(alert)), is_news, self.routes.of(alert, case, now))
        };
        if known {
            if let Some(position) = position {
                self.shelf.lock().skip_to(position)?;
            }
            return Ok(());
        }
        if self.counters.contains_key(CONSOLE) {
            due.insert(CONSOLE.to_owned(), now);
        }
        let names: Vec<String> = due.keys().cloned().collect();
        if !is_news {
            due.retain(|name, not_before| match self.counters.get(name).map(|counter| counter.takes) {
                Some(Takes::Newest) => {
                    *not_before = (*not_before).max(now + GROUP_FOR);
                    true
                }
                takes => takes == Some(Takes::Each),
            });
        }
        self.tell(alert, Occasion::News, due, position, |case| {
            case.fold(alert);
            case.bridges.extend(names);
            true
        })
        .await
    }

    /// Puts `alert` in the outbox for the bridges in `due`, if it is this agent's to tell. `fold`
    /// changes the case, whoever tells; when it says no, nothing is told.
    async fn tell(
        &self,
        alert: &Alert,
        occasion: Occasion,
        due: Due,
        position: Option<u64>,
        fold: impl FnOnce(&mut Case) -> bool,
    ) -> Result<(), AlertError> {
        let is_local = |bridge: &String| self.counters.get(bridge).is_some_and(|counter| counter.is_local);
        let has_shared = due.keys().any(|bridge| !is_local(bridge));
        let teller = if has_shared { self.teller(alert, occasion).await } else { Teller::Another };
        let standby = (teller == Teller::Another).then(|| self.mesh.now() + STANDBY);
        let mut outbox = self.shelf.lock();
        let figure = occasion == Occasion::News && !is_news(outbox.case(alert).map(|case| &case.last), alert);
        // Another agent's figures are not stood in for: what comes next says the same.
        let keeps = standby.is_none() || (alert.severity == Severity::Page && !figure);
        if !fold(outbox.case_mut(alert)) {
            return Ok(outbox.take_up(Vec::new(), position)?);
        }
        let trace = Trace::current();
        let own = due.into_iter().filter(|(bridge, _)| is_local(bridge) || keeps);
        let new = own.map(|(bridge, not_before)| {
            let standby = standby.filter(|_| !is_local(&bridge));
            let figure = figure && self.counters.get(&bridge).is_some_and(|counter| counter.takes == Takes::Newest);
            let new = Waiting::new(&bridge, alert.clone(), standby.unwrap_or(not_before));
            Waiting { occasion, standby: standby.is_some(), figure, trace: trace.clone(), ..new }
        });
        outbox.take_up(new.collect(), position)?;
        drop(outbox);
        self.shelf.ring();
        Ok(())
    }

    // A page does not wait for the mesh; the rest waits a little rather than be told twice.
    async fn teller(&self, alert: &Alert, occasion: Occasion) -> Teller {
        let Some(claims) = self.mesh.claims() else { return Teller::Unknown };
        let has_thread = self.shelf.lock().case(alert).is_some_and(|case| !case.threads.is_empty());
        claims.yield_to_last(alert, occasion, has_thread).await;
        let asked = tokio::time::Instant::now();
        loop {
            let teller = claims.claim(alert, occasion).await;
            let unknown = teller == Teller::Unknown;
            if !unknown || alert.severity == Severity::Page || asked.elapsed() > CLAIM_WAIT {
                return teller;
            }
            tokio::time::sleep(CLAIM_EVERY).await;
        }
    }
}
