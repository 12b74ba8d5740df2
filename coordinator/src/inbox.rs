//! Messages of people and agents, read into inputs. What cannot be read of a command is recorded as
//! malformed, so that it is refused once; what cannot be read of an agent is dropped and warned of.

use std::collections::BTreeMap;

use bellwether_protocol::action::ActionResult;
use bellwether_protocol::codec;
use bellwether_protocol::command::{
    Amend, Ask, COMMAND_BY_SEQ, COMMAND_VALID, Command, CommandBody, Excluded, Start, Verb,
};
use bellwether_protocol::id::{CommandId, Service};
use bellwether_protocol::plan::{Finding, FindingSeverity, Plan, read_plan};
use bellwether_protocol::record::Input;
use bellwether_protocol::subject::{InboxSubject, Prefix};
use bellwether_protocol::time::Timestamp;

/// Longest reason of a command that is kept, in characters.
const REASON_LEN_MAX: usize = 500;
/// Longest plan that a start may carry, in bytes: a record holds the text and the plan read from it.
const PLAN_LEN_MAX: usize = 96 * 1024;

/// Reads one message of the inbox. `None`: nobody's command or result.
pub fn read(
    prefix: &Prefix,
    subject: &str,
    seq: u64,
    at: Timestamp,
    id: Option<&str>,
    body: &[u8],
) -> Option<(Service, Input)> {
    let Some(meant) = prefix.read_inbox(subject) else {
        tracing::warn!(subject, "dropped a message to nobody: no command has this verb, or no result this shape");
        return None;
    };
    match meant {
        InboxSubject::Result { agent, service } => {
            let result: ActionResult = match codec::from_json("result", body) {
                Ok(result) => result,
                Err(error) => {
                    tracing::warn!(%agent, error = &error as &dyn std::error::Error, "dropped a result");
                    return None;
                }
            };
            // The subject is what permissions pin; a body that names another agent is a lie or a mistake.
            if result.agent != agent || result.action.rollout.service != service {
                tracing::warn!(%agent, claimed = %result.agent, "dropped a result that names another agent or service");
                return None;
            }
            Some((service, Input::Result { seq, result }))
        }
        InboxSubject::Command { service, verb, principal } => {
            let own = || format!("{COMMAND_BY_SEQ}{seq}").parse().ok();
            let id: CommandId = id.and_then(|id| id.parse().ok()).or_else(own)?;
            let trimmed = body.trim_ascii();
            let body: &[u8] = if trimmed.is_empty() { b"{}" } else { trimmed };
            let (parsed, ask) = match codec::from_json::<CommandBody>("command", body) {
                Ok(parsed) => {
                    let ask = ask(verb, &parsed);
                    (parsed, ask)
                }
                Err(error) => (CommandBody::default(), Err(with_source(&error))),
            };
            let ask = ask.unwrap_or_else(|error| Ask::Malformed { verb, error });
            let reason = parsed.reason.map(|reason| reason.chars().take(REASON_LEN_MAX).collect());
            let not_after = parsed.not_after.unwrap_or(at + COMMAND_VALID);
            let command = Command {
                id,
                seq,
                service: service.clone(),
                principal,
                at,
                not_after,
                rollout: parsed.rollout,
                reason,
                ask,
            };
            Some((service, Input::Command(command)))
        }
    }
}

fn ask(verb: Verb, body: &CommandBody) -> Result<Ask, String> {
    let missing = |field: &str| format!("`{verb}` needs `{field}`");
    match verb {
        Verb::Abort => Ok(Ask::Abort),
        Verb::Amend => {
            let (text, plan) = plan(verb, body)?;
            Ok(Ask::Amend(Box::new(Amend { text, overrides: body.overrides.clone(), plan })))
        }
        Verb::Approve => Ok(Ask::Approve {
            entry: body.entry.ok_or_else(|| missing("entry"))?,
            gate: body.gate.ok_or_else(|| missing("gate"))?,
        }),
        Verb::Exclude => {
            let what = match (&body.region, &body.criterion) {
                (Some(region), None) => Excluded::Region(region.clone()),
                (None, Some(criterion)) => Excluded::Criterion(criterion.clone()),
                _ => return Err(missing("region` or `criterion")),
            };
            Ok(Ask::Exclude { what, until: body.until.ok_or_else(|| missing("until"))? })
        }
        Verb::FlagOff => Ok(Ask::FlagOff),
        Verb::Pause => Ok(Ask::Pause),
        Verb::Promote => Ok(Ask::Promote),
        Verb::Resume => Ok(Ask::Resume),
        Verb::Rollback => Ok(Ask::Rollback),
        Verb::Start => {
            let (text, plan) = plan(verb, body)?;
            let release = body.release.clone().ok_or_else(|| missing("release"))?;
            let (overrides, shadow, supersede) = (body.overrides.clone(), body.shadow, body.supersede);
            Ok(Ask::Start(Box::new(Start { release, text, overrides, plan, shadow, supersede })))
        }
    }
}

/// The plan that a command carries: its text, and what it says.
fn plan(verb: Verb, body: &CommandBody) -> Result<(String, Plan), String> {
    let text = body.plan.clone().ok_or_else(|| format!("`{verb}` needs `plan`, the text of a plan file"))?;
    if text.len() > PLAN_LEN_MAX {
        return Err(format!("the plan has {} bytes, at most {PLAN_LEN_MAX} fit into a record", text.len()));
    }
    // A probe's own settings are checked by the agents that take up the assignment.
    let read = read_plan(FILE, &text, &body.overrides, &BTreeMap::new());
    let (plan, _) = read.map_err(|findings| one_line(&findings))?;
    Ok((text, plan))
}

/// What a plan without bases is called, where nobody has its file.
const FILE: &str = "plan";

fn one_line(findings: &[Finding]) -> String {
    let errors = findings.iter().filter(|finding| finding.severity == FindingSeverity::Error);
    let lines: Vec<String> = errors.take(5).map(place).collect();
    format!("the plan is not valid: {}", lines.join("; "))
}

fn place(finding: &Finding) -> String {
    // A plan with bases says in which of its files.
    let file = Some(&finding.file).filter(|file| *file != FILE).map(|file| format!("{file}:")).unwrap_or_default();
    let help = finding.help.as_ref().map(|help| format!(": {help}")).unwrap_or_default();
    match (finding.line, finding.column) {
        (Some(line), Some(column)) => format!("{file}{line}:{column}: {}{help}", finding.message),
        _ => format!("{}{help}", finding.message),
    }
}

fn with_source(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
