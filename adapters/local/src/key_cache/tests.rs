use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, AtomicUsize},
    time::Instant,
};

use ai4free_contract::memory_keys::MemoryKeyStore;
use ai4free_ports::limits::Limits;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::*;

/// A store in memory that can be stopped between reading and answering.
#[derive(Default)]
struct FakeStore {
    keys: Mutex<BTreeMap<KeyId, StoredKey>>,
    changes: Mutex<Vec<KeyId>>,
    finds: AtomicUsize,
    at_once: AtomicUsize,
    most_at_once: AtomicUsize,
    is_down: AtomicBool,
    /// When set, each answer waits for a permit of `release`.
    is_gated: AtomicBool,
    has_read: Notify,
    release: Gate,
    touches: Mutex<Vec<(KeyId, Timestamp)>>,
}

struct Gate(Semaphore);

impl Default for Gate {
    fn default() -> Self {
        Self(Semaphore::new(0))
    }
}

impl FakeStore {
    fn with(ids: &[&KeyId]) -> Arc<Self> {
        let store = Self::default();
        store.keys.lock().unwrap().extend(ids.iter().map(|id| ((*id).clone(), key(id, 1))));
        Arc::new(store)
    }

    /// A change by another replica.
    fn change(&self, id: &KeyId) {
        self.keys.lock().unwrap().get_mut(id).unwrap().version += 1;
        self.changes.lock().unwrap().push(id.clone());
    }

    fn finds(&self) -> usize {
        self.finds.load(Ordering::SeqCst)
    }

    fn up(&self) -> Result<(), StoreError> {
        let down = self.is_down.load(Ordering::SeqCst);
        if down { Err(StoreError::Unavailable("down on purpose".into())) } else { Ok(()) }
    }
}

#[async_trait]
impl KeyStore for FakeStore {
    async fn find(&self, id: &KeyId) -> Result<Option<Arc<StoredKey>>, StoreError> {
        self.finds.fetch_add(1, Ordering::SeqCst);
        let at_once = self.at_once.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_at_once.fetch_max(at_once, Ordering::SeqCst);
        let found = self.keys.lock().unwrap().get(id).cloned().map(Arc::new);
        self.has_read.notify_one();
        if self.is_gated.load(Ordering::SeqCst) {
            self.release.0.acquire().await.unwrap().forget();
        }
        tokio::task::yield_now().await;
        self.at_once.fetch_sub(1, Ordering::SeqCst);
        self.up().map(|()| found)
    }

    async fn create(&self, key: &StoredKey) -> Result<(), StoreError> {
        self.up()?;
        self.keys.lock().unwrap().insert(key.id.clone(), key.clone());
        Ok(())
    }

    async fn update(&self, key: &StoredKey) -> Result<i64, StoreError> {
        self.up()?;
        let version = key.version + 1;
        self.keys.lock().unwrap().insert(key.id.clone(), StoredKey { version, ..key.clone() });
        Ok(version)
    }

    async fn list(&self, _after: Option<&KeyId>, _limit: u16) -> Result<KeyPage, StoreError> {
        Ok(KeyPage::default())
    }

    async fn changed_since(&self, sequence: i64) -> Result<KeyChanges, StoreError> {
        self.up()?;
        let changes = self.changes.lock().unwrap();
        let keys = changes.iter().skip(usize::try_from(sequence).unwrap()).take(2).cloned().collect::<Vec<_>>();
        let sequence = sequence + i64::try_from(keys.len()).unwrap();
        Ok(KeyChanges { keys, sequence })
    }

    async fn current_sequence(&self) -> Result<i64, StoreError> {
        self.up()?;
        Ok(i64::try_from(self.changes.lock().unwrap().len()).unwrap())
    }

    async fn touch(&self, used: &[(KeyId, Timestamp)]) -> Result<(), StoreError> {
        self.touches.lock().unwrap().extend_from_slice(used);
        Ok(())
    }

    async fn remember_pepper(&self, _version: u16, fingerprint: [u8; 32]) -> Result<[u8; 32], StoreError> {
        Ok(fingerprint)
    }
}

#[derive(Default)]
struct ManualClock(AtomicU64);

