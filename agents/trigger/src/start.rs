//! Starting: from an intent to the command, and to what became of it.

use std::path::Path;
use std::time::Duration;

use bellwether_bus::{Bus, PublishError, ReadError};
use bellwether_protocol::codec::{self, DecodeError};
use bellwether_protocol::command::{COMMAND_VALID, CommandBody, Outcome, Verb};
use bellwether_protocol::id::{CommandId, IdError, RolloutId, Service};
use bellwether_protocol::plan::{Finding, FindingSeverity, Validators, join, read_plan};
use bellwether_protocol::status::Status;
use bellwether_protocol::subject::{Bucket, Stream};
use bellwether_protocol::time::{Span, Timestamp};
use bellwether_runtime::{AskError, Asked, ConfigError, Runtime, ask, decided, read_text};
use sha2::{Digest, Sha256};

use crate::config::TriggerConfig;
use crate::trigger::{Firing, Last};

/// How long a coordinator may take to decide before that is told; another takes over within seconds.
const DECIDED_WITHIN: Duration = Duration::from_secs(15);
/// A refusal that is older does not stand for a new try.
const REFUSED_FOR: Span = Span::from_secs(30);
/// Most tries of the same release between two rollouts.
const TRIES_MAX: u32 = 64;
/// Until what failed is tried again.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Why no rollout began.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartFlaw {
    /// The command could not be sent, or its outcome not be read.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// An outcome cannot be understood.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// An id of ours is not one.
    #[error(transparent)]
    Id(#[from] IdError),
    /// The plan has errors.
    #[error("the plan is refused: {0}")]
    Plan(String),
    /// The plan cannot be read.
    #[error(transparent)]
    PlanFile(#[from] ConfigError),
    /// The outcomes cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A coordinator said no.
    #[error("refused: {0}")]
    Refused(String),
    /// Nobody said anything yet about this command.
    #[error("stored, not yet decided: is a coordinator running?")]
    Undecided(CommandId),
}

impl StartFlaw {
    /// In one word, for figures.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Ask(_) | Self::Decode(_) | Self::Id(_) | Self::Read(_) => "error",
            Self::Plan(_) | Self::PlanFile(_) => "plan",
            Self::Refused(_) => "refused",
            Self::Undecided(_) => "undecided",
        }
    }
}

/// The text of the plan as it is now, if it is right.
pub(crate) fn plan(own: &TriggerConfig, validators: &Validators) -> Result<String, StartFlaw> {
    let file = own.plan.display().to_string();
    let base = |path: &str| read_text(Path::new(path)).map_err(|error| error.to_string());
    let text =
        join(&file, read_text(&own.plan)?, base).map_err(|unjoined| StartFlaw::Plan(first(&[unjoined.finding])))?;
    match read_plan(&file, &text, &own.overrides, validators) {
        Ok((plan, _)) if plan.service == own.service => Ok(text),
        Ok((plan, _)) => Err(StartFlaw::Plan(format!("it is for service {}, not {}", plan.service, own.service))),
        Err(findings) => Err(StartFlaw::Plan(first(&findings))),
    }
}

fn first(findings: &[Finding]) -> String {
    let errors = || findings.iter().filter(|finding| finding.severity == FindingSeverity::Error);
    let Some(finding) = errors().next() else { return "why is not known".to_owned() };
    let more = errors().count() - 1;
    let rest = if more == 0 { String::new() } else { format!("; and {more} more: bellwether plan check") };
    format!("{finding}{rest}")
}

/// Starts what was intended, once, however often this is called for it; says which rollout that is.
pub(crate) async fn start(
    runtime: &Runtime,
    own: &TriggerConfig,
    firing: &Firing,
    validators: &Validators,
) -> Result<RolloutId, StartFlaw> {
    let body = CommandBody {
        release: Some(firing.release.clone()),
        plan: Some(plan(own, validators)?),
        overrides: own.overrides.clone(),
        shadow: own.shadow,
        supersede: own.supersede,
        // What was meant then may be wrong later.
        not_after: Some(firing.at + COMMAND_VALID),
        reason: Some(because(own)),
        ..CommandBody::default()
    };
    let principal = runtime.agent.name.as_str().parse()?;
    let asked = Asked { service: own.service.clone(), verb: Verb::Start, principal, body };
    let command = command(runtime, own, firing).await?;
    loop {
        match ask(&runtime.bus, command.clone(), &asked, DECIDED_WITHIN, |_| {}).await {
            Err(AskError::Publish(PublishError::Unknown { .. })) if runtime.clock.now() < firing.at + COMMAND_VALID => {
            }
            Err(error) => return Err(error.into()),
            Ok(answer) => {
                return answer.outcome.map_or(Err(StartFlaw::Undecided(answer.command)), became);
            }
        }
    }
}

