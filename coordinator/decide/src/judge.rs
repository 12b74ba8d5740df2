//! The verdict on one track, with its numbers and what it rests on. Text is only for people.

use bellwether_protocol::alert::Numbers;
use bellwether_protocol::id::Region;
use bellwether_protocol::plan::{Criterion, Objective, OnFail, Require, number};
use bellwether_protocol::ratio::{ONE_PPB, Ratio, Times};
use bellwether_protocol::reason::{Grounds, Judgement, Lack, Nats, Verdict};
use bellwether_protocol::record::Hash;
use bellwether_protocol::sample::Cohort;
use bellwether_protocol::time::Timestamp;

use crate::budget::ALPHA_PASS;
use crate::kernel::interval::Mixture;
use crate::kernel::threshold::Counts;
use crate::tally::{Count, Tally};
use crate::test::{Test, share_of};
use crate::track::Track;

/// Where a track was looked at, and how well.
#[derive(Debug, Clone, Copy)]
pub struct Scope<'a> {
    /// Which cohort.
    pub cohort: Cohort,
    /// Which region; absent when all are pooled.
    pub region: Option<&'a Region>,
    /// Whether the last slot was not covered.
    pub is_silent: bool,
    /// Covered slots of the epoch.
    pub covered: u64,
    /// Slots of the epoch.
    pub slots: u64,
}

/// What the logarithm of a Pass test's e-value must reach.
pub(crate) fn pass_bar() -> f64 {
    -libm::log(ALPHA_PASS)
}

/// What a cohort's slot is counted for when cohorts are compared.
pub(crate) fn count(criterion: &Criterion, cohort: Cohort) -> Count {
    match (cohort, &criterion.objective) {
        (Cohort::Baseline, _) => Count::Baseline,
        (Cohort::Canary, Objective::CompareLatency { times, .. }) => Count::Canary { times: *times },
        (Cohort::Canary, _) => Count::Canary { times: Times::ONE },
    }
}

/// Whether one slot alone is over a hard threshold: then it is not green.
pub(crate) fn slot_is_red(criterion: &Criterion, tally: &Tally) -> bool {
    criterion.hard && is_red(criterion, tally)
}

/// Whether one slot alone is over the threshold.
pub(crate) fn is_red(criterion: &Criterion, tally: &Tally) -> bool {
    match &criterion.objective {
        // Only a comparison, or many slots together, can tell.
        Objective::Burn { .. }
        | Objective::Compare { .. }
        | Objective::CompareLatency { .. }
        | Objective::Stable { .. } => false,
        Objective::Consecutive { .. } => tally.n > 0 && tally.bad == tally.n,
        Objective::Number { .. } | Objective::Rising { .. } | Objective::Zero { .. } => tally.bad > 0,
        Objective::Quantile { quantile, .. } => quantile.complement().is_exceeded_by(tally.bad, tally.n),
        Objective::Ratio { max, .. } => max.is_exceeded_by(tally.bad, tally.n),
    }
}

/// What a track says now. Its numbers are worked out when somebody asks.
#[derive(Debug, Clone, Copy)]
pub struct Finding<'a> {
    /// What is judged.
    pub criterion: &'a Criterion,
    /// On what.
    pub track: &'a Track,
    /// Where.
    pub scope: Scope<'a>,
    /// The verdict.
    pub verdict: Verdict,
    /// Within the limit, but over the target.
    pub over_target: bool,
}

impl<'a> Finding<'a> {
    /// Judges a track.
    pub fn new(criterion: &'a Criterion, track: &'a Track, scope: Scope<'a>) -> Self {
        let verdict = verdict(criterion, track, scope.is_silent);
        let over_target = verdict < Verdict::Fail && is_over_target(criterion, track);
        Self { criterion, track, scope, verdict, over_target }
    }

    /// With its numbers and what it rests on.
    pub fn judgement(&self) -> Judgement {
        Judgement {
            criterion: self.criterion.name.clone(),
            hard: self.criterion.hard,
            cohort: self.scope.cohort,
            region: self.scope.region.cloned(),
            verdict: self.verdict,
            over_target: self.over_target,
            numbers: self.numbers(),
            failing_since: self.track.failing_since,
            grounds: grounds(self.criterion, self.track, self.scope),
        }
    }

