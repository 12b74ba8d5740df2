//! The kind `prometheus`: asks the HTTP API of a Prometheus server, once at the end of each slot.
//!
//! ```yaml
//! prometheus:
//!   server: main               # a name in the agent's own configuration
//!   events: { total: 'http_requests_total{track="{cohort}"}', bad: { http_5xx: '{code=~"5.."}' } }
//! ```
//!
//! `{region}` in a query stands for the agent's region, for one server may hold several.
//! The measures are those of `measure`; a number is any PromQL query with one value, or one per release.
//! How old a value is, is known of plain selectors; of other queries only by servers from 2.43 on.
//! Counters are read as they were scraped: a slot in which nothing was scraped has no sample.

use std::collections::BTreeMap;

use bellwether_protocol::id::Region;
use bellwether_protocol::plan::Flaw;
use bellwether_protocol::sample::Cohort;
use bellwether_protocol::time::{Span, Timestamp};
use bellwether_runtime::SecretRef;
use bellwether_runtime::web::{Reply, chain, reply};
use reqwest::Url;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::Value;

use crate::found::{Missing, Reading};
use crate::measure::{Measure, What};
use crate::selector::{Labels, NAME, Selector};
use crate::series::{Point, SERIES_MAX, Series};

/// A server, as the agent's own configuration names it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ServerConfig {
    /// Where its API is, without `/api/v1`.
    pub(crate) url: String,
    /// Sent as `Authorization: Bearer`.
    #[serde(default)]
    pub(crate) token: Option<SecretRef>,
}

/// A server, ready to be asked.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    query: Url,
    token: Option<SecretString>,
    client: reqwest::Client,
}

/// One SLI that a server measures.
#[derive(Debug)]
pub(crate) struct Prometheus {
    /// Of its server.
    pub(crate) name: String,
    server: Server,
    measure: Measure,
}

/// Longest answer that is read, in bytes.
const ANSWER_LEN_MAX: usize = 8 * 1024 * 1024;
/// How much of an error is repeated, in characters.
const ERROR_LEN_MAX: usize = 200;

pub(crate) fn flaws(settings: &Value) -> Vec<Flaw> {
    read(settings, Cohort::Canary).err().unwrap_or_default()
}

fn read(settings: &Value, cohort: Cohort) -> Result<(String, Measure), Vec<Flaw>> {
    let (server, rest) = crate::split(settings, "server", "name a server of the agent's `metric.prometheus`")?;
    Ok((server, Measure::read(&rest, cohort, false)?))
}

/// The settings with the region's name for each `{region}`.
fn within(region: &Region, settings: &Value) -> Value {
    match settings {
        Value::String(text) => Value::String(text.replace("{region}", region.as_str())),
        Value::Array(all) => all.iter().map(|one| within(region, one)).collect(),
        Value::Object(all) => all.iter().map(|(key, one)| (key.clone(), within(region, one))).collect(),
        other => other.clone(),
    }
}

impl Prometheus {
    /// Reads settings for one cohort, as they read in the agent's own region.
    pub(crate) fn read(
        settings: &Value,
        cohort: Cohort,
        region: &Region,
        servers: &BTreeMap<String, Server>,
    ) -> Result<Self, String> {
        let (name, measure) = read(&within(region, settings), cohort).map_err(|flaws| crate::told(&flaws))?;
        let server =
            servers.get(&name).ok_or_else(|| format!("`{name}` is not in this agent's `metric.prometheus`"))?;
        Ok(Self { server: server.clone(), name, measure })
    }

    /// Reads the slot from `from` to `to`, all queries within `timeout`.
    pub(crate) async fn look(&mut self, from: Timestamp, to: Timestamp, timeout: Span) -> Reading {
        let asked = tokio::time::timeout(timeout.to_std(), self.ask(from, to));
        asked.await.unwrap_or_else(|_| Err(Missing(format!("no answer within {timeout}"))))
    }

    async fn ask(&mut self, from: Timestamp, to: Timestamp) -> Reading {
        if let What::Numbers(queries) = &self.measure.what {
            let mut values = BTreeMap::new();
            for (name, query) in queries {
                values.insert(name.clone(), self.server.values(query, to, self.measure.stale_after).await?);
            }
            return self.measure.numbers(values, from);
        }
        let window = to.since(from).as_ms().saturating_add(self.measure.stale_after.as_ms());
        let mut windows = Vec::new();
        for selector in self.measure.selectors() {
            windows.push(self.server.ask(&format!("{selector}[{window}ms]"), to, self.measure.stale_after).await?);
        }
        // What was scraped before the slot says where counters stood; it is no news of the slot.
        let is_news = |series: &Series| series.points.last().is_some_and(|point| point.at > from);
        for window in &mut windows {
            window.retain(is_news);
        }
        self.measure.count(&windows, from, from, self.measure.stale_after)
    }
}

