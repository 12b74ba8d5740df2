//! Whether the release that runs now should be taken back, by a few looks and a plan's hard criteria.
//!
//! The judge is that of a rollout. What a plan asks to last (`for`, `never N slots down`) must last
//! through every look, for there are only a few; too few events are no excuse for the same reason.

use std::collections::BTreeMap;

use bellwether_decide::rehearse::Rehearsal;
use bellwether_decide::{collect, project};
use bellwether_protocol::assessment::{Assessment, Health, Judge, Looks, Round};
use bellwether_protocol::assignment::Look;
use bellwether_protocol::id::{CriterionName, Region};
use bellwether_protocol::plan::{Criterion, FailStep, Objective, OnFail, Plan, Require, Stage};
use bellwether_protocol::reason::{Lack, Verdict};
use bellwether_protocol::record::{ClosedSlot, Series};
use bellwether_protocol::sample::{Cohort, EVIDENCE_MAX, Sample};
use bellwether_protocol::time::{Span, Timestamp, slot_start};

/// These two, for whoever only asks.
pub const JUDGE: Judge = Judge { looks, assess };

/// What is looked at in these regions of `plan`; nothing where a few looks cannot judge any hard criterion.
pub fn looks(plan: &Plan, regions: &[Region]) -> Looks {
    let rehearsal = begin(plan, regions, 1, plan.slot, Timestamp::default());
    let looks = rehearsal.map(|rehearsal| project::looks(rehearsal.rollout()).by_region).unwrap_or_default();
    // The judge takes every answer for that of what runs now; which release that is, people want to know.
    let own = |look: Look| Look { fingerprint: plan.fingerprint.clone(), ..look };
    let here = |(region, looks): (Region, Vec<Look>)| looks.into_iter().map(move |look| (region.clone(), own(look)));
    looks.into_iter().flat_map(here).collect()
}

/// Judges what was seen, one round after the other; `every` is the time between two.
pub fn assess(plan: &Plan, regions: &[Region], rounds: &[Round], every: Span) -> Assessment {
    let left_out = left_out(plan);
    let nothing = Assessment { health: Health::NoData, judgements: Vec::new(), left_out, evidence: Vec::new() };
    // Looks may take longer than the time between them; their slots lie side by side all the same.
    let mut at = rounds.iter().flatten().map(|(_, sample)| sample.slot).next().unwrap_or_default();
    at = slot_start(at, every);
    let Some(mut rehearsal) = begin(plan, regions, rounds.len(), every, at) else { return nothing };
    for round in rounds {
        let mut slots: Vec<ClosedSlot> = round.iter().map(|(region, sample)| closed(region, sample, at)).collect();
        // What nobody saw is a slot too.
        let missing = rehearsal.series().filter(|series| slots.iter().all(|slot| slot.series != **series));
        let missing: Vec<ClosedSlot> = missing.map(|series| collect::closed_by(series, at, &[])).collect();
        slots.extend(missing);
        rehearsal.fold(&slots);
        at = at + every;
    }
    let findings = rehearsal.findings(at);
    let has = |verdict| findings.iter().any(|finding| finding.verdict == verdict);
    let series = &rehearsal.rollout().evidence.series;
    let health = if has(Verdict::Fail) {
        Health::Bad
    } else if series.values().any(|series| series.strip.contains('x')) {
        Health::Undecided
    } else if rounds.is_empty()
        || has(Verdict::Inconclusive(Lack::NoData))
        || series.values().any(|series| series.covered < series.slots)
    {
        Health::NoData
    } else {
        Health::Well
    };
    let judgements = findings.iter().map(|finding| finding.judgement()).collect();
    // Also what was not counted: people want to see why nothing could be told.
    let evidence = rounds.iter().flatten().flat_map(|(_, sample)| &sample.evidence).take(EVIDENCE_MAX);
    Assessment { health, judgements, evidence: evidence.cloned().collect(), ..nothing }
}

/// A plan of one stage that looks at these regions for so many slots.
fn begin(plan: &Plan, regions: &[Region], count: usize, slot: Span, from: Timestamp) -> Option<Rehearsal> {
    let left_out = left_out(plan);
    let criteria = plan.criteria.iter().filter(|it| it.hard && !left_out.contains_key(&it.name));
    let criteria: Vec<Criterion> = criteria.map(|criterion| shortened(criterion, count, slot)).collect();
    let stage = Stage {
        name: "assessment".parse().ok()?,
        regions: plan.regions.keys().filter(|region| regions.contains(region)).cloned().collect(),
        cohorts: vec![Cohort::Canary],
        enter: Vec::new(),
        enter_within: Span::ZERO,
        settle: Span::ZERO,
        // It is never left: what is asked is how it stands.
        soak: Span::from_secs(86_400),
        criteria: criteria.iter().map(|criterion| criterion.name.clone()).collect(),
        approval: false,
        during: Vec::new(),
        irreversible: false,
    };
    let plan = Plan { slot, quorum: 1, criteria, stages: vec![stage], ..plan.clone() };
    Rehearsal::begin(plan, "now".parse().ok()?, from)
}

/// As `count` looks can judge it.
fn shortened(criterion: &Criterion, count: usize, slot: Span) -> Criterion {
    let count = u32::try_from(count.max(1)).unwrap_or(u32::MAX);
    let objective = match &criterion.objective {
        Objective::Consecutive { slots } => Objective::Consecutive { slots: count.min(*slots) },
        other => other.clone(),
    };
    let lasts =
        criterion.on_fail.iter().find(|step| step.act == OnFail::Rollback).map_or(Span::ZERO, |step| step.after);
    let hold_for = criterion.hold_for.max(lasts).min(slot.times(u64::from(count)));
    let on_fail = vec![FailStep { after: Span::ZERO, act: OnFail::Rollback, tell: Vec::new() }];
    let (min_events, require) = (1, Require::NotFailed);
    Criterion { objective, hold_for, on_fail, min_events, require, ..criterion.clone() }
}

