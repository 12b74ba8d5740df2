//! Backwards: levels of lever values, each until it is *seen* to be applied and green again.
//!
//! "Sent" is not "done". Applied: every lever read back, and the old release answers probes.
//! Recovered: enough green slots in a new epoch. What cannot be seen is paged, never assumed.

use std::collections::BTreeSet;

use bellwether_protocol::action::ActionOutcome;
use bellwether_protocol::alert::Severity;
use bellwether_protocol::id::{CriterionName, LeverName, LeverValue};
use bellwether_protocol::plan::{OnFail, Set, SetTo, Sli};
use bellwether_protocol::reason::{Cause, Ending, Reason};
use bellwether_protocol::record::Series;
use bellwether_protocol::time::{Span, Timestamp};

use crate::drift;
use crate::evidence::Sight;
use crate::incidents::{self, Tell};
use crate::stages::{begin_epoch, end};
use crate::state::{Desk, Level, Phase, Rollout, TakeBack};
use crate::step::{ANSWER_GRACE, Out};

/// Begins to take back, by the levels of the plan.
pub(crate) fn begin(rollout: &mut Rollout, cause: Cause, out: &mut Out) -> bool {
    // After a step that cannot be undone, only what the plan declares safe begins by itself.
    let is_asked = matches!(cause, Cause::Command { .. });
    let is_irreversible =
        !is_asked && rollout.plan.stages.iter().take(rollout.stage + 1).any(|stage| stage.irreversible);
    let value = |set: &Set| match set.to {
        SetTo::Run => Some(rollout.run_value("back")),
        _ => rollout.value_of(set),
    };
    let levels = rollout.plan.take_back.levels.iter().filter(|level| level.automatic || !is_irreversible);
    let levels = levels.map(|level| Level {
        set: level.set.iter().filter_map(|set| Some((set.lever.clone(), value(set)?))).collect(),
        apply_within: level.apply_within,
        automatic: level.automatic,
        refuses: level.refuses.clone(),
    });
    let mut levels: Vec<Level> = levels.collect();
    if levels.is_empty() {
        return cannot(rollout, &cause, out);
    }
    let first = first_level(rollout, &cause, &levels);
    let (before, rest) = levels.split_at_mut(first);
    if let Some(level) = rest.first_mut() {
        for (lever, to) in before.iter().rev().flat_map(|level| &level.set) {
            if level.set.iter().all(|(own, _)| own != lever) {
                level.set.push((lever.clone(), to.clone()));
            }
        }
    }
    begin_levels(rollout, cause, (levels, first), Ending::RolledBack, out)
}

/// The level that is asked first: for a lever that is elsewhere, or could not be set, the first one
/// that sets it, for those before cannot cure that; what these set is asked along with it. A level
/// that waits for a human is not begun that way.
fn first_level(rollout: &Rollout, cause: &Cause, levels: &[Level]) -> usize {
    let (Cause::Drift { lever, .. } | Cause::Lever { lever, .. }) = cause else { return 0 };
    let sets = |level: &Level| level.set.iter().any(|(own, _)| own == lever);
    let first = levels.iter().position(sets).unwrap_or(0);
    let waits = |next: &usize| {
        let automatic = levels.get(*next).is_some_and(|level| level.automatic);
        !automatic && is_beyond_previous(rollout, levels.get(..*next).unwrap_or_default())
    };
    if (1..=first).any(|next| waits(&next)) { 0 } else { first }
}

/// Nothing may be taken back without a human: they are paged.
fn cannot(rollout: &mut Rollout, cause: &Cause, out: &mut Out) -> bool {
    let stage = rollout.stage_name().map(|stage| stage.to_string()).unwrap_or_default();
    let headline = format!(
        "{} {stage}: {}; what was done cannot be undone by itself, nothing is moved",
        rollout.release,
        cause_text(cause)
    );
    let (severity, state) = (Severity::Page, "not_taken_back");
    incidents::update(rollout, Tell { severity, state, headline: headline.clone(), ..about(cause) }, out);
    end(rollout, Ending::NotTakenBack, headline, out)
}

