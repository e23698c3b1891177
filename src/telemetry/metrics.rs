//! What a scraper sees. Every label has a bounded set of values: names of the configuration, or codes.

use std::time::Duration;

use ai4free_ports::{
    request::Operation,
    runtime::{RequestEnd, RequestSummary},
};
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts, Registry, Result, TextEncoder,
    core::{Collector, Desc},
    proto::{self, Counter, Gauge, Metric, MetricFamily, MetricType},
};

use super::labels::{ByModel, NONE};

/// In seconds, from a small model nearby to a slow one with a long prompt.
const FIRST_BYTE_BUCKETS: [f64; 14] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0];
/// In seconds, to the longest stream.
const REQUEST_BUCKETS: [f64; 13] = [0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0];
/// In seconds: the gateway's own share is counted in microseconds.
const OVERHEAD_BUCKETS: [f64; 13] =
    [0.000_05, 0.000_1, 0.000_2, 0.000_3, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0];

/// Codes of a provider's failure begin so, and the label leaves it out.
const UPSTREAM: &str = "upstream_";
/// What a refusal for lack of money is counted as.
const BUDGET: &str = "budget";

pub struct Metrics {
    registry: Registry,
    by_model: ByModel,
    refusals: IntCounterVec,
    clamped: IntCounter,
    exceeded: IntCounter,
    upstream_errors: IntCounterVec,
    chat_first_byte: Histogram,
    image_first_byte: Histogram,
    request: Histogram,
    overhead: Histogram,
    panics: IntCounter,
}

/// Read at each scrape.
pub type GaugeReader = Box<dyn Fn() -> i64 + Send + Sync>;
/// Read at each scrape; never falls.
pub type CounterReader = Box<dyn Fn() -> u64 + Send + Sync>;
/// Read at each scrape; no bucket ever falls.
pub type TimesReader = Box<dyn Fn() -> Times + Send + Sync>;

/// Durations that were counted elsewhere.
pub struct Times {
    /// The longest in each bucket.
    pub bounds: &'static [Duration],
    /// In each bucket, and at the end those that took longer.
    pub counts: Vec<u64>,
    pub sum: Duration,
}

impl Metrics {
    /// # Errors
    /// Two metrics of one name: a mistake in this file.
    pub fn new() -> Result<Self> {
        let registry = Registry::new();
        let counters = |name: &str, help: &str, labels: &[&str]| {
            let counters = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counters.clone()))?;
            Ok::<_, prometheus::Error>(counters)
        };
        let histogram = |name: &str, help: &str, buckets: &[f64]| {
            let histogram = Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec()))?;
            registry.register(Box::new(histogram.clone()))?;
            Ok::<_, prometheus::Error>(histogram)
        };
        let first_byte = HistogramVec::new(
            HistogramOpts::new(
                "ai4free_first_byte_seconds",
                "From the arrival of a request to the first byte that could be sent.",
            )
            .buckets(FIRST_BYTE_BUCKETS.to_vec()),
            &["operation"],
        )?;
        registry.register(Box::new(first_byte.clone()))?;
        let counter = |name: &str, help: &str| {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let panics = counter("ai4free_panics_total", "Tasks that panicked.")?;
        let by_model = ByModel::new(
            counters("ai4free_requests_total", "Requests that ended.", &["operation", "model", "provider", "outcome"])?,
            counters("ai4free_tokens_total", "Tokens in disjoint buckets.", &["model", "direction"])?,
            counters("ai4free_cost_pico_usd_total", "Cost of priced requests, in 1e-12 US dollars.", &["model"])?,
        );
        Ok(Self {
            by_model,
            refusals: counters("ai4free_refusals_total", "Requests that were refused.", &["reason", "scope"])?,
            clamped: counter(
                "ai4free_usage_clamped_total",
                "Requests of which a provider reported more than its model can have used.",
            )?,
            exceeded: counter(
                "ai4free_budget_reservation_exceeded_total",
                "Requests that cost more than was reserved of a budget.",
            )?,
            upstream_errors: counters(
                "ai4free_upstream_errors_total",
                "Requests that ended with a failure of the provider.",
                &["provider", "kind"],
            )?,
            chat_first_byte: first_byte.with_label_values(&[Operation::Chat.as_str()]),
            image_first_byte: first_byte.with_label_values(&[Operation::ImageGeneration.as_str()]),
            request: histogram(
                "ai4free_request_seconds",
                "From the arrival of an admitted request to its end.",
                &REQUEST_BUCKETS,
            )?,
            overhead: histogram(
                "ai4free_overhead_seconds",
                "What of an admitted request's time was not spent waiting for a provider.",
                &OVERHEAD_BUCKETS,
            )?,
            panics,
            registry,
        })
    }

    /// Adds a gauge whose value is kept elsewhere. `read` must neither block nor do I/O.
    ///
    /// # Errors
    /// The name is taken, or is none.
    pub fn register_gauge(&self, name: &str, help: &str, read: GaugeReader) -> Result<()> {
        self.registry.register(Box::new(Scraped::new(name, help, Reader::Gauge(read))?))
    }

    /// As [`register_gauge`](Self::register_gauge), for what only grows; the name ends in `_total`.
    ///
    /// # Errors
    /// The name is taken, or is none.
    pub fn register_counter(&self, name: &str, help: &str, read: CounterReader) -> Result<()> {
        self.registry.register(Box::new(Scraped::new(name, help, Reader::Counter(read))?))
    }

    /// As [`register_gauge`](Self::register_gauge), for durations; the name ends in `_seconds`.
    ///
    /// # Errors
    /// The name is taken, or is none.
    pub fn register_histogram(&self, name: &str, help: &str, read: TimesReader) -> Result<()> {
        self.registry.register(Box::new(Scraped::new(name, help, Reader::Histogram(read))?))
    }

    /// The text exposition format, version 0.0.4.
    #[must_use]
    pub fn render(&self) -> String {
        TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap_or_else(|error| {
            tracing::error!(error = &error as &dyn std::error::Error, "can't write metrics");
            String::new()
        })
    }

    pub(super) fn panics(&self) -> IntCounter {
        self.panics.clone()
    }

    pub(super) fn finished(&self, summary: &RequestSummary) {
        let provider = summary.provider.as_deref();
        let model = self.by_model.of(summary.model.as_deref());
        self.by_model.count_request(&model, summary.operation, provider, &summary.end);
        let error = match &summary.end {
            RequestEnd::Admitted { error, .. } => *error,
            RequestEnd::LimitReached { scope, kind } => {
                self.refusals.with_label_values(&[kind.name(), scope.name()]).inc();
                return;
            }
            RequestEnd::BudgetExhausted { scope } => {
                self.refusals.with_label_values(&[BUDGET, scope.name()]).inc();
                return;
            }
            RequestEnd::Refused(code) => {
                self.refusals.with_label_values(&[*code, NONE]).inc();
                return;
            }
        };
        if let Some(kind) = error.and_then(|code| code.strip_prefix(UPSTREAM)) {
            self.upstream_errors.with_label_values(&[provider.unwrap_or(NONE), kind]).inc();
        }
        self.clamped.inc_by(summary.usage_clamped.into());
        self.exceeded.inc_by(summary.reservation_exceeded.into());
        self.by_model.count_tokens(&model, &summary.usage);
        if let Some(cost) = summary.cost.and_then(|cost| u64::try_from(cost.0).ok()) {
            self.by_model.count_cost(&model, cost);
        }
        if let Some(first_byte) = summary.first_byte {
            self.first_byte(summary.operation).observe(first_byte.as_secs_f64());
        }
        self.request.observe(summary.total.as_secs_f64());
        self.overhead.observe(summary.total.saturating_sub(summary.upstream).as_secs_f64());
    }

    fn first_byte(&self, operation: Operation) -> &Histogram {
        match operation {
            Operation::Chat => &self.chat_first_byte,
            Operation::ImageGeneration => &self.image_first_byte,
        }
    }
}

