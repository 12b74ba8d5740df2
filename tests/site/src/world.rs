//! What the site is at one moment: environments, releases, weights, faults. Never waits and never
//! reads a clock; `now` is handed in.
//!
//! A lever that was set shows its old value until the lag has passed, as real platforms do: their
//! 200 comes before anything has moved.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bellwether_protocol::id::Release;
use bellwether_protocol::ratio::Ratio;
use bellwether_protocol::time::Span;
use serde::{Deserialize, Serialize};

use crate::fault::{Fault, Spread};

/// The environment that is not production: `traffic`, `release` and `stable` leave it alone.
pub(crate) const STAGING: &str = "staging";
/// The flag that `/checkout` reads.
pub(crate) const CHECKOUT_FLAG: &str = "new_checkout";
/// The paths that the site answers.
pub(crate) const PATHS: [&str; 3] = ["/", "/checkout", "/health"];
/// Faults at one time; a demo needs two or three.
const FAULTS_MAX: usize = 32;
/// Releases that a platform remembers.
const HISTORY_LEN_MAX: usize = 20;

/// Something about the site that can be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum SiteLever {
    /// The release beside the stable one, in every production environment.
    Release,
    /// The stable release of every production environment.
    Stable,
    /// The release beside the stable one in the environment `staging`.
    Staging,
    /// The share of traffic that goes to the release beside the stable one.
    Traffic,
}

/// How the platform misbehaves when a lever is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Misbehaviour {
    /// It asks to come back later.
    Busy,
    /// It does it and never answers.
    Hang,
    /// It does it.
    None,
    /// It moves one target and says that all is well.
    Partial,
    /// It will not do it.
    Refuse,
}

/// Why a lever was not set.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SetError {
    /// Scripted.
    #[error("the platform is busy")]
    Busy,
    /// Scripted, or there is nothing behind this lever.
    #[error("the platform refuses to set {0:?}")]
    Refused(SiteLever),
    /// Neither a share nor a release.
    #[error("`{0}` is not a value of this lever")]
    Value(String),
}

/// A lever as it stands.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reading {
    /// Its value, when all targets agree.
    pub(crate) value: Option<String>,
    /// Each environment behind it.
    pub(crate) targets: Vec<Place>,
}

/// One environment behind a lever.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Place {
    pub(crate) id: String,
    pub(crate) value: String,
}

/// Whom a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Addressed {
    Baseline,
    Canary,
    Split,
}

/// Who answers a request, and which flags decide what goes wrong with it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Routed {
    pub(crate) release: Release,
    pub(crate) flags: Vec<String>,
    /// Number of this request within its release's run.
    pub(crate) number: u64,
    pub(crate) uptime: Duration,
}

/// What goes wrong with a request.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Trouble {
    pub(crate) error: bool,
    pub(crate) hang: bool,
    pub(crate) latency: Span,
    pub(crate) memory_mb: Option<u64>,
}

/// The whole site.
#[derive(Debug)]
pub(crate) struct World {
    lag: Duration,
    environments: BTreeMap<String, Environment>,
    faults: Vec<ActiveFault>,
    misbehaviours: BTreeMap<SiteLever, Misbehaviour>,
}

#[derive(Debug)]
struct Environment {
    stable: Delayed<Release>,
    candidate: Delayed<Release>,
    weight: Delayed<Ratio>,
    /// Releases that the candidate has been, newest first.
    history: Vec<Release>,
    runs: BTreeMap<Release, Run>,
    /// One per path, or two clients that take turns would always get the same side.
    splits: BTreeMap<&'static str, Spread>,
}

#[derive(Debug)]
struct Run {
    since: Instant,
    requests: u64,
    /// How many answers it gave, by path and status.
    answers: BTreeMap<(&'static str, u16), u64>,
}

impl Run {
    fn new(since: Instant) -> Self {
        Self { since, requests: 0, answers: BTreeMap::new() }
    }
}

#[derive(Debug)]
struct ActiveFault {
    fault: Fault,
    spreads: BTreeMap<(String, &'static str), Spread>,
}

/// A value that changes some time after it was set.
#[derive(Debug)]
struct Delayed<T> {
    shown: T,
    next: Option<(Instant, T)>,
}

impl<T> Delayed<T> {
    fn new(shown: T) -> Self {
        Self { shown, next: None }
    }

    fn set(&mut self, at: Instant, to: T) {
        self.next = Some((at, to));
    }

