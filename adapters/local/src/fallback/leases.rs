//! The leases that this process decides about by itself.

use std::{
    collections::HashMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use ai4free_ports::rate_limiter::LeaseId;

/// Enough that threads of one machine rarely meet in one shard.
const SHARDS: usize = 64;

/// For how long a lease that is not held is remembered: until its request has been refused for good.
const UNDECIDED: Duration = Duration::from_secs(10);

/// While there are none, which is the rule, nothing is locked.
///
/// From the first failure of the shared limiter on, a lease is decided about here and never again there: the shared limiter is
/// told that the lease is void, and that may arrive after anything else.
pub(super) struct LocalLeases {
    /// Whoever asks for a lease has been told that it was bound: no order between this and the shards is needed.
    count: AtomicUsize,
    shards: Vec<Mutex<Shard>>,
}

#[derive(Default)]
struct Shard {
    leases: HashMap<LeaseId, Lease>,
    swept: Duration,
}

#[derive(Clone, Copy)]
enum Lease {
    /// Since this time.
    Undecided(Duration),
    Held,
}

impl Default for LocalLeases {
    fn default() -> Self {
        Self { count: AtomicUsize::new(0), shards: (0..SHARDS).map(|_| Mutex::default()).collect() }
    }
}

impl LocalLeases {
    /// From now on it is decided about here.
    pub(super) fn bind(&self, lease: LeaseId, now: Duration) {
        let Some(mut shard) = self.shard(lease) else { return };
        let before = shard.leases.len();
        if now >= shard.swept + UNDECIDED {
            shard.swept = now;
            shard.leases.retain(|_, lease| match lease {
                Lease::Undecided(since) => now < *since + UNDECIDED,
                Lease::Held => true,
            });
        }
        self.count.fetch_sub(before - shard.leases.len(), Ordering::Relaxed);
        if shard.leases.insert(lease, Lease::Undecided(now)).is_none() {
            self.count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// It is held here. Whether that is new.
    pub(super) fn hold(&self, lease: LeaseId) -> bool {
        let Some(mut shard) = self.shard(lease) else { return false };
        let known = shard.leases.insert(lease, Lease::Held);
        if known.is_none() {
            self.count.fetch_add(1, Ordering::Relaxed);
        }
        !matches!(known, Some(Lease::Held))
    }

    pub(super) fn contains(&self, lease: LeaseId) -> bool {
        self.are_there_any() && self.shard(lease).is_some_and(|shard| shard.leases.contains_key(&lease))
    }

    /// Whether it was there.
    pub(super) fn remove(&self, lease: LeaseId) -> bool {
        let was_there =
            self.are_there_any() && self.shard(lease).is_some_and(|mut shard| shard.leases.remove(&lease).is_some());
        if was_there {
            self.count.fetch_sub(1, Ordering::Relaxed);
        }
        was_there
    }

    fn are_there_any(&self) -> bool {
        self.count.load(Ordering::Relaxed) > 0
    }

    fn shard(&self, lease: LeaseId) -> Option<MutexGuard<'_, Shard>> {
        // The low bits of a UUIDv7 are random.
        let shard = usize::from(lease.request.0.as_bytes().last().copied().unwrap_or(0)) % SHARDS;
        self.shards.get(shard).map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
