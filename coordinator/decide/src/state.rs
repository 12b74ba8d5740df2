//! What the judge remembers of one service: a fold over that service's log, and nothing else.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bellwether_protocol::action::ActionOutcome;
use bellwether_protocol::alert::Severity;
use bellwether_protocol::command::Excluded;
use bellwether_protocol::id::{
    ActionId, AgentId, CommandId, CriterionName, Entry, GateVersion, LeverName, LeverValue, Ordinal, Principal, Region,
    Release, Revision, RolloutId, Service, SliName, StageName,
};
use bellwether_protocol::plan::{Plan, Set, SetTo, Stage};
use bellwether_protocol::presence::LeverReading;
use bellwether_protocol::reason::{Cause, Ending, Hold};
use bellwether_protocol::record::{Agents, Hash, Series};
use bellwether_protocol::time::Timestamp;
use serde::{Deserialize, Serialize};

use crate::drift::Drift;
use crate::during::Run;
use crate::evidence::Evidence;
use crate::step::ANSWER_GRACE;

/// Everything the judge remembers of one service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Desk {
    /// The service.
    pub service: Service,
    /// The last record that was folded.
    pub ordinal: Ordinal,
    /// The last inbox sequence that was folded.
    pub inbox: u64,
    /// The samples sequence up to which the closed slots hold everything.
    pub read: u64,
    /// Ids of the last commands: a repeat outside the stream's own window is still one command.
    pub commands: VecDeque<CommandId>,
    /// Agents that are here.
    pub agents: Agents,
    /// How many rollouts began.
    pub rollouts: u64,
    /// The release of the last rollout that completed.
    pub good: Option<Release>,
    /// The last releases that were taken back, or should have been, and did not complete since.
    pub failed: VecDeque<Release>,
    /// The rollout that is on, or the last one.
    pub rollout: Option<Rollout>,
}

/// How many failed releases are remembered.
const FAILED_REMEMBERED: usize = 32;

/// How many command ids are remembered.
pub(crate) const COMMANDS_REMEMBERED: usize = 128;

impl Desk {
    /// A service of which nothing is known yet.
    pub fn new(service: Service) -> Self {
        Self {
            service,
            ordinal: Ordinal(0),
            inbox: 0,
            read: 0,
            commands: VecDeque::new(),
            agents: Agents::new(),
            rollouts: 0,
            good: None,
            failed: VecDeque::new(),
            rollout: None,
        }
    }

    /// The hash of this state: two folds of the same log agree on it to the byte.
    pub fn hash(&self) -> Hash {
        // A desk holds only maps with text keys and finite numbers, so it can always be written;
        // were that ever wrong, every replay would give the same empty hash and still agree.
        Hash::of(&serde_json::to_vec(self).unwrap_or_default())
    }

    /// Remembers of a rollout that is over whether its release is one to go back to. Again changes nothing.
    pub(crate) fn remember(&mut self, over: &Rollout) {
        let Phase::Ended { ending, .. } = &over.phase else { return };
        let fails = match ending {
            Ending::Completed => false,
            Ending::NotTakenBack | Ending::RolledBack => true,
            Ending::Aborted | Ending::NotStarted | Ending::Superseded | Ending::WouldTakeBack => return,
        };
        if over.is_shadow {
            return;
        }
        self.failed.retain(|release| *release != over.release);
        self.good = Some(over.release.clone()).filter(|_| !fails).or(self.good.take());
        if fails {
            self.good = self.good.take().filter(|release| *release != over.release);
            self.failed.push_back(over.release.clone());
        }
        while self.failed.len() > FAILED_REMEMBERED {
            self.failed.pop_front();
        }
    }

    /// The release that a lever goes back to: the one it holds, the last one that completed, or the
    /// newest in its history, which neither is the new one nor failed. Nothing where the lever is not
    /// known.
    ///
    /// # Errors
    /// Why no release is known to go back to.
    pub(crate) fn previous(&self, lever: &LeverName, new: &Release) -> Result<Option<Release>, String> {
        let Some(reading) = self.reading(lever) else { return Ok(None) };
        let held = reading.value.as_ref().and_then(|value| value.as_str().parse::<Release>().ok());
        let known = held.iter().chain(&self.good).chain(&reading.history);
        let good = known.into_iter().find(|release| *release != new && !self.failed.contains(release));
        good.cloned().map(Some).ok_or_else(|| match held.filter(|held| held != new) {
            Some(held) => format!(
                "lever {lever} holds {held}, which failed, and no release is known to go back to: deploy a good one first"
            ),
            None => format!("{new} is out already, and the history of lever {lever} names no release to go back to"),
        })
    }