    fn settle(&mut self, now: Instant) {
        if let Some((_, value)) = self.next.take_if(|(at, _)| *at <= now) {
            self.shown = value;
        }
    }
}

impl Environment {
    fn new(stable: Release) -> Self {
        Self {
            candidate: Delayed::new(stable.clone()),
            history: vec![stable.clone()],
            stable: Delayed::new(stable),
            weight: Delayed::new(Ratio::ZERO),
            runs: BTreeMap::new(),
            splits: BTreeMap::new(),
        }
    }

    fn settle(&mut self, now: Instant) {
        self.stable.settle(now);
        self.candidate.settle(now);
        self.weight.settle(now);
        let running = [&self.stable.shown, &self.candidate.shown];
        self.runs.retain(|release, _| running.contains(&release));
        for release in running {
            self.runs.entry(release.clone()).or_insert_with(|| Run::new(now));
        }
        if self.history.first() != Some(&self.candidate.shown) {
            self.history.insert(0, self.candidate.shown.clone());
            self.history.truncate(HISTORY_LEN_MAX);
        }
    }

    fn choose(&mut self, path: &'static str, addressed: Addressed) -> Release {
        let to_candidate = match addressed {
            Addressed::Baseline => false,
            Addressed::Canary => true,
            Addressed::Split => self.splits.entry(path).or_default().take(self.weight.shown),
        };
        if to_candidate { self.candidate.shown.clone() } else { self.stable.shown.clone() }
    }
}

impl World {
    pub(crate) fn new(names: &[String], stable: &Release, lag: Duration) -> Self {
        let environments = names.iter().map(|name| (name.clone(), Environment::new(stable.clone()))).collect();
        Self { lag, environments, faults: Vec::new(), misbehaviours: BTreeMap::new() }
    }

    /// Picks the release that answers one request. `None`: no such environment.
    pub(crate) fn route(
        &mut self,
        env: &str,
        path: &'static str,
        addressed: Addressed,
        now: Instant,
    ) -> Option<Routed> {
        let environment = self.environments.get_mut(env)?;
        environment.settle(now);
        let release = environment.choose(path, addressed);
        let run = environment.runs.entry(release.clone()).or_insert_with(|| Run::new(now));
        run.requests = run.requests.saturating_add(1);
        let (number, uptime) = (run.requests, now.duration_since(run.since));
        let hits = self.faults.iter().filter(|active| active.fault.hits(&release, env, path));
        let mut flags: Vec<String> = hits.filter_map(|active| active.fault.flag.clone()).collect();
        if path == "/checkout" {
            flags.push(CHECKOUT_FLAG.to_owned());
        }
        flags.sort();
        flags.dedup();
        Some(Routed { release, flags, number, uptime })
    }

    /// What goes wrong with one request, given the flags that are on for its user.
    pub(crate) fn trouble(&mut self, env: &str, path: &'static str, release: &Release, on: &[String]) -> Trouble {
        let mut trouble = Trouble::default();
        for active in &mut self.faults {
            let fault = &active.fault;
            let switched_on = fault.flag.as_ref().is_none_or(|flag| on.contains(flag));
            if !switched_on || !fault.hits(release, env, path) {
                continue;
            }
            let spread = active.spreads.entry((env.to_owned(), path)).or_default();
            trouble.error |= spread.take(fault.errors);
            trouble.hang |= fault.hang;
            trouble.latency = trouble.latency.max(fault.latency);
            trouble.memory_mb = trouble.memory_mb.max(fault.memory_mb);
        }
        trouble
    }

    /// Counts an answer of a release that still runs.
    pub(crate) fn answered(&mut self, env: &str, release: &Release, path: &'static str, status: u16) {
        let run = self.environments.get_mut(env).and_then(|environment| environment.runs.get_mut(release));
        if let Some(run) = run {
            *run.answers.entry((path, status)).or_default() += 1;
        }
    }

    /// The counters of one environment, as a Prometheus scrapes them.
    pub(crate) fn exposition(&self, env: &str) -> String {
        let mut text = "# TYPE shop_requests_total counter\n".to_owned();
        for (release, run) in self.environments.get(env).into_iter().flat_map(|environment| &environment.runs) {
            for ((path, status), count) in &run.answers {
                let labels = format!("release=\"{release}\",path=\"{path}\",code=\"{status}\"");
                text.push_str(&format!("shop_requests_total{{{labels}}} {count}\n"));
            }
        }
        text
    }

    /// Adds a fault, or replaces the one in the same place. False when there are too many.
    pub(crate) fn set_fault(&mut self, fault: Fault) -> bool {
        self.faults.retain(|active| !active.fault.same_place(&fault));
        let fits = self.faults.len() < FAULTS_MAX;
        if fits && fault.has_effect() {
            self.faults.push(ActiveFault { fault, spreads: BTreeMap::new() });
        }
        fits
    }

