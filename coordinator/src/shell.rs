//! The coordinator on NATS: readers feed the core, effects go out. Dull on purpose.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use bellwether_bus::trace::{KeyValue, SpanKind};
use bellwether_bus::{
    AppendError, Bus, Clock, ConnectOptions, From, Hop, JoinError, Kv, KvError, Message, Next, Reader, StreamState,
    Trace,
};
use bellwether_protocol::assignment::Assignment;
use bellwether_protocol::cloud_event::CloudEvent;
use bellwether_protocol::codec;
use bellwether_protocol::id::{AgentId, CoordinatorId, IdError, Role};
use bellwether_protocol::presence::{PRESENCE_EVERY, Presence};
use bellwether_protocol::record::{Record, Source};
use bellwether_protocol::sample::Tick;
use bellwether_protocol::status::Status;
use bellwether_protocol::subject::{Bucket, Stream, assignment_key};
use tokio::sync::mpsc;

use crate::causes::Causes;
use crate::core::{Core, Effect, Event, Relayed};
use crate::figures::{self, Figures};
use crate::high_water::HighWater;
use crate::inbox;
use crate::relay::{page, relay_on};

/// How a coordinator runs.
#[derive(Debug)]
pub struct Options {
    /// Which mesh.
    pub connect: ConnectOptions,
    /// Its name among coordinators; without one, the name that its directory remembers.
    pub id: Option<CoordinatorId>,
    /// Where it keeps its high-water marks.
    pub dir: PathBuf,
    /// The monitoring port of the NATS server, to see whether it syncs every write.
    pub monitor: Option<String>,
}

