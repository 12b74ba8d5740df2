//! The file of one flag agent: which flags it serves itself, and which it flips elsewhere.

use std::collections::BTreeMap;
use std::error::Error;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use bellwether_protocol::id::{ActionId, AgentId, LeverName, LeverValue, Release, Service};
use bellwether_runtime::{AgentConfig, Driver, DriverError, Exec, ExecConfig, Lever, Reading, SecretRef};
use futures_util::future::BoxFuture;
use serde::Deserialize;

use crate::evaluate::Flag;
use crate::flagd::{Flagd, FlagdConfig};
use crate::launchdarkly::{LaunchDarkly, LaunchDarklyConfig};
use crate::render::{RenderConfig, RenderFlag};
use crate::unleash::{Unleash, UnleashConfig};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    pub(crate) agent: AgentConfig,
    pub(crate) flag: FlagConfig,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FlagConfig {
    pub(crate) service: Service,
    /// Where `flags` are served.
    pub(crate) listen: Option<SocketAddr>,
    /// Where the bound address is written, for a port that the system chose.
    pub(crate) address_file: Option<PathBuf>,
    /// What clients must send.
    pub(crate) auth: Option<SecretRef>,
    /// Endpoints without which a flag is never applied.
    #[serde(default)]
    pub(crate) endpoints: Vec<AgentId>,
    /// Flags of the built-in store.
    #[serde(default)]
    flags: Vec<Flag>,
    /// Flags that are kept elsewhere.
    #[serde(default)]
    levers: Vec<LeverConfig>,
}

/// A flag that is kept elsewhere: one of the keys after `values`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct LeverConfig {
    name: LeverName,
    /// The only values that it may be set to.
    values: Option<Vec<LeverValue>>,
    exec: Option<ExecConfig>,
    flagd: Option<FlagdConfig>,
    launchdarkly: Option<LaunchDarklyConfig>,
    render: Option<RenderConfig>,
    unleash: Option<UnleashConfig>,
}

/// Why a configuration could never work.
#[derive(Debug, thiserror::Error)]
pub enum FlagConfigError {
    /// A driver that cannot work.
    #[error("lever `{0}` is not configured right")]
    Driver(LeverName, #[source] Box<dyn Error + Send + Sync>),
    /// Two flags with one name.
    #[error("flag `{0}` is configured twice")]
    Duplicate(LeverName),
    /// No flag at all.
    #[error("`flag.flags` and `flag.levers` are both empty, so there would be nothing to do")]
    NoFlag,
    /// Flags without an endpoint.
    #[error("`flag.flags` needs `flag.listen`, so that somebody can read them")]
    NoListen,
    /// A lever that nothing moves, or that two things move.
    #[error("lever `{0}` needs exactly one of `exec`, `flagd`, `launchdarkly`, `render` and `unleash`")]
    OneDriver(LeverName),
}

impl FlagConfig {
    /// The flags of the built-in store, and the levers of all others.
    pub(crate) fn read(&self) -> Result<(BTreeMap<LeverName, Flag>, Vec<Lever>), FlagConfigError> {
        let mut flags = BTreeMap::new();
        for flag in &self.flags {
            if flags.insert(flag.name.clone(), flag.clone()).is_some() {
                return Err(FlagConfigError::Duplicate(flag.name.clone()));
            }
        }
        let mut levers: Vec<Lever> = Vec::new();
        for config in &self.levers {
            let name = config.name.clone();
            if flags.contains_key(&name) || levers.iter().any(|lever| lever.name == name) {
                return Err(FlagConfigError::Duplicate(name));
            }
            levers.push(Lever { service: self.service.clone(), name, driver: config.driver()? });
        }
        match (flags.is_empty(), levers.is_empty(), self.listen) {
            (true, true, _) => Err(FlagConfigError::NoFlag),
            (false, _, None) => Err(FlagConfigError::NoListen),
            _ => Ok((flags, levers)),
        }
    }
}

impl LeverConfig {
    fn driver(&self) -> Result<Arc<dyn Driver>, FlagConfigError> {
        fn made<D: Driver + 'static, E: Error + Send + Sync + 'static>(
            driver: Result<D, E>,
        ) -> Result<Arc<dyn Driver>, Box<dyn Error + Send + Sync>> {
            driver.map(|driver| Arc::new(driver) as Arc<dyn Driver>).map_err(Into::into)
        }
        let Self { name, values, exec, flagd, launchdarkly, render, unleash } = self;
        let all = [
            exec.as_ref().map(|config| made(Exec::new(config))),
            flagd.as_ref().map(|config| made(Ok::<_, std::convert::Infallible>(Flagd::new(config)))),
            launchdarkly.as_ref().map(|config| made(LaunchDarkly::new(config))),
            render.as_ref().map(|config| made(RenderFlag::new(config))),
            unleash.as_ref().map(|config| made(Unleash::new(config))),
        ];
        let mut given = all.into_iter().flatten();
        let (Some(driver), None) = (given.next(), given.next()) else {
            return Err(FlagConfigError::OneDriver(name.clone()));
        };
        let driver = driver.map_err(|e| FlagConfigError::Driver(name.clone(), e))?;
        Ok(match values {
            Some(values) => Arc::new(Allowed { driver, values: values.clone() }),
            None => driver,
        })
    }
}

/// A driver that takes only some values.
struct Allowed {
    driver: Arc<dyn Driver>,
    values: Vec<LeverValue>,
}

impl Driver for Allowed {
    fn set<'a>(&'a self, to: &'a LeverValue, action: &'a ActionId) -> BoxFuture<'a, Result<String, DriverError>> {
        if self.values.contains(to) {
            return self.driver.set(to, action);
        }
        let said = format!("`{to}` is not a value that this agent may set");
        Box::pin(async { Err(DriverError::Refused(said)) })
    }

    fn describe(&self) -> String {
        self.driver.describe()
    }

    fn read_back(&self) -> BoxFuture<'_, Result<Reading, DriverError>> {
        self.driver.read_back()
    }

    fn history(&self) -> BoxFuture<'_, Result<Vec<Release>, DriverError>> {
        self.driver.history()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "
