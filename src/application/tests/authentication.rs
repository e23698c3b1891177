//! What authentication asks of the key store.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use ai4free_ports::{
    error::StoreError,
    key::{ApiKey, KeyId, StoredKey, StoredSecret},
    key_store::{KeyChanges, KeyPage, KeyStore},
    runtime::{Clock, KeyHasher, SecretSource, Timestamp},
};
use async_trait::async_trait;
use zeroize::Zeroizing;

use super::fakes::{ManualClock, run};
use crate::application::authentication::{Authentication, Principal};

struct OneKey {
    key: Mutex<StoredKey>,
    touches: Mutex<Vec<Timestamp>>,
}

#[async_trait]
impl KeyStore for OneKey {
    async fn find(&self, _id: &KeyId) -> Result<Option<Arc<StoredKey>>, StoreError> {
        Ok(Some(Arc::new(self.key.lock().unwrap().clone())))
    }

    async fn create(&self, _key: &StoredKey) -> Result<(), StoreError> {
        panic!("authentication changes no key")
    }

    async fn update(&self, _key: &StoredKey) -> Result<i64, StoreError> {
        panic!("authentication changes no key")
    }

    async fn list(&self, _after: Option<&KeyId>, _limit: u16) -> Result<KeyPage, StoreError> {
        panic!("authentication lists no keys")
    }

    async fn changed_since(&self, _sequence: i64) -> Result<KeyChanges, StoreError> {
        panic!("authentication follows no feed")
    }

    async fn current_sequence(&self) -> Result<i64, StoreError> {
        panic!("authentication follows no feed")
    }

    async fn touch(&self, used: &[(KeyId, Timestamp)]) -> Result<(), StoreError> {
        let mut touches = self.touches.lock().unwrap();
        touches.extend(used.iter().map(|(_, at)| *at));
        self.key.lock().unwrap().last_used_at = touches.last().copied();
        Ok(())
    }

    async fn remember_pepper(&self, _version: u16, _fingerprint: [u8; 32]) -> Result<[u8; 32], StoreError> {
        panic!("authentication checks no pepper")
    }
}

/// "Hashes" a key to the last bytes of its secret.
struct PlainHasher;

impl KeyHasher for PlainHasher {
    fn hash(&self, key: &ApiKey) -> StoredSecret {
        StoredSecret { hmac: *self.fingerprint(key), pepper_version: 1, expires_at: None }
    }

    fn matches(&self, key: &ApiKey, stored: &StoredSecret) -> bool {
        self.hash(key) == *stored
    }

    fn fingerprint(&self, key: &ApiKey) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(*key.secret().as_bytes().last_chunk().unwrap())
    }

    fn peppers(&self) -> Vec<(u16, [u8; 32])> {
        Vec::new()
    }
}

struct Repeated(u8);

impl SecretSource for Repeated {
    fn fill(&self, bytes: &mut [u8]) {
        bytes.fill(self.0);
    }
}

#[test]
fn the_use_of_a_key_is_noted_once_a_minute_and_only_with_its_secret() {
    let clock = Arc::new(ManualClock::default());
    let good = ApiKey::generate(&Repeated(1));
    let wrong = ApiKey::rotate(&good.id(), &Repeated(2));
    let system = Principal::system(&*clock).key().clone();
    let key = StoredKey { id: good.id(), secrets: vec![PlainHasher.hash(&good)], ..system };
    let store = Arc::new(OneKey { key: Mutex::new(key), touches: Mutex::default() });
    let authentication = Authentication { keys: store.clone(), hasher: Arc::new(PlainHasher), clock: clock.clone() };
    let start = clock.now();
    for _ in 0..130 {
        assert!(run(authentication.authenticate(Some(wrong.reveal()))).is_err());
        clock.advance(Duration::from_secs(1));
        run(authentication.authenticate(Some(good.reveal()))).unwrap();
    }
    let second = |n| start.saturating_add(Duration::from_secs(n));
    assert_eq!(*store.touches.lock().unwrap(), [second(1), second(61), second(121)]);
}