/// Why a coordinator could not begin, or go on.
#[derive(Debug, thiserror::Error)]
pub enum CoordinatorError {
    /// Its name is not usable.
    #[error("the coordinator's id is not usable")]
    Id(#[from] IdError),
    /// The mesh cannot be used.
    #[error("cannot join the mesh")]
    Join(#[from] JoinError),
    /// Its directory is not usable.
    #[error("cannot use directory `{}`", dir.display())]
    Dir {
        /// Which.
        dir: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The log could not be read.
    #[error("cannot read what was decided before")]
    Read(#[from] bellwether_bus::ReadError),
    /// Presences could not be read.
    #[error("cannot read who is there")]
    Presence(#[from] KvError),
}

/// Coordinates until `told_to_end` has come; then it takes its presence back, for it ends on purpose.
///
/// # Errors
/// When it cannot begin. That nobody answers is waited for, before it begins and later.
pub async fn run(options: Options, told_to_end: impl Future<Output = ()>) -> Result<(), CoordinatorError> {
    let wrong_dir = |source| CoordinatorError::Dir { dir: options.dir.clone(), source };
    let high_water = HighWater::load(&options.dir).map_err(wrong_dir)?;
    let id = identity(&options)?;
    let bus = Bus::join(&options.connect).await?;
    if let Some(doubt) = bus.sync_doubt(options.monitor.as_deref()).await {
        tracing::warn!("{doubt}");
    }
    let clock = Clock::new();
    let agent = AgentId { region: "hub".parse()?, role: Role::Coordinator, name: id.as_str().parse()? };
    let core = Core::new(id, high_water.marks());
    let (relays, records) = mpsc::channel(RECORDS_WAITING);
    bellwether_bus::metrics::watch(&bus, &clock);
    tokio::spawn(relay_on(bus.clone(), clock.clone(), records));
    let (projections, projected) = mpsc::channel(RECORDS_WAITING);
    tokio::spawn(project_on(bus.clone(), projected));
    let (causes, figures) = (Causes::default(), Figures::shown());
    let mut shell = Shell { core, bus, clock, agent, high_water, causes, figures, relays, projections };
    shell.beat().await;
    let (bus, agent) = (shell.bus.clone(), shell.agent.clone());
    let beating = tokio::spawn(beat_on(bus.clone(), shell.clock.clone(), agent.clone(), shell.figures.clone()));
    let (events, received) = mpsc::channel(EVENTS_WAITING);
    let coordinating = async {
        shell.catch_up(&events).await?;
        shell.serve(received, events.clone()).await
    };
    tokio::select! {
        ended = coordinating => ended,
        () = told_to_end => {
            beating.abort();
            let presence = bus.kv(Bucket::Presence);
            let _ = tokio::time::timeout(LEAVE_WITHIN, presence.delete(&agent.to_string())).await;
            Ok(())
        }
    }
}

/// How long it tries to say that it ends; without that it is shown as silent.
const LEAVE_WITHIN: Duration = Duration::from_secs(2);

/// Events that wait for the core; more than that slows the readers down, and loses nothing.
const EVENTS_WAITING: usize = 1_024;
/// Records that wait to be relayed or shown.
const RECORDS_WAITING: usize = 256;
/// How often a marker is put into the samples stream while a rollout is on.
const MARKER_EVERY: Duration = Duration::from_millis(500);
/// The longest sleep: a lost wake-up costs no more than this.
const SLEEP_MAX: Duration = Duration::from_secs(5);

struct Shell {
    core: Core,
    bus: Bus,
    clock: Clock,
    agent: AgentId,
    high_water: HighWater,
    causes: Causes,
    figures: Figures,
    relays: mpsc::Sender<Box<Relayed>>,
    projections: mpsc::Sender<Projection>,
}

/// What is written for agents and people to read; never what was decided.
enum Projection {
    Assignments(Vec<Assignment>),
    Status(Box<Status>),
}

impl Shell {
    /// Reads all that was stored before now: first the log, then what came in behind it.
    async fn catch_up(&mut self, events: &mpsc::Sender<Event>) -> Result<(), CoordinatorError> {
        let decisions = self.bus.state(Stream::Decisions).await?;
        let mut log = self.bus.read(Stream::Decisions, Vec::new(), From::Start);
        let mut last = if decisions.first > decisions.last { decisions.last } else { 0 };
        while last < decisions.last {
            let message = log.next().await;
            last = message.seq;
            self.handle_record(message, events).await;
        }
        let samples = self.bus.state(Stream::Samples).await?;
        self.handle(opened(Source::Samples, samples), events).await;
        let inbox_state = self.bus.state(Stream::Inbox).await?;
        self.handle(opened(Source::Inbox, inbox_state), events).await;
        let inbox_from = self.core.begin_at(Source::Inbox).unwrap_or(1);
        let mut inbox = self.bus.read(Stream::Inbox, Vec::new(), From::Sequence(inbox_from));
        let mut last = if inbox_state.first > inbox_state.last { inbox_state.last } else { inbox_from - 1 };
        while last < inbox_state.last {
            let message = inbox.next().await;
            last = message.seq;
            if let Some(event) = self.inbox_event(message) {
                self.handle(event, events).await;
            }
        }
        let samples_from = self.core.begin_at(Source::Samples);
        let presence = self.bus.kv(Bucket::Presence);
        for entry in presence.entries().await? {
            if let Some(event) = presence_event(entry) {
                self.handle(event, events).await;
            }
        }
        self.handle(Event::CaughtUp, events).await;
        warn_of_marks(self.high_water.keep());
        let from = samples_from.map_or(From::New, From::Sequence);
        let samples = self.bus.read(Stream::Samples, Vec::new(), from);
        tokio::spawn(pump_log(log, self.bus.clone(), events.clone()));
        tokio::spawn(pump_inbox(inbox, self.bus.clone(), self.causes.clone(), events.clone()));
        let (bus, causes, own) = (self.bus.clone(), self.causes.clone(), self.agent.clone());
        tokio::spawn(pump_samples(samples, bus, causes, own, events.clone()));
        tokio::spawn(pump_presence(presence, events.clone()));
        Ok(())
    }

    async fn serve(
        &mut self,
        mut received: mpsc::Receiver<Event>,
        events: mpsc::Sender<Event>,
    ) -> Result<(), CoordinatorError> {
        let mut marker = tokio::time::interval(MARKER_EVERY);
        marker.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let sleep = self.core.wake_at().map_or(SLEEP_MAX, |at| at.since(self.clock.now()).to_std().min(SLEEP_MAX));
            tokio::select! {
                Some(event) = received.recv() => self.handle(event, &events).await,
                () = tokio::time::sleep(sleep) => self.handle(Event::Wake, &events).await,
                _ = marker.tick(), if self.core.is_watching() => self.mark(),
            }
        }
    }

    /// Puts a marker behind every sample stored so far; reading it back proves that those were read.
    fn mark(&self) {
        let tick =
            Tick { agent: self.agent.clone(), seq: 0, clock_adrift: self.clock.is_adrift(), samples: Vec::new() };
        let subject = self.bus.prefix().sample(&self.agent);
        let id = format!("mark-{}-{}", self.agent.name, self.clock.now().as_ms());
        let bus = self.bus.clone();
        if let Ok(body) = codec::to_msgpack("tick", &tick) {
            tokio::spawn(async move { bus.publish_quietly(subject, &id, body).await });
        }
    }

    fn inbox_event(&self, message: Message) -> Option<Event> {
        inbox_event(&self.bus, &self.causes, message)
    }

    async fn handle_record(&mut self, message: Message, events: &mpsc::Sender<Event>) {
        if let Some(event) = record_event(&self.bus, message) {
            self.handle(event, events).await;
        }
    }

    async fn handle(&mut self, event: Event, events: &mpsc::Sender<Event>) {
        let effects = self.core.handle(event, self.clock.now(), self.clock.is_adrift());
        for effect in effects {
            self.carry_out(effect, events).await;
        }
    }

    async fn carry_out(&mut self, effect: Effect, events: &mpsc::Sender<Event>) {
        match effect {
            Effect::Append { record, expected, body } => self.append(record, expected, body, events.clone()),
            // Both workers end only with the whole program; a full queue slows the core down.
            Effect::Assign(assignments) => drop(self.projections.send(Projection::Assignments(assignments)).await),
            Effect::Page(alert) => {
                self.figures.note_stopped(&alert.service, &alert.headline);
                tokio::spawn(page(self.bus.clone(), self.clock.clone(), alert));
            }
            Effect::Relay(relayed) => drop(self.relays.send(relayed).await),
            Effect::Remember(service, ordinal, hash) => {
                warn_of_marks(self.high_water.remember(service, ordinal, hash));
            }
            // A status is replaced within a second: one that finds the queue full is not missed.
            Effect::Show(status) => {
                self.figures.note_status(&status);
                drop(self.projections.try_send(Projection::Status(status)));
            }
        }
    }

    fn append(&mut self, record: Box<Record>, expected: u64, body: Vec<u8>, events: mpsc::Sender<Event>) {
        let causes = self.causes.of(&record);
        let hop = deciding(&record, &causes);
        self.causes.note_decision(&record, &hop.trace());
        let (bus, figures) = (self.bus.clone(), self.figures.clone());
        tokio::spawn(async move {
            let (service, ordinal, now) = (record.service.clone(), record.ordinal, record.now);
            let id = format!("{service}-{ordinal}-{}", bellwether_protocol::record::Hash::of(&body).short());
            let event = CloudEvent::new(bus.prefix(), "decision", id, service.to_string(), now);
            let stored = hop.run(bus.append(bus.prefix().decision(&service), expected, &event, body)).await;
            if stored.is_ok() {
                figures::written(&record);
                figures.note_stored();
            }
            if let Err(error) = stored {
                hop.fail(error.kind(), error.to_string());
                let conflict = matches!(error, AppendError::Conflict { .. });
                if conflict {
                    figures.note_stored();
                } else {
                    figures.note_not_stored(&error, now);
                    tracing::warn!(%service, error = &error as &dyn std::error::Error, "could not append");
                }
                // The receiver ends only with the whole program.
                let _ = events.send(Event::AppendFailed { service, ordinal, conflict }).await;
            }
        });
    }

    async fn beat(&self) {
        beat(&self.bus, &self.clock, &self.agent, &self.figures).await;
    }
}

fn warn_of_marks(written: std::io::Result<()>) {
    if let Err(error) = written {
        tracing::warn!(%error, "could not write the high-water file");
    }
}

/// The hop in which `record` was decided. It follows its first cause.
fn deciding(record: &Record, causes: &[Trace]) -> Hop {
    let parent = causes.first().cloned().unwrap_or_default();
    let number = i64::try_from(record.ordinal.0).unwrap_or(i64::MAX);
    let attributes = vec![
        KeyValue::new("messaging.system", "nats"),
        KeyValue::new("messaging.operation.name", "decide"),
        KeyValue::new("messaging.operation.type", "process"),
        KeyValue::new("messaging.batch.message_count", i64::try_from(record.inputs.len()).unwrap_or(i64::MAX)),
        KeyValue::new("bellwether.service", record.service.to_string()),
        KeyValue::new("bellwether.record", number),
        KeyValue::new("bellwether.actions", i64::try_from(record.actions.len()).unwrap_or(i64::MAX)),
        KeyValue::new("bellwether.alerts", i64::try_from(record.alerts.len()).unwrap_or(i64::MAX)),
    ];
    Hop::because(&parent, causes.get(1..).unwrap_or_default(), SpanKind::Consumer, "decide", attributes)
}

async fn project_on(bus: Bus, mut projected: mpsc::Receiver<Projection>) {
    while let Some(projection) = projected.recv().await {
        match projection {
            Projection::Assignments(assignments) => assign(&bus, assignments).await,
            Projection::Status(status) => show(&bus, &status).await,
        }
    }
}

/// Writes each assignment, unless a newer one stands there. Two coordinators may race: the fence
/// of the bucket and the revision settle it.
async fn assign(bus: &Bus, assignments: Vec<Assignment>) {
    let kv = bus.kv(Bucket::Assignments);
    for assignment in assignments {
        let key = assignment_key(&assignment.region, &assignment.rollout.service);
        let Ok(body) = codec::to_msgpack("assignment", &assignment) else { continue };
        for _ in 0..ASSIGN_TRIES {
            let stored = match kv.get(&key).await {
                Ok(stored) => stored,
                Err(_) => continue,
            };
            let (revision, value) = stored.map_or((0, None), |entry| (entry.revision, entry.value));
            let newer = value.and_then(|value| codec::from_msgpack::<Assignment>("assignment", &value).ok());
            let is_old = |own: &Assignment| {
                (own.rollout.number, own.revision) >= (assignment.rollout.number, assignment.revision)
            };
            if newer.as_ref().is_some_and(is_old) {
                break;
            }
            let written = match revision {
                0 => kv.create(&key, body.clone()).await,
                _ => kv.update(&key, body.clone(), revision).await,
            };
            if written.is_ok() {
                break;
            }
        }
    }
}

/// Tries at an assignment: each lost one means that another coordinator wrote.
const ASSIGN_TRIES: u32 = 5;

async fn show(bus: &Bus, status: &Status) {
    let kv = bus.kv(Bucket::Status);
    if let Ok(body) = codec::to_json("status", status)
        && let Err(error) = kv.put(status.rollout.service.as_str(), body).await
    {
        tracing::debug!(error = &error as &dyn std::error::Error, "could not write the status");
    }
}

async fn beat_on(bus: Bus, clock: Clock, agent: AgentId, figures: Figures) {
    loop {
        tokio::time::sleep(PRESENCE_EVERY.to_std()).await;
        beat(&bus, &clock, &agent, &figures).await;
    }
}

/// Writes our own presence and anchors the clock on the stamp that NATS gave it.
async fn beat(bus: &Bus, clock: &Clock, agent: &AgentId, figures: &Figures) {
    let presence = Presence {
        clock_offset_ms: clock.offset_ms(),
        stuck: figures.stuck(),
        ..Presence::new(agent.clone(), env!("CARGO_PKG_VERSION"), clock.now())
    };
    let kv = bus.kv(Bucket::Presence);
    let (key, sent_at) = (agent.to_string(), Instant::now());
    let Ok(body) = codec::to_msgpack("presence", &presence) else { return };
    let revision = match kv.put(&key, body).await {
        Ok(revision) => revision,
        Err(error) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "could not write presence");
            return;
        }
    };
    if let Ok(Some(entry)) = kv.get(&key).await
        && entry.revision == revision
    {
        clock.anchor(entry.at, sent_at, Instant::now());
    }
}

async fn pump_log(mut log: Reader, bus: Bus, events: mpsc::Sender<Event>) {
    loop {
        if let Some(event) = record_event(&bus, log.next().await)
            && events.send(event).await.is_err()
        {
            return;
        }
    }
}

async fn pump_inbox(mut inbox: Reader, bus: Bus, causes: Causes, events: mpsc::Sender<Event>) {
    loop {
        let event = match inbox.next_or_reset().await {
            Next::Message(message) => inbox_event(&bus, &causes, message),
            Next::Reset(state) => Some(opened(Source::Inbox, state)),
        };
        if let Some(event) = event
            && events.send(event).await.is_err()
        {
            return;
        }
    }
}

async fn pump_samples(mut samples: Reader, bus: Bus, causes: Causes, own: AgentId, events: mpsc::Sender<Event>) {
    loop {
        let event = match samples.next_or_reset().await {
            Next::Message(message) => sample_event(&bus, &causes, &own, message),
            Next::Reset(state) => Some(opened(Source::Samples, state)),
        };
        if let Some(event) = event
            && events.send(event).await.is_err()
        {
            return;
        }
    }
}

async fn pump_presence(presence: Kv, events: mpsc::Sender<Event>) {
    let mut watch = presence.watch();
    loop {
        if let Some(event) = presence_event(watch.next().await)
            && events.send(event).await.is_err()
        {
            return;
        }
    }
}

fn record_event(bus: &Bus, message: Message) -> Option<Event> {
    let service = bus.prefix().read_decision(&message.subject)?;
    Some(Event::Record { service, seq: message.seq, trace: message.trace, body: message.body })
}

fn inbox_event(bus: &Bus, causes: &Causes, message: Message) -> Option<Event> {
    let Message { subject, seq, at, id, trace, body } = message;
    causes.note_inbox(seq, &trace);
    let (service, input) = inbox::read(bus.prefix(), &subject, seq, at, id.as_deref(), &body)?;
    Some(Event::Inbox { service, seq, input: Box::new(input) })
}

fn sample_event(bus: &Bus, causes: &Causes, own: &AgentId, message: Message) -> Option<Event> {
    let agent = bus.prefix().read_sample(&message.subject)?;
    let seq = message.seq;
    // The subject is what permissions pin: a body that names another agent is not believed.
    Some(match codec::from_msgpack::<Tick>("tick", &message.body) {
        _ if agent == *own => Event::Heard(message.at),
        Ok(tick) if tick.agent == agent => {
            causes.note_samples(&tick, &message.trace);
            Event::Sample { seq, tick: Box::new(tick) }
        }
        Ok(_) | Err(_) => Event::Unreadable { seq, agent },
    })
}

fn opened(source: Source, state: StreamState) -> Event {
    Event::Opened { source, created: state.created, last: state.last }
}

fn presence_event(entry: bellwether_bus::KvEntry) -> Option<Event> {
    let presence: Presence = codec::from_msgpack("presence", &entry.value?).ok()?;
    (presence.agent.to_string() == entry.key).then(|| Event::Present(entry.at, Box::new(presence)))
}

/// The name given, or one that the directory remembers from the first time.
fn identity(options: &Options) -> Result<CoordinatorId, CoordinatorError> {
    if let Some(id) = &options.id {
        return Ok(id.clone());
    }
    let path = options.dir.join("id");
    let wrong_dir = |source| CoordinatorError::Dir { dir: options.dir.clone(), source };
    if path.exists() {
        return Ok(std::fs::read_to_string(&path).map_err(wrong_dir)?.trim().parse()?);
    }
    let id: CoordinatorId = format!("coordinator-{}", std::process::id()).parse()?;
    std::fs::write(&path, id.as_str()).map_err(wrong_dir)?;
    Ok(id)
}
