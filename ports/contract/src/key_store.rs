//! Contract of [`KeyStore`].

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use ai4free_ports::{
    budget::{Budget, BudgetPeriod},
    error::StoreError,
    key::{KeyId, StoredKey, StoredSecret},
    key_store::KeyStore,
    limits::{Limits, OutagePolicy},
    money::PicoUsdSum,
    runtime::Timestamp,
};
use async_trait::async_trait;
use futures_util::future::{join, join_all};

/// A store of its own for each clause.
#[async_trait]
pub trait Harness: Sized + Send + Sync {
    /// An empty store; `None` when the service that it needs is not configured, which skips the clause.
    async fn fresh() -> Option<Self>;

    fn store(&self) -> Arc<dyn KeyStore>;

    /// Takes the store away.
    async fn end(self);
}

/// Turns all clauses into tests of one adapter: `key_store_contract!(MyHarness)`.
#[macro_export]
macro_rules! key_store_contract {
    ($harness:ty) => {
        $crate::key_store_contract!($harness:
            a_key_is_found_as_it_was_created
            an_unknown_id_is_none_and_no_error
            an_id_is_created_once
            an_update_replaces_the_key_and_counts_its_version
            an_update_of_nothing_is_a_conflict
            a_stale_writer_cannot_resurrect_a_revoked_key
            of_racing_writers_one_wins
            secrets_keep_their_order_and_go_when_they_are_replaced
            hostile_text_is_only_text
            limits_beyond_any_use_are_kept_as_such
            a_budget_is_kept_to_the_pico
            creation_and_revocation_are_on_the_feed
            a_key_changed_twice_is_on_the_feed_once
            a_refused_change_is_not_on_the_feed
            the_feed_misses_nothing_while_many_write
            a_sequence_that_is_not_reached_yet_is_answered_with_the_one_that_is
            the_feed_comes_in_portions
            a_list_is_paged_in_the_order_of_creation
            last_use_never_moves_back
            last_use_is_no_change
            a_pepper_is_remembered_once
        );
    };
    ($harness:ty: $($clause:ident)+) => {
        $(
            #[tokio::test]
            async fn $clause() {
                if let Some(harness) = <$harness as $crate::key_store::Harness>::fresh().await {
                    $crate::key_store::$clause(&harness).await;
                    $crate::key_store::Harness::end(harness).await;
                }
            }
        )+
    };
}

pub async fn a_key_is_found_as_it_was_created(harness: &impl Harness) {
    let store = harness.store();
    let full = StoredKey {
        user_id: Some("ann".into()),
        limits: Limits {
            requests_per_minute: Some(60),
            image_requests_per_minute: Some(0),
            tokens_per_minute: Some(10_000_000_000),
            ..Limits::NONE
        },
        models: vec!["gpt-x".into(), "claude/*".into()],
        max_output_tokens: Some(4096),
        expires_at: Some(Timestamp(1_900_000_000_123_456)),
        revoked_at: Some(Timestamp(1_800_000_000_654_321)),
        last_used_at: Some(Timestamp(1_700_000_000_000_001)),
        version: 7,
        ..key(1)
    };
    let plain = key(2);
    store.create(&full).await.unwrap();
    store.create(&plain).await.unwrap();
    assert_eq!(found(&*store, &full.id).await, Some(full));
    assert_eq!(found(&*store, &plain.id).await, Some(plain));
}

pub async fn an_unknown_id_is_none_and_no_error(harness: &impl Harness) {
    let store = harness.store();
    store.create(&key(1)).await.unwrap();
    assert_eq!(found(&*store, &key(2).id).await, None);
}

pub async fn an_id_is_created_once(harness: &impl Harness) {
    let store = harness.store();
    store.create(&key(1)).await.unwrap();
    let second = StoredKey { name: "second".into(), ..key(1) };
    assert_conflict(store.create(&second).await);
    assert_eq!(found(&*store, &key(1).id).await, Some(key(1)));
}

