//! Every subject, stream and bucket name. The only file with subject literals; `tests/tidy.rs` checks.
//!
//! Identity tokens come before the rollout, so that static permissions can pin role, region and
//! agent; the principal is the last token of a command.
//!
//! [`FAMILIES`] is the table of them: what its tokens say, where it is kept, who speaks and who listens.

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

/// Subjects that differ only in what their tokens say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Family {
    /// The word of its messages, and its token after the prefix where it is no bucket.
    pub word: &'static str,
    /// What the tokens behind it say.
    pub tokens: &'static [&'static str],
    /// Where its messages are kept.
    pub kept: Kept,
    /// Who publishes: roles, `person` or `anyone`.
    pub from: &'static [&'static str],
    /// Who reads.
    pub to: &'static [&'static str],
}

/// Where messages are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// The last one of each key.
    Bucket(Bucket),
    /// Nowhere: who does not listen does not hear.
    Nowhere,
    /// Each of them, for a time.
    Stream(Stream),
}

impl Family {
    /// Whether others than ours read it, who are told beside it what it is: `cloud_event`.
    pub fn leaves_the_mesh(&self) -> bool {
        let is_for_others = self.to.iter().any(|reader| matches!(*reader, "anyone" | "person"));
        matches!(self.kept, Kept::Stream(_)) && self.from.contains(&"coordinator") && is_for_others
    }
}

const fn family(
    word: &'static str,
    tokens: &'static [&'static str],
    kept: Kept,
    from: &'static [&'static str],
    to: &'static [&'static str],
) -> Family {
    Family { word, tokens, kept, from, to }
}

const ACTING: &[&str] = &["flag", "rollback"];
const LOOKING: &[&str] = &["load", "metric", "probe"];
const EVERYBODY: &[&str] = &["alert", "coordinator", "flag", "load", "metric", "probe", "rollback", "trigger"];

/// Every family of subjects.
pub const FAMILIES: [Family; 17] = [
    family("ack", &["service", "principal"], Kept::Stream(Stream::Alerts), &["person"], &["alert"]),
    family("action", &["service", "lever"], Kept::Stream(Stream::Actions), &["coordinator"], ACTING),
    family("alert", &["severity", "service"], Kept::Stream(Stream::Alerts), &["coordinator"], &["alert", "person"]),
    family("cdevent", &["service"], Kept::Stream(Stream::Alerts), &["coordinator"], &["anyone"]),
    family(
        "command",
        &["service", "verb", "principal"],
        Kept::Stream(Stream::Inbox),
        &["person", "trigger"],
        &["coordinator"],
    ),
    family("decision", &["service"], Kept::Stream(Stream::Decisions), &["coordinator"], &["coordinator", "person"]),
    family("outcome", &["service", "command"], Kept::Stream(Stream::Alerts), &["coordinator"], &["person", "trigger"]),
    family("pushed", &["service", "region", "sli"], Kept::Nowhere, &["anyone"], &["metric"]),
    family("result", &["region", "role", "agent", "service"], Kept::Stream(Stream::Inbox), ACTING, &["coordinator"]),
    family("sample", &["region", "role", "agent"], Kept::Stream(Stream::Samples), LOOKING, &["coordinator"]),
    family("assignments", &["region", "service"], Kept::Bucket(Bucket::Assignments), &["coordinator"], LOOKING),
    family("claims", &["service", "lever"], Kept::Bucket(Bucket::Claims), ACTING, ACTING),
    family("flags", &["service"], Kept::Bucket(Bucket::Flags), &["flag"], &["flag"]),
    family("invites", &["hash"], Kept::Bucket(Bucket::Invites), &["person"], &["person"]),
    family(
        "presence",
        &["region", "role", "agent"],
        Kept::Bucket(Bucket::Presence),
        EVERYBODY,
        &["alert", "coordinator", "person", "trigger"],
    ),
    family("status", &["service"], Kept::Bucket(Bucket::Status), &["coordinator"], &["person", "trigger"]),
    family("told", &["service", "number", "cause", "seq"], Kept::Bucket(Bucket::Told), &["alert"], &["alert"]),
];

