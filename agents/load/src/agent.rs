//! Loads as looks of a mesh: one sample per slot, and none for a slot that our own lag has spoilt.
//!
//! A load is no look: left alone it does harm. So it ends when no coordinator was heard for ten seconds,
//! when nearly everything fails, when it has gone on for as long as this agent's file allows, and at once
//! when its assignment is gone. Meanwhile its slots are gaps, and silence holds.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bellwether_bus::{Bus, Trace};
use bellwether_protocol::assignment::Look;
use bellwether_protocol::id::{AgentId, Revision, Role, Service};
use bellwether_protocol::sample::{Control, SAMPLES_MAX, Sample};
use bellwether_protocol::subject::Bucket;
use bellwether_protocol::time::{Span, Timestamp};
use bellwether_runtime::web::{ControlLooks, Dialer, Target};
use bellwether_runtime::{Gaps, Looker, Looks, Place, Runtime, Watch};
use rustls::ClientConfig;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until};

use crate::chain::Chain;
use crate::config::{Config, LoadConfig, Share};
use crate::desk::Rules;
use crate::engine::{Engine, Now, Word, Work};
use crate::run::told;
use crate::settings::Load;
use crate::window::Window;
use crate::{KIND, LoadError};

/// Without a word from a coordinator for this long, no load goes on.
const SILENCE_MAX: Span = Span::from_secs(10);
/// How often that is looked at.
const LISTEN_EVERY: Duration = Duration::from_millis(250);
/// How long a load rests that ended itself because nearly everything failed.
const REST: Duration = Duration::from_secs(30);

/// Runs the agent until it is told to end.
///
/// # Errors
/// When its file is not sound, or it cannot reach NATS.
pub async fn run(config: &Path) -> Result<(), LoadError> {
    let Config { agent, load } = bellwether_runtime::load_config(config)?;
    let tls = load.ca.as_deref().map(bellwether_runtime::tls_with_ca).transpose()?;
    let tls = tls.unwrap_or_else(bellwether_runtime::tls);
    let dialer = Dialer::new(load.allow.clone(), Arc::clone(&tls));
    let runtime = Runtime::start(Role::Load, &agent).await?;
    runtime.presence(|presence| presence.kinds = [KIND.to_owned()].into());
    let clock = runtime.clock.clone();
    let (heard, last) = watch::channel(None);
    let mut tasks = JoinSet::new();
    tasks.spawn(listen(runtime.bus.clone(), heard));
    let (samples, mut taken) = mpsc::channel(SAMPLES_MAX);
    let (now, dialer): (Now, _) = (Arc::new(move || clock.now()), Arc::new(dialer));
    let gaps = Gaps::default();
    let loader = Loader { config: load, tls, dialer, now, gaps: gaps.clone(), samples, heard: last, tasks };
    let mut looks = Looks::new(runtime.agent.to_string(), loader);
    runtime.look(&mut looks, &gaps, &mut taken).await;
    Ok(())
}

/// Notes when a coordinator was last heard.
async fn listen(bus: Bus, heard: watch::Sender<Option<Timestamp>>) {
    let mut presence = bus.kv(Bucket::Presence).watch();
    loop {
        let entry = presence.next().await;
        let is_coordinator = entry.key.parse::<AgentId>().is_ok_and(|id| id.role == Role::Coordinator);
        if is_coordinator && entry.value.is_some() {
            heard.send_modify(|last| *last = (*last).max(Some(entry.at)));
        }
    }
}

/// What this agent does itself about looks.
struct Loader {
    config: LoadConfig,
    /// With which the control target is reached.
    tls: Arc<ClientConfig>,
    dialer: Arc<Dialer>,
    now: Now,
    gaps: Gaps,
    samples: mpsc::Sender<(Sample, Trace)>,
    heard: watch::Receiver<Option<Timestamp>>,
    // Ends every load when this is dropped.
    tasks: JoinSet<()>,
}

/// A load that goes on until this is dropped.
#[derive(Debug)]
struct Running {
    share: Share,
    revision: Arc<AtomicU64>,
    task: AbortHandle,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Looker for Loader {
    type Ready = (Load, Target);
    type Running = Running;

    fn knows(&self, kind: &str) -> bool {
        kind == KIND
    }

    fn read(&self, _: &Service, look: &Look) -> Result<Self::Ready, String> {
        let target = Target::read(look)?;
        self.dialer.check(&target.origin)?;
        let load = Load::read(&look.settings).map_err(|flaws| told(&flaws))?;
        self.config.check_duration(&load.course)?;
        Ok((load, target))
    }

    fn fit<'a>(
        &'a self,
        wanted: impl Iterator<Item = &'a Self::Ready>,
        running: impl Iterator<Item = &'a Running>,
    ) -> Result<(), String> {
        self.config.check(wanted.map(|(load, _)| Share::of(load)).chain(running.map(|running| running.share)))
    }

