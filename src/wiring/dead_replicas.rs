//! What earlier processes reserved of shared budgets when they died, settled to what their journals say.

use std::{collections::HashSet, sync::Arc, time::Duration};

use ai4free_local::SpoolJournal;
use ai4free_ports::usage_ledger::SpoolId;
use ai4free_redis::RedisRateLimiter;

/// Journals of others are taken over now and then, and commands of a dead process may arrive late.
const LOOK_EVERY: Duration = Duration::from_secs(10);
const RETRY_AFTER: Duration = Duration::from_millis(250);

/// The name of this process among those that share limits: after its journal, and new with each life.
pub(super) fn name(spool: SpoolId, life: uuid::Uuid) -> String {
    format!("{}.{}", spool.0, life.as_simple())
}

/// Whoever holds a journal is the only one who can write to it: all that did before are dead.
pub(super) async fn settle_for_ever(redis: Arc<RedisRateLimiter>, journal: Arc<SpoolJournal>) {
    loop {
        let mut pause = LOOK_EVERY;
        for spool in journal.spools() {
            if let Err(error) = settle(&redis, &journal, spool).await {
                tracing::debug!(error = format!("{error:#}"), "reservations of dead processes can't be settled yet");
                pause = RETRY_AFTER;
            }
        }
        tokio::time::sleep(pause).await;
    }
}

async fn settle(redis: &RedisRateLimiter, journal: &SpoolJournal, spool: SpoolId) -> anyhow::Result<()> {
    let leases = redis.take_over(&spool.0.to_string()).await?;
    if leases.is_empty() {
        return Ok(());
    }
    let requests: HashSet<_> = leases.iter().map(|given_up| given_up.lease.request).collect();
    let fates = journal.fates(spool, requests).await?;
    redis.charge(&leases, &fates).await?;
    tracing::info!(spool = %spool.0, leases = leases.len(), "reservations of dead processes were settled");
    Ok(())
}