agent: { region: east, name: flag-1, nats: { url: 'nats://127.0.0.1:4222' }, state_dir: ./state }
flag:
  service: shop
  listen: 127.0.0.1:0
  flags:
    - { name: new_checkout, variants: { on: true, off: false }, default: off }
  levers:
    - { name: banner, values: ['off', '10%'], flagd: { file: flags.json, flag: banner } }
";

    fn read(text: &str) -> Result<Vec<Lever>, String> {
        let config = bellwether_runtime::parse_config::<Config>("flag.yaml", text).map_err(|e| e.to_string())?;
        let chain = |e: FlagConfigError| format!("{e}: {}", e.source().map(ToString::to_string).unwrap_or_default());
        config.flag.read().map(|(_, levers)| levers).map_err(chain)
    }

    #[test]
    fn a_configuration_names_its_flaw() {
        assert!(read(TEXT).is_ok());
        let flagd = "flagd: { file: flags.json, flag: banner }";
        for (old, new, expected) in [
            ("default: off", "default: no", "the default `no` is not one of its variants"),
            ("service: shop", "service: a shop", "flag.yaml:4:"),
            ("name: banner", "name: new_checkout", "flag `new_checkout` is configured twice"),
            ("  listen: 127.0.0.1:0\n", "", "needs `flag.listen`"),
            (flagd, "", "needs exactly one of"),
            (flagd, &format!("{flagd}, exec: {{ set: [a, '{{value}}'], read_back: [b] }}"), "exactly one of"),
            (flagd, "exec: { set: [a], read_back: [b] }", "`{value}` is missing"),
            (
                flagd,
                "launchdarkly: { account: { token: s3cr3t }, project: a, environment: b, flag: c }",
                "never in the file itself",
            ),
            (
                flagd,
                "unleash: { account: { url: 'http://far.example', token: 'env:PATH' }, environment: a, feature: b }",
                "not an https address",
            ),
            (
                flagd,
                "render: { account: { token: 'env:PATH' }, service: srv-1, keys: [A, A], values: { on: x }, mark: M }",
                "each once",
            ),
            (
                flagd,
                "render: { account: { token: 'env:PATH' }, service: s, keys: [A], values: { on: x, off: x }, mark: M }",
                "each written differently",
            ),
        ] {
            assert!(TEXT.contains(old), "{old}");
            let said = read(&TEXT.replace(old, new)).expect_err(new);
            assert!(said.contains(expected), "{said} instead of {expected}");
        }
        let none = TEXT.split("  flags:").next().unwrap_or_default();
        assert!(read(none).expect_err("nothing").contains("nothing to do"));
    }

    #[tokio::test]
    async fn only_listed_values_reach_a_driver() {
        let levers = read(TEXT).expect("levers");
        let action = "shop/1/1/0".parse().expect("an action");
        let said = levers[0].driver.set(&"on".parse().expect("a value"), &action).await;
        assert_eq!(said, Err(DriverError::Refused("`on` is not a value that this agent may set".to_owned())));
        let said = levers[0].driver.set(&"10%".parse().expect("a value"), &action).await;
        assert!(matches!(&said, Err(DriverError::Refused(why)) if why.contains("flags.json")), "{said:?}");
    }
}
