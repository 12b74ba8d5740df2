//! GitHub deployments: one per rollout, and a status for each turn of it.
//!
//! It hears of rollouts, not of incidents, so it reads what the coordinators tell in the words of
//! CDEvents and keeps its own place in it. GitHub's calls are not idempotent: what may have been done
//! is looked for before it is done again. A rollout in the shadow deploys nothing, and none is shown.

use std::path::{Path, PathBuf};

use bellwether_bus::{Bus, From as Begin};
use bellwether_protocol::cdevent::{CdEvent, Content, RunOutcome};
use bellwether_protocol::codec;
use bellwether_protocol::id::Service;
use bellwether_protocol::subject::Stream;
use bellwether_runtime::store;
use bellwether_runtime::web::chain;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::bridge::DeliveryError;
use crate::config::{BridgeFlaw, GithubConfig};
use crate::courier::{PACE, Pace, TRIES_MAX};
use crate::outbox::{OutboxError, replace};
use crate::{http, words};

/// The longest description that GitHub takes, in characters.
const DESCRIPTION_MAX: usize = 140;
/// How many rollouts are remembered; the last ones are what may still be told of.
const ROLLOUTS_MAX: usize = 20;
/// The longest page that GitHub gives.
const PAGE: u32 = 100;

/// Shows the rollouts of one service.
#[derive(Debug)]
pub(crate) struct Github {
    service: Service,
    config: GithubConfig,
    /// `…/repos/OWNER/NAME/deployments`.
    url: reqwest::Url,
    token: SecretString,
    link: String,
    client: reqwest::Client,
    place: Place,
    pace: Pace,
}

/// How far it is, on disk before it goes on.
#[derive(Debug)]
struct Place {
    path: PathBuf,
    kept: Kept,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Kept {
    /// The last sequence of the stream of alerts that is done.
    position: Option<u64>,
    /// By rollout, oldest first; absent: GitHub will not have it.
    deployments: Vec<(String, Option<u64>)>,
}

/// What GitHub is told.
#[derive(Debug, PartialEq, Eq)]
struct Told {
    state: &'static str,
    description: String,
}

impl Github {
    pub(crate) fn new(
        service: &Service,
        config: &GithubConfig,
        link: &str,
        client: reqwest::Client,
        state_dir: &Path,
    ) -> Result<Self, BridgeFlaw> {
        let flaw = |why| BridgeFlaw { key: format!("github.{service}"), why };
        let is_name =
            |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        let named = config.repository.split_once('/').is_some_and(|(owner, name)| is_name(owner) && is_name(name));
        if !named {
            return Err(flaw(format!("`repository: {}` is not OWNER/NAME", config.repository)));
        }
        let token = config.token.resolve().map_err(|error| flaw(chain(&error)))?;
        let base = http::parse(&config.url).map_err(flaw)?;
        let url = format!("{}/repos/{}/deployments", base.as_str().trim_end_matches('/'), config.repository);
        let url = http::parse(&url).map_err(flaw)?;
        let place =
            Place::open(state_dir.join(format!("github-{service}.json"))).map_err(|error| flaw(chain(&error)))?;
        let (service, config, link) = (service.clone(), config.clone(), link.to_owned());
        Ok(Self { service, config, url, token, link, client, place, pace: PACE })
    }

    /// Reads what it would write to, and says what it would do. Nothing is made: only a deployment would show
    /// whether the token may make one.
    pub(crate) async fn try_out(&self) -> Result<String, DeliveryError> {
        let GithubConfig { repository, environment, reference, .. } = &self.config;
        self.get(&self.url, &[("environment", environment)]).await?;
        Ok(format!(
            "{repository}: deployments read; a rollout would become one of `{reference}` in {environment}, which was not tried"
        ))
    }

