//! What a start would do, without doing it.

use serde::Serialize;

use crate::id::{LeverName, LeverValue, Release, StageName};

/// What a start would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DryRun {
    /// Why it would be refused, if so.
    pub refused: Option<String>,
    /// The release that would be gone back to, where it is known.
    pub previous: Option<Release>,
    /// What entering each stage would set, in order.
    pub stages: Vec<(StageName, Vec<Move>)>,
    /// What each level of taking back would set.
    pub levels: Vec<Vec<Move>>,
}

/// One lever that would be set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Move {
    /// Which.
    pub lever: LeverName,
    /// To what; `None` when what it held before is not known. A lever that runs a command has `run`.
    pub to: Option<LeverValue>,
}
