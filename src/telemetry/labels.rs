//! Counters by model, resolved once: a request finds its own without building a label set, and the number of label sets is
//! bounded.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use ai4free_ports::{request::Operation, runtime::RequestEnd, usage::TokenUsage, usage_ledger::Outcome};
use arc_swap::ArcSwap;
use prometheus::{IntCounter, IntCounterVec};

/// Models with series of their own. The rest is [`OTHER`].
pub(super) const MOST_MODELS: usize = 500;
pub(super) const OTHER: &str = "other";
/// The label of a request that never came as far as a model or a provider.
pub(super) const NONE: &str = "none";

const OUTCOMES: [&str; 7] = ["success", "failed", "cancelled", "lost", "limit_reached", "budget_exhausted", "refused"];
const DIRECTIONS: [&str; 7] = ["input", "cache_read", "cache_write", "output", "reasoning", "audio_in", "audio_out"];

/// Counters of one model.
pub(super) struct ModelSeries {
    label: Arc<str>,
    tokens: [OnceLock<IntCounter>; DIRECTIONS.len()],
    cost: OnceLock<IntCounter>,
    routes: ArcSwap<Vec<Arc<Route>>>,
}

/// Requests of one operation by one model at one provider. Few per model.
struct Route {
    operation: Operation,
    provider: Arc<str>,
    outcomes: [OnceLock<IntCounter>; OUTCOMES.len()],
}

/// The counters that have a model among their labels.
pub(super) struct ByModel {
    requests: IntCounterVec,
    tokens: IntCounterVec,
    cost: IntCounterVec,
    models: ArcSwap<HashMap<Arc<str>, Arc<ModelSeries>>>,
    /// Held by whoever adds a model or a route: rare, and the reason why the bound is exact.
    adding: Mutex<()>,
}

impl ByModel {
    /// Labels: `operation, model, provider, outcome` of requests, `model, direction` of tokens, `model` of cost.
    pub(super) fn new(requests: IntCounterVec, tokens: IntCounterVec, cost: IntCounterVec) -> Self {
        Self { requests, tokens, cost, models: ArcSwap::default(), adding: Mutex::default() }
    }

    pub(super) fn of(&self, model: Option<&str>) -> Arc<ModelSeries> {
        let model = model.unwrap_or(NONE);
        self.models.load().get(model).map_or_else(|| self.add(model), Arc::clone)
    }

    pub(super) fn count_request(
        &self,
        model: &ModelSeries,
        operation: Operation,
        provider: Option<&str>,
        end: &RequestEnd,
    ) {
        let provider = provider.unwrap_or(NONE);
        let found = find_route(&model.routes.load(), operation, provider);
        let route = found.unwrap_or_else(|| self.add_route(model, operation, provider));
        let outcome = outcome_index(end);
        if let (Some(counter), Some(name)) = (route.outcomes.get(outcome), OUTCOMES.get(outcome)) {
            let labels = [operation.as_str(), &model.label, &route.provider, name];
            counter.get_or_init(|| self.requests.with_label_values(&labels)).inc();
        }
    }

    pub(super) fn count_tokens(&self, model: &ModelSeries, usage: &TokenUsage) {
        let counts = [
            usage.input,
            usage.cache_read,
            usage.cache_write,
            usage.output,
            usage.reasoning,
            usage.audio_in,
            usage.audio_out,
        ];
        for ((counter, direction), count) in model.tokens.iter().zip(DIRECTIONS).zip(counts) {
            if count > 0 {
                counter.get_or_init(|| self.tokens.with_label_values(&[&*model.label, direction])).inc_by(count);
            }
        }
    }

    pub(super) fn count_cost(&self, model: &ModelSeries, pico_usd: u64) {
        model.cost.get_or_init(|| self.cost.with_label_values(&[&*model.label])).inc_by(pico_usd);
    }

    fn add(&self, model: &str) -> Arc<ModelSeries> {
        let _adding = self.adding.lock().unwrap_or_else(PoisonError::into_inner);
        let models = self.models.load();
        let is_full = models.len() >= MOST_MODELS;
        let label = if is_full { OTHER } else { model };
        if let Some(known) = models.get(label) {
            return known.clone();
        }
        let label: Arc<str> = label.into();
        let series = Arc::new(ModelSeries {
            label: label.clone(),
            tokens: Default::default(),
            cost: OnceLock::new(),
            routes: ArcSwap::default(),
        });
        let mut more = HashMap::clone(&models);
        more.insert(label, series.clone());
        self.models.store(Arc::new(more));
        series
    }

    fn add_route(&self, model: &ModelSeries, operation: Operation, provider: &str) -> Arc<Route> {
        let _adding = self.adding.lock().unwrap_or_else(PoisonError::into_inner);
        let routes = model.routes.load();
        if let Some(known) = find_route(&routes, operation, provider) {
            return known;
        }
        let route = Arc::new(Route { operation, provider: provider.into(), outcomes: Default::default() });
        model.routes.store(Arc::new(routes.iter().cloned().chain([route.clone()]).collect()));
        route
    }
}

fn find_route(routes: &[Arc<Route>], operation: Operation, provider: &str) -> Option<Arc<Route>> {
    routes.iter().find(|route| route.operation == operation && &*route.provider == provider).cloned()
}

/// Where an end stands in [`OUTCOMES`].
fn outcome_index(end: &RequestEnd) -> usize {
    match end {
        RequestEnd::Admitted { outcome: Outcome::Success, .. } => 0,
        RequestEnd::Admitted { outcome: Outcome::Failed, .. } => 1,
        RequestEnd::Admitted { outcome: Outcome::Cancelled, .. } => 2,
        RequestEnd::Admitted { outcome: Outcome::Lost, .. } => 3,
        RequestEnd::LimitReached { .. } => 4,
        RequestEnd::BudgetExhausted { .. } => 5,
        RequestEnd::Refused(_) => 6,
    }
}
