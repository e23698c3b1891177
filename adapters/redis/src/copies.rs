//! Copies of what requests were charged, from their settlement until the ledger has it.
//!
//! What the ledger does not have yet is in the journal of this process. If both are lost, others find the copies
//! (`dead_replicas.rs`). They ride in the batches of settlements, and are removed in batches, off the path of requests.

use std::{
    collections::HashSet,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use ai4free_ports::{
    budget::Holder,
    rate_limiter::{Certainty, LeaseId, Settlement},
    request::RequestId,
    usage_ledger::UsageEvent,
};
use fred::types::{Key, Value};
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    connection::Connections,
    keys::{self, Keys},
    open_leases::OpenLeases,
    stored_event,
    unavailable::Unavailable,
};

/// Leases and copies that all replicas together keep: with 500 bytes each, 50 MB.
pub(crate) const ROOM: i64 = 100_000;
/// Copies that are removed in one call.
const PART: usize = 128;
const RETRY_AFTER: Duration = Duration::from_millis(250);
/// After the last settlement, for the ledger to have what was settled.
const SHUTDOWN: Duration = Duration::from_secs(2);

/// The copies that this replica left in Redis.
pub(crate) struct Copies {
    pub(crate) room: i64,
    /// Those that nobody needs any more.
    spent: Mutex<Vec<LeaseId>>,
    wake: Notify,
    refused: AtomicU64,
}

impl Copies {
    pub(crate) fn new(room: i64) -> Self {
        Self { room, spent: Mutex::default(), wake: Notify::new(), refused: AtomicU64::new(0) }
    }

    /// How many there was no room for, since the start.
    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// What is to be kept of a settlement. Only of a lease that Redis is known to hold: it may have made another one after all,
    /// whose request was decided elsewhere and which is void.
    pub(crate) fn of(settlement: &Settlement, open: &OpenLeases) -> Option<String> {
        let is_shared = matches!((settlement.certainty, settlement.holder), (Certainty::Held, Some(Holder::Shared(_))));
        let is_wanted = is_shared && !settlement.events.is_empty() && !open.is_recorded(settlement.lease);
        is_wanted.then(|| stored_event::encode(&settlement.events))
    }

    /// A settlement was delivered with a copy, and the script has told what became of that.
    pub(crate) fn delivered(&self, lease: LeaseId, told: Option<i64>, open: &OpenLeases) {
        if told != Some(1) {
            self.refused.fetch_add(u64::from(told == Some(0)), Ordering::Relaxed);
            open.remove(lease);
        } else if open.copied(lease) {
            self.remove([lease]);
        }
    }

    /// The ledger has these events.
    pub(crate) fn recorded(&self, events: &[UsageEvent], open: &OpenLeases) {
        let shared = |event: &&UsageEvent| event.spending.iter().any(|spent| matches!(spent.holder, Holder::Shared(_)));
        let requests: HashSet<RequestId> = events.iter().filter(shared).map(|event| event.request).collect();
        // The first lease of a request has the copy.
        let leases = requests.into_iter().map(|request| LeaseId { request, number: 0 });
        self.remove(leases.filter(|lease| open.recorded(*lease)));
    }

    /// Removes what nobody needs. Ends once the last settlement is delivered, and then the ledger has all, or 2 s have passed.
    pub(crate) async fn run(
        &self,
        connections: &Connections,
        keys: &Keys,
        open: &OpenLeases,
        settled: &CancellationToken,
    ) {
        loop {
            let flushed = Box::pin(async {
                self.wake.notified().await;
                self.flush(connections, keys).await;
            });
            if settled.run_until_cancelled(flushed).await.is_none() {
                break;
            }
        }
        let last = Box::pin(async {
            self.flush(connections, keys).await;
            while open.copies() > 0 {
                self.wake.notified().await;
                self.flush(connections, keys).await;
            }
        });
        if timeout(SHUTDOWN, last).await.is_err() {
            tracing::debug!("copies of usage stay in Redis: others find that the ledger has it");
        }
    }

    fn remove(&self, leases: impl IntoIterator<Item = LeaseId>) {
        let mut spent = self.spent();
        spent.extend(leases);
        if !spent.is_empty() {
            self.wake.notify_one();
        }
    }

    /// May be dropped at any time.
    async fn flush(&self, connections: &Connections, keys: &Keys) {
        loop {
            let part: Vec<LeaseId> = self.spent().iter().take(PART).copied().collect();
            if part.is_empty() {
                return;
            }
            match forget(connections, keys, &keys.leases, &part).await {
                Ok(()) => drop(self.spent().drain(..part.len())),
                Err(error) => {
                    tracing::debug!(%error, "copies of usage will be removed later");
                    sleep(RETRY_AFTER).await;
                }
            }
        }
    }

    fn spent(&self) -> MutexGuard<'_, Vec<LeaseId>> {
        self.spent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Removes copies of a replica's leases.
pub(crate) async fn forget(
    connections: &Connections,
    keys: &Keys,
    of_replica: &Key,
    leases: &[LeaseId],
) -> Result<(), Unavailable> {
    tell(connections, keys, "F", of_replica, leases).await
}

/// The ledger holds what these leases of a replica hold.
pub(crate) async fn mark_held(
    connections: &Connections,
    keys: &Keys,
    of_replica: &Key,
    leases: &[LeaseId],
) -> Result<(), Unavailable> {
    tell(connections, keys, "M", of_replica, leases).await
}

async fn tell(
    connections: &Connections,
    keys: &Keys,
    operation: &'static str,
    of_replica: &Key,
    leases: &[LeaseId],
) -> Result<(), Unavailable> {
    for part in leases.chunks(PART) {
        let arguments = || {
            let mut arguments = keys.arguments(operation);
            arguments.keys.push(of_replica.clone());
            arguments.values.extend(part.iter().map(|lease| Value::from(keys::lease(*lease))));
            arguments
        };
        connections.call::<Value>(arguments).await?;
    }
    Ok(())
}
