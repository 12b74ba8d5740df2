//! What a rollout has shown so far, from its records alone; and the slots behind its numbers.
//!
//! | module | gathers |
//! |---|---|
//! | `seen` | what was seen of each series |
//! | `strip` | slots in a row, and the gaps among them |
//! | `issues` | what went wrong, and since when |
//! | `rows` | the rows of evidence, each with its number |

mod issues;
mod rows;
mod seen;
mod strip;

use std::collections::VecDeque;

use bellwether_decide::evidence::Counted;
use bellwether_decide::{Desk, Rollout};
use bellwether_protocol::command::Excluded;
use bellwether_protocol::explanation::{Explanation, Standing};
use bellwether_protocol::id::{Ordinal, Principal};
use bellwether_protocol::plan::{Criterion, Objective, Plan, Require};
use bellwether_protocol::ratio::{ONE_PPB, Ratio};
use bellwether_protocol::reason::{Ending, Judgement, Lack, Reason, Verdict};
use bellwether_protocol::record::{ClosedSlot, Input, Record};
use bellwether_protocol::report::{
    Answer, Answered, CriterionRow, Endpoint, Folded, FoldedSlot, Issue, Met, Report, Scale, StageTimes, Wanted,
};
use bellwether_protocol::sample::Cohort;
use bellwether_protocol::status::{StageMark, StageStatus, State};
use bellwether_protocol::time::Span;

use self::issues::Issues;
use self::rows::Rows;
use self::seen::Seen;
use self::strip::Strips;
use crate::explain::{Why, explanation};
use crate::offline::{Gather, Gathered, ReplayError, Which, gather};

/// Reports one rollout; `None` when the log does not hold it.
///
/// # Errors
/// When the log does not replay: what cannot be verified is not reported.
pub fn report(lines: impl IntoIterator<Item = Vec<u8>>, which: Which<'_>) -> Result<Option<Report>, ReplayError> {
    Ok(gather(lines, which, Story::default)?.and_then(assemble))
}

/// The slots of one rollout that were folded, as they are asked for; `None` when the log does not hold it.
///
/// # Errors
/// When the log does not replay.
pub fn evidence(
    lines: impl IntoIterator<Item = Vec<u8>>,
    which: Which<'_>,
    wanted: &Wanted,
) -> Result<Option<Folded>, ReplayError> {
    let gathered = gather(lines, which, || Slots { wanted: wanted.clone(), ..Slots::default() })?;
    Ok(gathered.map(|gathered| Folded { slots: gathered.all.last.into(), total: gathered.all.total }))
}

/// Most slots that are shown at once.
const SLOTS_MAX: usize = 10_000;
/// Most exclusions that are listed.
const EXCLUSIONS_MAX: usize = 100;

/// The slots that are asked for.
#[derive(Default)]
struct Slots {
    wanted: Wanted,
    last: VecDeque<FoldedSlot>,
    total: u64,
}