/// In the shadow nothing is moved: it says what it would have done, and ends.
fn would(rollout: &mut Rollout, cause: &Cause, first: Option<&Level>, out: &mut Out) -> bool {
    let set = first.map_or(&[][..], |level| &level.set);
    for (lever, to) in set {
        out.would(lever, to);
    }
    let what: Vec<String> = set.iter().map(|(lever, to)| format!("{lever} {to}")).collect();
    let headline = format!("{} {}; would have set {}", rollout.release, cause_text(cause), what.join(", "));
    let (severity, state) = (Severity::Warn, "would_take_back");
    incidents::update(rollout, Tell { severity, state, headline: headline.clone(), ..about(cause) }, out);
    end(rollout, Ending::WouldTakeBack, headline, out)
}

/// Restores every lever that the rollout moved to what it held at start; the release to the one that
/// is known to be good.
pub(crate) fn begin_abort(rollout: &mut Rollout, cause: Cause, out: &mut Out) -> bool {
    let runs = |name: &LeverName| rollout.plan.levers.get(name).is_some_and(|lever| lever.runs);
    let moved = rollout.levers.iter().filter(|(name, lever)| lever.set_to.is_some() && !runs(name));
    let before = |name: &LeverName| rollout.value_of(&Set { lever: name.clone(), to: SetTo::Previous });
    let set: Vec<_> = moved.filter_map(|(name, _)| Some((name.clone(), before(name)?))).collect();
    if set.is_empty() {
        return end(rollout, Ending::Aborted, "aborted before anything was moved".to_owned(), out);
    }
    let apply_within = rollout.plan.take_back.levels.first().map_or(Span::from_secs(120), |level| level.apply_within);
    let level = Level { set, apply_within, automatic: true, refuses: Vec::new() };
    begin_levels(rollout, cause, (vec![level], 0), Ending::Aborted, out)
}

/// Begins with one of the levels, by its index.
fn begin_levels(
    rollout: &mut Rollout,
    cause: Cause,
    (levels, first): (Vec<Level>, usize),
    ending: Ending,
    out: &mut Out,
) -> bool {
    if rollout.is_shadow {
        return would(rollout, &cause, levels.get(first), out);
    }
    let now = out.now;
    rollout.holds.clear();
    if rollout.is_over() {
        // Nothing was looked at since it ended: its series begin anew instead of closing every slot since.
        rollout.evidence.series.clear();
    }
    rollout.phase = Phase::TakingBack(Box::new(TakeBack {
        cause,
        levels,
        level: first,
        began_at: now,
        asked_at: now,
        due: now,
        back_at: None,
        applied_at: None,
        recovered_at: None,
        ending,
        told_blind: false,
    }));
    begin_epoch(rollout, now);
    ask_level(rollout, first, out);
    true
}

fn ask_level(rollout: &mut Rollout, index: usize, out: &mut Out) {
    let Phase::TakingBack(back) = &mut rollout.phase else { return };
    let Some(level) = back.levels.get(index).cloned() else { return };
    let due = out.now + level.apply_within;
    back.level = index;
    back.asked_at = out.now;
    back.due = due;
    back.back_at = None;
    back.applied_at = None;
    let back = back.clone();
    out.reasons.push(Reason::TakingBack {
        cause: back.cause.clone(),
        level: count(index + 1),
        levels: count(back.levels.len()),
        set: level.set.clone(),
        due,
    });
    for (lever, to) in &level.set {
        out.ask(rollout, lever, to, due);
    }
    let headline = match &back.cause {
        Cause::Command { verb, principal } => format!("{}: {verb} by {principal}; taking back", rollout.release),
        Cause::Criterion { judgement } => format!(
            "{} {}: {} {}{}; taking back",
            rollout.release,
            rollout.stage_name().map(|s| s.to_string()).unwrap_or_default(),
            judgement.criterion,
            judgement.numbers,
            judgement.region.as_ref().map(|region| format!(" ({region})")).unwrap_or_default(),
        ),
        Cause::Drift { .. } => format!("{}: {}; taking back", rollout.release, cause_text(&back.cause)),
        Cause::Lever { lever, outcome } => {
            format!("{}: lever {lever} could not be set ({outcome}); taking back", rollout.release)
        }
    };
    tell(rollout, &back, Severity::Warn, "taking_back", headline, out);
}

