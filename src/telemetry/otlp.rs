//! Spans to an OTLP/HTTP collector. Off unless there is one. A span is queued or dropped, never waited for.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use opentelemetry::{Context, trace::TracerProvider};
use opentelemetry_otlp::{WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{
        BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracerProvider, Span, SpanData, SpanExporter, SpanProcessor,
    },
};
use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::{Layer, filter::filter_fn, registry::LookupSpan};

use super::{collector_client::CollectorClient, start::InvalidSetting};
use crate::config::telemetry::Telemetry as Settings;

/// Spans that may wait to be sent.
const QUEUE: usize = 2048;
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);
const TRACES_ENDPOINT: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
const SAMPLER: &str = "OTEL_TRACES_SAMPLER";

pub(super) struct TraceExport {
    provider: SdkTracerProvider,
    queue: Arc<Queue>,
}

impl TraceExport {
    /// `None` when no collector is configured. The exporter's requests run on the current runtime.
    pub(super) fn start(settings: &Settings) -> anyhow::Result<Option<Self>> {
        let for_traces = std::env::var_os(TRACES_ENDPOINT).is_some_and(|url| !url.is_empty());
        if settings.otlp_endpoint.is_none() && !for_traces {
            return Ok(None);
        }
        let mut exporter =
            opentelemetry_otlp::SpanExporter::builder().with_http().with_http_client(CollectorClient::new()?);
        if let Some(base) = settings.otlp_endpoint.as_ref().filter(|_| !for_traces) {
            exporter = exporter.with_endpoint(format!("{}/v1/traces", base.trim_end_matches('/')));
        }
        if let Some(headers) = &settings.otlp_headers {
            exporter = exporter.with_headers(parse_headers(headers.expose()).collect());
        }
        let exporter = exporter
            .build()
            .map_err(|error| InvalidSetting { setting: "telemetry.otlp_endpoint", problem: error.to_string() })?;
        let queue = Arc::new(Queue::default());
        let batches = BatchSpanProcessor::builder(Counting { inner: exporter, queue: queue.clone() })
            .with_batch_config(BatchConfigBuilder::default().with_max_queue_size(QUEUE).build())
            .build();
        let mut provider = SdkTracerProvider::builder()
            .with_span_processor(Bounded { inner: batches, queue: queue.clone() })
            .with_resource(Resource::builder().with_service_name(settings.service_name.clone()).build());
        if std::env::var_os(SAMPLER).is_none() {
            provider = provider.with_sampler(sampler(settings.sample_percent));
        }
        Ok(Some(Self { provider: provider.build(), queue }))
    }

    /// Only our own spans: the exporter's HTTP client must not trace its own export.
    pub(super) fn layer<S>(&self) -> impl Layer<S> + Send + Sync
    where
        S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
    {
        let ours = |metadata: &Metadata<'_>| {
            metadata.is_span() && *metadata.level() <= Level::INFO && metadata.target().starts_with("ai4free")
        };
        tracing_opentelemetry::layer()
            .with_tracer(self.provider.tracer("ai4free"))
            .with_location(false)
            .with_threads(false)
            .with_tracked_inactivity(false)
            .with_filter(filter_fn(ours).with_max_level_hint(Level::INFO))
    }

    pub(super) fn lost_spans(&self) -> LostSpans {
        LostSpans(self.queue.clone())
    }

    /// Sends what waits, for at most [`FLUSH_TIMEOUT`].
    pub(super) async fn shutdown(&self) {
        let provider = self.provider.clone();
        // The SDK waits for its thread, and that thread for this runtime.
        let ended = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(FLUSH_TIMEOUT)).await;
        if !matches!(ended, Ok(Ok(()))) {
            tracing::warn!("the last spans could not be sent to the collector");
        }
    }
}

/// Spans that no collector has got.
pub(super) struct LostSpans(Arc<Queue>);

impl LostSpans {
    pub(super) fn count(&self) -> u64 {
        self.0.lost.load(Ordering::Relaxed)
    }
}

/// What is on its way. The SDK's own queue only logs what it drops.
#[derive(Debug, Default)]
struct Queue {
    waiting: AtomicUsize,
    lost: AtomicU64,
}

impl Queue {
    fn enter(&self) -> bool {
        let entered = self.waiting.fetch_add(1, Ordering::Relaxed) < QUEUE;
        if !entered {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        entered
    }

    fn leave(&self, spans: usize, sent: bool) {
        self.waiting.fetch_sub(spans, Ordering::Relaxed);
        if !sent {
            self.lost.fetch_add(u64::try_from(spans).unwrap_or(u64::MAX), Ordering::Relaxed);
        }
    }
}

/// Lets no more spans into the SDK's queue than it holds.
#[derive(Debug)]
struct Bounded {
    inner: BatchSpanProcessor,
    queue: Arc<Queue>,
}

impl SpanProcessor for Bounded {
    fn on_start(&self, span: &mut Span, context: &Context) {
        self.inner.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        if span.span_context.is_sampled() && self.queue.enter() {
            self.inner.on_end(span);
        }
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

#[derive(Debug)]
struct Counting<E> {
    inner: E,
    queue: Arc<Queue>,
}

impl<E: SpanExporter> SpanExporter for Counting<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        let sent = self.inner.export(batch).await;
        self.queue.leave(spans, sent.is_ok());
        sent
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

fn sampler(percent: u8) -> Sampler {
    #[expect(clippy::float_arithmetic, reason = "a share of traces: the SDK takes a float")]
    let share = f64::from(percent) / 100.0;
    Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(share)))
}

/// `NAME=VALUE,…`, values percent-encoded, as `OTEL_EXPORTER_OTLP_HEADERS` has them.
fn parse_headers(text: &str) -> impl Iterator<Item = (String, String)> {
    text.split(',').filter_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        let value = percent_encoding::percent_decode_str(value.trim()).decode_utf8().ok()?;
        Some((name.trim().to_owned(), value.into_owned()))
    })
}

#[cfg(test)]
mod tests;
