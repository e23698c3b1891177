//! The leases that this process holds by itself.

use std::{
    collections::HashSet,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use ai4free_ports::rate_limiter::LeaseId;

/// Enough that threads of one machine rarely meet in one shard.
const SHARDS: usize = 64;

/// While there are none, which is the rule, nothing is locked.
pub(super) struct LocalLeases {
    /// Whoever asks for a lease has been told that it was inserted: no order between this and the shards is needed.
    count: AtomicUsize,
    shards: Vec<Mutex<HashSet<LeaseId>>>,
}

impl Default for LocalLeases {
    fn default() -> Self {
        Self { count: AtomicUsize::new(0), shards: (0..SHARDS).map(|_| Mutex::default()).collect() }
    }
}

impl LocalLeases {
    /// Whether it is new.
    pub(super) fn insert(&self, lease: LeaseId) -> bool {
        let is_new = self.shard(lease).is_some_and(|mut shard| shard.insert(lease));
        if is_new {
            self.count.fetch_add(1, Ordering::Relaxed);
        }
        is_new
    }

    pub(super) fn contains(&self, lease: LeaseId) -> bool {
        self.are_there_any() && self.shard(lease).is_some_and(|shard| shard.contains(&lease))
    }

    /// Whether it was there.
    pub(super) fn remove(&self, lease: LeaseId) -> bool {
        let was_there = self.are_there_any() && self.shard(lease).is_some_and(|mut shard| shard.remove(&lease));
        if was_there {
            self.count.fetch_sub(1, Ordering::Relaxed);
        }
        was_there
    }

    fn are_there_any(&self) -> bool {
        self.count.load(Ordering::Relaxed) > 0
    }

    fn shard(&self, lease: LeaseId) -> Option<MutexGuard<'_, HashSet<LeaseId>>> {
        // The low bits of a UUIDv7 are random.
        let shard = usize::from(lease.request.0.as_bytes().last().copied().unwrap_or(0)) % SHARDS;
        self.shards.get(shard).map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