/// Looks for the proofs of the level that is on, in their order.
pub(crate) fn advance(desk: &Desk, rollout: &mut Rollout, out: &mut Out) -> bool {
    let Phase::TakingBack(back) = rollout.phase.clone() else { return false };
    let Some(level) = back.levels.get(back.level).cloned() else { return false };
    if let Some(why) = unconfirmed(desk, rollout, &level, &back, out.now) {
        return give_way(rollout, &back, why, out);
    }
    match (back.back_at, back.applied_at) {
        (None, _) => read_back(desk, rollout, &level, &back, out),
        (Some(back_at), None) => see_applied(rollout, &back, back_at, out),
        (Some(_), Some(applied_at)) => see_recovered(rollout, &back, applied_at, out),
    }
}

/// Why this level's levers cannot be taken to be where they were put.
fn unconfirmed(desk: &Desk, rollout: &Rollout, level: &Level, back: &TakeBack, now: Timestamp) -> Option<String> {
    for (name, _) in &level.set {
        let Some(lever) = rollout.levers.get(name) else { continue };
        match &lever.answer {
            // Somebody may have asked for it again since, by hand.
            None if now >= lever.due.unwrap_or(back.due) + ANSWER_GRACE => {
                return Some(format!("lever {name} was not answered"));
            }
            Some(answer) if answer.outcome != ActionOutcome::Done => {
                return Some(format!("lever {name} {}", answer.text()));
            }
            Some(_) if lever.is_wrong(desk.reading(name)) => {
                return Some(format!("lever {name} was read elsewhere after it was set"));
            }
            _ => {}
        }
    }
    None
}

fn read_back(desk: &Desk, rollout: &mut Rollout, level: &Level, back: &TakeBack, out: &mut Out) -> bool {
    let confirmed = |name: &LeverName| rollout.levers.get(name).is_some_and(|l| l.is_confirmed(desk.reading(name)));
    if !level.set.iter().all(|(name, _)| confirmed(name)) {
        return false;
    }
    if let Some(why) = astray(rollout, level) {
        return if out.now < back.due + ANSWER_GRACE { false } else { give_way(rollout, back, why, out) };
    }
    set_back(rollout, |back| back.back_at = Some(out.now));
    begin_epoch(rollout, out.now);
    out.reasons.push(Reason::ReadBack { level: count(back.level + 1), after: out.now.since(back.asked_at) });
    true
}

/// A lever of the level that is done, where it was read, and yet is not as the plan knows it: one of its targets is
/// missing, and nobody knows what that one runs.
fn astray(rollout: &Rollout, level: &Level) -> Option<String> {
    let drifted = |name: &LeverName| rollout.levers.get(name)?.drifted.as_ref().filter(|drift| drift.counts);
    level.set.iter().find_map(|(name, _)| Some(drift::text(name, &drifted(name)?.to)))
}

