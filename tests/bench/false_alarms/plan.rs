//! A whole plan on healthy streams: the same evidence, verdicts, budget and gates as in a rollout.

use std::collections::BTreeMap;

use bellwether_decide::rehearse::Rehearsal;
use bellwether_decide::state::Phase;
use bellwether_protocol::plan::{Plan, read_plan};
use bellwether_protocol::record::ClosedSlot;
use bellwether_protocol::sample::{Cohort, Histogram, LATENCY_EDGES_MS, Portion};
use bellwether_protocol::time::Timestamp;
use rand::rngs::SmallRng;

use crate::streams::{binomial, daily, poisson};

/// Every limit is what the streams really do: as hard as a healthy release can be tried.
const PLAN: &str = "
service: api
slot: 60s
alpha: 5%
regions: { fra: 'https://fra.example', iad: 'https://iad.example', sjc: 'https://sjc.example' }
cohorts: { canary: {}, baseline: {} }
levers: { release: { holds_release: true } }
slis:
  - { name: requests, every: 1s, http: {} }
  - { name: jobs, every: 1s, http: {} }
criteria:
  - { name: errors, ratio: { sli: requests, max: 0.5% }, hard: true }
  - { name: job_errors, ratio: { sli: jobs, max: 1% }, hard: true }
  - { name: p99, quantile: { sli: requests, q: 99%, max: 256ms }, hard: true }
  - { name: job_p99, quantile: { sli: jobs, q: 99%, max: 256ms }, hard: true }
  - { name: errors_beside, compare: { sli: requests, times: 1x }, hard: true }
  - { name: p99_beside, compare_latency: { sli: requests, q: 99%, times: 1x }, hard: true }
stages:
  - { name: canary, soak: 24h, enter: [{ set: release, to: '{release}' }] }
";

/// The plan, read once by each thread.
fn plan() -> Plan {
    thread_local! {
        static READ: Plan = {
            let (plan, _) = read_plan("api.yaml", PLAN, &[], &BTreeMap::new()).expect("a plan");
            plan
        };
    }
    READ.with(Plan::clone)
}

/// Whether a healthy release is taken back within a day.
pub(crate) fn is_taken_back(rng: &mut SmallRng) -> bool {
    let plan = plan();
    let width = plan.slot;
    let start = Timestamp::from_ms(1_800_000_000_000);
    let mut rehearsal = Rehearsal::begin(plan, "v2".parse().expect("a release"), start).expect("a stage");
    let mut slot = start;
    for minute in 0..1_440 {
        let series: Vec<_> = rehearsal.series().cloned().collect();
        let closed: Vec<ClosedSlot> = series
            .into_iter()
            .map(|series| {
                let (mean, p) = if series.sli.as_str() == "requests" { (60.0, 0.005) } else { (20.0, 0.01) };
                let share = if series.cohort == Cohort::Canary { 1.0 } else { 9.0 };
                let n = poisson(rng, mean * share * daily(minute, 0));
                let portions = vec![portion(rng, n, p)];
                ClosedSlot { series, slot, reporters: 1, unwell: 0, portions, evidence: Vec::new() }
            })
            .collect();
        rehearsal.fold(&closed);
        slot = slot + width;
        let _ = rehearsal.decide(slot);
        if matches!(rehearsal.rollout().phase, Phase::TakingBack(_)) {
            return true;
        }
    }
    false
}

/// `n` answers, of which a share is bad and one in a hundred takes longer than 256 ms.
fn portion(rng: &mut SmallRng, n: u64, p: f64) -> Portion {
    let bad = binomial(rng, n, p);
    let slow = binomial(rng, n, 0.01);
    let edge = |ms: u64| LATENCY_EDGES_MS.iter().copied().find(|edge| *edge >= ms).expect("an edge");
    let latency = Histogram([(edge(100), n - slow), (edge(256), 0), (edge(300), slow)].into());
    let classes = [("ok", n - bad), ("http_5xx", bad)];
    let classes = classes.into_iter().map(|(class, count)| (class.parse().expect("a class"), count)).collect();
    Portion { release: None, classes, latency, numbers: BTreeMap::new() }
}