impl Gather for Slots {
    fn take(&mut self, record: &Record, before: Option<&Rollout>, slots: &[(&ClosedSlot, Counted<'_>)]) {
        let Some(before) = before else { return };
        let Wanted { slot: at, criterion, region } = &self.wanted;
        let is_wanted = |(slot, counted): &&(&ClosedSlot, Counted<'_>)| {
            at.is_none_or(|at| at.is_in(slot.slot, before.plan.slot))
                && region.as_ref().is_none_or(|region| slot.series.region == *region)
                && criterion.as_ref().is_none_or(|name| counted.tallies.iter().any(|(own, _)| own.name == *name))
        };
        for (slot, counted) in slots.iter().filter(is_wanted) {
            let its = counted.tallies.iter().filter(|(own, _)| criterion.as_ref().is_none_or(|name| own.name == *name));
            let ClosedSlot { series, slot, reporters, unwell, portions, evidence } = (*slot).clone();
            let counted_by = its.map(|(own, tally)| (own.name.clone(), tally.n, tally.bad)).collect();
            let (record, mark) = (record.ordinal, counted.mark);
            let counted = counted_by;
            self.last.push_back(FoldedSlot {
                record,
                slot,
                series,
                mark,
                counted,
                reporters,
                unwell,
                portions,
                evidence,
            });
            self.total += 1;
            if self.last.len() > SLOTS_MAX {
                self.last.pop_front();
            }
        }
    }
}

/// What is gathered record by record.
#[derive(Default)]
struct Story {
    why: Why,
    started_by: Option<Principal>,
    records: Option<(Ordinal, Ordinal)>,
    entries: Vec<StageTimes>,
    seen: Seen,
    strips: Strips,
    issues: Issues,
    exclusions: Vec<(Ordinal, Reason)>,
}

impl Gather for Story {
    fn take(&mut self, record: &Record, before: Option<&Rollout>, slots: &[(&ClosedSlot, Counted<'_>)]) {
        // What is seen of the old release on the way back says nothing of the new one.
        let is_judged = self.why.decided.is_none();
        self.why.take(record, before, slots);
        self.records = Some((self.records.map_or(record.ordinal, |(first, _)| first), record.ordinal));
        let width = before.map_or(Span::ZERO, |rollout| rollout.plan.slot);
        for (slot, counted) in slots {
            self.strips.take(&slot.series.region, slot.slot, counted.mark, slot.unwell, width);
            if is_judged {
                self.seen.take(record.ordinal, slot, counted, width);
            }
        }
        for input in &record.inputs {
            if let Input::Late(slot) = input {
                self.strips.take_late(&slot.series.region);
            }
        }
        for reason in &record.reasons {
            self.note(record, reason);
            self.issues.take(record.now, record.ordinal, reason);
        }
    }
}

impl Story {
    fn note(&mut self, record: &Record, reason: &Reason) {
        let mut left = || {
            if let Some(last) = self.entries.last_mut() {
                last.left.get_or_insert(record.now);
            }
        };
        match reason {
            Reason::Started { principal, .. } => self.started_by = Some(principal.clone()),
            Reason::StageEntered { stage, .. } => {
                left();
                let (stage, entered) = (stage.clone(), record.now);
                self.entries.push(StageTimes { stage, entered, left: None, record: record.ordinal });
                self.seen = Seen::default();
            }
            Reason::Looking { .. } => self.seen = Seen::default(),
            Reason::StagePassed { .. } | Reason::TakingBack { .. } | Reason::Ended { .. } => left(),
            Reason::Excluded { .. } if self.exclusions.len() < EXCLUSIONS_MAX => {
                self.exclusions.push((record.ordinal, reason.clone()));
            }
            _ => {}
        }
    }
}

fn assemble(gathered: Gathered<Story>) -> Option<Report> {
    let Gathered { all, desk, now, records, head } = gathered;
    let Desk { rollout: Some(rollout), .. } = &desk else { return None };
    let explanation = explanation(all.why, &desk, now, records)?;
    let mut rows = Rows::new(&rollout.id, all.records?, records);
    let stage = judged_stage(&explanation);
    let soak = rows.soak(stage, &all.seen);
    let endpoints = endpoints(&rollout.plan, &all.seen, &mut rows);
    let criteria = criteria(rollout, &explanation, stage, &all.seen, &mut rows);
    let issues_left_out = all.issues.left_out;
    let issue = |own: issues::Cause| {
        let evidence = rows.issue(&own);
        let issues::Cause { priority, since, until, what, times, .. } = own;
        Issue { priority, since, until, what, times, evidence }
    };
    let issues = all.issues.sorted().into_iter().map(issue).collect();
    let (strips, gaps) = all.strips.finish(rollout.plan.slot);
    let tally = |is: fn(&Met) -> bool| criteria.iter().filter(|row| is(&row.result)).count();
    let counts = [tally(|met| met.is_met()), tally(|met| *met == Met::NotMet), tally(|met| *met == Met::Unknown)];
    let [met, not_met, unknown] = counts;
    let answer = Answer {
        question: question(&explanation, stage),
        verdict: answered(&explanation, stage, not_met, unknown),
        met,
        not_met,
        unknown,
        soaked: stage.map(|stage| soaked(&explanation, stage)).unwrap_or_default(),
        soak: stage.map(|stage| stage.soak).unwrap_or_default(),
        evidence: soak,
    };
    Some(Report {
        answer,
        started_by: all.started_by,
        regions: rollout.plan.regions.clone(),
        entries: all.entries,
        endpoints,
        criteria,
        issues,
        issues_left_out,
        gaps,
        exclusions: all.exclusions,
        strips,
        evidence: rows.all,
        head,
        explanation,
    })
}

/// The stage that is on, or the last one that was.
fn judged_stage(why: &Explanation) -> Option<&StageStatus> {
    let is_on = |stage: &&StageStatus| !matches!(stage.mark, StageMark::Later | StageMark::Skipped);
    let stages = &why.status.stages;
    stages.iter().rfind(is_on).or(stages.first())
}

/// How long a stage has soaked: a stage that failed was covered for as long as its worst region.
fn soaked(why: &Explanation, stage: &StageStatus) -> Span {
    match stage.mark {
        StageMark::Failed => {
            let covered = why.covered.iter().map(|region| region.covered).min().unwrap_or(0);
            why.status.slot.times(covered)
        }
        _ => stage.soaked,
    }
}

/// May the next stage follow? After the last one: may production, or, once there, may it stay?
fn question(why: &Explanation, stage: Option<&StageStatus>) -> String {
    let stages = &why.status.stages;
    let next = stages.iter().skip_while(|own| stage.is_some_and(|stage| own.name != stage.name)).nth(1);
    let is_named = |own: &StageStatus| own.name.as_str() == "production";
    match next {
        Some(next) => format!("May {} follow?", next.name),
        None if stages.iter().any(is_named) => format!("May {} stay?", why.status.release),
        None => "May production follow?".to_owned(),
    }
}

fn answered(why: &Explanation, stage: Option<&StageStatus>, not_met: usize, unknown: usize) -> Answered {
    let is_soaked = stage.is_some_and(|stage| is_soaked(why, stage));
    match why.status.ending {
        Some(
            Ending::Aborted | Ending::NotStarted | Ending::NotTakenBack | Ending::RolledBack | Ending::WouldTakeBack,
        ) => Answered::No,
        _ if matches!(why.status.state, State::TakingBack | State::Applied) => Answered::No,
        _ if not_met > 0 && is_soaked => Answered::No,
        _ if not_met == 0 && unknown == 0 && is_soaked => Answered::Yes,
        _ => Answered::NotYet,
    }
}

fn is_soaked(why: &Explanation, stage: &StageStatus) -> bool {
    stage.mark == StageMark::Passed || (stage.mark == StageMark::Now && soaked(why, stage) >= stage.soak)
}

fn endpoints(plan: &Plan, seen: &Seen, rows: &mut Rows) -> Vec<Endpoint> {
    let canaries = seen.series.iter().filter(|(series, _)| series.cohort == Cohort::Canary);
    let endpoint = |(series, sight): (&bellwether_protocol::record::Series, &seen::Sight)| Endpoint {
        sli: series.sli.clone(),
        path: plan.sli(&series.sli).and_then(|sli| Some(sli.settings.get("path")?.as_str()?.to_owned())),
        region: series.region.clone(),
        last: sight.last.clone(),
        p95: sight.p95(),
        covered: sight.range.covered,
        slots: sight.range.slots,
        n: sight.n,
        not_ok: sight.not_ok,
        numbers: sight.numbers.clone(),
        first_bad: sight.first_bad.clone(),
        unwell: sight.unwell,
        evidence: rows.series(series, sight),
    };
    canaries.map(endpoint).collect()
}

fn criteria(
    rollout: &Rollout,
    why: &Explanation,
    stage: Option<&StageStatus>,
    seen: &Seen,
    rows: &mut Rows,
) -> Vec<CriterionRow> {
    let names = stage.and_then(|stage| rollout.plan.stages.iter().find(|own| own.name == stage.name));
    let names = names.map(|stage| stage.criteria.as_slice()).unwrap_or_default();
    let row = |criterion: &Criterion| {
        let standing = telling(why, criterion);
        let judgement = standing.map(|own| &own.judgement);
        let is_out = |what: &Excluded| matches!(what, Excluded::Criterion(name) if *name == criterion.name);
        let excluded_until = why.status.excluded.iter().find(|(what, _)| is_out(what)).map(|(_, until)| *until);
        let its = seen.series.iter().filter(|(series, _)| {
            let is_there = judgement.and_then(|own| own.region.as_ref()).is_none_or(|region| series.region == *region);
            series.sli == criterion.sli && series.cohort == Cohort::Canary && is_there
        });
        let its: Vec<&seen::Sight> = its.map(|(_, sight)| sight).collect();
        let is_bad = judgement.is_some_and(|own| own.numbers.bad > 0);
        CriterionRow {
            criterion: criterion.name.clone(),
            must: criterion.objective.to_string(),
            hard: criterion.hard,
            result: result(criterion, judgement, stage.is_some_and(|stage| is_soaked(why, stage))),
            judgement: judgement.cloned(),
            upto: standing.map(|own| own.upto),
            scale: judgement.and_then(|own| scale(criterion, own, seen)),
            first_bad: its.iter().filter(|_| is_bad).find_map(|sight| sight.first_bad.clone()),
            excluded_until,
            evidence: rows.criterion(criterion, judgement, &its),
        }
    };
    rollout.plan.criteria.iter().filter(|own| names.contains(&own.name)).map(row).collect()
}

/// The verdict on the new release that says most: one that fails, then a region without data, then
/// all regions together, which need not be proven one by one.
fn telling<'a>(why: &'a Explanation, criterion: &Criterion) -> Option<&'a Standing> {
    let rank = |own: &&Standing| match (own.judgement.verdict, &own.judgement.region) {
        (Verdict::Fail, Some(_)) => 0,
        (Verdict::Fail, None) => 1,
        (Verdict::Inconclusive(Lack::NoData), _) => 2,
        (_, None) => 3,
        (Verdict::Inconclusive(Lack::NotProven), Some(_)) => 4,
        (Verdict::Pass, Some(_)) => 5,
    };
    let is_its = |own: &&Standing| own.judgement.criterion == criterion.name && own.judgement.cohort == Cohort::Canary;
    why.verdicts.iter().filter(is_its).min_by_key(rank)
}

fn result(criterion: &Criterion, judgement: Option<&Judgement>, is_soaked: bool) -> Met {
    let Some(judgement) = judgement else { return Met::Unknown };
    match judgement.verdict {
        Verdict::Pass => Met::Met,
        Verdict::Fail => Met::NotMet,
        Verdict::Inconclusive(Lack::NotProven)
            if is_soaked && criterion.require == Require::NotFailed && judgement.failing_since.is_none() =>
        {
            Met::NotFailed
        }
        Verdict::Inconclusive(_) => Met::Unknown,
    }
}

/// The value of a criterion against its limit, where both are numbers and something was seen.
fn scale(criterion: &Criterion, judgement: &Judgement, seen: &Seen) -> Option<Scale> {
    let numbers = &judgement.numbers;
    let share = |limit: Ratio, target: Option<Ratio>| {
        let part = |ratio: Ratio| f64::from(ratio.ppb()) / f64::from(ONE_PPB);
        let band = judgement.grounds.as_ref().map(|grounds| (part(grounds.low), part(grounds.high)));
        let value = numbers.bad as f64 / numbers.n.max(1) as f64;
        Scale { value, limit: part(limit), target: target.map(part), band, is_share: true, is_floor: false }
    };
    if numbers.n == 0 {
        return None;
    }
    match &criterion.objective {
        Objective::Ratio { max, target, .. } => Some(share(*max, *target)),
        Objective::Quantile { quantile, .. } => Some(share(quantile.complement(), None)),
        Objective::Number { min, max, target, .. } => {
            let its = seen.values.iter().filter(|((name, region), _)| {
                *name == criterion.name && judgement.region.as_ref().is_none_or(|own| own == region)
            });
            let worst = if max.is_some() { f64::max } else { f64::min };
            let value = its.map(|(_, value)| *value).reduce(worst)?;
            let (limit, is_floor) = max.map(|max| (max, false)).or(min.map(|min| (min, true)))?;
            Some(Scale { value, limit, target: *target, band: None, is_share: false, is_floor })
        }
        _ => None,
    }
}