    fn begin(&mut self, watch: Watch, _: &Look, (load, target): Self::Ready, _: Span) -> Running {
        // Ended tasks are taken out, or they would pile up.
        while self.tasks.try_join_next().is_some() {}
        let share = Share::of(&load);
        let revision = Arc::new(AtomicU64::new(watch.revision.0));
        let rules = Rules {
            timeout: watch.timeout.to_std(),
            connections_max: load.connections,
            width: watch.slot,
            edges_ms: watch.edges_ms.clone(),
        };
        let control = self.config.control.as_ref().map(|_| Arc::new(Mutex::new(ControlLooks::default())));
        let looks = self.config.control.clone().zip(control.clone());
        let (now, every) = (Arc::clone(&self.now), ControlLooks::every(std::iter::once(watch.slot)));
        let chain = Chain { target, dialer: Arc::clone(&self.dialer), steps: load.steps };
        let lasting = Lasting {
            work: Work { chain, course: load.course, think: load.think, rules, now: Arc::clone(&self.now) },
            lag_max: load.lag_max,
            place: self.gaps.place(&watch),
            watch,
            revision: Arc::clone(&revision),
            ends: Instant::now() + self.config.duration_max.to_std(),
            samples: self.samples.clone(),
            heard: self.heard.clone(),
            control,
            held: VecDeque::new(),
        };
        let tls = Arc::clone(&self.tls);
        let task = self.tasks.spawn(async move {
            let Some((target, looks)) = looks else { return lasting.go_on().await };
            let begins = || locked(&looks).begins(now());
            let ends = |is_well| {
                locked(&looks).ends(is_well);
                every
            };
            tokio::select! {
                () = lasting.go_on() => {}
                () = target.watch(tls, begins, ends) => {}
            }
        });
        Running { share, revision, task }
    }

    fn renew(&mut self, running: &Running, revision: Revision) {
        running.revision.store(revision.0, Ordering::Relaxed);
    }
}

/// One load, again and again where it has to rest.
struct Lasting {
    work: Work,
    lag_max: Option<Duration>,
    watch: Watch,
    place: Place,
    revision: Arc<AtomicU64>,
    ends: Instant,
    samples: mpsc::Sender<(Sample, Trace)>,
    heard: watch::Receiver<Option<Timestamp>>,
    /// What is seen of the control target, if there is one.
    control: Option<Arc<Mutex<ControlLooks>>>,
    /// Slots that wait for the control target, oldest first: it answers within its timeout or does not. Whether
    /// the load has ended itself before.
    held: VecDeque<(Window, bool)>,
}

/// Why a load does not go on.
enum Rest {
    /// For a while.
    Failing,
    /// Until a coordinator is heard.
    Silence,
    /// For good.
    Over,
}

impl Lasting {
    async fn go_on(mut self) {
        loop {
            if self.is_silent() {
                self.miss(&format!("no load: no coordinator was heard for {SILENCE_MAX}"));
            }
            while self.is_silent() {
                sleep(LISTEN_EVERY).await;
            }
            match self.once().await {
                Rest::Failing => sleep(REST).await,
                Rest::Silence => {}
                // The reason stands until this look is ended.
                Rest::Over => std::future::pending().await,
            }
        }
    }

    async fn once(&mut self) -> Rest {
        let rest = self.drive().await;
        // Nothing more is sent by now.
        while !self.held.is_empty() {
            self.tell_held().await;
            sleep(LISTEN_EVERY).await;
        }
        rest
    }

    async fn drive(&mut self) -> Rest {
        let mut engine = match Engine::start(self.work.clone()) {
            Ok(engine) => engine,
            Err(error) => {
                self.miss(&format!("no load: there is no thread to be had: {error}"));
                return Rest::Failing;
            }
        };
        let (mut failing, mut listen) = (false, tokio::time::interval(LISTEN_EVERY));
        loop {
            tokio::select! {
                word = engine.next() => match word {
                    Some(Word::Window(window)) => {
                        self.held.push_back((*window, failing));
                        self.tell_held().await;
                    }
                    Some(Word::Shut(why)) => {
                        self.miss(&why);
                        failing = true;
                    }
                    None if failing => return Rest::Failing,
                    None => {
                        self.miss("no load: its thread has ended");
                        return Rest::Failing;
                    }
                },
                // What is still on its way was not waited for, and is told nowhere.
                _ = listen.tick() => {
                    if self.is_silent() {
                        return Rest::Silence;
                    }
                    self.tell_held().await;
                }
                () = sleep_until(self.ends) => {
                    self.miss("no load: it has gone on for this agent's `load.duration_max`");
                    return Rest::Over;
                }
            }
        }
    }

