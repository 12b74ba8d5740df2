//! Logs to stderr, and traces to an OpenTelemetry collector where one is named.
//!
//! `BELLWETHER_LOG` filters (`info` for our own crates, `warn` for others by default),
//! `BELLWETHER_LOG_FORMAT=json` writes one JSON object per line. Traces are sent only when
//! `OTEL_EXPORTER_OTLP_ENDPOINT` is set; a collector that is away never slows anything down.

use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Duration;

use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::WithHttpConfig;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData, SpanExporter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

/// Keeps telemetry going; the last spans are sent when it is dropped.
#[derive(Debug)]
pub struct Telemetry {
    provider: Option<SdkTracerProvider>,
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        if let Some(provider) = &self.provider {
            let _ = provider.shutdown_with_timeout(FLUSH_WITHIN);
        }
    }
}

/// How long the end of the process waits for the last spans.
const FLUSH_WITHIN: Duration = Duration::from_secs(2);

/// Starts logs and traces of the process `service_name`. Harmless when called twice. Must be called
/// within the async runtime for traces to be sent.
pub fn init(service_name: &str) -> Telemetry {
    let filter = EnvFilter::try_from_env("BELLWETHER_LOG").unwrap_or_else(|_| EnvFilter::new(default_filter()));
    let is_json = std::env::var("BELLWETHER_LOG_FORMAT").is_ok_and(|format| format == "json");
    let plain = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false);
    let lines = if is_json {
        plain.json().flatten_event(true).boxed()
    } else {
        plain.with_ansi(std::io::stderr().is_terminal()).boxed()
    };
    let (provider, why_not) = match provider(service_name) {
        Ok(provider) => (provider, None),
        Err(why) => (None, Some(why)),
    };
    let spans =
        provider.as_ref().map(|provider| tracing_opentelemetry::layer().with_tracer(provider.tracer("bellwether")));
    let _ = tracing_subscriber::registry().with(filter).with(lines).with(spans).try_init();
    if let Some(why) = why_not {
        tracing::warn!(why, "traces are not sent");
    }
    Telemetry { provider }
}

/// The crates of the house, whose `info` is a rollout's life in a dozen lines.
const OURS: [&str; 11] =
    ["alert", "bus", "coordinator", "decide", "flag", "metric", "operator", "probe", "protocol", "rollback", "runtime"];

fn default_filter() -> String {
    let ours = OURS.iter().map(|name| format!(",bellwether_{name}=info"));
    format!("warn,bellwether=info{}", ours.collect::<String>())
}

fn provider(service_name: &str) -> Result<Option<SdkTracerProvider>, String> {
    if std::env::var_os("OTEL_EXPORTER_OTLP_ENDPOINT").is_none_or(|endpoint| endpoint.is_empty()) {
        return Ok(None);
    }
    let handle = tokio::runtime::Handle::try_current().map_err(|error| error.to_string())?;
    let client = crate::http().map_err(|error| error.to_string())?;
    let exporter = opentelemetry_otlp::SpanExporter::builder().with_http().with_http_client(client).build();
    let inner = Arc::new(exporter.map_err(|error| error.to_string())?);
    let resource = Resource::builder().with_service_name(service_name.to_owned()).build();
    let exporter = OnRuntime { inner, handle };
    Ok(Some(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build()))
}

/// Sends spans on our own async runtime: the batch thread has none, and our HTTP client needs one.
#[derive(Debug)]
struct OnRuntime {
    inner: Arc<opentelemetry_otlp::SpanExporter>,
    handle: tokio::runtime::Handle,
}

impl SpanExporter for OnRuntime {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let inner = Arc::clone(&self.inner);
        let sent = self.handle.spawn(async move { inner.export(batch).await }).await;
        sent.unwrap_or_else(|error| Err(OTelSdkError::InternalFailure(error.to_string())))
    }

    fn set_resource(&mut self, resource: &Resource) {
        // Called once, before the first export holds a second reference.
        if let Some(inner) = Arc::get_mut(&mut self.inner) {
            inner.set_resource(resource);
        }
    }
}
