//! The agent's file: who it is, which bridges it serves, and who is told of what.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use bellwether_protocol::alert::Severity;
use bellwether_protocol::id::{AgentName, Service};
use bellwether_protocol::time::Span;
use bellwether_runtime::{AgentConfig, SecretRef};
use serde::Deserialize;

use crate::route::Route;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    pub(crate) agent: AgentConfig,
    pub(crate) alert: AlertConfig,
}

/// Which bridges the agent serves, and who is told of what.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AlertConfig {
    /// Whether alerts are written to standard output. Default true.
    #[serde(default = "yes")]
    pub(crate) console: bool,
    /// Bridges by name. The name keeps what is under way: renamed, a bridge begins anew.
    #[serde(default)]
    pub(crate) bridges: BTreeMap<AgentName, BridgeConfig>,
    /// Services whose rollouts are shown as deployments on GitHub.
    #[serde(default)]
    pub(crate) github: BTreeMap<Service, GithubConfig>,
    /// Who is told of what; every route that matches counts. Without any, every bridge tells what
    /// asks at least `warn`.
    #[serde(default)]
    pub(crate) routes: Vec<Route>,
    /// Where people can read more, with `{service}`, `{rollout}` and `{incident}` in it. Default: nowhere.
    #[serde(default)]
    pub(crate) link: String,
    /// Whether this agent pages by itself when no coordinator is there. Default true.
    #[serde(default = "yes")]
    pub(crate) pages_when_silent: bool,
}

/// One bridge.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum BridgeConfig {
    /// Prometheus Alertmanager, API v2.
    Alertmanager(AlertmanagerConfig),
    /// E-mail through a relay.
    Email(EmailConfig),
    /// PagerDuty Events v2.
    Pagerduty(PagerdutyConfig),
    /// Slack as an app: one thread per incident.
    Slack(SlackConfig),
    /// A Slack incoming webhook: one message per beginning and end.
    SlackWebhook(SlackWebhookConfig),
    /// A receiver of [Standard Webhooks](https://www.standardwebhooks.com).
    Webhook(WebhookConfig),
}

impl BridgeConfig {
    /// What kind it is, in the file's word.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::Alertmanager(_) => "alertmanager",
            Self::Email(_) => "email",
            Self::Pagerduty(_) => "pagerduty",
            Self::Slack(_) => "slack",
            Self::SlackWebhook(_) => "slack_webhook",
            Self::Webhook(_) => "webhook",
        }
    }
}

/// An Alertmanager.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AlertmanagerConfig {
    /// Its address, such as `http://alertmanager:9093`.
    pub(crate) url: String,
    /// How often a firing alert is posted again; it ends by itself after four times as long. Default 1m.
    #[serde(default = "minute")]
    pub(crate) resend_every: Span,
    /// How the bridge signs in. Default: not at all.
    #[serde(default)]
    pub(crate) auth: Option<AuthConfig>,
}

/// How one signs in over HTTP.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum AuthConfig {
    /// With a name and a password.
    Basic { user: String, password: SecretRef },
    /// With a token.
    Bearer(SecretRef),
}

/// A mail relay, and who gets mail.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct EmailConfig {
    /// The relay's host.
    pub(crate) relay: String,
    /// Its port. Default: 587, 465 or 25 for `starttls`, `tls` and `none`.
    #[serde(default)]
    pub(crate) port: Option<u16>,
    /// How the way there is protected. Default `starttls`.
    #[serde(default)]
    pub(crate) security: MailSecurity,
    /// A PEM file with certificates to trust besides those that browsers trust.
    #[serde(default)]
    pub(crate) ca: Option<PathBuf>,
    /// Who signs in. Default: nobody.
    #[serde(default)]
    pub(crate) user: Option<String>,
    /// With what.
    #[serde(default)]
    pub(crate) password: Option<SecretRef>,
    /// The sender, such as `Bellwether <bellwether@example.com>`.
    pub(crate) from: String,
    /// The recipients.
    pub(crate) to: Vec<String>,
}

