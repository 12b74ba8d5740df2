//! One trigger at work: hears its source, does what the state machine says, and tells what became of it.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;

use bellwether_bus::metrics::{self, Counter, KeyValue};
use bellwether_bus::{Subscription, Trace, fault};
use bellwether_protocol::codec;
use bellwether_protocol::id::{Release, Revision, RolloutId};
use bellwether_protocol::plan::Validators;
use bellwether_protocol::presence::{GAP_LEN_MAX, Presence, Watching};
use bellwether_protocol::subject::Bucket;
use bellwether_protocol::time::Timestamp;
use bellwether_runtime::web::redact;
use bellwether_runtime::{Runtime, store};
use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::{mpsc, watch};

use crate::TriggerError;
use crate::config::TriggerConfig;
use crate::lever::Lever;
use crate::message::Message;
use crate::start::{self, StartFlaw};
use crate::trigger::{Effect, Event, Pass, Trigger};

/// Most releases that wait for an earlier one to be decided, and most starts that are not decided.
const WAITING_MAX: usize = 16;
/// Until the disk is tried again.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// What a lever was read at, and when.
type Stands = Option<(Release, Timestamp)>;

/// One trigger, and what it needs.
pub(crate) struct Desk<'a> {
    runtime: &'a Runtime,
    validators: &'a Validators,
    own: TriggerConfig,
    trigger: Trigger,
    path: PathBuf,
    /// What becomes of starts that nobody had decided in time.
    undecided: FuturesUnordered<BoxFuture<'static, (Release, Result<RolloutId, StartFlaw>)>>,
}

impl<'a> Desk<'a> {
    /// Reads what the trigger remembers.
    ///
    /// # Errors
    /// When that cannot be read.
    pub(crate) fn open(
        runtime: &'a Runtime,
        validators: &'a Validators,
        own: TriggerConfig,
    ) -> Result<Self, TriggerError> {
        let path = runtime.state_dir.join(format!("trigger-{}.json", own.name));
        let wrong = |source| TriggerError::Memory { path: path.display().to_string(), source };
        let trigger = Trigger::new(store::load(&path).map_err(wrong)?.unwrap_or_default(), own.shadow);
        Ok(Self { runtime, validators, own, trigger, path, undecided: FuturesUnordered::new() })
    }

    /// Works for ever.
    ///
    /// # Errors
    /// When its subject cannot be listened to.
    pub(crate) async fn serve(mut self) -> Result<(), TriggerError> {
        if let Err(flaw) = start::plan(&self.own, self.validators) {
            tracing::warn!(trigger = %self.own.name, error = %flaw, "nothing can be started with this plan");
        }
        match (self.own.message.clone(), self.own.lever.clone()) {
            (Some(message), _) => {
                let ear = self.runtime.bus.subscribe(&message.subject).await?;
                let (sender, asked) = mpsc::channel(WAITING_MAX);
                let name = self.own.name.to_string();
                tokio::select! {
                    () = listen(&name, &message, ear, sender) => Ok(()),
                    () = self.take(asked) => Ok(()),
                }
            }
            (None, Some(lever)) => {
                let (sender, stands) = watch::channel(None);
                let (runtime, lever) = (self.runtime, Lever::new(self.own.service.clone(), lever));
                tokio::select! {
                    () = look(runtime, lever, sender) => Ok(()),
                    () = self.follow(stands) => Ok(()),
                }
            }
            (None, None) => Ok(()),
        }
    }

    async fn take(&mut self, mut asked: mpsc::Receiver<(Release, Trace)>) {
        self.handle(Event::Resumed).await;
        loop {
            tokio::select! {
                Some((release, trace)) = asked.recv() => self.handle(Event::Asked(release, trace)).await,
                Some((release, started)) = self.undecided.next() => self.tell(release, started),
                else => return,
            }
        }
    }

    async fn follow(&mut self, mut stands: watch::Receiver<Stands>) {
        self.handle(Event::Resumed).await;
        loop {
            tokio::select! {
                Ok(()) = stands.changed() => {
                    let stands = stands.borrow_and_update().clone();
                    let event = stands.map_or(Event::Unread, |(release, at)| Event::Read { release, at });
                    self.handle(event).await;
                }
                Some((release, started)) = self.undecided.next() => self.tell(release, started),
                else => return,
            }
        }
    }

