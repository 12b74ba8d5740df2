//! The Render driver: a lever whose value is the commit, or the image, that services of Render run.
//!
//! Render says yes before it has deployed, so what is true is read from the list of deploys: the live
//! one is where the lever stands, and one under way to somewhere else is told as a target of its own.
//! A release that was live before is rolled back to, which needs no build, while Render keeps what was
//! built; otherwise it is deployed. Render's rollback leaves auto-deploy on, and the next push would
//! bring the bad release back: it is switched off first where the configuration lets it, and the
//! lever is not moved where it does not.

use bellwether_protocol::id::{ActionId, LeverValue, Release};
use bellwether_protocol::presence::Target;
use bellwether_render::{Account, Ask, Deploy, Id, RenderError, live, pending};
use bellwether_runtime::web::{AccountError, RestError};
use bellwether_runtime::{Allowed, Driver, DriverError, Reading};
use futures_util::future::{BoxFuture, try_join_all};
use serde::Deserialize;

/// Services behind one lever.
const SERVICES_MAX: usize = 16;
/// Digits of a whole commit id; an abbreviated one would never be read back.
const COMMIT_LEN: usize = 40;

/// Which services of Render a lever moves, as the agent's configuration says it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RenderConfig {
    /// Who asks Render.
    pub(crate) account: Account,
    /// Services that run the same commit, such as a site and its worker.
    pub(crate) services: Vec<Id>,
    /// Whether auto-deploy may be switched off. Default no: with it on, the lever is not moved.
    #[serde(default)]
    pub(crate) may_switch_off_auto_deploy: bool,
    /// The only values that may be set.
    #[serde(default)]
    pub(crate) values: Option<Vec<LeverValue>>,
    /// A regular expression that the whole value must match to be set. Default: a whole commit id.
    #[serde(default)]
    pub(crate) pattern: Option<String>,
}

/// Why a configured lever cannot work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RenderConfigError {
    /// The account cannot be used.
    #[error("`account`: {0}")]
    Account(#[from] AccountError),
    /// Not a regular expression.
    #[error("`pattern` is not a regular expression")]
    Pattern(#[from] Box<regex::Error>),
    /// None, too many, or one twice.
    #[error("`services` must name 1 to 16 services, each once")]
    Services,
}

/// A lever that holds the release of services of Render.
#[derive(Debug)]
pub(crate) struct Render {
    client: bellwether_render::Render,
    services: Vec<Id>,
    may_switch_off: bool,
    allowed: Allowed,
}

impl Render {
    /// Checks a configuration and resolves its token.
    ///
    /// # Errors
    /// When the configuration could never work, or the token is missing.
    pub(crate) fn new(config: &RenderConfig) -> Result<Self, RenderConfigError> {
        let mut services = config.services.clone();
        services.sort();
        services.dedup();
        if services.len() != config.services.len() || !(1..=SERVICES_MAX).contains(&services.len()) {
            return Err(RenderConfigError::Services);
        }
        Ok(Self {
            client: bellwether_render::Render::new(&config.account)?,
            services,
            may_switch_off: config.may_switch_off_auto_deploy,
            allowed: Allowed::new(config.values.as_deref(), config.pattern.as_deref())?,
        })
    }

    fn allows(&self, to: &LeverValue) -> bool {
        // Any image could be named; only commits are the owner's own by themselves.
        let is_commit = to.as_str().len() == COMMIT_LEN && to.as_str().bytes().all(|b| b.is_ascii_hexdigit());
        self.allowed.allows(to) && (is_commit || !self.allowed.is_silent())
    }

    /// Sees to it that no push can undo what is about to be set. Nothing is moved when it cannot.
    async fn switch_off_auto_deploy(&self) -> Result<(), DriverError> {
        for service in &self.services {
            if !self.client.auto_deploy(service).await? {
                continue;
            }
            if !self.may_switch_off {
                let why = format!("{service} deploys every push by itself, and would bring the release back");
                return Err(DriverError::Refused(format!("{why}: allow `may_switch_off_auto_deploy`")));
            }
            self.client.set_auto_deploy(service, false).await?;
        }
        Ok(())
    }

    /// Has one service run `to`; says which deploy will see to it, or did.
    async fn bring(&self, service: &Id, to: &LeverValue) -> Result<String, RenderError> {
        let deploys = self.client.deploys(service).await?;
        // What goes somewhere else would be live in the end, whichever comes first.
        for other in pending(&deploys).filter(|deploy| !deploy.is_of(to)) {
            self.client.cancel(service, &other.id).await?;
        }
        let earlier = deploys.iter().find(|deploy| deploy.status.was_live() && deploy.is_of(to));
        let begun = match earlier {
            Some(earlier) => match self.client.ask(service, &Ask::Rollback(earlier), None).await {
                // What it built is not kept any more: it has to be built again.
                Err(RenderError::Rest(RestError::Refused { status: 400, .. })) => {
                    self.client.ask(service, &Ask::Deploy(to), None).await
                }
                asked => asked,
            },
            None => self.client.ask(service, &Ask::Deploy(to), None).await,
        }?;
        Ok(format!("{service}: {} {}", begun.id, begun.status))
    }
}

impl Driver for Render {
    fn set<'a>(&'a self, to: &'a LeverValue, _: &'a ActionId) -> BoxFuture<'a, Result<String, DriverError>> {
        Box::pin(async move {
            if !self.allows(to) {
                return Err(DriverError::Refused(format!("`{to}` is not a value that this agent may set")));
            }
            self.switch_off_auto_deploy().await?;
            let mut said: Vec<String> = Vec::new();
            for service in &self.services {
                match self.bring(service, to).await {
                    Ok(asked) => said.push(asked),
                    Err(error) if said.is_empty() => return Err(error.into()),
                    // A part of it did happen, whatever this one says.
                    Err(error) => return Err(DriverError::Unknown(format!("{}; {service}: {error}", said.join("; ")))),
                }
            }
            Ok(said.join("; "))
        })
    }

    fn describe(&self) -> String {
        let services: Vec<String> = self.services.iter().map(ToString::to_string).collect();
        format!("deploys to {} of Render, or rolls them back", services.join(", "))
    }

    fn read_back(&self) -> BoxFuture<'_, Result<Reading, DriverError>> {
        Box::pin(async move {
            let each = self
                .services
                .iter()
                .map(async |service| Ok::<_, RenderError>(targets(service, &self.client.deploys(service).await?)));
            Ok(Reading::of(try_join_all(each).await?.into_iter().flatten().collect()))
        })
    }

    fn history(&self) -> BoxFuture<'_, Result<Vec<Release>, DriverError>> {
        Box::pin(async move {
            let all = try_join_all(self.services.iter().map(|service| self.client.deploys(service))).await?;
            let mut held = all.iter().map(|deploys| held(deploys));
            let first = held.next().unwrap_or_default();
            let others: Vec<Vec<Release>> = held.collect();
            // One can only go back to what every service has run.
            Ok(first.into_iter().filter(|release| others.iter().all(|other| other.contains(release))).collect())
        })
    }
}