    pub(crate) fn clear_faults(&mut self) {
        self.faults.clear();
    }

    pub(crate) fn misbehave(&mut self, lever: SiteLever, how: Misbehaviour) {
        self.misbehaviours.insert(lever, how);
    }

    /// Puts a release somewhere at once: what a platform does behind everybody's back.
    pub(crate) fn place(
        &mut self,
        env: &str,
        stable: Option<Release>,
        candidate: Option<Release>,
        now: Instant,
    ) -> Option<()> {
        let environment = self.environments.get_mut(env)?;
        if let Some(release) = stable {
            environment.stable.set(now, release);
        }
        if let Some(release) = candidate {
            environment.candidate.set(now, release);
        }
        environment.settle(now);
        Some(())
    }

    /// Sets a lever; it takes effect after the lag. `Ok(true)` means that the answer must not come.
    pub(crate) fn set(&mut self, lever: SiteLever, to: &str, now: Instant) -> Result<bool, SetError> {
        let how = self.misbehaviours.get(&lever).copied().unwrap_or(Misbehaviour::None);
        let reach = match how {
            Misbehaviour::Busy => return Err(SetError::Busy),
            Misbehaviour::Refuse => return Err(SetError::Refused(lever)),
            Misbehaviour::Partial => 1,
            Misbehaviour::Hang | Misbehaviour::None => usize::MAX,
        };
        let wrong = || SetError::Value(to.chars().take(128).collect());
        if self.targets(lever).next().is_none() {
            return Err(SetError::Refused(lever));
        }
        let at = now + self.lag;
        for (_, environment) in self.targets(lever).take(reach) {
            environment.settle(now);
            match lever {
                SiteLever::Release | SiteLever::Staging => {
                    environment.candidate.set(at, to.parse().map_err(|_| wrong())?)
                }
                SiteLever::Stable => environment.stable.set(at, to.parse().map_err(|_| wrong())?),
                SiteLever::Traffic => environment.weight.set(at, to.parse().map_err(|_| wrong())?),
            }
        }
        Ok(how == Misbehaviour::Hang)
    }

    /// Where a lever stands now.
    pub(crate) fn read(&mut self, lever: SiteLever, now: Instant) -> Reading {
        let place = |(id, environment): (&String, &mut Environment)| {
            environment.settle(now);
            let value = match lever {
                SiteLever::Release | SiteLever::Staging => environment.candidate.shown.to_string(),
                SiteLever::Stable => environment.stable.shown.to_string(),
                SiteLever::Traffic => environment.weight.shown.to_string(),
            };
            Place { id: id.clone(), value }
        };
        let targets: Vec<Place> = self.targets(lever).map(place).collect();
        let first = targets.first().map(|place| place.value.clone());
        let value = first.filter(|value| targets.iter().all(|place| place.value == *value));
        Reading { value, targets }
    }

    /// The releases that a lever has held, newest first; this platform remembers them for two levers.
    pub(crate) fn history(&mut self, lever: SiteLever, now: Instant) -> Vec<Release> {
        match lever {
            SiteLever::Release | SiteLever::Staging => {}
            SiteLever::Stable | SiteLever::Traffic => return Vec::new(),
        }
        let Some((_, environment)) = self.targets(lever).next() else { return Vec::new() };
        environment.settle(now);
        environment.history.clone()
    }