    /// Follows the service's rollouts for ever.
    pub(crate) async fn serve(mut self, bus: Bus, last: u64) -> OutboxError {
        // As the outbox does: what was said before we were here is no news, and a stream made anew counts anew.
        let position = self.place.kept.position.map_or(last, |position| if position > last { 0 } else { position });
        self.place.kept.position = Some(position);
        if let Err(error) = self.place.save() {
            return error;
        }
        let filters = vec![bus.prefix().cdevent(&self.service)];
        let mut messages = bus.read(Stream::Alerts, filters, Begin::Sequence(position + 1));
        loop {
            let message = messages.next().await;
            match codec::from_json::<CdEvent>("CDEvent", &message.body) {
                Ok(event) => self.tell(&event).await,
                Err(error) => tracing::error!(error = %error, seq = message.seq, "a CDEvent cannot be read"),
            }
            self.place.kept.position = Some(message.seq);
            if let Err(error) = self.place.save() {
                return error;
            }
        }
    }

    /// Tries until it is done, refused, or no longer news.
    async fn tell(&mut self, event: &CdEvent) {
        let Some(told) = told(event) else { return };
        let rollout = &event.context.chain_id;
        let mut pause = std::time::Duration::ZERO;
        for tries in 0..TRIES_MAX {
            tokio::time::sleep(pause).await;
            match self.deliver(event, &told).await {
                Ok(()) => return tracing::debug!(rollout, state = told.state, "shown on GitHub"),
                Err(DeliveryError::Refused { why }) => {
                    return tracing::error!(rollout, state = told.state, why, "not shown on GitHub, not tried again");
                }
                Err(DeliveryError::Retry { why, after }) => {
                    pause = after.unwrap_or_default().max(self.pace.pause(tries));
                    tracing::warn!(
                        rollout,
                        state = told.state,
                        why,
                        wait_s = pause.as_secs(),
                        "not shown on GitHub yet"
                    );
                }
            }
        }
        tracing::error!(rollout, state = told.state, "not shown on GitHub, given up");
    }

    async fn deliver(&mut self, event: &CdEvent, told: &Told) -> Result<(), DeliveryError> {
        let rollout = &event.context.chain_id;
        let known = self.place.kept.deployments.iter().find(|(own, _)| own == rollout).map(|(_, id)| *id);
        let id = match known {
            Some(id) => id,
            None => {
                let found = match self.find(event).await? {
                    Some(id) => Ok(Some(id)),
                    None => self.create(event).await.map(Some),
                };
                let refused = matches!(found, Err(DeliveryError::Refused { .. }));
                if found.is_ok() || refused {
                    let id = found.as_ref().ok().copied().flatten();
                    self.place.remember(rollout, id)?;
                }
                found?
            }
        };
        let Some(id) = id else { return Ok(()) };
        let url = self.under(&format!("{id}/statuses"));
        let said = self.get(&url, &[]).await?;
        let is_same = |own: &Value| own["state"] == told.state && own["description"] == told.description.as_str();
        if said.iter().any(is_same) {
            return Ok(());
        }
        let mut status = json!({ "state": told.state, "description": told.description });
        let link = self.link.replace("{service}", self.service.as_str()).replace("{rollout}", rollout);
        for (key, value) in [("log_url", &link), ("environment_url", &self.config.environment_url)] {
            // An address for incidents leads nowhere here.
            if !value.is_empty() && !value.contains('{') {
                status[key] = value.as_str().into();
            }
        }
        self.post(&url, &status).await.map(drop)
    }

    /// The deployment of this rollout, when an answer was lost, or this place on disk.
    async fn find(&self, event: &CdEvent) -> Result<Option<u64>, DeliveryError> {
        let (reference, rollout) = (self.reference(event), event.context.chain_id.as_str());
        let query = [("ref", reference.as_str()), ("environment", self.config.environment.as_str())];
        let found = self.get(&self.url, &query).await?;
        let own = found.iter().find(|own| own["payload"]["bellwether"] == rollout);
        Ok(own.and_then(|own| own["id"].as_u64()))
    }

