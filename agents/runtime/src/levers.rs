//! The ledger's hands: they take actions from the bus, move levers through their drivers, and
//! publish what came of it. Every choice is the ledger's.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bellwether_bus::trace::{KeyValue, SpanKind};
use bellwether_bus::{Bus, Clock, From, Hop, Message, PublishError, Trace, fault};
use bellwether_protocol::action::{Action, ActionOutcome, ActionResult};
use bellwether_protocol::codec::{from_json, to_json};
use bellwether_protocol::id::{ActionId, AgentId, LeverName, LeverValue, Release, Service};
use bellwether_protocol::presence::{self, LeverReading};
use bellwether_protocol::subject::Stream;
use bellwether_protocol::time::Timestamp;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::claim::{self, Held, is_held};
use crate::driver::{DriverError, Lever, Reading};
use crate::ledger::{Effect, Event, Ledger};
use crate::presence::Heartbeat;
use crate::start::Runtime;
use crate::store;
use crate::web::redact;

/// Why levers cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum LeverError {
    /// Two levers have the same service and name.
    #[error("lever `{lever}` of `{service}` is configured twice")]
    Duplicate {
        /// The service.
        service: Service,
        /// The lever.
        lever: LeverName,
    },
    /// What was done before cannot be read, so nothing may be done now.
    #[error("cannot read the ledger {path}: look at the lever yourself, then remove the file")]
    Ledger {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A task of a lever ended, which only a defect can do.
    #[error("a lever's task ended")]
    Task(#[source] tokio::task::JoinError),
}

/// How often a lever is read back when nothing happens.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How often the platform is asked for the releases it held.
const HISTORY_EVERY: Duration = Duration::from_secs(60);
/// How long a driver may take to set: a deployment tool may wait for its machines.
pub(crate) const SET_TIMEOUT: Duration = Duration::from_secs(120);
/// How long a driver may take to read.
pub(crate) const READ_TIMEOUT: Duration = Duration::from_secs(15);
/// Most of a reading's error that a heartbeat tells, in characters.
const ERROR_LEN_MAX: usize = 200;
/// Actions that wait for one lever; a coordinator sends a few per rollout.
const WAITING_MAX: usize = 256;
/// How long to wait before a failed write to the ledger, or an unanswered publish, is repeated.
const REPEAT_AFTER: Duration = Duration::from_secs(1);
/// A server that has no room needs somebody to make some.
const REFUSED_AGAIN_AFTER: Duration = Duration::from_secs(5);
/// As long as NATS keeps actions: until then they are repeated to an agent that starts anew, and answered again.
const RESULT_KEPT: Duration = Duration::from_secs(3_600);

type Key = (Service, LeverName);

impl Runtime {
    /// Serves `levers`: claims them, does their actions, reports where they stand, until told to end.
    ///
    /// # Errors
    /// When two levers are the same, or a ledger cannot be read.
    pub async fn serve_levers(&self, levers: Vec<Lever>) -> Result<(), LeverError> {
        let mut tasks = JoinSet::new();
        let mut queues: BTreeMap<Key, mpsc::Sender<Given>> = BTreeMap::new();
        let dir = self.state_dir.join("ledger");
        for lever in levers {
            let key = (lever.service.clone(), lever.name.clone());
            let (queue, actions) = mpsc::channel(WAITING_MAX);
            if queues.insert(key, queue).is_some() {
                return Err(LeverError::Duplicate { service: lever.service, lever: lever.name });
            }
            let claim_key = format!("{}.{}", lever.service, lever.name);
            self.heartbeat.begins(&claim_key);
            let newest = self.newest(&lever).await;
            let (holding, held) = watch::channel(None);
            let path = dir.join(format!("{claim_key}.json"));
            let hand = self.hand(lever, path, held, newest)?;
            tasks.spawn(claim::keep(self.bus.clone(), claim_key, self.agent.clone(), holding));
            tasks.spawn(hand.run(actions));
        }
        let prefix = self.bus.prefix().clone();
        let filters: Vec<String> = queues.keys().map(|(service, lever)| prefix.action(service, lever)).collect();
        if filters.is_empty() {
            self.shutdown().await;
            return Ok(());
        }
        // From the start: what was published while we were away is still there for an hour, and
        // the ledger makes what was done before harmless.
        let mut actions = self.bus.read(Stream::Actions, filters, From::Start);
        let shutdown = self.shutdown();
        tokio::pin!(shutdown);
        loop {
            tokio::select! {
                () = &mut shutdown => return Ok(()),
                message = actions.next() => match decode(&self.bus, &message) {
                    Ok(action) => {
                        let queue = queues.get(&(action.service.clone(), action.lever.clone()));
                        let given = Given { seq: message.seq, action, hop: message.process("act") };
                        if let Some(queue) = queue && queue.send(given).await.is_err() {
                            tracing::error!(subject = message.subject, "the lever's task has ended");
                        }
                    }
                    Err(why) => tracing::warn!(subject = message.subject, seq = message.seq, why, "action ignored"),
                },
                Some(ended) = tasks.join_next() => if let Err(error) = ended { return Err(LeverError::Task(error)) },
            }
        }
    }

    /// The last action that was published for `lever` before we came: its sequence, and where it stands.
    async fn newest(&self, lever: &Lever) -> (u64, Trace) {
        let subject = self.bus.prefix().action(&lever.service, &lever.name);
        loop {
            match self.bus.last(Stream::Actions, &subject).await {
                Ok(last) => return last.map(|last| (last.seq, last.trace)).unwrap_or_default(),
                Err(error) => tracing::warn!(%error, "cannot read the actions, trying again"),
            }
            tokio::time::sleep(REPEAT_AFTER).await;
        }
    }

    fn hand(
        &self,
        lever: Lever,
        path: PathBuf,
        held: Held,
        (newest, follows): (u64, Trace),
    ) -> Result<Hand, LeverError> {
        let wrong = |source| LeverError::Ledger { path: path.display().to_string(), source };
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir).map_err(wrong)?;
        }
        let state = store::load(&path).map_err(wrong)?.unwrap_or_default();
        Ok(Hand {
            ledger: Ledger::new(self.agent.clone(), lever.name.clone(), state),
            lever,
            path,
            held,
            bus: self.bus.clone(),
            clock: self.clock.clone(),
            agent: self.agent.clone(),
            heartbeat: Arc::clone(&self.heartbeat),
            is_active: false,
            newest,
            waiting: None,
            follows,
            wake_at: None,
            history: Vec::new(),
            history_due: tokio::time::Instant::now(),
        })
    }
}

