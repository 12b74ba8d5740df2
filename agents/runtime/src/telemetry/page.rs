//! The figures of this process as Prometheus reads them: the text format, version 0.0.4, from
//! OpenTelemetry's model by its own rules of naming.

use std::fmt::{Display, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::metrics::Temporality;
use opentelemetry_sdk::metrics::data::{AggregatedMetrics, Metric, MetricData, ResourceMetrics};
use opentelemetry_sdk::metrics::exporter::PushMetricExporter;

/// The page as it was last written. Cheap to clone.
#[derive(Debug, Default, Clone)]
pub(super) struct Page(Arc<Mutex<String>>);

impl Page {
    pub(super) fn text(&self) -> String {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl PushMetricExporter for Page {
    async fn export(&self, metrics: &ResourceMetrics) -> OTelSdkResult {
        let mut text = String::new();
        for metric in metrics.scope_metrics().flat_map(|scope| scope.metrics()) {
            match metric.data() {
                AggregatedMetrics::F64(data) => write(&mut text, metric, data),
                AggregatedMetrics::I64(data) => write(&mut text, metric, data),
                AggregatedMetrics::U64(data) => write(&mut text, metric, data),
            }
        }
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = text;
        Ok(())
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }

    fn temporality(&self) -> Temporality {
        Temporality::Cumulative
    }
}

fn write<T: Display + Copy>(text: &mut String, metric: &Metric, data: &MetricData<T>) {
    let kind = match data {
        MetricData::Gauge(_) => "gauge",
        MetricData::Sum(sum) if sum.is_monotonic() => "counter",
        MetricData::Sum(_) => "gauge",
        MetricData::Histogram(_) => "histogram",
        // None of ours is one.
        MetricData::ExponentialHistogram(_) => return,
    };
    let name = name(metric.name(), metric.unit(), kind == "counter");
    let _ = writeln!(text, "# HELP {name} {}", escaped(metric.description()));
    let _ = writeln!(text, "# TYPE {name} {kind}");
    let mut line = |suffix: &str, labels: String, value: &dyn Display| {
        let _ = writeln!(text, "{name}{suffix}{labels} {value}");
    };
    match data {
        MetricData::Gauge(gauge) => {
            gauge.data_points().for_each(|point| line("", labels(point.attributes(), None), &point.value()));
        }
        MetricData::Sum(sum) => {
            sum.data_points().for_each(|point| line("", labels(point.attributes(), None), &point.value()));
        }
        MetricData::Histogram(histogram) => {
            for point in histogram.data_points() {
                let edges = point.bounds().map(|edge| edge.to_string()).chain(["+Inf".to_owned()]);
                let mut below = 0;
                for (edge, count) in edges.zip(point.bucket_counts()) {
                    below += count;
                    line("_bucket", labels(point.attributes(), Some(&edge)), &below);
                }
                line("_sum", labels(point.attributes(), None), &point.sum());
                line("_count", labels(point.attributes(), None), &point.count());
            }
        }
        MetricData::ExponentialHistogram(_) => {}
    }
}

/// The name that Prometheus knows it by: `bellwether.relay.lag` in `s` is `bellwether_relay_lag_seconds`.
fn name(name: &str, unit: &str, is_counter: bool) -> String {
    let unit = match unit {
        "s" => "_seconds",
        "By" => "_bytes",
        _ => "",
    };
    format!("{}{unit}{}", name.replace(['.', '-'], "_"), if is_counter { "_total" } else { "" })
}

fn labels<'a>(attributes: impl Iterator<Item = &'a KeyValue>, edge: Option<&str>) -> String {
    let own = attributes.map(|pair| (pair.key.as_str().replace(['.', '-'], "_"), pair.value.to_string()));
    let all = own.chain(edge.map(|edge| ("le".to_owned(), edge.to_owned())));
    let all: Vec<String> = all.map(|(key, value)| format!("{key}=\"{}\"", escaped(&value))).collect();
    if all.is_empty() { String::new() } else { format!("{{{}}}", all.join(",")) }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use opentelemetry::metrics::MeterProvider;
    use opentelemetry_sdk::metrics::{PeriodicReader, SdkMeterProvider};

    use super::*;

    #[test]
    fn figures_are_written_as_prometheus_reads_them() {
        let page = Page::default();
        let reader = PeriodicReader::builder(page.clone()).with_interval(Duration::from_secs(3_600)).build();
        let provider = SdkMeterProvider::builder().with_reader(reader).build();
        let meter = provider.meter("test");
        let label = |value: &str| [KeyValue::new("error.type", value.to_owned())];
        meter.u64_counter("ticks.lost").with_description("Lost").build().add(2, &label("a\"b\\c\nd"));
        let lag = meter.f64_histogram("relay.lag").with_unit("s").with_boundaries(vec![0.5, 1.0]).build();
        lag.record(0.25, &[]);
        lag.record(3.0, &[]);
        meter.i64_gauge("spool.size").with_unit("By").build().record(-7, &[]);
        provider.force_flush().expect("written");
        for line in [
            "# HELP ticks_lost_total Lost\n# TYPE ticks_lost_total counter\nticks_lost_total{error_type=\"a\\\"b\\\\c\\nd\"} 2\n",
            "# TYPE relay_lag_seconds histogram\nrelay_lag_seconds_bucket{le=\"0.5\"} 1\nrelay_lag_seconds_bucket{le=\"1\"} 1\nrelay_lag_seconds_bucket{le=\"+Inf\"} 2\nrelay_lag_seconds_sum 3.25\nrelay_lag_seconds_count 2\n",
            "# TYPE spool_size_bytes gauge\nspool_size_bytes -7\n",
        ] {
            assert!(page.text().contains(line), "{line} is not in\n{}", page.text());
        }
    }
}