pub async fn an_update_replaces_the_key_and_counts_its_version(harness: &impl Harness) {
    let store = harness.store();
    store.create(&key(1)).await.unwrap();
    store.create(&key(2)).await.unwrap();
    let mut changed = StoredKey {
        name: "renamed".into(),
        user_id: Some("bob".into()),
        plan: "pro".into(),
        limits: Limits { tokens_per_minute: Some(1), ..Limits::NONE },
        models: vec!["only".into()],
        max_output_tokens: Some(1),
        expires_at: Some(Timestamp(1)),
        revoked_at: Some(Timestamp(2)),
        secrets: vec![secret(9, 2)],
        prefix: "sk-a4f-zzzz".into(),
        last4: "zzzz".into(),
        ..key(1)
    };
    changed.version = store.update(&changed).await.unwrap();
    assert_eq!(changed.version, key(1).version + 1);
    assert_eq!(found(&*store, &key(1).id).await, Some(changed.clone()));
    assert_eq!(found(&*store, &key(2).id).await, Some(key(2)), "the other key is as it was");

    // What was set can be taken back.
    let mut cleared = StoredKey { version: changed.version, ..key(1) };
    cleared.version = store.update(&cleared).await.unwrap();
    assert_eq!(found(&*store, &key(1).id).await, Some(cleared));
}

pub async fn an_update_of_nothing_is_a_conflict(harness: &impl Harness) {
    let store = harness.store();
    assert_conflict(store.update(&key(1)).await);
    assert_eq!(found(&*store, &key(1).id).await, None);
}

pub async fn a_stale_writer_cannot_resurrect_a_revoked_key(harness: &impl Harness) {
    let store = harness.store();
    store.create(&key(1)).await.unwrap();
    let stale = found(&*store, &key(1).id).await.unwrap();
    let revoked = StoredKey { revoked_at: Some(Timestamp(5)), secrets: vec![secret(9, 1)], ..stale.clone() };
    store.update(&revoked).await.unwrap();
    assert_conflict(store.update(&StoredKey { name: "renamed".into(), ..stale }).await);
    let now = found(&*store, &key(1).id).await.unwrap();
    assert_eq!((now.revoked_at, now.name, now.secrets), (Some(Timestamp(5)), key(1).name, vec![secret(9, 1)]));
}

pub async fn of_racing_writers_one_wins(harness: &impl Harness) {
    let store = harness.store();
    store.create(&key(1)).await.unwrap();
    let mut read = key(1);
    for round in 0..5 {
        let writers = (0..8).map(|writer| {
            let (store, mine) = (harness.store(), StoredKey { name: writer.to_string().into(), ..read.clone() });
            async move { (store.update(&mine).await, mine.name) }
        });
        let done = join_all(writers).await;
        let winners: Vec<_> = done.iter().filter(|(result, _)| result.is_ok()).collect();
        assert_eq!(winners.len(), 1, "round {round}");
        for (result, _) in done.iter().filter(|(result, _)| result.is_err()) {
            assert!(matches!(result, Err(StoreError::Conflict(_))), "{result:?}");
        }
        read = found(&*store, &key(1).id).await.unwrap();
        assert_eq!((&read.name, read.version), (&winners[0].1, key(1).version + round + 1));
    }
}

pub async fn secrets_keep_their_order_and_go_when_they_are_replaced(harness: &impl Harness) {
    let store = harness.store();
    let old = StoredSecret { expires_at: Some(Timestamp(99)), ..secret(200, u16::MAX) };
    let mut rotated = StoredKey { secrets: vec![secret(7, 3), old], ..key(1) };
    store.create(&rotated).await.unwrap();
    assert_eq!(store.find(&key(1).id).await.unwrap().unwrap().secrets, rotated.secrets);
    rotated.secrets.reverse();
    rotated.version = store.update(&rotated).await.unwrap();
    assert_eq!(store.find(&key(1).id).await.unwrap().unwrap().secrets, rotated.secrets);
    rotated.secrets = vec![secret(8, 4)];
    store.update(&rotated).await.unwrap();
    assert_eq!(store.find(&key(1).id).await.unwrap().unwrap().secrets, rotated.secrets);
}