    async fn create(&self, event: &CdEvent) -> Result<u64, DeliveryError> {
        let rollout = &event.context.chain_id;
        let asked = json!({
            "ref": self.reference(event),
            "environment": self.config.environment,
            "description": words::cut(&format!("Rollout {rollout}"), DESCRIPTION_MAX),
            "payload": { "bellwether": rollout },
            // Whether it may go out is decided here, not by what GitHub knows of the branch.
            "auto_merge": false,
            "required_contexts": [],
        });
        let made = self.post(&self.url, &asked).await?;
        let refused = || DeliveryError::Refused { why: "it made no deployment".to_owned() };
        made["id"].as_u64().ok_or_else(refused)
    }

    /// The branch, tag or commit that is deployed.
    fn reference(&self, event: &CdEvent) -> String {
        self.config.reference.replace("{release}", event.custom_data.release.as_str())
    }

    fn under(&self, path: &str) -> reqwest::Url {
        let mut url = self.url.clone();
        url.set_path(&format!("{}/{path}", self.url.path()));
        url
    }

    async fn get(&self, url: &reqwest::Url, query: &[(&str, &str)]) -> Result<Vec<Value>, DeliveryError> {
        let page = PAGE.to_string();
        let mut url = url.clone();
        url.query_pairs_mut().extend_pairs(query).append_pair("per_page", &page);
        let read = self.send(self.client.get(url)).await?;
        Ok(read.as_array().cloned().unwrap_or_default())
    }

    async fn post(&self, url: &reqwest::Url, body: &Value) -> Result<Value, DeliveryError> {
        self.send(self.client.post(url.clone()).json(body)).await
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Result<Value, DeliveryError> {
        let request = request
            .bearer_auth(self.token.expose_secret())
            .header("accept", "application/vnd.github+json")
            .header("x-github-api-version", "2022-11-28");
        let answer = http::send(request).await?;
        // A token or a permission can be put right within the hour; a branch that is not there cannot.
        answer.judge(&[409, 422])?;
        let broken = |_| answer.retry("it answered no JSON".to_owned());
        serde_json::from_slice(&answer.body).map_err(broken)
    }
}

/// What GitHub is told of an event; of most, nothing.
fn told(event: &CdEvent) -> Option<Told> {
    if event.custom_data.shadow {
        return None;
    }
    let kind = event.context.kind.strip_prefix("dev.cdevents.")?;
    let release = &event.custom_data.release;
    let (state, text) = match (kind.rsplit_once(".0.").map_or(kind, |(kind, _)| kind), &event.subject.content) {
        ("pipelinerun.started", _) => ("queued", format!("{release} is to travel through its stages")),
        ("taskrun.started", Content::TaskRun { task_name, .. }) => ("in_progress", format!("stage {task_name}")),
        ("incident.detected", Content::Incident { description, .. }) => ("in_progress", description.clone()),
        ("pipelinerun.finished", Content::PipelineRun { outcome, errors, .. }) => {
            let state = match outcome {
                Some(RunOutcome::Success) => "success",
                Some(RunOutcome::Cancel) => "inactive",
                Some(RunOutcome::Failure) => "failure",
                Some(RunOutcome::Error) | None => "error",
            };
            (state, errors.clone().unwrap_or_else(|| format!("{release} passed every stage")))
        }
        _ => return None,
    };
    Some(Told { state, description: words::cut(&text, DESCRIPTION_MAX) })
}

impl Place {
    fn open(path: PathBuf) -> Result<Self, OutboxError> {
        match store::load(&path) {
            Ok(kept) => Ok(Self { path, kept: kept.unwrap_or_default() }),
            Err(source) => Err(OutboxError::Io { doing: "read", path, source }),
        }
    }

    fn remember(&mut self, rollout: &str, id: Option<u64>) -> Result<(), DeliveryError> {
        self.kept.deployments.push((rollout.to_owned(), id));
        let over = self.kept.deployments.len().saturating_sub(ROLLOUTS_MAX);
        self.kept.deployments.drain(..over);
        self.save().map_err(|error| DeliveryError::Retry { why: error.to_string(), after: None })
    }

    fn save(&self) -> Result<(), OutboxError> {
        replace(&self.path, &self.kept)
    }
}

#[cfg(test)]
mod tests;