    /// The rollout, while it is on.
    pub fn running(&self) -> Option<&Rollout> {
        self.rollout.as_ref().filter(|rollout| !rollout.is_over())
    }

    /// A lever as its agent last read it back.
    pub fn reading(&self, lever: &LeverName) -> Option<&LeverReading> {
        let readings = self.agents.values().flat_map(|agent| &agent.levers).filter(|reading| reading.lever == *lever);
        // Of several agents that hold one lever, one that could read it says more than one that could not.
        readings.max_by_key(|reading| reading.value.is_some())
    }
}

/// One release of one service travelling through its stages.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rollout {
    /// Its id.
    pub id: RolloutId,
    /// The new release.
    pub release: Release,
    /// The plan, overrides applied.
    pub plan: Plan,
    /// SHA-256 of the plan text.
    pub plan_hash: Hash,
    /// Overrides, as given.
    pub overrides: Vec<String>,
    /// Who started it.
    pub principal: Principal,
    /// When it started.
    pub started_at: Timestamp,
    /// Where it is.
    pub phase: Phase,
    /// Index of the current stage in the plan.
    pub stage: usize,
    /// Which entry into a stage this is; 0 before the first.
    pub entry: Entry,
    /// Moves when a verdict worsens.
    pub gate: GateVersion,
    /// Whether a human approved this entry and gate version.
    pub approved: bool,
    /// Whether a human promoted: the rest of the soak is skipped.
    pub skip_soak: bool,
    /// Whether a human paused.
    pub paused: bool,
    /// Whether nothing is moved: it only looks and decides.
    pub is_shadow: bool,
    /// The criterion or lever for which the levers of this stage were set again: that is done once.
    pub reapplied: Option<CriterionName>,
    /// What is run while the stage soaks, in the plan's order.
    pub runs: Vec<Run>,
    /// Levers of the plan.
    pub levers: BTreeMap<LeverName, LeverState>,
    /// What was seen since the evidence epoch began.
    pub evidence: Evidence,
    /// Ordinal of the last change of each region's assignment.
    pub revisions: BTreeMap<Region, Revision>,
    /// What was left out by hand.
    pub excluded: Vec<Exclusion>,
    /// Why it does not go on.
    pub holds: Vec<Hold>,
    /// Agents that sent something wrong.
    pub faulty: BTreeSet<AgentId>,
    /// Problems, by cause.
    pub incidents: BTreeMap<CriterionName, Incident>,
    /// How long each passed stage soaked, in slots.
    pub soaked: Vec<u64>,
    /// Most agents that were here at once since it began.
    pub agents_most: usize,
}

/// Something left out by hand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exclusion {
    /// What.
    pub what: Excluded,
    /// Until when.
    pub until: Timestamp,
}

/// One problem.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incident {
    /// Messages sent about it.
    pub seq: u32,
    /// The most that was asked of people.
    pub severity: Severity,
    /// What was last said of it, in one word.
    pub state: String,
    /// Whether it is over.
    pub resolved: bool,
}

/// What the rollout did to a lever.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeverState {
    /// What it was read to be when the rollout started.
    pub origin: Option<LeverValue>,
    /// The release that it goes back to, where it holds the release.
    pub previous: Option<Release>,
    /// What it was last asked to be; absent when the rollout never moved it.
    pub set_to: Option<LeverValue>,
    /// The last action.
    pub action: Option<ActionId>,
    /// By when its agent must answer that action.
    pub due: Option<Timestamp>,
    /// What its agent answered to that action.
    pub answer: Option<Answer>,
    /// Whether a person asked for it beside the plan, and people do not know yet that it was done.
    pub is_owed: bool,
    /// Whether it was read at `set_to` since its agent was done; only then can a later reading be wrong.
    pub seen_right: bool,
    /// Set while it is read elsewhere than where it should stand.
    pub drifted: Option<Drift>,
}

