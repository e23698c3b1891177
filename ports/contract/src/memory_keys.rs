//! A key store in memory that keeps the port's promises exactly.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
};

use ai4free_ports::{
    error::StoreError,
    key::{KeyId, StoredKey},
    key_store::{KeyChanges, KeyPage, KeyStore},
    runtime::Timestamp,
};
use async_trait::async_trait;

/// Changes that one poll of the feed may return.
const CHANGES_AT_A_TIME: usize = 1000;

#[derive(Default)]
pub struct MemoryKeyStore {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// In the order of their creation.
    rows: Vec<Row>,
    /// The number of the last change.
    sequence: i64,
    peppers: HashMap<u16, [u8; 32]>,
}

struct Row {
    key: StoredKey,
    changed_sequence: i64,
}

impl MemoryKeyStore {
    /// Lets others run before each answer, as a store that is asked over a network does.
    async fn state(&self) -> MutexGuard<'_, State> {
        tokio::task::yield_now().await;
        self.state.lock().unwrap()
    }
}

impl State {
    fn row(&mut self, id: &KeyId) -> Option<&mut Row> {
        self.rows.iter_mut().find(|row| row.key.id == *id)
    }
}

#[async_trait]
impl KeyStore for MemoryKeyStore {
    async fn find(&self, id: &KeyId) -> Result<Option<Arc<StoredKey>>, StoreError> {
        let found = self.state().await.row(id).map(|row| Arc::new(row.key.clone()));
        // What was read may have changed before it arrives.
        tokio::task::yield_now().await;
        Ok(found)
    }

    async fn create(&self, key: &StoredKey) -> Result<(), StoreError> {
        let mut state = self.state().await;
        if state.row(&key.id).is_some() {
            return Err(StoreError::Conflict("the key exists".into()));
        }
        state.sequence += 1;
        let changed_sequence = state.sequence;
        state.rows.push(Row { key: key.clone(), changed_sequence });
        Ok(())
    }

    async fn update(&self, key: &StoredKey) -> Result<i64, StoreError> {
        let mut state = self.state().await;
        let changed_sequence = state.sequence + 1;
        let row = state.row(&key.id).filter(|row| row.key.version == key.version);
        let row = row.ok_or_else(|| StoreError::Conflict("the key was changed in the meantime".into()))?;
        let version = key.version + 1;
        // What `touch` has written is newer than what this writer had read.
        let last_used_at = row.key.last_used_at;
        *row = Row { key: StoredKey { version, last_used_at, ..key.clone() }, changed_sequence };
        state.sequence = changed_sequence;
        Ok(version)
    }

    async fn list(&self, after: Option<&KeyId>, limit: u16) -> Result<KeyPage, StoreError> {
        let state = self.state().await;
        let start = match after {
            None => 0,
            Some(after) => {
                state.rows.iter().position(|row| row.key.id == *after).map_or(state.rows.len(), |place| place + 1)
            }
        };
        let rest = &state.rows[start..];
        let keys = rest.iter().take(usize::from(limit)).map(|row| row.key.clone()).collect();
        Ok(KeyPage { keys, has_more: rest.len() > usize::from(limit) })
    }

    async fn changed_since(&self, sequence: i64) -> Result<KeyChanges, StoreError> {
        let state = self.state().await;
        let mut changed: Vec<&Row> = state.rows.iter().filter(|row| row.changed_sequence > sequence).collect();
        changed.sort_by_key(|row| row.changed_sequence);
        changed.truncate(CHANGES_AT_A_TIME);
        let sequence = changed.last().map_or(sequence.min(state.sequence), |row| row.changed_sequence);
        Ok(KeyChanges { keys: changed.into_iter().map(|row| row.key.id.clone()).collect(), sequence })
    }

    async fn current_sequence(&self) -> Result<i64, StoreError> {
        Ok(self.state().await.sequence)
    }

    async fn touch(&self, used: &[(KeyId, Timestamp)]) -> Result<(), StoreError> {
        let mut state = self.state().await;
        for (id, at) in used {
            if let Some(row) = state.row(id) {
                row.key.last_used_at = row.key.last_used_at.max(Some(*at));
            }
        }
        Ok(())
    }

    async fn remember_pepper(&self, version: u16, fingerprint: [u8; 32]) -> Result<[u8; 32], StoreError> {
        Ok(*self.state().await.peppers.entry(version).or_insert(fingerprint))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key_store::Harness;

    struct InMemory(Arc<MemoryKeyStore>);

    #[async_trait]
    impl Harness for InMemory {
        async fn fresh() -> Option<Self> {
            Some(Self(Arc::default()))
        }

        fn store(&self) -> Arc<dyn KeyStore> {
            self.0.clone()
        }

        async fn end(self) {}
    }

    crate::key_store_contract!(InMemory);
}
