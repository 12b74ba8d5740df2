//! What is read out of series, whoever keeps them: numbers, events or latencies. Exactly one of them.
//!
//! ```yaml
//! numbers: { memory: 'process_resident_memory_bytes{job="shop"}' }
//! events:
//!   total: http_requests_total{job="shop"}
//!   bad:
//!     http_5xx: '{code=~"5.."}'                 # of the series of `total`
//!     payment: payment_errors_total{job="shop"} # a counter of its own
//! buckets: http_request_duration_seconds_bucket{job="shop"}   # `le` in seconds
//! release_label: version       # the label that names the release; without it none is named
//! cohorts: { canary: green, baseline: blue }    # what `{cohort}` in a query stands for; default: the cohort's name
//! stale_after: 2m              # what was last measured longer ago is missing
//! ```
//!
//! A counter that a class picks out of `total` appears with its first bad event. Until then there were
//! none, provided that `total` was read and has the label. A counter of its own that is not there is missing.

use std::collections::{BTreeMap, BTreeSet};

use bellwether_protocol::id::{Class, NumberName, Release};
use bellwether_protocol::plan::Flaw;
use bellwether_protocol::sample::{Cohort, Histogram, Level, Portion, class};
use bellwether_protocol::time::{Span, Timestamp};
use serde::Deserialize;
use serde_json::Value;

use crate::found::{Found, Missing, Reading};
use crate::selector::{Labels, Selector};
use crate::series::{Counters, Series, Targets};

/// What a plan says.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    #[serde(default)]
    numbers: BTreeMap<NumberName, String>,
    events: Option<EventSettings>,
    buckets: Option<String>,
    release_label: Option<String>,
    #[serde(default)]
    cohorts: BTreeMap<Cohort, String>,
    #[serde(default = "stale_after")]
    stale_after: Span,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct EventSettings {
    total: String,
    bad: BTreeMap<Class, String>,
}

/// Prometheus scrapes once a minute where nobody says otherwise: one scrape may be missed.
fn stale_after() -> Span {
    Span::from_secs(120)
}

/// Bounds of `stale_after`: so much more than a slot is read each time.
const STALE_AFTER_MIN: Span = Span::from_secs(1);
const STALE_AFTER_MAX: Span = Span::from_secs(3_600);
/// Most numbers or classes of one SLI.
const NAMES_MAX: usize = 20;
/// Longest query, in bytes.
const QUERY_LEN_MAX: usize = 4_000;

/// What is read, with what must be remembered between readings.
#[derive(Debug)]
pub(crate) struct Measure {
    pub(crate) what: What,
    pub(crate) stale_after: Span,
    release_label: Option<String>,
}

/// Numbers, events or latencies.
#[derive(Debug)]
pub(crate) enum What {
    /// Each by its query, whose language the source knows.
    Numbers(BTreeMap<NumberName, String>),
    /// Counters.
    Counters(Vec<Counter>, Sum),
}

/// One selector, and where its counters stood.
#[derive(Debug)]
pub(crate) struct Counter {
    /// What is to be read.
    pub(crate) selector: Selector,
    stood: Counters,
}

/// What counters are added up to.
#[derive(Debug)]
pub(crate) enum Sum {
    /// One counter: a histogram's buckets.
    Buckets,
    /// The first counter is the total, of which some series are of these classes; the others are of
    /// the classes named beside them.
    Events { picked: Vec<(Class, Selector)>, own: Vec<Class> },
}