    /// Sends the slots of which is known whether this agent was well.
    async fn tell_held(&mut self) {
        while let Some((window, _)) = self.held.front() {
            let during =
                |looks: &Arc<Mutex<ControlLooks>>| locked(looks).during(window.start, window.width, (self.work.now)());
            let Some(control) = self.control.as_ref().map_or(Some(Control::Absent), during) else { return };
            if let Some((window, is_last)) = self.held.pop_front() {
                self.tell(window, is_last, control).await;
            }
        }
    }

    /// Sends one slot, unless it says nothing about the target: then it is a gap.
    async fn tell(&mut self, window: Window, is_last: bool, control: Control) {
        if let Some(why) = window.void(self.lag_max) {
            return self.miss(&why);
        }
        let (rollout, sli, cohort) = (&self.watch.rollout, &self.watch.sli, self.watch.cohort);
        if !is_last && self.place.fill() {
            tracing::info!(%rollout, %sli, %cohort, "load measured again");
        }
        self.watch.revision = Revision(self.revision.load(Ordering::Relaxed));
        // Whoever took the samples is gone; then so is this task, soon.
        let sample = window.gathered.sample(&self.watch, window.start, control);
        let _ = self.samples.send((sample, Trace::default())).await;
    }

    /// From now on slots are gaps. One line when that begins is enough.
    fn miss(&self, why: &str) {
        let (rollout, sli, cohort) = (&self.watch.rollout, &self.watch.sli, self.watch.cohort);
        if self.place.open(why, (self.work.now)()) {
            tracing::warn!(%rollout, %sli, %cohort, why, "no sample");
        }
    }

    fn is_silent(&self) -> bool {
        let now = (self.work.now)();
        self.heard.borrow().is_none_or(|last| now.since(last) > SILENCE_MAX)
    }
}

