//! What a plan decides on slots that were seen before: no agents, no levers, nobody to ask.
//!
//! The same evidence, verdicts and gates as in a rollout. A stage is entered at once, approvals are
//! given at once, and every answer is that of the cohort it was measured for.

use bellwether_protocol::id::{Entry, GateVersion, Release, RolloutId};
use bellwether_protocol::plan::Plan;
use bellwether_protocol::reason::Reason;
use bellwether_protocol::record::{ClosedSlot, Hash, Series};
use bellwether_protocol::time::Timestamp;

use crate::evidence::{Evidence, Expected, Frame};
use crate::gate;
use crate::judge::Finding;
use crate::stages;
use crate::state::{Desk, Phase, Rollout};
use crate::step::Out;

/// One rollout of a plan, rehearsed.
#[derive(Debug, Clone)]
pub struct Rehearsal {
    desk: Desk,
    rollout: Rollout,
}

impl Rehearsal {
    /// Enters the first stage at `from`.
    ///
    /// `release` only names it in what is said. `None` for a plan without stages.
    pub fn begin(plan: Plan, release: Release, from: Timestamp) -> Option<Self> {
        let settle = plan.stages.first()?.settle;
        let desk = Desk::new(plan.service.clone());
        let plan = Plan { fingerprint: None, ..plan };
        let rollout = Rollout {
            id: RolloutId { service: plan.service.clone(), number: 1 },
            release,
            plan_hash: Hash::default(),
            overrides: Vec::new(),
            principal: "backtest".parse().ok()?,
            started_at: from,
            phase: Phase::Settling { until: from + settle },
            stage: 0,
            entry: Entry(1),
            gate: GateVersion(1),
            approved: true,
            skip_soak: false,
            paused: false,
            is_shadow: false,
            reapplied: None,
            runs: Vec::new(),
            levers: Default::default(),
            evidence: Evidence::default(),
            revisions: Default::default(),
            excluded: Vec::new(),
            holds: Vec::new(),
            incidents: Default::default(),
            soaked: Vec::new(),
            faulty: Default::default(),
            agents_most: 0,
            plan,
        };
        let mut rehearsal = Self { desk, rollout };
        stages::begin_epoch(&mut rehearsal.rollout, from + settle);
        Some(rehearsal)
    }

    /// The series that are looked at now.
    pub fn series(&self) -> impl Iterator<Item = &Series> {
        self.rollout.evidence.series.keys()
    }

    /// The rollout as it stands.
    pub fn rollout(&self) -> &Rollout {
        &self.rollout
    }

    /// Folds the slots of one instant, all of which begin at the same time.
    pub fn fold<'a>(&mut self, slots: impl IntoIterator<Item = &'a ClosedSlot>) {
        let mut evidence = std::mem::take(&mut self.rollout.evidence);
        if let Some(stage) = self.rollout.stage() {
            let frame = Frame::new(&self.rollout.plan, stage, Expected::default(), false, &[]);
            slots.into_iter().for_each(|slot| evidence.fold(&frame, slot));
        }
        self.rollout.evidence = evidence;
    }

    /// Decides at `now`, and says what changed. Over once [`Rollout::is_over`] or being taken back.
    pub fn decide(&mut self, now: Timestamp) -> Vec<Reason> {
        let mut out = Out::new(now, self.desk.ordinal.next());
        while self.advance(&mut out) {}
        out.reasons
    }

    /// Every verdict as it stands.
    pub fn findings(&self, now: Timestamp) -> Vec<Finding<'_>> {
        gate::findings(&self.rollout, now)
    }

    fn advance(&mut self, out: &mut Out) -> bool {
        match self.rollout.phase.clone() {
            Phase::Settling { until } => stages::settle(&mut self.rollout, until, out),
            Phase::Soaking => {
                self.rollout.approved = true;
                // Nobody is there to run anything.
                self.rollout.runs.clear();
                stages::soak(&self.desk, &mut self.rollout, out)
            }
            Phase::Entering { .. } => {
                let Some(stage) = self.rollout.stage() else { return false };
                let until = out.now + stage.settle;
                self.rollout.phase = Phase::Settling { until };
                stages::begin_epoch(&mut self.rollout, until);
                true
            }
            Phase::Preparing { .. } | Phase::TakingBack(_) | Phase::Ended { .. } => false,
        }
    }
}
