//! Whether a criterion holds on the evidence. Integers decide; text is only for people.

use bellwether_protocol::alert::Numbers;
use bellwether_protocol::id::{Class, Region};
use bellwether_protocol::plan::{Criterion, Objective};
use bellwether_protocol::reason::{Judgement, Lack, Verdict};
use bellwether_protocol::sample::{Cohort, Portion, class};
use serde::{Deserialize, Serialize};

use crate::evidence::Track;

/// What one slot, or many, say of one criterion.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tally {
    /// Events: answers, or for a number the answers that held it.
    pub n: u64,
    /// Of these, over the limit.
    pub bad: u64,
    /// Of these, over the target.
    pub over_target: u64,
    /// The value furthest out, for a number.
    pub worst: Option<f64>,
}

impl Tally {
    /// What the portions that are evidence say.
    pub fn of(criterion: &Criterion, portions: &[Portion]) -> Self {
        let mut tally = Self::default();
        for portion in portions {
            tally.add(&Self::of_portion(criterion, portion));
        }
        tally
    }

    fn of_portion(criterion: &Criterion, portion: &Portion) -> Self {
        let count_bad = |bad: &[Class]| {
            let is_bad = |name: &Class| if bad.is_empty() { !class::is_ok(name) } else { bad.contains(name) };
            let counts = portion.classes.iter().filter(|(name, _)| is_bad(name)).map(|(_, count)| *count);
            counts.fold(0, u64::saturating_add)
        };
        match &criterion.objective {
            Objective::Consecutive { .. } => Self { n: portion.n(), bad: count_bad(&[]), over_target: 0, worst: None },
            Objective::Number { number, min, max, target } => {
                let Some(level) = portion.numbers.get(number) else { return Self::default() };
                let outside = min.is_some_and(|min| level.min < min) || max.is_some_and(|max| level.max > max);
                let over = target.is_some_and(|target| level.max > target);
                let worst = if max.is_some() || target.is_some() { level.max } else { level.min };
                let all_if = |yes: bool| if yes { level.n } else { 0 };
                Self { n: level.n, bad: all_if(outside), over_target: all_if(over), worst: Some(worst) }
            }
            Objective::Quantile { max, target, .. } => Self {
                n: portion.latency.n(),
                bad: portion.latency.over(*max),
                over_target: target.map_or(0, |target| portion.latency.over(target)),
                worst: None,
            },
            Objective::Ratio { bad, .. } | Objective::Zero { bad } => {
                let bad = count_bad(bad);
                Self { n: portion.n(), bad, over_target: bad, worst: None }
            }
        }
    }

    /// Adds another slot or region. Of two numbers the larger deviation cannot be told apart here
    /// from the smaller, so the larger value is kept; a limit from below keeps its own in `bad`.
    pub fn add(&mut self, other: &Self) {
        self.n = self.n.saturating_add(other.n);
        self.bad = self.bad.saturating_add(other.bad);
        self.over_target = self.over_target.saturating_add(other.over_target);
        self.worst = match (self.worst, other.worst) {
            (Some(own), Some(theirs)) => Some(own.max(theirs)),
            (own, theirs) => own.or(theirs),
        };
    }
}

/// What is looked at: the window, or everything.
fn scope(criterion: &Criterion, track: &Track) -> Tally {
    let is_number = matches!(criterion.objective, Objective::Number { .. });
    if criterion.window.is_none() && !is_number {
        return track.total.clone();
    }
    // A number without a window is judged by the last slot that held it.
    if criterion.window.is_none() {
        let last = track.recent.iter().rev().find(|(_, tally)| tally.n > 0);
        return last.map(|(_, tally)| tally.clone()).unwrap_or_default();
    }
    let mut sum = Tally::default();
    for (_, tally) in &track.recent {
        sum.add(tally);
    }
    sum
}

/// Whether the evidence is beyond the limit now, before `for:`.
pub(crate) fn exceeds(criterion: &Criterion, track: &Track) -> bool {
    let seen = scope(criterion, track);
    match &criterion.objective {
        Objective::Consecutive { slots } => track.bad_run >= *slots,
        Objective::Number { .. } => seen.n >= criterion.min_events && seen.bad > 0,
        Objective::Quantile { quantile, .. } => {
            seen.n >= criterion.min_events && quantile.complement().is_exceeded_by(seen.bad, seen.n)
        }
        Objective::Ratio { max, .. } => seen.n >= criterion.min_events && max.is_exceeded_by(seen.bad, seen.n),
        Objective::Zero { .. } => seen.bad > 0,
    }
}

/// Whether it has been beyond the limit for as long as the plan wants.
pub(crate) fn fails(criterion: &Criterion, track: &Track) -> bool {
    track.failing_since.is_some_and(|since| track.upto.since(since) >= criterion.hold_for)
}