fn decode(bus: &Bus, message: &Message) -> Result<Action, String> {
    let action: Action = from_json("action", &message.body).map_err(|error| error.to_string())?;
    // The subject is what permissions pin; a body that says otherwise is not believed.
    if bus.prefix().action(&action.service, &action.lever) == message.subject {
        Ok(action)
    } else {
        Err("its body names another lever than its subject".to_owned())
    }
}

/// An action that was read.
struct Given {
    seq: u64,
    action: Action,
    /// What is done because of it.
    hop: Hop,
}

/// One lever, and what is being done with it.
struct Hand {
    lever: Lever,
    ledger: Ledger,
    path: PathBuf,
    held: Held,
    bus: Bus,
    clock: Clock,
    agent: AgentId,
    heartbeat: Arc<Heartbeat>,
    is_active: bool,
    /// The last action that was published before we came; those before it were superseded by it.
    newest: u64,
    /// The newest action that came while another agent acted.
    waiting: Option<Action>,
    /// Where the last action that was read stands in a trace: what is done later follows it too.
    follows: Trace,
    wake_at: Option<Timestamp>,
    history: Vec<Release>,
    history_due: tokio::time::Instant,
}

impl Hand {
    async fn run(mut self, mut actions: mpsc::Receiver<Given>) {
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let name = format!("{}.{}", self.lever.service, self.lever.name);
        let mut is_known = false;
        loop {
            let wake_in = self.wake_at.map(|at| at.since(self.clock.now()).to_std());
            tokio::select! {
                biased;
                changed = self.held.changed() => if changed.is_err() { return } else { is_known = true },
                action = actions.recv() => match action {
                    Some(given) => self.take(given).await,
                    None => return,
                },
                () = sleep_if(wake_in) => {
                    self.wake_at = None;
                    self.wake().await;
                }
                _ = look.tick() => if self.is_active && !self.ledger.is_busy() { self.look().await },
            }
            self.follow_claim().await;
            if is_known {
                self.heartbeat.settles(&name);
            }
        }
    }

