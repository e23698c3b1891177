use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use ai4free_ports::rate_limiter::LeaseId;
use fred::types::Key;

const SHARDS: usize = 16;

/// The leases of this replica that Redis must not lose or give up: with the concurrency that the heartbeat keeps alive, and
/// until Redis knows how they ended and has no copy of their events any more.
pub(crate) struct OpenLeases(Vec<Mutex<HashMap<LeaseId, Lease>>>);

#[derive(Default)]
struct Lease {
    keys: Vec<Key>,
    events: Events,
}

/// Where the final events of a lease's request are.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Events {
    #[default]
    NowhereYet,
    /// Redis keeps a copy of them.
    InRedis,
    InLedger,
}

impl Default for OpenLeases {
    fn default() -> Self {
        Self((0..SHARDS).map(|_| Mutex::default()).collect())
    }
}

impl OpenLeases {
    pub(crate) fn insert(&self, id: LeaseId, keys: Vec<Key>) {
        if let Some(mut shard) = self.shard(id) {
            shard.insert(id, Lease { keys, events: Events::NowhereYet });
        }
    }

    /// Its concurrency is no longer kept alive.
    pub(crate) fn end(&self, id: LeaseId) {
        if let Some(lease) = self.shard(id).as_mut().and_then(|shard| shard.get_mut(&id)) {
            lease.keys.clear();
        }
    }

    pub(crate) fn remove(&self, id: LeaseId) {
        if let Some(mut shard) = self.shard(id) {
            shard.remove(&id);
        }
    }

    /// Redis knows how it ended, and keeps a copy. Whether nobody needs that any more.
    pub(crate) fn copied(&self, id: LeaseId) -> bool {
        let Some(mut shard) = self.shard(id) else { return true };
        match shard.get_mut(&id) {
            Some(lease) if lease.events != Events::InLedger => {
                lease.events = Events::InRedis;
                false
            }
            _ => {
                shard.remove(&id);
                true
            }
        }
    }

    /// The ledger has the events of its request. Whether Redis keeps a copy that nobody needs any more.
    pub(crate) fn recorded(&self, id: LeaseId) -> bool {
        let Some(mut shard) = self.shard(id) else { return false };
        let has_copy = shard.get(&id).is_some_and(|lease| lease.events == Events::InRedis);
        if has_copy {
            shard.remove(&id);
        } else if let Some(lease) = shard.get_mut(&id) {
            lease.events = Events::InLedger;
        }
        has_copy
    }

    /// Whether the ledger has the events of its request.
    pub(crate) fn is_recorded(&self, id: LeaseId) -> bool {
        self.shard(id).is_some_and(|shard| shard.get(&id).is_some_and(|lease| lease.events == Events::InLedger))
    }

    /// How many copies Redis keeps for this replica.
    pub(crate) fn copies(&self) -> usize {
        self.locked().map(|shard| shard.values().filter(|lease| lease.events == Events::InRedis).count()).sum()
    }

    /// Each lease once per key.
    pub(crate) fn concurrency(&self) -> Vec<(LeaseId, Key)> {
        let mut all = Vec::new();
        for shard in self.locked() {
            all.extend(shard.iter().flat_map(|(id, lease)| lease.keys.iter().map(|key| (*id, key.clone()))));
        }
        all
    }

    pub(crate) fn ids(&self) -> Vec<LeaseId> {
        self.locked().flat_map(|shard| shard.keys().copied().collect::<Vec<_>>()).collect()
    }

    /// One shard after the other.
    fn locked(&self) -> impl Iterator<Item = MutexGuard<'_, HashMap<LeaseId, Lease>>> {
        self.0.iter().map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn shard(&self, id: LeaseId) -> Option<MutexGuard<'_, HashMap<LeaseId, Lease>>> {
        // The low bits of a UUIDv7 are random.
        let place = usize::from(id.request.0.as_bytes().last().copied().unwrap_or(0)) % SHARDS;
        self.0.get(place).map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use ai4free_ports::request::RequestId;

    use super::*;

    const ID: LeaseId = LeaseId { request: RequestId(uuid::Uuid::nil()), number: 0 };

    #[test]
    fn a_copy_is_done_with_whichever_comes_first_redis_or_the_ledger() {
        let open = OpenLeases::default();
        open.insert(ID, Vec::new());
        assert!(!open.copied(ID));
        assert_eq!(open.copies(), 1);
        assert!(open.recorded(ID), "Redis first");
        assert!(!open.recorded(ID), "once is enough");
        open.insert(ID, Vec::new());
        assert!(!open.recorded(ID) && open.is_recorded(ID));
        assert!(open.copied(ID), "the ledger first");
        assert_eq!((open.copies(), open.ids().len()), (0, 0));
    }
}