fn see_applied(rollout: &mut Rollout, back: &TakeBack, back_at: Timestamp, out: &mut Out) -> bool {
    let refuses = back.levels.get(back.level).is_some_and(|level| !level.refuses.is_empty());
    let names = rollout.evidence.series.keys().any(|series| names_release(rollout, series));
    let is_named = rollout.plan.fingerprint.is_some() && names;
    let is_seen = is_named || refuses;
    let sights = sights(rollout, out.now);
    let seen = !is_seen || (!sights.is_empty() && sights.iter().all(|sight| *sight == Some(Sight::Expected)));
    if seen {
        set_back(rollout, |back| back.applied_at = Some(out.now));
        let after = out.now.since(back.began_at);
        let is_back = back.moves_release(&rollout.plan);
        let previous = rollout.stage().and_then(|stage| rollout.previous_in(stage.regions.first()?));
        let seen = previous.filter(|_| is_back).unwrap_or(&rollout.release).clone();
        out.reasons.push(Reason::Applied { after, seen, unseen: !is_seen });
        let headline = format!(
            "{} taken back after {after}: levers read back, {}; not yet recovered",
            rollout.release,
            match (refuses, is_back) {
                (true, true) if is_named => "the refusal and the old release seen",
                (true, _) => "the refusal seen",
                (false, _) if is_named => "old release seen",
                (false, _) => "no answer names its release",
            },
            after = after.rounded(),
        );
        tell(rollout, back, Severity::Warn, "applied", headline, out);
        return true;
    }
    // A slot must close before anything can be seen: the deadline for seeing allows for that.
    let due = back.due.max(back_at + rollout.plan.slot.times(2) + rollout.plan.grace);
    if out.now < due {
        return false;
    }
    if sights.contains(&Some(Sight::Other)) {
        let what = if refuses { "another release, or no refusal" } else { "another release" };
        let why = format!("levers were read back, but probes still see {what}");
        return give_way(rollout, back, why, out);
    }
    tell_blind(rollout, back, out)
}

fn see_recovered(rollout: &mut Rollout, back: &TakeBack, applied_at: Timestamp, out: &mut Out) -> bool {
    let now = out.now;
    let green = rollout.evidence.green_slots(|series| rollout.is_left_out(series, now));
    let astray = back.levels.get(back.level).and_then(|level| astray(rollout, level));
    if green >= rollout.plan.take_back.green && astray.is_none() {
        set_back(rollout, |back| back.recovered_at = Some(now));
        out.reasons.push(Reason::Recovered { green, after: now.since(applied_at) });
        let stays = if rollout.stays() { format!("; {} stays deployed", rollout.release) } else { String::new() };
        let summary = format!(
            "{} {}: applied {}, recovered {}{stays}",
            rollout.release,
            cause_text(&back.cause),
            applied_at.since(back.began_at).rounded(),
            now.since(back.began_at).rounded(),
        );
        let recovered = TakeBack { recovered_at: Some(now), ..back.clone() };
        let headline = format!("{} taken back and recovered: {}{stays}", rollout.release, cause_text(&back.cause));
        resolve(rollout, &recovered, headline, out);
        return end(rollout, back.ending, summary, out);
    }
    let within = u64::from(rollout.plan.take_back.within);
    let covered = counted(rollout, now, |state| state.covered);
    let slots = counted(rollout, now, |state| state.slots);
    if covered >= within {
        let needed = rollout.plan.take_back.green;
        let few = || format!("{green} green slots of {within} after it was applied, {needed} needed");
        let why = astray.unwrap_or_else(few);
        // Everything back and still not green: the cause is elsewhere, and further levers would not help.
        return if moves_more(back) { give_way(rollout, back, why, out) } else { fail(rollout, back, why, out) };
    }
    if slots >= within { tell_blind(rollout, back, out) } else { false }
}

fn counted(rollout: &Rollout, now: Timestamp, of: impl Fn(&crate::evidence::SeriesState) -> u64) -> u64 {
    let series = rollout.evidence.series.iter();
    let series = series.filter(|(series, _)| !rollout.is_left_out(series, now));
    series.map(|(_, state)| of(state)).min().unwrap_or(0)
}

fn sights(rollout: &Rollout, now: Timestamp) -> Vec<Option<Sight>> {
    let series = rollout.evidence.series.iter();
    let series = series.filter(|(series, _)| !rollout.is_left_out(series, now));
    // What cannot name a release, such as a log, shows none.
    let series = series.filter(|(s, state)| state.sight.is_some() || names_release(rollout, s));
    series.map(|(_, state)| state.sight).collect()
}

fn names_release(rollout: &Rollout, series: &Series) -> bool {
    rollout.plan.sli(&series.sli).is_none_or(Sli::names_release)
}

/// Whether a later level moves a lever, or a value, that no level so far did.
fn moves_more(back: &TakeBack) -> bool {
    let (so_far, later) = back.levels.split_at((back.level + 1).min(back.levels.len()));
    let done: BTreeSet<&(LeverName, LeverValue)> = so_far.iter().flat_map(|level| &level.set).collect();
    later.iter().flat_map(|level| &level.set).any(|set| !done.contains(set))
}