fn left_out(plan: &Plan) -> BTreeMap<CriterionName, &'static str> {
    let why = |criterion: &Criterion| match criterion.objective {
        _ if !criterion.takes_back() => Some("takes nothing back when it fails"),
        Objective::Compare { .. } | Objective::CompareLatency { .. } => Some("needs a baseline beside it"),
        Objective::Burn { .. } | Objective::Stable { .. } => Some("needs hours"),
        _ => None,
    };
    let hard = plan.criteria.iter().filter(|criterion| criterion.hard);
    hard.filter_map(|criterion| Some((criterion.name.clone(), why(criterion)?))).collect()
}

fn closed(region: &Region, sample: &Sample, slot: Timestamp) -> ClosedSlot {
    let series = Series { sli: sample.sli.clone(), cohort: sample.cohort, region: region.clone() };
    collect::closed_by(&series, slot, std::slice::from_ref(sample))
}

#[cfg(test)]
mod tests {
    use bellwether_protocol::plan::read_plan;
    use bellwether_protocol::sample::{Control, Level, Portion};

    use super::*;

    const PLAN: &str = "
service: shop
fingerprint: { header: x-release }
regions: { east: 'http://127.0.0.1:1', west: 'http://127.0.0.1:2' }
slis: [{ name: jwks, http: { path: / } }]
levers: { release: { holds_release: true } }
criteria:
  - { name: jwks, must: no errors, hard: true }
  - name: memory
    must: memory < 100
    hard: true
    on_fail: [{ do: warn }, { for: 5m, do: rollback }]
  - { name: down, must: never 9 slots down, hard: true, min_events: 50 }
  - { name: leak, must: memory stable within 5% a day, hard: true }
  - { name: odd, must: no 4xx, hard: true, on_fail: hold }
  - { name: slow, must: p95 < 1ms }
stages: [{ name: all, enter: [{ set: release, to: '{release}' }], soak: 1h }]
";

    fn plan() -> Plan {
        read_plan("plan.yaml", PLAN, &[], &BTreeMap::new()).unwrap_or_else(|wrong| panic!("{wrong:?}")).0
    }

    fn east() -> Vec<Region> {
        vec!["east".parse().unwrap()]
    }

    fn round(class: &str, memory: f64, control: Control) -> Round {
        let numbers = [("memory".parse().unwrap(), Level::one(memory))].into();
        let classes = [(class.parse().unwrap(), 1)].into();
        let sample = Sample {
            rollout: "shop/0".parse().unwrap(),
            revision: Default::default(),
            sli: "jwks".parse().unwrap(),
            cohort: Cohort::Canary,
            slot: Timestamp::from_ms(777),
            portions: vec![Portion { classes, numbers, ..Portion::default() }],
            control,
            source: None,
            evidence: Vec::new(),
        };
        vec![("east".parse().unwrap(), sample)]
    }

    #[test]
    fn only_what_a_few_looks_can_judge_is_looked_at() {
        let looks = looks(&plan(), &east());
        let shown: Vec<String> = looks.iter().map(|(region, look)| format!("{region} {}", look.sli)).collect();
        assert_eq!(shown, ["east jwks"]);
        assert!(looks.iter().all(|(_, look)| look.fingerprint == plan().fingerprint && look.fingerprint.is_some()));
        let soft = PLAN.replace("hard: true", "hard: false");
        let soft = read_plan("plan.yaml", &soft, &[], &BTreeMap::new()).unwrap().0;
        assert!(super::looks(&soft, &east()).is_empty());
        assert_eq!(assess(&soft, &east(), &[], Span::from_secs(5)).health, Health::NoData);
    }

    #[test]
    fn a_few_looks_say_bad_or_well_or_that_they_cannot_tell() {
        let check = |rounds: &[Round], expected: Health, red: &str| {
            let assessment = assess(&plan(), &east(), rounds, Span::from_secs(5));
            let fails = assessment.judgements.iter().filter(|judgement| judgement.verdict == Verdict::Fail);
            let fails: std::collections::BTreeSet<_> = fails.map(|judgement| judgement.criterion.to_string()).collect();
            let fails = fails.into_iter().collect::<Vec<_>>().join(" ");
            assert_eq!((assessment.health, fails.as_str()), (expected, red), "{assessment:?}");
            assert_eq!(assessment.left_out.keys().map(ToString::to_string).collect::<Vec<_>>(), ["leak", "odd"]);
        };
        use Control::{Absent, Sick, Well};
        let good = round("ok", 50.0, Well);
        check(&[good.clone(), good.clone(), good.clone()], Health::Well, "");
        check(&[good.clone(), round("unexpected", 50.0, Absent), good.clone()], Health::Bad, "jwks");
        let gone = |control| [round("connect", 1.0, control), round("connect", 1.0, control)];
        check(&gone(Well), Health::Bad, "down jwks");
        check(&gone(Sick), Health::NoData, "");
        check(&gone(Absent), Health::NoData, "");
        // What must last has to last through every look.
        let fat = round("ok", 150.0, Well);
        check(&[fat.clone(), fat.clone(), fat.clone()], Health::Bad, "memory");
        check(&[fat.clone(), fat, good.clone()], Health::Undecided, "");
        check(&[good.clone(), Vec::new(), good], Health::NoData, "");
        check(&[], Health::NoData, "");
    }
}
