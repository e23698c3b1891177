//! Events for tests.

use std::sync::Arc;

use ai4free_ports::{
    key::KeyId,
    money::PicoUsd,
    request::{Operation, RequestId},
    runtime::Timestamp,
    usage::{TokenUsage, UsageSource},
    usage_ledger::{EventKind, Outcome, UsageEvent},
};
use uuid::Uuid;

pub(crate) fn event(request: u128, key: KeyId, model: Arc<str>) -> UsageEvent {
    UsageEvent {
        request: RequestId(Uuid::from_u128(request)),
        attempt: 1,
        kind: EventKind::Charge,
        revision: 0,
        operation: Operation::Chat,
        key,
        user: None,
        model,
        provider: None,
        credential: None,
        outcome: Outcome::Success,
        error: None,
        admitted_at: Timestamp::from_seconds(1_790_000_000),
        first_ms: None,
        total_ms: None,
        usage: TokenUsage::default(),
        usage_source: UsageSource::Provider,
        price_version: None,
        cost: PicoUsd::ZERO,
        provider_cost: None,
        spending: Vec::new(),
    }
}
