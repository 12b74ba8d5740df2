//! Render: environment variables of a service that are one flag together.
//!
//! Users see an environment variable only through a deploy that was begun after it was set. Render
//! tells no time of a change, so a further variable on the service, the *mark*, holds what was set
//! and which deploy was then the newest: any agent can tell from it, after any crash, whether what is
//! live is newer. Where there is no mark, no agent ever changed the flag, and what is live is taken
//! to have what is set.

use std::collections::BTreeMap;
use std::time::Duration;

use bellwether_protocol::id::{ActionId, LeverValue};
use bellwether_protocol::presence::Target;
use bellwether_render::{Account, Ask, Deploy, Id, Render, RenderError, live, pending};
use bellwether_runtime::web::AccountError;
use bellwether_runtime::{Driver, DriverError, Reading};
use futures_util::future::{BoxFuture, try_join_all};
use serde::Deserialize;
use tokio::time::Instant;

/// How long a deploy is waited for before the agent looks again: less than it gives a driver.
const WAIT_MAX: Duration = Duration::from_secs(90);
/// Environment variables of one lever.
const KEYS_MAX: usize = 16;

/// Which variables, as the agent's configuration says it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RenderConfig {
    /// How Render is reached.
    pub(crate) account: Account,
    /// The service.
    pub(crate) service: Id,
    /// The variables, all set to the same text.
    pub(crate) keys: Vec<Id>,
    /// What each value of the lever is written as, such as `on: "true"`.
    pub(crate) values: BTreeMap<LeverValue, String>,
    /// The variable that holds the mark.
    pub(crate) mark: Id,
}

/// Why a configured flag cannot work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RenderFlagError {
    /// Render cannot be reached.
    #[error(transparent)]
    Account(#[from] AccountError),
    /// No variable, too many, or one of them twice.
    #[error("`keys` must be 1 to {KEYS_MAX} variables, each once, and without `mark`")]
    Keys,
    /// Two values that are written the same could not be told apart.
    #[error("`values` must be one or more, each written differently")]
    Values,
}

/// A flag that is environment variables.
#[derive(Debug)]
pub(crate) struct RenderFlag {
    render: Render,
    config: RenderConfig,
}

/// What is set, and what may be live.
struct Seen {
    /// Each variable, in the order of the configuration.
    texts: Vec<Option<String>>,
    mark: Option<String>,
    deploys: Vec<Deploy>,
}

impl RenderFlag {
    /// A driver for the variables of `config`. Sends nothing.
    ///
    /// # Errors
    /// When it could never work.
    pub(crate) fn new(config: &RenderConfig) -> Result<Self, RenderFlagError> {
        let once = |count: usize, mut all: Vec<&str>| {
            all.sort_unstable();
            all.dedup();
            count > 0 && all.len() == count
        };
        let keys = config.keys.iter().chain([&config.mark]).map(Id::as_str).collect();
        if !(1..=KEYS_MAX).contains(&config.keys.len()) || !once(config.keys.len() + 1, keys) {
            return Err(RenderFlagError::Keys);
        }
        if !once(config.values.len(), config.values.values().map(String::as_str).collect()) {
            return Err(RenderFlagError::Values);
        }
        Ok(Self { render: Render::new(&config.account)?, config: config.clone() })
    }

    async fn look(&self) -> Result<Seen, RenderError> {
        let RenderConfig { service, keys, mark, .. } = &self.config;
        let texts = try_join_all(keys.iter().map(|key| self.render.env_var(service, key)));
        // The deploys last: a deploy that began after the variables were read is not newer than they are.
        let (texts, mark) = futures_util::try_join!(texts, self.render.env_var(service, mark))?;
        Ok(Seen { texts, mark, deploys: self.render.deploys(service).await? })
    }

    async fn mark(&self, text: &str, since: &str) -> Result<(), RenderError> {
        let RenderConfig { service, mark, .. } = &self.config;
        self.render.set_env_var(service, mark, &format!("{since} {text}")).await
    }

