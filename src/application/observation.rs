//! One summary per request, sent to the observer exactly once, however the request ends.

use std::{sync::Arc, time::Duration};

use ai4free_ports::{
    catalogue::Model,
    key::KeyId,
    money::PicoUsd,
    request::{Operation, RequestId},
    runtime::{Clock, RequestEnd, RequestObserver, RequestSummary},
    usage::{TokenUsage, UsageSource},
    usage_ledger::Outcome,
};

use crate::application::failure::Failure;

/// Reports requests that are refused before a use-case sees them.
pub struct Refusals {
    pub observer: Arc<dyn RequestObserver>,
    pub clock: Arc<dyn Clock>,
}

impl Refusals {
    pub fn observe(&self, request: RequestId, operation: Operation, arrived: Duration, failure: &Failure) {
        let (observer, clock) = (self.observer.clone(), self.clock.clone());
        Observation::start(observer, clock, request, operation, arrived).refused(failure);
    }
}

/// Collects what the request log says of a request. Dropping it reports.
pub struct Observation {
    observer: Arc<dyn RequestObserver>,
    clock: Arc<dyn Clock>,
    arrived: Duration,
    summary: RequestSummary,
}

impl Observation {
    #[must_use]
    pub fn start(
        observer: Arc<dyn RequestObserver>,
        clock: Arc<dyn Clock>,
        request: RequestId,
        operation: Operation,
        arrived: Duration,
    ) -> Self {
        let summary = RequestSummary {
            request,
            operation,
            streamed: false,
            key: None,
            model: None,
            provider: None,
            credential: None,
            // What a request is that its client abandoned before anything was decided.
            end: RequestEnd::Refused("client_closed_request"),
            attempts: 0,
            usage: TokenUsage::default(),
            usage_source: UsageSource::Estimated,
            usage_clamped: false,
            cost: None,
            reservation_exceeded: false,
            first_byte: None,
            total: Duration::ZERO,
            upstream: Duration::ZERO,
        };
        Self { observer, clock, arrived, summary }
    }

    pub fn key(&mut self, key: &KeyId) {
        self.summary.key = Some(key.clone());
    }

    pub fn model(&mut self, model: &Model) {
        self.summary.model = Some(model.label.clone());
    }

    pub fn streamed(&mut self, streamed: bool) {
        self.summary.streamed = streamed;
    }

    pub fn attempt(&mut self, provider: &Arc<str>, credential: &Arc<str>) {
        self.summary.provider = Some(provider.clone());
        self.summary.credential = Some(credential.clone());
        self.summary.attempts = self.summary.attempts.saturating_add(1);
    }

    pub fn waited_upstream(&mut self, duration: Duration) {
        self.summary.upstream = self.summary.upstream.saturating_add(duration);
    }

    /// The first byte that the client could be sent. Later calls change nothing.
    pub fn first_byte(&mut self) {
        if self.summary.first_byte.is_none() {
            self.summary.first_byte = Some(self.elapsed());
        }
    }

    pub fn refused(&mut self, failure: &Failure) {
        self.summary.end = match failure {
            Failure::LimitReached(limit) => RequestEnd::LimitReached { scope: limit.scope.clone(), kind: limit.kind },
            Failure::BudgetExhausted(budget) => RequestEnd::BudgetExhausted { scope: budget.scope.clone() },
            other => RequestEnd::Refused(other.code()),
        };
    }

    pub fn ended(
        &mut self,
        outcome: Outcome,
        error: Option<&'static str>,
        usage: TokenUsage,
        source: UsageSource,
        cost: Option<PicoUsd>,
    ) {
        self.summary.end = RequestEnd::Admitted { outcome, error };
        self.summary.usage = usage;
        self.summary.usage_source = source;
        self.summary.cost = cost;
    }

    /// More usage was reported than was believed.
    pub fn usage_clamped(&mut self) {
        self.summary.usage_clamped = true;
    }

    /// It cost more than was reserved of a budget.
    pub fn reservation_exceeded(&mut self) {
        self.summary.reservation_exceeded = true;
    }

    /// Since the request arrived.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.clock.monotonic().saturating_sub(self.arrived)
    }
}

impl Drop for Observation {
    fn drop(&mut self) {
        self.summary.total = self.elapsed();
        self.observer.finished(&self.summary);
    }
}
