//! `bellwether command`: what people ask of a rollout that is on.

use std::path::PathBuf;
use std::time::Duration;

use bellwether_protocol::command::{CommandBody, Verb};
use bellwether_protocol::id::{CriterionName, Entry, GateVersion, Region, RolloutId, Service};
use bellwether_protocol::time::{Span, Timestamp};

use crate::args::{Asker, Mesh, now};
use crate::ask::{Asked, ask, say};
use crate::error::VerbError;
use crate::out::outln;
use crate::plan;

/// Ask something of a rollout
#[derive(Debug, clap::Subcommand)]
pub enum CommandVerb {
    /// End the rollout and restore its levers
    Abort(Common),
    /// Go on with another plan; what was seen so far no longer counts
    Amend {
        /// What every command has.
        #[command(flatten)]
        common: Common,
        /// The new plan file
        #[arg(long, value_name = "FILE")]
        plan: PathBuf,
        /// Override a value of the plan, such as `stages.canary.soak=60s`
        #[arg(long = "override", value_name = "KEY=VALUE")]
        overrides: Vec<String>,
    },
    /// Agree that this stage may be left
    Approve {
        /// What every command has.
        #[command(flatten)]
        common: Common,
        /// The stage entry that was looked at; `rollout status` prints the whole command
        #[arg(long, value_name = "NUMBER")]
        entry: u32,
        /// The gate version that was looked at; an older one is refused
        #[arg(long, value_name = "NUMBER")]
        gate: u32,
    },
    /// Go on without a region or a criterion; needs --reason
    Exclude {
        /// What every command has.
        #[command(flatten)]
        common: Common,
        /// What is left out
        #[arg(value_enum)]
        what: ExcludedKind,
        /// Its name
        name: String,
        /// When that ends: `14:00Z`, an instant, or `2h` from now
        #[arg(long, value_name = "WHEN")]
        until: String,
    },
    /// Turn every flag of the plan off
    FlagOff(Common),
    /// No transitions; looking and safety go on
    Pause(Common),
    /// Leave this stage now, skipping the rest of its soak
    Promote(Common),
    /// End a pause
    Resume(Common),
    /// Take back to the release recorded at start, also after the rollout has ended
    Rollback(Common),
}

/// What every command has.
#[derive(Debug, clap::Args)]
pub struct Common {
    /// The service
    service: Service,
    /// Why
    #[arg(long)]
    reason: Option<String>,
    /// The rollout that is meant; default: the current one
    #[arg(long, value_name = "ID")]
    rollout: Option<RolloutId>,
    /// How long to wait for the decision
    #[arg(long, default_value = "15s", value_name = "SPAN")]
    timeout: Span,
    #[command(flatten)]
    asker: Asker,
}

/// What can be left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum ExcludedKind {
    /// One criterion
    Criterion,
    /// One region
    Region,
}

/// Asks, waits for the outcome and says it.
///
/// # Errors
/// When the command is not known to be stored.
pub(crate) async fn command(mesh: &Mesh, verb: CommandVerb) -> Result<u8, VerbError> {
    let (common, verb, body) = body(verb, mesh.json)?;
    let body = CommandBody { rollout: common.rollout.clone(), reason: common.reason.clone(), ..body };
    let asked = Asked { service: common.service.clone(), verb, principal: common.asker.principal()?, body };
    let bus = mesh.connect().await?;
    let within: Duration = common.timeout.to_std();
    let answer = ask(&bus, &asked, within, |id| {
        if !mesh.json {
            outln!("stored: command {id}");
        }
    });
    say(&answer.await?, mesh.json)
}

fn body(verb: CommandVerb, json: bool) -> Result<(Common, Verb, CommandBody), VerbError> {
    let empty = CommandBody::default();
    Ok(match verb {
        CommandVerb::Abort(common) => (common, Verb::Abort, empty),
        CommandVerb::Amend { common, plan, overrides } => {
            let plan = Some(plan::read(&plan, json)?);
            (common, Verb::Amend, CommandBody { plan, overrides, ..empty })
        }
        CommandVerb::Approve { common, entry, gate } => {
            let body = CommandBody { entry: Some(Entry(entry)), gate: Some(GateVersion(gate)), ..empty };
            (common, Verb::Approve, body)
        }
        CommandVerb::Exclude { common, what, name, until } => {
            let until = Some(parse_until(&until, now())?);
            let body = match what {
                ExcludedKind::Criterion => {
                    CommandBody { criterion: Some(name.parse::<CriterionName>()?), until, ..empty }
                }
                ExcludedKind::Region => CommandBody { region: Some(name.parse::<Region>()?), until, ..empty },
            };
            (common, Verb::Exclude, body)
        }
        CommandVerb::FlagOff(common) => (common, Verb::FlagOff, empty),
        CommandVerb::Pause(common) => (common, Verb::Pause, empty),
        CommandVerb::Promote(common) => (common, Verb::Promote, empty),
        CommandVerb::Resume(common) => (common, Verb::Resume, empty),
        CommandVerb::Rollback(common) => (common, Verb::Rollback, empty),
    })
}

/// `14:00Z` (the next one), an instant, or a span from now.
fn parse_until(text: &str, now: Timestamp) -> Result<Timestamp, VerbError> {
    const DAY: Span = Span::from_secs(86_400);
    if let Ok(span) = text.parse::<Span>() {
        return Ok(now + span);
    }
    if let Ok(at) = text.parse::<Timestamp>() {
        return Ok(at);
    }
    let wrong = || VerbError::Until(text.chars().take(40).collect());
    let clock = text.strip_suffix('Z').filter(|clock| clock.len() == 5).ok_or_else(wrong)?;
    let date: String = now.seconds().chars().take(11).collect();
    let at: Timestamp = format!("{date}{clock}:00Z").parse().map_err(|_| wrong())?;
    Ok(if at > now { at } else { at + DAY })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn until_is_read_in_three_forms() {
        let now: Timestamp = "2026-05-05T13:51:10Z".parse().unwrap();
        let check = |text: &str, expected: &str| {
            assert_eq!(parse_until(text, now).unwrap().seconds(), expected);
        };
        check("14:00Z", "2026-05-05T14:00:00Z");
        check("13:00Z", "2026-05-06T13:00:00Z");
        check("2h", "2026-05-05T15:51:10Z");
        check("2026-06-01T00:00:00Z", "2026-06-01T00:00:00Z");
        for wrong in ["", "14:00", "25:00Z", "tomorrow", "1400Z", "äääZ"] {
            assert!(parse_until(wrong, now).is_err(), "`{wrong}` was read");
        }
    }
}
