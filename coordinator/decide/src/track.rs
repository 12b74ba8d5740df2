//! What one criterion says of one series, or of several pooled, since the evidence epoch began.

use std::collections::VecDeque;

use bellwether_protocol::id::CriterionName;
use bellwether_protocol::plan::{Criterion, Objective, OnFail};
use bellwether_protocol::reason::{Lack, Verdict};
use bellwether_protocol::time::{Span, Timestamp};
use serde::{Deserialize, Serialize};

use crate::budget::Share;
use crate::judge;
use crate::kernel::threshold::{Counts, ln_ratio, ln_ratios};
use crate::tally::Tally;
use crate::test::Test;

/// A share or quantile fails on no fewer bad events than this: one alone is an accident.
const BAD_MIN: u64 = 2;
/// How many slots are remembered one by one.
const RECENT_MAX: usize = 40;
/// Slots in a row that must not be red before a bad day, which the baseline shared, is over.
const GREEN_AGAIN: u32 = 3;

/// What one criterion says of one series, or of a pool.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Track {
    /// The criterion.
    pub criterion: CriterionName,
    /// Everything since the epoch began.
    pub total: Tally,
    /// The last slot that held an event.
    pub last: Tally,
    /// The last slots that held events, with their counts, for people: where a failure began.
    pub recent: VecDeque<(Timestamp, Counts)>,
    /// Slots in a row without one good answer.
    pub bad_run: u32,
    /// The test, or the rule that remembers more than counts.
    pub test: Option<Test>,
    /// What the test's evidence must reach.
    pub bar: f64,
    /// How many slots the stage is planned to take.
    pub planned: u64,
    /// Width of a slot.
    pub slot: Span,
    /// Since when it has been beyond the limit without a break, before `for:`.
    pub failing_since: Option<Timestamp>,
    /// The slot in which it first was.
    pub crossed: Option<Timestamp>,
    /// The last slot in which it was.
    pub beyond: Option<Timestamp>,
    /// End of the slot in which a criterion that takes back has failed: what follows does not undo it.
    pub failed_at: Option<Timestamp>,
    /// Set while the baseline is as red: slots in a row since then that were not red.
    pub shared: Option<u32>,
    /// Set once the Pass test has proven that it holds, until a slot is not covered.
    pub proven: bool,
    /// End of the last slot that was not covered: from there on a Pass is proven anew.
    pub anew_from: Option<Timestamp>,
    /// End of the last slot that was folded.
    pub upto: Timestamp,
    /// What people were last told.
    pub told: Verdict,
    /// Whether people were last told that it is over the target.
    pub told_over_target: bool,
}

/// One slot of one region in both cohorts.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Pair {
    /// What the canary gave.
    pub canary: Tally,
    /// What the baseline gave.
    pub baseline: Tally,
}

impl Track {
    /// A track on which nothing was seen yet; its first slot begins at `from`.
    pub fn new(criterion: &Criterion, share: Share, slot: Span, from: Timestamp) -> Self {
        Self {
            criterion: criterion.name.clone(),
            total: Tally::default(),
            last: Tally::default(),
            recent: VecDeque::new(),
            bad_run: 0,
            test: Test::new(criterion, share.planned, slot),
            bar: share.bar,
            planned: share.planned,
            slot,
            failing_since: None,
            crossed: None,
            beyond: None,
            failed_at: None,
            shared: None,
            proven: false,
            anew_from: None,
            upto: from,
            told: Verdict::Inconclusive(Lack::NoData),
            told_over_target: false,
        }
    }

    /// Folds one slot. Slots come in their order, and each once. A slot that was not covered is a gap:
    /// what was proven before it is not proven any more.
    pub fn push(&mut self, criterion: &Criterion, slot: Timestamp, tally: &Tally, pairs: &[Pair], is_covered: bool) {
        let fell = self.fell(criterion, tally);
        let tally = fell.as_ref().unwrap_or(tally);
        self.total.add(tally);
        if tally.n > 0 {
            self.bad_run = if tally.bad == tally.n { self.bad_run.saturating_add(1) } else { 0 };
            self.last = tally.clone();
            self.remember(slot, tally.counts());
        }
        self.upto = slot + self.slot;
        self.anew_from = if is_covered { self.anew_from } else { Some(self.upto) };
        if let Some(test) = &mut self.test {
            test.fold(slot, tally, pairs, is_covered);
            let is_reached = test.ln_e_pass().is_some_and(|ln_e| ln_e >= judge::pass_bar());
            self.proven = is_covered && (self.proven || is_reached);
        }
        if self.exceeds(criterion) {
            self.failing_since.get_or_insert(slot);
            self.crossed.get_or_insert(slot);
            self.beyond = Some(slot);
        } else {
            self.failing_since = None;
        }
        self.note_failure(criterion);
        self.note_shared(criterion, tally);
    }

