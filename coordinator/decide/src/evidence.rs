//! What the closed slots add up to, since the evidence epoch began.
//!
//! Slots are folded per series in slot order, so that the result does not depend on how they were
//! batched into records. State per series is bounded by the longest window of its criteria.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bellwether_protocol::command::Excluded;
use bellwether_protocol::id::{CriterionName, Region, Release};
use bellwether_protocol::plan::{Criterion, Plan, Stage};
use bellwether_protocol::reason::{Lack, Verdict};
use bellwether_protocol::record::{ClosedSlot, Series};
use bellwether_protocol::sample::{Cohort, EVIDENCE_MAX, Evidence as Seen, Portion, class};
use bellwether_protocol::time::{Span, Timestamp, slot_start};
use serde::{Deserialize, Serialize};

use crate::judge::{self, Tally};

/// How many slots the strip of a series remembers.
pub const STRIP_LEN: usize = 20;

/// What was seen since the epoch began.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// Slots that begin before this instant are not evidence: they straddle a change.
    pub from: Timestamp,
    /// Every series that is looked at.
    pub series: BTreeMap<Series, SeriesState>,
    /// Regions pooled, per SLI and cohort; empty where only one region is looked at.
    pub pools: Vec<Pool>,
    /// The first failures.
    pub first_bad: Vec<Seen>,
}

/// One series.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SeriesState {
    /// Start of the next slot to close.
    pub next: Timestamp,
    /// Slots of this epoch.
    pub slots: u64,
    /// Of these, covered.
    pub covered: u64,
    /// Of these, with no criterion failing on the new release: what the soak counts.
    pub soaked: u64,
    /// Since when slots were not covered, without a break.
    pub uncovered_since: Option<Timestamp>,
    /// What was seen of the last slots: `.` green, `x` red, `?` not covered. Oldest first.
    pub strip: String,
    /// Releases that answered in the last slot.
    pub answering: Vec<Release>,
    /// What the criteria of this SLI say here.
    pub tracks: Vec<Track>,
    /// Green slots of this epoch, and slots of it that were covered; for recovery.
    pub green: BTreeSet<Timestamp>,
    /// What the last slot that answered at all showed of the release.
    pub sight: Option<Sight>,
}

/// Which release a slot showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sight {
    /// Only the expected one.
    Expected,
    /// Another one, alone or among others.
    Other,
}

/// One SLI and cohort over all regions of the stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pool {
    /// Any of the series that are pooled; its region means nothing.
    pub like: Series,
    /// How many regions are pooled.
    pub regions: usize,
    /// Slots that some regions have closed: how many, and one tally per track.
    pub pending: BTreeMap<Timestamp, (usize, Vec<Tally>)>,
    /// What the criteria say of the pool.
    pub tracks: Vec<Track>,
}

/// What one criterion says of one series, or of a pool.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Track {
    /// The criterion.
    pub criterion: CriterionName,
    /// Everything since the epoch began.
    pub total: Tally,
    /// The last slots, as far as the window reaches.
    pub recent: VecDeque<(Timestamp, Tally)>,
    /// Slots in a row without one good answer.
    pub bad_run: u32,
    /// Since when it has failed without a break, before `for:`.
    pub failing_since: Option<Timestamp>,
    /// End of the last slot that was folded.
    pub upto: Timestamp,
    /// What people were last told.
    pub told: Verdict,
    /// Whether people were last told that it is over the target.
    pub told_over_target: bool,
}

impl Track {
    fn new(criterion: &Criterion, from: Timestamp) -> Self {
        Self {
            criterion: criterion.name.clone(),
            total: Tally::default(),
            recent: VecDeque::new(),
            bad_run: 0,
            failing_since: None,
            upto: from,
            told: Verdict::Inconclusive(Lack::NoData),
            told_over_target: false,
        }
    }