    /// Becomes the one that acts, or ceases to be.
    async fn follow_claim(&mut self) {
        let is_active = is_held(&self.held);
        if is_active == self.is_active {
            return;
        }
        self.is_active = is_active;
        if !is_active {
            let (service, name) = (&self.lever.service, &self.lever.name);
            self.heartbeat.change(|presence| {
                presence.hands.get_mut(service).into_iter().for_each(|hands| {
                    hands.remove(name);
                });
                let held = presence.levers.get_mut(service);
                held.into_iter().for_each(|held| held.retain(|reading| reading.lever != *name));
            });
            return;
        }
        self.handle_later(Event::Resume).await;
        if !self.ledger.is_busy() {
            self.look().await;
        }
        // An action whose time is over was the former holder's to answer.
        if let Some(action) = self.waiting.take()
            && self.clock.now() < action.deadline
        {
            self.handle_later(Event::Action(action)).await;
        }
    }

    async fn take(&mut self, Given { seq, action, hop }: Given) {
        self.follow_claim().await;
        self.follows = hop.trace();
        // Whoever did it answers for it, holder or not. What was superseded before we came is
        // neither done, for that would move the lever back, nor refused, for another may have done it.
        let is_answered = self.ledger.has_answered(&action.id);
        if is_answered || (self.is_active && seq >= self.newest) {
            let handled = self.handle(Event::Action(action));
            hop.run(handled).await;
        } else if seq < self.newest {
            tracing::debug!(action = %action.id, "superseded before this agent came");
        } else {
            hop.run(self.handle(Event::Noted(action.clone()))).await;
            let place = |action: &Action| (action.generation, action.id.index);
            if self.waiting.as_ref().is_none_or(|waiting| place(waiting) <= place(&action)) {
                self.waiting = Some(action);
            }
        }
    }

    async fn wake(&mut self) {
        // Without the claim nothing is done; becoming active again looks anew.
        if self.is_active {
            self.handle_later(Event::Wake).await;
        }
    }

    /// Handles what follows an action that was read before.
    async fn handle_later(&mut self, event: Event) {
        let follows = self.follows.clone();
        follows.around(self.handle(event)).await;
    }

    async fn handle(&mut self, event: Event) {
        let mut effects: VecDeque<Effect> = self.ledger.handle(event, self.clock.now()).into();
        while let Some(effect) = effects.pop_front() {
            let event = match effect {
                Effect::Answer(result) => {
                    self.answer(&result).await;
                    continue;
                }
                Effect::Persist => {
                    self.persist().await;
                    continue;
                }
                Effect::WakeAt(at) => {
                    self.wake_at = Some(at);
                    continue;
                }
                Effect::ReadBack => Event::Read(self.read_back().await),
                Effect::Set { to, action } => Event::Set(self.set(&to, &action).await),
            };
            effects.extend(self.ledger.handle(event, self.clock.now()));
        }
    }

    async fn persist(&self) {
        // Without a written intent nothing may be done, so this waits for the disk, and says so.
        while let Err(error) = store::save(&self.path, self.ledger.state()) {
            tracing::error!(path = %self.path.display(), %error, "cannot write the ledger; the lever waits");
            tokio::time::sleep(REPEAT_AFTER).await;
        }
    }

    async fn answer(&mut self, result: &ActionResult) {
        let ActionResult { action, outcome, .. } = result;
        tracing::info!(%action, lever = %result.lever, %outcome, detail = result.detail, "action answered");
        if *outcome == ActionOutcome::Done {
            self.history_due = tokio::time::Instant::now();
        }
        let body = match to_json("result", result) {
            Ok(body) => body,
            Err(error) => return tracing::error!(%action, %error, "result lost"),
        };
        let subject = self.bus.prefix().result(&self.agent, &self.lever.service);
        let id = format!("{}/{action}/{outcome}", self.agent);
        loop {
            match self.bus.publish(subject.clone(), &id, body.clone()).await {
                Ok(_) => return,
                Err(PublishError::Unknown { .. }) => tokio::time::sleep(REPEAT_AFTER).await,
                Err(error @ PublishError::Refused { .. }) => {
                    tracing::error!(%action, %error, "result not stored; trying on, while the lever goes on");
                    tokio::spawn(answer_once_there_is_room(self.bus.clone(), subject, id, body));
                    return;
                }
                Err(error) => return tracing::error!(%action, %error, "result lost"),
            }
        }
    }