pub async fn hostile_text_is_only_text(harness: &impl Harness) {
    let store = harness.store();
    store.create(&key(1)).await.unwrap();
    for (text, number) in
        ["'; DELETE FROM api_key; --", "\"quoted\" \\ %_ $1 ? :a", "żółw 🐢 \u{202e}\n\t", "", "[\"not\", \"a list\"]"]
            .into_iter()
            .zip(2..)
    {
        let hostile = StoredKey {
            name: text.into(),
            user_id: Some(text.into()),
            plan: text.into(),
            models: vec![text.into(), "a".into()],
            prefix: text.into(),
            last4: text.into(),
            ..key(number)
        };
        store.create(&hostile).await.unwrap();
        assert_eq!(found(&*store, &hostile.id).await, Some(hostile));
    }
    assert_eq!(store.list(None, 100).await.unwrap().keys.len(), 6);
}

pub async fn limits_beyond_any_use_are_kept_as_such(harness: &impl Harness) {
    let store = harness.store();
    let limits =
        Limits { tokens_per_minute: Some(u64::MAX), requests_per_minute: Some(i64::MAX as u64), ..Limits::NONE };
    store.create(&StoredKey { limits: limits.clone(), ..key(1) }).await.unwrap();
    let found = store.find(&key(1).id).await.unwrap().unwrap().limits.clone();
    assert!(found.tokens_per_minute >= Some(i64::MAX as u64), "{found:?}");
    assert_eq!(found.requests_per_minute, limits.requests_per_minute);
}

pub async fn a_budget_is_kept_to_the_pico(harness: &impl Harness) {
    let store = harness.store();
    let amounts = [PicoUsdSum(0), PicoUsdSum(1), PicoUsdSum(5_000_000_000_001), Budget::MOST];
    let policies = [None, Some(OutagePolicy::Closed), Some(OutagePolicy::LocalShare), Some(OutagePolicy::Open)];
    let zones = ["UTC", "Asia/Kolkata", "America/Argentina/ComodRivadavia", ""];
    for (at, period) in BudgetPeriod::ALL.into_iter().enumerate() {
        let budget = Budget {
            amount: amounts[at % 4],
            period,
            time_zone: zones[at % 4].into(),
            on_redis_down: OutagePolicy::ALL[at % 3],
        };
        let limits = Limits { budget: Some(budget), on_redis_down: policies[at % 4], ..Limits::NONE };
        let mut with = StoredKey { limits, ..key(at as u32) };
        store.create(&with).await.unwrap();
        assert_eq!(found(&*store, &with.id).await, Some(with.clone()));
        // Another one, and none.
        with.limits.budget = Some(Budget {
            amount: PicoUsdSum(7),
            period: BudgetPeriod::Total,
            time_zone: "Europe/Warsaw".into(),
            on_redis_down: OutagePolicy::Open,
        });
        with.version = store.update(&with).await.unwrap();
        assert_eq!(found(&*store, &with.id).await, Some(with.clone()));
        with.limits = Limits::NONE;
        with.version = store.update(&with).await.unwrap();
        assert_eq!(found(&*store, &with.id).await, Some(with));
    }
}

pub async fn creation_and_revocation_are_on_the_feed(harness: &impl Harness) {
    let store = harness.store();
    let start = store.current_sequence().await.unwrap();
    assert!(store.changed_since(start).await.unwrap().keys.is_empty());
    store.create(&key(1)).await.unwrap();
    let created = store.changed_since(start).await.unwrap();
    assert_eq!(created.keys, [key(1).id]);
    store.update(&StoredKey { revoked_at: Some(Timestamp(1)), ..key(1) }).await.unwrap();
    let revoked = store.changed_since(created.sequence).await.unwrap();
    assert_eq!(revoked.keys, [key(1).id]);
    let nothing = store.changed_since(revoked.sequence).await.unwrap();
    assert_eq!((nothing.keys.len(), nothing.sequence), (0, revoked.sequence));
    assert_eq!(store.current_sequence().await.unwrap(), revoked.sequence);
}

