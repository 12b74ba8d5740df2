//! A client of the [Render API](https://api-docs.render.com): environment variables and deploys of a service.
//!
//! It decides nothing and repeats nothing by itself, except that [`Render::ask`] looks before it asks.
//! An error says whether the call may have worked. Words that Render may add later are kept, not
//! refused. Render takes a deploy before it has made it: what is true is read with
//! [`Render::deploys`], never from the answer to [`Render::ask`].

mod deploy;

use std::time::Duration;

use bellwether_protocol::id::LeverValue;
use bellwether_protocol::time::Span;
use bellwether_runtime::web::{AccountError, Rest, RestError};
use bellwether_runtime::{DriverError, SecretRef};
use reqwest::Method;
use secrecy::ExposeSecret;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::Instant;

pub use deploy::{Deploy, Id, Status, live, pending};

/// Deploys that are listed: the live one and what came before it, with room for failed ones.
const DEPLOYS_MAX: usize = 50;
/// How often a deploy that was accepted without a word is looked for before that is called unknown.
const FIND_TRIES: u32 = 5;

/// Whose services, and how the API is reached.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Account {
    /// The API key.
    pub token: SecretRef,
    /// Where the API is. Default `https://api.render.com/v1`.
    #[serde(default = "api")]
    pub api: String,
    /// How long one call may take. Default 10 s.
    #[serde(default = "timeout")]
    pub timeout: Span,
    /// How often a deploy that is waited for is looked at. Default 2 s; Render takes 400 calls a minute.
    #[serde(default = "poll_every")]
    pub poll_every: Span,
}

fn api() -> String {
    "https://api.render.com/v1".to_owned()
}

fn timeout() -> Span {
    Span::from_secs(10)
}

fn poll_every() -> Span {
    Span::from_secs(2)
}

/// Why a call did not do it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RenderError {
    /// The deploy that was waited for ended without being live.
    #[error("deploy {deploy} ended as {status}")]
    Ended {
        /// Which.
        deploy: Id,
        /// How.
        status: Status,
    },
    /// As the API answered, or did not.
    #[error(transparent)]
    Rest(#[from] RestError),
}

impl From<RenderError> for DriverError {
    fn from(error: RenderError) -> Self {
        match error {
            RenderError::Ended { .. } => Self::Refused(error.to_string()),
            RenderError::Rest(error) => error.into(),
        }
    }
}

