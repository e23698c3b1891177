use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use ai4free_ports::rate_limiter::LeaseId;
use fred::types::Key;

const SHARDS: usize = 16;

/// The leases of this replica that Redis must not lose or give up: with the concurrency that the heartbeat keeps alive, and
/// until Redis knows how they ended.
pub(crate) struct OpenLeases(Vec<Mutex<HashMap<LeaseId, Vec<Key>>>>);

impl Default for OpenLeases {
    fn default() -> Self {
        Self((0..SHARDS).map(|_| Mutex::default()).collect())
    }
}

impl OpenLeases {
    pub(crate) fn insert(&self, id: LeaseId, keys: Vec<Key>) {
        if let Some(mut shard) = self.shard(id) {
            shard.insert(id, keys);
        }
    }

    /// Its concurrency is no longer kept alive.
    pub(crate) fn end(&self, id: LeaseId) {
        if let Some(keys) = self.shard(id).as_mut().and_then(|shard| shard.get_mut(&id)) {
            keys.clear();
        }
    }

    pub(crate) fn remove(&self, id: LeaseId) {
        if let Some(mut shard) = self.shard(id) {
            shard.remove(&id);
        }
    }

    /// Each lease once per key.
    pub(crate) fn concurrency(&self) -> Vec<(LeaseId, Key)> {
        let mut all = Vec::new();
        for shard in self.locked() {
            all.extend(shard.iter().flat_map(|(id, keys)| keys.iter().map(|key| (*id, key.clone()))));
        }
        all
    }

    pub(crate) fn ids(&self) -> Vec<LeaseId> {
        self.locked().flat_map(|shard| shard.keys().copied().collect::<Vec<_>>()).collect()
    }

    /// One shard after the other.
    fn locked(&self) -> impl Iterator<Item = MutexGuard<'_, HashMap<LeaseId, Vec<Key>>>> {
        self.0.iter().map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn shard(&self, id: LeaseId) -> Option<MutexGuard<'_, HashMap<LeaseId, Vec<Key>>>> {
        // The low bits of a UUIDv7 are random.
        let place = usize::from(id.request.0.as_bytes().last().copied().unwrap_or(0)) % SHARDS;
        self.0.get(place).map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
