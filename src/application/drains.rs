//! Calls whose client has gone, brought to their end for the sake of the provider's own count of them.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use ai4free_ports::runtime::{TaskSpawner, Timer};
use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared, select},
};

/// In the whole process. Clients that leave in crowds must not keep as many upstream calls alive.
const MOST_AT_ONCE: usize = 64;
/// For each, from when its client left.
const MOST_TIME: Duration = Duration::from_secs(30);

/// Where the rest of a reply is read when nobody waits for it any more.
pub struct Drains {
    spawner: Arc<dyn TaskSpawner>,
    timer: Arc<dyn Timer>,
    /// Resolves when the gateway cuts what still runs.
    cut: Shared<BoxFuture<'static, ()>>,
    running: Arc<AtomicUsize>,
}

impl Drains {
    #[must_use]
    pub fn new(
        spawner: Arc<dyn TaskSpawner>,
        timer: Arc<dyn Timer>,
        cut: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        Self { spawner, timer, cut: cut.boxed().shared(), running: Arc::default() }
    }

    /// How many are being read.
    #[must_use]
    pub fn running(&self) -> usize {
        self.running.load(Ordering::Relaxed)
    }

    /// Drives `reading` to its end, or drops it: at once when too many are being read already, later when its time is up or
    /// the gateway is cut.
    pub(super) fn take(&self, reading: impl Future<Output = ()> + Send + 'static) {
        let Some(place) = Place::among(&self.running) else { return };
        let end = select(self.timer.sleep(MOST_TIME), self.cut.clone());
        let reading = Box::pin(reading);
        self.spawner.spawn(Box::pin(async move {
            select(end, reading).await;
            drop(place);
        }));
    }
}

/// One of the places there are.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn among(taken: &Arc<AtomicUsize>) -> Option<Self> {
        let one_more = |count: usize| (count < MOST_AT_ONCE).then_some(count + 1);
        let is_free = taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok();
        is_free.then(|| Self(taken.clone()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
