//! Counters, as monitoring systems keep them, to what happened in between. Pure.
//!
//! What a counter grew by is the sum of its steps; a step down is a restart, after which it began at
//! zero. Nothing is extrapolated: each step is counted once, in the slot in which it was seen.
//!
//! A counter that nobody saw before may have grown for years. It counts from zero only when its target
//! (`job` and `instance`) was already known: then it was born since. Else its first value is where it begins.

use std::collections::BTreeMap;

use bellwether_protocol::time::{Span, Timestamp};

use crate::selector::Labels;

/// One value of one series.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Point {
    /// When it was measured.
    pub(crate) at: Timestamp,
    /// What.
    pub(crate) value: f64,
}

/// One series, its points in order of time.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Series {
    /// Its labels, with its name.
    pub(crate) labels: Labels,
    /// What is known of it.
    pub(crate) points: Vec<Point>,
}

/// Since when each target has been seen.
pub(crate) type Targets = BTreeMap<[String; 2], Timestamp>;

/// Most series of one selector. It bounds what is kept between readings.
pub(crate) const SERIES_MAX: usize = 5_000;

/// Where every counter of one selector stood when it was last read.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    last: BTreeMap<Labels, Point>,
}

impl Counters {
    /// What each series grew by since it was last read; of a series that was never read, since `from`, and
    /// from zero when its target is `known` for longer. A series whose growth is not known is left out: one that only begins here, one without a finite
    /// value, and one that was away for longer than `gap_max`.
    pub(crate) fn advance(
        &mut self,
        window: &[Series],
        from: Timestamp,
        gap_max: Span,
        known: &Targets,
    ) -> Vec<(Labels, f64)> {
        let mut grown = Vec::new();
        let mut newest = Timestamp::default();
        for series in window {
            let sound: Vec<Point> = series.points.iter().filter(|point| point.value.is_finite()).copied().collect();
            let Some(last) = sound.last() else { continue };
            newest = newest.max(last.at);
            let since =
                self.last.get(&series.labels).copied().or_else(|| sound.iter().rfind(|p| p.at <= from).copied());
            let news: Vec<Point> =
                sound.iter().filter(|p| since.is_none_or(|since| p.at > since.at)).copied().collect();
            let Some(first) = news.first() else { continue };
            // Beyond the bound a new series is not remembered, and so never counted.
            if since.is_some() || self.last.len() < 2 * SERIES_MAX {
                self.last.insert(series.labels.clone(), *last);
            }
            let is_born = since.is_none() && known.get(&target(&series.labels)).is_some_and(|at| *at < first.at);
            let base = match since {
                Some(since) if first.at.since(since.at) <= gap_max => Some(since.value),
                None if is_born => Some(0.0),
                Some(_) | None => None,
            };
            let steps = base.into_iter().chain(news.iter().map(|p| p.value));
            let steps: Vec<f64> = steps.collect();
            if steps.len() > 1 {
                let growth = steps.iter().zip(steps.iter().skip(1)).map(|(a, b)| if b >= a { b - a } else { *b });
                grown.push((series.labels.clone(), growth.sum()));
            }
        }
        // What was away for long begins anew anyway.
        self.last.retain(|_, point| newest.since(point.at) <= gap_max);
        grown
    }

    /// Notes since when each target has been seen, by anything that was read before, or lies before `from`.
    pub(crate) fn know(&self, window: &[Series], from: Timestamp, known: &mut Targets) {
        let old = window.iter().filter_map(|s| Some((&s.labels, s.points.iter().find(|p| p.at <= from)?.at)));
        for (labels, at) in self.last.iter().map(|(labels, point)| (labels, point.at)).chain(old) {
            let first = known.entry(target(labels)).or_insert(at);
            *first = at.min(*first);
        }
    }
}

fn target(labels: &Labels) -> [String; 2] {
    ["job", "instance"].map(|label| labels.get(label).cloned().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(s: i64) -> Timestamp {
        Timestamp::from_ms(s * 1_000)
    }

    fn series(name: &str, instance: &str, points: &[(i64, f64)]) -> Series {
        let labels = [("__name__", name), ("instance", instance)];
        Series {
            labels: labels.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            points: points.iter().map(|(s, value)| Point { at: at(*s), value: *value }).collect(),
        }
    }

    fn advance(counters: &mut Counters, window: &[Series], from: i64) -> Vec<(Labels, f64)> {
        let mut known = Targets::new();
        counters.know(window, at(from), &mut known);
        counters.advance(window, at(from), Span::from_secs(60), &known)
    }

    /// Reads windows, each `(from, points)`, one after the other; what the counter grew by in each.
    fn check(windows: &[(i64, &[(i64, f64)])], expected: &[Option<f64>]) {
        let mut counters = Counters::default();
        for ((from, points), expected) in windows.iter().zip(expected) {
            let grown = advance(&mut counters, &[series("n", "a", points)], *from);
            assert_eq!(grown.first().map(|(_, growth)| *growth), *expected, "{windows:?} from {from}");
        }
    }

    #[test]
    fn counters_become_counts() {
        // Slots tile: what lies before the border is never counted twice, and never lost.
        check(&[(30, &[(20, 5.0), (35, 7.0), (50, 9.0)]), (60, &[(50, 9.0), (65, 10.0)])], &[Some(4.0), Some(1.0)]);
        // A point that was stored late is counted with the next slot.
        check(&[(30, &[(20, 5.0), (35, 7.0)]), (60, &[(35, 7.0), (59, 9.0), (65, 10.0)])], &[Some(2.0), Some(3.0)]);
        check(&[(30, &[(20, 5.0), (35, 7.0), (40, 1.0), (50, 3.0)])], &[Some(5.0)]);
        check(&[(30, &[(20, 5.0), (35, 0.0)])], &[Some(0.0)]);
        // One value is where a counter begins; it tells of no growth.
        check(&[(30, &[(35, 1e6)]), (60, &[(35, 1e6), (65, 1e6 + 2.0)])], &[None, Some(2.0)]);
        check(&[(30, &[(35, 1e6), (40, 1e6 + 1.0)])], &[Some(1.0)]);
        check(&[(30, &[]), (60, &[(20, 5.0)]), (60, &[(20, f64::NAN), (70, f64::INFINITY)])], &[None, None, None]);
        // Away for too long: what happened meanwhile belongs to no slot that is open.
        check(
            &[(30, &[(20, 5.0), (35, 7.0)]), (120, &[(125, 90.0)]), (150, &[(155, 91.0)])],
            &[Some(2.0), None, Some(1.0)],
        );
    }

    #[test]
    fn a_counter_born_on_a_known_target_counts_from_zero() {
        let mut counters = Counters::default();
        let old = series("n", "a", &[(20, 5.0), (35, 6.0)]);
        let window = [old, series("bad", "a", &[(35, 2.0)]), series("n", "b", &[(35, 9.0)])];
        let grown = advance(&mut counters, &window, 30);
        let counts: Vec<(&str, &str, f64)> =
            grown.iter().map(|(l, growth)| (l["__name__"].as_str(), l["instance"].as_str(), *growth)).collect();
        assert_eq!(counts, [("n", "a", 1.0), ("bad", "a", 2.0)], "a new target may be old");
    }
}