/// Whether Render deploys every push by itself: a lever that is only read, so that a change is seen.
#[derive(Debug)]
pub(crate) struct AutoDeploy(Render);

impl AutoDeploy {
    /// Checks a configuration and resolves its token.
    ///
    /// # Errors
    /// As [`Render::new`].
    pub(crate) fn new(config: &RenderConfig) -> Result<Self, RenderConfigError> {
        Render::new(config).map(Self)
    }
}

impl Driver for AutoDeploy {
    fn set<'a>(&'a self, _: &'a LeverValue, _: &'a ActionId) -> BoxFuture<'a, Result<String, DriverError>> {
        Box::pin(async { Err(DriverError::Refused("this lever is only read".to_owned())) })
    }

    fn describe(&self) -> String {
        "nothing: it is only read".to_owned()
    }

    fn read_back(&self) -> BoxFuture<'_, Result<Reading, DriverError>> {
        Box::pin(async move {
            let each = self.0.services.iter().map(async |service| {
                let word = if self.0.client.auto_deploy(service).await? { "yes" } else { "no" };
                Ok::<_, RenderError>(Target { id: service.to_string(), value: word.parse().ok() })
            });
            Ok(Reading::of(try_join_all(each).await?))
        })
    }
}

/// The service as it is, and each deploy that would make it something else: that one is nowhere yet.
fn targets(service: &Id, deploys: &[Deploy]) -> Vec<Target> {
    let now = live(deploys).and_then(Deploy::release);
    let moving = pending(deploys).filter(|deploy| deploy.release() != now).map(|deploy| {
        let release = deploy.release().map(|release| format!(" {release}")).unwrap_or_default();
        Target { id: format!("{service}/{}{release} {}", deploy.id, deploy.status), value: None }
    });
    [Target { id: service.to_string(), value: now.clone() }].into_iter().chain(moving).collect()
}

/// The releases that were live, newest first, each where it was last.
fn held(deploys: &[Deploy]) -> Vec<Release> {
    let mut held: Vec<Release> = Vec::new();
    for deploy in deploys.iter().filter(|deploy| deploy.status.was_live()) {
        let release = deploy.release().and_then(|value| value.as_str().parse().ok());
        held.extend(release.filter(|release| !held.contains(release)));
    }
    held
}

#[cfg(test)]
mod tests;
