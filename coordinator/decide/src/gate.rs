//! What the evidence of a stage says, who is to blame for what is red, and what keeps a stage from
//! being left. Nothing here changes anything.

use std::collections::{BTreeMap, BTreeSet};

use bellwether_protocol::command::Excluded;
use bellwether_protocol::id::Region;
use bellwether_protocol::plan::{Criterion, Objective, OnFail};
use bellwether_protocol::reason::{Hold, Judgement, Lack, Verdict};
use bellwether_protocol::sample::Cohort;
use bellwether_protocol::time::Timestamp;

use crate::budget;
use crate::drift;
use crate::judge::{self, Finding, Scope};
use crate::kernel::threshold;
use crate::state::{Phase, Rollout};
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
            let is_pooled_level = scope.region.is_none()
                && matches!(criterion.objective, Objective::Rising { .. } | Objective::Stable { .. });
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

impl Blame {
    /// What is red.
    pub(crate) fn judgement(&self) -> &Judgement {
        match self {
            Self::Both(judgement) | Self::Release(judgement) => judgement,
        }
    }
}

/// A Fail that takes back, and that the baseline does not share.
pub(crate) fn blame(rollout: &Rollout, findings: &[Finding<'_>]) -> Option<Blame> {
    let mut shared = None;
    for red in findings.iter().filter(|finding| finding.calls_for() == Some(OnFail::Rollback)) {
        let baseline = rollout.evidence.track(red.criterion, Cohort::Baseline, red.scope.region);
        match baseline.map_or(Some(false), |baseline| is_as_red(red.criterion, red.track, baseline)) {
            Some(true) => shared = Some(Blame::Both(red.judgement())),
            Some(false) => return Some(Blame::Release(narrowed(red, findings))),
            None => {}
        }
    }
    shared
}

/// How many slots more are waited for, when nothing was seen of the old release in any in which the new one was bad.
const PATIENCE: u64 = 2;

/// Whether the old release fails the same criterion, by the same test, over the slots in which the new
/// one fails it. Unknown until the baseline has closed the slot that failed: at most one grace; and, for
/// a share, for two slots more while none of the bad slots was seen on both.
///
/// Once it did, only a new release that stays red while the old one does not is to blame.
fn is_as_red(criterion: &Criterion, red: &Track, baseline: &Track) -> Option<bool> {
    let failed_at = red.failed_at.unwrap_or(red.upto);
    if baseline.upto < failed_at {
        return None;
    }
    let was_shared = red.shared.is_some();
    let is_over = red.failing_since.is_none() || red.shared > Some(0);
    if was_shared && is_over {
        return Some(true);
    }
    let slot_before = |slot: Timestamp| slot - red.slot;
    if let Some((limit, alternative)) = judge::shares(criterion, red) {
        // Over the slots that say most against the new release, and with half of the weight on the share
        // that it has there. Both are chosen without the baseline, so one within the limit seems as red
        // at most 1 time in 20: holding asks for what a soft criterion asks, and taking back for more.
        let since = red.worst_since(limit, alternative).map(|(since, _)| since);
        let mut bad = red.recent.iter().filter(|(slot, counts)| counts.bad > 0 && Some(*slot) >= since);
        let is_patient = red.upto.since(failed_at) < red.slot.times(PATIENCE);
        let was_seen = |slot: &Timestamp| baseline.recent.iter().any(|(own, _)| own == slot);
        if is_patient && !bad.any(|(slot, _)| was_seen(slot)) {
            return None;
        }
        let bar = if was_shared { 0.0 } else { -libm::log(budget::ALPHA_SOFT) };
        return Some(threshold::ln_e_fail_as(baseline.beside(red, since), limit, alternative) >= bar);
    }
    if matches!(criterion.objective, Objective::Zero { .. }) {
        // Slot by slot, for one that is bad fails. The looks at the two are not at the same instant:
        // an outage may end for the one a slot before it does for the other.
        let bad = |track: &Track| -> BTreeSet<Timestamp> {
            let bad = track.recent.iter().filter(|(_, counts)| counts.bad > 0);
            bad.map(|(slot, _)| *slot).collect()
        };
        let theirs = bad(baseline);
        let is_known = |slot: &Timestamp| *slot < baseline.upto && baseline.remembers(*slot);
        let mut own = bad(red).into_iter().filter(is_known).peekable();
        let is_seen = own.peek().is_some();
        let is_shared = own.all(|slot| theirs.contains(&slot) || theirs.contains(&slot_before(slot)));
        return Some(is_shared && (is_seen || was_shared));
    }
    let since = slot_before(red.failing_since.unwrap_or(slot_before(failed_at)));
    Some(baseline.fails(criterion) && baseline.beyond >= Some(since))
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

/// What `act` is called for by, one judgement per criterion; a graver call in one region stands for all.
pub(crate) fn called_for(findings: &[Finding<'_>], act: OnFail) -> Vec<Judgement> {
    let mut gravest: BTreeMap<&str, (OnFail, &Finding<'_>)> = BTreeMap::new();
    for finding in findings {
        let Some(own) = finding.calls_for() else { continue };
        let known = gravest.entry(finding.criterion.name.as_str()).or_insert((own, finding));
        if own > known.0 {
            *known = (own, finding);
        }
    }
    gravest.into_values().filter(|(own, _)| *own == act).map(|(_, finding)| finding.judgement()).collect()
}

/// What holds a rollout, whether or not its stage has soaked.
pub(crate) fn holds(rollout: &Rollout, findings: &[Finding<'_>], now: Timestamp) -> Vec<Hold> {
    let mut holds = Vec::new();
    if rollout.paused {
        holds.push(Hold::Paused);
    }
    let silent = rollout.evidence.silent(|series| rollout.is_left_out(series, now));
    holds.extend(silent.into_iter().map(|(region, since)| Hold::NoData { region, since }));
    for (lever, ..) in drift::drifted(rollout, now).filter(|(.., act)| *act > OnFail::Warn) {
        holds.push(Hold::Lever { lever: lever.clone() });
    }
    for (lever, _) in rollout.levers.iter().filter(|(_, lever)| lever.is_owed) {
        holds.push(Hold::Lever { lever: lever.clone() });
    }
    let stops = |act: OnFail| act == OnFail::Hold || act == OnFail::Reapply;
    for red in findings.iter().filter(|finding| finding.calls_for().is_some_and(stops)) {
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
pub(crate) fn promotion_refusal(rollout: &Rollout, now: Timestamp) -> Option<String> {
    if rollout.phase != Phase::Soaking {
        return Some(format!("the stage is not soaking yet (entry {})", rollout.entry.0));
    }
    let findings = findings(rollout, now);
    if let Some(red) = findings.iter().find(|finding| finding.calls_for() > Some(OnFail::Warn)) {
        let numbers = red.numbers();
        return Some(format!("{} fails: {}, limit {}", red.criterion.name, numbers.value, numbers.limit));
    }
    let missing = holds(rollout, &findings, now).into_iter().chain(lacking(&findings));
    let missing = missing.into_iter().find_map(|hold| match hold {
        Hold::NoData { region, since } => Some(format!("no data from {region} since {}", since.clock())),
        Hold::TooFewEvents { criterion } => Some(format!("too few events for {criterion}")),
        _ => None,
    })?;
    Some(format!("{missing}; to go on without it, use `exclude`"))
}

#[cfg(test)]
mod tests {
    use bellwether_protocol::ratio::Ratio;
    use bellwether_protocol::time::Span;

    use super::*;
    use crate::budget::Share;
    use crate::budget::tests::criterion;
    use crate::tally::Tally;

    const SLOT: Span = Span::from_secs(30);

    /// A track of slots of 60 answers, so many of them bad.
    fn track(criterion: &Criterion, bad: &[u64]) -> Track {
        let start = Timestamp::from_ms(1_800_000_000_000);
        let share = Share { bar: libm::log(2_000.0), planned: 120 };
        let mut track = Track::new(criterion, share, SLOT, start);
        for (slot, bad) in (0..).zip(bad) {
            let tally = Tally { n: 60, bad: *bad, over_target: *bad, ..Tally::default() };
            track.push(criterion, start + SLOT.times(slot), &tally, &[], true);
        }
        track
    }

    #[test]
    fn the_baseline_is_as_red_when_it_fails_the_same_over_the_same_slots() {
        let ratio = criterion(
            "ratio",
            true,
            Objective::Ratio { bad: Vec::new(), max: Ratio::from_ppb(20_000_000), target: None },
        );
        let zero = criterion("zero", true, Objective::Zero { bad: Vec::new() });
        let down = criterion("down", true, Objective::Consecutive { slots: 2 });
        let calm = [0; 20];
        let then = |bad: &[u64]| [&calm, bad].concat();
        for (criterion, red, baseline, expected, why) in [
            (&ratio, then(&[18]), then(&[18]), Some(true), "both fail"),
            (&ratio, then(&[18]), then(&[]), None, "the slot that failed is not closed"),
            (&ratio, then(&[18]), then(&[0]), Some(false), "the release fails alone"),
            (&ratio, then(&[18]), then(&[2]), Some(false), "over the limit, but no failure"),
            (&ratio, then(&[18, 18]), then(&[18]), Some(true), "a slot ahead does not keep them apart"),
            (&ratio, then(&[18, 18]), then(&[0]), Some(false), "nor does it put the blame off"),
            (&ratio, then(&[18]), [&[18, 18][..], &calm[1..]].concat(), Some(false), "a failure of long ago"),
            (&ratio, then(&[40]), then(&[12]), Some(true), "half as often, and yet far beyond the limit"),
            (&zero, then(&[1]), then(&[1]), Some(true), "both fail"),
            (&zero, then(&[1]), then(&[]), None, "the slot that failed is not closed"),
            (&zero, then(&[1]), then(&[0]), Some(false), "the release fails alone"),
            (&zero, then(&[1]), then(&[0, 1]), Some(false), "the baseline fails later"),
            (&zero, then(&[9, 1]), then(&[9, 0]), Some(true), "an outage ends a slot earlier for the one"),
            (&zero, then(&[1, 0, 1]), then(&[1, 0, 0]), Some(false), "a second failure is not shared"),
            (&down, then(&[60, 60]), then(&[60, 60]), Some(true), "both are down"),
            (&down, then(&[60, 60]), then(&[60, 60, 0]), Some(true), "the baseline is up by now"),
            (&down, then(&[60, 60]), then(&[60, 59]), Some(false), "the release alone is down"),
            (&down, then(&[60, 60]), [&[60, 60][..], &calm].concat(), Some(false), "it was down long ago"),
        ] {
            let (red, baseline) = (track(criterion, &red), track(criterion, &baseline));
            assert!(red.failed_at.is_some(), "{} {why}: it does not fail", criterion.objective);
            assert_eq!(is_as_red(criterion, &red, &baseline), expected, "{}: {why}", criterion.objective);
        }
    }

    #[test]
    fn slots_in_which_only_one_of_the_two_was_seen_say_nothing() {
        let max = Ratio::from_ppb(100_000_000);
        let ratio = criterion("ratio", true, Objective::Ratio { bad: Vec::new(), max, target: None });
        let seen = |slots: &[Option<u64>]| {
            let mut track = track(&ratio, &[]);
            for bad in slots {
                let n = if bad.is_some() { 60 } else { 0 };
                let tally = Tally { n, bad: bad.unwrap_or(0), over_target: bad.unwrap_or(0), ..Tally::default() };
                track.push(&ratio, track.upto, &tally, &[], bad.is_some());
            }
            track
        };
        let (calm, bad) = (Some(0), Some(60));
        // The bad day began when the new release was seen for the first time.
        let red = seen(&[None, None, None, bad]);
        assert_eq!(is_as_red(&ratio, &red, &seen(&[calm, calm, calm, Some(30)])), Some(true));
        assert_eq!(is_as_red(&ratio, &red, &seen(&[calm, calm, calm, calm])), Some(false));
        // The old release was not seen then: two slots more are waited for, and no more.
        let unseen = [calm, calm, calm, None];
        assert_eq!(is_as_red(&ratio, &red, &seen(&unseen)), None);
        let later = |own, theirs| {
            let red = seen(&[None, None, None, bad, own, own]);
            is_as_red(&ratio, &red, &seen(&[&unseen[..], &[theirs, theirs]].concat()))
        };
        assert_eq!(later(bad, bad), Some(true));
        assert_eq!(later(bad, None), Some(false));
    }

    #[test]
    fn a_shared_failure_is_blamed_once_the_release_alone_stays_red() {
        let ratio = criterion(
            "ratio",
            true,
            Objective::Ratio { bad: Vec::new(), max: Ratio::from_ppb(20_000_000), target: None },
        );
        let zero = criterion("zero", true, Objective::Zero { bad: Vec::new() });
        for (criterion, later, baseline, expected) in [
            (&ratio, &[18, 18][..], &[18, 18][..], true),
            (&ratio, &[18, 0], &[18, 0], true),
            (&ratio, &[18, 0, 0], &[0, 0, 0], true),
            (&ratio, &[18; 12], &[0; 12], false),
            (&zero, &[1, 0], &[1, 0], true),
            (&zero, &[1, 0, 1], &[1, 0, 0], false),
        ] {
            let mut tracks = [track(criterion, &[18]), track(criterion, &[18])];
            assert_eq!(is_as_red(criterion, &tracks[0], &tracks[1]), Some(true));
            for (track, slots) in tracks.iter_mut().zip([later, baseline]) {
                track.share_blame();
                for bad in slots {
                    let tally = Tally { n: 60, bad: *bad, over_target: *bad, ..Tally::default() };
                    track.push(criterion, track.upto, &tally, &[], true);
                }
            }
            let [red, baseline] = tracks;
            assert_eq!(is_as_red(criterion, &red, &baseline), Some(expected), "{} {later:?}", criterion.objective);
        }
    }
}
