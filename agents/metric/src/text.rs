//! The kind `text`: Prometheus' text exposition, scraped from the service itself.
//!
//! ```yaml
//! text: { path: /metrics, events: { total: http_requests_total, bad: { http_5xx: '{code=~"5.."}' } } }
//! ```
//!
//! The measures are those of `measure`; a number is a selector of one series. An exposition that cannot
//! be read as a whole is not read at all. Times that it names itself are not looked at.

use std::collections::BTreeMap;
use std::sync::Arc;

use bellwether_protocol::assignment::Look;
use bellwether_protocol::plan::Flaw;
use bellwether_protocol::sample::Cohort;
use bellwether_protocol::time::{Span, Timestamp};
use bellwether_runtime::web::{Dialer, Flaws};
use serde_json::Value;

use crate::endpoint::Endpoint;
use crate::found::{Missing, Reading};
use crate::measure::{Measure, What};
use crate::selector::{Labels, NAME, Rest, Selector};
use crate::series::{Point, SERIES_MAX, Series};

/// One endpoint, and what of it is measured.
pub(crate) struct Text {
    endpoint: Endpoint,
    measure: Measure,
    /// Counters that were not read for so long begin anew.
    gap_max: Span,
}

pub(crate) fn flaws(settings: &Value) -> Vec<Flaw> {
    read(settings, Cohort::Canary).err().unwrap_or_default()
}

fn read(settings: &Value, cohort: Cohort) -> Result<(String, Measure), Vec<Flaw>> {
    let (path, rest) = crate::split(settings, "path", "write for example `path: /metrics`")?;
    let mut flaws = Flaws::default();
    flaws.path(Some(&Value::String(path.clone())));
    flaws.none_in(())?;
    Ok((path, Measure::read(&rest, cohort, true)?))
}

impl Text {
    /// Reads settings, and checks that the endpoint may be read.
    pub(crate) fn read(look: &Look, dialer: &Arc<Dialer>) -> Result<Self, String> {
        let (path, measure) = read(&look.settings, look.cohort).map_err(|flaws| crate::told(&flaws))?;
        // Two readings that failed are bridged, whatever the interval.
        let gap_max = measure.stale_after.max(look.every.times(3));
        Ok(Self { endpoint: Endpoint::new(look, &path, dialer)?, measure, gap_max })
    }

    /// Which endpoint.
    pub(crate) fn name(&self) -> String {
        self.endpoint.name()
    }

    /// Scrapes once.
    pub(crate) async fn look(&mut self, now: Timestamp) -> Reading {
        let (headers, body) = self.endpoint.get().await?;
        let text = String::from_utf8(body).map_err(|_| Missing("the body is not text".to_owned()))?;
        let mark = self.endpoint.target.fingerprint.as_ref();
        let release = mark.and_then(|mark| mark.read(&headers, None));
        let mut found = self.measure(&text, now)?;
        // What no label names was answered by the release that answered the scrape.
        for found in &mut found {
            found.portion.release = found.portion.release.take().or_else(|| release.clone());
        }
        Ok(found)
    }

    fn measure(&mut self, text: &str, now: Timestamp) -> Reading {
        if let What::Numbers(queries) = &self.measure.what {
            let mut values = BTreeMap::new();
            for (name, query) in queries {
                let selector = Selector::parse(query).map_err(Missing)?;
                let found = select(text, &[selector], now)?.into_iter().flatten();
                let last = found.filter_map(|series| Some((series.labels, series.points.last()?.value)));
                values.insert(name.clone(), last.collect());
            }
            return self.measure.numbers(values, now);
        }
        let windows = select(text, &self.measure.selectors(), now)?;
        // Nothing was read before the first scrape.
        self.measure.count(&windows, Timestamp::default(), now, self.gap_max)
    }
}

/// The series of each selector, in order.
fn select(text: &str, selectors: &[Selector], now: Timestamp) -> Result<Vec<Vec<Series>>, Missing> {
    let mut selected = vec![Vec::new(); selectors.len()];
    let mut count = 0;
    for (place, line) in text.lines().enumerate() {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        let (labels, value) = sample(line).map_err(|why| Missing(format!("line {}: {why}", place + 1)))?;
        for (selector, series) in selectors.iter().zip(&mut selected) {
            if selector.matches(&labels) {
                count += 1;
                series.push(Series { labels: labels.clone(), points: vec![Point { at: now, value }] });
            }
        }
        if count > SERIES_MAX {
            return Err(Missing(format!("over {SERIES_MAX} series are selected")));
        }
    }
    Ok(selected)
}

