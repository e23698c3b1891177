//! Keys in memory, in front of the store that has them.

#[cfg(test)]
mod contract_tests;
mod feed;
mod flight;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    future::Future,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use ai4free_ports::{
    error::StoreError,
    key::{KeyId, StoredKey},
    key_store::{KeyChanges, KeyPage, KeyStore},
    runtime::{Clock, Timestamp},
};
use arc_swap::ArcSwap;
use async_trait::async_trait;
use moka::{future::Cache, ops::compute::Op};
use tokio::sync::Semaphore;

pub use self::feed::KeyFeed;
use self::flight::Flights;

const KNOWN: u64 = 100_000;
const UNKNOWN: u64 = 10_000;
/// After this a key is read again. It bounds memory of old keys only: a changed key is dropped by the change feed.
const FRESH: Duration = Duration::from_secs(600);
/// So long a key is good while the store is down.
const STALE: Duration = Duration::from_secs(900);
/// So long an id that is not in the store is not asked for again.
const ABSENT: Duration = Duration::from_secs(5);
/// Look-ups at a time: a flood of invented keys must not take all connections of the store.
const LOOKUPS: usize = 8;
/// Waiting for a permit included.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(1);

/// A [`KeyStore`] that answers from memory as long as the key has not changed.
///
/// An entry is dropped when its key changes anywhere: here at once, elsewhere as soon as [`KeyFeed`] sees it.
pub struct CachedKeyStore {
    store: Arc<dyn KeyStore>,
    clock: Arc<dyn Clock>,
    known: Cache<KeyId, Arc<Entry>>,
    /// When an id was found to be absent.
    unknown: Cache<KeyId, Duration>,
    flights: Flights,
    lookups: Semaphore,
    /// As the change feed finds it: then old entries are served without asking.
    store_is_down: AtomicBool,
    /// Uses that the store may not know yet.
    used: Mutex<HashMap<KeyId, Timestamp>>,
}

struct Entry {
    /// Swapped only to move its last use on.
    key: ArcSwap<StoredKey>,
    loaded_at: Duration,
}

impl Entry {
    fn key(&self) -> Arc<StoredKey> {
        self.key.load_full()
    }

    fn used(&self, at: Timestamp) {
        self.key.rcu(|key| match key.last_used_at {
            Some(last) if last >= at => key.clone(),
            _ => Arc::new(StoredKey { last_used_at: Some(at), ..StoredKey::clone(key) }),
        });
    }
}

/// What a look-up came to; shared by all who waited for it.
#[derive(Clone)]
enum Found {
    Known(Arc<Entry>),
    Absent,
    Failed(Arc<StoreError>),
}

impl CachedKeyStore {
    /// The feed must be run: without it a key that is revoked elsewhere stays good here for ten minutes.
    #[must_use]
    pub fn new(store: Arc<dyn KeyStore>, clock: Arc<dyn Clock>) -> (Arc<Self>, KeyFeed) {
        let cached = Arc::new(Self {
            store,
            clock,
            known: Cache::new(KNOWN),
            unknown: Cache::new(UNKNOWN),
            flights: Flights::default(),
            lookups: Semaphore::new(LOOKUPS),
            store_is_down: AtomicBool::new(false),
            used: Mutex::default(),
        });
        (cached.clone(), KeyFeed::new(cached))
    }

    /// Whether the store answered the change feed lately: without it the gateway is degraded.
    #[must_use]
    pub fn store_is_up(&self) -> bool {
        !self.store_is_down.load(Ordering::Relaxed)
    }

    /// Drops what is known of a key, and what look-ups that have begun are about to say of it.
    async fn forget(&self, id: &KeyId) {
        self.flights.outdate(id);
        self.known.invalidate(id).await;
        self.unknown.invalidate(id).await;
    }

    fn forget_all(&self) {
        self.flights.outdate_all();
        self.known.invalidate_all();
        self.unknown.invalidate_all();
    }

    /// One look-up for all who ask for the same key at the same time.
    async fn look_up(&self, id: &KeyId) -> Found {
        let flight = self.flights.join(id);
        flight
            .outcome(async || {
                let pending = self.last_use(id);
                let found = self.ask_store(id).await;
                self.remember(id, &found).await;
                if let Found::Known(entry) = &found {
                    // Also what was noted since: whoever notes a use does so first, and then moves on what is remembered.
                    [pending, self.last_use(id)].into_iter().flatten().for_each(|at| entry.used(at));
                }
                if flight.is_outdated() {
                    // The key has changed since the store answered. Whoever drops an entry says so to the flights first, so
                    // either it has seen what was just remembered, or we see its word here.
                    self.known.invalidate(id).await;
                    self.unknown.invalidate(id).await;
                }
                found
            })
            .await
    }