fn give_way(rollout: &mut Rollout, back: &TakeBack, why: String, out: &mut Out) -> bool {
    let Some(next) = back.levels.get(back.level + 1) else { return fail(rollout, back, why, out) };
    let so_far = back.levels.get(..=back.level).unwrap_or_default();
    if !next.automatic && is_beyond_previous(rollout, so_far) {
        let why = format!("{why}; level {} waits for a human", back.level + 2);
        return fail(rollout, back, why, out);
    }
    out.reasons.push(Reason::LevelGaveWay { level: count(back.level + 1), why });
    begin_epoch(rollout, out.now);
    ask_level(rollout, back.level + 1, out);
    true
}

/// Whether the levels so far already went back to the previous release: what follows goes beyond it.
fn is_beyond_previous(rollout: &Rollout, so_far: &[Level]) -> bool {
    let regions = rollout.stage().map_or(&[][..], |stage| &stage.regions);
    let mut holding = regions.iter().filter_map(|region| rollout.plan.release_lever_in(rollout.stage, region));
    holding.all(|lever| so_far.iter().flat_map(|level| &level.set).any(|(name, _)| name == lever))
}

fn fail(rollout: &mut Rollout, back: &TakeBack, why: String, out: &mut Out) -> bool {
    let what = if back.applied_at.is_some() { "applied but NOT recovered" } else { "rollback NOT applied" };
    let headline = format!("{} {what} after {}: {why}", rollout.release, out.now.since(back.began_at).rounded());
    tell(rollout, back, Severity::Page, "not_taken_back", headline.clone(), out);
    end(rollout, Ending::NotTakenBack, headline, out)
}

fn tell_blind(rollout: &mut Rollout, back: &TakeBack, out: &mut Out) -> bool {
    if back.told_blind {
        return false;
    }
    set_back(rollout, |back| back.told_blind = true);
    let headline =
        format!("{}: levers read back, but probes see nothing; still looking, nothing more is moved", rollout.release);
    tell(rollout, back, Severity::Page, "blind", headline, out);
    true
}

fn set_back(rollout: &mut Rollout, change: impl FnOnce(&mut TakeBack)) {
    if let Phase::TakingBack(back) = &mut rollout.phase {
        change(back);
    }
}

fn tell(
    rollout: &mut Rollout,
    back: &TakeBack,
    severity: Severity,
    state: &'static str,
    headline: String,
    out: &mut Out,
) {
    let tell = Tell { severity, state, headline, ..about(&back.cause) };
    incidents::update(rollout, tell, out);
}

fn resolve(rollout: &mut Rollout, back: &TakeBack, headline: String, out: &mut Out) {
    let tell = Tell { severity: Severity::Warn, state: "recovered", headline, ..about(&back.cause) };
    incidents::resolve(rollout, tell, out);
}

fn about(cause: &Cause) -> Tell {
    let tell = Tell { act: OnFail::Rollback, ..Tell::new(cause_name(cause), "", String::new()) };
    match cause.judgement() {
        Some(judgement) => tell.on(judgement),
        None => tell,
    }
}

fn cause_name(cause: &Cause) -> CriterionName {
    let text = match cause {
        Cause::Command { verb, .. } => verb.as_str(),
        Cause::Criterion { judgement } => judgement.criterion.as_str(),
        Cause::Drift { lever, .. } | Cause::Lever { lever, .. } => lever.as_str(),
    };
    incidents::cause(text)
}

fn cause_text(cause: &Cause) -> String {
    match cause {
        Cause::Command { verb, principal } => format!("{verb} by {principal}"),
        Cause::Criterion { judgement } => format!(
            "{} {}{}",
            judgement.criterion,
            judgement.numbers,
            judgement.region.as_ref().map(|region| format!(" in {region}")).unwrap_or_default(),
        ),
        Cause::Drift { lever, to } => drift::text(lever, to),
        Cause::Lever { lever, outcome } => format!("lever {lever} {outcome}"),
    }
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