    /// The slot with a fall counted, when a number that may only rise fell since the last one.
    fn fell(&self, criterion: &Criterion, tally: &Tally) -> Option<Tally> {
        let is_rising = matches!(criterion.objective, Objective::Rising { .. });
        let (now, before) = tally.value.zip(self.last.value).filter(|_| is_rising)?;
        (now < before && tally.bad == 0).then(|| Tally { bad: 1, over_target: 1, ..tally.clone() })
    }

    /// What arrived too late for its slot may worsen: it breaks zero tolerance, and what was proven
    /// is not proven any more. It is no proof of a failure: being late is no fair draw.
    pub fn push_late(&mut self, criterion: &Criterion, slot: Timestamp, tally: &Tally) {
        if tally.over_target == 0 && tally.bad == 0 {
            return;
        }
        // Only its bad answers: its good ones would dilute what was seen in time.
        let bad = tally.bad.max(tally.over_target);
        self.total.add(&Tally { n: bad, bad: tally.bad, over_target: tally.over_target, ..Tally::default() });
        self.remember(slot, Counts { good: 0, bad: tally.bad });
        self.proven = false;
        self.test.iter_mut().for_each(|test| test.fold_late(tally));
        if self.exceeds(criterion) {
            self.failing_since.get_or_insert(self.upto);
            self.note_failure(criterion);
        }
    }

    /// Whether it has been beyond the limit for as long as the plan wants.
    pub fn fails(&self, criterion: &Criterion) -> bool {
        self.failed_at.is_some() || self.has_lasted(criterion)
    }

    /// What it calls for now; nothing while it does not fail. A take-back once called for stays so.
    pub fn act(&self, criterion: &Criterion) -> Option<OnFail> {
        if self.failed_at.is_some() {
            return Some(OnFail::Rollback);
        }
        let failing = self.upto.since(self.failing_since?);
        (failing >= criterion.hold_for).then(|| criterion.act(failing))
    }

    /// The slots that say most against the release, by a likelihood ratio of two shares: since when,
    /// and their counts. Absent when that is the whole stage.
    pub fn worst_since(&self, limit: f64, alternative: f64) -> Option<(Timestamp, Counts)> {
        let ratios = ln_ratios(alternative, limit);
        let evidence = |counts: Counts| ln_ratio(counts, ratios);
        let whole = self.total.counts();
        let mut worst = (evidence(whole), None);
        let mut sum = Counts::default();
        for (slot, counts) in self.recent.iter().rev() {
            sum = sum.plus(*counts);
            if evidence(sum) > worst.0 && sum != whole {
                worst = (evidence(sum), Some((*slot, sum)));
            }
        }
        worst.1
    }

    /// Whether the counts of a slot are still there, where it held events.
    pub fn remembers(&self, slot: Timestamp) -> bool {
        self.recent.len() < RECENT_MAX || self.recent.front().is_some_and(|(first, _)| *first <= slot)
    }

    /// What was seen in the slots in which `other` saw something too, from `since` on. Of the whole
    /// stage where that is too long to remember slot by slot.
    pub fn beside(&self, other: &Self, since: Option<Timestamp>) -> Counts {
        let Some(since) =
            since.or_else(|| other.recent.front().filter(|_| other.recent.len() < RECENT_MAX).map(|(slot, _)| *slot))
        else {
            return self.counts(None);
        };
        let is_both = |slot: &Timestamp| *slot >= since && other.recent.iter().any(|(own, _)| own == slot);
        let both = self.recent.iter().filter(|(slot, _)| is_both(slot));
        both.fold(Counts::default(), |sum, (_, counts)| sum.plus(*counts))
    }