/// A stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stream {
    /// Actions, by lever; short-lived.
    Actions,
    /// Alerts, their acknowledgements, outcomes of commands, and what is told in the words of CDEvents.
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
    /// Who may join: key is the SHA-256 of a one-time token in hex, JSON; forgotten after eight days.
    Invites,
    /// Who is there, or was within a day: key `<region>.<role>.<agent>`, MessagePack. Who ends on purpose deletes its own.
    Presence,
    /// The projection of each service's rollout: key `<service>`, JSON.
    Status,
    /// Which agent tells of which alert: key `<service>.<number>.<cause>.<seq>`, `.<occasion>` behind it for what comes later, JSON; forgotten after a day.
    Told,
}

impl Bucket {
    /// Every bucket.
    pub const ALL: [Self; 7] =
        [Self::Assignments, Self::Claims, Self::Flags, Self::Invites, Self::Presence, Self::Status, Self::Told];
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
        let own = FAMILIES.iter().filter(|family| family.kept == Kept::Stream(stream));
        own.map(|family| format!("{self}.{}.>", family.word)).collect()
    }

    /// The subjects of a family, with each of its tokens as `token` writes it.
    pub fn subjects(&self, family: &Family, token: impl FnMut(&&str) -> String) -> String {
        let head = match family.kept {
            Kept::Bucket(bucket) => format!("$KV.{}", self.bucket(bucket)),
            Kept::Nowhere | Kept::Stream(_) => format!("{self}.{}", family.word),
        };
        [head].into_iter().chain(family.tokens.iter().map(token)).collect::<Vec<_>>().join(".")
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
            Bucket::Invites => "invites",
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

    /// Where it goes what a rollout has come to, in the words of CDEvents.
    pub fn cdevent(&self, service: &Service) -> String {
        format!("{self}.cdevent.{service}")
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

    #[test]
    fn every_subject_is_of_a_family() -> Result<(), IdError> {
        let prefix = Prefix::default();
        let (service, principal, lever): (Service, Principal, LeverName) =
            ("shop".parse()?, "ann".parse()?, "on".parse()?);
        let agent: AgentId = "sjc.probe.one".parse()?;
        let subjects = [
            ("ack", prefix.ack(&service, &principal)),
            ("action", prefix.action(&service, &lever)),
            ("alert", prefix.alert(Severity::Page, &service)),
            ("cdevent", prefix.cdevent(&service)),
            ("command", prefix.command(&service, Verb::Pause, &principal)),
            ("decision", prefix.decision(&service)),
            ("outcome", prefix.outcome(&service, &"c-1".parse()?)),
            ("pushed", prefix.pushed(&service, &"sjc".parse()?, &"sales".parse()?)),
            ("result", prefix.result(&agent, &service)),
            ("sample", prefix.sample(&agent)),
        ];
        let on_the_bus = FAMILIES.iter().filter(|family| !matches!(family.kept, Kept::Bucket(_)));
        assert!(on_the_bus.map(|family| family.word).eq(subjects.iter().map(|(word, _)| *word)));
        let present = FAMILIES.iter().find(|family| family.kept == Kept::Bucket(Bucket::Presence)).expect("presence");
        assert_eq!(
            present.from,
            crate::id::Role::ALL.map(crate::id::Role::as_str),
            "whoever runs says that it is there"
        );
        for (word, subject) in &subjects {
            let family = FAMILIES.iter().find(|family| family.word == *word).expect("a family");
            let pattern = prefix.subjects(family, |_| "*".to_owned());
            let fits = pattern.split('.').zip(subject.split('.')).all(|(own, token)| own == "*" || own == token);
            assert!(fits && pattern.split('.').count() == subject.split('.').count(), "{subject} is not {pattern}");
            let kept = prefix.stream_of(subject).map_or(Kept::Nowhere, Kept::Stream);
            assert_eq!(kept, family.kept, "{subject}");
        }
        Ok(())
    }
}
