//! Contract of what a use-case may not take from the air: [`Clock`], [`IdSource`], [`SecretSource`], [`KeyHasher`],
//! [`TaskSpawner`], [`RequestObserver`], and of the [`Catalogue`] that it reads.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use ai4free_ports::{
    catalogue::{Catalogue, Snapshot},
    key::{ApiKey, KeyId},
    rate_limiter::{LimitKind, Scope},
    request::{Operation, RequestId},
    runtime::{
        Clock, IdSource, KeyHasher, RequestEnd, RequestObserver, RequestSummary, SecretSource, TaskSpawner, Timestamp,
    },
    usage::{TokenUsage, UsageSource},
    usage_ledger::Outcome,
};
use uuid::Uuid;

/// Swaps a catalogue's snapshot.
pub type Replace = Box<dyn Fn(Snapshot) + Send + Sync>;

/// How each part is made.
pub trait Harness {
    fn clock() -> Arc<dyn Clock>;
    fn ids() -> Arc<dyn IdSource>;
    fn secrets() -> Arc<dyn SecretSource>;
    /// With peppers 1 and 2, of which 2 is the newest; `newest` tells apart installations whose second pepper differs.
    fn hasher(newest: u8) -> Arc<dyn KeyHasher>;
    /// The same installation before its second pepper.
    fn hasher_before() -> Arc<dyn KeyHasher>;
    fn spawner() -> Arc<dyn TaskSpawner>;
    /// The catalogue, and how it is replaced.
    fn catalogue(first: Snapshot) -> (Arc<dyn Catalogue>, Replace);
}

pub async fn the_monotonic_clock_never_steps_back_and_the_other_is_of_this_age<H: Harness>() {
    let clock = H::clock();
    let readings: Vec<Duration> = (0..10_000).map(|_| clock.monotonic()).collect();
    assert!(readings.is_sorted());
    assert!(clock.now() > Timestamp::from_seconds(1_700_000_000));
}

pub async fn ids_are_unique_sort_by_time_and_carry_their_day<H: Harness>() {
    let (ids, clock) = (H::ids(), H::clock());
    let racing: Vec<Vec<RequestId>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let ids = ids.clone();
                scope.spawn(move || (0..2_500).map(|_| ids.request_id()).collect())
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(racing.iter().all(|made| made.is_sorted_by(|a, b| a < b)), "one caller's ids grow");
    let all: HashSet<RequestId> = racing.into_iter().flatten().collect();
    assert_eq!(all.len(), 10_000);
    let today = clock.now().seconds().div_euclid(86_400);
    let day = i64::from(ids.request_id().day());
    assert!((today - 1..=today + 1).contains(&day));
    assert!(all.iter().all(|id| id.0.get_version_num() == 7));
}

pub async fn secrets_fill_every_byte_and_do_not_repeat<H: Harness>() {
    let secrets = H::secrets();
    let mut seen = [false; 64];
    let mut drawn = HashSet::new();
    for _ in 0..64 {
        let mut bytes = [0_u8; 64];
        secrets.fill(&mut bytes);
        for (seen, byte) in seen.iter_mut().zip(bytes) {
            *seen |= byte != 0;
        }
        assert!(drawn.insert(bytes));
    }
    assert_eq!(seen, [true; 64]);
}

pub async fn a_key_matches_its_own_hash_and_nothing_else<H: Harness>() {
    let (hasher, secrets) = (H::hasher(2), H::secrets());
    let key = ApiKey::generate(&*secrets);
    let stored = hasher.hash(&key);
    assert!(hasher.matches(&key, &stored));
    assert_eq!(stored.hmac, hasher.hash(&key).hmac, "hashing is a function");
    assert!(!hasher.matches(&ApiKey::rotate(&key.id(), &*secrets), &stored), "another secret under the same id");
    assert!(!H::hasher(3).matches(&key, &stored), "another pepper");
    assert_ne!(*hasher.fingerprint(&key), stored.hmac, "what is in memory is not what is stored");
}

