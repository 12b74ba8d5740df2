//! What a plan's looks can show, before anything is started: how soon a regression is seen, and what
//! a quiet soak proves. By the same tests, at the same shares of the error budget, as in a rollout.
//!
//! Delays are those of a stream on its expected path: half of the time it is as bad as that or worse.
//! Nine times of ten it is no better than one that is unlucky by one normal deviate of 1.28. In
//! simulations of whole streams both are right to a tenth, those of comparisons to a fifth. Shares are
//! tested on totals; for the others the slots of such a stream are folded as those of a rollout are.

mod path;

use bellwether_protocol::plan::{Criterion, Objective, Plan, Stage};
use bellwether_protocol::power::{CriterionPower, Seen, SharePower, Shows, StagePower, clean_needed};
use bellwether_protocol::ratio::{ONE_PPB, Ratio, Times};
use bellwether_protocol::time::Span;

use crate::budget;
use crate::kernel::interval::Mixture;
use crate::kernel::threshold::{Counts, bound_of_silence, ln_e_fail};
use crate::test::share_of;
use path::Path;

/// A regression that people ask about: to so many times the limit.
const JUMP: u32 = 5;
/// How many times as bad as the baseline a canary is.
const JUMPS: [Times; 2] = [Times::from_milli(2_000), Times::from_milli(5_000)];
/// The share of the baseline's answers that is bad, where the plan has no target for it, and the one
/// that is slow, where no quantile is compared.
const BASELINE: (Ratio, Ratio) = (Ratio::from_ppb(ONE_PPB / 1_000), Ratio::from_ppb(ONE_PPB / 100));
/// How fast a budget burns that people are woken for: 2 % of 30 days in an hour.
const FAST: Times = Times::from_milli(14_400);
/// The standard normal deviate that nine of ten stay below.
const NINE_OF_TEN: f64 = 1.281_551_565_544_6;

/// What each stage can show. `per_minute` is the traffic of one cohort in one region, where it is not
/// the plan's own looks that are counted.
pub fn power(plan: &Plan, per_minute: Option<f64>) -> Vec<StagePower> {
    let of = |stage: &Stage| StagePower {
        stage: stage.name.clone(),
        soak: stage.soak,
        alpha: ratio(budget::alpha(plan, stage)),
        tests: budget::tests(plan, stage),
        outside: budget::outside(plan, stage).map(|criterion| criterion.name.clone()).collect(),
        criteria: stage
            .criteria
            .iter()
            .filter_map(|name| criterion(plan, stage, plan.criterion(name)?, per_minute))
            .collect(),
    };
    plan.stages.iter().map(of).collect()
}

fn criterion(plan: &Plan, stage: &Stage, criterion: &Criterion, per_minute: Option<f64>) -> Option<CriterionPower> {
    let said = |per_minute, shows| CriterionPower {
        criterion: criterion.name.clone(),
        must: criterion.objective.to_string(),
        per_minute,
        shows,
    };
    let Some(per_minute) = per_minute.or(plan.sli(&criterion.sli)?.per_minute(plan.quorum)) else {
        return Some(said(0.0, Shows::Unknown));
    };
    let path = Path { plan, stage, criterion, per_minute };
    let regions = stage.regions.len().max(1) as f64;
    let whole = (stage.soak.as_ms() as f64 / 60_000.0 * per_minute * regions) as u64;
    let shows = match &criterion.objective {
        Objective::Burn { slo, .. } => {
            let allowed = share_of(slo.complement());
            let fast = path.fails(allowed * FAST.factor());
            Shows::Burn { times: FAST, fast, outage: path.fails(1.0) }
        }
        Objective::Compare { times, .. } => compared(&path, *times, target(plan, stage, criterion)),
        Objective::CompareLatency { quantile, .. } => {
            // The edge that is compared is the first that no more than this exceed: half of it, or all.
            let slow = quantile.map_or(BASELINE.1, |quantile| Ratio::from_ppb(quantile.complement().ppb() / 4 * 3));
            compared(&path, Times::ONE, slow)
        }
        Objective::Consecutive { .. } | Objective::Number { .. } | Objective::Rising { .. } => {
            let slots = path.fails(1.0).map(|lasts| (lasts.as_ms() / plan.slot.as_ms().max(1), lasts));
            Shows::Lasting { slots }
        }
        Objective::Quantile { quantile, max, .. } => {
            let limit = quantile.complement();
            Shows::Share(SharePower { over: Some(*max), ..share(&path, limit, limit, whole)? })
        }
        Objective::Ratio { max, target, .. } => Shows::Share(share(&path, *max, target.unwrap_or(*max), whole)?),
        Objective::Stable { within, .. } => Shows::Climb { looks: path.climbs(share_of(*within)) },
        Objective::Zero { .. } => {
            Shows::Silence { clean: whole, rules_out: ratio(bound_of_silence(whole, budget::ALPHA_PASS)) }
        }
    };
    Some(said(per_minute, shows))
}