impl Server {
    /// Makes it ready; the error says what in its configuration is wrong.
    pub(crate) fn new(config: &ServerConfig, client: &reqwest::Client) -> Result<Self, String> {
        let query = Url::parse(&format!("{}/api/v1/query", config.url.trim_end_matches('/')));
        let query = query.map_err(|error| format!("url: {error}"))?;
        let is_sound =
            matches!(query.scheme(), "http" | "https") && query.password().is_none() && query.username().is_empty();
        if !is_sound {
            return Err("url: write http:// or https://, and no password in it".to_owned());
        }
        let token = config.token.as_ref().map(SecretRef::resolve).transpose().map_err(|error| error.to_string())?;
        Ok(Self { query, token, client: client.clone() })
    }

    async fn values(&self, query: &str, at: Timestamp, stale_after: Span) -> Result<Vec<(Labels, f64)>, Missing> {
        let values = last(self.ask(query, at, stale_after).await?);
        if Selector::parse(query).is_err() {
            return Ok(values);
        }
        // Servers before 2.43 show what is up to five minutes old as if it were new. Of a plain selector
        // they tell when it was measured.
        let times = last(self.ask(&format!("timestamp({query})"), at, stale_after).await?);
        let oldest = as_seconds(at - stale_after);
        let mut fresh: Vec<Labels> =
            times.into_iter().filter(|(_, time)| *time >= oldest).map(|(labels, _)| labels).collect();
        fresh.sort();
        let nameless = |labels: &Labels| {
            labels.iter().filter(|(name, _)| *name != NAME).map(|(a, b)| (a.clone(), b.clone())).collect()
        };
        Ok(values.into_iter().filter(|(labels, _)| fresh.binary_search(&nameless(labels)).is_ok()).collect())
    }

    /// The series that `query` selects, as of `at`; what is older than `stale_after` is none.
    async fn ask(&self, query: &str, at: Timestamp, stale_after: Span) -> Result<Vec<Series>, Missing> {
        let mut form = self.query.clone();
        form.query_pairs_mut()
            .append_pair("query", query)
            .append_pair("time", &seconds(at.as_ms().unsigned_abs()))
            // Servers before 2.43 do not know it.
            .append_pair("lookback_delta", &seconds(stale_after.as_ms()));
        let mut request =
            self.client.post(self.query.clone()).header(CONTENT_TYPE, "application/x-www-form-urlencoded");
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, format!("Bearer {}", token.expose_secret()));
        }
        let request = request.body(form.query().unwrap_or_default().to_owned());
        let Reply { status, body, .. } =
            reply(request, ANSWER_LEN_MAX).await.map_err(|error| Missing(chain(&error)))?;
        let answer: Answer = serde_json::from_slice(&body)
            .map_err(|_| Missing(format!("status {status}, and no answer of Prometheus")))?;
        match answer {
            Answer { data: Some(data), .. } if (200..300).contains(&status) => data.series(),
            Answer { error_type, error, .. } => {
                let error: String = error.unwrap_or_default().chars().take(ERROR_LEN_MAX).collect();
                Err(Missing(format!("status {status}, {}: {error}", error_type.unwrap_or_default())))
            }
        }
    }
}

fn last(series: Vec<Series>) -> Vec<(Labels, f64)> {
    series.into_iter().filter_map(|series| Some((series.labels, series.points.last()?.value))).collect()
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds since 1970 fit into a float until the year 287396")]
fn as_seconds(at: Timestamp) -> f64 {
    at.as_ms() as f64 / 1e3
}

/// Milliseconds as seconds, exactly.
fn seconds(ms: u64) -> String {
    format!("{}.{:03}", ms / 1_000, ms % 1_000)
}

#[derive(Debug, Deserialize)]
struct Answer {
    data: Option<Data>,
    #[serde(rename = "errorType")]
    error_type: Option<String>,
    error: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "resultType", content = "result", rename_all = "lowercase")]
enum Data {
    Matrix(Vec<Row>),
    Scalar(Pair),
    String(serde::de::IgnoredAny),
    Vector(Vec<Row>),
}

/// One series: its `values` in a matrix, its `value` in a vector. Native histograms come without either.
#[derive(Debug, Deserialize)]
struct Row {
    metric: Labels,
    value: Option<Pair>,
    #[serde(default)]
    values: Vec<Pair>,
}

/// Seconds since the epoch, and a number as text: `NaN`, `+Inf` and `-Inf` are some.
#[derive(Debug, Deserialize)]
struct Pair(f64, String);