pub async fn a_key_changed_twice_is_on_the_feed_once(harness: &impl Harness) {
    let store = harness.store();
    let start = store.current_sequence().await.unwrap();
    let mut first = key(1);
    store.create(&first).await.unwrap();
    store.create(&key(2)).await.unwrap();
    first.version = store.update(&first).await.unwrap();
    store.update(&first).await.unwrap();
    assert_eq!(store.changed_since(start).await.unwrap().keys, [key(2).id, key(1).id]);
}

pub async fn a_refused_change_is_not_on_the_feed(harness: &impl Harness) {
    let store = harness.store();
    store.create(&key(1)).await.unwrap();
    let start = store.current_sequence().await.unwrap();
    assert_conflict(store.create(&key(1)).await);
    assert_conflict(store.update(&StoredKey { version: 99, ..key(1) }).await);
    assert!(store.changed_since(start).await.unwrap().keys.is_empty());
}

/// A store that numbers its changes before it commits them in order loses some here.
pub async fn the_feed_misses_nothing_while_many_write(harness: &impl Harness) {
    const WRITERS: u32 = 8;
    const CHANGES: u32 = 12;
    let store = harness.store();
    let start = store.current_sequence().await.unwrap();
    let writers = join_all((0..WRITERS).map(|writer| {
        let store = harness.store();
        async move {
            for change in 0..CHANGES {
                let new = key(writer * CHANGES + change);
                store.create(&new).await.unwrap();
                if change % 3 == 0 {
                    store.update(&new).await.unwrap();
                }
            }
        }
    }));
    let expected: BTreeSet<KeyId> = (0..WRITERS * CHANGES).map(|number| key(number).id).collect();
    let follow = async {
        let (mut seen, mut sequence) = (BTreeSet::new(), start);
        while seen != expected {
            let changes = store.changed_since(sequence).await.unwrap();
            assert!(changes.sequence >= sequence, "the feed went back");
            sequence = changes.sequence;
            seen.extend(changes.keys);
        }
    };
    let followed = tokio::time::timeout(Duration::from_secs(20), join(writers, follow));
    followed.await.expect("a change was never seen");
}

/// As after an older state of the store was restored: a follower has to notice, or it would miss what changes next.
pub async fn a_sequence_that_is_not_reached_yet_is_answered_with_the_one_that_is(harness: &impl Harness) {
    let store = harness.store();
    let current = store.current_sequence().await.unwrap();
    let changes = store.changed_since(current + 100).await.unwrap();
    assert_eq!((changes.keys, changes.sequence), (Vec::new(), current));
}

pub async fn the_feed_comes_in_portions(harness: &impl Harness) {
    const KEYS: u32 = 1001;
    let store = harness.store();
    let mut sequence = store.current_sequence().await.unwrap();
    for number in 0..KEYS {
        store.create(&key(number)).await.unwrap();
    }
    let mut seen = Vec::new();
    loop {
        let changes = store.changed_since(sequence).await.unwrap();
        assert!(changes.keys.len() <= 1000);
        if changes.keys.is_empty() {
            break;
        }
        sequence = changes.sequence;
        seen.extend(changes.keys);
    }
    assert_eq!(seen, (0..KEYS).map(|number| key(number).id).collect::<Vec<_>>());
}

pub async fn a_list_is_paged_in_the_order_of_creation(harness: &impl Harness) {
    let store = harness.store();
    assert_eq!(store.list(None, 10).await.unwrap(), ai4free_ports::key_store::KeyPage::default());
    // Neither ids nor times are in the order of creation.
    let keys: Vec<StoredKey> =
        [5, 1, 4, 2, 3].map(|number| StoredKey { created_at: Timestamp(7), ..key(number) }).into();
    for key in &keys {
        store.create(key).await.unwrap();
    }
    let mut changed = keys[0].clone();
    changed.version = store.update(&changed).await.unwrap();

    let first = store.list(None, 2).await.unwrap();
    assert_eq!((&first.keys[..], first.has_more), (&[changed.clone(), keys[1].clone()][..], true));
    let second = store.list(Some(&keys[1].id), 2).await.unwrap();
    assert_eq!((&second.keys[..], second.has_more), (&keys[2..4], true));
    let last = store.list(Some(&keys[3].id), 2).await.unwrap();
    assert_eq!((&last.keys[..], last.has_more), (&keys[4..], false));
    let exact = store.list(Some(&keys[2].id), 2).await.unwrap();
    assert_eq!((exact.keys.len(), exact.has_more), (2, false));
    assert!(store.list(Some(&keys[4].id), 2).await.unwrap().keys.is_empty());
    assert!(store.list(Some(&key(99).id), 2).await.unwrap().keys.is_empty(), "after a key that does not exist");
}