    fn push(&mut self, criterion: &Criterion, slot: Timestamp, width: Span, tally: Tally) {
        self.total.add(&tally);
        if tally.n > 0 {
            self.bad_run = if tally.bad == tally.n { self.bad_run.saturating_add(1) } else { 0 };
        }
        self.upto = slot + width;
        self.recent.push_back((slot, tally));
        let keep_from = self.upto - criterion.window.unwrap_or(width);
        while self.recent.front().is_some_and(|(slot, _)| *slot < keep_from) {
            self.recent.pop_front();
        }
        if judge::exceeds(criterion, self) {
            self.failing_since.get_or_insert(slot);
        } else {
            self.failing_since = None;
        }
    }

    /// What arrived too late for its slot: it may worsen the totals, and never restores anything.
    fn push_late(&mut self, criterion: &Criterion, slot: Timestamp, tally: Tally) {
        if tally.bad == 0 {
            return;
        }
        // Only its bad answers: its good ones would dilute what was seen in time.
        let tally = Tally { n: tally.bad, ..tally };
        self.total.add(&tally);
        if let Some((_, own)) = self.recent.iter_mut().find(|(own, _)| *own == slot) {
            own.add(&tally);
        }
        if judge::exceeds(criterion, self) {
            self.failing_since.get_or_insert(slot);
        }
    }
}

/// What a slot is judged against.
pub(crate) struct Frame<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) stage: &'a Stage,
    /// Which release each cohort should show; `None` where the plan has no fingerprint.
    pub(crate) canary: Option<&'a Release>,
    pub(crate) baseline: Option<&'a Release>,
}

impl Frame<'_> {
    fn expected(&self, cohort: Cohort) -> Option<&Release> {
        match cohort {
            Cohort::Baseline => self.baseline,
            Cohort::Canary => self.canary,
        }
    }

    /// The criteria of this stage that judge the SLI of a series.
    fn criteria(&self, series: &Series) -> impl Iterator<Item = &Criterion> {
        let names = self.stage.criteria.iter();
        names.filter_map(|name| self.plan.criterion(name)).filter(|criterion| criterion.sli == series.sli)
    }
}

/// Every series that a stage looks at, in order.
pub(crate) fn series_of(plan: &Plan, stage: &Stage) -> BTreeSet<Series> {
    let mut all = BTreeSet::new();
    for criterion in stage.criteria.iter().filter_map(|name| plan.criterion(name)) {
        for region in &stage.regions {
            for cohort in &stage.cohorts {
                all.insert(Series { sli: criterion.sli.clone(), cohort: *cohort, region: region.clone() });
            }
        }
    }
    all
}

impl Evidence {
    /// Begins an epoch at `from`: nothing seen so far counts. A series that is already looked at
    /// goes on where it stands, so that no slot is closed twice.
    pub(crate) fn begin(&mut self, frame: &Frame<'_>, from: Timestamp) {
        let width = frame.plan.slot;
        let first = slot_start(from, width);
        let first = if first < from { first + width } else { first };
        let mut series = BTreeMap::new();
        for key in series_of(frame.plan, frame.stage) {
            let old = self.series.get(&key);
            let tracks = frame.criteria(&key).map(|criterion| Track::new(criterion, first)).collect();
            let state = SeriesState {
                next: old.map_or(first, |old| old.next),
                slots: 0,
                covered: 0,
                soaked: 0,
                uncovered_since: None,
                strip: old.map(|old| old.strip.clone()).unwrap_or_default(),
                answering: old.map(|old| old.answering.clone()).unwrap_or_default(),
                tracks,
                green: BTreeSet::new(),
                sight: None,
            };
            series.insert(key, state);
        }
        self.pools = pools(frame, &series, first);
        self.series = series;
        self.from = from;
        self.first_bad = Vec::new();
    }