impl Data {
    fn series(self) -> Result<Vec<Series>, Missing> {
        let rows = match self {
            Self::Matrix(rows) | Self::Vector(rows) => rows,
            Self::Scalar(value) => vec![Row { metric: Labels::new(), value: Some(value), values: Vec::new() }],
            Self::String(_) => return Err(Missing("the query gives a text".to_owned())),
        };
        if rows.len() > SERIES_MAX {
            return Err(Missing(format!("over {SERIES_MAX} series")));
        }
        Ok(rows.into_iter().map(Row::series).collect())
    }
}

impl Row {
    fn series(self) -> Series {
        // What is no number is as good as NaN: it is never one.
        #[expect(clippy::cast_possible_truncation, reason = "`as` saturates, and no year needs more")]
        let point = |Pair(at, value): Pair| Point {
            at: Timestamp::from_ms((at * 1e3).round() as i64),
            value: value.parse().unwrap_or(f64::NAN),
        };
        Series { labels: self.metric, points: self.values.into_iter().chain(self.value).map(point).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_and_what_is_no_number_is_none() {
        let values = |text: &str| -> Result<Vec<f64>, String> {
            let answer: Answer = serde_json::from_str(text).map_err(|error| error.to_string())?;
            let series = answer.data.ok_or("no data")?.series().map_err(|missing| missing.0)?;
            Ok(series.into_iter().flat_map(|series| series.points).map(|point| point.value).collect())
        };
        let of = |kind: &str, result: &str| {
            values(&format!(r#"{{"status":"success","data":{{"resultType":"{kind}","result":{result}}}}}"#))
        };
        assert_eq!(of("vector", "[]"), Ok(vec![]));
        assert_eq!(of("vector", r#"[{"metric":{"a":"b"},"value":[1.5,"42"]}]"#), Ok(vec![42.0]));
        assert_eq!(of("scalar", r#"[1.5,"+Inf"]"#), Ok(vec![f64::INFINITY]));
        assert_eq!(of("matrix", r#"[{"metric":{},"values":[[1,"1"],[2,"-Inf"]]}]"#), Ok(vec![1.0, f64::NEG_INFINITY]));
        assert!(of("vector", r#"[{"metric":{},"value":[1,"NaN"]}]"#).is_ok_and(|values| values[0].is_nan()));
        assert!(of("vector", r#"[{"metric":{},"value":[1,"soon"]}]"#).is_ok_and(|values| values[0].is_nan()));
        assert!(of("string", r#"[1,"x"]"#).is_err());
        assert!(values(r#"{"status":"error","errorType":"bad_data","error":"parse error"}"#).is_err());
    }

    #[test]
    fn a_query_is_addressed_to_its_region() {
        let settings = serde_json::json!({"server": "main", "numbers": {"used": "sum(n{r='{region}'})"}, "n": [1]});
        let expected = serde_json::json!({"server": "main", "numbers": {"used": "sum(n{r='sjc'})"}, "n": [1]});
        assert_eq!(within(&"sjc".parse().unwrap(), &settings), expected);
    }

    #[test]
    fn settings_are_checked_with_their_place() {
        let check = |settings: Value, expected: &[&str]| {
            let found: Vec<String> =
                flaws(&settings).into_iter().map(|f| format!("{} {}", f.pointer, f.message)).collect();
            assert!(
                found.len() == expected.len() && found.iter().zip(expected).all(|(f, e)| f.contains(e)),
                "{found:?} in {settings}"
            );
        };
        let events =
            serde_json::json!({"total": "n{c='{cohort}'}", "bad": {"http_5xx": "{code=~'5..'}", "payment": "p"}});
        check(serde_json::json!({"server": "main", "events": events}), &[]);
        check(
            serde_json::json!({"server": "main", "numbers": {"memory": "sum(a) / sum(b)"}, "stale_after": "1m"}),
            &[],
        );
        check(serde_json::json!({"server": "main", "buckets": "d_bucket", "release_label": "version"}), &[]);
        check(serde_json::json!({"buckets": "b"}), &["`server` is missing"]);
        check(serde_json::json!({"server": "main"}), &["one measure is needed"]);
        check(serde_json::json!({"server": "main", "buckets": "b", "events": events}), &["one measure is needed"]);
        check(serde_json::json!({"server": "main", "bucket": "b"}), &["unknown field `bucket`"]);
        check(serde_json::json!({"server": "main", "buckets": "rate(b[5m])"}), &["/buckets expected a plain selector"]);
        let sound = serde_json::json!({"total": "a", "bad": {"ok": "b"}});
        check(serde_json::json!({"server": "main", "events": sound}), &["/events/bad/ok"]);
        check(serde_json::json!({"server": "main", "buckets": "b", "stale_after": "1d"}), &["/stale_after"]);
        let events = serde_json::json!({"total": "a b", "bad": {"x": "{"}});
        check(serde_json::json!({"server": "main", "events": events}), &["/events/total", "/events/bad/x"]);
    }
}
