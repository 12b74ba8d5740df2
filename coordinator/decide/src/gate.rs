//! What the evidence of a stage says, who is to blame for what is red, and what keeps a stage from
//! being left. Nothing here changes anything.

use std::collections::BTreeSet;

use bellwether_protocol::command::Excluded;
use bellwether_protocol::id::Region;
use bellwether_protocol::plan::{Criterion, Objective};
use bellwether_protocol::reason::{Hold, Judgement, Lack, Verdict};
use bellwether_protocol::sample::Cohort;
use bellwether_protocol::time::Timestamp;

use crate::budget;
use crate::judge::{self, Finding, Scope};
use crate::state::{Desk, Phase, Rollout};
use crate::track::Track;

/// Every verdict of the stage, hard and red ones first.
pub fn findings(rollout: &Rollout, now: Timestamp) -> Vec<Finding<'_>> {
    let is_out = |region: &Region| rollout.is_excluded(&Excluded::Region(region.clone()), now);
    let evidence = &rollout.evidence;
    let series = evidence.series.iter().filter(|(series, _)| !is_out(&series.region)).map(|(series, state)| {
        let is_silent = state.uncovered_since.is_some();
        let (covered, slots) = (state.covered, state.slots);
        (&state.tracks, Scope { cohort: series.cohort, region: Some(&series.region), is_silent, covered, slots })
    });
    // With a region left out, the pool would still hold what that region saw.
    let is_whole = !rollout.excluded.iter().any(|e| matches!(e.what, Excluded::Region(_)) && now < e.until);
    let pools = evidence.pools.iter().filter(|pool| pool.region.as_ref().map_or(is_whole, |region| !is_out(region)));
    let pools = pools.map(|pool| {
        let members = || evidence.series.iter().filter(|(series, _)| pool.has(series)).map(|(_, state)| state);
        let scope = Scope {
            cohort: pool.cohort,
            region: pool.region.as_ref(),
            is_silent: members().any(|state| state.uncovered_since.is_some()),
            covered: members().map(|state| state.covered).min().unwrap_or(0),
            slots: members().map(|state| state.slots).min().unwrap_or(0),
        };
        (&pool.tracks, scope)
    });
    let mut all = Vec::new();
    for (tracks, scope) in series.chain(pools) {
        for track in tracks {
            let Some(criterion) = rollout.plan.criterion(&track.criterion) else { continue };
            // A level is one process's own: pooled with others it says nothing.
            let is_pooled_level = scope.region.is_none() && matches!(criterion.objective, Objective::Stable { .. });
            if !is_pooled_level && !rollout.is_excluded(&Excluded::Criterion(criterion.name.clone()), now) {
                all.push(Finding::new(criterion, track, scope));
            }
        }
    }
    all.sort_by_key(|f| (!f.criterion.hard, std::cmp::Reverse(f.verdict), f.scope.cohort == Cohort::Baseline));
    all
}

/// Who is to blame for a red criterion.
pub(crate) enum Blame {
    /// The release.
    Release(Judgement),
    /// Not the release: the baseline is as red.
    Both(Judgement),
}

/// A Fail that takes back, and that the baseline does not share. Where the baseline has not closed
/// the same slots yet, nothing is blamed: it is at most one grace away.
pub(crate) fn blame(rollout: &Rollout, findings: &[Finding<'_>]) -> Option<Blame> {
    let mut shared = None;
    for red in findings.iter().filter(|finding| finding.is_red() && budget::takes_back(finding.criterion)) {
        match rollout.evidence.track(red.criterion, Cohort::Baseline, red.scope.region) {
            Some(baseline) if baseline.upto < red.track.upto => {}
            Some(baseline) if is_as_red(red, baseline) => shared = Some(Blame::Both(red.judgement())),
            _ => return Some(Blame::Release(narrowed(red, findings))),
        }
    }
    shared
}

/// Whether the old release is as red as the new one, in the slots that say most against the new one:
/// over the limit too, by its counts, and not less than half as often. Holding back asks for less
/// proof than taking back.
fn is_as_red(red: &Finding<'_>, baseline: &Track) -> bool {
    let worst = judge::worst(red.criterion, red.track).map(|(since, _)| since);
    let since = worst.or_else(|| red.track.first_seen());
    let (new, old) = (red.track.counts(since), baseline.counts(since));
    let product = |a: u64, b: u64| u128::from(a) * u128::from(b);
    let is_twice = product(new.bad, old.n()) > product(old.bad, new.n()).saturating_mul(2);
    (red.track.shared.is_some() || baseline.is_over(red.criterion, old)) && !is_twice
}

/// A pooled failure that all comes from one region is told as that region's: there people must look.
fn narrowed(red: &Finding<'_>, findings: &[Finding<'_>]) -> Judgement {
    let here = |other: &&Finding<'_>| {
        let is_same = other.criterion.name == red.criterion.name && other.scope.cohort == red.scope.cohort;
        is_same && other.scope.region.is_some() && other.track.total.bad > 0
    };
    let mut bad = findings.iter().filter(here);
    let whole = red.judgement();
    match (red.scope.region, bad.next(), bad.next()) {
        (None, Some(only), None) => Judgement { region: only.scope.region.cloned(), numbers: only.numbers(), ..whole },
        _ => whole,
    }
}

