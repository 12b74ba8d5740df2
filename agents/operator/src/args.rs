//! Flags that every verb shares: where the mesh is, and how to speak.

use std::io::IsTerminal;
use std::path::PathBuf;

use bellwether_bus::{Bus, ConnectOptions, Credentials};
use bellwether_protocol::id::{CoordinatorId, Principal, Role};
use bellwether_protocol::subject::Prefix;
use bellwether_protocol::time::Timestamp;
use bellwether_runtime::{SecretError, SecretRef};

use crate::error::VerbError;
use crate::render::Look;

/// Where the mesh is, and how to speak.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Options of every verb")]
pub struct Mesh {
    /// Where NATS is; several addresses separated by commas
    #[arg(long, global = true, env = "BELLWETHER_NATS", default_value = "nats://127.0.0.1:4222", value_name = "URL")]
    pub nats: String,
    /// The JetStream domain that holds the streams, where NATS keeps one; behind a leaf node, the hub's
    #[arg(long, global = true, env = "BELLWETHER_NATS_DOMAIN", value_name = "DOMAIN")]
    pub nats_domain: Option<String>,
    /// A file with the authorities, in PEM, of which one has signed NATS's certificate; with it TLS is a must
    #[arg(long, global = true, env = "BELLWETHER_NATS_CA", value_name = "FILE")]
    pub nats_ca: Option<PathBuf>,
    /// A file that says who we are for NATS: `.creds`, the seed of an nkey, `user:password`, or a token
    #[arg(long, global = true, env = "BELLWETHER_CREDENTIALS", value_name = "FILE")]
    pub credentials: Option<PathBuf>,
    /// The first token of every subject
    #[arg(long, global = true, env = "BELLWETHER_PREFIX", default_value = "bw", value_name = "TOKEN")]
    pub prefix: Prefix,
    /// Print JSON: one object, or one per event
    #[arg(long, global = true)]
    pub json: bool,
    /// No colours (so does NO_COLOR)
    #[arg(long, global = true)]
    pub no_color: bool,
}

/// Decide: run one coordinator; any number may run
#[derive(Debug, clap::Args)]
pub struct CoordinatorArgs {
    /// Where it keeps its name and its high-water marks
    #[arg(long)]
    pub dir: PathBuf,
    /// Its name among coordinators; default: the one its directory remembers
    #[arg(long)]
    pub id: Option<CoordinatorId>,
    /// Monitoring port of NATS, asked once whether every write is synced; such as http://127.0.0.1:8222
    #[arg(long, env = "BELLWETHER_NATS_MONITOR", value_name = "URL")]
    pub nats_monitor: Option<String>,
}

/// Look, act or tell: run one agent
#[derive(Debug, clap::Args)]
pub struct AgentArgs {
    /// What it is for
    #[arg(value_enum)]
    pub role: AgentRole,
    /// Its file
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
}

/// What an agent is for.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub enum AgentRole {
    /// Tells people
    Alert,
    /// Flips flags
    Flag,
    /// Puts load on services
    Load,
    /// Reads what others measured
    Metric,
    /// Looks
    Probe,
    /// Moves a service between releases
    Rollback,
    /// Starts rollouts
    Trigger,
}

impl From<AgentRole> for Role {
    fn from(role: AgentRole) -> Self {
        match role {
            AgentRole::Alert => Self::Alert,
            AgentRole::Flag => Self::Flag,
            AgentRole::Load => Self::Load,
            AgentRole::Metric => Self::Metric,
            AgentRole::Probe => Self::Probe,
            AgentRole::Rollback => Self::Rollback,
            AgentRole::Trigger => Self::Trigger,
        }
    }
}

impl AgentRole {
    /// What its process is called among those that are watched.
    pub fn process(self) -> &'static str {
        match self {
            Self::Alert => "bellwether-alert",
            Self::Flag => "bellwether-flag",
            Self::Load => "bellwether-load",
            Self::Metric => "bellwether-metric",
            Self::Probe => "bellwether-probe",
            Self::Rollback => "bellwether-rollback",
            Self::Trigger => "bellwether-trigger",
        }
    }
}

impl Mesh {
    /// How to connect to it.
    ///
    /// # Errors
    /// When the credentials are not there.
    pub fn options(&self) -> Result<ConnectOptions, SecretError> {
        let credentials = self.credentials.clone().map(|path| SecretRef::File(path).resolve()).transpose()?;
        Ok(ConnectOptions {
            url: self.nats.clone(),
            domain: self.nats_domain.clone(),
            prefix: self.prefix.clone(),
            name: "bellwether operator".to_owned(),
            credentials: credentials.map(Credentials::read),
            ca: self.nats_ca.clone(),
        })
    }

    pub(crate) async fn connect(&self) -> Result<Bus, VerbError> {
        Ok(Bus::connect(&self.options()?).await?)
    }

    /// What the reader of standard output can be shown.
    pub(crate) fn look(&self) -> Look {
        let set = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let is_dumb = set("TERM").is_some_and(|term| term == "dumb");
        let locale = set("LC_ALL").or_else(|| set("LC_CTYPE")).or_else(|| set("LANG"));
        // Without a locale nothing is known; whoever has set one without UTF-8 has said no.
        let is_ascii = locale.is_some_and(|name| !name.to_ascii_lowercase().replace('-', "").contains("utf8"));
        Look {
            colour: std::io::stdout().is_terminal() && !is_dumb && !self.no_color && set("NO_COLOR").is_none(),
            ascii: is_ascii,
        }
    }
}

/// Who asks. On a mesh without credentials this is a claim.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Asker {
    /// Who asks; default: the name of this user
    #[arg(long = "as", env = "BELLWETHER_PRINCIPAL", value_name = "NAME")]
    asker: Option<Principal>,
}

impl Asker {
    pub(crate) fn principal(&self) -> Result<Principal, VerbError> {
        match &self.asker {
            Some(name) => Ok(name.clone()),
            None => Ok(as_token(&std::env::var("USER").unwrap_or_default()).parse()?),
        }
    }
}

/// A text from outside as a token; `operator` when nothing is left of it.
pub(crate) fn as_token(user: &str) -> String {
    let fits = |c: char| if c.is_ascii_alphanumeric() || c == '_' || c == '-' { c } else { '-' };
    let token: String = user.chars().take(64).map(fits).collect();
    if token.is_empty() { "operator".to_owned() } else { token }
}

/// The time, as this machine has it.
pub(crate) fn now() -> Timestamp {
    bellwether_bus::Clock::new().now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_flags_of_a_verb_share_a_name() {
        use clap::{Args, Command, Subcommand};
        let mesh = || Mesh::augment_args(Command::new("bellwether"));
        crate::Verb::augment_subcommands(mesh()).debug_assert();
        crate::AckArgs::augment_args(mesh()).debug_assert();
        crate::RollbackVerb::augment_subcommands(mesh()).debug_assert();
    }

    #[test]
    fn any_user_name_becomes_a_principal() {
        for (user, expected) in
            [("ann", "ann"), ("", "operator"), ("DOMAIN\\Ann Lee", "DOMAIN-Ann-Lee"), ("a.b", "a-b")]
        {
            assert_eq!(as_token(user), expected);
            assert!(as_token(user).parse::<Principal>().is_ok());
        }
    }
}
