//! `backtest`: what a plan would have decided, and when, on samples that were seen before.

mod samples;

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use bellwether_decide::judge::Finding;
use bellwether_decide::rehearse::Rehearsal;
use bellwether_decide::state::Phase;
use bellwether_protocol::backtest::{Decision, Event, Look, Outcome};
use bellwether_protocol::plan::{Objective, Plan};
use bellwether_protocol::reason::Ending;
use bellwether_protocol::record::{ClosedSlot, Series};
use bellwether_protocol::sample::{Cohort, Histogram, Level, Portion, class};
use bellwether_protocol::time::Timestamp;

pub use samples::{Row, Samples, SamplesError};

/// Plays `samples` to `plan` from the first slot on, and says what it would have decided.
///
/// `tell` is told everything on the way and may break off. Looks are worked out only when `with_looks`.
pub fn backtest(
    plan: &Plan,
    samples: &Samples,
    with_looks: bool,
    mut tell: impl FnMut(Event<'_>) -> ControlFlow<()>,
) -> Option<Decision> {
    let starts = samples.rows.values().filter_map(|rows| rows.keys().next());
    let ends = samples.rows.values().filter_map(|rows| rows.keys().next_back());
    let (first, last) = (*starts.min()?, *ends.max()?);
    let mut rehearsal = Rehearsal::begin(plan.clone(), "candidate".parse().ok()?, first)?;
    let mut feed = Feed::new(plan, samples);
    let mut at = first;
    let mut slot = first;
    while slot <= last {
        at = slot + plan.slot;
        feed.load(rehearsal.series(), slot);
        rehearsal.fold(&feed.slots);
        if with_looks {
            let looks = looks(&rehearsal, at);
            if tell(Event::Looks(&looks)).is_break() {
                return None;
            }
        }
        let reasons = rehearsal.decide(at);
        for reason in &reasons {
            if tell(Event::Reason(at, reason)).is_break() {
                return None;
            }
        }
        if !matches!(rehearsal.rollout().phase, Phase::Soaking | Phase::Settling { .. }) {
            break;
        }
        slot = at;
    }
    Some(decision(&rehearsal, samples, at))
}

fn looks<'a>(rehearsal: &'a Rehearsal, at: Timestamp) -> Vec<Look<'a>> {
    let Some(stage) = rehearsal.rollout().stage() else { return Vec::new() };
    let findings = rehearsal.findings(at);
    let canary = findings.into_iter().filter(|finding| finding.scope.cohort == Cohort::Canary);
    let look = |finding: Finding<'a>| Look {
        at,
        stage: &stage.name,
        criterion: &finding.criterion.name,
        region: finding.scope.region,
        n: finding.track.total.n,
        bad: finding.track.total.bad,
        ln_e_fail: finding.ln_e_fail(),
        ln_e_pass: finding.ln_e_pass(),
        verdict: finding.verdict,
    };
    canary.map(look).collect()
}

fn decision(rehearsal: &Rehearsal, samples: &Samples, at: Timestamp) -> Decision {
    let rollout = rehearsal.rollout();
    let (decision, judgement) = match &rollout.phase {
        Phase::Ended { ending: Ending::Completed, .. } => (Outcome::Completed, None),
        Phase::TakingBack(back) => (Outcome::TakenBack, back.cause.judgement().cloned()),
        _ => (Outcome::Held, None),
    };
    Decision {
        decision,
        at,
        stage: rollout.stage_name(),
        judgement,
        holds: rollout.holds.clone(),
        lines: samples.lines,
        rejected: samples.rejected.clone(),
    }
}

/// Rows as closed slots. One slot per series is kept and filled anew, for there are millions.
struct Feed<'a> {
    plan: &'a Plan,
    samples: &'a Samples,
    slots: Vec<ClosedSlot>,
}

impl<'a> Feed<'a> {
    fn new(plan: &'a Plan, samples: &'a Samples) -> Self {
        Self { plan, samples, slots: Vec::new() }
    }

    /// The slots of one instant, a missing one as one that nobody reported.
    fn load<'s>(&mut self, series: impl Iterator<Item = &'s Series>, slot: Timestamp) {
        let mut count = 0;
        for (index, series) in series.enumerate() {
            count = index + 1;
            if self.slots.get(index).is_none_or(|own| own.series != *series) {
                self.slots.truncate(index);
                self.slots.push(empty(series));
            }
            let row = self.samples.rows.get(series).and_then(|rows| rows.get(&slot));
            if let Some(own) = self.slots.get_mut(index) {
                fill(own, slot, row, self.plan);
            }
        }
        self.slots.truncate(count);
    }
}

fn empty(series: &Series) -> ClosedSlot {
    let (slot, portions, evidence) = (Timestamp::default(), vec![Portion::default()], Vec::new());
    ClosedSlot { series: series.clone(), slot, reporters: 0, unwell: 0, portions, evidence }
}

fn fill(own: &mut ClosedSlot, slot: Timestamp, row: Option<&Row>, plan: &Plan) {
    own.slot = slot;
    own.reporters = if row.is_some() { plan.quorum } else { 0 };
    let Some(portion) = own.portions.first_mut() else { return };
    let Row { n, bad, value, buckets } = row.cloned().unwrap_or(Row { n: 0, bad: 0, value: None, buckets: None });
    for (name, count) in [(class::OK, n - bad), (class::BAD, bad)] {
        match portion.classes.iter_mut().find(|(class, _)| class.as_str() == name) {
            Some((_, own)) => *own = count,
            None => portion.classes.extend(name.parse().ok().map(|class| (class, count))),
        }
    }
    portion.latency = Histogram(buckets.map(|buckets| *buckets).unwrap_or_default());
    portion.numbers = value.map_or_else(BTreeMap::new, |value| {
        let numbers = plan.criteria.iter().filter(|criterion| criterion.sli == own.series.sli);
        let numbers = numbers.filter_map(|criterion| match &criterion.objective {
            Objective::Number { number, .. } | Objective::Rising { number } | Objective::Stable { number, .. } => {
                Some(number.clone())
            }
            _ => None,
        });
        numbers.map(|number| (number, Level::one(value))).collect()
    });
}