    fn targets(&mut self, lever: SiteLever) -> impl Iterator<Item = (&String, &mut Environment)> {
        let in_staging = lever == SiteLever::Staging;
        self.environments.iter_mut().filter(move |(name, _)| (*name == STAGING) == in_staging)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAG: Duration = Duration::from_millis(300);

    fn world() -> (World, Instant) {
        let names = ["staging", "east", "west"].map(str::to_owned);
        (World::new(&names, &release("v41"), LAG), Instant::now())
    }

    fn release(text: &str) -> Release {
        text.parse().expect("a release")
    }

    fn values(world: &mut World, lever: SiteLever, now: Instant) -> (Option<String>, Vec<String>) {
        let reading = world.read(lever, now);
        (reading.value, reading.targets.into_iter().map(|t| format!("{}={}", t.id, t.value)).collect())
    }

    #[test]
    fn a_lever_moves_after_the_lag_and_not_before() {
        let (mut world, now) = world();
        assert_eq!(world.set(SiteLever::Traffic, "10%", now), Ok(false));
        let check = |world: &mut World, at: Instant, expected: &str| {
            let (value, targets) = values(world, SiteLever::Traffic, at);
            assert_eq!(value.as_deref(), Some(expected));
            assert_eq!(targets, [format!("east={expected}"), format!("west={expected}")]);
        };
        check(&mut world, now + LAG - Duration::from_millis(1), "0%");
        check(&mut world, now + LAG, "10%");
    }

    #[test]
    fn ten_percent_is_exactly_one_in_ten_on_each_path() {
        let (mut world, now) = world();
        world.set(SiteLever::Release, "v42", now).expect("set");
        world.set(SiteLever::Traffic, "10%", now).expect("set");
        let at = now + LAG;
        let mut count = |addressed, path| {
            let routed = (0..1_000).filter_map(|_| world.route("east", path, addressed, at));
            routed.filter(|routed| routed.release == release("v42")).count()
        };
        assert_eq!(count(Addressed::Split, "/"), 100);
        assert_eq!(count(Addressed::Split, "/checkout"), 100);
        assert_eq!(count(Addressed::Canary, "/"), 1_000);
        assert_eq!(count(Addressed::Baseline, "/"), 0);
    }

    #[test]
    fn a_partial_platform_moves_one_target_and_a_refusing_one_none() {
        let (mut world, now) = world();
        world.misbehave(SiteLever::Release, Misbehaviour::Partial);
        assert_eq!(world.set(SiteLever::Release, "v42", now), Ok(false));
        let at = now + LAG;
        assert_eq!(values(&mut world, SiteLever::Release, at), (None, vec!["east=v42".into(), "west=v41".into()]));
        world.misbehave(SiteLever::Release, Misbehaviour::Refuse);
        assert_eq!(world.set(SiteLever::Release, "v41", at), Err(SetError::Refused(SiteLever::Release)));
        world.misbehave(SiteLever::Release, Misbehaviour::None);
        assert_eq!(world.set(SiteLever::Release, "v 41", at), Err(SetError::Value("v 41".into())));
        assert_eq!(world.set(SiteLever::Traffic, "110%", at), Err(SetError::Value("110%".into())));
        assert_eq!(world.history(SiteLever::Release, at), [release("v42"), release("v41")]);
    }

    #[test]
    fn staging_is_its_own_lever() {
        let (mut world, now) = world();
        world.set(SiteLever::Staging, "v42", now).expect("set");
        assert_eq!(values(&mut world, SiteLever::Staging, now + LAG), (Some("v42".into()), vec!["staging=v42".into()]));
        assert_eq!(values(&mut world, SiteLever::Release, now + LAG).0, Some("v41".into()));
    }

    #[test]
    fn a_fault_behind_a_flag_hits_only_its_users() {
        let (mut world, _) = world();
        assert!(world.set_fault("release=v42,env=west,flag=new_checkout,errors=100%".parse().expect("a fault")));
        let mut error = |env, on: &[&str]| {
            let on: Vec<String> = on.iter().map(|flag| (*flag).to_owned()).collect();
            world.trouble(env, "/checkout", &release("v42"), &on).error
        };
        assert!(error("west", &["new_checkout"]));
        assert!(!error("west", &[]));
        assert!(!error("east", &["new_checkout"]));
    }

    #[test]
    fn a_fault_is_replaced_in_place_and_removed_by_one_without_effect() {
        let (mut world, _) = world();
        let mut bad_of_forty = |fault: &str| {
            assert!(world.set_fault(fault.parse().expect("a fault")));
            (0..40).filter(|_| world.trouble("east", "/", &release("v42"), &[]).error).count()
        };
        assert_eq!(bad_of_forty("release=v42,errors=5%"), 2);
        assert_eq!(bad_of_forty("release=v42,errors=50%"), 20);
        assert_eq!(bad_of_forty("release=v42"), 0);
    }

    #[test]
    fn uptime_starts_again_with_a_new_release() {
        let (mut world, now) = world();
        let hour = Duration::from_secs(3_600);
        assert!(world.route("east", "/", Addressed::Baseline, now).is_some());
        let routed = world.route("east", "/", Addressed::Baseline, now + hour).expect("an answer");
        assert_eq!((routed.uptime, routed.number), (hour, 2));
        assert_eq!(world.place("east", Some(release("v42")), Some(release("v42")), now + hour), Some(()));
        let routed = world.route("east", "/", Addressed::Baseline, now + hour).expect("an answer");
        assert_eq!((routed.uptime, routed.number), (Duration::ZERO, 1));
        assert_eq!(world.route("north", "/", Addressed::Split, now), None);
    }
}
