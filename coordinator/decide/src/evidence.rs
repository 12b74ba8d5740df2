//! What the closed slots add up to, since the evidence epoch began.
//!
//! Slots are folded per series in slot order, so that the result does not depend on how they were
//! batched into records. State per series is bounded by the longest window of its criteria.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use bellwether_protocol::command::Excluded;
use bellwether_protocol::id::{Class, Region, Release, SliName};
use bellwether_protocol::plan::{Criterion, Objective, OnFail, Plan, Sli, Stage};
use bellwether_protocol::record::{ClosedSlot, Series};
use bellwether_protocol::sample::{Cohort, EVIDENCE_MAX, Evidence as Seen, Portion, class};
use bellwether_protocol::time::{Timestamp, slot_start};
use serde::{Deserialize, Serialize};

use crate::budget;
use crate::judge;
use crate::state::Exclusion;
use crate::tally::{Attributed, Count, Tally};
use crate::track::{Pair, Track};

/// How many slots the strip of a series remembers.
pub const STRIP_LEN: usize = 20;

/// What was seen since the epoch began.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// Slots that begin before this instant are not evidence: they straddle a change.
    pub from: Timestamp,
    /// Every series that is looked at.
    pub series: BTreeMap<Series, SeriesState>,
    /// What is judged of several series at once: regions pooled, and the canary beside the baseline.
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

/// What is judged of several series of one SLI at once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pool {
    /// The SLI.
    pub sli: SliName,
    /// The cohort that is judged.
    pub cohort: Cohort,
    /// The one region; absent when all are pooled.
    pub region: Option<Region>,
    /// Whether the canary is compared with the baseline of the same region and slot.
    pub is_paired: bool,
    /// How many series are in it.
    pub members: usize,
    /// Slots that some of its series have closed, with one tally per track.
    pub pending: BTreeMap<Timestamp, Vec<Part>>,
    /// What the criteria say.
    pub tracks: Vec<Track>,
}

/// One series' part of a pooled slot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// Which.
    pub series: Series,
    /// Whether enough reporters were in.
    pub is_covered: bool,
    /// One for each of the pool's tracks.
    pub tallies: Vec<Tally>,
}

/// What slots are judged against.
pub struct Frame<'a> {
    plan: &'a Plan,
    stage: &'a Stage,
    expected: Expected<'a>,
    is_entering: bool,
    /// SLIs that must be answered by refusals, and then every refusal is a good answer.
    refuses: &'a [SliName],
    /// What was left out by hand.
    excluded: &'a [Exclusion],
    /// The criteria of the stage, by the SLI that they judge.
    criteria: BTreeMap<&'a SliName, Criteria<'a>>,
}

/// What one closed slot says.
#[derive(Debug, Clone)]
pub struct Counted<'a> {
    /// `.` green, `x` red, `?` not covered.
    pub mark: char,
    /// What each criterion of its SLI counts in it.
    pub tallies: Vec<(&'a Criterion, Tally)>,
    /// The portions that are evidence for its cohort.
    pub seen: Vec<Attributed<'a>>,
}

/// Which release answers which cohort in each region, as far as the plan can tell: of none where it
/// has no fingerprint.
#[derive(Debug, Default, Clone)]
pub struct Expected<'a> {
    /// The release that the canary should show.
    pub canary: BTreeMap<&'a Region, &'a Release>,
    /// The release that the baseline should show.
    pub baseline: BTreeMap<&'a Region, &'a Release>,
}

/// The criteria of one SLI.
#[derive(Default)]
struct Criteria<'a> {
    /// Those that judge one cohort by itself.
    alone: Vec<&'a Criterion>,
    /// Those that judge the canary by the baseline beside it.
    paired: Vec<&'a Criterion>,
}

impl<'a> Criteria<'a> {
    fn of(&self, is_paired: bool) -> &[&'a Criterion] {
        if is_paired { &self.paired } else { &self.alone }
    }
}