    /// Sets the variables, unless they and the mark are as they should be, and gives the deploy that
    /// what is to be live must be newer than.
    async fn write(&self, seen: &Seen, text: &str) -> Result<Option<Id>, RenderError> {
        let RenderConfig { service, keys, .. } = &self.config;
        let is_set = |own: &Option<String>| own.as_deref() == Some(text);
        if seen.texts.iter().all(is_set)
            && let Some(since) = seen.since(text)
        {
            return Ok(since);
        }
        // From here on nobody may take the old mark for this change's.
        self.mark(text, "?").await?;
        for (key, _) in keys.iter().zip(&seen.texts).filter(|(_, own)| !is_set(own)) {
            self.render.set_env_var(service, key, text).await?;
        }
        let newest = self.render.deploys(service).await?.first().map(|deploy| deploy.id.clone());
        self.mark(text, newest.as_ref().map_or("-", Id::as_str)).await?;
        Ok(newest)
    }

    async fn move_to(&self, text: &str) -> Result<String, DriverError> {
        let service = &self.config.service;
        let seen = self.look().await?;
        // What comes after the first change may leave part of it behind.
        let begun = |error: RenderError| match DriverError::from(error) {
            DriverError::Retry(said) => DriverError::Unknown(said),
            other => other,
        };
        let since = self.write(&seen, text).await.map_err(begun)?;
        let deploys = self.render.deploys(service).await.map_err(begun)?;
        if let Some(live) = live(newer(&deploys, since.as_ref())) {
            return Ok(format!("deploy {} is live", live.id));
        }
        // The code stays what it is, or is about to be.
        let release = pending(&deploys).chain(live(&deploys)).find_map(Deploy::release);
        let nothing =
            || DriverError::Refused(format!("the variables are set, and {service} has nothing live to deploy"));
        let release = release.ok_or_else(nothing)?;
        let asked = self.render.ask(service, &Ask::Deploy(&release), since.as_ref()).await.map_err(begun)?;
        let until = Instant::now() + WAIT_MAX;
        match self.render.wait_until_live(service, &asked.id, until).await {
            Ok(live) => Ok(format!("deploy {} is live", live.id)),
            // It was live, and another has come after it: looking again tells.
            Err(RenderError::Ended { deploy, status }) if status.was_live() => {
                Err(DriverError::Unknown(format!("deploy {deploy} was replaced")))
            }
            Err(error) => Err(begun(error)),
        }
    }
}

impl Seen {
    /// The deploy that was the newest when `text` was set: `Some(None)` when there was none, or when no
    /// agent ever set anything; `None` when it is not known.
    fn since(&self, text: &str) -> Option<Option<Id>> {
        let Some(mark) = &self.mark else { return Some(None) };
        match mark.split_once(' ')? {
            (_, own) if own != text => None,
            ("-", _) => Some(None),
            (since, _) => since.parse().ok().map(Some),
        }
    }

    /// The value that one variable has for users; `None` when that is not known.
    fn value(&self, text: Option<&str>, values: &BTreeMap<LeverValue, String>) -> Option<LeverValue> {
        let (value, text) = values.iter().find(|(_, own)| Some(own.as_str()) == text)?;
        let since = self.since(text)?;
        live(newer(&self.deploys, since.as_ref())).map(|_| value.clone())
    }
}

/// The deploys that are newer than `since`, of a list that is newest first.
fn newer<'a>(deploys: &'a [Deploy], since: Option<&Id>) -> &'a [Deploy] {
    let count = deploys.iter().take_while(|deploy| Some(&deploy.id) != since).count();
    deploys.get(..count).unwrap_or_default()
}

impl Driver for RenderFlag {
    fn set<'a>(&'a self, to: &'a LeverValue, _: &'a ActionId) -> BoxFuture<'a, Result<String, DriverError>> {
        Box::pin(async move {
            let unknown = || DriverError::Refused(format!("`{to}` is not a value that this agent may set"));
            self.move_to(self.config.values.get(to).ok_or_else(unknown)?).await
        })
    }

    fn describe(&self) -> String {
        "sets environment variables of Render, and deploys".to_owned()
    }

    fn read_back(&self) -> BoxFuture<'_, Result<Reading, DriverError>> {
        Box::pin(async move {
            let seen = self.look().await?;
            let target = |(key, text): (&Id, &Option<String>)| Target {
                id: format!("{}/{key}", self.config.service),
                value: seen.value(text.as_deref(), &self.config.values),
            };
            Ok(Reading::of(self.config.keys.iter().zip(&seen.texts).map(target).collect()))
        })
    }
}

#[cfg(test)]
mod tests;