/// How the way to a mail relay is protected.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum MailSecurity {
    /// Not at all; no password is sent.
    None,
    /// In the open until the relay agrees to TLS, which it must.
    #[default]
    Starttls,
    /// TLS from the start.
    Tls,
}

/// A repository on GitHub that shows a service's rollouts.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct GithubConfig {
    /// `OWNER/NAME`.
    pub(crate) repository: String,
    /// Where a token is that may write the repository's deployments.
    pub(crate) token: SecretRef,
    /// The branch, tag or commit that is deployed. Default `{release}`: the release is one of them.
    #[serde(default = "release", rename = "ref")]
    pub(crate) reference: String,
    /// What GitHub calls the place. Default `production`.
    #[serde(default = "production")]
    pub(crate) environment: String,
    /// Where the service is. Default: nowhere.
    #[serde(default)]
    pub(crate) environment_url: String,
    /// The REST API. Default `https://api.github.com`.
    #[serde(default = "github")]
    pub(crate) url: String,
}

/// A PagerDuty service.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PagerdutyConfig {
    /// Where its integration key is.
    pub(crate) routing_key: SecretRef,
    /// The events API. Default `https://events.pagerduty.com`; in the EU `https://events.eu.pagerduty.com`.
    #[serde(default = "pagerduty")]
    pub(crate) url: String,
}

/// A Slack app and a channel.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SlackConfig {
    /// Where the bot's token `xoxb-…` is. Scopes: `chat:write`, and `channels:history` (`groups:history`
    /// for a private channel) to find a root again whose answer was lost.
    pub(crate) token: SecretRef,
    /// The channel's id, such as `C0123456789`. The app must be a member of it.
    pub(crate) channel: String,
    /// The Web API. Default `https://slack.com/api`.
    #[serde(default = "slack")]
    pub(crate) url: String,
}

/// A Slack incoming webhook.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SlackWebhookConfig {
    /// Where its address is, which is a secret.
    pub(crate) url: SecretRef,
}

/// One receiver of [Standard Webhooks](https://www.standardwebhooks.com).
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WebhookConfig {
    /// Its final address. Redirects are not followed.
    pub(crate) url: String,
    /// Where the signing secret `whsec_…` is: `env:NAME` or `file:PATH`.
    pub(crate) secret: SecretRef,
}

/// What the console is called among the bridges.
pub(crate) const CONSOLE: &str = "console";
/// Most bridges of one agent; each has a queue and a task.
const BRIDGES_MAX: usize = 32;
/// Most routes of one agent.
const ROUTES_MAX: usize = 100;
/// Least time between two reminders, or before an escalation.
const PATIENCE_MIN: Span = Span::from_secs(1);

/// What is wrong with an agent's file, beyond its shape.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigFlaw {
    /// `link` leads nowhere.
    #[error("`alert.link`: {0}")]
    Link(String),
    /// Nobody would be told.
    #[error("`alert` has no bridge: set `console: true` or add one to `bridges`")]
    NoBridge,
    /// A route leads nowhere.
    #[error("`alert.routes[{route}]` tells `{name}`, which is none of `alert.bridges`: {known}")]
    NoSuchBridge {
        /// Which, from 0.
        route: usize,
        /// What it says.
        name: String,
        /// What there is.
        known: String,
    },
    /// The name of the console.
    #[error("`alert.bridges` has a `{CONSOLE}`, which is the name of standard output: choose another")]
    Reserved,
    /// More than the agent serves.
    #[error("`alert.{what}` has {count} entries; at most {max} are served")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many there are.
        count: usize,
        /// How many there may be.
        max: usize,
    },
    /// People would be told without end.
    #[error("`alert.routes[{0}]`: `remind_every` and `escalate.after` are at least {PATIENCE_MIN}")]
    TooOften(usize),
    /// A bridge that no route leads to.
    #[error("no route leads to the bridge `{0}`: add it to `to` of one of `alert.routes`, or drop it")]
    Unused(String),
}

/// A bridge that cannot be served as its entry says.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("`alert.{key}`: {why}")]
pub struct BridgeFlaw {
    /// Where the entry is, such as `bridges.releases`.
    pub key: String,
    /// What is wrong; holds no secret.
    pub why: String,
}