fn locked(looks: &Mutex<ControlLooks>) -> MutexGuard<'_, ControlLooks> {
    looks.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::atomic::AtomicI64;

    use bellwether_protocol::assignment::Assignment;
    use bellwether_protocol::sample::{Cohort, Portion};
    use serde_json::{Value, json};

    use super::*;
    use crate::fixture::Server;

    /// An agent without a mesh, whose clock the test sets.
    struct Alone {
        looks: Looks<Loader>,
        samples: mpsc::Receiver<(Sample, Trace)>,
        heard: watch::Sender<Option<Timestamp>>,
        ahead_ms: Arc<AtomicI64>,
        now: Now,
    }

    impl Alone {
        fn new(control: Option<&str>) -> Self {
            let caps = json!({
                "allow": ["127.0.0.1"], "control": control, "rate_max": "100/s", "connections_max": 20, "duration_max": "1h",
            });
            let config: LoadConfig = serde_json::from_value(caps).unwrap();
            let ahead_ms = Arc::new(AtomicI64::new(0));
            let (ahead, begin) = (Arc::clone(&ahead_ms), std::time::Instant::now());
            let passed = move || i64::try_from(begin.elapsed().as_millis()).unwrap();
            let now: Now = Arc::new(move || Timestamp::from_ms(1_000_000 + passed() + ahead.load(Ordering::Relaxed)));
            let tls = bellwether_runtime::tls();
            let dialer = Arc::new(Dialer::new(config.allow.clone(), Arc::clone(&tls)));
            let (heard, last) = watch::channel(None);
            let (sender, samples) = mpsc::channel(SAMPLES_MAX);
            let (gaps, tasks) = (Gaps::default(), JoinSet::new());
            let loader =
                Loader { config, tls, dialer, now: Arc::clone(&now), gaps, samples: sender, heard: last, tasks };
            Self { looks: Looks::new("sjc.load.load-1".to_owned(), loader), samples, heard, ahead_ms, now }
        }

        /// Assigns loads; the reason when they are refused.
        fn assign(&mut self, url: &str, loads: &[(Cohort, Value)]) -> Option<String> {
            let look = |(cohort, settings): &(Cohort, Value)| {
                json!({
                    "sli": "load", "cohort": cohort, "url": url, "kind": KIND, "settings": settings, "every": "1s",
                    "timeout": "2s", "headers": {}, "fingerprint": null, "edges_ms": [100, 1_000],
                })
            };
            let looks: Vec<Value> = loads.iter().map(look).collect();
            let assignment =
                json!({ "rollout": "shop/1", "revision": 1, "region": "sjc", "slot": "200ms", "looks": looks });
            let assignment: Assignment = serde_json::from_value(assignment).unwrap();
            let watching = self.looks.reconcile(&[("shop".parse().unwrap(), assignment)].into());
            watching.into_values().next().and_then(|watching| watching.refused)
        }
    }

    #[tokio::test]
    async fn without_a_coordinator_there_is_no_load() {
        let server = Server::default();
        let url = server.start().await;
        let mut alone = Alone::new(None);
        // A busy machine must not void what this test waits for.
        let load = json!({"path": "/", "rate": "100/s", "connections": 10, "lag_max": "1m"});
        assert_eq!(alone.assign(&url, &[(Cohort::Canary, load)]), None);
        sleep(2 * LISTEN_EVERY).await;
        assert_eq!(server.asked(), 0, "nobody was heard yet");

        alone.heard.send_replace(Some((alone.now)()));
        let sample = loop {
            let (sample, _) = alone.samples.recv().await.expect("a sample");
            if sample.portions.iter().map(Portion::n).sum::<u64>() > 0 {
                break sample;
            }
        };
        let portion = &sample.portions[0];
        assert_eq!((sample.cohort, portion.n(), sample.slot.as_ms() % 200), (Cohort::Canary, portion.latency.n(), 0));
        assert!(portion.classes.keys().all(|class| class.as_str() == "ok"), "{portion:?}");

        alone.ahead_ms.store(11_000, Ordering::Relaxed);
        let mut last = server.asked();
        loop {
            sleep(2 * LISTEN_EVERY).await;
            if server.asked() == last {
                break;
            }
            last = server.asked();
        }
        alone.heard.send_replace(Some((alone.now)()));
        while server.asked() == last {
            sleep(LISTEN_EVERY).await;
        }
        alone.looks.reconcile(&BTreeMap::new());
        sleep(LISTEN_EVERY).await;
        let last = server.asked();
        sleep(LISTEN_EVERY).await;
        assert_eq!(server.asked(), last, "an assignment that is gone ends its load");
    }

    #[tokio::test]
    async fn a_sample_says_whether_this_agent_was_well() {
        let server = Server::default();
        let (url, nowhere) = (server.start().await, "http://127.0.0.1:1");
        for (target, control, expected, class) in [
            (&*url, None, Control::Absent, "ok"),
            (&*url, Some(&*url), Control::Well, "ok"),
            (&*url, Some(nowhere), Control::Sick, "ok"),
            // Also of what it has ended itself for.
            (nowhere, Some(&*url), Control::Well, "connect"),
        ] {
            let mut alone = Alone::new(control);
            alone.heard.send_replace(Some((alone.now)()));
            let load = json!({"path": "/", "rate": "50/s", "connections": 5, "lag_max": "1m"});
            assert_eq!(alone.assign(target, &[(Cohort::Canary, load)]), None);
            // The control target is looked at when the load begins, and so not yet in a slot before that.
            let sample = loop {
                let (sample, _) = alone.samples.recv().await.expect("a sample");
                if sample.portions.iter().map(Portion::n).sum::<u64>() >= 9 {
                    break sample;
                }
            };
            let classes = sample.portions.iter().flat_map(|portion| portion.classes.keys());
            assert!(classes.clone().all(|own| own.as_str() == class), "{sample:?}");
            assert_eq!(sample.control, expected, "{target} {control:?}");
        }
    }

    #[tokio::test]
    async fn what_exceeds_a_cap_is_refused_whole() {
        let mut alone = Alone::new(None);
        let mut check = |url: &str, loads: &[(Cohort, Value)], reason: &str| {
            let refused = alone.assign(url, loads).unwrap_or_default();
            assert!(refused.contains(reason), "`{reason}` is not in `{refused}`");
            assert_eq!(alone.looks.running().count(), 0);
        };
        let rate = |rate: &str| json!({"path": "/", "rate": rate, "connections": 5});
        let here = "http://127.0.0.1:1";
        check(
            here,
            &[(Cohort::Canary, rate("101/s"))],
            "101 requests/s are over this agent's `load.rate_max` of 100/s",
        );
        let both = [(Cohort::Canary, rate("60/s")), (Cohort::Baseline, rate("60/s"))];
        check(here, &both, "120 requests/s are over this agent's `load.rate_max` of 100/s");
        let users = json!({"path": "/", "users": 21});
        check(here, &[(Cohort::Canary, users)], "21 connections are over this agent's `load.connections_max` of 20");
        let long = json!({"path": "/", "stages": ["to 5/s in 2h"]});
        check(here, &[(Cohort::Canary, long)], "stages of 2h are over this agent's `load.duration_max` of 1h");
        check("http://10.0.0.1", &[(Cohort::Canary, rate("1/s"))], "10.0.0.1 is not in this agent's `allow`");
        check("http://169.254.169.254", &[(Cohort::Canary, rate("1/s"))], "never looked at");
        check(here, &[(Cohort::Canary, json!({"path": "/"}))], "one of `rate`, `users` and `stages` is needed");
    }
}