/// What became of a start that was not decided in time, once it is.
pub(crate) async fn later(bus: Bus, service: Service, command: CommandId) -> Result<RolloutId, StartFlaw> {
    became(decided(&bus, &service, &command).await?)
}

fn became(outcome: Outcome) -> Result<RolloutId, StartFlaw> {
    match outcome.refused {
        Some(why) => Err(StartFlaw::Refused(why)),
        None => outcome.rollout.ok_or(StartFlaw::Undecided(outcome.command)),
    }
}

fn because(own: &TriggerConfig) -> String {
    let TriggerConfig { name, message, lever, .. } = own;
    match (message, lever) {
        (Some(message), _) => format!("trigger {name}: a message on {}", message.subject),
        (None, Some(lever)) => format!("trigger {name}: lever {lever} moved by other hands"),
        (None, None) => format!("trigger {name}"),
    }
}

/// The id of the command: the same for every agent that decided the same, and another one only when an earlier
/// try was refused a while ago.
async fn command(runtime: &Runtime, own: &TriggerConfig, firing: &Firing) -> Result<CommandId, StartFlaw> {
    for n in 0..TRIES_MAX {
        let command = derived(own, firing, n)?;
        let subject = runtime.bus.prefix().outcome(&own.service, &command);
        let Some(message) = runtime.bus.last(Stream::Alerts, &subject).await? else { return Ok(command) };
        let outcome: Outcome = codec::from_json("outcome", &message.body)?;
        if outcome.refused.is_none() || is_fresh(outcome.at, runtime.clock.now()) {
            return Ok(command);
        }
    }
    Err(StartFlaw::Refused(format!("it was refused {TRIES_MAX} times")))
}

fn is_fresh(refused_at: Timestamp, now: Timestamp) -> bool {
    now.since(refused_at) < REFUSED_FOR
}

fn derived(own: &TriggerConfig, firing: &Firing, n: u32) -> Result<CommandId, IdError> {
    let (service, Firing { release, after, .. }) = (&own.service, firing);
    // No part holds a space.
    let parts = format!("{service} {release} {after} {} {n}", own.shadow);
    let hash: String = Sha256::digest(parts).iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    format!("trigger-{hash}").parse()
}

/// The last rollout of the service. Waits for NATS as long as it takes.
pub(crate) async fn last(runtime: &Runtime, own: &TriggerConfig) -> Option<Last> {
    let bucket = runtime.bus.kv(Bucket::Status);
    let mut was_told = false;
    loop {
        let why = match bucket.get(own.service.as_str()).await {
            Ok(None) => return None,
            Ok(Some(entry)) => match codec::from_json::<Status>("status", &entry.value.unwrap_or_default()) {
                Ok(status) => return Some(Last::of(status, own.lever.as_ref())),
                Err(error) => error.to_string(),
            },
            Err(error) => error.to_string(),
        };
        if !std::mem::replace(&mut was_told, true) {
            tracing::warn!(trigger = %own.name, error = why, "cannot tell whether a rollout is on; trying on");
        }
        tokio::time::sleep(AGAIN_AFTER).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_started_with_the_base_that_it_extends() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        let own = TriggerConfig {
            name: "from-ci".parse().unwrap(),
            service: "cart".parse().unwrap(),
            plan: dir.path().join("cart.yaml"),
            message: None,
            lever: None,
            overrides: Vec::new(),
            shadow: false,
            supersede: false,
        };
        let base = "extends: ~\nregions: { east: http://127.0.0.1:1 }\nstages: [{ name: watch, soak: 1h }]\n\
            slis: [{ name: home, http: {} }]\ncriteria: [{ name: down, sli: home, must: never 3 slots down }]\n";
        // What a kind's own settings say is for its agent.
        let validators = Validators::new();
        write("cart.yaml", "extends: shared.yaml\nservice: cart\n");
        let said = plan(&own, &validators).unwrap_err().to_string();
        assert!(said.contains("cart.yaml:1:10: error[P14]: the base `shared.yaml` cannot be read"), "{said}");
        write("shared.yaml", base);
        let text = plan(&own, &validators).unwrap();
        assert!(text.contains(base) && text.contains("service: cart"), "{text}");
        write("shared.yaml", &base.replace("soak: 1h", "soak: 1"));
        let said = plan(&own, &validators).unwrap_err().to_string();
        assert!(said.contains("shared.yaml:3:31: error[P02]: duration without a unit"), "{said}");
    }
}