    /// Folds one closed slot. A slot that is not the next of its series was already folded, by this
    /// record's writer or another; then nothing changes.
    pub(crate) fn fold(&mut self, frame: &Frame<'_>, closed: &ClosedSlot) {
        let width = frame.plan.slot;
        let Some(state) = self.series.get_mut(&closed.series) else { return };
        if closed.slot != state.next {
            return;
        }
        state.next = closed.slot + width;
        let view = View::of(frame, closed);
        state.answering = closed.portions.iter().filter_map(|portion| portion.release.clone()).collect();
        let counts = closed.slot >= self.from;
        let mut red = false;
        let mut tallies = Vec::new();
        for criterion in frame.criteria(&closed.series) {
            let tally = Tally::of(criterion, &view.portions);
            red |= judge::slot_is_red(criterion, &tally);
            tallies.push(tally);
        }
        state.strip.push(if red {
            'x'
        } else if view.covered {
            '.'
        } else {
            '?'
        });
        while state.strip.chars().count() > STRIP_LEN {
            state.strip.remove(0);
        }
        if !counts {
            return;
        }
        let mut failing = false;
        for ((track, criterion), tally) in state.tracks.iter_mut().zip(frame.criteria(&closed.series)).zip(&tallies) {
            track.push(criterion, closed.slot, width, tally.clone());
            // What the release itself fails is not green, whoever else fails it too; what only the old
            // release fails is no reason to wait.
            let is_canary = closed.series.cohort == Cohort::Canary;
            failing |= is_canary && judge::fails(criterion, track);
        }
        state.count(closed.slot, &view, red, failing, usize::try_from(frame.plan.take_back.within).unwrap_or(0));
        self.first_bad.extend(closed.evidence.iter().cloned());
        self.first_bad.truncate(EVIDENCE_MAX);
        self.fold_pool(frame, closed, tallies);
    }

    /// Folds a slot that arrived after it was closed.
    pub(crate) fn fold_late(&mut self, frame: &Frame<'_>, late: &ClosedSlot) {
        if late.slot < self.from {
            return;
        }
        let Some(state) = self.series.get_mut(&late.series) else { return };
        let view = View::of(frame, late);
        for (track, criterion) in state.tracks.iter_mut().zip(frame.criteria(&late.series)) {
            track.push_late(criterion, late.slot, Tally::of(criterion, &view.portions));
        }
    }

    fn fold_pool(&mut self, frame: &Frame<'_>, closed: &ClosedSlot, tallies: Vec<Tally>) {
        let same = |pool: &&mut Pool| pool.like.sli == closed.series.sli && pool.like.cohort == closed.series.cohort;
        let Some(pool) = self.pools.iter_mut().find(same) else { return };
        let (regions, sums) =
            pool.pending.entry(closed.slot).or_insert_with(|| (0, vec![Tally::default(); tallies.len()]));
        *regions += 1;
        for (sum, tally) in sums.iter_mut().zip(&tallies) {
            sum.add(tally);
        }
        // Regions close in any order; the pool takes a slot only when all have, and so in slot order.
        while let Some(first) = pool.pending.first_entry().filter(|entry| entry.get().0 >= pool.regions) {
            let (slot, (_, sums)) = first.remove_entry();
            for ((track, criterion), tally) in pool.tracks.iter_mut().zip(frame.criteria(&closed.series)).zip(sums) {
                track.push(criterion, slot, frame.plan.slot, tally);
            }
        }
    }

    /// Regions with a series whose last slot was not covered, and since when.
    pub fn silent(&self) -> BTreeMap<Region, Timestamp> {
        let mut silent = BTreeMap::new();
        for (series, state) in &self.series {
            if let Some(since) = state.uncovered_since {
                let earliest = silent.entry(series.region.clone()).or_insert(since);
                *earliest = since.min(*earliest);
            }
        }
        silent
    }

    /// Slots that were green in every series that is not left out.
    pub(crate) fn green_slots(&self, is_excluded: impl Fn(&Excluded) -> bool) -> u32 {
        let counted = self.series.iter().filter(|(series, _)| !is_excluded(&Excluded::Region(series.region.clone())));
        let sets: Vec<&BTreeSet<Timestamp>> = counted.map(|(_, state)| &state.green).collect();
        let Some((first, rest)) = sets.split_first() else { return 0 };
        let green = first.iter().filter(|slot| rest.iter().all(|set| set.contains(*slot))).count();
        u32::try_from(green).unwrap_or(u32::MAX)
    }
}

