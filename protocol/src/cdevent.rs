//! CDEvents 0.5.1: what a rollout has come to, for those who know nothing of us. Each travels as the body
//! of a [`CloudEvent`], whose attributes are its own context.

use serde::{Deserialize, Serialize};

use crate::cloud_event::CloudEvent;
use crate::id::{Ordinal, Release, StageName};
use crate::subject::Prefix;
use crate::time::Timestamp;

/// The version of CDEvents that is spoken.
pub const CDEVENTS_VERSION: &str = "0.5.1";

/// One event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CdEvent {
    /// What kind of event, when and from where.
    pub context: Context,
    /// What it is about.
    pub subject: Subject,
    /// What only we know of.
    pub custom_data: CustomData,
    /// `application/json`.
    pub custom_data_content_type: String,
}

impl CdEvent {
    /// The same, as it leaves the mesh with this prefix.
    pub fn from_mesh(mut self, prefix: &Prefix) -> Self {
        let source = CloudEvent::source(prefix);
        self.subject.source.clone_from(&source);
        self.context.source = source;
        self
    }

    /// What says, beside it, what it is.
    pub fn envelope(&self) -> CloudEvent {
        let Context { id, source, kind, timestamp, .. } = self.context.clone();
        CloudEvent { id, source, kind, subject: self.subject.id.clone(), time: timestamp }
    }
}

/// What kind of event, when and from where.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Context {
    /// [`CDEVENTS_VERSION`].
    pub specversion: String,
    /// Unique within its source; the same for a repeat. Derived from the record that says it.
    pub id: String,
    /// Which mesh it is of.
    pub source: String,
    /// Such as `dev.cdevents.service.upgraded.0.3.0`.
    #[serde(rename = "type")]
    pub kind: String,
    /// When it was decided.
    pub timestamp: Timestamp,
    /// The rollout: all that came of one start.
    pub chain_id: String,
}

/// What an event is about.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Subject {
    /// A rollout, an entry into a stage, a service or an incident.
    pub id: String,
    /// As the context's.
    pub source: String,
    /// Whatever CDEvents wants of this kind of event.
    pub content: Content,
}

/// The contents of the kinds that are told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(untagged)]
pub enum Content {
    /// `incident.detected` and `incident.resolved`.
    Incident {
        /// In one sentence.
        description: String,
        /// Where.
        environment: Reference,
        /// Of what.
        service: Reference,
        /// The release, as a package URL.
        #[serde(rename = "artifactId")]
        artifact_id: String,
    },
    /// `service.deployed`, `service.upgraded` and `service.rolledback`.
    Service {
        /// Where.
        environment: Reference,
        /// The release that answers there now, as a package URL.
        #[serde(rename = "artifactId")]
        artifact_id: String,
    },
    /// `pipelinerun.started` and `pipelinerun.finished`: a rollout.
    PipelineRun {
        /// The service.
        #[serde(rename = "pipelineName")]
        pipeline_name: String,
        /// The rollout, as a URI of our own scheme.
        uri: String,
        /// How it ended.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        outcome: Option<RunOutcome>,
        /// Why, unless it is what was wanted.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        errors: Option<String>,
    },
    /// `taskrun.started` and `taskrun.finished`: an entry into a stage.
    TaskRun {
        /// The stage.
        #[serde(rename = "taskName")]
        task_name: String,
        /// The rollout.
        #[serde(rename = "pipelineRun")]
        pipeline_run: Reference,
        /// How it was left.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        outcome: Option<RunOutcome>,
    },
    /// `service.published`: every stage was passed.
    Published {
        /// Where.
        environment: Reference,
    },
}

/// Something by its id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Reference {
    /// Its id. An environment is the regions concerned, with `+` between them.
    pub id: String,
}

/// What CDEvents has no place for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct CustomData {
    /// The record behind it.
    pub record: Ordinal,
    /// The rollout's release.
    pub release: Release,
    /// The one that it takes the place of, if there is one.
    pub previous: Option<Release>,
    /// The stage, if it is in one.
    pub stage: Option<StageName>,
    /// Whether nothing is moved.
    pub shadow: bool,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RunOutcome {
    /// By hand, or for another one.
    Cancel,
    /// It did not begin, or was not seen to be back.
    Error,
    /// It failed, and was taken back.
    Failure,
    /// As the plan wants.
    Success,
}