impl<'a> Frame<'a> {
    /// A frame for one stage. While it `is_entering`, tests get the part of the budget that is kept for that.
    pub fn new(
        plan: &'a Plan,
        stage: &'a Stage,
        expected: Expected<'a>,
        is_entering: bool,
        refuses: &'a [SliName],
    ) -> Self {
        let mut criteria: BTreeMap<&SliName, Criteria<'_>> = BTreeMap::new();
        for criterion in stage.criteria.iter().filter_map(|name| plan.criterion(name)) {
            let here = criteria.entry(&criterion.sli).or_default();
            if is_paired(criterion) { &mut here.paired } else { &mut here.alone }.push(criterion);
        }
        Self { plan, stage, expected, is_entering, refuses, excluded: &[], criteria }
    }

    /// The same, where something was left out by hand.
    pub(crate) fn without(self, excluded: &'a [Exclusion]) -> Self {
        Self { excluded, ..self }
    }

    /// Whether a criterion is left out in a slot: then nothing waits for it.
    fn is_out(&self, criterion: &Criterion, slot: Timestamp) -> bool {
        let is_it = |what: &Excluded| matches!(what, Excluded::Criterion(name) if *name == criterion.name);
        self.excluded.iter().any(|exclusion| slot < exclusion.until && is_it(&exclusion.what))
    }

    fn expected(&self, series: &Series) -> Option<&Release> {
        let releases = match series.cohort {
            Cohort::Baseline => &self.expected.baseline,
            Cohort::Canary => &self.expected.canary,
        };
        releases.get(&series.region).copied()
    }

    /// A slot as this frame counts it: where refusals are asked for, they are good answers.
    fn read<'s>(&self, closed: &'s ClosedSlot) -> Cow<'s, ClosedSlot> {
        let is_refused = |portion: &Portion| portion.classes.keys().any(is_refusal);
        if self.refuses.is_empty() || !closed.portions.iter().any(is_refused) {
            return Cow::Borrowed(closed);
        }
        let mut closed = closed.clone();
        for portion in &mut closed.portions {
            let (refused, mut classes): (BTreeMap<_, _>, BTreeMap<_, _>) =
                std::mem::take(&mut portion.classes).into_iter().partition(|(class, _)| is_refusal(class));
            let count = refused.into_values().fold(0_u64, u64::saturating_add);
            let ok = classes.entry(class::ok()).or_default();
            *ok = ok.saturating_add(count);
            portion.classes = classes;
        }
        Cow::Owned(closed)
    }

    fn criteria(&self, sli: &SliName, is_paired: bool) -> &[&'a Criterion] {
        self.criteria.get(sli).map_or(&[], |criteria| criteria.of(is_paired))
    }

    /// What one closed slot says, as [`Evidence::fold`] counts it.
    pub(crate) fn counted(&self, closed: &'a ClosedSlot) -> Counted<'a> {
        let view = View::of(self, closed, refused(closed) == Some(Sight::Expected));
        let (sli, cohort) = (&closed.series.sli, closed.series.cohort);
        let alone = self.criteria(sli, false).iter().map(|own| (*own, Tally::of(own, &view.seen, Count::Alone)));
        let alone: Vec<_> = alone.collect();
        let red = alone.iter().any(|(criterion, tally)| judge::slot_is_red(criterion, tally));
        let paired = self.criteria(sli, true).iter();
        let paired = paired.map(|own| (*own, Tally::of(own, &view.seen, judge::count(own, cohort))));
        let tallies = alone.into_iter().chain(paired).collect();
        Counted { mark: mark(red, view.is_covered), tallies, seen: view.seen }
    }

    fn tracks(&self, sli: &SliName, is_paired: bool, from: Timestamp) -> Vec<Track> {
        let track = |criterion: &&Criterion| {
            let share = budget::share(self.plan, self.stage, criterion, self.is_entering);
            Track::new(criterion, share, self.plan.slot, from)
        };
        self.criteria(sli, is_paired).iter().map(track).collect()
    }
}

fn mark(red: bool, is_covered: bool) -> char {
    match (red, is_covered) {
        (true, _) => 'x',
        (false, true) => '.',
        (false, false) => '?',
    }
}

