//! What is run while a stage soaks: again and again, each run with a deadline of its own.

use bellwether_protocol::action::ActionOutcome;
use bellwether_protocol::id::LeverName;
use bellwether_protocol::plan::{Activity, OnFail};
use bellwether_protocol::reason::{Cause, Hold};
use bellwether_protocol::time::Timestamp;
use serde::{Deserialize, Serialize};

use crate::state::{Desk, Rollout};
use crate::step::{ANSWER_GRACE, Out};

/// Where one activity of the current stage is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// When the next run begins.
    pub next: Timestamp,
    /// How many began.
    pub count: u32,
    /// By when the run that is on must be done; absent while none is.
    pub due: Option<Timestamp>,
    /// How the last run ended, when it was not done.
    pub failed: Option<ActionOutcome>,
}

/// The runs of a stage that begins to soak at `from`, or of the plan that took the place of another.
pub(crate) fn begin(rollout: &Rollout, from: Timestamp) -> Vec<Run> {
    let activities = rollout.stage().map_or(&[][..], |stage| &stage.during);
    // Counted on from the plan before: what it ran last would be found to stand there already.
    let count = rollout.runs.iter().map(|run| run.count).max().unwrap_or(0);
    activities.iter().map(|_| Run { next: from, count, due: None, failed: None }).collect()
}

/// Takes note of what ended, and begins what is due while the stage still soaks.
pub(crate) fn run(desk: &Desk, rollout: &mut Rollout, is_soaked: bool, out: &mut Out) {
    let activities = rollout.stage().map_or(Vec::new(), |stage| stage.during.clone());
    for (index, activity) in activities.iter().enumerate() {
        let Some(mut run) = rollout.runs.get(index).cloned() else { continue };
        if let Some(due) = run.due
            && let Some(outcome) = outcome(desk, rollout, &activity.run, due, out.now)
        {
            run.due = None;
            run.failed = Some(outcome).filter(|outcome| *outcome != ActionOutcome::Done);
        }
        // What holds because it was not done is run again, for nothing else could let go.
        let is_wanted = !is_soaked || (run.failed.is_some() && activity.on_fail == OnFail::Hold);
        if run.due.is_none() && out.now >= run.next && is_wanted && !rollout.paused {
            run.count += 1;
            // A run that could not begin in time is not made up for: the grid stays where it is.
            while run.next <= out.now {
                run.next = run.next + activity.every;
            }
            let due = out.now + activity.within;
            let value = rollout.run_value(&run.count.to_string());
            if rollout.is_shadow {
                out.would(&activity.run, &value);
            } else {
                out.ask(rollout, &activity.run, &value, due);
                run.due = Some(due);
            }
        }
        if let Some(slot) = rollout.runs.get_mut(index) {
            *slot = run;
        }
    }
}

/// How a run went, once that can be told.
fn outcome(desk: &Desk, rollout: &Rollout, lever: &LeverName, due: Timestamp, now: Timestamp) -> Option<ActionOutcome> {
    let state = rollout.levers.get(lever)?;
    match &state.answer {
        Some(answer) if answer.outcome != ActionOutcome::Done => Some(answer.outcome),
        Some(_) if state.is_confirmed(desk.reading(lever)) => Some(ActionOutcome::Done),
        None | Some(_) if now >= due + ANSWER_GRACE => Some(ActionOutcome::Expired),
        None | Some(_) => None,
    }
}

fn failed(rollout: &Rollout) -> impl Iterator<Item = (&Activity, ActionOutcome)> {
    let activities = rollout.stage().map_or(&[][..], |stage| &stage.during);
    activities.iter().zip(&rollout.runs).filter_map(|(activity, run)| Some((activity, run.failed?)))
}

/// What a failed run takes the release back for.
pub(crate) fn cause(rollout: &Rollout) -> Option<Cause> {
    let (activity, outcome) = failed(rollout).find(|(activity, _)| activity.on_fail == OnFail::Rollback)?;
    Some(Cause::Lever { lever: activity.run.clone(), outcome })
}

/// Runs that failed, and hold.
pub(crate) fn holds(rollout: &Rollout) -> impl Iterator<Item = Hold> {
    let bad = failed(rollout).filter(|(activity, _)| activity.on_fail != OnFail::Warn);
    bad.map(|(activity, _)| Hold::Activity { lever: activity.run.clone() })
}

/// Whether a run is on: its stage is not left before it ends.
pub(crate) fn is_on(rollout: &Rollout) -> bool {
    rollout.runs.iter().any(|run| run.due.is_some())
}

/// When the next run begins, or the one that is on is given up.
pub(crate) fn wake_at(rollout: &Rollout) -> impl Iterator<Item = Timestamp> + '_ {
    rollout.runs.iter().map(|run| run.due.map_or(run.next, |due| due + ANSWER_GRACE))
}