impl ManualClock {
    fn advance(&self, seconds: u64) {
        self.0.fetch_add(seconds, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_seconds(1_790_000_000).saturating_add(self.monotonic())
    }
    fn monotonic(&self) -> Duration {
        Duration::from_secs(self.0.load(Ordering::SeqCst))
    }
}

struct Setup {
    store: Arc<FakeStore>,
    clock: Arc<ManualClock>,
    cached: Arc<CachedKeyStore>,
    feed: KeyFeed,
}

fn setup(ids: &[&KeyId]) -> Setup {
    let (store, clock) = (FakeStore::with(ids), Arc::new(ManualClock::default()));
    let (cached, feed) = CachedKeyStore::new(store.clone(), clock.clone());
    Setup { store, clock, cached, feed }
}

fn id(number: usize) -> KeyId {
    KeyId::parse(&format!("{number:012}")).unwrap()
}

fn key(id: &KeyId, version: i64) -> StoredKey {
    StoredKey {
        id: id.clone(),
        name: "a key".into(),
        user_id: Some("ann".into()),
        plan: "default".into(),
        limits: Limits::NONE,
        models: Vec::new(),
        max_output_tokens: None,
        expires_at: None,
        revoked_at: None,
        created_at: Timestamp::default(),
        last_used_at: None,
        prefix: "sk-a4f-0000".into(),
        last4: "0000".into(),
        secrets: Vec::new(),
        version,
    }
}

async fn version(cached: &CachedKeyStore, id: &KeyId) -> i64 {
    cached.find(id).await.unwrap().unwrap().version
}

#[tokio::test]
async fn a_thousand_requests_with_one_unknown_key_ask_the_store_once() {
    let Setup { store, cached, .. } = setup(&[&id(1)]);
    let answers = find_all(&cached, (0..1000).map(|_| id(1))).await;
    assert!(answers.iter().all(|answer| answer.as_ref().unwrap().is_some()));
    assert_eq!(store.finds(), 1);
}

#[tokio::test]
async fn an_absent_key_is_not_asked_for_again_for_five_seconds() {
    let Setup { store, clock, cached, .. } = setup(&[]);
    for _ in 0..3 {
        assert!(cached.find(&id(1)).await.unwrap().is_none());
    }
    assert_eq!(store.finds(), 1);
    cached.create(&key(&id(1), 1)).await.unwrap();
    assert_eq!(version(&cached, &id(1)).await, 1);
    assert!(cached.find(&id(2)).await.unwrap().is_none());
    store.keys.lock().unwrap().insert(id(2), key(&id(2), 1));
    clock.advance(5);
    assert_eq!(version(&cached, &id(2)).await, 1);
}

#[tokio::test]
async fn a_flood_of_invented_keys_makes_eight_look_ups_at_a_time() {
    let Setup { store, cached, .. } = setup(&[]);
    let answers = find_all(&cached, (0..2000).map(id)).await;
    assert!(answers.iter().all(|answer| matches!(answer, Ok(None))));
    assert_eq!(store.most_at_once.load(Ordering::SeqCst), 8);
}

#[tokio::test]
async fn a_store_that_is_down_is_an_error_and_never_an_absent_key() {
    let Setup { store, cached, .. } = setup(&[&id(1)]);
    store.is_down.store(true, Ordering::SeqCst);
    for _ in 0..2 {
        assert!(matches!(cached.find(&id(1)).await, Err(StoreError::Unavailable(_))));
    }
    store.is_down.store(false, Ordering::SeqCst);
    assert_eq!(version(&cached, &id(1)).await, 1);
}

#[tokio::test]
async fn a_store_that_hangs_is_given_up_after_a_second() {
    let Setup { store, cached, .. } = setup(&[&id(1)]);
    store.is_gated.store(true, Ordering::SeqCst);
    let answers = find_all(&cached, (0..50).map(|_| id(1))).await;
    assert!(answers.iter().all(|answer| matches!(answer, Err(StoreError::Unavailable(_)))));
    assert_eq!(store.finds(), 1);
}

#[tokio::test]
async fn an_old_entry_is_served_only_while_the_store_is_down_and_only_for_a_while() {
    let Setup { store, clock, cached, .. } = setup(&[&id(1)]);
    assert_eq!(version(&cached, &id(1)).await, 1);
    clock.advance(599);
    assert_eq!((version(&cached, &id(1)).await, store.finds()), (1, 1));
    clock.advance(1);
    store.is_down.store(true, Ordering::SeqCst);
    assert_eq!((version(&cached, &id(1)).await, store.finds()), (1, 2));
    clock.advance(299);
    assert_eq!(version(&cached, &id(1)).await, 1);
    clock.advance(1);
    assert!(matches!(cached.find(&id(1)).await, Err(StoreError::Unavailable(_))));
}

#[tokio::test]
async fn a_store_that_is_known_to_be_down_is_not_asked_for_an_old_entry() {
    let Setup { store, clock, cached, feed } = setup(&[&id(1)]);
    assert_eq!(version(&cached, &id(1)).await, 1);
    clock.advance(700);
    store.is_down.store(true, Ordering::SeqCst);
    let shutdown = CancellationToken::new();
    let asking = async {
        while !cached.store_is_down.load(Ordering::SeqCst) {
            tokio::task::yield_now().await;
        }
        assert_eq!((version(&cached, &id(1)).await, store.finds()), (1, 1));
        shutdown.cancel();
    };
    tokio::join!(feed.clone().run(shutdown.clone()), asking);
}

#[tokio::test]
async fn an_update_is_seen_at_once() {
    let Setup { cached, .. } = setup(&[&id(1)]);
    let read = cached.find(&id(1)).await.unwrap().unwrap();
    let revoked = StoredKey { revoked_at: Some(Timestamp(1)), ..(*read).clone() };
    assert_eq!(cached.update(&revoked).await.unwrap(), 2);
    let found = cached.find(&id(1)).await.unwrap().unwrap();
    assert_eq!((found.version, found.revoked_at), (2, Some(Timestamp(1))));
}

#[tokio::test]
async fn changes_elsewhere_are_seen_after_a_poll() {
    let ids: Vec<_> = (0..7).map(id).collect();
    let Setup { store, cached, feed, .. } = setup(&ids.iter().collect::<Vec<_>>());
    let mut sequence = None;
    feed.poll(&mut sequence).await.unwrap();
    for id in &ids {
        assert_eq!(version(&cached, id).await, 1);
        store.change(id);
    }
    feed.poll(&mut sequence).await.unwrap();
    for id in &ids {
        assert_eq!(version(&cached, id).await, 2);
    }
}

#[tokio::test]
async fn what_was_read_before_the_first_poll_is_read_again() {
    let Setup { store, cached, feed, .. } = setup(&[&id(1)]);
    assert_eq!(version(&cached, &id(1)).await, 1);
    store.change(&id(1));
    feed.poll(&mut None).await.unwrap();
    assert_eq!(version(&cached, &id(1)).await, 2);
}

#[tokio::test]
async fn a_change_between_reading_and_remembering_is_not_missed() {
    for is_first_poll in [false, true] {
        let Setup { store, cached, feed, .. } = setup(&[&id(1)]);
        let mut sequence = None;
        if !is_first_poll {
            feed.poll(&mut sequence).await.unwrap();
        }
        store.is_gated.store(true, Ordering::SeqCst);
        let key = id(1);
        let change = async {
            store.has_read.notified().await; // the old version is on its way
            store.change(&key);
            feed.poll(&mut sequence).await.unwrap();
            store.is_gated.store(false, Ordering::SeqCst);
            store.release.0.add_permits(1);
        };
        let (before, ()) = tokio::join!(version(&cached, &key), change);
        assert_eq!(before, 1); // it was asked before the change
        assert_eq!(version(&cached, &key).await, 2);
    }
}

#[tokio::test]
async fn who_asks_after_a_change_does_not_get_the_answer_of_a_look_up_before_it() {
    let Setup { store, cached, .. } = setup(&[&id(1)]);
    store.is_gated.store(true, Ordering::SeqCst);
    let key = id(1);
    let change_and_ask = async {
        store.has_read.notified().await;
        let next = StoredKey { version: 1, revoked_at: Some(Timestamp(1)), ..self::key(&key, 1) };
        cached.update(&next).await.unwrap();
        store.release.0.add_permits(2);
        cached.find(&key).await.unwrap().unwrap().version
    };
    assert_eq!(tokio::join!(version(&cached, &key), change_and_ask), (1, 2));
}

#[tokio::test]
async fn an_older_version_never_replaces_a_newer_one() {
    let Setup { clock, cached, .. } = setup(&[]);
    let found = |version| {
        let key = ArcSwap::from_pointee(key(&id(1), version));
        Found::Known(Arc::new(Entry { key, loaded_at: clock.monotonic() }))
    };
    cached.remember(&id(1), &found(3)).await;
    cached.remember(&id(1), &found(2)).await;
    assert_eq!(version(&cached, &id(1)).await, 3);
}

#[tokio::test]
async fn another_waiter_takes_over_when_the_first_one_goes_away() {
    let Setup { store, cached, .. } = setup(&[&id(1)]);
    store.is_gated.store(true, Ordering::SeqCst);
    let key = id(1);
    {
        let mut first = Box::pin(cached.find(&key));
        let mut second = Box::pin(cached.find(&key));
        tokio::select! {
            biased;
            _ = &mut first => panic!("gated"),
            _ = &mut second => panic!("gated"),
            () = store.has_read.notified() => {}
        }
        drop(first);
        store.release.0.add_permits(1);
        assert!(second.await.unwrap().is_some());
    }
    assert_eq!(store.finds(), 2);
    assert!(cached.flights.is_empty());
}

#[tokio::test]
async fn the_use_of_a_key_is_seen_at_once_and_brought_to_the_store_once() {
    let Setup { store, clock, cached, feed } = setup(&[&id(1)]);
    cached.find(&id(1)).await.unwrap();
    let (early, late) = (clock.now(), clock.now().saturating_add(Duration::from_secs(1)));
    for (at, last) in [(early, early), (late, late), (early, late)] {
        cached.touch(&[(id(1), at)]).await.unwrap();
        let found = cached.find(&id(1)).await.unwrap().unwrap();
        assert_eq!((found.last_used_at, store.finds()), (Some(last), 1));
    }
    cached.touch(&[(id(1), late), (id(2), early)]).await.unwrap();
    feed.flush_touches().await;
    feed.flush_touches().await;
    let mut touches = store.touches.lock().unwrap();
    touches.sort();
    assert_eq!(*touches, [(id(1), late), (id(2), early)]);
}

#[tokio::test]
async fn a_key_that_is_read_while_its_use_is_brought_to_the_store_comes_with_it() {
    for reads_first in [false, true] {
        let (cached, feed) = CachedKeyStore::new(Arc::new(MemoryKeyStore::default()), Arc::<ManualClock>::default());
        let key = key(&id(1), 1);
        cached.create(&key).await.unwrap();
        cached.touch(&[(id(1), Timestamp(5))]).await.unwrap();
        let found = if reads_first {
            tokio::join!(cached.find(&key.id), feed.flush_touches()).0
        } else {
            tokio::join!(feed.flush_touches(), cached.find(&key.id)).1
        };
        assert_eq!(found.unwrap().unwrap().last_used_at, Some(Timestamp(5)), "reads first: {reads_first}");
    }
}

#[tokio::test]
async fn the_use_of_a_key_that_is_being_read_is_seen_at_once() {
    let Setup { cached, .. } = setup(&[&id(1)]);
    let (key, used) = (id(1), [(id(1), Timestamp(5))]);
    let (before, noted) = tokio::join!(cached.find(&key), cached.touch(&used));
    assert!(before.unwrap().is_some() && noted.is_ok());
    assert_eq!(cached.find(&key).await.unwrap().unwrap().last_used_at, Some(Timestamp(5)));
}

/// `cargo test -p ai4free-local --release -- --ignored --nocapture hit` prints what a hit costs.
#[tokio::test]
#[ignore = "a measurement"]
async fn what_a_hit_costs() {
    let Setup { cached, .. } = setup(&[&id(1)]);
    cached.find(&id(1)).await.unwrap();
    #[expect(clippy::disallowed_methods, reason = "measures real time")]
    let start = Instant::now();
    for _ in 0..100_000 {
        std::hint::black_box(cached.find(&id(1)).await.unwrap());
    }
    println!("{:?} per hit", start.elapsed() / 100_000);
}

/// Asks for all of them at the same time.
async fn find_all(
    cached: &Arc<CachedKeyStore>,
    ids: impl Iterator<Item = KeyId>,
) -> Vec<Result<Option<Arc<StoredKey>>, StoreError>> {
    let mut asking = tokio::task::JoinSet::new();
    for id in ids {
        let cached = cached.clone();
        asking.spawn(async move { cached.find(&id).await });
    }
    asking.join_all().await
}
