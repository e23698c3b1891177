use std::{
    collections::HashMap,
    future::Future,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use ai4free_ports::key::KeyId;
use tokio::sync::OnceCell;

use super::Found;

/// Look-ups that have not ended. Only touched by requests whose key is not in memory.
#[derive(Default)]
pub(super) struct Flights {
    current: Mutex<HashMap<KeyId, Arc<Slot>>>,
}

#[derive(Default)]
struct Slot {
    outcome: OnceCell<Found>,
    is_outdated: AtomicBool,
}

/// A place in a look-up, left when dropped.
pub(super) struct Flight<'a> {
    flights: &'a Flights,
    id: &'a KeyId,
    slot: Arc<Slot>,
}

impl Flights {
    pub(super) fn join<'a>(&'a self, id: &'a KeyId) -> Flight<'a> {
        let slot = self.current().entry(id.clone()).or_default().clone();
        Flight { flights: self, id, slot }
    }

    /// What a look-up that has begun will say of this key may be old by then.
    pub(super) fn outdate(&self, id: &KeyId) {
        if let Some(slot) = self.current().remove(id) {
            slot.is_outdated.store(true, Ordering::SeqCst);
        }
    }

    pub(super) fn outdate_all(&self) {
        for (_, slot) in self.current().drain() {
            slot.is_outdated.store(true, Ordering::SeqCst);
        }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.current().is_empty()
    }

    fn current(&self) -> MutexGuard<'_, HashMap<KeyId, Arc<Slot>>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Flight<'_> {
    /// The first who comes looks up, the others wait. If the first one is dropped meanwhile, another takes over.
    pub(super) async fn outcome<F: Future<Output = Found>>(&self, look_up: impl FnOnce() -> F) -> Found {
        self.slot.outcome.get_or_init(look_up).await.clone()
    }

    pub(super) fn is_outdated(&self) -> bool {
        self.slot.is_outdated.load(Ordering::SeqCst)
    }
}

impl Drop for Flight<'_> {
    /// Nobody may find an outcome that is there already: it would never be asked again.
    fn drop(&mut self) {
        let mut current = self.flights.current();
        let is_last = Arc::strong_count(&self.slot) <= 2; // ours and the map's
        let is_over = is_last || self.slot.outcome.initialized();
        if is_over && current.get(self.id).is_some_and(|slot| Arc::ptr_eq(slot, &self.slot)) {
            current.remove(self.id);
        }
    }
}