/// An agent's answer, as far as decisions need it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// How it went.
    pub outcome: ActionOutcome,
    /// Targets read back at the asked value.
    pub done: u32,
    /// Out of how many.
    pub targets: u32,
    /// What the agent said.
    pub detail: String,
}

impl Answer {
    /// How it went, where that was not well.
    pub(crate) fn text(&self) -> String {
        let Self { outcome, done, targets, detail } = self;
        format!("{outcome}, {done} of {targets} read back: {detail}")
    }
}

impl LeverState {
    /// Why what a person asked for cannot be expected any more: its agent said so, or nothing in time.
    pub(crate) fn failed(&self, now: Timestamp) -> Option<String> {
        match &self.answer {
            _ if !self.is_owed => None,
            None => self.due.filter(|due| now >= *due + ANSWER_GRACE).map(|_| "no answer in time".to_owned()),
            Some(answer) if answer.outcome == ActionOutcome::Done => None,
            Some(answer) => Some(answer.text()),
        }
    }

    /// Whether the last action was read back on every target, and nothing was read since that says otherwise.
    pub fn is_confirmed(&self, reading: Option<&LeverReading>) -> bool {
        let done = self.answer.as_ref().is_some_and(|answer| answer.outcome == ActionOutcome::Done);
        done && !self.is_wrong(reading)
    }

    /// Whether it was read where it was put, and is now read elsewhere.
    pub fn is_wrong(&self, reading: Option<&LeverReading>) -> bool {
        let is_elsewhere = |reading: &LeverReading| match &reading.value {
            Some(value) => Some(value) != self.set_to.as_ref(),
            // Targets that disagree are wrong once they had their time to agree.
            None => self.drifted.as_ref().is_some_and(|drift| drift.counts),
        };
        self.seen_right && reading.is_some_and(is_elsewhere)
    }

    /// Where it should stand: where it was put, once it was read there, or where it was found.
    pub(crate) fn stands_at(&self) -> Option<&LeverValue> {
        match &self.set_to {
            None => self.origin.as_ref(),
            put => put.as_ref().filter(|_| self.seen_right),
        }
    }
}

/// Where a rollout is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Agents take up their assignments; nothing has moved.
    Preparing {
        /// When that must be done.
        until: Timestamp,
    },
    /// Entry actions are asked one after the other.
    Entering {
        /// Index of the set that is asked, or to be asked next.
        next: usize,
        /// When the one that is asked must be answered; absent when none is asked.
        due: Option<Timestamp>,
    },
    /// Entered; nothing is judged yet.
    Settling {
        /// When judging begins.
        until: Timestamp,
    },
    /// Slots count.
    Soaking,
    /// Levers are being set back.
    TakingBack(Box<TakeBack>),
    /// Over.
    Ended {
        /// How.
        ending: Ending,
        /// When.
        at: Timestamp,
        /// In one sentence.
        summary: String,
    },
}

/// A take-back that is on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TakeBack {
    /// Why.
    pub cause: Cause,
    /// Its levels, with the values that they set.
    pub levels: Vec<Level>,
    /// Index of the level that is on.
    pub level: usize,
    /// When the first level was asked.
    pub began_at: Timestamp,
    /// When this level was asked.
    pub asked_at: Timestamp,
    /// When this level must be applied.
    pub due: Timestamp,
    /// When every lever of the level was read back.
    pub back_at: Option<Timestamp>,
    /// When the old release was also seen by probes.
    pub applied_at: Option<Timestamp>,
    /// When it was seen to be green.
    pub recovered_at: Option<Timestamp>,
    /// How it ends when all is seen.
    pub ending: Ending,
    /// Whether people were told that nothing can be seen.
    pub told_blind: bool,
}

/// One level of a take-back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Level {
    /// What each lever is set to.
    pub set: Vec<(LeverName, LeverValue)>,
    /// Within which time.
    pub apply_within: bellwether_protocol::time::Span,
    /// Whether it may begin without a human.
    pub automatic: bool,
    /// SLIs that must be answered by refusals once it is applied.
    pub refuses: Vec<SliName>,
}

