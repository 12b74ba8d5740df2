//! What was begun and not finished, and which releases were taken back: a file beside the agent's own.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use bellwether_protocol::id::Release;
use bellwether_runtime::{Lever, store};
use serde::{Deserialize, Serialize};

use crate::error::VerbError;

/// Releases that are remembered as taken back; a platform's history is not longer.
const TAKEN_BACK_MAX: usize = 100;

/// From one release to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Move {
    /// What fails.
    pub(super) from: Release,
    /// What was good before.
    pub(super) to: Release,
}

/// What outlives the process.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Kept {
    begun: Option<Move>,
    taken_back: Vec<Release>,
}

/// The journal of one lever. Nobody else has it open meanwhile.
#[derive(Debug)]
pub(super) struct Journal {
    kept: Kept,
    path: PathBuf,
    ledger: PathBuf,
    // Released when this is dropped, and when the process dies.
    _lock: File,
}

impl Journal {
    pub(super) fn open(state_dir: &Path, lever: &Lever) -> Result<Self, VerbError> {
        let dir = state_dir.join("assess");
        let wrong = |doing, path: &Path| {
            let path = path.to_owned();
            move |source| VerbError::File { doing, path, source }
        };
        std::fs::create_dir_all(&dir).map_err(wrong("make", &dir))?;
        let own = |ending: &str| dir.join(format!("{}.{}.{ending}", lever.service, lever.name));
        let path = own("lock");
        let lock = File::create(&path).map_err(wrong("make", &path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(VerbError::Assess(format!("another assessment of `{}` is under way", lever.name)));
            }
            Err(TryLockError::Error(source)) => return Err(wrong("lock", &path)(source)),
        }
        let path = own("json");
        let kept = store::load(&path).map_err(wrong("read", &path))?.unwrap_or_default();
        Ok(Self { kept, path, ledger: own("ledger.json"), _lock: lock })
    }

    /// What an earlier run began and did not finish.
    pub(super) fn begun(&self) -> Option<Move> {
        self.kept.begun.clone()
    }

    /// Writes down what is about to be done.
    pub(super) fn begin(&mut self, chosen: &Move) -> Result<(), VerbError> {
        self.kept.begun = Some(chosen.clone());
        self.save()
    }

    /// Writes down that it is over, and what was taken back.
    pub(super) fn end(&mut self, taken_back: Option<Release>) -> Result<(), VerbError> {
        self.kept.begun = None;
        self.kept.taken_back.extend(taken_back);
        let surplus = self.kept.taken_back.len().saturating_sub(TAKEN_BACK_MAX);
        self.kept.taken_back.drain(..surplus);
        self.save()
    }

    /// Whether it was good once and then not: nothing to go back to.
    pub(super) fn was_taken_back(&self, release: &Release) -> bool {
        self.kept.taken_back.contains(release)
    }

    /// Where the ledger of the lever is kept.
    pub(super) fn ledger(&self) -> &Path {
        &self.ledger
    }

    /// That the ledger cannot be used.
    pub(super) fn broken(&self, source: std::io::Error) -> VerbError {
        VerbError::File { doing: "use the ledger", path: self.ledger.clone(), source }
    }

    fn save(&self) -> Result<(), VerbError> {
        let wrong = |source| VerbError::File { doing: "write", path: self.path.clone(), source };
        store::save(&self.path, &self.kept).map_err(wrong)
    }
}