    /// Its counts against its limit.
    pub fn numbers(&self) -> Numbers {
        numbers(self.criterion, self.track)
    }

    /// Logarithm of the evidence that it does not hold, where it is tested.
    pub fn ln_e_fail(&self) -> Option<f64> {
        self.track.test.as_ref()?.ln_e_fail()
    }

    /// Logarithm of the evidence that it holds, where that is tested.
    pub fn ln_e_pass(&self) -> Option<f64> {
        self.track.test.as_ref()?.ln_e_pass()
    }

    /// What a red one calls for now.
    pub(crate) fn calls_for(&self) -> Option<OnFail> {
        self.track.act(self.criterion).filter(|_| self.scope.cohort == Cohort::Canary)
    }

    /// Whether people were last told something else.
    pub(crate) fn is_news(&self) -> bool {
        self.track.told != self.verdict || self.track.told_over_target != self.over_target
    }

    /// Whether its stage may be left on this verdict.
    pub(crate) fn lets_go(&self) -> bool {
        match self.verdict {
            Verdict::Pass => true,
            Verdict::Inconclusive(Lack::NotProven) => {
                self.criterion.require == Require::NotFailed && self.track.failing_since.is_none()
            }
            Verdict::Inconclusive(Lack::NoData) | Verdict::Fail => false,
        }
    }
}

fn verdict(criterion: &Criterion, track: &Track, is_silent: bool) -> Verdict {
    if track.fails(criterion) {
        return Verdict::Fail;
    }
    let seen = match criterion.objective {
        Objective::Number { .. } => track.last.n,
        _ => track.total.n,
    };
    if is_silent || seen < criterion.min_events.max(1) {
        return Verdict::Inconclusive(Lack::NoData);
    }
    let is_proven = match criterion.objective {
        Objective::Burn { .. } | Objective::Stable { .. } => track.test.as_ref().is_some_and(Test::is_kept),
        Objective::Compare { .. }
        | Objective::CompareLatency { .. }
        | Objective::Quantile { .. }
        | Objective::Ratio { .. } => track.proven,
        Objective::Consecutive { .. }
        | Objective::Number { .. }
        | Objective::Rising { .. }
        | Objective::Zero { .. } => true,
    };
    if is_proven && track.failing_since.is_none() { Verdict::Pass } else { Verdict::Inconclusive(Lack::NotProven) }
}

fn is_over_target(criterion: &Criterion, track: &Track) -> bool {
    let Tally { n, over_target, .. } = track.total;
    match &criterion.objective {
        Objective::Number { target, .. } => target.is_some() && track.last.over_target > 0,
        Objective::Quantile { quantile, target: Some(_), .. } => quantile.complement().is_exceeded_by(over_target, n),
        Objective::Ratio { target: Some(target), .. } => target.is_exceeded_by(over_target, n),
        _ => false,
    }
}

fn numbers(criterion: &Criterion, track: &Track) -> Numbers {
    let told = worst(criterion, track).map_or(track.total.counts(), |(_, counts)| counts);
    let (bad, n) = (told.bad, told.n());
    let said = || track.test.as_ref().filter(|_| n > 0).map_or_else(|| "no data".to_owned(), Test::best);
    let (value, limit) = match &criterion.objective {
        Objective::Burn { slo, .. } => (said(), format!("budget of {slo}")),
        Objective::Compare { times, .. } => (said(), format!("{times} baseline")),
        Objective::CompareLatency { quantile, times } => {
            let at = quantile.map(|quantile| format!("p{} ", points(quantile))).unwrap_or_default();
            (said(), format!("{at}{times} baseline"))
        }
        Objective::Consecutive { slots } => (format!("{} in a row", track.bad_run), format!("{slots} in a row")),
        Objective::Number { min, max, .. } => {
            let limit = match (min, max) {
                (Some(min), Some(max)) => format!("{} to {}", number::write(*min), number::write(*max)),
                (Some(min), None) => format!("at least {}", number::write(*min)),
                (None, max) => max.map(number::write).unwrap_or_default(),
            };
            let Tally { n, bad, value, .. } = track.last;
            return Numbers { bad, n, value: value.map_or_else(|| "no data".to_owned(), number::shorten), limit };
        }
        Objective::Quantile { quantile, max, .. } => {
            (format!("{} over {max}", percent(bad, n)), format!("{} over {max}", quantile.complement()))
        }
        Objective::Ratio { max, .. } => (percent(bad, n), max.to_string()),
        Objective::Stable { within, .. } => (said(), format!("{within} a day")),
        Objective::Rising { .. } | Objective::Zero { .. } => (bad.to_string(), "0".to_owned()),
    };
    Numbers { bad, n, value, limit }
}