impl TakeBack {
    /// Whether the levels so far move anything but flags, and so which release answers.
    pub(crate) fn moves_release(&self, plan: &Plan) -> bool {
        let so_far = self.levels.iter().take(self.level + 1).flat_map(|level| &level.set);
        let is_flag = |lever: &LeverName| plan.levers.get(lever).is_some_and(|lever| lever.off.is_some());
        so_far.into_iter().any(|(lever, _)| !is_flag(lever))
    }
}

impl Rollout {
    /// Whether it is over.
    pub fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Ended { .. })
    }

    /// The current stage. A checked plan has at least one, and the index never runs past the last.
    pub fn stage(&self) -> Option<&Stage> {
        self.plan.stages.get(self.stage)
    }

    /// The name of the current stage, once one was entered.
    pub fn stage_name(&self) -> Option<StageName> {
        if self.entry == Entry(0) { None } else { self.stage().map(|stage| stage.name.clone()) }
    }

    /// Whether it is left out by hand at `now`.
    pub fn is_excluded(&self, what: &Excluded, now: Timestamp) -> bool {
        self.excluded.iter().any(|exclusion| exclusion.what == *what && now < exclusion.until)
    }

    /// Whether nothing of a series counts at `now`: its region is left out by hand, or all that judges it. Where
    /// nothing judges at all any more, it still counts that somebody looked.
    pub fn is_left_out(&self, series: &Series, now: Timestamp) -> bool {
        let criteria = self.stage().map_or(&[][..], |stage| &stage.criteria).iter();
        let on = criteria.filter(|name| !self.is_excluded(&Excluded::Criterion((*name).clone()), now));
        let mut slis = on.filter_map(|name| Some(&self.plan.criterion(name)?.sli)).peekable();
        let is_unjudged = slis.peek().is_some() && slis.all(|sli| *sli != series.sli);
        is_unjudged || self.is_excluded(&Excluded::Region(series.region.clone()), now)
    }

    /// The release that the whole goes back to.
    pub fn previous(&self) -> Option<&Release> {
        self.levers.get(self.plan.release_lever()?)?.previous.as_ref()
    }

    /// The release that a region goes back to in the current stage.
    pub fn previous_in(&self, region: &Region) -> Option<&Release> {
        self.levers.get(self.plan.release_lever_in(self.stage, region)?)?.previous.as_ref()
    }

    /// Whether a lever that holds the release was last set to the new one: it stays deployed.
    pub(crate) fn stays(&self) -> bool {
        let is_new = |value: &LeverValue| value.as_str() == self.release.as_str();
        let levers =
            self.levers.iter().filter(|(name, _)| self.plan.levers.get(*name).is_some_and(|own| own.holds_release));
        levers.filter_map(|(_, lever)| lever.set_to.as_ref()).any(is_new)
    }

    /// The value that a set stands for: what the lever held at start, the new release, or the value itself.
    pub fn value_of(&self, set: &Set) -> Option<LeverValue> {
        let previous = |lever: &LeverState| match &lever.previous {
            Some(release) => release.as_str().parse().ok(),
            None => lever.origin.clone(),
        };
        match &set.to {
            SetTo::Previous => self.levers.get(&set.lever).and_then(previous),
            // A release is at most as long and as printable as a lever value, so this always parses.
            SetTo::Release => self.release.as_str().parse().ok(),
            SetTo::Run => Some(self.run_value("enter")),
            SetTo::Value(value) => Some(value.clone()),
        }
    }

    /// What a lever that runs a command is set to: another value for each run.
    #[expect(clippy::expect_used, reason = "numbers and a word of ours are printable and short")]
    pub(crate) fn run_value(&self, which: &str) -> LeverValue {
        format!("{}-{}-{which}", self.id.number, self.entry).parse().expect("a lever value")
    }
}

#[cfg(test)]
mod tests {
    use bellwether_protocol::plan::{Criterion, Objective};
    use bellwether_protocol::record::AgentHere;
    use bellwether_protocol::sample::Cohort;
    use bellwether_protocol::time::Span;

    use super::*;
    use crate::budget::tests::criterion;
    use crate::rehearse::Rehearsal;