/// What is to be made live.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask<'a> {
    /// A commit, or an image where the value holds a `/` or `:`, built or pulled anew, with the
    /// environment variables of now.
    Deploy(&'a LeverValue),
    /// What an earlier deploy made.
    Rollback(&'a Deploy),
}

/// A client of one account.
#[derive(Debug)]
pub struct Render {
    rest: Rest,
    poll_every: Duration,
}

impl Render {
    /// A client of `account`. Sends nothing.
    ///
    /// # Errors
    /// When the token is missing, or `api` is plain HTTP to another machine.
    pub fn new(account: &Account) -> Result<Self, AccountError> {
        let token = format!("Bearer {}", account.token.resolve()?.expose_secret());
        let rest = Rest::new("Render", &account.api, token.into(), account.timeout.to_std())?;
        Ok(Self { rest, poll_every: account.poll_every.to_std() })
    }

    /// An environment variable that is set on the service itself, which is not what the live deploy
    /// was started with. `None` when it, or the service, is not there.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn env_var(&self, service: &Id, key: &Id) -> Result<Option<String>, RenderError> {
        #[derive(Deserialize)]
        struct EnvVar {
            value: String,
        }
        match self.rest.read(&["services", service.as_str(), "env-vars", key.as_str()], None).await {
            Err(RestError::Refused { status: 404, .. }) => Ok(None),
            answer => read(answer?, "an environment variable").map(|read: EnvVar| Some(read.value)),
        }
    }

    /// Sets an environment variable of the service. The next deploy takes it up; none is begun.
    ///
    /// # Errors
    /// When it was not, or may not have been, set. Harmless when repeated.
    pub async fn set_env_var(&self, service: &Id, key: &Id, value: &str) -> Result<(), RenderError> {
        let body = json!({ "value": value });
        self.change(Method::PUT, service, &["env-vars", key.as_str()], Some(body)).await.map(drop)
    }

    /// The last deploys, newest first, at most 50.
    ///
    /// # Errors
    /// When they cannot be read.
    pub async fn deploys(&self, service: &Id) -> Result<Vec<Deploy>, RenderError> {
        #[derive(Deserialize)]
        struct Item {
            deploy: Deploy,
        }
        let query = format!("limit={DEPLOYS_MAX}");
        let answer = self.rest.read(&["services", service.as_str(), "deploys"], Some(&query)).await?;
        let items: Vec<Item> = read(answer, "a list of deploys")?;
        Ok(items.into_iter().take(DEPLOYS_MAX).map(|item| item.deploy).collect())
    }

    /// One deploy.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn deploy(&self, service: &Id, deploy: &Id) -> Result<Deploy, RenderError> {
        let answer = self.rest.read(&["services", service.as_str(), "deploys", deploy.as_str()], None).await?;
        read(answer, "a deploy")
    }

    /// Asks for a deploy, unless the newest that is live or may become so will do: it is of that
    /// release, and newer than `since` (a deploy's id; what is older may have been started with older
    /// environment variables).
    ///
    /// # Errors
    /// When it was not, or may not have been, asked for. Harmless when repeated.
    pub async fn ask(&self, service: &Id, ask: &Ask<'_>, since: Option<&Id>) -> Result<Deploy, RenderError> {
        let before = self.deploys(service).await?;
        let release = match ask {
            Ask::Deploy(release) => Some((*release).clone()),
            Ask::Rollback(target) => target.release(),
        };
        let newer = before.iter().take_while(|deploy| Some(&deploy.id) != since).count();
        let mut counts = before.iter().take(newer).filter(|it| it.status.is_open() || it.status == Status::Live);
        if let Some(newest) = counts.next().filter(|newest| release.is_some() && newest.release() == release) {
            return Ok(newest.clone());
        }
        let (path, body) = match ask {
            Ask::Deploy(release) => {
                let is_image = release.as_str().contains(['/', ':']);
                ("deploys", json!({ if is_image { "imageUrl" } else { "commitId" }: release }))
            }
            Ask::Rollback(target) => ("rollback", json!({ "deployId": target.id.as_str() })),
        };
        match self.change(Method::POST, service, &[path], Some(body)).await? {
            // Accepted, without a word of what.
            Value::Null => self.find(service, &before).await,
            answer => read(answer, "a deploy"),
        }
    }

    /// Ends a deploy that is not live yet.
    ///
    /// # Errors
    /// When it was not, or may not have been, ended.
    pub async fn cancel(&self, service: &Id, deploy: &Id) -> Result<(), RenderError> {
        self.change(Method::POST, service, &["deploys", deploy.as_str(), "cancel"], None).await.map(drop)
    }

    /// Waits until a deploy is live, and gives it as it then stands.
    ///
    /// # Errors
    /// [`RenderError::Ended`] when it ended otherwise, or was replaced; what was said last when
    /// `deadline` has passed.
    pub async fn wait_until_live(&self, service: &Id, deploy: &Id, deadline: Instant) -> Result<Deploy, RenderError> {
        loop {
            let wait = match self.deploy(service, deploy).await {
                Ok(seen) if seen.status == Status::Live => return Ok(seen),
                Ok(Deploy { id, status, .. }) if !status.is_open() => {
                    return Err(RenderError::Ended { deploy: id, status });
                }
                Ok(seen) if Instant::now() >= deadline => {
                    let late = format!("deploy {deploy} was {} when its time was over", seen.status);
                    return Err(unknown(late));
                }
                Err(refused @ RenderError::Rest(RestError::Refused { .. })) => return Err(refused),
                Err(error) if Instant::now() >= deadline => return Err(error),
                Err(RenderError::Rest(RestError::Retry { after, .. })) => after.max(self.poll_every),
                Ok(_) | Err(_) => self.poll_every,
            };
            tokio::time::sleep_until((Instant::now() + wait).min(deadline)).await;
        }
    }

    /// Whether Render deploys by itself what is pushed.
    ///
    /// # Errors
    /// When it cannot be read, or is neither yes nor no.
    pub async fn auto_deploy(&self, service: &Id) -> Result<bool, RenderError> {
        auto_deploy(self.rest.read(&["services", service.as_str()], None).await?)
    }

    /// Has Render deploy by itself what is pushed, or not.
    ///
    /// # Errors
    /// When it did not, or may not have, become so. Harmless when repeated.
    pub async fn set_auto_deploy(&self, service: &Id, on: bool) -> Result<(), RenderError> {
        let body = json!({ "autoDeploy": if on { "yes" } else { "no" } });
        let answer = self.change(Method::PATCH, service, &[], Some(body)).await?;
        match auto_deploy(answer)? == on {
            true => Ok(()),
            false => Err(unknown("`autoDeploy` was set, and is not what was asked".to_owned())),
        }
    }

    /// The deploy that was accepted and not named: the newest that was not there before.
    async fn find(&self, service: &Id, before: &[Deploy]) -> Result<Deploy, RenderError> {
        for _ in 0..FIND_TRIES {
            let now = self.deploys(service).await.map_err(|error| unknown(error.to_string()))?;
            if let Some(new) = now.into_iter().find(|deploy| before.iter().all(|old| old.id != deploy.id)) {
                return Ok(new);
            }
            tokio::time::sleep(self.poll_every).await;
        }
        Err(unknown("a deploy was accepted, and is not in the list".to_owned()))
    }

    async fn change(
        &self,
        method: Method,
        service: &Id,
        rest: &[&str],
        body: Option<Value>,
    ) -> Result<Value, RenderError> {
        let path = [&["services", service.as_str()], rest].concat();
        Ok(self.rest.change(method, &path, body.map(|body| ("application/json", body))).await?)
    }
}

fn read<T: DeserializeOwned>(answer: Value, what: &str) -> Result<T, RenderError> {
    serde_json::from_value(answer).map_err(|error| unknown(format!("Render did not answer with {what}: {error}")))
}

fn auto_deploy(answer: Value) -> Result<bool, RenderError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Service {
        auto_deploy: String,
    }
    match read::<Service>(answer, "a service")?.auto_deploy.as_str() {
        "yes" => Ok(true),
        "no" => Ok(false),
        _ => Err(unknown("`autoDeploy` is neither yes nor no".to_owned())),
    }
}

fn unknown(said: String) -> RenderError {
    RestError::Unknown(said).into()
}

#[cfg(test)]
mod tests;
