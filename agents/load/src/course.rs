//! How much load, over time: a rate or a number of users, stage by stage. Pure.
//!
//! When the k-th arrival is intended is a closed form of k, so that nothing adds up to a drift: with the
//! rate r(t), it is the instant at which the integral of r reaches k.

use std::str::FromStr;
use std::time::Duration;

use bellwether_protocol::time::{Span, per_second};

/// What a level counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Arrivals per second: the model is open.
    PerSecond,
    /// Users at the same time: the model is closed.
    Users,
}

/// How much.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Level {
    pub(crate) amount: f64,
    pub(crate) unit: Unit,
}

/// One part of a course.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Stage {
    pub(crate) level: Level,
    /// Whether the level is reached in a straight line, rather than at once.
    pub(crate) ramp: bool,
    pub(crate) lasts: Span,
}

/// The whole course.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Course {
    pub(crate) unit: Unit,
    parts: Vec<Part>,
}

/// A stage where it lies: in seconds from the start, and in arrivals before it.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Part {
    begins: f64,
    lasts: f64,
    from: f64,
    to: f64,
    before: f64,
}

/// Why a text is not a level, or a list of stages no course.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CourseError {
    /// Not a level.
    #[error("`{0}` is no level: write `50/s`, `3000/m`, or `50` for users")]
    Level(String),
    /// Rates and users in one course.
    #[error("rates and users are two models: use one of them in all stages")]
    Mixed,
    /// No stage, or too many, or one that never begins.
    #[error("1 to {STAGES_MAX} stages are needed, each longer than 0s, and one of them with a level over 0")]
    Stages,
    /// Not a stage.
    #[error("`{0}` is no stage: write `50/s for 10m`, or `to 200/s in 2m`")]
    Stage(String),
}

/// Most stages of one course.
const STAGES_MAX: usize = 100;
/// Highest level that is read; what an agent may do is in its own file.
const AMOUNT_MAX: f64 = 1e6;

impl FromStr for Level {
    type Err = CourseError;

    fn from_str(text: &str) -> Result<Self, CourseError> {
        let wrong = || CourseError::Level(text.chars().take(80).collect());
        let amount = match per_second(text) {
            Some(amount) => Some((amount, Unit::PerSecond)),
            None => text.parse::<u32>().ok().map(|users| (f64::from(users), Unit::Users)),
        };
        let (amount, unit) = amount.filter(|(amount, _)| *amount <= AMOUNT_MAX).ok_or_else(wrong)?;
        Ok(Self { amount, unit })
    }
}

impl FromStr for Stage {
    type Err = CourseError;

    fn from_str(text: &str) -> Result<Self, CourseError> {
        let wrong = || CourseError::Stage(text.chars().take(80).collect());
        let words: Vec<&str> = text.split_whitespace().collect();
        let (level, ramp, lasts) = match words.as_slice() {
            [level, "for", lasts] => (level, false, lasts),
            ["to", level, "in", lasts] => (level, true, lasts),
            _ => return Err(wrong()),
        };
        Ok(Self { level: level.parse()?, ramp, lasts: lasts.parse().map_err(|_| wrong())? })
    }
}

impl Course {
    /// These stages, one after the other, from nothing. With `holds`, the last level then goes on for ever.
    pub(crate) fn new(stages: &[Stage], holds: bool) -> Result<Self, CourseError> {
        let unit = stages.first().map(|stage| stage.level.unit).ok_or(CourseError::Stages)?;
        let is_sound = stages.iter().all(|stage| stage.lasts != Span::ZERO);
        let is_some = stages.iter().any(|stage| stage.level.amount > 0.0);
        if stages.len() > STAGES_MAX || !is_sound || !is_some {
            return Err(CourseError::Stages);
        }
        if stages.iter().any(|stage| stage.level.unit != unit) {
            return Err(CourseError::Mixed);
        }
        let mut parts: Vec<Part> = Vec::new();
        for stage in stages {
            let next =
                parts.last().map_or(Part { begins: 0.0, lasts: 0.0, from: 0.0, to: 0.0, before: 0.0 }, Part::next);
            let from = if stage.ramp { next.to } else { stage.level.amount };
            parts.push(Part { lasts: stage.lasts.to_std().as_secs_f64(), from, to: stage.level.amount, ..next });
        }
        if let Some(last) = parts.last().filter(|_| holds).map(Part::next) {
            parts.push(Part { lasts: f64::INFINITY, from: last.to, ..last });
        }
        Ok(Self { unit, parts })
    }

    /// One level that goes on for ever.
    pub(crate) fn level(level: Level) -> Result<Self, CourseError> {
        Self::new(&[Stage { level, ramp: false, lasts: Span::from_ms(1) }], true)
    }

    /// When the `k`-th arrival is intended, from 0, if there is one.
    pub(crate) fn intended(&self, k: u64) -> Option<Duration> {
        #[expect(clippy::cast_precision_loss, reason = "no run has 2^53 arrivals")]
        let k = k as f64;
        let part = self.parts.iter().find(|part| k < part.before + part.arrivals())?;
        Some(Duration::from_secs_f64(part.begins + part.after(k - part.before)))
    }