/// A metric whose value is read when it is scraped.
struct Scraped {
    description: Desc,
    read: Reader,
}

enum Reader {
    Gauge(GaugeReader),
    Counter(CounterReader),
    Histogram(TimesReader),
}

impl Scraped {
    fn new(name: &str, help: &str, read: Reader) -> Result<Self> {
        let description = Desc::new(name.to_owned(), help.to_owned(), Vec::new(), std::collections::HashMap::new())?;
        Ok(Self { description, read })
    }
}

impl Collector for Scraped {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.description]
    }

    #[expect(clippy::cast_precision_loss, reason = "the exposition format knows floats only")]
    fn collect(&self) -> Vec<MetricFamily> {
        let mut metric = Metric::default();
        let kind = match &self.read {
            Reader::Gauge(read) => {
                let mut gauge = Gauge::default();
                gauge.set_value(read() as f64);
                metric.set_gauge(gauge);
                MetricType::GAUGE
            }
            Reader::Counter(read) => {
                let mut counter = Counter::default();
                counter.set_value(read() as f64);
                metric.set_counter(counter);
                MetricType::COUNTER
            }
            Reader::Histogram(read) => {
                metric.set_histogram(histogram_of(&read()));
                MetricType::HISTOGRAM
            }
        };
        let mut family = MetricFamily::default();
        family.set_name(self.description.fq_name.clone());
        family.set_help(self.description.help.clone());
        family.set_field_type(kind);
        family.set_metric(vec![metric]);
        vec![family]
    }
}

fn histogram_of(times: &Times) -> proto::Histogram {
    let mut histogram = proto::Histogram::default();
    let mut so_far = 0_u64;
    let mut buckets = Vec::with_capacity(times.bounds.len());
    for (bound, count) in times.bounds.iter().zip(&times.counts) {
        so_far = so_far.saturating_add(*count);
        let mut bucket = proto::Bucket::default();
        bucket.set_upper_bound(bound.as_secs_f64());
        bucket.set_cumulative_count(so_far);
        buckets.push(bucket);
    }
    histogram.set_bucket(buckets);
    histogram.set_sample_count(times.counts.iter().sum());
    histogram.set_sample_sum(times.sum.as_secs_f64());
    histogram
}

#[cfg(test)]
mod tests;
