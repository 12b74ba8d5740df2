//! The two acts: which release, how it must end, and who approves.

use std::time::Duration;

use bellwether_bus::Bus;
use bellwether_protocol::codec;
use bellwether_protocol::command::{CommandBody, Verb};
use bellwether_protocol::id::{Entry, Principal, Release, RolloutId, Service};
use bellwether_protocol::reason::Ending;
use bellwether_protocol::status::{State, Status};
use bellwether_protocol::subject::Bucket;
use bellwether_runtime::Mode;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::Only;
use super::sink::Received;
use crate::args::now;
use crate::ask::{Asked, DECIDED_WITHIN, ask};
use crate::error::VerbError;
use crate::follow::{Follow, Followed, follow};
use crate::render::Look;
use crate::replay::Explain;

/// The plan's durations, short enough to be watched. Recorded with the rollout, as any override.
pub(super) const SHORTENED: [&str; 13] = [
    "slot=1s",
    "grace=1s",
    "slis.checkout.every=40ms",
    "slis.checkout.timeout=800ms",
    "slis.health.every=500ms",
    "slis.health.timeout=800ms",
    "stages.staging.settle=1s",
    "stages.staging.soak=5s",
    "stages.canary.settle=1s",
    "stages.canary.soak=14s",
    "stages.production.settle=2s",
    "stages.production.soak=8s",
    "take_back.levels.0.apply_within=20s",
];
/// Longest act: what does not end in this time hangs.
const ACT_WITHIN: Duration = Duration::from_secs(90);
/// How long the last webhook may take after the rollout has ended.
const TOLD_WITHIN: Duration = Duration::from_secs(10);
/// How long the coordinator may take to hear of the agents that we have heard of.
const HEARD_WITHIN: Duration = Duration::from_secs(15);
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Who asks in the demo.
const PRINCIPAL: &str = "demo";
const SERVICE: &str = "shop";

/// An act.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Act {
    Good,
    Bad,
}

impl Act {
    pub(super) fn is_wanted(self, only: Option<Only>) -> bool {
        match only {
            None => true,
            Some(Only::Bad) => self == Self::Bad,
            Some(Only::Good) => self == Self::Good,
        }
    }

    fn release(self) -> &'static str {
        match self {
            Self::Good => "v42",
            Self::Bad => "v43",
        }
    }

    fn ending(self) -> Ending {
        match self {
            Self::Good => Ending::Completed,
            Self::Bad => Ending::RolledBack,
        }
    }

    fn announcement(self) -> &'static str {
        match self {
            Self::Good => "Act 1. v42 is a good release: staging, then a canary in east and west, then production.",
            Self::Bad => "Act 2. v43 is well in staging, but in west one checkout in twenty fails. Nobody is watching.",
        }
    }
}

/// What an act needs.
#[derive(Debug)]
pub(super) struct Cast<'a> {
    pub(super) bus: &'a Bus,
    pub(super) plan: &'a str,
    pub(super) mode: Mode,
    pub(super) look: Look,
    /// Lines shown between events.
    pub(super) notes: &'a mut mpsc::Receiver<String>,
    pub(super) tell: mpsc::Sender<String>,
    pub(super) sink: &'a Received,
    pub(super) explain: Explain,
}

