//! The error budget of one rollout: how much evidence a test needs before it may speak.
//!
//! A plan's `alpha` bounds the chance that a release within every limit is taken back by a
//! statistical criterion. It is spent on stages by exposure (soak times regions), and inside a stage
//! shared equally by the tests of hard criteria: one per region, and one for all regions pooled.
//! Shares of one budget add up, whatever depends on what (Boole's inequality).
//!
//! Outside the budget lie the rules that count instead of test: zero tolerance, failures in a row,
//! limits of numbers, stability and burn rates. [`outside`] names them.

use bellwether_protocol::plan::{Criterion, Objective, Plan, Stage};
use bellwether_protocol::ratio::ONE_PPB;

/// What a soft criterion spends: it holds, and takes nothing back.
pub(crate) const ALPHA_SOFT: f64 = 0.05;
/// What a Pass test spends: it only ever lets go on what did not fail.
pub(crate) const ALPHA_PASS: f64 = 0.05;
/// The part of a stage's share that is spent while it is being entered, before its soak begins.
const ENTERING: f64 = 0.1;

/// One test's share of the budget.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Share {
    /// What the logarithm of its e-value must reach: `ln(1/alpha)` of the share.
    pub bar: f64,
    /// How many slots its stage is planned to take.
    pub planned: u64,
}

/// Whether a criterion is judged by a test, and so spends from the budget when it is hard.
pub fn is_tested(criterion: &Criterion) -> bool {
    match criterion.objective {
        Objective::Compare { .. }
        | Objective::CompareLatency { .. }
        | Objective::Quantile { .. }
        | Objective::Ratio { .. } => true,
        Objective::Burn { .. }
        | Objective::Consecutive { .. }
        | Objective::Number { .. }
        | Objective::Rising { .. }
        | Objective::Stable { .. }
        | Objective::Zero { .. } => false,
    }
}

/// Criteria of a stage that may take the release back outside the budget.
pub fn outside<'a>(plan: &'a Plan, stage: &'a Stage) -> impl Iterator<Item = &'a Criterion> {
    criteria(plan, stage).filter(|criterion| criterion.takes_back() && !is_tested(criterion))
}

/// How many tests of a stage share its part of the budget.
pub fn tests(plan: &Plan, stage: &Stage) -> u64 {
    let hard = criteria(plan, stage).filter(|criterion| criterion.takes_back() && is_tested(criterion)).count();
    hard as u64 * scopes(stage)
}

/// A stage's part of the budget: its exposure over that of all stages.
pub fn alpha(plan: &Plan, stage: &Stage) -> f64 {
    let exposure = |stage: &Stage| stage.soak.as_ms() as f64 * stage.regions.len() as f64;
    let whole: f64 = plan.stages.iter().map(exposure).sum();
    f64::from(plan.alpha.ppb()) / f64::from(ONE_PPB) * exposure(stage) / whole
}

/// The share of each test of `criterion` in `stage`, while it is being entered or afterwards.
pub fn share(plan: &Plan, stage: &Stage, criterion: &Criterion, is_entering: bool) -> Share {
    let spent = if criterion.takes_back() {
        let part = if is_entering { ENTERING } else { 1.0 - ENTERING };
        alpha(plan, stage) * part / tests(plan, stage).max(1) as f64
    } else {
        ALPHA_SOFT / scopes(stage) as f64
    };
    let lasts = if is_entering { stage.enter_within } else { stage.soak };
    Share { bar: -libm::log(spent), planned: (lasts.as_ms() / plan.slot.as_ms().max(1)).max(1) }
}

/// Every region, and all of them pooled where there are several.
fn scopes(stage: &Stage) -> u64 {
    let regions = stage.regions.len() as u64;
    regions + u64::from(regions > 1)
}

fn criteria<'a>(plan: &'a Plan, stage: &'a Stage) -> impl Iterator<Item = &'a Criterion> {
    stage.criteria.iter().filter_map(|name| plan.criterion(name))
}

#[cfg(test)]
pub(crate) mod tests {
    use bellwether_protocol::plan::{OnFail, Require, TakeBack};
    use bellwether_protocol::ratio::Ratio;
    use bellwether_protocol::sample::Cohort;
    use bellwether_protocol::time::Span;

    use super::*;

    pub(crate) fn criterion(name: &str, hard: bool, objective: Objective) -> Criterion {
        Criterion {
            name: name.parse().unwrap(),
            sli: "checkout".parse().unwrap(),
            objective,
            hard,
            require: Require::NotFailed,
            hold_for: Span::ZERO,
            min_events: 1,
            on_fail: if hard { OnFail::Rollback } else { OnFail::Hold }.at_once(),
        }
    }

    pub(crate) fn stage(regions: &[&str], soak: Span, criteria: &[&str]) -> Stage {
        Stage {
            name: "stage".parse().unwrap(),
            regions: regions.iter().map(|region| region.parse().unwrap()).collect(),
            cohorts: vec![Cohort::Canary],
            enter: Vec::new(),
            enter_within: Span::from_secs(120),
            settle: Span::ZERO,
            soak,
            criteria: criteria.iter().map(|name| name.parse().unwrap()).collect(),
            approval: false,
            during: Vec::new(),
            irreversible: false,
        }
    }

    /// An hour in one region with one hard test; an hour and a half in two with two, a soft one and a rule.
    pub(crate) fn plan() -> Plan {
        let ratio = || Objective::Ratio { bad: Vec::new(), max: Ratio::from_ppb(10_000_000), target: None };
        let all = ["hard_a", "hard_b", "soft", "no_5xx"];
        Plan {
            service: "shop".parse().unwrap(),
            slot: Span::from_secs(30),
            grace: Span::from_secs(10),
            quorum: 1,
            alpha: Ratio::from_ppb(10_000_000),
            regions: Default::default(),
            canary: Default::default(),
            baseline: None,
            fingerprint: None,
            levers: Default::default(),
            slis: Vec::new(),
            criteria: vec![
                criterion("hard_a", true, ratio()),
                criterion("hard_b", true, ratio()),
                criterion("soft", false, ratio()),
                criterion("no_5xx", true, Objective::Zero { bad: Vec::new() }),
            ],
            stages: vec![
                stage(&["east"], Span::from_secs(3_600), &["hard_a"]),
                stage(&["east", "west"], Span::from_secs(5_400), &all),
            ],
            take_back: TakeBack { levels: Vec::new(), green: 3, within: 10 },
            freeze: Vec::new(),
        }
    }

    #[test]
    fn the_shares_of_a_rollout_add_up_to_its_alpha() {
        let plan = plan();
        let mut spent = 0.0;
        for stage in &plan.stages {
            for criterion in criteria(&plan, stage).filter(|c| c.takes_back() && is_tested(c)) {
                for is_entering in [true, false] {
                    spent += libm::exp(-share(&plan, stage, criterion, is_entering).bar) * scopes(stage) as f64;
                }
            }
        }
        assert!((spent - 0.01).abs() < 1e-12, "{spent}");
    }

    #[test]
    fn a_longer_stage_in_more_regions_gets_more() {
        let plan = plan();
        let [first, second] = &plan.stages[..] else { panic!("two stages") };
        assert!((alpha(&plan, first) - 0.0025).abs() < 1e-12);
        assert!((alpha(&plan, second) - 0.0075).abs() < 1e-12);
        assert_eq!((tests(&plan, first), tests(&plan, second)), (1, 6));
        let named: Vec<_> = outside(&plan, second).map(|criterion| criterion.name.as_str()).collect();
        assert_eq!(named, ["no_5xx"]);
    }
}