pub async fn old_peppers_still_match_and_the_newest_hashes<H: Harness>() {
    let (before, now, secrets) = (H::hasher_before(), H::hasher(2), H::secrets());
    let key = ApiKey::generate(&*secrets);
    let old = before.hash(&key);
    assert!(now.matches(&key, &old));
    assert!(now.hash(&key).pepper_version > old.pepper_version);
    assert!(!before.matches(&key, &now.hash(&key)), "a version that is not known never matches");
    let peppers = now.peppers();
    assert_eq!(peppers.len(), 2);
    assert!(before.peppers().iter().all(|pepper| peppers.contains(pepper)), "a fingerprint stays with its pepper");
}

pub async fn a_spawned_task_runs_although_its_spawner_is_gone<H: Harness>() {
    let spawner = H::spawner();
    let (done, finished) = tokio::sync::oneshot::channel();
    spawner.spawn(Box::pin(async move {
        let _ = done.send(());
    }));
    drop(spawner);
    finished.await.expect("the task ran");
}

pub async fn a_catalogue_is_swapped_whole_and_who_holds_it_keeps_it<H: Harness>() {
    let named = |name: &str| Snapshot { default_image_model: Some(name.into()), ..Snapshot::default() };
    let (catalogue, replace) = H::catalogue(named("first"));
    let held = catalogue.current();
    replace(named("second"));
    assert_eq!(held.default_image_model.as_deref(), Some("first"));
    assert_eq!(catalogue.current().default_image_model.as_deref(), Some("second"));
}

/// Every way in which a request can end, with everything absent and with everything at its largest.
pub fn an_observer_takes_every_summary_from_many_threads(observer: &Arc<dyn RequestObserver>) {
    let seen = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for summary in summaries() {
                    observer.finished(&summary);
                    seen.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(seen.into_inner(), 4 * summaries().len());
}

fn summaries() -> Vec<RequestSummary> {
    let largest = TokenUsage { input: u64::MAX, output: u64::MAX, cache_read: u64::MAX, ..TokenUsage::default() };
    let outcomes = [Outcome::Success, Outcome::Failed, Outcome::Cancelled, Outcome::Lost];
    let ends =
        outcomes.into_iter().map(|outcome| RequestEnd::Admitted { outcome, error: Some("upstream_timeout") }).chain([
            RequestEnd::LimitReached { scope: Scope::User("u".into()), kind: LimitKind::Tokens },
            RequestEnd::Refused("unauthenticated"),
        ]);
    ends.flat_map(|end| {
        [TokenUsage::default(), largest].map(|usage| RequestSummary {
            request: RequestId(Uuid::nil()),
            operation: Operation::Chat,
            streamed: usage == largest,
            key: (usage == largest).then(KeyId::system),
            model: (usage == largest).then(|| "model".into()),
            provider: (usage == largest).then(|| "provider".into()),
            credential: (usage == largest).then(|| "provider#1".into()),
            end: end.clone(),
            attempts: 1,
            usage,
            usage_source: UsageSource::Provider,
            usage_clamped: false,
            cost: (usage == largest).then_some(ai4free_ports::money::PicoUsd(i64::MAX)),
            reservation_exceeded: false,
            first_byte: (usage == largest).then_some(Duration::MAX),
            total: Duration::MAX,
            upstream: Duration::ZERO,
        })
    })
    .collect()
}

/// Every clause as a test of one harness.
#[macro_export]
macro_rules! runtime_contract {
    ($harness:ty) => {
        $crate::runtime_contract! { $harness:
            the_monotonic_clock_never_steps_back_and_the_other_is_of_this_age
            ids_are_unique_sort_by_time_and_carry_their_day
            secrets_fill_every_byte_and_do_not_repeat
            a_key_matches_its_own_hash_and_nothing_else
            old_peppers_still_match_and_the_newest_hashes
            a_spawned_task_runs_although_its_spawner_is_gone
            a_catalogue_is_swapped_whole_and_who_holds_it_keeps_it
        }
    };
    ($harness:ty: $($clause:ident)*) => {
        $(
            #[tokio::test]
            async fn $clause() {
                $crate::runtime::$clause::<$harness>().await;
            }
        )*
    };
}