    #[test]
    fn a_release_that_failed_is_none_to_go_back_to() {
        let release = |text: &str| text.parse::<Release>().unwrap();
        let of = |new: &str, held: Option<&str>, history: &[&str], good: Option<&str>, failed: &[&str]| {
            let mut desk = Desk::new("shop".parse().unwrap());
            let reading = LeverReading {
                lever: "release".parse().unwrap(),
                value: held.map(|held| held.parse().unwrap()),
                targets: Vec::new(),
                history: history.iter().copied().map(release).collect(),
            };
            let here = AgentHere { levers: vec![reading], ..AgentHere::default() };
            desk.agents.insert("hub.rollback.r1".parse().unwrap(), here);
            desk.good = good.map(release);
            desk.failed = failed.iter().copied().map(release).collect();
            desk.previous(&"release".parse().unwrap(), &release(new)).map(|found| found.map(|own| own.to_string()))
        };
        let previous = |held, history: &[&str], good, failed: &[&str]| of("v3", held, history, good, failed);
        let v = |text: &str| Ok(Some(text.to_owned()));
        assert_eq!(previous(Some("v2"), &["v1"], None, &[]), v("v2"));
        assert_eq!(previous(Some("v2"), &["v2", "v1"], None, &["v2"]), v("v1"));
        assert_eq!(previous(Some("v2"), &["v2", "v1"], Some("v0"), &["v2"]), v("v0"));
        assert_eq!(previous(Some("v3"), &["v3", "v2", "v1"], None, &["v2"]), v("v1"));
        let refused = previous(Some("v2"), &["v2"], None, &["v2"]).unwrap_err();
        assert!(refused.starts_with("lever release holds v2, which failed"), "{refused}");
        let refused = previous(Some("v3"), &["v3"], None, &[]).unwrap_err();
        assert!(refused.starts_with("v3 is out already"), "{refused}");
        // v43 failed, was only switched off, and is still deployed: neither it nor what follows goes back to it.
        let after_v43 = |new| of(new, Some("v43"), &["v43", "v42", "v41"], Some("v42"), &["v43"]);
        assert_eq!([after_v43("v43"), after_v43("v44")], [v("v42"), v("v42")]);
        // v42 is deployed everywhere, and started again: going back to itself would change nothing.
        assert_eq!(of("v42", Some("v42"), &["v42", "v41"], Some("v42"), &[]), v("v41"));
        let refused = of("v42", Some("v42"), &["v42"], Some("v42"), &[]).unwrap_err();
        assert!(refused.starts_with("v42 is out already"), "{refused}");
    }

    #[test]
    fn what_nothing_judges_any_more_is_not_waited_for() {
        let mut plan = crate::budget::tests::plan();
        let own = |name: &str, sli: &str| Criterion {
            sli: sli.parse().unwrap(),
            ..criterion(name, true, Objective::Zero { bad: Vec::new() })
        };
        plan.criteria = vec![own("a", "checkout"), own("b", "jobs"), own("c", "jobs")];
        plan.stages = vec![crate::budget::tests::stage(&["east"], Span::from_secs(60), &["a", "b", "c"])];
        let now = Timestamp::from_ms(1_800_000_000_000);
        let mut rollout = Rehearsal::begin(plan, "v2".parse().unwrap(), now).unwrap().rollout().clone();
        let series =
            |sli: &str| Series { sli: sli.parse().unwrap(), cohort: Cohort::Canary, region: "east".parse().unwrap() };
        for (out, left_out) in [
            (&[][..], [false, false]),
            (&["b"], [false, false]),
            (&["b", "c"], [false, true]),
            (&["a"], [true, false]),
            (&["a", "b", "c"], [false, false]),
        ] {
            let exclusion = |name: &&str| Exclusion {
                what: Excluded::Criterion(name.parse().unwrap()),
                until: now + Span::from_secs(60),
            };
            rollout.excluded = out.iter().map(exclusion).collect();
            assert_eq!(["checkout", "jobs"].map(|sli| rollout.is_left_out(&series(sli), now)), left_out, "{out:?}");
            let later = now + Span::from_secs(60);
            assert!(!rollout.is_left_out(&series("jobs"), later));
        }
    }
}