impl Measure {
    /// Reads settings for one cohort; tells all that is wrong with them.
    pub(crate) fn read(settings: &Value, cohort: Cohort, are_numbers_selectors: bool) -> Result<Self, Vec<Flaw>> {
        let settings: Settings = crate::settings(settings)?;
        let mut flaws = Vec::new();
        let stands_for = settings.cohorts.get(&cohort).cloned().unwrap_or_else(|| cohort.to_string());
        let addressed = |query: &str| query.replace("{cohort}", &stands_for);
        let mut selector = |pointer: &str, text: &str| {
            let read = Selector::parse(&addressed(text));
            read.map_err(|why| flaws.push(flaw(pointer, &why, "write for example `http_requests_total{job=\"shop\"}`")))
                .ok()
        };
        let what = match (&settings.events, &settings.buckets) {
            (None, None) if !settings.numbers.is_empty() => {
                if are_numbers_selectors {
                    settings.numbers.iter().for_each(|(name, text)| _ = selector(&format!("/numbers/{name}"), text));
                }
                Some(What::Numbers(
                    settings.numbers.iter().map(|(name, text)| (name.clone(), addressed(text))).collect(),
                ))
            }
            (Some(events), None) if settings.numbers.is_empty() => Some(events.read(&mut selector)),
            (None, Some(buckets)) if settings.numbers.is_empty() => {
                selector("/buckets", buckets).map(|selector| What::Counters(vec![Counter::new(selector)], Sum::Buckets))
            }
            _ => {
                flaws.push(flaw("", "one measure is needed", "write exactly one of `numbers`, `events` and `buckets`"));
                None
            }
        };
        let names = settings.numbers.len().max(settings.events.as_ref().map_or(0, |events| events.bad.len()));
        let longest = settings.numbers.values().map(String::len).max().unwrap_or(0);
        if names > NAMES_MAX || longest > QUERY_LEN_MAX {
            let message = format!("over {NAMES_MAX} names, or a query of over {QUERY_LEN_MAX} bytes");
            flaws.push(flaw("", &message, "split the SLI"));
        }
        if settings.events.as_ref().is_some_and(|events| events.bad.keys().any(class::is_ok)) {
            flaws.push(flaw("/events/bad/ok", "`ok` is the good class", "name the class by what went wrong"));
        }
        if !(STALE_AFTER_MIN..=STALE_AFTER_MAX).contains(&settings.stale_after) {
            let message = format!("this must be {STALE_AFTER_MIN} to {STALE_AFTER_MAX}");
            flaws.push(flaw("/stale_after", &message, "write about twice the interval of the scrapes"));
        }
        match what {
            Some(what) if flaws.is_empty() => {
                Ok(Self { what, stale_after: settings.stale_after, release_label: settings.release_label })
            }
            _ => Err(flaws),
        }
    }

    /// The selectors whose series [`Measure::count`] wants, in order.
    pub(crate) fn selectors(&self) -> Vec<Selector> {
        match &self.what {
            What::Numbers(_) => Vec::new(),
            What::Counters(counters, _) => counters.iter().map(|counter| counter.selector.clone()).collect(),
        }
    }

    /// Counts what happened since the last reading, or since `from` when this is the first. A counter that
    /// was away for longer than `gap_max` begins anew.
    pub(crate) fn count(&mut self, windows: &[Vec<Series>], from: Timestamp, at: Timestamp, gap_max: Span) -> Reading {
        let release_label = self.release_label.as_deref();
        let What::Counters(counters, sum) = &mut self.what else { return Ok(Vec::new()) };
        // Whichever counter shows that a target was there: the others were born on it since.
        let mut known = Targets::new();
        for (counter, window) in counters.iter().zip(windows) {
            counter.stood.know(window, from, &mut known);
        }
        let mut grown = Vec::new();
        let mut missing = None;
        for (counter, window) in counters.iter_mut().zip(windows) {
            // Each is read even when another one is missing: what they grow by belongs to this slot.
            let growth = counter.stood.advance(window, from, gap_max, &known);
            if growth.is_empty() && missing.is_none() {
                missing = Some(Missing(format!("`{}` has no value that is new and finite", counter.selector)));
            }
            grown.push(growth);
        }
        if let Some(missing) = missing {
            return Err(missing);
        }
        let release = |labels: &Labels| release(labels, release_label);
        let portions = match (sum, windows) {
            (Sum::Buckets, _) => latencies(grown.iter().flatten(), release)?,
            (Sum::Events { picked, own }, [total, ..]) => {
                known_labels(picked, total)?;
                events(&grown, picked, own, release)
            }
            (Sum::Events { .. }, []) => BTreeMap::new(),
        };
        Ok(portions.into_values().map(|portion| Found::new(at, portion)).collect())
    }

    /// Sorts the values of each number by release. One that is not there, not finite, or there twice
    /// makes all of them missing: a slot must not look covered while one of its numbers is unknown.
    pub(crate) fn numbers(&self, read: BTreeMap<NumberName, Vec<(Labels, f64)>>, at: Timestamp) -> Reading {
        let mut portions: BTreeMap<Option<Release>, Portion> = BTreeMap::new();
        let count = read.len();
        for (name, values) in read {
            if values.is_empty() {
                return Err(Missing(format!("number `{name}` has no value")));
            }
            for (labels, value) in values {
                let release = release(&labels, self.release_label.as_deref());
                let portion = portion(&mut portions, release);
                if !value.is_finite() {
                    return Err(Missing(format!("number `{name}` is {value}")));
                }
                if portion.numbers.insert(name.clone(), Level::one(value)).is_some() {
                    return Err(Missing(format!("number `{name}` has several values: add them up, or choose one")));
                }
                portion.classes.insert(class::ok(), 1);
            }
        }
        portions.retain(|_, portion| portion.numbers.len() == count);
        if portions.is_empty() {
            return Err(Missing("no release has all numbers".to_owned()));
        }
        Ok(portions.into_values().map(|portion| Found::new(at, portion)).collect())
    }
}