    async fn set(&self, to: &LeverValue, action: &ActionId) -> Result<String, DriverError> {
        if !is_held(&self.held) {
            return Err(DriverError::Retry("the claim on this lever has run out".to_owned()));
        }
        tracing::debug!(%action, lever = %self.lever.name, %to, "setting");
        let hop = self.setting(to, action);
        let set = hop.run(tokio::time::timeout(SET_TIMEOUT, self.lever.driver.set(to, action))).await;
        let too_slow = || Err(DriverError::Unknown(format!("no answer in {} s", SET_TIMEOUT.as_secs())));
        let result = set.unwrap_or_else(|_| too_slow());
        if let Err(error) = &result {
            hop.fail(error.kind(), error.to_string());
        }
        drop(hop);
        fault::point(&format!("between set and result: {} to {to}", self.lever.name)).await;
        result
    }

    fn setting(&self, to: &LeverValue, action: &ActionId) -> Hop {
        let attributes = vec![
            KeyValue::new("bellwether.service", self.lever.service.to_string()),
            KeyValue::new("bellwether.lever", self.lever.name.to_string()),
            KeyValue::new("bellwether.lever.value", to.to_string()),
            KeyValue::new("bellwether.action", action.to_string()),
        ];
        Hop::begin(SpanKind::Internal, "set lever", attributes)
    }

    /// Reads the lever, and tells everyone where it stands.
    async fn read_back(&self) -> Result<Reading, DriverError> {
        let read = tokio::time::timeout(READ_TIMEOUT, self.lever.driver.read_back()).await;
        let too_slow = || Err(DriverError::Retry(format!("no answer in {} s", READ_TIMEOUT.as_secs())));
        let result = read.unwrap_or_else(|_| too_slow());
        let (value, targets, error) = match &result {
            Ok(reading) => (reading.value.clone(), reading.targets.clone(), None),
            Err(error) => {
                tracing::warn!(lever = %self.lever.name, %error, "cannot read the lever back");
                (None, Vec::new(), Some(redact(&error.to_string(), &[], ERROR_LEN_MAX)))
            }
        };
        let hand = presence::Hand { does: self.lever.driver.describe(), error };
        let reading = LeverReading { lever: self.lever.name.clone(), value, targets, history: self.history.clone() };
        self.heartbeat.change(|presence| {
            let hands = presence.hands.entry(self.lever.service.clone()).or_default();
            hands.insert(reading.lever.clone(), hand);
            let held = presence.levers.entry(self.lever.service.clone()).or_default();
            match held.iter_mut().find(|own| own.lever == reading.lever) {
                Some(own) => *own = reading,
                None => held.push(reading),
            }
        });
        result
    }

    async fn look(&mut self) {
        if tokio::time::Instant::now() >= self.history_due {
            self.history_due = tokio::time::Instant::now() + HISTORY_EVERY;
            match tokio::time::timeout(READ_TIMEOUT, self.lever.driver.history()).await {
                Ok(Ok(history)) => self.history = history.into_iter().take(HISTORY_MAX).collect(),
                Ok(Err(error)) => tracing::warn!(lever = %self.lever.name, %error, "cannot read the lever's history"),
                Err(_) => tracing::warn!(lever = %self.lever.name, "the lever's history takes too long"),
            }
        }
        let _ = self.read_back().await;
    }
}

/// Repeats a result that was refused, as by a server whose disk is full, for as long as its action is remembered.
async fn answer_once_there_is_room(bus: Bus, subject: String, id: String, body: Vec<u8>) {
    let begun = tokio::time::Instant::now();
    while begun.elapsed() < RESULT_KEPT {
        tokio::time::sleep(REFUSED_AGAIN_AFTER).await;
        if bus.publish(subject.clone(), &id, body.clone()).await.is_ok() {
            return;
        }
    }
    tracing::error!(result = id, "result lost");
}

/// Releases that a heartbeat tells of.
const HISTORY_MAX: usize = 20;

async fn sleep_if(pause: Option<Duration>) {
    match pause {
        Some(pause) => tokio::time::sleep(pause).await,
        None => std::future::pending().await,
    }
}