    async fn handle(&mut self, event: Event) {
        let last = match event {
            Event::Asked(..) | Event::Read { .. } => start::last(self.runtime, &self.own).await,
            Event::Answered | Event::Resumed | Event::Unread => None,
        };
        let clock = &self.runtime.clock;
        let mut effects: VecDeque<Effect> = self.trigger.handle(event, last.as_ref(), clock.now()).into();
        while let Some(effect) = effects.pop_front() {
            match effect {
                Effect::Pass(release, pass) => self.tell_passed(&release, &pass),
                Effect::Persist => self.persist().await,
                Effect::Start(firing) => {
                    fault::point("between intent and start").await;
                    let start = start::start(self.runtime, &self.own, &firing, self.validators);
                    let started = firing.trace.around(start).await;
                    self.tell(firing.release, started);
                    effects.extend(self.trigger.handle(Event::Answered, None, clock.now()));
                }
            }
        }
    }

    /// Says what became of a start; of one that is not decided yet, also later.
    fn tell(&mut self, release: Release, started: Result<RolloutId, StartFlaw>) {
        match started {
            Ok(rollout) => {
                tracing::info!(trigger = %self.own.name, %release, %rollout, "rollout started");
                self.count("started");
                self.show(None);
            }
            Err(flaw) => {
                self.tell_not_started(&release, flaw.kind(), &flaw.to_string());
                if let StartFlaw::Undecided(command) = flaw
                    && self.undecided.len() < WAITING_MAX
                {
                    let later = start::later(self.runtime.bus.clone(), self.own.service.clone(), command);
                    self.undecided.push(later.map(|started| (release, started)).boxed());
                }
            }
        }
    }

    async fn persist(&self) {
        // Without a written intent nothing may be started, so this waits for the disk, and says so.
        while let Err(error) = store::save(&self.path, self.trigger.memory()) {
            tracing::error!(path = %self.path.display(), %error, "cannot write down what is intended; the trigger waits");
            tokio::time::sleep(AGAIN_AFTER).await;
        }
    }

    fn tell_passed(&self, release: &Release, pass: &Pass) {
        if pass.is_usual() {
            tracing::info!(trigger = %self.own.name, %release, why = %pass, "nothing to start");
            return self.count("known");
        }
        self.tell_not_started(release, "passed", &pass.to_string());
    }

    fn tell_not_started(&self, release: &Release, kind: &'static str, why: &str) {
        tracing::warn!(trigger = %self.own.name, %release, why, "no rollout started");
        self.count(kind);
        self.show(Some(format!("{release} not started by {}: {why}", self.own.name)));
    }

    fn count(&self, outcome: &'static str) {
        count(self.own.name.as_str(), outcome);
    }

    /// Says in the list of agents what was refused last, if the last start was.
    fn show(&self, refused: Option<String>) {
        let service = &self.own.service;
        self.runtime.presence(|presence| match refused {
            None => _ = presence.watching.remove(service),
            Some(why) => {
                // No assignment has this revision: nobody waits for its samples.
                let refused = Some(redact(&why, &[], GAP_LEN_MAX));
                presence
                    .watching
                    .insert(service.clone(), Watching { revision: Revision(0), refused, gaps: Vec::new() });
            }
        });
    }
}

/// Hears messages, also while one is being decided.
async fn listen(name: &str, message: &Message, mut ear: Subscription, releases: mpsc::Sender<(Release, Trace)>) {
    let mut refused = 0_u64;
    while let Some((body, trace)) = ear.next().await {
        let why = match message.read(&body) {
            Ok(None) => continue,
            Ok(Some(release)) => match releases.try_send((release, trace)) {
                Ok(()) => continue,
                Err(_) => format!("{WAITING_MAX} releases wait already"),
            },
            Err(why) => why,
        };
        refused += 1;
        count(name, "unread");
        let (subject, why) = (&message.subject, redact(&why, &[], GAP_LEN_MAX));
        if refused == 1 {
            tracing::warn!(trigger = name, subject, why, "a message was not taken; later ones are only counted");
        } else {
            tracing::debug!(trigger = name, subject, why, refused, "a message was not taken");
        }
    }
}

/// Watches where the lever stands, also while a start is being decided: then only the newest counts.
async fn look(runtime: &Runtime, mut lever: Lever, stands: watch::Sender<Stands>) {
    let mut presences = runtime.bus.kv(Bucket::Presence).watch();
    loop {
        let entry = presences.next().await;
        // A key that is gone ages out by the time in its last value.
        let Some(body) = entry.value else { continue };
        match codec::from_msgpack::<Presence>("presence", &body) {
            Ok(presence) => {
                if lever.hear(presence) {
                    stands.send_replace(lever.stands(runtime.clock.now()));
                }
            }
            Err(error) => tracing::debug!(key = entry.key, %error, "a presence was not read"),
        }
    }
}

static FIRED: LazyLock<Counter<u64>> =
    LazyLock::new(|| metrics::counter("bellwether.trigger.fired", "What triggers came to, by trigger and outcome"));

fn count(trigger: &str, outcome: &'static str) {
    FIRED.add(1, &[KeyValue::new("trigger", trigger.to_owned()), KeyValue::new("outcome", outcome)]);
}
