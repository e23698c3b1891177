//! The contract of the store that is cached, kept by the cache too while its feed runs.

use ai4free_contract::{key_store::Harness, key_store_contract, memory_keys::MemoryKeyStore};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::clock::SystemClock;

struct Cached {
    store: Arc<CachedKeyStore>,
    shutdown: CancellationToken,
    feed: JoinHandle<()>,
}

#[async_trait]
impl Harness for Cached {
    async fn fresh() -> Option<Self> {
        let (store, feed) = CachedKeyStore::new(Arc::new(MemoryKeyStore::default()), Arc::new(SystemClock::new()));
        let shutdown = CancellationToken::new();
        #[expect(clippy::disallowed_methods, reason = "the feed runs beside each clause")]
        let feed = tokio::spawn(feed.run(shutdown.clone()));
        Some(Self { store, shutdown, feed })
    }

    fn store(&self) -> Arc<dyn KeyStore> {
        self.store.clone()
    }

    async fn end(self) {
        self.shutdown.cancel();
        self.feed.await.unwrap();
    }
}

key_store_contract!(Cached);
