//! The agent's own file: what starts a rollout, and which plan it has.
//!
//! ```yaml
//! agent: { region: sjc, name: trigger-1, state_dir: /var/lib/bellwether, nats: { url: "nats://127.0.0.1:4222" } }
//! trigger:
//!   - name: from-ci
//!     service: shop
//!     plan: /etc/bellwether/shop.yaml      # read anew each time
//!     message: { subject: ci.deployed, release: $.image.tag, where: { $.env: production } }
//!   - name: by-hand
//!     service: shop
//!     plan: /etc/bellwether/shop.yaml
//!     lever: release                       # as agents read it back
//!     overrides: ["stages.canary.soak=1h"]
//!     shadow: true
//! ```

use std::collections::BTreeSet;
use std::path::PathBuf;

use bellwether_protocol::id::{LeverName, Service, TriggerName};
use bellwether_runtime::AgentConfig;
use serde::Deserialize;

use crate::message::Message;

/// The whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// What every agent has.
    pub(crate) agent: AgentConfig,
    /// What a trigger agent has.
    pub(crate) trigger: Vec<TriggerConfig>,
}

/// One trigger.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TriggerConfig {
    /// What its memory and its lines are known by.
    pub(crate) name: TriggerName,
    /// Whose rollouts it starts.
    pub(crate) service: Service,
    /// The plan file.
    pub(crate) plan: PathBuf,
    /// Fires when a message names a release.
    pub(crate) message: Option<Message>,
    /// Fires when this lever is read at a release that no rollout moved it to.
    pub(crate) lever: Option<LeverName>,
    /// Overrides of the plan.
    #[serde(default)]
    pub(crate) overrides: Vec<String>,
    /// Whether nothing is moved: it is only looked and decided.
    #[serde(default)]
    pub(crate) shadow: bool,
    /// Whether a rollout that is on is ended first.
    #[serde(default)]
    pub(crate) supersede: bool,
}

/// Most triggers of one agent: each has a task and a reader of its own.
const TRIGGERS_MAX: usize = 64;

impl Config {
    /// What could never work: of which trigger, and why.
    pub(crate) fn flaw(&self) -> Option<(String, String)> {
        let mut names = BTreeSet::new();
        let own = |trigger: &TriggerConfig| {
            let flaw = match (&trigger.message, &trigger.lever) {
                _ if !names.insert(trigger.name.clone()) => Some("another one has this name".to_owned()),
                (Some(message), None) => message.flaw(),
                (None, Some(_)) if trigger.supersede => {
                    Some("`supersede` needs `message`: while a rollout is on, a lever is only followed".to_owned())
                }
                (None, Some(_)) => None,
                _ => Some("it needs `message` or `lever`, and not both".to_owned()),
            };
            let shadow = trigger.shadow && trigger.supersede;
            let flaw = flaw.or_else(|| shadow.then(|| "a shadow moves nothing, so it takes nobody's place".to_owned()));
            flaw.map(|flaw| (trigger.name.to_string(), flaw))
        };
        let flaw = self.trigger.iter().find_map(own);
        let many = || format!("{} triggers, at most {TRIGGERS_MAX} fit into one agent", self.trigger.len());
        flaw.or_else(|| (self.trigger.len() > TRIGGERS_MAX).then(|| ("*".to_owned(), many())))
    }
}

#[cfg(test)]
mod tests {
    use bellwether_runtime::parse_config;

    use super::*;

    #[test]
    fn triggers_that_could_never_work_are_refused_by_name() {
        let head = "agent: { region: sjc, name: t, state_dir: x, nats: { url: x } }\ntrigger:\n";
        let check = |triggers: &[&str], word: &str| {
            let own = |own: &&str| format!("  - {{ name: one, service: shop, plan: p.yaml, {own} }}\n");
            let text = format!("{head}{}", triggers.iter().map(own).collect::<String>());
            let flaw = parse_config::<Config>("trigger.yaml", &text).unwrap().flaw();
            assert_eq!(flaw.is_none(), word.is_empty(), "{flaw:?}");
            assert!(flaw.is_none_or(|(name, why)| name == "one" && why.contains(word)), "no `{word}`");
        };
        check(&[], "");
        check(&["lever: release, shadow: true"], "");
        check(&["message: { subject: ci.> }, supersede: true"], "");
        check(&["shadow: true"], "needs `message` or `lever`");
        check(&["lever: release, message: { subject: ci }"], "not both");
        check(&["lever: release, supersede: true"], "only followed");
        check(&["message: { subject: ci }, supersede: true, shadow: true"], "takes nobody's place");
        check(&["message: { subject: ci. }"], "NATS subject");
        check(&["lever: release", "lever: stable"], "another one has this name");
    }
}