impl Counter {
    fn new(selector: Selector) -> Self {
        Self { selector, stood: Counters::default() }
    }
}

impl EventSettings {
    fn read(&self, selector: &mut impl FnMut(&str, &str) -> Option<Selector>) -> What {
        let mut counters: Vec<Counter> = selector("/events/total", &self.total).map(Counter::new).into_iter().collect();
        let (mut picked, mut own) = (Vec::new(), Vec::new());
        for (class, text) in &self.bad {
            let pointer = format!("/events/bad/{class}");
            match selector(&pointer, text) {
                Some(selector) if selector.name.is_none() => picked.push((class.clone(), selector)),
                Some(selector) => {
                    own.push(class.clone());
                    counters.push(Counter::new(selector));
                }
                None => {}
            }
        }
        What::Counters(counters, Sum::Events { picked, own })
    }
}

fn flaw(pointer: &str, message: &str, help: &str) -> Flaw {
    Flaw { pointer: pointer.to_owned(), message: message.to_owned(), help: help.to_owned() }
}

fn release(labels: &Labels, label: Option<&str>) -> Option<Release> {
    labels.get(label?)?.parse().ok()
}

fn portion(portions: &mut BTreeMap<Option<Release>, Portion>, release: Option<Release>) -> &mut Portion {
    portions.entry(release.clone()).or_insert_with(|| Portion { release, ..Portion::default() })
}

/// A class that speaks of a label that no series has would be empty for ever, and look like health.
fn known_labels(picked: &[(Class, Selector)], total: &[Series]) -> Result<(), Missing> {
    let known: BTreeSet<&str> = total.iter().flat_map(|series| series.labels.keys().map(String::as_str)).collect();
    for (class, selector) in picked {
        if let Some(label) = selector.labels().find(|label| !known.contains(label)) {
            return Err(Missing(format!("class `{class}`: no series of `total` has the label `{label}`")));
        }
    }
    Ok(())
}

fn events(
    grown: &[Vec<(Labels, f64)>],
    picked: &[(Class, Selector)],
    own: &[Class],
    release: impl Fn(&Labels) -> Option<Release>,
) -> BTreeMap<Option<Release>, Portion> {
    let mut sums: BTreeMap<Option<Release>, (f64, BTreeMap<Class, f64>)> = BTreeMap::new();
    for (labels, growth) in grown.first().into_iter().flatten() {
        let (total, classes) = sums.entry(release(labels)).or_default();
        *total += growth;
        if let Some((class, _)) = picked.iter().find(|(_, selector)| selector.matches(labels)) {
            *classes.entry(class.clone()).or_default() += growth;
        }
    }
    for (class, growth) in own.iter().zip(grown.iter().skip(1)) {
        for (labels, growth) in growth {
            *sums.entry(release(labels)).or_default().1.entry(class.clone()).or_default() += growth;
        }
    }
    let mut portions = BTreeMap::new();
    for (release, (total, classes)) in sums {
        let portion = portion(&mut portions, release);
        portion.classes = classes.into_iter().map(|(class, sum)| (class, whole(sum))).collect();
        let good = whole(total).saturating_sub(portion.n());
        portion.classes.insert(class::ok(), good);
        portion.classes.retain(|name, count| *count > 0 || class::is_ok(name));
    }
    portions
}

fn latencies<'a>(
    grown: impl Iterator<Item = &'a (Labels, f64)>,
    release: impl Fn(&Labels) -> Option<Release>,
) -> Result<BTreeMap<Option<Release>, Portion>, Missing> {
    // Buckets are cumulative within one series; only then may several be added up.
    let mut histograms: BTreeMap<Labels, BTreeMap<u64, u64>> = BTreeMap::new();
    for (labels, growth) in grown {
        let edge = labels.get("le").and_then(|le| edge_ms(le));
        let edge = edge.ok_or_else(|| Missing("a series without a sound `le`".to_owned()))?;
        let rest = labels.iter().filter(|(name, _)| *name != "le");
        let rest = rest.map(|(name, value)| (name.clone(), value.clone())).collect();
        let buckets: &mut BTreeMap<u64, u64> = histograms.entry(rest).or_default();
        // Two edges within one millisecond are one.
        let count = buckets.entry(edge).or_default();
        *count = whole(*growth).max(*count);
    }
    let mut portions = BTreeMap::new();
    for (labels, buckets) in histograms {
        if !buckets.contains_key(&u64::MAX) {
            return Err(Missing("buckets without `le=\"+Inf\"`".to_owned()));
        }
        let mut below = 0;
        let counts = buckets.into_iter().map(|(edge, upto)| {
            let count = upto.saturating_sub(below);
            below = below.max(upto);
            (edge, count)
        });
        let histogram = Histogram(counts.collect());
        let portion = portion(&mut portions, release(&labels));
        portion.latency.merge(&histogram);
        portion.classes.insert(class::ok(), portion.latency.n());
    }
    Ok(portions)
}