    async fn ask_store(&self, id: &KeyId) -> Found {
        let asked = async {
            let _permit = self.lookups.acquire().await.map_err(|closed| StoreError::Unavailable(closed.into()))?;
            self.store.find(id).await
        };
        let answer = tokio::time::timeout(LOOKUP_TIMEOUT, asked).await;
        match answer.unwrap_or_else(|elapsed| Err(StoreError::Unavailable(elapsed.into()))) {
            Ok(Some(key)) => {
                let loaded_at = self.clock.monotonic();
                Found::Known(Arc::new(Entry { key: key.into(), loaded_at }))
            }
            Ok(None) => Found::Absent,
            Err(error) => Found::Failed(Arc::new(error)),
        }
    }

    async fn remember(&self, id: &KeyId, found: &Found) {
        match found {
            Found::Known(entry) => {
                let replace = async |cached: Option<moka::Entry<KeyId, Arc<Entry>>>| match cached {
                    Some(cached) if cached.value().key().version > entry.key().version => Op::Nop,
                    _ => Op::Put(entry.clone()),
                };
                self.known.entry_by_ref(id).and_compute_with(replace).await;
                self.unknown.invalidate(id).await;
            }
            Found::Absent => {
                self.known.invalidate(id).await;
                self.unknown.insert(id.clone(), self.clock.monotonic()).await;
            }
            Found::Failed(_) => {}
        }
    }

    /// `None`: the store knows it.
    fn last_use(&self, id: &KeyId) -> Option<Timestamp> {
        self.used().get(id).copied()
    }

    fn used(&self) -> MutexGuard<'_, HashMap<KeyId, Timestamp>> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether an entry is as good as what the store would say.
    fn is_good(&self, entry: &Entry) -> bool {
        let patience = if self.store_is_down.load(Ordering::Relaxed) { STALE } else { FRESH };
        self.age(entry.loaded_at) < patience
    }

    fn age(&self, since: Duration) -> Duration {
        self.clock.monotonic().saturating_sub(since)
    }
}

#[async_trait]
impl KeyStore for CachedKeyStore {
    async fn find(&self, id: &KeyId) -> Result<Option<Arc<StoredKey>>, StoreError> {
        let cached = self.known.get(id).await;
        if let Some(entry) = &cached {
            if self.is_good(entry) {
                return Ok(Some(entry.key()));
            }
        } else if self.unknown.get(id).await.is_some_and(|at| self.age(at) < ABSENT) {
            return Ok(None);
        }
        match self.look_up(id).await {
            Found::Known(entry) => Ok(Some(entry.key())),
            Found::Absent => Ok(None),
            Found::Failed(error) => match (cached, &*error) {
                (Some(entry), StoreError::Unavailable(_)) if self.age(entry.loaded_at) < STALE => Ok(Some(entry.key())),
                (_, StoreError::Unavailable(_)) => Err(StoreError::Unavailable(error.into())),
                (_, StoreError::Conflict(what)) => Err(StoreError::Conflict(what.clone())),
                (_, StoreError::Corrupt(what)) => Err(StoreError::Corrupt(what.clone())),
            },
        }
    }

    fn remembered(&self, id: &KeyId) -> Option<Arc<StoredKey>> {
        // The cache waits only where it has much to tidy up: then the asynchronous way is as good.
        let answer = pin!(self.known.get(id)).poll(&mut Context::from_waker(Waker::noop()));
        let Poll::Ready(Some(entry)) = answer else { return None };
        self.is_good(&entry).then(|| entry.key())
    }

    async fn create(&self, key: &StoredKey) -> Result<(), StoreError> {
        let created = self.store.create(key).await;
        self.forget(&key.id).await; // also after an error: it may have been written all the same
        created
    }

    async fn update(&self, key: &StoredKey) -> Result<i64, StoreError> {
        let updated = self.store.update(key).await;
        self.forget(&key.id).await;
        updated
    }

    async fn list(&self, after: Option<&KeyId>, limit: u16) -> Result<KeyPage, StoreError> {
        self.store.list(after, limit).await
    }

    async fn changed_since(&self, sequence: i64) -> Result<KeyChanges, StoreError> {
        self.store.changed_since(sequence).await
    }

    async fn current_sequence(&self) -> Result<i64, StoreError> {
        self.store.current_sequence().await
    }

    /// Seen here at once; [`KeyFeed`] brings it to the store.
    async fn touch(&self, used: &[(KeyId, Timestamp)]) -> Result<(), StoreError> {
        for (id, at) in used {
            self.used().entry(id.clone()).and_modify(|last| *last = (*last).max(*at)).or_insert(*at);
            if let Some(entry) = self.known.get(id).await {
                entry.used(*at);
            }
        }
        Ok(())
    }

    async fn remember_pepper(&self, version: u16, fingerprint: [u8; 32]) -> Result<[u8; 32], StoreError> {
        self.store.remember_pepper(version, fingerprint).await
    }
}
