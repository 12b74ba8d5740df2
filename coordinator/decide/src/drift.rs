//! Levers that no longer stand where the rollout put them, or found them, and what the plan does
//! about each.
//!
//! A reading can only be wrong after the lever was set and then read right: heartbeats from before
//! may still be under way. In the shadow others move the levers, and nothing is wrong about that.

use bellwether_protocol::action::ActionOutcome;
use bellwether_protocol::id::{LeverName, LeverValue};
use bellwether_protocol::plan::{FailStep, LeverUse, OnFail};
use bellwether_protocol::presence::LeverReading;
use bellwether_protocol::reason::{Cause, Reason};
use bellwether_protocol::time::Timestamp;
use serde::{Deserialize, Serialize};

use crate::state::{Desk, LeverState, Rollout};
use crate::step::Out;

/// A lever that is elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drift {
    /// What it was last read to be.
    pub to: String,
    /// Since when, without a break.
    pub since: Timestamp,
}

/// Takes note of what every lever is read to be.
pub(crate) fn note(desk: &Desk, rollout: &mut Rollout, out: &mut Out) {
    let is_over = rollout.is_over() || rollout.is_shadow;
    for (name, lever) in &mut rollout.levers {
        let Some(reading) = desk.reading(name) else { continue };
        let is_done = lever.answer.as_ref().is_some_and(|answer| answer.outcome == ActionOutcome::Done);
        if is_done && reading.value.is_some() && reading.value == lever.set_to {
            lever.seen_right = true;
        }
        let own = rollout.plan.levers.get(name).cloned().unwrap_or_default();
        let Some(from) = lever.stands_at().filter(|_| !is_over && !own.runs).cloned() else { continue };
        let Some(read) = difference(&from, &own, reading) else { continue };
        let known = lever.drifted.take();
        let Some((from, to)) = read else { continue };
        if known.as_ref().is_none_or(|known| known.to != to) {
            out.reasons.push(Reason::Drifted { lever: name.clone(), from, to: to.clone() });
        }
        lever.drifted = Some(Drift { to, since: known.map_or(out.now, |known| known.since) });
    }
}

/// Where it should stand and what it is read to be, in words; `Some(None)` where these agree, and
/// nothing when the reading does not tell.
fn difference(from: &LeverValue, own: &LeverUse, reading: &LeverReading) -> Option<Option<(String, String)>> {
    let to = reading.value.as_ref()?;
    // A machine that is gone, or that nobody asked for, is as much of a change as another value.
    let count = reading.targets.len();
    if let Some(targets) = own.targets.filter(|targets| usize::try_from(*targets) != Ok(count)) {
        return Some(Some((format!("{targets} targets"), format!("{count} of {targets} targets"))));
    }
    Some((from != to).then(|| (from.to_string(), to.to_string())))
}

/// Levers that are elsewhere, and what the plan does about each now.
pub(crate) fn drifted(rollout: &Rollout, now: Timestamp) -> impl Iterator<Item = (&LeverName, &Drift, OnFail)> {
    let drifted = rollout.levers.iter().filter_map(|(name, lever)| Some((name, lever.drifted.as_ref()?)));
    drifted.map(move |(name, drift)| {
        let lasted = now.since(drift.since);
        (name, drift, FailStep::act(steps(rollout, name), lasted))
    })
}

fn steps<'a>(rollout: &'a Rollout, lever: &LeverName) -> &'a [FailStep] {
    rollout.plan.levers.get(lever).map_or(&[], |lever| &lever.on_drift)
}

/// What a drift takes the release back for.
pub(crate) fn cause(rollout: &Rollout, now: Timestamp) -> Option<Cause> {
    let (lever, drift, _) = drifted(rollout, now).find(|(.., act)| *act == OnFail::Rollback)?;
    Some(Cause::Drift { lever: lever.clone(), to: drift.to.clone() })
}

/// What is told of it.
pub(crate) fn text(lever: &LeverName, to: &str) -> String {
    format!("lever {lever} was read at {to}, where this rollout did not put it")
}

/// When the next step of a drift begins.
pub(crate) fn wake_at(rollout: &Rollout) -> impl Iterator<Item = Timestamp> + '_ {
    let own = |(name, lever): (&'_ LeverName, &'_ LeverState)| {
        let since = lever.drifted.as_ref().map(|drift| drift.since);
        since.map(|since| steps(rollout, name).iter().map(move |step| since + step.after))
    };
    rollout.levers.iter().filter_map(own).flatten()
}
