//! When a rollout would be where, and from where it could be taken back. Pure; knows no evidence.

use serde::Serialize;

use super::{Plan, SetTo, Stage};
use crate::id::StageName;
use crate::time::{Span, Timestamp};

/// When a rollout of a plan would be where, at the earliest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Timeline {
    /// When it starts.
    pub starts: Timestamp,
    /// Its stages, in order.
    pub stages: Vec<StageTime>,
    /// When the last one is left, at the earliest.
    pub ends: Timestamp,
}

/// One stage of a timeline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StageTime {
    /// The stage.
    pub stage: StageName,
    /// The day of the rollout, from 1, in whole days since its start in UTC.
    pub day: u64,
    /// It is not entered before this. Entry actions and people take longer.
    pub not_before: Timestamp,
    /// Whether a freeze makes it wait until then.
    pub frozen: bool,
    /// How long it settles and soaks, if every slot is covered.
    pub lasts: Span,
    /// How a release would be taken back from it.
    pub rollback: RollbackPoint,
}

/// How a release would be taken back from a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RollbackPoint {
    /// By a level of the plan, from 1, which is to be applied within so long.
    Level {
        /// The first level that begins by itself.
        level: usize,
        /// Its deadline.
        apply_within: Span,
    },
    /// By nothing: no lever was moved so far.
    NotNeeded,
    /// By a person alone: it cannot be undone, and no level is `automatic`.
    Person,
}

/// Freezes that follow each other without a gap, at most.
const FREEZES_MAX: usize = 64;
/// Milliseconds of a day.
const DAY_MS: i64 = 86_400_000;

impl Plan {
    /// The timeline of a rollout that starts at `start`.
    pub fn timeline(&self, start: Timestamp) -> Timeline {
        let mut at = start;
        let mut stages = Vec::new();
        for (index, stage) in self.stages.iter().enumerate() {
            let asked = at;
            for _ in 0..FREEZES_MAX {
                at = self.frozen_until(at).unwrap_or(at);
            }
            let lasts = Span::from_ms(stage.settle.as_ms().saturating_add(stage.soak.as_ms()));
            stages.push(StageTime {
                stage: stage.name.clone(),
                day: u64::try_from(at.as_ms() / DAY_MS - start.as_ms() / DAY_MS).unwrap_or(0) + 1,
                not_before: at,
                frozen: at != asked,
                lasts,
                rollback: self.rollback_point(self.stages.get(..=index).unwrap_or_default()),
            });
            at = at + lasts;
        }
        Timeline { starts: start, stages, ends: at }
    }

    /// How a release would be taken back once these stages were entered.
    fn rollback_point(&self, entered: &[Stage]) -> RollbackPoint {
        let moved = entered.iter().flat_map(|stage| &stage.enter).any(|set| set.to != SetTo::Run);
        let is_irreversible = entered.iter().any(|stage| stage.irreversible);
        if !moved && !is_irreversible {
            return RollbackPoint::NotNeeded;
        }
        let mut levels = self.take_back.levels.iter().zip(1..);
        let first = levels.find(|(level, _)| level.automatic || !is_irreversible);
        first.map_or(RollbackPoint::Person, |(level, number)| RollbackPoint::Level {
            level: number,
            apply_within: level.apply_within,
        })
    }
}