impl SeriesState {
    fn count(&mut self, slot: Timestamp, view: &View, red: bool, failing: bool, green_kept: usize) {
        self.slots += 1;
        self.sight = view.sight.or(self.sight);
        if !view.covered {
            self.uncovered_since.get_or_insert(slot);
            return;
        }
        self.uncovered_since = None;
        self.covered += 1;
        if !failing {
            self.soaked += 1;
        }
        if !red && view.sight != Some(Sight::Other) {
            self.green.insert(slot);
            while self.green.len() > green_kept {
                self.green.pop_first();
            }
        }
    }
}

/// A slot as one cohort's evidence.
struct View {
    portions: Vec<Portion>,
    covered: bool,
    sight: Option<Sight>,
}

impl View {
    /// What of a slot is evidence for its cohort: answers of the expected release, and bad answers
    /// that named no release. A different release is not evidence, nor is a good answer without a name.
    fn of(frame: &Frame<'_>, closed: &ClosedSlot) -> Self {
        let Some(expected) = frame.expected(closed.series.cohort) else {
            let covered = closed.reporters >= frame.plan.quorum;
            return Self { portions: closed.portions.clone(), covered, sight: None };
        };
        let mut portions = Vec::new();
        let (mut named, mut other) = (false, false);
        for portion in closed.portions.iter().filter(|portion| portion.n() > 0) {
            match &portion.release {
                Some(release) if release == expected => {
                    named = true;
                    portions.push(portion.clone());
                }
                Some(_) => other = true,
                None => {
                    let mut bad = portion.clone();
                    bad.classes.retain(|name, _| !class::is_ok(name));
                    bad.latency = Default::default();
                    bad.numbers = BTreeMap::new();
                    portions.push(bad);
                }
            }
        }
        let looked = closed.portions.iter().any(|portion| portion.n() > 0);
        let attributed = portions.iter().any(|portion| portion.n() > 0);
        Self {
            covered: closed.reporters >= frame.plan.quorum && (!looked || attributed),
            sight: if other {
                Some(Sight::Other)
            } else if named {
                Some(Sight::Expected)
            } else {
                None
            },
            portions,
        }
    }
}

fn pools(frame: &Frame<'_>, series: &BTreeMap<Series, SeriesState>, from: Timestamp) -> Vec<Pool> {
    let mut pools: Vec<Pool> = Vec::new();
    for key in series.keys() {
        match pools.iter_mut().find(|pool| pool.like.sli == key.sli && pool.like.cohort == key.cohort) {
            Some(pool) => pool.regions += 1,
            None => pools.push(Pool {
                like: key.clone(),
                regions: 1,
                pending: BTreeMap::new(),
                tracks: frame.criteria(key).map(|criterion| Track::new(criterion, from)).collect(),
            }),
        }
    }
    pools.retain(|pool| pool.regions > 1);
    pools
}

#[cfg(test)]
mod tests {
    use bellwether_protocol::plan::{Objective, OnFail};
    use bellwether_protocol::ratio::Ratio;

    use super::*;

    const WIDTH: Span = Span::from_secs(30);
    const PASS: Verdict = Verdict::Pass;
    const FAIL: Verdict = Verdict::Fail;
    const NO_DATA: Verdict = Verdict::Inconclusive(Lack::NoData);
    const NOT_PROVEN: Verdict = Verdict::Inconclusive(Lack::NotProven);

    fn criterion(objective: Objective) -> Criterion {
        Criterion {
            name: "c".parse().unwrap(),
            sli: "s".parse().unwrap(),
            objective,
            hard: true,
            window: None,
            hold_for: Span::ZERO,
            min_events: 1,
            on_fail: OnFail::Rollback,
        }
    }

    fn ratio() -> Criterion {
        criterion(Objective::Ratio { bad: Vec::new(), max: Ratio::from_ppb(10_000_000), target: None })
    }