    /// The level at an instant; `None` once the course is over.
    pub(crate) fn at(&self, at: Duration) -> Option<f64> {
        let at = at.as_secs_f64();
        let part = self.parts.iter().find(|part| at < part.begins + part.lasts)?;
        let share = if part.lasts.is_finite() { (at - part.begins) / part.lasts } else { 0.0 };
        Some(part.from + (part.to - part.from) * share.clamp(0.0, 1.0))
    }

    /// The highest level.
    pub(crate) fn peak(&self) -> f64 {
        self.parts.iter().map(|part| part.from.max(part.to)).fold(0.0, f64::max)
    }

    /// The most users there are at the same time, where it is users that are counted.
    pub(crate) fn users(&self) -> usize {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a level is 0 to 10^6")]
        let users = self.peak().round() as usize;
        users
    }

    /// How long it takes until it is over, or its last level is reached for good.
    pub(crate) fn lasts(&self) -> Duration {
        Duration::from_secs_f64(self.parts.iter().map(|part| part.lasts).filter(|lasts| lasts.is_finite()).sum())
    }
}

impl Part {
    /// The part after this one, with nothing in it yet.
    fn next(&self) -> Self {
        let begins = self.begins + self.lasts;
        Self { begins, lasts: 0.0, from: self.to, to: self.to, before: self.before + self.arrivals() }
    }

    fn arrivals(&self) -> f64 {
        let mean = (self.from + self.to) / 2.0;
        if mean > 0.0 { mean * self.lasts } else { 0.0 }
    }

    /// Seconds from its begin until `n` arrivals: the root of `from t + slope t^2 / 2 = n`, in the form
    /// that does not cancel, and that holds for a slope of zero too.
    fn after(&self, n: f64) -> f64 {
        let slope = if self.lasts.is_finite() { (self.to - self.from) / self.lasts } else { 0.0 };
        let end = (self.from * self.from + 2.0 * slope * n).max(0.0).sqrt();
        if n > 0.0 { (2.0 * n / (self.from + end)).min(self.lasts) } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn course(stages: &[&str], holds: bool) -> Course {
        let stages: Vec<Stage> = stages.iter().map(|stage| stage.parse().unwrap()).collect();
        Course::new(&stages, holds).unwrap()
    }

    fn intended(course: &Course, k: u64) -> Option<f64> {
        course.intended(k).map(|at| (at.as_secs_f64() * 1e6).round() / 1e6)
    }

    #[test]
    fn arrivals_are_where_the_integral_of_the_rate_says() {
        let check = |stages: &[&str], expected: &[(u64, Option<f64>)]| {
            let course = course(stages, false);
            for (k, at) in expected {
                assert_eq!(intended(&course, *k), *at, "arrival {k} of {stages:?}");
            }
        };
        check(&["50/s for 2s"], &[(0, Some(0.0)), (1, Some(0.02)), (99, Some(1.98)), (100, None)]);
        check(&["90/m for 2s"], &[(1, Some(0.666_667)), (2, Some(1.333_333)), (3, None)]);
        // From 0 to 100/s in 10 s: t = sqrt(2 k / 10).
        check(
            &["to 100/s in 10s"],
            &[(0, Some(0.0)), (5, Some(1.0)), (20, Some(2.0)), (499, Some(9.989_995)), (500, None)],
        );
        check(
            &["100/s for 1s", "to 0/s in 2s", "10/s for 1s"],
            &[(100, Some(1.0)), (175, Some(2.0)), (200, Some(3.0)), (209, Some(3.9)), (210, None)],
        );
        check(&["0/s for 5s", "1/s for 2s"], &[(0, Some(5.0)), (1, Some(6.0)), (2, None)]);
    }

    #[test]
    fn a_year_in_nothing_has_drifted() {
        let course = Course::level("1000/s".parse().unwrap()).unwrap();
        let year = 365 * 24 * 3_600;
        assert_eq!(intended(&course, 1_000 * year + 1), Some(year as f64 + 0.001));
        assert_eq!(course.lasts(), Duration::from_millis(1));
    }

    #[test]
    fn levels_follow_their_stages() {
        let course = course(&["10 for 10s", "to 30 in 10s"], true);
        let at = |seconds: f64| course.at(Duration::from_secs_f64(seconds));
        assert_eq!((at(0.0), at(9.9), at(15.0), at(1e6)), (Some(10.0), Some(10.0), Some(20.0), Some(30.0)));
        assert!((course.peak() - 30.0).abs() < 1e-9 && course.lasts() == Duration::from_secs(20));
        assert_eq!(self::course(&["10 for 10s"], false).at(Duration::from_secs(10)), None);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for text in ["", "-5/s", "5/d", "1e3/s", "2000000/s", "0.5", "five", "NaN/s"] {
            assert!(text.parse::<Level>().is_err(), "`{text}` was accepted");
        }
        for text in ["", "50/s", "50/s for", "to 5/s for 1m", "50/s for 5"] {
            assert!(text.parse::<Stage>().is_err(), "`{text}` was accepted");
        }
        let of = |stages: &[&str]| {
            Course::new(&stages.iter().map(|stage| stage.parse().unwrap()).collect::<Vec<_>>(), false).unwrap_err()
        };
        assert_eq!(of(&["5/s for 1s", "5 for 1s"]), CourseError::Mixed);
        for stages in [&[] as &[&str], &["5 for 0s"], &["0/s for 5s"]] {
            assert_eq!(of(stages), CourseError::Stages);
        }
    }
}