impl AlertConfig {
    pub(crate) fn check(&self) -> Result<(), ConfigFlaw> {
        if !self.console && self.bridges.is_empty() && self.github.is_empty() {
            return Err(ConfigFlaw::NoBridge);
        }
        if !self.link.is_empty() {
            crate::http::parse(&self.link).map_err(ConfigFlaw::Link)?;
        }
        for (what, count, max) in [
            ("bridges", self.bridges.len(), BRIDGES_MAX),
            ("github", self.github.len(), BRIDGES_MAX),
            ("routes", self.routes.len(), ROUTES_MAX),
        ] {
            if count > max {
                return Err(ConfigFlaw::TooMany { what, count, max });
            }
        }
        let known: BTreeSet<&str> = self.bridges.keys().map(AgentName::as_str).collect();
        if known.contains(CONSOLE) {
            return Err(ConfigFlaw::Reserved);
        }
        let mut unused = known.clone();
        for (route, found) in self.routes.iter().enumerate() {
            for name in found.to.iter().chain(found.escalate.iter().flat_map(|escalation| &escalation.to)) {
                unused.remove(name.as_str());
                if !known.contains(name.as_str()) {
                    let known = known.iter().copied().collect::<Vec<_>>().join(", ");
                    return Err(ConfigFlaw::NoSuchBridge { route, name: name.clone(), known });
                }
            }
            let spans = [found.remind_every, found.escalate.as_ref().map(|escalation| escalation.after)];
            if spans.into_iter().flatten().any(|span| span < PATIENCE_MIN) {
                return Err(ConfigFlaw::TooOften(route));
            }
        }
        match unused.first() {
            Some(name) if !self.routes.is_empty() => Err(ConfigFlaw::Unused((*name).to_owned())),
            _ => Ok(()),
        }
    }

    /// The routes, or the one that stands for none.
    pub(crate) fn routes(&self) -> Vec<Route> {
        if !self.routes.is_empty() {
            return self.routes.clone();
        }
        let to = self.bridges.keys().map(ToString::to_string).collect();
        let (services, stages, tell) = (Vec::new(), Vec::new(), Vec::new());
        let (quiet, remind_every, escalate) = (None, None, None);
        vec![Route { severity: Severity::Warn, services, stages, tell, to, quiet, remind_every, escalate }]
    }
}

fn yes() -> bool {
    true
}

fn minute() -> Span {
    Span::from_secs(60)
}

fn github() -> String {
    "https://api.github.com".to_owned()
}

fn pagerduty() -> String {
    "https://events.pagerduty.com".to_owned()
}

fn production() -> String {
    "production".to_owned()
}

fn release() -> String {
    "{release}".to_owned()
}

fn slack() -> String {
    "https://slack.com/api".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_would_tell_nobody_is_refused() {
        let check = |yaml: &str, word: &str| {
            let config: AlertConfig = bellwether_runtime::parse_config("alert.yaml", yaml).unwrap();
            let said = config.check().err().map(|flaw| flaw.to_string()).unwrap_or_default();
            assert!(said.contains(word) && said.is_empty() == word.is_empty(), "{yaml}: {said}");
        };
        let hooks =
            "bridges: { a: { webhook: { url: u, secret: \"env:A\" } }, b: { webhook: { url: u, secret: \"env:A\" } } }";
        check("console: false", "no bridge");
        check("console: true", "");
        check(&hooks.replace("a:", "console:"), "the name of standard output");
        check("link: x", "`alert.link`");
        check(hooks, "");
        check(&format!("{hooks}\nroutes: [{{ to: [a, c] }}]"), "`c`, which is none of `alert.bridges`: a, b");
        check(&format!("{hooks}\nroutes: [{{ to: [a] }}]"), "no route leads to the bridge `b`");
        check(&format!("{hooks}\nroutes: [{{ to: [a], escalate: {{ after: 15m, to: [b] }} }}]"), "");
        check(&format!("{hooks}\nroutes: [{{ to: [a, b], remind_every: 1ms }}]"), "at least 1s");
    }
}