/// What holds a rollout, whether or not its stage has soaked.
pub(crate) fn holds(desk: &Desk, rollout: &Rollout, findings: &[Finding<'_>], now: Timestamp) -> Vec<Hold> {
    let mut holds = Vec::new();
    if rollout.paused {
        holds.push(Hold::Paused);
    }
    for (region, since) in rollout.evidence.silent() {
        if !rollout.is_excluded(&Excluded::Region(region.clone()), now) {
            holds.push(Hold::NoData { region, since });
        }
    }
    for (name, lever) in &rollout.levers {
        if lever.is_wrong(desk.reading(name)) {
            holds.push(Hold::Lever { lever: name.clone() });
        }
    }
    for red in findings.iter().filter(|finding| finding.is_red() && !budget::takes_back(finding.criterion)) {
        holds.push(Hold::SoftRed { criterion: red.criterion.name.clone() });
    }
    holds.dedup();
    holds
}

/// Criteria on which a soaked stage may not be left yet. Those failing are dealt with elsewhere.
pub(crate) fn lacking(findings: &[Finding<'_>]) -> BTreeSet<Hold> {
    let is_pooled = |criterion: &Criterion| {
        findings.iter().any(|finding| finding.scope.region.is_none() && finding.criterion.name == criterion.name)
    };
    let lacking = findings.iter().filter(|finding| finding.scope.cohort == Cohort::Canary && !finding.lets_go());
    let hold = |finding: &Finding<'_>| {
        let criterion = finding.criterion.name.clone();
        match finding.verdict {
            // Regions are looked at one by one: the pool lacks what they lack.
            Verdict::Inconclusive(Lack::NoData) => finding.scope.region.map(|_| Hold::TooFewEvents { criterion }),
            // Pooled first: what all regions together prove need not be proven in each.
            Verdict::Inconclusive(Lack::NotProven) => {
                let is_here = finding.scope.region.is_none() || !is_pooled(finding.criterion);
                (is_here || finding.track.failing_since.is_some()).then_some(Hold::NotProven { criterion })
            }
            Verdict::Fail | Verdict::Pass => None,
        }
    };
    lacking.filter_map(hold).collect()
}

/// Why a promotion must be refused now: a Fail, or missing evidence.
pub(crate) fn promotion_refusal(desk: &Desk, rollout: &Rollout, now: Timestamp) -> Option<String> {
    if rollout.phase != Phase::Soaking {
        return Some(format!("the stage is not soaking yet (entry {})", rollout.entry.0));
    }
    let findings = findings(rollout, now);
    if let Some(red) = findings.iter().find(|finding| finding.is_red()) {
        let numbers = red.numbers();
        return Some(format!("{} fails: {}, limit {}", red.criterion.name, numbers.value, numbers.limit));
    }
    let missing = holds(desk, rollout, &findings, now).into_iter().chain(lacking(&findings));
    let missing = missing.into_iter().find_map(|hold| match hold {
        Hold::NoData { region, since } => Some(format!("no data from {region} since {}", since.clock())),
        Hold::TooFewEvents { criterion } => Some(format!("too few events for {criterion}")),
        _ => None,
    })?;
    Some(format!("{missing}; to go on without it, use `exclude`"))
}
