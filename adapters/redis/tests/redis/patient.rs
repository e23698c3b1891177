//! A busy machine may miss the deadline, which is of no matter to the contract.

use std::{future::Future, sync::Arc, time::Duration};

use ai4free_ports::{
    budget::{Grant, GrantStanding, Holder, MoneyWindow},
    error::LimiterDown,
    rate_limiter::{Claims, LeaseId, RateLimiter, Reservation, Scope, Settlement},
};
use ai4free_redis::RedisRateLimiter;
use async_trait::async_trait;
use tokio::time::sleep;

const TRIES: u32 = 100;

/// Asks again after a timeout. Everything that it asks for is idempotent.
pub(crate) struct Patient(pub(crate) Arc<RedisRateLimiter>);

#[async_trait]
impl RateLimiter for Patient {
    async fn reserve(&self, lease: LeaseId, claims: &Claims) -> Result<Reservation, LimiterDown> {
        patiently(|| self.0.reserve(lease, claims)).await
    }

    fn settle(&self, settlement: Settlement) {
        self.0.settle(settlement);
    }

    async fn grant(&self, grant: &Grant) -> Result<(), LimiterDown> {
        patiently(|| self.0.grant(grant)).await
    }

    async fn forget(&self, holder: Holder) -> Result<(), LimiterDown> {
        patiently(|| self.0.forget(holder)).await
    }

    async fn standing(&self, scope: &Scope, window: &MoneyWindow) -> Result<Option<GrantStanding>, LimiterDown> {
        patiently(|| self.0.standing(scope, window)).await
    }
}

/// Whatever is asked may be asked twice.
pub(crate) async fn patiently<T, F: Future<Output = Result<T, LimiterDown>>>(
    ask: impl Fn() -> F,
) -> Result<T, LimiterDown> {
    for _ in 1..TRIES {
        match ask().await {
            Err(LimiterDown(source)) if is_timeout(&source.to_string()) => sleep(Duration::from_millis(10)).await,
            outcome => return outcome,
        }
    }
    ask().await
}

fn is_timeout(error: &str) -> bool {
    ["no answer within the deadline", "suspended after timeouts in a row"].contains(&error)
}