impl Cast<'_> {
    /// Plays one act; false when it was left by hand.
    pub(super) async fn play(&mut self, act: Act) -> Result<bool, VerbError> {
        if self.mode != Mode::Json {
            println!("\n{}\n", act.announcement());
        }
        let rollout = self.begin(act).await?;
        let approver = tokio::spawn(approve(self.bus.clone(), rollout.clone(), self.tell.clone()));
        let follow = follow(Follow {
            bus: self.bus,
            rollout: rollout.clone(),
            mode: self.mode,
            look: self.look,
            timeout: Some(ACT_WITHIN),
            asker: if self.mode == Mode::Live { Some(principal()?) } else { None },
            explain: self.explain,
            notes: Some(&mut *self.notes),
        });
        let followed = follow.await;
        approver.abort();
        match followed? {
            Followed::Ended(ending) if ending == act.ending() => {}
            Followed::Left => return Ok(false),
            // Only a person aborts, and the demo never does.
            Followed::Ended(Ending::Aborted) => return Ok(false),
            Followed::Ended(ending) => {
                let (release, wanted) = (act.release(), act.ending());
                return Err(VerbError::Demo(format!(
                    "{release} ended as {ending:?}, and should have ended as {wanted:?}"
                )));
            }
            Followed::TimedOut { .. } => {
                return Err(VerbError::Demo(format!(
                    "{} did not end within {} s",
                    act.release(),
                    ACT_WITHIN.as_secs()
                )));
            }
        }
        if act == Act::Bad {
            self.wait_until_told(&rollout).await?;
        }
        Ok(true)
    }

    async fn begin(&self, act: Act) -> Result<RolloutId, VerbError> {
        let body = CommandBody {
            release: Some(act.release().parse::<Release>()?),
            plan: Some(self.plan.to_owned()),
            overrides: SHORTENED.map(str::to_owned).to_vec(),
            reason: Some("the demo".to_owned()),
            ..CommandBody::default()
        };
        let asked = Asked { service: SERVICE.parse()?, verb: Verb::Start, principal: principal()?, body };
        let until = Instant::now() + HEARD_WITHIN;
        loop {
            let answer = ask(self.bus, &asked, DECIDED_WITHIN, |_| {}).await?;
            let refused = answer.words();
            let done = answer.outcome.filter(|outcome| outcome.refused.is_none());
            match done.and_then(|outcome| outcome.rollout) {
                Some(rollout) => return Ok(rollout),
                None if Instant::now() > until => return Err(VerbError::Demo(format!("the start was {refused}"))),
                None => tokio::time::sleep(LOOK_EVERY * 10).await,
            }
        }
    }

    // The incident is resolved by the last record; its webhook may come a moment after it.
    async fn wait_until_told(&mut self, rollout: &RolloutId) -> Result<(), VerbError> {
        let until = Instant::now() + TOLD_WITHIN;
        while !self.sink.has_whole_incident(rollout) {
            if Instant::now() > until {
                return Err(VerbError::Demo("no webhook told of the incident from its opening to its end".to_owned()));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        while let Ok(line) = self.notes.try_recv() {
            if self.mode != Mode::Json {
                println!("{line}");
            }
        }
        Ok(())
    }
}

fn principal() -> Result<Principal, VerbError> {
    Ok(PRINCIPAL.parse()?)
}

/// Approves each stage entry that waits for it, as a release manager would.
async fn approve(bus: Bus, rollout: RolloutId, said: mpsc::Sender<String>) {
    let mut statuses = bus.kv(Bucket::Status).watch();
    let mut approved: Option<(Entry, bellwether_protocol::id::GateVersion)> = None;
    loop {
        let entry = statuses.next().await;
        let status = entry.value.and_then(|bytes| codec::from_json::<Status>("status", &bytes).ok());
        let Some(status) = status.filter(|status| status.rollout == rollout && status.state == State::Waiting) else {
            continue;
        };
        if approved == Some((status.entry, status.gate)) {
            continue;
        }
        approved = Some((status.entry, status.gate));
        let (Ok(principal), service) = (principal(), status.rollout.service.clone()) else { return };
        let run = command_line(&service, &status);
        let body = CommandBody {
            rollout: Some(rollout.clone()),
            entry: Some(status.entry),
            gate: Some(status.gate),
            ..CommandBody::default()
        };
        let asked = Asked { service, verb: Verb::Approve, principal, body };
        let words = match ask(&bus, &asked, DECIDED_WITHIN, |_| {}).await {
            Ok(answer) => answer.words(),
            Err(error) => error.to_string(),
        };
        let _ = said.send(format!("{} the demo approves for you: {run}: {words}", now().clock())).await;
    }
}

fn command_line(service: &Service, status: &Status) -> String {
    let Status { rollout, entry, gate, .. } = status;
    format!("bellwether command approve {service} --rollout {rollout} --entry {entry} --gate {gate}")
}