    /// What was seen from a slot on that is among the last ones; of the whole stage without one.
    pub fn counts(&self, since: Option<Timestamp>) -> Counts {
        let whole = self.total.counts();
        since.map_or(whole, |since| {
            let later = self.recent.iter().filter(|(slot, _)| *slot >= since);
            later.fold(Counts::default(), |sum, (_, counts)| sum.plus(*counts))
        })
    }

    /// The baseline is as red: what was seen is not blamed on the release. Once both have been green
    /// for a while the track begins anew, for a bad day says nothing of the release. Zero tolerance
    /// does not begin anew.
    pub fn share_blame(&mut self) {
        self.shared.get_or_insert(0);
    }

    /// Keeps the counts of one slot, in the order of slots.
    fn remember(&mut self, slot: Timestamp, counts: Counts) {
        let after = self.recent.partition_point(|(own, _)| *own <= slot);
        match self.recent.get_mut(after.wrapping_sub(1)) {
            Some((own, sum)) if *own == slot => *sum = sum.plus(counts),
            _ => self.recent.insert(after, (slot, counts)),
        }
        if self.recent.len() > RECENT_MAX {
            self.recent.pop_front();
        }
    }

    fn note_failure(&mut self, criterion: &Criterion) {
        if self.act(criterion) == Some(OnFail::Rollback) {
            self.failed_at.get_or_insert(self.upto);
        }
    }

    fn note_shared(&mut self, criterion: &Criterion, tally: &Tally) {
        let Some(green) = self.shared.filter(|_| tally.n > 0) else { return };
        let green = if judge::is_red(criterion, tally) { 0 } else { green + 1 };
        self.shared = Some(green);
        if green >= GREEN_AGAIN && !matches!(criterion.objective, Objective::Zero { .. }) {
            let share = Share { bar: self.bar, planned: self.planned };
            let (told, told_over_target) = (self.told, self.told_over_target);
            *self = Self { told, told_over_target, ..Self::new(criterion, share, self.slot, self.upto) };
        }
    }

    fn has_lasted(&self, criterion: &Criterion) -> bool {
        self.failing_since.is_some_and(|since| self.upto.since(since) >= criterion.hold_for)
    }

    /// Whether the evidence is beyond the limit now, before `for:`.
    fn exceeds(&self, criterion: &Criterion) -> bool {
        let is_enough = self.total.n >= criterion.min_events;
        let ln_e_fail = self.test.as_ref().and_then(Test::ln_e_fail);
        let is_proven = || ln_e_fail.is_some_and(|ln_e| ln_e >= self.bar);
        match &criterion.objective {
            Objective::Burn { .. } | Objective::Stable { .. } => self.test.as_ref().is_some_and(Test::is_broken),
            Objective::Compare { .. } | Objective::Quantile { .. } | Objective::Ratio { .. } => {
                is_enough && self.total.bad >= BAD_MIN && is_proven()
            }
            Objective::CompareLatency { .. } => is_enough && is_proven(),
            Objective::Consecutive { slots } => self.bad_run >= *slots,
            Objective::Number { .. } => self.last.n >= criterion.min_events && self.last.bad > 0,
            Objective::Rising { .. } | Objective::Zero { .. } => self.total.bad > 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::tests::criterion;

    #[test]
    fn a_number_that_may_only_rise_fails_for_good_when_it_falls() {
        let criterion = criterion("restarts", true, Objective::Rising { number: "uptime".parse().unwrap() });
        let slot = Span::from_secs(30);
        let fails = |values: &[Option<f64>]| -> Vec<bool> {
            let begin = Timestamp::from_ms(1_800_000_000_000);
            let mut track = Track::new(&criterion, Share { bar: 0.0, planned: 100 }, slot, begin);
            let mut at = begin;
            let mut seen = Vec::new();
            for value in values {
                let tally = Tally { n: u64::from(value.is_some()), value: *value, ..Tally::default() };
                track.push(&criterion, at, &tally, &[], value.is_some());
                seen.push(track.fails(&criterion));
                at = at + slot;
            }
            seen
        };
        assert_eq!(fails(&[Some(10.0), Some(40.0), None, Some(100.0)]), [false; 4]);
        assert_eq!(fails(&[Some(10.0), Some(40.0), None, Some(5.0), Some(35.0)]), [false, false, false, true, true]);
    }
}
