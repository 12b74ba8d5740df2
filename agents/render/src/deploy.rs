//! What Render says about deploys, and how it is read: with unknown words kept, never refused.

use std::fmt;
use std::str::FromStr;

use bellwether_protocol::id::LeverValue;
use serde::{Deserialize, Deserializer, Serialize, de};

/// An id of Render's, such as `srv-…` or `dep-…`: `[A-Za-z0-9_-]`, so that it cannot leave its place in a path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Id(String);

impl Id {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Id {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
        let fits = (1..=64).contains(&text.len()) && text.bytes().all(is_plain);
        fits.then(|| Self(text.to_owned())).ok_or_else(|| "an id of Render is 1 to 64 of A-Z a-z 0-9 _ -".to_owned())
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// One deploy of one service.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Deploy {
    /// Its id.
    pub id: Id,
    /// How far it is.
    pub status: Status,
    /// What began it, in Render's words, such as `api`, `rollback` or `new_commit`.
    pub trigger: Option<String>,
    commit: Option<Commit>,
    image: Option<Image>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Commit {
    id: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Image {
    #[serde(rename = "ref")]
    reference: String,
}

impl Deploy {
    /// What it runs: the id of a commit, else the reference of an image. `None` when it names neither.
    pub fn release(&self) -> Option<LeverValue> {
        let commit = self.commit.as_ref().map(|commit| &commit.id);
        commit.or(self.image.as_ref().map(|image| &image.reference))?.parse().ok()
    }

    /// Whether it runs, or ran, `release`.
    pub fn is_of(&self, release: &LeverValue) -> bool {
        self.release().as_ref() == Some(release)
    }
}

/// How far a deploy is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Asked for.
    Created,
    /// Waits for another.
    Queued,
    /// Is being built.
    BuildInProgress,
    /// Its pre-deploy command runs.
    PreDeployInProgress,
    /// Its instances are being started.
    UpdateInProgress,
    /// Answers requests.
    Live,
    /// Was live, and was replaced.
    Deactivated,
    /// Ended without being live.
    BuildFailed,
    /// Ended without being live.
    PreDeployFailed,
    /// Ended without being live.
    UpdateFailed,
    /// Ended without being live.
    Canceled,
    /// A word that is not known here. Nothing can be said of it, so it counts as not over.
    #[serde(untagged)]
    Other(String),
}

impl Status {
    /// Whether it may still become live.
    pub fn is_open(&self) -> bool {
        match self {
            Self::Created | Self::Queued | Self::Other(_) => true,
            Self::BuildInProgress | Self::PreDeployInProgress | Self::UpdateInProgress => true,
            Self::Live | Self::Deactivated | Self::Canceled => false,
            Self::BuildFailed | Self::PreDeployFailed | Self::UpdateFailed => false,
        }
    }

    /// Whether it answers requests, or did.
    pub fn was_live(&self) -> bool {
        matches!(self, Self::Live | Self::Deactivated)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Other(word) => f.pad(word.get(..32).unwrap_or(word)),
            known => known.serialize(f),
        }
    }
}

/// The deploy that answers requests now, of a list that is newest first.
pub fn live(deploys: &[Deploy]) -> Option<&Deploy> {
    deploys.iter().find(|deploy| deploy.status == Status::Live)
}

/// The deploys that may still replace the one that is live, newest first.
///
/// One that is older than what is live never will.
pub fn pending(deploys: &[Deploy]) -> impl Iterator<Item = &Deploy> {
    deploys.iter().take_while(|deploy| deploy.status != Status::Live).filter(|deploy| deploy.status.is_open())
}
