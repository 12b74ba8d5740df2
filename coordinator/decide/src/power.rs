//! What a plan's looks can show, before anything is started: how soon a regression is seen, and what
//! a quiet soak proves. By the same tests, at the same shares of the error budget, as in a rollout.
//!
//! Delays are those of a stream that behaves as expected (half of the time), or is unlucky by one
//! normal deviate of 1.28 (nine times of ten); in simulations of whole streams they are right to a tenth.

use bellwether_protocol::plan::{Criterion, Objective, Plan, Stage};
use bellwether_protocol::power::{CriterionPower, StagePower};
use bellwether_protocol::ratio::{ONE_PPB, Ratio};
use bellwether_protocol::time::Span;

use crate::budget;
use crate::judge::pass_bar;
use crate::kernel::interval::Mixture;
use crate::kernel::threshold::{Counts, ln_e_fail, ln_e_pass};
use crate::test::share_of;

/// A regression that people ask about: to so many times the limit.
const JUMP: u32 = 5;
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
        criteria: stage.criteria.iter().filter_map(|name| criterion(plan, stage, name, per_minute)).collect(),
    };
    plan.stages.iter().map(of).collect()
}

fn criterion(
    plan: &Plan,
    stage: &Stage,
    name: &bellwether_protocol::id::CriterionName,
    per_minute: Option<f64>,
) -> Option<CriterionPower> {
    let criterion = plan.criterion(name)?;
    let (limit, target) = limits(criterion)?;
    let every = plan.sli(&criterion.sli)?.every.as_ms().max(1) as f64;
    let per_minute = per_minute.unwrap_or(60_000.0 / every * f64::from(plan.quorum));
    let share = budget::share(plan, stage, criterion, false);
    let jump = Ratio::from_ppb(limit.ppb().saturating_mul(JUMP).min(ONE_PPB / 10 * 9)).max(limit);
    let within = |n: u64, regions: f64| {
        let lasts = Span::from_ms((n as f64 / (per_minute * regions) * 60_000.0) as u64);
        Some(lasts).filter(|lasts| *lasts <= stage.soak)
    };
    // Half of the weight is on the first slot, so a regression from the start needs that much more.
    let bar = share.bar + std::f64::consts::LN_2;
    let seen = |deviates: f64| fails_at(share_of(limit), share_of(jump), bar, deviates).and_then(|n| within(n, 1.0));
    let regions = stage.regions.len().max(1) as f64;
    let clean_needed = passes_at(share_of(target));
    let whole = (stage.soak.as_ms() as f64 / 60_000.0 * per_minute * regions) as u64;
    let (_, high) = Mixture::SHOWN.interval(Counts::new(0, whole));
    Some(CriterionPower {
        criterion: name.clone(),
        per_minute,
        limit,
        jump,
        one_in: libm::exp(share.bar) as u64,
        seen_half: seen(0.0),
        seen_most: seen(NINE_OF_TEN),
        target,
        clean_needed,
        proven_in: within(clean_needed, regions),
        rules_out: ratio(high),
        require: criterion.require,
    })
}

/// The share beyond which it fails, and the one that a Pass proves.
fn limits(criterion: &Criterion) -> Option<(Ratio, Ratio)> {
    let (limit, target) = match &criterion.objective {
        Objective::Quantile { quantile, .. } => (quantile.complement(), quantile.complement()),
        Objective::Ratio { max, target, .. } => (*max, target.unwrap_or(*max)),
        _ => return None,
    };
    let is_share = |ratio: Ratio| ratio > Ratio::ZERO && ratio < Ratio::ZERO.complement();
    (is_share(limit) && is_share(target)).then_some((limit, target))
}

/// After how many events a true share `p` fails the limit `p0`; `None` when it takes more than 1e12.
fn fails_at(p0: f64, p: f64, bar: f64, deviates: f64) -> Option<u64> {
    let fails = |n: u64| {
        let (mean, variance) = (n as f64 * p, n as f64 * p * (1.0 - p));
        let bad = libm::floor(mean - deviates * libm::sqrt(variance)).max(0.0) as u64;
        bad >= 2 && ln_e_fail(Counts::new(bad, n), p0) >= bar
    };
    least(fails)
}

/// How many events without one bad pass the target `p1`.
fn passes_at(p1: f64) -> u64 {
    least(|n| ln_e_pass(Counts::new(0, n), p1) >= pass_bar()).unwrap_or(u64::MAX)
}

/// The least number for which `holds`, given that it holds from some point on, give or take a few.
fn least(holds: impl Fn(u64) -> bool) -> Option<u64> {
    let mut high = 1_u64;
    while !holds(high) {
        high = high.checked_mul(2).filter(|high| *high < 1 << 40)?;
    }
    let mut low = high / 2;
    while low + 1 < high {
        let middle = u64::midpoint(low, high);
        if holds(middle) { high = middle } else { low = middle }
    }
    Some(high)
}

/// Rounded up: what is said to be ruled out must be.
pub(crate) fn ratio(part: f64) -> Ratio {
    Ratio::from_ppb(libm::ceil(part * f64::from(ONE_PPB)) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proofs_and_regressions_take_as_long_as_streams_say() {
        assert_eq!(passes_at(0.001), 3_534);
        // 0.1 % -> 0.5 % at alpha .05: a median of 1,440 requests and 9 of 10 within 2,880, plain.
        let bar = libm::log(20.0);
        let (half, most) =
            (fails_at(0.001, 0.005, bar, 0.0).unwrap(), fails_at(0.001, 0.005, bar, NINE_OF_TEN).unwrap());
        assert!((1_200..1_700).contains(&half) && (2_300..3_600).contains(&most), "{half} {most}");
        // 0.5 % -> 5 % at 1 in 2,000 and half of the weight on the first slot: about 150 requests.
        let n = fails_at(0.005, 0.05, libm::log(2_000.0) + std::f64::consts::LN_2, 0.0).unwrap();
        assert!((120..200).contains(&n), "{n}");
    }
}
