//! Levers that no longer stand where the rollout put them, or found them, and what the plan does
//! about each.
//!
//! A reading can only be wrong after the lever was set and then read right: heartbeats from before
//! may still be under way. In the shadow others move the levers, and nothing is wrong about that.

use std::collections::BTreeMap;

use bellwether_protocol::action::ActionOutcome;
use bellwether_protocol::id::{LeverName, LeverValue};
use bellwether_protocol::plan::{FailStep, LeverUse, OnFail};
use bellwether_protocol::presence::{LeverReading, PRESENCE_EVERY};
use bellwether_protocol::reason::{Cause, Reason};
use bellwether_protocol::time::{Span, Timestamp};
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
    /// Whether that counts: targets that disagree may be on their way to one value.
    pub counts: bool,
}

/// How long the targets of a lever may disagree: what moves them needs a moment, and so does the
/// agent that reads them one by one.
const MIXED_MAX: Span = PRESENCE_EVERY.times(3);

/// How many other values are told, of targets that disagree.
const OTHERS_TOLD: usize = 3;

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
        if reading.value.is_none() && reading.targets.iter().all(|target| target.value.is_none()) {
            // It could not be read, which says nothing of where it is.
            continue;
        }
        let known = lever.drifted.take();
        let Some((from, to)) = difference(&from, &own, reading) else { continue };
        let since = known.as_ref().map_or(out.now, |known| known.since);
        let counted = known.filter(|known| known.counts);
        let counts = counted.is_some() || reading.value.is_some() || out.now.since(since) >= MIXED_MAX;
        if counts && counted.is_none_or(|known| known.to != to) {
            out.reasons.push(Reason::Drifted { lever: name.clone(), from, to: to.clone() });
        }
        lever.drifted = Some(Drift { to, since, counts });
    }
}

/// Where it should stand and what it is read to be, in words; nothing where these agree.
fn difference(from: &LeverValue, own: &LeverUse, reading: &LeverReading) -> Option<(String, String)> {
    // A machine that is gone, or that nobody asked for, is as much of a change as another value.
    let count = reading.targets.len();
    if let Some(targets) = own.targets.filter(|targets| usize::try_from(*targets) != Ok(count)) {
        return Some((format!("{targets} targets"), format!("{count} of {targets} targets")));
    }
    if let Some(to) = &reading.value {
        return (from != to).then(|| (from.to_string(), to.to_string()));
    }
    let mut others: BTreeMap<&LeverValue, usize> = BTreeMap::new();
    for value in reading.targets.iter().filter_map(|target| target.value.as_ref()).filter(|value| *value != from) {
        *others.entry(value).or_default() += 1;
    }
    let told = others.iter().take(OTHERS_TOLD).map(|(value, targets)| format!("{targets} of {count} on {value}"));
    let told: Vec<String> = told.collect();
    (!told.is_empty()).then(|| (from.to_string(), told.join(", ")))
}

/// Levers that are elsewhere, and what the plan does about each now.
pub(crate) fn drifted(rollout: &Rollout, now: Timestamp) -> impl Iterator<Item = (&LeverName, &Drift, OnFail)> {
    let drifted = rollout.levers.iter().filter_map(|(name, lever)| Some((name, lever.drifted.as_ref()?)));
    drifted.filter(|(_, drift)| drift.counts).map(move |(name, drift)| {
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

/// When the next step of a drift begins, or it counts.
pub(crate) fn wake_at(rollout: &Rollout) -> impl Iterator<Item = Timestamp> + '_ {
    let own = |(name, lever): (&'_ LeverName, &'_ LeverState)| {
        let since = lever.drifted.as_ref().map(|drift| drift.since);
        let waits = |since| {
            [MIXED_MAX].into_iter().chain(steps(rollout, name).iter().map(|s| s.after)).map(move |after| since + after)
        };
        since.map(waits)
    };
    rollout.levers.iter().filter_map(own).flatten()
}
