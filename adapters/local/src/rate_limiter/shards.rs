//! The cells of all scopes, in shards that lock apart from each other.

use std::{collections::HashMap, sync::PoisonError, time::Duration};

use ai4free_ports::rate_limiter::{RATE_WINDOW, Scope};

// The test of the lock order puts loom's locks in their place.
use super::{Cell, Mutex, MutexGuard};

/// One for each value of a byte.
const SHARDS: usize = 256;

pub(super) struct ScopeShards(Vec<Mutex<Shard>>);

impl Default for ScopeShards {
    fn default() -> Self {
        Self((0..SHARDS).map(|_| Mutex::default()).collect())
    }
}

impl ScopeShards {
    /// Locks what these scopes need, each shard once and in ascending order: so two callers never wait for each other.
    pub(super) fn lock<'a, 'b>(&'a self, scopes: impl Iterator<Item = &'b Scope>) -> LockedScopes<'a> {
        let mut places: Vec<usize> = scopes.map(place).collect();
        places.sort_unstable();
        places.dedup();
        let lock =
            |place: usize| self.0.get(place).map(|shard| (place, shard.lock().unwrap_or_else(PoisonError::into_inner)));
        LockedScopes(places.into_iter().filter_map(lock).collect())
    }

    /// Whatever each cell has to tell, one shard at a time.
    pub(super) fn collect<T>(&self, tell: impl Fn(&Scope, &Cell) -> Vec<T>) -> Vec<T> {
        let shards = self.0.iter().map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner));
        shards
            .flat_map(|shard| shard.cells.iter().flat_map(|(scope, cell)| tell(scope, cell)).collect::<Vec<T>>())
            .collect()
    }

    /// How many cells each shard has.
    #[cfg(test)]
    pub(super) fn sizes(&self) -> impl Iterator<Item = usize> {
        self.0.iter().map(|shard| shard.lock().unwrap().cells.len())
    }
}

/// The cells of some scopes, for as long as this lives.
pub(super) struct LockedScopes<'a>(Vec<(usize, MutexGuard<'a, Shard>)>);

impl LockedScopes<'_> {
    /// Makes the cell if there is none. `None`: the scope was not among those locked.
    pub(super) fn cell(&mut self, scope: &Scope) -> Option<&mut Cell> {
        self.shard(scope).map(|shard| shard.cells.entry(scope.clone()).or_default())
    }

    pub(super) fn existing_cell(&mut self, scope: &Scope) -> Option<&mut Cell> {
        self.shard(scope).and_then(|shard| shard.cells.get_mut(scope))
    }

    /// Bounds the memory: once per window and shard, drops the cells that a new one would replace without a difference.
    pub(super) fn drop_idle(&mut self, now: Duration) {
        let second = now.as_secs();
        for (_, shard) in &mut self.0 {
            if second >= shard.swept + RATE_WINDOW.as_secs() {
                shard.swept = second;
                shard.cells.retain(|_, cell| {
                    cell.budgets.forget_old(now);
                    !cell.is_idle(second)
                });
            }
        }
    }

    fn shard(&mut self, scope: &Scope) -> Option<&mut Shard> {
        let wanted = place(scope);
        self.0.iter_mut().find(|(place, _)| *place == wanted).map(|(_, guard)| &mut **guard)
    }
}

#[derive(Default)]
struct Shard {
    cells: HashMap<Scope, Cell>,
    swept: u64,
}

/// Ids differ at their ends (random key ids, numbered users). A bad spread costs only waiting, so no full hash is needed.
fn place(scope: &Scope) -> usize {
    let id = scope.id().as_bytes();
    let end = match id.last_chunk::<8>() {
        Some(end) => u64::from_le_bytes(*end),
        None => id.iter().fold(0, |end, byte| end << 8 | u64::from(*byte)),
    };
    let kind = u64::from(scope.name().bytes().next().unwrap_or(0));
    // Fibonacci hashing: the upper byte depends on all the others.
    let hash = (end ^ kind).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    usize::from(hash.to_be_bytes()[0])
}
