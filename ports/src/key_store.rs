//! Where API keys are kept.

use std::sync::Arc;

use async_trait::async_trait;

use crate::{
    error::StoreError,
    key::{KeyId, StoredKey},
    runtime::Timestamp,
};

/// A page of keys, in the order of their creation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyPage {
    pub keys: Vec<StoredKey>,
    pub has_more: bool,
}

/// What changed since a point of the change sequence.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyChanges {
    pub keys: Vec<KeyId>,
    /// Where to go on from.
    pub sequence: i64,
}

/// Keys and their change feed (`ai4free_contract::key_store`).
///
/// Operator's port: `create`, `update` and `list` are reached with the system secret only; the data plane uses `find`.
#[async_trait]
pub trait KeyStore: Send + Sync {
    /// `Ok(None)` for an unknown id. Shared: a store that answers from memory is asked by every request.
    ///
    /// # Errors
    /// An unreachable store MUST be an error, never `None`: our outage is not the client's wrong key.
    async fn find(&self, id: &KeyId) -> Result<Option<Arc<StoredKey>>, StoreError>;

    /// What [`KeyStore::find`] would answer from memory. `None`: it has to be asked.
    fn remembered(&self, _id: &KeyId) -> Option<Arc<StoredKey>> {
        None
    }

    /// # Errors
    /// [`StoreError::Conflict`] if the id exists.
    async fn create(&self, key: &StoredKey) -> Result<(), StoreError>;

    /// Replaces a key whose stored version is still `key.version`, stores it with the version after, and puts it on the
    /// change feed in the same transaction. Returns the new version.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if somebody else changed it first: a stale writer can't resurrect a revoked key.
    async fn update(&self, key: &StoredKey) -> Result<i64, StoreError>;

    async fn list(&self, after: Option<&KeyId>, limit: u16) -> Result<KeyPage, StoreError>;

    /// Keys created or changed after `sequence`, each once, at most 1000 at a time. Polled twice a second by every replica,
    /// so that a revocation is seen within 1 s even when nothing else works. May repeat a change, never misses one. A `sequence` that the store
    /// has not reached (an older state of it was restored) is answered with the one that it has.
    async fn changed_since(&self, sequence: i64) -> Result<KeyChanges, StoreError>;

    /// The sequence as it stands: where a replica that knows no key yet starts.
    async fn current_sequence(&self) -> Result<i64, StoreError>;

    /// Notes when keys were last used, as [`StoredKey::last_used_at`] then says. Best effort, not a change; never moves a
    /// time back.
    async fn touch(&self, used: &[(KeyId, Timestamp)]) -> Result<(), StoreError>;

    /// Remembers the fingerprint of a pepper version unless one is remembered already; returns the one that is remembered.
    async fn remember_pepper(&self, version: u16, fingerprint: [u8; 32]) -> Result<[u8; 32], StoreError>;
}
