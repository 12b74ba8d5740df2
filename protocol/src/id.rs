//! Ids, one newtype each, so that no two of them can be swapped by accident.
//!
//! A *token* is `[A-Za-z0-9_-]`, 1 to 64 bytes: safe as one token of a NATS subject and as a part
//! of a KV key. Ids that `decide` creates are derived from what caused them, never random.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Why a text is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} `{text}` is not valid: {expected}")]
pub struct IdError {
    /// What was being read, such as "service".
    pub kind: &'static str,
    /// The text, cut to 80 characters.
    pub text: String,
    /// What would be right.
    pub expected: &'static str,
}

impl IdError {
    pub(crate) fn new(kind: &'static str, text: &str, expected: &'static str) -> Self {
        Self { kind, text: text.chars().take(80).collect(), expected }
    }
}

/// Longest token, in bytes. A subject holds at most eight of them.
pub const TOKEN_LEN_MAX: usize = 64;

fn is_token(text: &str) -> bool {
    (1..=TOKEN_LEN_MAX).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

macro_rules! text_serde {
    ($name:ident) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
            }
        }
    };
}
pub(crate) use text_serde;

/// Texts of one form, one type each.
macro_rules! texts {
    ($pattern:literal, $is_sound:ident, $expected:literal; $($(#[$doc:meta])* $name:ident = $kind:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, schemars::JsonSchema)]
        #[schemars(extend("pattern" = $pattern))]
        pub struct $name(String);

        impl $name {
            /// As text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                if $is_sound(text) { Ok(Self(text.to_owned())) } else { Err(IdError::new($kind, text, $expected)) }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        text_serde!($name);
    )*};
}

texts! {
    "^[A-Za-z0-9_-]{1,64}$", is_token, "use 1 to 64 of A-Z a-z 0-9 _ -";
    /// Somebody to be told, by the name that alert agents route by.
    Audience = "audience";
    /// The name of one agent process, unique within its region and role.
    AgentName = "agent name";
    /// A class of answers, such as `http_5xx`. See [`crate::sample::class`] for the known ones.
    Class = "class";
    /// The id of a command: its `Nats-Msg-Id`, or `seq-<inbox sequence>` when it came without one.
    CommandId = "command id";
    /// The id of one coordinator process.
    CoordinatorId = "coordinator id";
    /// The name of a criterion in a plan.
    CriterionName = "criterion";
    /// The name of a lever, as the agent's own configuration gives it.
    LeverName = "lever";
    /// The name of a number extracted from an answer.
    NumberName = "number";
    /// Who asks. On a mesh without credentials this is only a claim.
    Principal = "principal";
    /// A region: a place with agents near it.
    Region = "region";
    /// A service under watch.
    Service = "service";
    /// The name of an SLI in a plan.
    SliName = "sli";
    /// The name of a stage in a plan.
    StageName = "stage";
    /// The name of what starts rollouts, as the agent's own configuration gives it.
    TriggerName = "trigger";
}

/// Longest release or lever value, in bytes; an image reference with a digest fits.
pub const TEXT_LEN_MAX: usize = 128;

fn is_text(text: &str) -> bool {
    (1..=TEXT_LEN_MAX).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
}

texts! {
    "^[!-~]{1,128}$", is_text, "use 1 to 128 printable ASCII characters without spaces";
    /// What a lever is set to, such as `10%`, `v42` or `on`. Compared as text, never parsed.
    LeverValue = "lever value";
    /// A release, as the service itself names it in its fingerprint.
    Release = "release";
}

/// What an agent is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Tells people.
    Alert,
    /// Decides.
    Coordinator,
    /// Flips flags.
    Flag,
    /// Puts load on services.
    Load,
    /// Reads what others measured.
    Metric,
    /// Looks.
    Probe,
    /// Moves a service between releases.
    Rollback,
    /// Starts rollouts.
    Trigger,
}

impl Role {
    /// Every role, in order.
    pub const ALL: [Self; 8] = [
        Self::Alert,
        Self::Coordinator,
        Self::Flag,
        Self::Load,
        Self::Metric,
        Self::Probe,
        Self::Rollback,
        Self::Trigger,
    ];

    /// The role as a subject token.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Alert => "alert",
            Self::Coordinator => "coordinator",
            Self::Flag => "flag",
            Self::Load => "load",
            Self::Metric => "metric",
            Self::Probe => "probe",
            Self::Rollback => "rollback",
            Self::Trigger => "trigger",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Role {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let found = Self::ALL.into_iter().find(|role| role.as_str() == text);
        found.ok_or_else(|| {
            IdError::new("role", text, "use alert, coordinator, flag, load, metric, probe, rollback or trigger")
        })
    }
}

/// One agent: where it is, what it is for, and its name. Written `region.role.name`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, schemars::JsonSchema)]
#[schemars(with = "String", extend("pattern" = "^[A-Za-z0-9_-]{1,64}\\.[a-z]+\\.[A-Za-z0-9_-]{1,64}$", "examples" = ["sjc.probe.probe-1"]))]
pub struct AgentId {
    /// Where it is.
    pub region: Region,
    /// What it is for.
    pub role: Role,
    /// Its name there.
    pub name: AgentName,
}

impl fmt::Display for AgentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.region, self.role, self.name)
    }
}

