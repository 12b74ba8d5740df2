//! What is noted while a run is on, for the checkers: truths that no part of the product can see.

use std::collections::{BTreeMap, BTreeSet};

use bellwether_protocol::id::{ActionId, CommandId, LeverName, Ordinal, Release};
use bellwether_protocol::record::Series;
use bellwether_protocol::status::Status;
use bellwether_protocol::time::Timestamp;

/// Answers that were really seen in a slot, by the release that gave them.
pub(crate) type Seen = BTreeMap<Option<Release>, u64>;

/// What was noted.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    /// Broken promises: which checker, and how.
    pub(crate) complaints: Vec<(&'static str, String)>,
    pub(crate) looked: BTreeMap<(Series, Timestamp), Seen>,
    pub(crate) asked: BTreeSet<CommandId>,
    pub(crate) crashes: u64,
    pub(crate) handled: u64,
    pub(crate) status: Option<Status>,
    /// Nobody asks for anything any more.
    pub(crate) is_over: bool,
    moved: BTreeMap<LeverName, ((Ordinal, u32), bool)>,
}

impl Watch {
    pub(crate) fn complain(&mut self, checker: &'static str, what: String) {
        self.complaints.push((checker, what));
    }

    pub(crate) fn read_back(&mut self, lever: &LeverName) {
        if let Some((_, is_looked_at)) = self.moved.get_mut(lever) {
            *is_looked_at = true;
        }
    }

    /// A lever really moves: never for an older generation, never twice without a look in between.
    pub(crate) fn set(&mut self, lever: &LeverName, action: &ActionId) {
        let place = (action.generation, action.index);
        match self.moved.get(lever) {
            Some((newest, _)) if place < *newest => {
                self.complain("no_older_generation", format!("{action} moved {lever} after {newest:?}"));
            }
            Some((newest, false)) if place == *newest => {
                self.complain("look_before_repeat", format!("{action} moved {lever} twice without a look"));
            }
            _ => {}
        }
        self.moved.insert(lever.clone(), (place, false));
    }
}
