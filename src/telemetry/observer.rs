//! Metrics and the request log, as the use-cases see them.

use std::{sync::Arc, time::Duration};

use ai4free_ports::{
    runtime::{RequestEnd, RequestObserver, RequestSummary},
    usage::UsageSource,
};
use tracing::Level;

use super::metrics::Metrics;

pub(super) struct Observer {
    metrics: Arc<Metrics>,
}

impl Observer {
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics }
    }
}

impl RequestObserver for Observer {
    fn finished(&self, summary: &RequestSummary) {
        self.metrics.finished(summary);
        log(summary);
    }
}

/// Its own target, so that it can be switched off alone (`info,ai4free::request=off`).
const TARGET: &str = "ai4free::request";

/// One line per request. Nothing of it is formatted unless it is wanted.
fn log(summary: &RequestSummary) {
    if !tracing::event_enabled!(target: TARGET, Level::INFO) {
        return;
    }
    let (error, scope, kind) = match &summary.end {
        RequestEnd::Admitted { error, .. } => (*error, None, None),
        RequestEnd::LimitReached { scope, kind } => (None, Some(scope.name()), Some(kind.name())),
        RequestEnd::BudgetExhausted { scope } => (None, Some(scope.name()), Some("budget")),
        RequestEnd::Refused(code) => (Some(*code), None, None),
    };
    let admitted = matches!(summary.end, RequestEnd::Admitted { .. });
    tracing::info!(
        target: TARGET,
        request = %summary.request,
        operation = summary.operation.as_str(),
        streamed = summary.streamed,
        model = summary.model.as_deref(),
        key = summary.key.as_ref().map(ai4free_ports::key::KeyId::as_str),
        provider = summary.provider.as_deref(),
        credential = summary.credential.as_deref(),
        attempts = summary.attempts,
        outcome = %summary.end,
        error,
        limit_scope = scope,
        limit_kind = kind,
        input_tokens = summary.usage.input_total(),
        output_tokens = summary.usage.output_total(),
        cost_usd = summary.cost.map(tracing::field::display),
        usage_source = admitted.then(|| source_name(summary.usage_source)),
        first_byte_ms = summary.first_byte.map(milliseconds),
        total_ms = milliseconds(summary.total),
        upstream_ms = milliseconds(summary.upstream),
        overhead_us = microseconds(summary.total.saturating_sub(summary.upstream)),
        "request finished"
    );
}

fn source_name(source: UsageSource) -> &'static str {
    match source {
        UsageSource::Provider => "provider",
        UsageSource::Counted => "counted",
        UsageSource::Drained => "drained",
        UsageSource::Estimated => "estimated",
        UsageSource::Bound => "bound",
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn microseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use ai4free_contract::runtime::an_observer_takes_every_summary_from_many_threads;

    use super::*;

    #[test]
    fn the_observer_of_the_gateway_keeps_its_contract() {
        let metrics = Arc::new(Metrics::new().unwrap());
        let observer: Arc<dyn RequestObserver> = Arc::new(Observer::new(metrics.clone()));
        an_observer_takes_every_summary_from_many_threads(&observer);
        assert!(metrics.render().contains("ai4free_requests_total"));
    }
}