impl FromStr for AgentId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let mut parts = text.splitn(3, '.');
        let (Some(region), Some(role), Some(name)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(IdError::new("agent", text, "write region.role.name"));
        };
        Ok(Self { region: region.parse()?, role: role.parse()?, name: name.parse()? })
    }
}

text_serde!(AgentId);

/// One rollout: `service/number`, counted from 1 per service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, schemars::JsonSchema)]
#[schemars(with = "String", extend("pattern" = "^[A-Za-z0-9_-]{1,64}/[0-9]+$", "examples" = ["shop/42"]))]
pub struct RolloutId {
    /// The service.
    pub service: Service,
    /// Its number, from 1.
    pub number: u64,
}

impl fmt::Display for RolloutId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.service, self.number)
    }
}

impl FromStr for RolloutId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let wrong = || IdError::new("rollout", text, "write service/number, such as shop/42");
        let (service, number) = text.split_once('/').ok_or_else(wrong)?;
        Ok(Self { service: service.parse()?, number: number.parse().map_err(|_| wrong())? })
    }
}

text_serde!(RolloutId);

/// One action: `rollout/generation/index`. The same decision always derives the same id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, schemars::JsonSchema)]
#[schemars(with = "String", extend("pattern" = "^[A-Za-z0-9_-]{1,64}/[0-9]+/[0-9]+/[0-9]+$", "examples" = ["shop/42/17/0"]))]
pub struct ActionId {
    /// The rollout it belongs to.
    pub rollout: RolloutId,
    /// The ordinal of the record that holds it.
    pub generation: Ordinal,
    /// Its place in that record, from 0.
    pub index: u32,
}

impl fmt::Display for ActionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.rollout, self.generation, self.index)
    }
}

impl FromStr for ActionId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let wrong = || IdError::new("action", text, "write rollout/generation/index, such as shop/42/17/0");
        let mut parts = text.rsplitn(3, '/');
        let (Some(index), Some(generation), Some(rollout)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(wrong());
        };
        Ok(Self {
            rollout: rollout.parse()?,
            generation: Ordinal(generation.parse().map_err(|_| wrong())?),
            index: index.parse().map_err(|_| wrong())?,
        })
    }
}

text_serde!(ActionId);

/// One problem of one rollout: `rollout-cause`, such as `shop/42-error_rate`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, schemars::JsonSchema)]
#[schemars(with = "String", extend("pattern" = "^[A-Za-z0-9_-]{1,64}/[0-9]+-[A-Za-z0-9_-]{1,64}$", "examples" = ["shop/42-error_rate"]))]
pub struct IncidentId {
    /// The rollout.
    pub rollout: RolloutId,
    /// The cause: a criterion, or one of a few fixed words.
    pub cause: CriterionName,
}

impl fmt::Display for IncidentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.rollout, self.cause)
    }
}

impl FromStr for IncidentId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let wrong = || IdError::new("incident", text, "write rollout-cause, such as shop/42-error_rate");
        // A service may hold a dash, a rollout number may not: the cause starts after the first
        // dash behind the slash.
        let slash = text.find('/').ok_or_else(wrong)?;
        let dash = slash + text[slash..].find('-').ok_or_else(wrong)?;
        Ok(Self { rollout: text[..dash].parse()?, cause: text[dash + 1..].parse()? })
    }
}

text_serde!(IncidentId);

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident($inner:ty);)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl $name {
            /// The next one. Saturates: nothing from outside may make a counter wrap.
            pub fn next(self) -> Self {
                Self(self.0.saturating_add(1))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    )*};
}

counters! {
    /// Which entry into a stage this is, counted over the whole rollout, from 1.
    Entry(u32);
    /// Moves only when a verdict of the current stage worsens. An approval is bound to it.
    GateVersion(u32);
    /// The number of a record in its service's log, from 1. Doubles as generation of its actions.
    Ordinal(u64);
    /// The ordinal of an assignment's last change of content.
    Revision(u64);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round<T: FromStr<Err = IdError> + fmt::Display>(text: &str) -> Result<String, IdError> {
        text.parse::<T>().map(|id| id.to_string())
    }

    #[test]
    fn ids_read_back_as_written() {
        assert_eq!(round::<RolloutId>("shop/42"), Ok("shop/42".into()));
        assert_eq!(round::<ActionId>("shop/42/17/0"), Ok("shop/42/17/0".into()));
        assert_eq!(round::<IncidentId>("my-shop/42-error-rate"), Ok("my-shop/42-error-rate".into()));
        assert_eq!(round::<AgentId>("sjc.probe.probe-1"), Ok("sjc.probe.probe-1".into()));
    }

    #[test]
    fn tokens_that_would_break_a_subject_are_refused() {
        for text in ["", "a.b", "a b", "a*", ">", "ä", "a/b", &"x".repeat(65)] {
            assert!(round::<Service>(text).is_err(), "`{text}` was accepted");
        }
        assert!(round::<Release>("registry/app:v42@sha256-0").is_ok());
        assert!(round::<Release>("v 42").is_err());
    }
}
