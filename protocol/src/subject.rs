//! Every subject, stream and bucket name. The only file with subject literals; `tests/tidy.rs` checks.
//!
//! Identity tokens come before the rollout, so that static permissions can pin role, region and
//! agent; the principal is the last token of a command.
//!
//! | subject | stream | publisher |
//! |---|---|---|
//! | `bw.sample.<region>.<role>.<agent>` | samples | agents that look |
//! | `bw.command.<service>.<verb>.<principal>` | inbox | people |
//! | `bw.result.<region>.<role>.<agent>.<service>` | inbox | agents that act |
//! | `bw.decision.<service>` | decisions | coordinators |
//! | `bw.action.<service>.<lever>` | actions | coordinators |
//! | `bw.alert.<severity>.<service>` | alerts | coordinators, alert agents |
//! | `bw.ack.<service>.<principal>` | alerts | people |
//! | `bw.outcome.<service>.<command>` | alerts | coordinators |
//! | `bw.pushed.<service>.<region>.<sli>` | none | whoever measures; metric agents of the region listen |

use std::fmt;
use std::str::FromStr;

use crate::alert::Severity;
use crate::command::Verb;
use crate::id::{AgentId, CommandId, IdError, LeverName, Principal, Region, Service, SliName};

/// The first token of every subject, and the start of every stream's and bucket's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prefix(String);

impl Default for Prefix {
    fn default() -> Self {
        Self("bw".to_owned())
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for Prefix {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let token: Service = text.parse().map_err(|error: IdError| IdError { kind: "prefix", ..error })?;
        Ok(Self(token.as_str().to_owned()))
    }
}

/// A stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stream {
    /// Actions, by lever; short-lived.
    Actions,
    /// Alerts, their acknowledgements, and outcomes of commands.
    Alerts,
    /// The truth: one subject per service, one message per decision.
    Decisions,
    /// Commands and results.
    Inbox,
    /// Samples; short-lived.
    Samples,
}

impl Stream {
    /// Every stream.
    pub const ALL: [Self; 5] = [Self::Actions, Self::Alerts, Self::Decisions, Self::Inbox, Self::Samples];
}

/// A KV bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bucket {
    /// What agents are to watch: key `<region>.<service>`, MessagePack.
    Assignments,
    /// Who acts on a lever: key `<service>.<lever>`.
    Claims,
    /// Flags: key `<service>`, JSON.
    Flags,
    /// Who is there: key `<region>.<role>.<agent>`, MessagePack.
    Presence,
    /// The projection of each service's rollout: key `<service>`, JSON.
    Status,
    /// Which agent tells of which alert: key `<service>.<number>.<cause>.<seq>`, `.<occasion>` behind it for what comes later, JSON; forgotten after a day.
    Told,
}

impl Bucket {
    /// Every bucket.
    pub const ALL: [Self; 6] = [Self::Assignments, Self::Claims, Self::Flags, Self::Presence, Self::Status, Self::Told];
}

impl Prefix {
    /// The name of a stream, such as `bw-decisions`.
    pub fn stream(&self, stream: Stream) -> String {
        let name = match stream {
            Stream::Actions => "actions",
            Stream::Alerts => "alerts",
            Stream::Decisions => "decisions",
            Stream::Inbox => "inbox",
            Stream::Samples => "samples",
        };
        format!("{self}-{name}")
    }

    /// The subjects that a stream captures.
    pub fn captured(&self, stream: Stream) -> Vec<String> {
        let all = |word: &str| format!("{self}.{word}.>");
        match stream {
            Stream::Actions => vec![all("action")],
            Stream::Alerts => vec![all("ack"), all("alert"), all("outcome")],
            Stream::Decisions => vec![all("decision")],
            Stream::Inbox => vec![all("command"), all("result")],
            Stream::Samples => vec![all("sample")],
        }
    }

    /// The stream that captures `subject`, if one of ours does.
    pub fn stream_of(&self, subject: &str) -> Option<Stream> {
        let captures = |filter: &String| filter.strip_suffix('>').is_some_and(|head| subject.starts_with(head));
        Stream::ALL.into_iter().find(|stream| self.captured(*stream).iter().any(captures))
    }

    /// The name of a bucket, such as `bw-presence`.
    pub fn bucket(&self, bucket: Bucket) -> String {
        let name = match bucket {
            Bucket::Assignments => "assignments",
            Bucket::Claims => "claims",
            Bucket::Flags => "flags",
            Bucket::Presence => "presence",
            Bucket::Status => "status",
            Bucket::Told => "told",
        };
        format!("{self}-{name}")
    }

    /// Where an agent's samples go.
    pub fn sample(&self, agent: &AgentId) -> String {
        format!("{self}.sample.{agent}")
    }

    /// Where a command goes.
    pub fn command(&self, service: &Service, verb: Verb, principal: &Principal) -> String {
        format!("{self}.command.{service}.{verb}.{principal}")
    }

