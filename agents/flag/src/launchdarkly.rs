//! LaunchDarkly: one flag in one environment, by semantic patches.
//!
//! A share and the switch go in one patch, which is applied whole or not at all. A flag with rules,
//! targets or prerequisites serves users by more than its fallthrough says, so where it stands is not
//! known while it is on, and it can only be switched off.

use std::sync::atomic::{AtomicU64, Ordering};

use bellwether_protocol::id::{ActionId, LeverValue};
use bellwether_protocol::presence::Target;
use bellwether_runtime::web::{AccountError, Rest};
use bellwether_runtime::{Driver, DriverError, Reading};
use futures_util::future::BoxFuture;
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::account::Account;
use crate::exposure::Exposure;

/// Where LaunchDarkly itself is.
pub(crate) const SERVICE: &str = "https://app.launchdarkly.com";
/// What says that a patch is one of meaning, and not of JSON.
const SEMANTIC: &str = "application/json; domain-model=launchdarkly.semanticpatch";
/// A whole, in the unit of weights: thousandths of a percent.
const WHOLE: u32 = 100_000;

/// Which flag, as the agent's configuration says it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LaunchDarklyConfig {
    /// The API key, and where the API is if not at [`SERVICE`].
    pub(crate) account: Account,
    /// The project.
    pub(crate) project: String,
    /// The environment.
    pub(crate) environment: String,
    /// The flag.
    pub(crate) flag: String,
    /// The variation that `on` and a share serve, by its value. Default `true`.
    #[serde(default = "default_on")]
    pub(crate) on: Value,
    /// The variation that the others get, by its value. Default `false`.
    #[serde(default = "default_off")]
    pub(crate) off: Value,
}

fn default_on() -> Value {
    true.into()
}

fn default_off() -> Value {
    false.into()
}

/// A flag in LaunchDarkly.
#[derive(Debug)]
pub(crate) struct LaunchDarkly {
    rest: Rest,
    config: LaunchDarklyConfig,
    /// The newest version of the environment that was seen. An answer from before it is old.
    newest: AtomicU64,
}

#[derive(Debug, Deserialize)]
struct Shown {
    variations: Vec<Variation>,
    environments: serde_json::Map<String, Value>,
}

#[derive(Debug, Deserialize)]
struct Variation {
    #[serde(rename = "_id")]
    id: String,
    value: Value,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Environment {
    version: u64,
    on: bool,
    off_variation: Option<usize>,
    fallthrough: Fallthrough,
    #[serde(default)]
    targets: Vec<Value>,
    #[serde(default)]
    context_targets: Vec<Value>,
    #[serde(default)]
    rules: Vec<Value>,
    #[serde(default)]
    prerequisites: Vec<Value>,
}

#[derive(Debug, Deserialize)]
struct Fallthrough {
    variation: Option<usize>,
    rollout: Option<Rollout>,
}

#[derive(Debug, Deserialize)]
struct Rollout {
    variations: Vec<Weighted>,
}

#[derive(Debug, Deserialize)]
struct Weighted {
    variation: usize,
    weight: u64,
}

impl Environment {
    /// Whether the fallthrough is all that decides.
    fn is_plain(&self) -> bool {
        // A list of targets may be there and name nobody.
        let names = |target: &Value| target["values"].as_array().is_none_or(|values| !values.is_empty());
        let is_targeted = self.targets.iter().chain(&self.context_targets).any(names);
        !is_targeted && self.rules.is_empty() && self.prerequisites.is_empty()
    }

    /// Whom the flag serves `on`, and everybody else `off`; `None` when it is otherwise.
    fn exposure(&self, on: usize, off: usize) -> Option<Exposure> {
        let one = |variation: usize| match variation {
            _ if variation == on => Exposure::of(1, 1),
            _ if variation == off => Some(Exposure::OFF),
            _ => None,
        };
        match (&self.fallthrough, self.on) {
            (_, false) => one(self.off_variation?),
            (_, true) if !self.is_plain() => None,
            (Fallthrough { rollout: Some(rollout), .. }, true) => {
                let weight = |wanted: usize| -> u64 {
                    rollout.variations.iter().filter(|one| one.variation == wanted).map(|one| one.weight).sum()
                };
                let is_whole = weight(on).checked_add(weight(off)) == Some(WHOLE.into());
                is_whole.then(|| Exposure::of(weight(on), WHOLE.into()))?
            }
            (Fallthrough { variation, .. }, true) => one((*variation)?),
        }
    }
}

impl LaunchDarkly {
    /// A driver for the flag of `config`. Sends nothing.
    ///
    /// # Errors
    /// When LaunchDarkly cannot be spoken to, ever.
    pub(crate) fn new(config: &LaunchDarklyConfig) -> Result<Self, AccountError> {
        let rest = config.account.client("LaunchDarkly", Some(SERVICE))?;
        Ok(Self { rest, config: config.clone(), newest: AtomicU64::new(0) })
    }

