use std::{
    future::Future,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use ai4free_ports::{error::StoreError, key::KeyId, runtime::Timestamp};
use tokio_util::sync::CancellationToken;

use super::CachedKeyStore;

/// Twice a second, so that a change is seen within one.
const POLL: Duration = Duration::from_millis(500);
const TIMEOUT: Duration = Duration::from_secs(1);
/// Rows of one `touch`.
const TOUCHES: usize = 500;

/// Drops from the cache what has changed in the store, and brings the use of keys to it.
///
/// A clone can be run again after a panic.
#[derive(Clone)]
pub struct KeyFeed {
    cached: Arc<CachedKeyStore>,
}

impl KeyFeed {
    pub(super) fn new(cached: Arc<CachedKeyStore>) -> Self {
        Self { cached }
    }

    pub async fn run(self, shutdown: CancellationToken) {
        shutdown.run_until_cancelled(self.poll_for_ever()).await;
        self.flush_touches().await;
    }

    async fn poll_for_ever(&self) {
        let mut sequence = None;
        loop {
            let polled = self.poll(&mut sequence).await;
            let was_down = self.cached.store_is_down.swap(polled.is_err(), Ordering::Relaxed);
            match polled {
                Err(error) if !was_down => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "the key store does not answer");
                }
                Ok(()) if was_down => tracing::info!("the key store answers again"),
                Ok(()) | Err(_) => {}
            }
            if !self.cached.store_is_down.load(Ordering::Relaxed) {
                self.flush_touches().await;
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Takes in all changes that there are now.
    pub(super) async fn poll(&self, sequence: &mut Option<i64>) -> Result<(), StoreError> {
        let store = &*self.cached.store;
        let mut from = match *sequence {
            Some(from) => from,
            None => {
                let current = in_time(store.current_sequence()).await?;
                self.cached.forget_all(); // what was read before may have changed before
                *sequence = Some(current);
                current
            }
        };
        loop {
            let changes = in_time(store.changed_since(from)).await?;
            if changes.sequence < from {
                self.cached.forget_all(); // an older state of the store was restored
            }
            for id in &changes.keys {
                self.cached.forget(id).await;
            }
            let is_all = changes.keys.is_empty() || changes.sequence == from;
            from = changes.sequence;
            *sequence = Some(from);
            if is_all {
                return Ok(());
            }
        }
    }

    pub(super) async fn flush_touches(&self) {
        let used: Vec<(KeyId, Timestamp)> = self.cached.used().iter().map(|(id, at)| (id.clone(), *at)).collect();
        for part in used.chunks(TOUCHES) {
            if let Err(error) = in_time(self.cached.store.touch(part)).await {
                tracing::debug!(error = &error as &dyn std::error::Error, "the use of keys was not noted");
            }
            // Only now: a key that is read meanwhile still comes with its last use.
            let mut pending = self.cached.used();
            for (id, at) in part {
                if pending.get(id) == Some(at) {
                    pending.remove(id);
                }
            }
        }
    }
}

async fn in_time<T>(asked: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    tokio::time::timeout(TIMEOUT, asked).await.unwrap_or_else(|elapsed| Err(StoreError::Unavailable(elapsed.into())))
}