    /// Where an agent's result goes.
    pub fn result(&self, agent: &AgentId, service: &Service) -> String {
        format!("{self}.result.{agent}.{service}")
    }

    /// Where a service's decisions go.
    pub fn decision(&self, service: &Service) -> String {
        format!("{self}.decision.{service}")
    }

    /// Where an action goes.
    pub fn action(&self, service: &Service, lever: &LeverName) -> String {
        format!("{self}.action.{service}.{lever}")
    }

    /// Where the acknowledgement of an incident goes.
    pub fn ack(&self, service: &Service, principal: &Principal) -> String {
        format!("{self}.ack.{service}.{principal}")
    }

    /// Where every acknowledgement goes, as a filter.
    pub fn acks(&self) -> String {
        format!("{self}.ack.>")
    }

    /// Who acknowledged, if it is such a subject. The subject is what permissions pin, not the body.
    pub fn read_ack(&self, subject: &str) -> Option<(Service, Principal)> {
        let (service, principal) = subject.strip_prefix(&self.0)?.strip_prefix(".ack.")?.split_once('.')?;
        Some((service.parse().ok()?, principal.parse().ok()?))
    }

    /// Where an alert goes.
    pub fn alert(&self, severity: Severity, service: &Service) -> String {
        format!("{self}.alert.{severity}.{service}")
    }

    /// Where every alert goes, as a filter.
    pub fn alerts(&self) -> String {
        format!("{self}.alert.>")
    }

    /// Where the outcome of a command goes.
    pub fn outcome(&self, service: &Service, command: &CommandId) -> String {
        format!("{self}.outcome.{service}.{command}")
    }

    /// Where anyone may say what they measured.
    pub fn pushed(&self, service: &Service, region: &Region, sli: &SliName) -> String {
        format!("{self}.pushed.{service}.{region}.{sli}")
    }

    /// What an inbox subject says, if it is one.
    pub fn read_inbox(&self, subject: &str) -> Option<InboxSubject> {
        let rest = subject.strip_prefix(&self.0)?.strip_prefix('.')?;
        let tokens: Vec<&str> = rest.split('.').collect();
        match tokens.as_slice() {
            ["command", service, verb, principal] => Some(InboxSubject::Command {
                service: service.parse().ok()?,
                verb: Verb::ALL.into_iter().find(|known| known.as_str() == *verb)?,
                principal: principal.parse().ok()?,
            }),
            ["result", region, role, agent, service] => Some(InboxSubject::Result {
                agent: format!("{region}.{role}.{agent}").parse().ok()?,
                service: service.parse().ok()?,
            }),
            _ => None,
        }
    }

    /// The service of a decision subject, if it is one.
    pub fn read_decision(&self, subject: &str) -> Option<Service> {
        let rest = subject.strip_prefix(&self.0)?.strip_prefix(".decision.")?;
        rest.parse().ok()
    }

    /// The agent of a sample subject, if it is one. The subject is what permissions pin, not the body.
    pub fn read_sample(&self, subject: &str) -> Option<AgentId> {
        subject.strip_prefix(&self.0)?.strip_prefix(".sample.")?.parse().ok()
    }
}

/// The key of an assignment.
pub fn assignment_key(region: &Region, service: &Service) -> String {
    format!("{region}.{service}")
}

/// What an inbox subject says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InboxSubject {
    /// A person asks.
    Command {
        /// For which service.
        service: Service,
        /// What.
        verb: Verb,
        /// Who.
        principal: Principal,
    },
    /// An agent answers.
    Result {
        /// Who.
        agent: AgentId,
        /// For which service.
        service: Service,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inbox_subjects_read_back_as_written() -> Result<(), IdError> {
        let prefix = Prefix::default();
        let (service, principal): (Service, Principal) = ("shop".parse()?, "release-manager".parse()?);
        let written = prefix.command(&service, Verb::FlagOff, &principal);
        assert_eq!(
            prefix.read_inbox(&written),
            Some(InboxSubject::Command { service: service.clone(), verb: Verb::FlagOff, principal })
        );
        let agent: AgentId = "sjc.rollback.roll-1".parse()?;
        let written = prefix.result(&agent, &service);
        assert_eq!(prefix.read_inbox(&written), Some(InboxSubject::Result { agent, service: service.clone() }));
        let principal: Principal = "ann".parse()?;
        let written = prefix.ack(&service, &principal);
        assert_eq!(prefix.read_ack(&written), Some((service, principal)));
        assert_eq!(prefix.read_ack("bw.ack.shop.ann.lee"), None);
        for wrong in ["bw.command.shop.launch.me", "bw.command.shop.pause", "bwx.command.shop.pause.me", ""] {
            assert_eq!(prefix.read_inbox(wrong), None, "`{wrong}` was read");
        }
        Ok(())
    }
}
