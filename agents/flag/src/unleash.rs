//! Unleash: one feature in one environment, by the admin API.
//!
//! An environment that is switched on without a strategy serves everybody, and strategies add up. So
//! the share is set before the switch, there is never a second strategy, and a feature whose
//! strategies are not the one that this driver knows is not widened: it can only be switched off.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use bellwether_protocol::id::{ActionId, LeverValue};
use bellwether_protocol::presence::Target;
use bellwether_runtime::web::{AccountError, Rest, RestError};
use bellwether_runtime::{Driver, DriverError, Reading};
use futures_util::future::BoxFuture;
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::account::Account;
use crate::exposure::Exposure;

/// The one strategy that a share is set with.
const STRATEGY: &str = "flexibleRollout";
/// A rollout is in whole percent; Unleash takes any other number without a word.
const WHOLE: u32 = 100;

/// Which feature, as the agent's configuration says it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct UnleashConfig {
    /// The server and an admin token.
    pub(crate) account: Account,
    /// The project. Default `default`.
    #[serde(default = "default_word")]
    pub(crate) project: String,
    /// The environment.
    pub(crate) environment: String,
    /// The feature.
    pub(crate) feature: String,
    /// What a user is recognised by, in a strategy that this driver adds. Default `default`.
    #[serde(default = "default_word")]
    pub(crate) stickiness: String,
}

fn default_word() -> String {
    "default".to_owned()
}

/// A feature in Unleash.
#[derive(Debug)]
pub(crate) struct Unleash {
    rest: Rest,
    config: UnleashConfig,
    /// Since when a strategy may come that was asked for without an answer.
    may_come: Mutex<Option<Instant>>,
}

/// A feature in one environment, as Unleash shows it.
#[derive(Debug, Deserialize)]
struct Environment {
    enabled: bool,
    #[serde(default)]
    strategies: Vec<Strategy>,
}

#[derive(Debug, Deserialize)]
struct Strategy {
    id: String,
    name: String,
    #[serde(default)]
    disabled: bool,
    #[serde(default)]
    constraints: Vec<Value>,
    #[serde(default)]
    segments: Vec<Value>,
    #[serde(default)]
    variants: Vec<Value>,
    #[serde(default)]
    parameters: Value,
}

impl Strategy {
    /// Whom it serves; `None` for one that picks users by more than a share.
    fn exposure(&self) -> Option<Exposure> {
        let is_plain = self.constraints.is_empty() && self.segments.is_empty() && self.variants.is_empty();
        let rollout = self.parameters.get("rollout").and_then(|rollout| match rollout {
            Value::String(text) => text.parse().ok(),
            other => other.as_u64(),
        });
        (self.name == STRATEGY && !self.disabled && is_plain).then(|| Exposure::of(rollout?, WHOLE.into()))?
    }
}

impl Environment {
    fn exposure(&self) -> Option<Exposure> {
        if self.enabled { self.once_enabled() } else { Some(Exposure::OFF) }
    }

    fn once_enabled(&self) -> Option<Exposure> {
        match self.strategies.as_slice() {
            [one] => one.exposure(),
            _ => None,
        }
    }
}

impl Unleash {
    /// A driver for the feature of `config`. Sends nothing.
    ///
    /// # Errors
    /// When the server cannot be spoken to, ever.
    pub(crate) fn new(config: &UnleashConfig) -> Result<Self, AccountError> {
        Ok(Self { rest: config.account.client("Unleash", None)?, config: config.clone(), may_come: Mutex::default() })
    }

    fn path<'a>(&'a self, rest: &[&'a str]) -> Vec<&'a str> {
        let UnleashConfig { project, environment, feature, .. } = &self.config;
        let place = ["api", "admin", "projects", project, "features", feature, "environments", environment];
        [place.as_slice(), rest].concat()
    }

    async fn look(&self) -> Result<Environment, DriverError> {
        let shown = self.rest.read(&self.path(&[]), None).await?;
        serde_json::from_value(shown).map_err(|e| DriverError::Retry(format!("Unleash did not show a feature: {e}")))
    }

    async fn switch(&self, to: &str) -> Result<(), DriverError> {
        self.rest.change(Method::POST, &self.path(&[to]), None).await?;
        Ok(())
    }

    /// Brings the one strategy to `rollout` percent; tells what was done.
    async fn roll_out(&self, seen: &Environment, rollout: u32) -> Result<&'static str, DriverError> {
        match seen.strategies.as_slice() {
            [] => self.add(rollout).await.map(|()| "added the strategy"),
            [one] if one.exposure().is_some_and(|exposure| exposure.parts(WHOLE) == Ok(rollout)) => {
                Ok("kept the strategy")
            }
            [one] if one.exposure().is_some() => {
                let change = json!([{ "op": "replace", "path": "/parameters/rollout", "value": rollout.to_string() }]);
                let body = Some(("application/json", change));
                self.rest.change(Method::PATCH, &self.path(&["strategies", &one.id]), body).await?;
                Ok("changed the strategy")
            }
            [_] => Err(refused("its strategy picks users by more than a share")),
            _ => Err(refused("it has several strategies, which add up")),
        }
    }

    async fn add(&self, rollout: u32) -> Result<(), DriverError> {
        let may_come = || self.may_come.lock().unwrap_or_else(PoisonError::into_inner);
        // A call that was given up may still take effect.
        if may_come().is_some_and(|since| since.elapsed() < self.rest.timeout() * 3 / 2) {
            return Err(DriverError::Retry("a strategy was asked for, and may still come".to_owned()));
        }
        let UnleashConfig { feature, stickiness, .. } = &self.config;
        let parameters = json!({ "rollout": rollout.to_string(), "stickiness": stickiness, "groupId": feature });
        let body = json!({ "name": STRATEGY, "parameters": parameters, "constraints": [] });
        // Before the call: it may be given up at any moment.
        *may_come() = Some(Instant::now());
        let added = self.rest.change(Method::POST, &self.path(&["strategies"]), Some(("application/json", body))).await;
        if !matches!(added, Ok(_) | Err(RestError::Unknown(_))) {
            *may_come() = None;
        }
        added?;
        Ok(())
    }
}

impl Driver for Unleash {
    fn set<'a>(&'a self, to: &'a LeverValue, _: &'a ActionId) -> BoxFuture<'a, Result<String, DriverError>> {
        Box::pin(async move {
            let exposure = Exposure::read(to)?;
            if exposure == Exposure::OFF {
                // Whatever the strategies are: nobody gets it.
                return self.switch("off").await.map(|()| "switched off".to_owned());
            }
            let rollout = exposure.parts(WHOLE)?;
            let seen = self.look().await?;
            let done = self.roll_out(&seen, rollout).await?;
            if !seen.enabled {
                if self.look().await?.once_enabled() != Some(exposure) {
                    return Err(DriverError::Retry(format!("{done}, and it is not seen yet; not switched on")));
                }
                self.switch("on").await?;
            }
            Ok(format!("{done}; rollout {rollout} %, switched on"))
        })
    }

    fn describe(&self) -> String {
        "sets a flag of Unleash".to_owned()
    }

    fn read_back(&self) -> BoxFuture<'_, Result<Reading, DriverError>> {
        Box::pin(async move {
            let value = self.look().await?.exposure().and_then(Exposure::value);
            let id = format!("{}/{}", self.config.project, self.config.environment);
            Ok(Reading::of(vec![Target { id, value }]))
        })
    }
}

fn refused(why: &str) -> DriverError {
    DriverError::Refused(format!("the feature is not widened: {why}"))
}

#[cfg(test)]
mod tests;