/// Regressions against a baseline of so many bad answers, beyond what is tolerated.
fn compared(path: &Path<'_>, tolerated: Times, baseline: Ratio) -> Shows {
    let twice = Times::from_milli(tolerated.milli().saturating_mul(2));
    let beyond = JUMPS.into_iter().filter(|times| *times > tolerated);
    let jumps = beyond.chain(Some(twice).filter(|_| JUMPS.iter().all(|times| *times <= tolerated))).map(|times| {
        let seen = |deviates| path.fails_beside(share_of(baseline), times.factor(), deviates);
        (times, Seen { half: seen(0.0), most: seen(NINE_OF_TEN) })
    });
    Shows::Compared { baseline, jumps: jumps.collect() }
}

/// What the plan wants the share of bad answers to be under at the least.
fn target(plan: &Plan, stage: &Stage, compared: &Criterion) -> Ratio {
    let criteria = stage.criteria.iter().filter_map(|name| plan.criterion(name));
    let of = |criterion: &Criterion| match &criterion.objective {
        Objective::Ratio { max, target, .. } => Some(target.unwrap_or(*max)),
        _ => None,
    };
    criteria.filter(|criterion| criterion.sli == compared.sli).filter_map(of).min().unwrap_or(BASELINE.0)
}

fn share(path: &Path<'_>, limit: Ratio, target: Ratio, whole: u64) -> Option<SharePower> {
    let Path { plan, stage, criterion, per_minute } = *path;
    let is_share = |ratio: Ratio| ratio > Ratio::ZERO && ratio < Ratio::ZERO.complement();
    if !is_share(limit) || !is_share(target) {
        return None;
    }
    let share = budget::share(plan, stage, criterion, false);
    let jump = Ratio::from_ppb(limit.ppb().saturating_mul(JUMP).min(ONE_PPB / 10 * 9)).max(limit);
    let within = |n: u64, regions: f64| {
        let lasts = Span::from_ms((n as f64 / (per_minute * regions) * 60_000.0) as u64);
        Some(lasts).filter(|lasts| *lasts <= stage.soak)
    };
    // Half of the weight is on the first slot, so a regression from the start needs that much more.
    let bar = share.bar + std::f64::consts::LN_2;
    let seen = |deviates: f64| fails_at(share_of(limit), share_of(jump), bar, deviates).and_then(|n| within(n, 1.0));
    let clean_needed = clean_needed(target);
    let (_, high) = Mixture::SHOWN.interval(Counts::new(0, whole));
    Some(SharePower {
        limit,
        over: None,
        jump,
        one_in: libm::exp(share.bar) as u64,
        seen: Seen { half: seen(0.0), most: seen(NINE_OF_TEN) },
        target,
        clean_needed,
        proven_in: within(clean_needed, stage.regions.len().max(1) as f64),
        rules_out: ratio(high),
        require: criterion.require,
    })
}

/// After how many events a true share `p` fails the limit `p0`; `None` when it takes more than 1e12.
fn fails_at(p0: f64, p: f64, bar: f64, deviates: f64) -> Option<u64> {
    let fails = |n: u64| {
        let (mean, variance) = (n as f64 * p, n as f64 * p * (1.0 - p));
        let counts = path::counts(n as f64, mean - deviates * libm::sqrt(variance));
        counts.bad >= 2 && ln_e_fail(counts, p0) >= bar
    };
    // It fails from some number on, give or take a few.
    let mut high = 1_u64;
    while !fails(high) {
        high = high.checked_mul(2).filter(|high| *high < 1 << 40)?;
    }
    let mut low = high / 2;
    while low + 1 < high {
        let middle = u64::midpoint(low, high);
        if fails(middle) { high = middle } else { low = middle }
    }
    Some(high)
}

/// Rounded up: what is said to be ruled out must be.
pub(crate) fn ratio(part: f64) -> Ratio {
    Ratio::from_ppb(libm::ceil(part * f64::from(ONE_PPB)) as u32)
}

#[cfg(test)]
mod tests;
