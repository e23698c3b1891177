//! Where limits are counted: in this process, or in Redis with this process to fall back on.

use std::{sync::Arc, time::Duration};

use ai4free_local::{FallbackLimiter, MemoryRateLimiter, ReplicaShare, SpoolJournal};
use ai4free_ports::{
    rate_limiter::RateLimiter,
    runtime::{Clock, IdSource},
    usage_ledger::UsageLedger,
};
use ai4free_redis::{RedisOptions, RedisRateLimiter};
use tokio_util::sync::CancellationToken;

use super::dead_replicas;
use crate::{
    application::grants::Grants,
    config::{Settings, redis::Redis},
    lifecycle::Workers,
};

/// A process by itself takes all that is left of a budget. One of many, that goes on alone while Redis is away, leaves most of
/// it to the others: each of them is granted at most this part, divided by their number.
const PART_OF_ALL_REPLICAS: u32 = 8;

/// What this process was granted while Redis was away is free for all again at most this long after Redis is back.
const GIVE_BACK_EVERY: Duration = Duration::from_secs(1);

/// What limiters stand on.
pub(super) struct LimiterParts<'a> {
    pub(super) ids: &'a dyn IdSource,
    pub(super) clock: &'a Arc<dyn Clock>,
    /// Says which epoch of Redis it is.
    pub(super) ledger: &'a Arc<dyn UsageLedger>,
    /// Says as whom this process spends by itself, and what earlier ones did.
    pub(super) journal: &'a Arc<SpoolJournal>,
}

pub(super) struct Limiter {
    pub(super) limiter: Arc<dyn RateLimiter>,
    pub(super) shared: Option<Shared>,
    /// Of what is left of a budget, this process by itself is granted one part in so many.
    pub(super) process_share: u32,
}

/// The limits that all replicas share.
pub(super) struct Shared {
    pub(super) redis: Arc<RedisRateLimiter>,
    pub(super) fallback: Arc<FallbackLimiter>,
}

impl Limiter {
    pub(super) fn connect(
        settings: &Settings,
        parts: &LimiterParts<'_>,
        end: &CancellationToken,
        workers: &mut Workers,
    ) -> anyhow::Result<Self> {
        let memory = MemoryRateLimiter::new(parts.clock.clone(), parts.journal.holder());
        let Some(redis) = &settings.redis else {
            return Ok(Self { limiter: Arc::new(memory), shared: None, process_share: 1 });
        };
        let name = dead_replicas::name(parts.journal.spool(), parts.ids.request_id().0);
        let redis = connect_redis(redis, &name, parts.ledger, end, workers)?;
        workers.run("dead replicas", {
            let settle = dead_replicas::settle_for_ever(redis.clone(), parts.journal.clone());
            let end = end.clone();
            async move {
                Box::pin(end.run_until_cancelled(settle)).await;
            }
        });
        let replicas = settings.cluster.replicas;
        let share = ReplicaShare { replicas };
        let fallback = Arc::new(FallbackLimiter::new(redis.clone(), Arc::new(memory), share));
        Ok(Self {
            limiter: fallback.clone(),
            shared: Some(Shared { redis, fallback }),
            process_share: PART_OF_ALL_REPLICAS.saturating_mul(replicas),
        })
    }

    /// Whether the limits that all replicas share can be asked.
    pub(super) fn is_up(&self) -> bool {
        self.shared.as_ref().is_none_or(|shared| shared.redis.is_up())
    }

    /// Gives back, whenever Redis is there, what this process was granted by itself.
    pub(super) fn give_back_surplus(&self, grants: Arc<Grants>, end: &CancellationToken, workers: &mut Workers) {
        let Some(redis) = self.shared.as_ref().map(|shared| shared.redis.clone()) else { return };
        let end = end.clone();
        let give_back = async move {
            loop {
                tokio::time::sleep(GIVE_BACK_EVERY).await;
                if redis.is_up() && redis.money_closed_reason().is_none() {
                    grants.give_back_surplus().await;
                }
            }
        };
        workers.run("surplus grants", async move {
            end.run_until_cancelled(give_back).await;
        });
    }

    /// Whether budgets can be spent out of shared grants.
    pub(super) fn takes_money(&self) -> bool {
        self.shared
            .as_ref()
            .is_none_or(|Shared { redis, .. }| redis.epoch().is_some() && redis.money_closed_reason().is_none())
    }

    pub(super) fn given_up_leases(&self) -> u64 {
        self.shared.as_ref().map_or(0, |shared| shared.redis.given_up_leases())
    }

    pub(super) fn copies(&self) -> u64 {
        self.shared.as_ref().map_or(0, |shared| u64::try_from(shared.redis.copies()).unwrap_or(u64::MAX))
    }

    pub(super) fn refused_copies(&self) -> u64 {
        self.shared.as_ref().map_or(0, |shared| shared.redis.refused_copies())
    }

    pub(super) fn degraded_reservations(&self) -> u64 {
        self.shared.as_ref().map_or(0, |shared| shared.fallback.degraded_reservations())
    }
}

pub(super) fn redis_options(redis: &Redis, replica: &str) -> anyhow::Result<RedisOptions> {
    Ok(RedisOptions::new(redis.url.expose(), replica)?.prefix(&redis.prefix)?.deadline(redis.timeout))
}

/// Nothing is connected yet: the worker does it. `replica`: a new name for each life of the process.
pub(super) fn connect_redis(
    redis: &Redis,
    replica: &str,
    ledger: &Arc<dyn UsageLedger>,
    end: &CancellationToken,
    workers: &mut Workers,
) -> anyhow::Result<Arc<RedisRateLimiter>> {
    let options = redis_options(redis, replica)?;
    let (limiter, worker) = RedisRateLimiter::connect(&options, ledger.clone(), end.clone());
    workers.run("limiter", worker);
    Ok(limiter)
}