pub async fn last_use_never_moves_back(harness: &impl Harness) {
    let store = harness.store();
    store.create(&key(1)).await.unwrap();
    store.create(&key(2)).await.unwrap();
    let last_use = async |number| store.find(&key(number).id).await.unwrap().unwrap().last_used_at;
    store.touch(&[(key(2).id, Timestamp(9)), (key(1).id, Timestamp(5)), (key(99).id, Timestamp(5))]).await.unwrap();
    assert_eq!((last_use(1).await, last_use(2).await), (Some(Timestamp(5)), Some(Timestamp(9))));
    store.touch(&[(key(1).id, Timestamp(4)), (key(2).id, Timestamp(10)), (key(2).id, Timestamp(8))]).await.unwrap();
    assert_eq!((last_use(1).await, last_use(2).await), (Some(Timestamp(5)), Some(Timestamp(10))));
    // Whoever renames a key had read it before it was used.
    store.update(&StoredKey { name: "renamed".into(), ..key(1) }).await.unwrap();
    assert_eq!(last_use(1).await, Some(Timestamp(5)));
}

pub async fn last_use_is_no_change(harness: &impl Harness) {
    let store = harness.store();
    store.create(&key(1)).await.unwrap();
    let start = store.current_sequence().await.unwrap();
    store.touch(&[(key(1).id, Timestamp(5))]).await.unwrap();
    assert!(store.changed_since(start).await.unwrap().keys.is_empty());
    store.update(&key(1)).await.expect("the version is as it was");
}

pub async fn a_pepper_is_remembered_once(harness: &impl Harness) {
    let store = harness.store();
    let racers = join_all((0..8_u8).map(|racer| {
        let store = harness.store();
        async move { store.remember_pepper(1, [racer; 32]).await.unwrap() }
    }));
    let remembered = racers.await;
    assert!(remembered.iter().all(|fingerprint| fingerprint == &remembered[0]), "{remembered:?}");
    assert_eq!(store.remember_pepper(1, [99; 32]).await.unwrap(), remembered[0]);
    assert_eq!(store.remember_pepper(u16::MAX, [99; 32]).await.unwrap(), [99; 32]);
}

async fn found(store: &dyn KeyStore, id: &KeyId) -> Option<StoredKey> {
    store.find(id).await.unwrap().map(Arc::unwrap_or_clone)
}

fn key(number: u32) -> StoredKey {
    StoredKey {
        id: KeyId::parse(&format!("k{number:011}")).unwrap(),
        name: format!("key {number}").into(),
        user_id: None,
        plan: "free".into(),
        limits: Limits::NONE,
        models: Vec::new(),
        max_output_tokens: None,
        expires_at: None,
        revoked_at: None,
        created_at: Timestamp(1_750_000_000_000_000),
        last_used_at: None,
        prefix: "sk-a4f-abcd".into(),
        last4: "wxyz".into(),
        secrets: vec![secret(0, 1)],
        version: 0,
    }
}

/// All byte values are in one of them.
fn secret(first: u8, pepper_version: u16) -> StoredSecret {
    StoredSecret { hmac: std::array::from_fn(|at| first.wrapping_add(at as u8)), pepper_version, expires_at: None }
}

fn assert_conflict<T: std::fmt::Debug>(result: Result<T, StoreError>) {
    assert!(matches!(result, Err(StoreError::Conflict(_))), "{result:?}");
}