    fn path(&self) -> [&str; 5] {
        ["api", "v2", "flags", &self.config.project, &self.config.flag]
    }

    /// The environment, and the places and ids of the two variations, `on` first.
    async fn look(&self) -> Result<(Environment, [(usize, String); 2]), DriverError> {
        let query = format!("env={}", self.config.environment);
        self.shown(self.rest.read(&self.path(), Some(&query)).await?)
    }

    fn shown(&self, answer: Value) -> Result<(Environment, [(usize, String); 2]), DriverError> {
        let LaunchDarklyConfig { environment, on, off, .. } = &self.config;
        let wrong = |e| DriverError::Retry(format!("LaunchDarkly did not show a flag: {e}"));
        let shown: Shown = serde_json::from_value(answer).map_err(wrong)?;
        let place = |value: &Value| {
            let found = shown.variations.iter().enumerate().find(|(_, one)| one.value == *value);
            let found = found.map(|(place, one)| (place, one.id.clone()));
            found.ok_or_else(|| DriverError::Refused(format!("the flag has no variation {value}")))
        };
        let variations = [place(on)?, place(off)?];
        let unknown = || DriverError::Refused(format!("the flag has no environment `{environment}`"));
        let shown = shown.environments.get(environment).cloned().ok_or_else(unknown)?;
        let shown: Environment = serde_json::from_value(shown).map_err(wrong)?;
        let newest = self.newest.fetch_max(shown.version, Ordering::Relaxed);
        let old = || DriverError::Retry(format!("version {} was shown after version {newest}", shown.version));
        if shown.version < newest { Err(old()) } else { Ok((shown, variations)) }
    }

    async fn patch(&self, action: &ActionId, instructions: Value) -> Result<(), DriverError> {
        let body = json!({
            "environmentKey": self.config.environment,
            "comment": format!("bellwether {action}"),
            "instructions": instructions,
        });
        let answer = self.rest.change(Method::PATCH, &self.path(), Some((SEMANTIC, body))).await?;
        // It was taken; what it shows only tells which answers are older.
        let _ = self.shown(answer);
        Ok(())
    }
}

impl Driver for LaunchDarkly {
    fn set<'a>(&'a self, to: &'a LeverValue, action: &'a ActionId) -> BoxFuture<'a, Result<String, DriverError>> {
        Box::pin(async move {
            let exposure = Exposure::read(to)?;
            if exposure == Exposure::OFF {
                // Without a look first: nothing may stand in the way of it.
                self.patch(action, json!([{ "kind": "turnFlagOff" }])).await?;
                return Ok("turned off".to_owned());
            }
            let weight = exposure.parts(WHOLE)?;
            let (seen, [(_, on), (_, off)]) = self.look().await?;
            if !seen.is_plain() {
                let why = "the flag is not widened: it has rules, targets or prerequisites";
                return Err(DriverError::Refused(why.to_owned()));
            }
            let mut serve = json!({ "kind": "updateFallthroughVariationOrRollout" });
            match weight {
                WHOLE => serve["variationId"] = on.into(),
                _ => serve["rolloutWeights"] = json!({ on: weight, off: WHOLE - weight }),
            }
            self.patch(action, json!([serve, { "kind": "turnFlagOn" }])).await?;
            Ok(format!("{weight} of {WHOLE}, turned on"))
        })
    }

    fn describe(&self) -> String {
        "sets a flag of LaunchDarkly".to_owned()
    }

    fn read_back(&self) -> BoxFuture<'_, Result<Reading, DriverError>> {
        Box::pin(async move {
            let (seen, [(on, _), (off, _)]) = self.look().await?;
            let value = seen.exposure(on, off).and_then(Exposure::value);
            let id = format!("{}/{}", self.config.project, self.config.environment);
            Ok(Reading::of(vec![Target { id, value }]))
        })
    }
}

#[cfg(test)]
mod tests;
