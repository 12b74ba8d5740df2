//! A client of the [Render API](https://api-docs.render.com): environment variables and deploys of a service.
//!
//! It decides nothing and repeats nothing by itself, except that [`Render::ask`] looks before it asks.
//! An error says whether the call may have worked. Words that Render may add later are kept, not
//! refused. Render takes a deploy before it has made it: what is true is read with
//! [`Render::deploys`], never from the answer to [`Render::ask`].

mod deploy;

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bellwether_protocol::id::LeverValue;
use bellwether_protocol::time::Span;
use bellwether_runtime::{DriverError, HttpError, SecretError, SecretRef};
use reqwest::header::RETRY_AFTER;
use reqwest::{Method, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::Instant;

pub use deploy::{Deploy, Id, Status, live, pending};

/// Deploys that are listed: the live one and what came before it, with room for failed ones.
const DEPLOYS_MAX: usize = 50;
/// Longest answer that is read, in bytes; commit messages make a list of deploys long.
const BODY_LEN_MAX: usize = 4 * 1024 * 1024;
/// Characters of Render's words that go into an error.
const SAID_LEN_MAX: usize = 300;
/// How long nothing is sent after a 429 that names no time, and the longest that one may name.
const PAUSE_DEFAULT: Duration = Duration::from_secs(5);
const PAUSE_MAX: Duration = Duration::from_secs(600);
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

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    /// The address is not one, or not one that a token may be sent to.
    #[error("`api` is not an https address, nor one of this machine")]
    Api,
    /// No HTTP at all.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// The token is not there.
    #[error("`token` cannot be used")]
    Token(#[from] SecretError),
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
    /// Nothing happened, and Render will not do it.
    #[error("Render answered {status}: {said}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// Render's words.
        said: String,
    },
    /// Nothing happened; it may be asked again after `after`. Until then nothing is sent.
    #[error("{said}; nothing happened, again in {} s", .after.as_secs())]
    Retry {
        /// How long to wait at least.
        after: Duration,
        /// What was said.
        said: String,
    },
    /// It may have happened.
    #[error("{0}")]
    Unknown(String),
}

impl From<RenderError> for DriverError {
    fn from(error: RenderError) -> Self {
        let said = error.to_string();
        match error {
            RenderError::Ended { .. } | RenderError::Refused { .. } => Self::Refused(said),
            RenderError::Retry { .. } => Self::Retry(said),
            RenderError::Unknown(_) => Self::Unknown(said),
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
    client: reqwest::Client,
    api: String,
    token: SecretString,
    timeout: Duration,
    poll_every: Duration,
    quiet_until: Mutex<Option<Instant>>,
}

impl Render {
    /// A client of `account`. Sends nothing.
    ///
    /// # Errors
    /// When the token is missing, or `api` is plain HTTP to another machine.
    pub fn new(account: &Account) -> Result<Self, AccountError> {
        let url: reqwest::Url = account.api.parse().map_err(|_| AccountError::Api)?;
        let is_here = matches!(url.host_str(), Some("127.0.0.1" | "localhost" | "[::1]"));
        if url.scheme() != "https" && !(url.scheme() == "http" && is_here) {
            return Err(AccountError::Api);
        }
        Ok(Self {
            client: bellwether_runtime::http()?,
            api: account.api.trim_end_matches('/').to_owned(),
            token: account.token.resolve()?,
            timeout: account.timeout.to_std(),
            poll_every: account.poll_every.to_std(),
            quiet_until: Mutex::default(),
        })
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
        match self.call(Method::GET, &format!("/services/{service}/env-vars/{key}"), None).await {
            Err(RenderError::Refused { status: 404, .. }) => Ok(None),
            answer => answer?.read("an environment variable").map(|read: EnvVar| Some(read.value)),
        }
    }

    /// Sets an environment variable of the service. The next deploy takes it up; none is begun.
    ///
    /// # Errors
    /// When it was not, or may not have been, set. Harmless when repeated.
    pub async fn set_env_var(&self, service: &Id, key: &Id, value: &str) -> Result<(), RenderError> {
        let body = json!({ "value": value });
        self.call(Method::PUT, &format!("/services/{service}/env-vars/{key}"), Some(body)).await.map(drop)
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
        let path = format!("/services/{service}/deploys?limit={DEPLOYS_MAX}");
        let items: Vec<Item> = self.call(Method::GET, &path, None).await?.read("a list of deploys")?;
        Ok(items.into_iter().take(DEPLOYS_MAX).map(|item| item.deploy).collect())
    }

    /// One deploy.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn deploy(&self, service: &Id, deploy: &Id) -> Result<Deploy, RenderError> {
        self.call(Method::GET, &format!("/services/{service}/deploys/{deploy}"), None).await?.read("a deploy")
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
        let answer = self.call(Method::POST, &format!("/services/{service}/{path}"), Some(body)).await?;
        if answer.status != StatusCode::ACCEPTED || !answer.body.is_empty() {
            return answer.read("a deploy");
        }
        self.find(service, &before).await
    }

    /// Ends a deploy that is not live yet.
    ///
    /// # Errors
    /// When it was not, or may not have been, ended.
    pub async fn cancel(&self, service: &Id, deploy: &Id) -> Result<(), RenderError> {
        self.call(Method::POST, &format!("/services/{service}/deploys/{deploy}/cancel"), None).await.map(drop)
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
                    return Err(RenderError::Unknown(late));
                }
                Err(refused @ RenderError::Refused { .. }) => return Err(refused),
                Err(error) if Instant::now() >= deadline => return Err(error),
                Err(RenderError::Retry { after, .. }) => after.max(self.poll_every),
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
        self.call(Method::GET, &format!("/services/{service}"), None).await?.auto_deploy()
    }