/// Of a failure that came late, the slots that show it: the whole stage would hide it.
fn worst(criterion: &Criterion, track: &Track) -> Option<(Timestamp, Counts)> {
    track.failing_since?;
    let (limit, alternative) = shares(criterion, track)?;
    track.worst_since(limit, alternative)
}

/// Where a share is tested: the limit, and of the shares beyond it the one that explains the data best.
pub(crate) fn shares(criterion: &Criterion, track: &Track) -> Option<(f64, f64)> {
    let limit = match &criterion.objective {
        Objective::Quantile { quantile, .. } => quantile.complement(),
        Objective::Ratio { max, .. } => *max,
        _ => return None,
    };
    Some((share_of(limit), track.test.as_ref()?.alternative()?))
}

/// A quantile as people say it: 99 for 99 %.
fn points(quantile: Ratio) -> String {
    quantile.to_string().trim_end_matches('%').to_owned()
}

/// What a verdict rests on, where counts are judged as shares.
fn grounds(criterion: &Criterion, track: &Track, scope: Scope<'_>) -> Option<Box<Grounds>> {
    let test = track.test.as_ref()?;
    let ln_e_fail = test.ln_e_fail()?;
    let luck = libm::exp(test.ln_e_fail_max().unwrap_or(ln_e_fail).clamp(0.0, LN_LUCK_MAX));
    let (low, high) = Mixture::SHOWN.interval(track.total.counts());
    Some(Box::new(Grounds {
        ln_e_fail: Nats(ln_e_fail),
        ln_e_pass: test.ln_e_pass().map(Nats),
        bar: Nats(track.bar),
        luck_one_in: luck as u64,
        low: Ratio::from_ppb(libm::floor(low * f64::from(ONE_PPB)) as u32),
        high: Ratio::from_ppb(libm::ceil(high * f64::from(ONE_PPB)) as u32),
        best: test.best(),
        since: worst(criterion, track).map(|(since, _)| since),
        crossed: track.crossed,
        anew_from: track.anew_from,
        covered: scope.covered,
        slots: scope.slots,
        parameters: parameters(criterion, track),
    }))
}

/// "at most 1 in" is cut here: more says nothing to people.
const LN_LUCK_MAX: f64 = 34.5;

fn parameters(criterion: &Criterion, track: &Track) -> String {
    let text = serde_json::to_vec(&(criterion, track.bar.to_bits(), track.planned)).unwrap_or_default();
    Hash::of(&text).short()
}

/// A share of `n` with two significant digits, rounded up: against the release, never for it.
pub(crate) fn percent(bad: u64, n: u64) -> String {
    if n == 0 {
        return "no data".to_owned();
    }
    // In thousandths of a percent; one digit after the point from 1 %, else up to three.
    let milli = (u128::from(bad) * 100_000).div_ceil(u128::from(n));
    if milli == 0 {
        return "0%".to_owned();
    }
    if milli >= 1_000 {
        let tenths = milli.div_ceil(100);
        let (whole, tenth) = (tenths / 10, tenths % 10);
        return if tenth == 0 { format!("{whole}%") } else { format!("{whole}.{tenth}%") };
    }
    let digits = format!("{milli:03}");
    format!("0.{}%", digits.trim_end_matches('0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_rounded_against_the_release() {
        let cases = [
            (0, 100, "0%"),
            (0, 0, "no data"),
            (7, 120, "5.9%"),
            (1, 20, "5%"),
            (4, 30_180, "0.014%"),
            (5, 1_000, "0.5%"),
            (1, 1, "100%"),
            (u64::MAX, u64::MAX, "100%"),
        ];
        for (bad, n, expected) in cases {
            assert_eq!(percent(bad, n), expected, "{bad} of {n}");
        }
    }
}