/// Whether the canary is judged by the baseline beside it.
fn is_paired(criterion: &Criterion) -> bool {
    matches!(criterion.objective, Objective::Compare { .. } | Objective::CompareLatency { .. })
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
        let begins_from = |at: Timestamp| {
            let slot = slot_start(at, width);
            if slot < at { slot + width } else { slot }
        };
        let first = begins_from(from);
        let mut series = BTreeMap::new();
        for key in series_of(frame.plan, frame.stage) {
            let old = self.series.get(&key);
            let state = SeriesState {
                // An amended plan may have slots of another width.
                next: old.map_or(first, |old| begins_from(old.next)),
                slots: 0,
                covered: 0,
                soaked: 0,
                uncovered_since: None,
                strip: old.map(|old| old.strip.clone()).unwrap_or_default(),
                answering: old.map(|old| old.answering.clone()).unwrap_or_default(),
                tracks: frame.tracks(&key.sli, false, first),
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
    pub fn fold(&mut self, frame: &Frame<'_>, closed: &ClosedSlot) {
        let width = frame.plan.slot;
        let Some(state) = self.series.get_mut(&closed.series) else { return };
        if closed.slot != state.next {
            return;
        }
        state.next = closed.slot + width;
        let refusal = refused(closed);
        let closed = &*frame.read(closed);
        let mut view = View::of(frame, closed, refusal == Some(Sight::Expected));
        if frame.refuses.contains(&closed.series.sli) && closed.series.cohort == Cohort::Canary {
            view.sight = view.sight.filter(|sight| *sight == Sight::Other).or(refusal);
        }
        let releases = || closed.portions.iter().filter_map(|portion| portion.release.as_ref());
        if !state.answering.iter().eq(releases()) {
            state.answering = releases().cloned().collect();
        }
        let criteria = frame.criteria(&closed.series.sli, false);
        let tallies: Vec<Tally> =
            criteria.iter().map(|criterion| Tally::of(criterion, &view.seen, Count::Alone)).collect();
        let mut own = criteria.iter().zip(&tallies).filter(|(criterion, _)| !frame.is_out(criterion, closed.slot));
        let red = own.any(|(criterion, tally)| judge::slot_is_red(criterion, tally));
        state.mark(mark(red, view.is_covered));
        if closed.slot < self.from {
            return;
        }
        let mut failing = false;
        for ((track, criterion), tally) in state.tracks.iter_mut().zip(criteria).zip(&tallies) {
            track.push(criterion, closed.slot, tally, &[], view.is_covered);
            // What the release itself fails is not green, whoever else fails it too; what only the old
            // release fails is no reason to wait.
            let counts =
                track.act(criterion).is_some_and(|act| act > OnFail::Warn) && !frame.is_out(criterion, closed.slot);
            failing |= closed.series.cohort == Cohort::Canary && counts;
        }
        state.count(closed.slot, &view, red, failing, usize::try_from(frame.plan.take_back.within).unwrap_or(0));
        if self.first_bad.len() < EVIDENCE_MAX {
            self.first_bad.extend(closed.evidence.iter().cloned());
            self.first_bad.truncate(EVIDENCE_MAX);
        }
        self.fold_pools(frame, closed, &view, tallies);
    }

    /// Folds a slot that arrived after it was closed.
    pub fn fold_late(&mut self, frame: &Frame<'_>, late: &ClosedSlot) {
        if late.slot < self.from {
            return;
        }
        let refusal = refused(late);
        let late = &*frame.read(late);
        let view = View::of(frame, late, refusal == Some(Sight::Expected));
        let criteria = frame.criteria(&late.series.sli, false);
        let Some(state) = self.series.get_mut(&late.series) else { return };
        let pooled = self.pools.iter_mut().filter(|pool| !pool.is_paired && pool.has(&late.series));
        for tracks in pooled.map(|pool| &mut pool.tracks).chain([&mut state.tracks]) {
            for (track, criterion) in tracks.iter_mut().zip(criteria) {
                track.push_late(criterion, late.slot, &Tally::of(criterion, &view.seen, Count::Alone));
            }
        }
    }

    fn fold_pools(&mut self, frame: &Frame<'_>, closed: &ClosedSlot, view: &View<'_>, tallies: Vec<Tally>) {
        for pool in self.pools.iter_mut().filter(|pool| pool.has(&closed.series)) {
            let criteria = frame.criteria(&pool.sli, pool.is_paired);
            let tallies = if pool.is_paired {
                let count = |criterion: &Criterion| judge::count(criterion, closed.series.cohort);
                criteria.iter().map(|criterion| Tally::of(criterion, &view.seen, count(criterion))).collect()
            } else {
                tallies.clone()
            };
            let part = Part { series: closed.series.clone(), is_covered: view.is_covered, tallies };
            pool.pending.entry(closed.slot).or_default().push(part);
            // Series close in any order; the pool takes a slot only when all have, and so in slot order.
            while let Some(first) = pool.pending.first_entry().filter(|entry| entry.get().len() >= pool.members) {
                let (slot, mut parts) = first.remove_entry();
                parts.sort_by(|a, b| a.series.cmp(&b.series));
                let is_covered = parts.iter().all(|part| part.is_covered);
                for (index, (track, criterion)) in pool.tracks.iter_mut().zip(criteria).enumerate() {
                    let (sum, pairs) = together(&parts, index, pool.cohort);
                    track.push(criterion, slot, &sum, &pairs, is_covered);
                }
            }
        }
    }

    /// What `criterion` says of a cohort in one region, or in all of them.
    pub fn track(&self, criterion: &Criterion, cohort: Cohort, region: Option<&Region>) -> Option<&Track> {
        let alone = region.filter(|_| !is_paired(criterion)).and_then(|region| {
            let series = Series { sli: criterion.sli.clone(), cohort, region: region.clone() };
            Some(&self.series.get(&series)?.tracks)
        });
        let pooled = || Some(&self.pools.iter().find(|pool| pool.judges(criterion, cohort, region))?.tracks);
        alone.or_else(pooled)?.iter().find(|track| track.criterion == criterion.name)
    }

    /// The same, to change it.
    pub(crate) fn track_mut(
        &mut self,
        criterion: &Criterion,
        cohort: Cohort,
        region: Option<&Region>,
    ) -> Option<&mut Track> {
        let series = region.filter(|_| !is_paired(criterion)).map(|region| Series {
            sli: criterion.sli.clone(),
            cohort,
            region: region.clone(),
        });
        let tracks = match series {
            Some(series) => &mut self.series.get_mut(&series)?.tracks,
            None => &mut self.pools.iter_mut().find(|pool| pool.judges(criterion, cohort, region))?.tracks,
        };
        tracks.iter_mut().find(|track| track.criterion == criterion.name)
    }

    /// Regions with a series that is not left out and whose last slot was not covered, and since when.
    pub fn silent(&self, is_left_out: impl Fn(&Series) -> bool) -> BTreeMap<Region, Timestamp> {
        let mut silent = BTreeMap::new();
        for (series, state) in self.series.iter().filter(|(series, _)| !is_left_out(series)) {
            if let Some(since) = state.uncovered_since {
                let earliest = silent.entry(series.region.clone()).or_insert(since);
                *earliest = since.min(*earliest);
            }
        }
        silent
    }

    /// Slots that were green in every series that is not left out.
    pub(crate) fn green_slots(&self, is_left_out: impl Fn(&Series) -> bool) -> u32 {
        let counted = self.series.iter().filter(|(series, _)| !is_left_out(series));
        let sets: Vec<&BTreeSet<Timestamp>> = counted.map(|(_, state)| &state.green).collect();
        let Some((first, rest)) = sets.split_first() else { return 0 };
        let green = first.iter().filter(|slot| rest.iter().all(|set| set.contains(*slot))).count();
        u32::try_from(green).unwrap_or(u32::MAX)
    }
}

impl SeriesState {
    fn mark(&mut self, mark: char) {
        self.strip.push(mark);
        while self.strip.chars().count() > STRIP_LEN {
            self.strip.remove(0);
        }
    }

    fn count(&mut self, slot: Timestamp, view: &View<'_>, red: bool, failing: bool, green_kept: usize) {
        self.slots += 1;
        self.sight = view.sight.or(self.sight);
        if !view.is_covered {
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

impl Pool {
    fn judges(&self, criterion: &Criterion, cohort: Cohort, region: Option<&Region>) -> bool {
        let is_there = self.region.as_ref() == region && self.cohort == cohort;
        is_there && self.sli == criterion.sli && self.is_paired == is_paired(criterion)
    }

    /// Whether a series is part of it.
    pub(crate) fn has(&self, series: &Series) -> bool {
        let is_here = self.region.as_ref().is_none_or(|region| *region == series.region);
        self.sli == series.sli && is_here && (self.is_paired || self.cohort == series.cohort)
    }
}

/// One track's part of a pooled slot: the judged cohort over all regions, and both cohorts by region.
fn together(parts: &[Part], index: usize, cohort: Cohort) -> (Tally, Vec<Pair>) {
    let mut sum = Tally::default();
    let mut pairs: BTreeMap<&Region, Pair> = BTreeMap::new();
    for Part { series, tallies, .. } in parts {
        let Some(tally) = tallies.get(index) else { continue };
        if series.cohort == cohort {
            sum.add(tally);
        }
        let pair = pairs.entry(&series.region).or_default();
        match series.cohort {
            Cohort::Baseline => pair.baseline.add(tally),
            Cohort::Canary => pair.canary.add(tally),
        }
    }
    (sum, pairs.into_values().collect())
}

/// A slot as one cohort's evidence.
struct View<'a> {
    seen: Vec<Attributed<'a>>,
    is_covered: bool,
    sight: Option<Sight>,
}

impl<'a> View<'a> {
    /// What of a slot is evidence for its cohort: answers of the expected release, and bad answers
    /// that named no release. A different release is not evidence, nor is a good answer without a
    /// name; a refusal that is asked for may come from before the release, and needs none. What cannot
    /// name a release, such as a log, is evidence for the cohort that it was asked for.
    fn of(frame: &Frame<'_>, closed: &'a ClosedSlot, is_refused: bool) -> Self {
        let whole = |portion| Attributed { portion, only_bad: false };
        let is_quorate = closed.reporters >= frame.plan.quorum;
        let Some(expected) = frame.expected(&closed.series) else {
            let seen = closed.portions.iter().map(whole).collect();
            return Self { seen, is_covered: is_quorate, sight: None };
        };
        let names_release = frame.plan.sli(&closed.series.sli).is_none_or(Sli::names_release);
        let mut seen = Vec::new();
        let (mut named, mut other, mut looked, mut attributed) = (false, false, false, false);
        for portion in closed.portions.iter().filter(|portion| portion.n() > 0) {
            looked = true;
            match &portion.release {
                Some(release) if release == expected => {
                    named = true;
                    seen.push(whole(portion));
                }
                Some(_) => other = true,
                None if !names_release => {
                    attributed = true;
                    seen.push(whole(portion));
                }
                None => {
                    attributed |= portion.has_bad() || is_refused && !frame.refuses.is_empty();
                    seen.push(Attributed { portion, only_bad: true });
                }
            }
        }
        let sight = match (other, named) {
            (true, _) => Some(Sight::Other),
            (false, true) => Some(Sight::Expected),
            (false, false) => None,
        };
        Self { seen, is_covered: is_quorate && (!looked || named || attributed), sight }
    }
}

fn is_refusal(class: &Class) -> bool {
    class.as_str() == class::REFUSED
}

/// Whether a slot shows the refusal alone; nothing when nobody looked.
fn refused(closed: &ClosedSlot) -> Option<Sight> {
    let seen = || closed.portions.iter().flat_map(|portion| &portion.classes).filter(|(_, count)| **count > 0);
    let is_alone = seen().all(|(class, _)| is_refusal(class));
    seen().next().map(|_| if is_alone { Sight::Expected } else { Sight::Other })
}

fn pools(frame: &Frame<'_>, series: &BTreeMap<Series, SeriesState>, from: Timestamp) -> Vec<Pool> {
    let mut pools: BTreeMap<(&SliName, bool, Cohort, Option<&Region>), usize> = BTreeMap::new();
    for key in series.keys() {
        *pools.entry((&key.sli, false, key.cohort, None)).or_default() += 1;
        if !frame.criteria(&key.sli, true).is_empty() {
            *pools.entry((&key.sli, true, Cohort::Canary, None)).or_default() += 1;
            *pools.entry((&key.sli, true, Cohort::Canary, Some(&key.region))).or_default() += 1;
        }
    }
    let is_needed =
        |(_, paired, _, region): &(_, bool, _, Option<_>)| *paired && region.is_some() || frame.stage.regions.len() > 1;
    let pool = |((sli, is_paired, cohort, region), members): ((&SliName, bool, Cohort, Option<&Region>), usize)| Pool {
        sli: sli.clone(),
        cohort,
        region: region.cloned(),
        is_paired,
        members,
        pending: BTreeMap::new(),
        tracks: frame.tracks(sli, is_paired, from),
    };
    pools.into_iter().filter(|(key, _)| is_needed(key)).map(pool).collect()
}