    /// Has Render deploy by itself what is pushed, or not.
    ///
    /// # Errors
    /// When it did not, or may not have, become so. Harmless when repeated.
    pub async fn set_auto_deploy(&self, service: &Id, on: bool) -> Result<(), RenderError> {
        let body = json!({ "autoDeploy": if on { "yes" } else { "no" } });
        let answer = self.call(Method::PATCH, &format!("/services/{service}"), Some(body)).await?;
        match answer.auto_deploy()? == on {
            true => Ok(()),
            false => Err(RenderError::Unknown("`autoDeploy` was set, and is not what was asked".to_owned())),
        }
    }

    /// The deploy that was accepted and not named: the newest that was not there before.
    async fn find(&self, service: &Id, before: &[Deploy]) -> Result<Deploy, RenderError> {
        for _ in 0..FIND_TRIES {
            let now = self.deploys(service).await.map_err(|error| RenderError::Unknown(error.to_string()))?;
            if let Some(new) = now.into_iter().find(|deploy| before.iter().all(|old| old.id != deploy.id)) {
                return Ok(new);
            }
            tokio::time::sleep(self.poll_every).await;
        }
        Err(RenderError::Unknown("a deploy was accepted, and is not in the list".to_owned()))
    }

    async fn call(&self, method: Method, path: &str, body: Option<Value>) -> Result<Answer, RenderError> {
        if let Some(after) = self.quiet_for() {
            return Err(RenderError::Retry { after, said: "Render asked for a pause".to_owned() });
        }
        let request = self.client.request(method, format!("{}{path}", self.api)).timeout(self.timeout);
        let request = request.bearer_auth(self.token.expose_secret()).header("accept", "application/json");
        let request = match &body {
            Some(body) => request.json(body),
            None => request,
        };
        let mut response = request.send().await.map_err(|error| match error.is_connect() {
            true => RenderError::Retry { after: self.poll_every, said: "no connection to Render".to_owned() },
            false => broken(&error),
        })?;
        let status = response.status();
        let after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| broken(&error))? {
            if body.len() + chunk.len() > BODY_LEN_MAX {
                return Err(RenderError::Unknown(format!("Render answered more than {BODY_LEN_MAX} bytes")));
            }
            body.extend_from_slice(&chunk);
        }
        self.judge(Answer { status, body }, after.map(Duration::from_secs))
    }

    fn judge(&self, answer: Answer, after: Option<Duration>) -> Result<Answer, RenderError> {
        let status = answer.status.as_u16();
        match status {
            200..=299 => Ok(answer),
            429 => {
                let after = after.unwrap_or(PAUSE_DEFAULT).min(PAUSE_MAX);
                *self.quiet_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + after);
                Err(RenderError::Retry { after, said: "Render answered 429".to_owned() })
            }
            // Another deploy is in the way; later it will not be.
            409 => {
                let said = format!("Render answered 409: {}", answer.said());
                Err(RenderError::Retry { after: after.unwrap_or(self.poll_every).min(PAUSE_MAX), said })
            }
            400..=499 => Err(RenderError::Refused { status, said: answer.said() }),
            _ => Err(RenderError::Unknown(format!("Render answered {status}: {}", answer.said()))),
        }
    }

    /// What is left of a pause that Render asked for.
    fn quiet_for(&self) -> Option<Duration> {
        let until = *self.quiet_until.lock().unwrap_or_else(PoisonError::into_inner);
        until?.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
    }
}

struct Answer {
    status: StatusCode,
    body: Vec<u8>,
}

impl Answer {
    fn read<T: DeserializeOwned>(&self, what: &str) -> Result<T, RenderError> {
        let wrong = |error| RenderError::Unknown(format!("Render did not answer with {what}: {error}"));
        serde_json::from_slice(&self.body).map_err(wrong)
    }

    /// Render's own words for what is wrong; what is not its JSON may be anything, and is not repeated.
    fn said(&self) -> String {
        let message =
            self.read("an error").ok().and_then(|body: Value| Some(body.get("message")?.as_str()?.to_owned()));
        message.unwrap_or_else(|| "no reason given".to_owned()).chars().take(SAID_LEN_MAX).collect()
    }

    fn auto_deploy(&self) -> Result<bool, RenderError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Service {
            auto_deploy: String,
        }
        match self.read::<Service>("a service")?.auto_deploy.as_str() {
            "yes" => Ok(true),
            "no" => Ok(false),
            _ => Err(RenderError::Unknown("`autoDeploy` is neither yes nor no".to_owned())),
        }
    }
}

/// The request may have arrived.
fn broken(error: &reqwest::Error) -> RenderError {
    let what = if error.is_timeout() { "no answer from Render in time" } else { "the connection to Render broke" };
    RenderError::Unknown(what.to_owned())
}

#[cfg(test)]
mod tests;
