//! What a few looks at a service say of the release that it runs now.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::assignment::Look;
use crate::id::{CriterionName, Region, Service};
use crate::plan::Plan;
use crate::reason::Judgement;
use crate::sample::{Evidence, Sample};
use crate::time::{Span, Timestamp};

/// What is looked at, and in which region.
pub type Looks = Vec<(Region, Look)>;
/// One look at everything, in one slot.
pub type Round = Vec<(Region, Sample)>;

/// What is to be looked at once.
#[derive(Debug, Clone, Copy)]
pub struct Glance<'a> {
    /// Of which service.
    pub service: &'a Service,
    /// What, and where.
    pub looks: &'a [(Region, Look)],
    /// In which slot: the one that holds this instant.
    pub at: Timestamp,
    /// How wide it is.
    pub slot: Span,
}

/// How it is judged: the judge is another room's than whoever asks.
#[derive(Debug, Clone, Copy)]
pub struct Judge {
    /// What must be looked at in these regions of a plan.
    pub looks: fn(&Plan, &[Region]) -> Looks,
    /// What rounds of looks say, so far apart.
    pub assess: fn(&Plan, &[Region], &[Round], Span) -> Assessment,
}

/// What a few looks came to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Assessment {
    /// In a word.
    pub health: Health,
    /// Every hard criterion, in every region and in all of them together, red ones first.
    pub judgements: Vec<Judgement>,
    /// Hard criteria that a few looks cannot judge, and why.
    pub left_out: BTreeMap<CriterionName, &'static str>,
    /// The first failures.
    pub evidence: Vec<Evidence>,
}

/// How a service is, in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// A hard criterion fails.
    Bad,
    /// Something was missing, and nothing fails.
    NoData,
    /// Something was bad, and not enough to fail.
    Undecided,
    /// Everything was seen, and nothing was bad.
    Well,
}