/// Whether one slot alone is over a hard threshold: then it is not green.
pub(crate) fn slot_is_red(criterion: &Criterion, tally: &Tally) -> bool {
    if !criterion.hard {
        return false;
    }
    match &criterion.objective {
        Objective::Consecutive { .. } => tally.n > 0 && tally.bad == tally.n,
        Objective::Number { .. } | Objective::Zero { .. } => tally.bad > 0,
        Objective::Quantile { quantile, .. } => quantile.complement().is_exceeded_by(tally.bad, tally.n),
        Objective::Ratio { max, .. } => max.is_exceeded_by(tally.bad, tally.n),
    }
}

/// The verdict on one track, with its numbers. `is_silent`: the last slot was not covered.
pub(crate) fn judgement(
    criterion: &Criterion,
    track: &Track,
    cohort: Cohort,
    region: Option<&Region>,
    is_silent: bool,
) -> Judgement {
    let seen = scope(criterion, track);
    let verdict = if fails(criterion, track) {
        Verdict::Fail
    } else if is_silent || seen.n < criterion.min_events.max(1) {
        Verdict::Inconclusive(Lack::NoData)
    } else if track.failing_since.is_some() {
        Verdict::Inconclusive(Lack::NotProven)
    } else {
        Verdict::Pass
    };
    Judgement {
        criterion: criterion.name.clone(),
        hard: criterion.hard,
        cohort,
        region: region.cloned(),
        verdict,
        over_target: verdict == Verdict::Pass && is_over_target(criterion, &seen),
        numbers: numbers(criterion, track, &seen),
        failing_since: track.failing_since,
    }
}

fn is_over_target(criterion: &Criterion, seen: &Tally) -> bool {
    match &criterion.objective {
        Objective::Consecutive { .. } | Objective::Zero { .. } => false,
        Objective::Number { target, .. } => target.is_some() && seen.over_target > 0,
        Objective::Quantile { quantile, target, .. } => {
            target.is_some() && quantile.complement().is_exceeded_by(seen.over_target, seen.n)
        }
        Objective::Ratio { target, .. } => target.is_some_and(|target| target.is_exceeded_by(seen.over_target, seen.n)),
    }
}

fn numbers(criterion: &Criterion, track: &Track, seen: &Tally) -> Numbers {
    let share = || percent(seen.bad, seen.n);
    let (value, limit) = match &criterion.objective {
        Objective::Consecutive { slots } => (format!("{} in a row", track.bad_run), format!("{slots} in a row")),
        Objective::Number { min, max, .. } => {
            let limit = match (min, max) {
                (Some(min), Some(max)) => format!("{} to {}", plain(*min), plain(*max)),
                (Some(min), None) => format!("at least {}", plain(*min)),
                (None, max) => max.map(plain).unwrap_or_default(),
            };
            (seen.worst.map_or_else(|| "no data".to_owned(), plain), limit)
        }
        Objective::Quantile { quantile, max, .. } => {
            (format!("{} over {max}", share()), format!("{} over {max}", quantile.complement()))
        }
        Objective::Ratio { max, .. } => (share(), max.to_string()),
        Objective::Zero { .. } => (seen.bad.to_string(), "0".to_owned()),
    };
    Numbers { bad: seen.bad, n: seen.n, value, limit }
}

/// A share of `n` with two significant digits, rounded up: against the release, never for it.
fn percent(bad: u64, n: u64) -> String {
    if n == 0 {
        return "no data".to_owned();
    }
    // In thousandths of a percent; one digit after the point from 1 %, else up to three.
    let milli = (u128::from(bad) * 100_000).div_ceil(u128::from(n));
    if milli == 0 {
        return "0%".to_owned();
    }
    if milli >= 1_000 {
        let tenths = milli.div_ceil(100);
        let (whole, tenth) = (tenths / 10, tenths % 10);
        return if tenth == 0 { format!("{whole}%") } else { format!("{whole}.{tenth}%") };
    }
    let digits = format!("{milli:03}");
    format!("0.{}%", digits.trim_end_matches('0'))
}

/// A number with at most three digits after the point; from a million on in mega or giga, as sizes are read.
fn plain(value: f64) -> String {
    match value.abs() {
        size if size >= 1e9 => format!("{}GB", trimmed(value / 1e9)),
        size if size >= 1e6 => format!("{}MB", trimmed(value / 1e6)),
        _ => trimmed(value),
    }
}

fn trimmed(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_rounded_against_the_release() {
        let cases = [
            (0, 100, "0%"),
            (0, 0, "no data"),
            (7, 120, "5.9%"),
            (1, 20, "5%"),
            (4, 30_180, "0.014%"),
            (5, 1_000, "0.5%"),
            (1, 1, "100%"),
            (u64::MAX, u64::MAX, "100%"),
        ];
        for (bad, n, expected) in cases {
            assert_eq!(percent(bad, n), expected, "{bad} of {n}");
        }
    }

    #[test]
    fn numbers_carry_a_unit_that_fits() {
        let cases = [(226e6, "226MB"), (1.8e9, "1.8GB"), (11.0, "11"), (0.25, "0.25"), (9_999.0, "9999"), (-3.0, "-3")];
        for (value, expected) in cases {
            assert_eq!(plain(value), expected);
        }
    }
}