/// One line: a name, perhaps labels, and a value. What follows, such as a time, is not looked at.
fn sample(line: &str) -> Result<(Labels, f64), String> {
    let mut rest = Rest(line);
    let mut labels = Labels::new();
    let name = rest.word(true).ok_or_else(|| rest.wrong("the name of a metric"))?;
    labels.insert(NAME.to_owned(), name);
    rest.braces(|rest| {
        let label = rest.word(false).ok_or_else(|| rest.wrong("the name of a label"))?;
        if !rest.takes("=") {
            return Err(rest.wrong("`=`"));
        }
        labels.insert(label, rest.quoted()?);
        Ok(())
    })?;
    let value = rest.0.split_whitespace().next().and_then(|value| value.parse().ok());
    value.map(|value| (labels, value)).ok_or_else(|| rest.wrong("a value"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn at(s: i64) -> Timestamp {
        Timestamp::from_ms(s * 1_000)
    }

    fn text(settings: Value) -> Text {
        let allow = serde_json::from_value(json!(["127.0.0.1"])).unwrap();
        let dialer = Arc::new(Dialer::new(allow, bellwether_runtime::tls()));
        let look = json!({
            "sli": "errors", "cohort": "canary", "url": "http://127.0.0.1:1", "kind": "text", "settings": settings,
            "every": "5m", "timeout": "2s", "headers": {}, "fingerprint": null, "edges_ms": [],
        });
        Text::read(&serde_json::from_value(look).unwrap(), &dialer).unwrap()
    }

    /// Scrapes texts, five minutes apart; what each came to, as `class n` or `number value`.
    fn scrape(settings: Value, texts: &[&str]) -> Vec<Result<String, String>> {
        let mut source = text(settings);
        let shown = |reading: Reading| {
            let found = reading.map_err(|missing| missing.0)?;
            let portion = &found[0].portion;
            let classes = portion.classes.iter().map(|(name, n)| format!("{name} {n}"));
            let numbers = portion.numbers.iter().map(|(name, level)| format!("{name} {}", level.last));
            Ok(classes.chain(numbers).collect::<Vec<_>>().join(", "))
        };
        texts.iter().zip(1..).map(|(text, n)| shown(source.measure(text, at(300 * n)))).collect()
    }

    #[test]
    fn lines_are_read_strictly() {
        for (line, expected) in [
            ("up 1", Some(("up", 1.0))),
            (r#"n{a="b",c="d\"\\\n"} 1.5e3 1395066363000"#, Some(("n", 1_500.0))),
            (r#"n_bucket{le="+Inf",} 7 # {trace_id="x"} 0.5"#, Some(("n_bucket", 7.0))),
            ("n{} +Inf", Some(("n", f64::INFINITY))),
            ("n", None),
            ("n{a=b} 1", None),
            (r#"n{a="b" 1"#, None),
            (r#"n{a="b"} one"#, None),
            ("1n 1", None),
            ("<html>", None),
        ] {
            let read = sample(line).ok();
            let read = read.as_ref().map(|(labels, value)| (labels[NAME].as_str(), *value));
            assert_eq!(read, expected, "{line}");
        }
    }

    #[test]
    fn counters_are_counted_between_scrapes_and_over_restarts() {
        let settings = json!({"path": "/metrics", "events": {"total": "n", "bad": {"http_5xx": "{code=~'5..'}"}}});
        let page = |good: u64, bad: &str| format!("# TYPE n counter\nn{{code=\"200\"}} {good}\n{bad}\n");
        let pages = [
            page(10, ""),
            page(15, ""),
            page(15, "n{code=\"503\"} 2"),
            page(3, "n{code=\"503\"} 1"),
            "n 1 2 3 oops{".into(),
            "<html>".into(),
        ];
        let texts: Vec<&str> = pages.iter().map(String::as_str).collect();
        let seen = scrape(settings, &texts);
        assert_eq!(
            seen[0].clone().unwrap_err(),
            "`n` has no value that is new and finite",
            "one scrape tells no growth"
        );
        assert_eq!(
            seen[1..4],
            [Ok("ok 5".to_owned()), Ok("http_5xx 2, ok 0".to_owned()), Ok("http_5xx 1, ok 3".to_owned())]
        );
        assert!(
            seen[4].as_ref().is_err_and(|why| why.contains("label `code`") || why.contains("no value")),
            "{seen:?}"
        );
        assert!(seen[5].as_ref().is_err_and(|why| why.contains("line 1")), "{seen:?}");
    }

    #[test]
    fn numbers_are_one_series_each() {
        let settings = || json!({"path": "/metrics", "numbers": {"pool": "pool{name='db'}"}});
        let seen = scrape(settings(), &["pool{name=\"db\"} 12\npool{name=\"x\"} 3\n", "pool{name=\"db\"} NaN\n", ""]);
        assert_eq!(seen[0], Ok("ok 1, pool 12".to_owned()));
        assert_eq!(seen[1], Err("number `pool` is NaN".to_owned()));
        assert_eq!(seen[2], Err("number `pool` has no value".to_owned()));
        assert!(flaws(&settings()).is_empty());
        assert_eq!(flaws(&json!({"path": "metrics", "buckets": "b"})).len(), 1);
        assert_eq!(flaws(&json!({"path": "/metrics", "numbers": {"a": "sum(b)"}})).len(), 1);
    }
}
