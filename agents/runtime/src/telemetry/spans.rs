//! Spans on their way to a collector: at most so many, and what is lost is counted.

use std::sync::Arc;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bellwether_bus::metrics;
use opentelemetry::metrics::Counter;
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{BatchConfigBuilder, BatchSpanProcessor, Span, SpanData, SpanExporter, SpanProcessor};
use tokio::runtime::Handle;

/// Most spans that wait, those on their way included: about 2 MiB. The SDK's own default.
const WAITING_MAX: usize = 2_048;

static LOST: LazyLock<Counter<u64>> = LazyLock::new(|| {
    metrics::counter("bellwether.telemetry.spans.lost", "Spans that never reached a collector, by why")
});

/// Sends spans through `exporter`, on our own async runtime.
pub(super) fn bounded<E: SpanExporter + 'static>(exporter: E, handle: Handle) -> Bounded {
    lost("queue_full", 0);
    let waiting = Arc::new(AtomicUsize::new(0));
    let exporter = OnRuntime { inner: exporter, handle, waiting: Arc::clone(&waiting) };
    let config = BatchConfigBuilder::default().with_max_queue_size(WAITING_MAX).build();
    let inner = BatchSpanProcessor::builder(exporter).with_batch_config(config).build();
    Bounded { inner, waiting, waiting_max: WAITING_MAX }
}

fn lost(why: &'static str, count: usize) {
    LOST.add(u64::try_from(count).unwrap_or(u64::MAX), &[KeyValue::new("error.type", why)]);
}

/// Counts what waits, so that what does not fit is known: the SDK drops it without a figure.
#[derive(Debug)]
pub(super) struct Bounded {
    inner: BatchSpanProcessor,
    waiting: Arc<AtomicUsize>,
    waiting_max: usize,
}

impl SpanProcessor for Bounded {
    fn on_start(&self, span: &mut Span, context: &Context) {
        self.inner.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        if self.waiting.fetch_add(1, Ordering::Relaxed) < self.waiting_max {
            return self.inner.on_end(span);
        }
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        lost("queue_full", 1);
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

/// Sends on our own async runtime: the batch thread has none, and our HTTP client needs one.
#[derive(Debug)]
struct OnRuntime<E> {
    inner: E,
    handle: Handle,
    waiting: Arc<AtomicUsize>,
}

impl<E: SpanExporter> SpanExporter for OnRuntime<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let count = batch.len();
        let sent = self.handle.block_on(self.inner.export(batch));
        self.waiting.fetch_sub(count, Ordering::Relaxed);
        if sent.is_err() {
            lost("export", count);
        }
        sent
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::{Tracer, TracerProvider};
    use opentelemetry_sdk::error::OTelSdkError;
    use opentelemetry_sdk::trace::SdkTracerProvider;
    use tokio::sync::Semaphore;

    use super::*;

    /// Answers only once it is closed.
    #[derive(Debug, Clone)]
    struct Stuck(Arc<Semaphore>);

    impl SpanExporter for Stuck {
        async fn export(&self, _: Vec<SpanData>) -> OTelSdkResult {
            self.0.acquire().await.map(drop).map_err(|error| OTelSdkError::InternalFailure(error.to_string()))
        }
    }

    #[tokio::test]
    async fn a_collector_that_never_answers_holds_nobody_up_and_nothing_grows() {
        let stuck = Stuck(Arc::new(Semaphore::new(0)));
        let processor = bounded(stuck.clone(), Handle::current());
        let waiting = Arc::clone(&processor.waiting);
        let provider = SdkTracerProvider::builder().with_span_processor(processor).build();
        let tracer = provider.tracer("test");
        for _ in 0..5 * WAITING_MAX {
            drop(tracer.start("look"));
        }
        assert_eq!(waiting.load(Ordering::Relaxed), WAITING_MAX);
        stuck.0.close();
        tokio::task::spawn_blocking(move || provider.shutdown()).await.expect("not cancelled").expect("ended");
        assert_eq!(waiting.load(Ordering::Relaxed), 0);
    }
}