    /// Folds slots of (n, bad) and says what the last verdict is.
    fn check(criterion: &Criterion, slots: &[(u64, u64)], expected: Verdict) {
        let start = Timestamp::from_ms(0);
        let mut track = Track::new(criterion, start);
        let mut at = start;
        for (n, bad) in slots {
            track.push(criterion, at, WIDTH, Tally { n: *n, bad: *bad, over_target: 0, worst: None });
            at = at + WIDTH;
        }
        let judged = judge::judgement(criterion, &track, Cohort::Canary, None, false);
        assert_eq!(judged.verdict, expected, "{:?} after {slots:?}", criterion.objective);
        let silent = judge::judgement(criterion, &track, Cohort::Canary, None, true);
        assert_ne!(silent.verdict, PASS, "silence passed: {:?} after {slots:?}", criterion.objective);
    }

    #[test]
    fn a_share_is_judged_against_its_limit_once_there_are_events() {
        check(&ratio(), &[], NO_DATA);
        check(&ratio(), &[(0, 0)], NO_DATA);
        check(&ratio(), &[(100, 1)], PASS);
        check(&ratio(), &[(100, 1), (100, 2)], FAIL);
        check(&Criterion { min_events: 200, ..ratio() }, &[(100, 50)], NO_DATA);
        check(&Criterion { min_events: 200, ..ratio() }, &[(100, 50), (100, 0)], FAIL);
    }

    #[test]
    fn a_window_forgets_what_lies_before_it() {
        let window = Criterion { window: Some(WIDTH.times(2)), ..ratio() };
        check(&window, &[(100, 50), (100, 0)], FAIL);
        check(&window, &[(100, 50), (100, 0), (100, 0)], PASS);
        check(&window, &[(100, 0), (0, 0), (0, 0)], NO_DATA);
    }

    #[test]
    fn a_fail_counts_only_after_it_has_lasted() {
        let patient = Criterion { hold_for: WIDTH.times(2), window: Some(WIDTH), ..ratio() };
        check(&patient, &[(100, 50)], NOT_PROVEN);
        check(&patient, &[(100, 50), (100, 50)], FAIL);
        check(&patient, &[(100, 50), (100, 0), (100, 50)], NOT_PROVEN);
    }

    #[test]
    fn zero_tolerance_never_forgets() {
        let zero = criterion(Objective::Zero { bad: Vec::new() });
        check(&zero, &[(100, 0)], PASS);
        check(&zero, &[(100, 1), (10_000, 0)], FAIL);
    }

    #[test]
    fn failures_in_a_row_are_ended_by_one_good_answer() {
        let row = criterion(Objective::Consecutive { slots: 3 });
        check(&row, &[(5, 5), (5, 5)], PASS);
        check(&row, &[(5, 5), (5, 5), (5, 4), (5, 5)], PASS);
        check(&row, &[(5, 5), (0, 0), (5, 5), (5, 5)], FAIL);
    }

    #[test]
    fn a_number_is_judged_by_its_last_slot() {
        let number = "memory".parse().unwrap();
        let level = criterion(Objective::Number { number, min: None, max: Some(1.8e9), target: None });
        check(&level, &[(3, 0)], PASS);
        check(&level, &[(3, 0), (3, 3)], FAIL);
        check(&level, &[(3, 3), (3, 0)], PASS);
    }

    #[test]
    fn what_comes_late_may_only_worsen() {
        let criterion = ratio();
        let mut track = Track::new(&criterion, Timestamp::from_ms(0));
        track.push(&criterion, Timestamp::from_ms(0), WIDTH, Tally { n: 100, bad: 2, over_target: 0, worst: None });
        assert!(judge::fails(&criterion, &track));
        track.push_late(&criterion, Timestamp::from_ms(0), Tally { n: 10_000, bad: 0, over_target: 0, worst: None });
        track.push_late(&criterion, Timestamp::from_ms(0), Tally { n: 10_000, bad: 1, over_target: 0, worst: None });
        assert!(judge::fails(&criterion, &track), "good news that came late undid a fail");
    }
}
