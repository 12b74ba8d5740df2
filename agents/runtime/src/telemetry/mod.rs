//! Logs to stderr; traces and figures to an OpenTelemetry collector where one is named; figures and
//! health to whoever asks where an address is given.
//!
//! `BELLWETHER_LOG` filters (`info` for our own crates, `warn` for others by default),
//! `BELLWETHER_LOG_FORMAT=json` writes one JSON object per line. `BELLWETHER_LISTEN` is the address of
//! `/metrics` and `/healthz`. The rest is set by OpenTelemetry's own variables, read in `settings`.
//! A collector that is away never slows anything down.

mod listen;
mod page;
mod settings;
mod spans;

use std::io::IsTerminal;
use std::time::Duration;

use opentelemetry::{KeyValue, global};
use opentelemetry_otlp::WithHttpConfig;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::metrics::data::ResourceMetrics;
use opentelemetry_sdk::metrics::exporter::PushMetricExporter;
use opentelemetry_sdk::metrics::{PeriodicReader, SdkMeterProvider, Temporality};
use opentelemetry_sdk::trace::SdkTracerProvider;
use tokio::runtime::Handle;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use page::Page;
use settings::Settings;

/// Keeps telemetry going; the last spans and figures are sent when it is dropped.
#[derive(Debug)]
pub struct Telemetry {
    traces: Option<SdkTracerProvider>,
    metrics: Option<SdkMeterProvider>,
    listener: Option<tokio::task::JoinHandle<()>>,
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        self.traces.as_ref().map(|traces| traces.shutdown_with_timeout(FLUSH_WITHIN));
        self.metrics.as_ref().map(|metrics| metrics.shutdown_with_timeout(FLUSH_WITHIN));
        self.listener.as_ref().map(tokio::task::JoinHandle::abort);
    }
}

/// How long the end of the process waits for the last spans, and for the last figures.
const FLUSH_WITHIN: Duration = Duration::from_secs(2);
/// How old what `/metrics` shows may be.
const PAGE_EVERY: Duration = Duration::from_secs(1);

/// Starts logs, traces and figures of the process `service_name`. Harmless when called twice. Must be
/// called within the async runtime, and before anything is counted.
pub fn init(service_name: &str) -> Telemetry {
    write_logs();
    let settings = Settings::read(service_name, |name| std::env::var(name).ok());
    settings.complaints.iter().for_each(|complaint| tracing::warn!("{complaint}"));
    start(&settings).unwrap_or_else(|why| {
        tracing::warn!(why, "traces and figures are not sent");
        Telemetry { traces: None, metrics: None, listener: None }
    })
}

fn write_logs() {
    let filter = EnvFilter::try_from_env("BELLWETHER_LOG").unwrap_or_else(|_| EnvFilter::new(default_filter()));
    let is_json = std::env::var("BELLWETHER_LOG_FORMAT").is_ok_and(|format| format == "json");
    let plain = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false);
    let lines = if is_json {
        plain.json().flatten_event(true).boxed()
    } else {
        plain.with_ansi(std::io::stderr().is_terminal()).boxed()
    };
    let _ = tracing_subscriber::registry().with(filter).with(lines).try_init();
}

/// The crates of the house, whose `info` is a rollout's life in a dozen lines.
const OURS: [&str; 13] = [
    "alert",
    "bus",
    "coordinator",
    "decide",
    "flag",
    "load",
    "metric",
    "operator",
    "probe",
    "protocol",
    "rollback",
    "runtime",
    "trigger",
];

fn default_filter() -> String {
    let ours = OURS.iter().map(|name| format!(",bellwether_{name}=info"));
    format!("warn,bellwether=info{}", ours.collect::<String>())
}

fn start(settings: &Settings) -> Result<Telemetry, String> {
    let handle = Handle::try_current().map_err(|error| error.to_string())?;
    let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    let resource = Resource::builder().with_service_name(settings.service_name.clone()).with_attribute(version).build();
    let page = settings.listen.map(|_| Page::default());
    let metrics = metrics(settings, &handle, resource.clone(), page.as_ref())?;
    // First, because what is lost of traces is itself counted.
    if let Some(metrics) = &metrics {
        global::set_meter_provider(metrics.clone());
    }
    let traces = settings.traces.then(|| traces(&handle, resource)).transpose()?;
    if let Some(traces) = &traces {
        global::set_tracer_provider(traces.clone());
    }
    let listener = settings.listen.zip(page).map(|(address, page)| handle.spawn(listen::serve(address, page)));
    Ok(Telemetry { traces, metrics, listener })
}

fn traces(handle: &Handle, resource: Resource) -> Result<SdkTracerProvider, String> {
    let client = crate::http().map_err(|error| error.to_string())?;
    let exporter = opentelemetry_otlp::SpanExporter::builder().with_http().with_http_client(client).build();
    let spans = spans::bounded(exporter.map_err(|error| error.to_string())?, handle.clone());
    Ok(SdkTracerProvider::builder().with_span_processor(spans).with_resource(resource).build())
}

fn metrics(
    settings: &Settings,
    handle: &Handle,
    resource: Resource,
    page: Option<&Page>,
) -> Result<Option<SdkMeterProvider>, String> {
    if !settings.metrics && page.is_none() {
        return Ok(None);
    }
    let mut provider = SdkMeterProvider::builder().with_resource(resource);
    if let Some(page) = page {
        provider = provider.with_reader(PeriodicReader::builder(page.clone()).with_interval(PAGE_EVERY).build());
    }
    if settings.metrics {
        let client = crate::http().map_err(|error| error.to_string())?;
        let exporter = opentelemetry_otlp::MetricExporter::builder().with_http().with_http_client(client).build();
        let inner = exporter.map_err(|error| error.to_string())?;
        let exporter = FiguresOnRuntime { inner, handle: handle.clone() };
        provider = provider.with_reader(PeriodicReader::builder(exporter).build());
    }
    Ok(Some(provider.build()))
}

/// Sends figures on our own async runtime: the reader's thread has none, and our HTTP client needs one.
struct FiguresOnRuntime {
    inner: opentelemetry_otlp::MetricExporter,
    handle: Handle,
}

impl PushMetricExporter for FiguresOnRuntime {
    async fn export(&self, metrics: &ResourceMetrics) -> OTelSdkResult {
        self.handle.block_on(self.inner.export(metrics))
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn temporality(&self) -> Temporality {
        self.inner.temporality()
    }
}