/// `le` in seconds to milliseconds, rounded up: what took longer than a limit must not look as if it did not.
fn edge_ms(le: &str) -> Option<u64> {
    let seconds: f64 = le.parse().ok()?;
    match seconds {
        seconds if seconds == f64::INFINITY => Some(u64::MAX),
        seconds if seconds >= 0.0 => Some(whole((seconds * 1e3 - 1e-6).ceil())),
        _ => None,
    }
}

/// The nearest count; what is negative or no number is none.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` saturates, and NaN becomes 0")]
fn whole(value: f64) -> u64 {
    value.round() as u64
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::series::Point;

    fn labels(text: &str) -> Labels {
        text.split(' ').filter_map(|pair| pair.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
    }

    /// Series from `labels: value then, value now`; the slot begins between them.
    fn window(all: &[(&str, f64, f64)]) -> Vec<Series> {
        let point = |s: i64, value: f64| Point { at: Timestamp::from_ms(s * 1_000), value };
        let points = |a: f64, b: f64| vec![point(20, a), point(40, b)];
        all.iter().map(|(text, a, b)| Series { labels: labels(text), points: points(*a, *b) }).collect()
    }

    /// What is counted, as `release: class n, ...`.
    fn count(settings: Value, windows: &[Vec<Series>]) -> Result<Vec<String>, String> {
        let mut measure = Measure::read(&settings, Cohort::Canary, true).unwrap();
        let at = Timestamp::from_ms(30_000);
        let found = measure.count(windows, at, at, stale_after()).map_err(|missing| missing.0)?;
        Ok(found.into_iter().map(|found| shown(&found.portion)).collect())
    }

    fn shown(portion: &Portion) -> String {
        let release = portion.release.as_ref().map_or("-", Release::as_str);
        let classes: Vec<String> = portion.classes.iter().map(|(class, n)| format!("{class} {n}")).collect();
        format!("{release}: {}", classes.join(", "))
    }

    #[test]
    fn events_are_counted_by_class_and_release() {
        let picked = || json!({"events": {"total": "n", "bad": {"http_4xx": "{code=~'4..'}", "http_5xx": "{code=~'5..'}"}}, "release_label": "v"});
        let total = [("code=200 v=v1", 5.0, 15.0), ("code=503 v=v1", 0.0, 2.0), ("code=200 v=v2", 1.0, 4.0)];
        assert_eq!(count(picked(), &[window(&total)]), Ok(vec!["v1: http_5xx 2, ok 10".into(), "v2: ok 3".into()]));
        assert_eq!(count(picked(), &[window(&[("code=200", 5.0, 5.0)])]), Ok(vec!["-: ok 0".into()]), "nobody came");
        assert_eq!(
            count(picked(), &[window(&[("status=200", 5.0, 9.0)])]).unwrap_err(),
            "class `http_4xx`: no series of `total` has the label `code`"
        );
        assert_eq!(count(picked(), &[vec![]]).unwrap_err(), "`n` has no value that is new and finite");
        assert!(count(picked(), &[window(&[("code=200", f64::NAN, f64::NAN)])]).is_err());

        let own = || json!({"events": {"total": "n", "bad": {"payment": "p"}}});
        assert_eq!(
            count(own(), &[window(&[("", 0.0, 9.0)]), window(&[("", 1.0, 3.0)])]),
            Ok(vec!["-: ok 7, payment 2".into()])
        );
        assert_eq!(
            count(own(), &[window(&[("", 0.0, 1.0)]), window(&[("", 0.0, 3.0)])]),
            Ok(vec!["-: ok 0, payment 3".into()])
        );
        assert!(count(own(), &[window(&[("", 0.0, 9.0)]), vec![]]).is_err(), "a counter of its own that is not there");
        let mut born = window(&[("", 0.0, 2.0)]);
        born[0].points.remove(0);
        assert_eq!(count(own(), &[window(&[("", 0.0, 9.0)]), born]), Ok(vec!["-: ok 7, payment 2".into()]));
    }

    #[test]
    fn buckets_become_a_histogram() {
        let settings = || json!({"buckets": "d_bucket"});
        let latency = |all: &[(&str, f64, f64)]| {
            let mut measure = Measure::read(&settings(), Cohort::Canary, true).unwrap();
            let at = Timestamp::from_ms(30_000);
            let found = measure.count(&[window(all)], at, at, stale_after()).map_err(|missing| missing.0)?;
            assert!(found.iter().all(|found| found.portion.n() == found.portion.latency.n()));
            Ok::<_, String>(found[0].portion.latency.0.clone().into_iter().collect::<Vec<_>>())
        };
        let two = [
            ("le=0.1 i=a", 5.0, 8.0),
            ("le=0.25 i=a", 5.0, 9.0),
            ("le=+Inf i=a", 6.0, 11.0),
            ("le=0.1 i=b", 0.0, 1.0),
            ("le=+Inf i=b", 0.0, 1.0),
        ];
        assert_eq!(latency(&two), Ok(vec![(100, 4), (250, 1), (u64::MAX, 1)]));
        // After a restart every bucket began at zero.
        assert_eq!(latency(&[("le=0.1", 50.0, 1.0), ("le=+Inf", 60.0, 3.0)]), Ok(vec![(100, 1), (u64::MAX, 2)]));
        assert_eq!(latency(&two[..2]).unwrap_err(), "buckets without `le=\"+Inf\"`");
        assert_eq!(latency(&[("le=soon", 0.0, 1.0)]).unwrap_err(), "a series without a sound `le`");
        for (le, ms) in [
            ("0.005", Some(5)),
            ("0.0001", Some(1)),
            ("2.5", Some(2_500)),
            ("+Inf", Some(u64::MAX)),
            ("NaN", None),
            ("-1", None),
        ] {
            assert_eq!(edge_ms(le), ms, "{le}");
        }
    }

    #[test]
    fn numbers_are_all_there_or_missing() {
        let read = |values: &[(&str, &[(&str, f64)])]| {
            let names: BTreeMap<&str, &str> = values.iter().map(|(name, _)| (*name, "n")).collect();
            let measure =
                Measure::read(&json!({"numbers": names, "release_label": "v"}), Cohort::Canary, true).unwrap();
            let of = |values: &[(&str, f64)]| values.iter().map(|(text, value)| (labels(text), *value)).collect();
            let values = values.iter().map(|(name, values)| (name.parse().unwrap(), of(values))).collect();
            let found = measure.numbers(values, Timestamp::default()).map_err(|missing| missing.0)?;
            let value = |found: Found| {
                (found.portion.release.map(|r| r.to_string()), found.portion.numbers.values().map(|l| l.last).collect())
            };
            Ok::<Vec<(Option<String>, Vec<f64>)>, String>(found.into_iter().map(value).collect())
        };
        assert_eq!(read(&[("a", &[("", 1.0)]), ("b", &[("", 2.0)])]), Ok(vec![(None, vec![1.0, 2.0])]));
        assert_eq!(
            read(&[("a", &[("v=v1", 1.0), ("v=v2", 2.0)])]),
            Ok(vec![(Some("v1".into()), vec![1.0]), (Some("v2".into()), vec![2.0])])
        );
        assert_eq!(read(&[("a", &[("", 1.0)]), ("b", &[])]).unwrap_err(), "number `b` has no value");
        assert_eq!(read(&[("a", &[("", f64::NAN)])]).unwrap_err(), "number `a` is NaN");
        assert_eq!(read(&[("a", &[("", f64::INFINITY)])]).unwrap_err(), "number `a` is inf");
        assert!(read(&[("a", &[("i=1", 1.0), ("i=2", 1.0)])]).unwrap_err().contains("several values"));
        assert_eq!(
            read(&[("a", &[("v=v1", 1.0)]), ("b", &[("v=v2", 1.0)])]).unwrap_err(),
            "no release has all numbers"
        );
    }

    #[test]
    fn a_query_is_addressed_to_its_cohort() {
        let settings = json!({"buckets": "d{track='{cohort}'}", "cohorts": {"canary": "green"}});
        for (cohort, expected) in [(Cohort::Canary, "d{track='green'}"), (Cohort::Baseline, "d{track='baseline'}")] {
            assert_eq!(Measure::read(&settings, cohort, false).unwrap().selectors()[0].to_string(), expected);
        }
    }
}
