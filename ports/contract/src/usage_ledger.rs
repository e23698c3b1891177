//! Contract of [`UsageLedger`]: every event once, whatever is sent again, and sums that are the sums of the events.

use std::{collections::BTreeMap, sync::Arc};

use ai4free_ports::{
    key::KeyId,
    money::{PicoUsd, PicoUsdSum},
    request::{Operation, RequestId},
    runtime::Timestamp,
    usage::{TokenUsage, UsageSource},
    usage_ledger::{
        Appended, Audience, Batch, Counters, EventKind, Outcome, SpoolId, UsageEvent, UsageLedger, UsageReport,
    },
};
use async_trait::async_trait;
use futures_util::{
    FutureExt,
    future::{join, join_all},
};
use uuid::Uuid;

/// A ledger of its own for each clause.
#[async_trait]
pub trait Harness: Sized + Send + Sync {
    /// An empty ledger; `None` when the service that it needs is not configured, which skips the clause.
    async fn fresh() -> Option<Self>;

    fn ledger(&self) -> Arc<dyn UsageLedger>;

    /// Takes the ledger away.
    async fn end(self);
}

/// Turns all clauses into tests of one adapter: `usage_ledger_contract!(MyHarness)`.
#[macro_export]
macro_rules! usage_ledger_contract {
    ($harness:ty) => {
        $crate::usage_ledger_contract!($harness:
            an_event_is_read_as_it_was_appended
            a_batch_sent_twice_is_stored_once
            a_batch_from_elsewhere_is_told_where_the_spool_stands
            an_empty_batch_changes_nothing
            a_full_batch_is_appended
            attaching_fences_whoever_held_the_spool
            an_attachment_that_the_database_lost_is_made_good
            racing_senders_of_one_batch_store_it_once
            a_zombie_and_its_successor_store_each_event_once
            an_event_that_two_spools_hold_is_stored_and_summed_once
            spools_that_share_sums_do_not_get_in_each_others_way
            an_aborted_append_is_whole_or_nothing
            sums_are_those_of_the_events
            a_request_is_counted_once_with_its_last_attempt
            each_outcome_is_counted_as_what_it_is
            a_correction_adds_money_and_no_request
            a_release_takes_back_its_hold
            a_report_has_whole_hours
            a_report_groups_by_utc_day
            nobody_sees_the_usage_of_another_key
            the_gateways_own_usage_has_an_audience
            sums_exceed_64_bits_of_pico
            an_unpriced_event_stays_unpriced
            nonsense_from_a_provider_does_not_block_the_ledger
            events_of_any_day_find_a_place
            the_newest_events_come_first
            hostile_text_is_only_text
        );
    };
    ($harness:ty: $($clause:ident)+) => {
        $(
            #[tokio::test]
            async fn $clause() {
                if let Some(harness) = <$harness as $crate::usage_ledger::Harness>::fresh().await {
                    $crate::usage_ledger::$clause(&harness).await;
                    $crate::usage_ledger::Harness::end(harness).await;
                }
            }
        )+
    };
}

pub async fn an_event_is_read_as_it_was_appended(harness: &impl Harness) {
    let spool = Spool::attach(harness, 1).await;
    let full = UsageEvent {
        attempt: u16::MAX,
        kind: EventKind::Adjustment,
        revision: u16::MAX,
        operation: Operation::ImageGeneration,
        user: Some("ann".into()),
        provider: Some("openai".into()),
        credential: Some("openai#1".into()),
        outcome: Outcome::Failed,
        error: Some("upstream_timeout".into()),
        admitted_at: Timestamp(NOON + 123_457),
        first_ms: Some(0),
        total_ms: Some(u32::MAX),
        usage: TokenUsage {
            input: 1,
            cache_read: 2,
            cache_write: 3,
            output: 4,
            reasoning: 5,
            audio_in: 6,
            audio_out: 7,
            images: 8,
        },
        usage_source: UsageSource::Bound,
        price_version: Some(u32::MAX),
        cost: PicoUsd(-1),
        provider_cost: Some(PicoUsd(i64::MIN)),
        ..event(2)
    };
    let plain = event(1);
    spool.append(0, &[plain.clone(), full.clone()]).await;
    assert_eq!(spool.recent(&Audience::Operator).await, [full, plain]);
    let kinds = [EventKind::Charge, EventKind::Adjustment, EventKind::Hold, EventKind::Release];
    let outcomes = [Outcome::Success, Outcome::Failed, Outcome::Cancelled, Outcome::Lost];
    let sources = [UsageSource::Provider, UsageSource::Counted, UsageSource::Drained, UsageSource::Estimated];
    let mut others: Vec<UsageEvent> = (0..4)
        .map(|at| UsageEvent {
            kind: kinds[at],
            outcome: outcomes[at],
            usage_source: sources[at],
            ..event(10 + at as u64)
        })
        .collect();
    spool.append(2, &others).await;
    others.reverse();
    assert_eq!(spool.recent(&Audience::Operator).await[..4], others);
}

pub async fn a_batch_sent_twice_is_stored_once(harness: &impl Harness) {
    let spool = Spool::attach(harness, 1).await;
    let events = [event(1), event(2)];
    assert_eq!(spool.append(0, &events).await, Appended::Acknowledged(2));
    assert_eq!(spool.append(0, &events).await, Appended::StandsAt(2));
    spool.assert_holds(&events).await;
}

pub async fn a_batch_from_elsewhere_is_told_where_the_spool_stands(harness: &impl Harness) {
    let spool = Spool::attach(harness, 1).await;
    let events: Vec<UsageEvent> = (0..6).map(event).collect();
    assert_eq!(spool.append(0, &events[..4]).await, Appended::Acknowledged(4));
    assert_eq!(spool.append(2, &events[2..]).await, Appended::StandsAt(4), "overlapping");
    assert_eq!(spool.append(5, &events[5..]).await, Appended::StandsAt(4), "after a gap");
    assert_eq!(spool.append(4, &events[4..]).await, Appended::Acknowledged(6));
    spool.assert_holds(&events).await;
}

pub async fn an_empty_batch_changes_nothing(harness: &impl Harness) {
    let spool = Spool::attach(harness, 1).await;
    assert_eq!(spool.append(0, &[]).await, Appended::Acknowledged(0));
    assert_eq!(spool.append(3, &[]).await, Appended::StandsAt(0));
    spool.assert_holds(&[]).await;
}

pub async fn a_full_batch_is_appended(harness: &impl Harness) {
    let spool = Spool::attach(harness, 1).await;
    let events: Vec<UsageEvent> = (0..500)
        .map(|number| UsageEvent { model: format!("model-{}", number % 123).into(), ..event(number) })
        .collect();
    assert_eq!(spool.append(0, &events).await, Appended::Acknowledged(500));
    spool.assert_holds(&events).await;
}

pub async fn attaching_fences_whoever_held_the_spool(harness: &impl Harness) {
    let older = Spool::attach(harness, 1).await;
    older.append(0, &[event(1)]).await;
    let newer = Spool::attach(harness, 1).await;
    assert!(newer.generation > older.generation);
    assert_eq!(newer.acknowledged, 1);
    assert_eq!(older.append(1, &[event(2)]).await, Appended::Fenced);
    assert_eq!(older.append(0, &[event(1)]).await, Appended::Fenced);
    assert_eq!(newer.append(1, &[event(3)]).await, Appended::Acknowledged(2));
    newer.assert_holds(&[event(1), event(3)]).await;
    // Another spool is another matter.
    assert_eq!(Spool::attach(harness, 2).await.append(0, &[event(4)]).await, Appended::Acknowledged(1));
}

/// The database lost commits, or was restored to a time before the spool was attached. What it has is true, so the sender
/// goes on from there.
pub async fn an_attachment_that_the_database_lost_is_made_good(harness: &impl Harness) {
    let spool = Spool { ledger: harness.ledger(), id: spool_id(1), generation: 7, acknowledged: 0 };
    assert_eq!(spool.append(3, &[event(3)]).await, Appended::StandsAt(0));
    let events: Vec<UsageEvent> = (0..4).map(event).collect();
    assert_eq!(spool.append(0, &events).await, Appended::Acknowledged(4));
    spool.assert_holds(&events).await;
    let attached = Spool::attach(harness, 1).await;
    assert!(attached.generation > 7);

    // A later attachment than the one that is known: what was lost is the attachment alone.
    let unknown = Spool { generation: attached.generation + 3, ..attached };
    assert_eq!(unknown.append(4, &[event(4)]).await, Appended::StandsAt(4));
    assert_eq!(unknown.append(4, &[event(4)]).await, Appended::Acknowledged(5));
}

pub async fn racing_senders_of_one_batch_store_it_once(harness: &impl Harness) {
    let spool = Spool::attach(harness, 1).await;
    let events: Vec<UsageEvent> = (0..20).map(event).collect();
    let answers = join_all((0..8).map(|_| spool.append(0, &events))).await;
    let acknowledged = answers.iter().filter(|answer| **answer == Appended::Acknowledged(20)).count();
    let stands = answers.iter().filter(|answer| **answer == Appended::StandsAt(20)).count();
    assert_eq!((acknowledged, stands), (1, 7), "{answers:?}");
    spool.assert_holds(&events).await;
}

pub async fn a_zombie_and_its_successor_store_each_event_once(harness: &impl Harness) {
    let events: Vec<UsageEvent> = (0..60).map(event).collect();
    let zombie = Spool::attach(harness, 1).await;
    let successor = async {
        // Takes over while the other is at work.
        tokio::task::yield_now().await;
        Spool::attach(harness, 1).await.drain(&events).await
    };
    let (_, ended) = join(zombie.drain(&events), successor).await;
    assert_eq!(ended, Appended::Acknowledged(60));
    assert_eq!(zombie.append(60, &[event(99)]).await, Appended::Fenced);
    zombie.assert_holds(&events).await;
}

pub async fn an_event_that_two_spools_hold_is_stored_and_summed_once(harness: &impl Harness) {
    let original = Spool::attach(harness, 1).await;
    let copy = Spool::attach(harness, 2).await;
    let events: Vec<UsageEvent> = (0..10).map(event).collect();
    original.append(0, &events[..6]).await;
    assert_eq!(copy.append(0, &events[3..]).await, Appended::Acknowledged(7));
    assert_eq!(copy.append(7, &events[..2]).await, Appended::Acknowledged(9), "none of them is new");
    copy.assert_holds(&events).await;
}

/// Batches that share rows of the sums, in orders that would deadlock.
pub async fn spools_that_share_sums_do_not_get_in_each_others_way(harness: &impl Harness) {
    let mut all = Vec::new();
    let spools = (0..6_u64).map(|number| {
        let mut events: Vec<UsageEvent> = (0..80)
            .map(|at| UsageEvent {
                key: key(at % 7),
                model: format!("m{}", at % 5).into(),
                ..event(number * 1000 + at)
            })
            .collect();
        all.extend(events.clone());
        if number % 2 == 1 {
            events.reverse();
        }
        async move { Spool::attach(harness, number).await.drain(&events).await }
    });
    let spools: Vec<_> = spools.collect();
    for ended in join_all(spools).await {
        assert_eq!(ended, Appended::Acknowledged(80));
    }
    Spool::attach(harness, 99).await.assert_holds(&all).await;
}

pub async fn an_aborted_append_is_whole_or_nothing(harness: &impl Harness) {
    let spool = Spool::attach(harness, 1).await;
    let mut events = Vec::new();
    for round in 0..30_u64 {
        let batch: Vec<UsageEvent> = (0..5).map(|at| event(round * 10 + at)).collect();
        let from = events.len() as u64;
        // Each round is dropped a little later than the one before.
        let mut append = Box::pin(spool.append(from, &batch));
        let mut aborted = true;
        for _ in 0..round * round / 2 {
            if append.as_mut().now_or_never().is_some() {
                aborted = false;
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(append);
        let answer = spool.append(from, &batch).await;
        let expected = [Appended::Acknowledged(from + 5), Appended::StandsAt(from + 5)];
        assert!(expected.contains(&answer) && (aborted || answer == expected[1]), "round {round}: {answer:?}");
        events.extend(batch);
        spool.assert_holds(&events).await;
    }
}

pub async fn sums_are_those_of_the_events(harness: &impl Harness) {
    for seed in [1, 2, 3] {
        println!("seed {seed}");
        let mut random = Random(seed);
        let spool = Spool::attach(harness, seed).await;
        let mut position = 0;
        for _ in 0..8 {
            let events: Vec<UsageEvent> = (0..random.below(40)).map(|_| random_event(&mut random, seed)).collect();
            spool.append(position, &events).await;
            position += events.len() as u64;
        }
    }
    let ledger = harness.ledger();
    let events = ledger.recent(&Audience::Operator, 1000).await.unwrap();
    assert_eq!(ledger.report(&Audience::Operator, BEGIN, END).await.unwrap(), sums_of(&events));
    for number in 0..4 {
        let own: Vec<UsageEvent> = events.iter().filter(|event| event.key == key(number)).cloned().collect();
        assert!(!own.is_empty());
        assert_eq!(ledger.report(&Audience::Key(key(number)), BEGIN, END).await.unwrap(), sums_of(&own));
    }
}

pub async fn a_request_is_counted_once_with_its_last_attempt(harness: &impl Harness) {
    let spool = Spool::attach(harness, 1).await;
    let attempt = |attempt, model: &str, outcome| UsageEvent { attempt, model: model.into(), outcome, ..event(1) };
    // Not in the order of the attempts.
    let events = [
        attempt(1, "first", Outcome::Failed),
        attempt(3, "last", Outcome::Success),
        attempt(2, "first", Outcome::Failed),
    ];
    spool.append(0, &events).await;
    let report = spool.report(&Audience::Operator).await;
    let (first, last) = (&report.by_model["first"], &report.by_model["last"]);
    assert_eq!((first.requests, first.successful, first.cost), (0, 0, PicoUsdSum(2 * COST)));
    assert_eq!((last.requests, last.successful, last.cost), (1, 1, PicoUsdSum(COST)));
    assert_eq!(report.by_day.values().map(|day| day.requests).sum::<u64>(), 1);
}

pub async fn each_outcome_is_counted_as_what_it_is(harness: &impl Harness) {
    let spool = Spool::attach(harness, 1).await;
    let outcomes =
        [Outcome::Success, Outcome::Success, Outcome::Success, Outcome::Failed, Outcome::Lost, Outcome::Cancelled];
    let events: Vec<UsageEvent> =
        outcomes.into_iter().zip(0..).map(|(outcome, number)| UsageEvent { outcome, ..event(number) }).collect();
    spool.append(0, &events).await;
    let counters = &spool.report(&Audience::Operator).await.by_model["gpt-x"];
    assert_eq!((counters.requests, counters.successful, counters.cancelled, counters.failed()), (6, 3, 1, 2));
}

pub async fn a_correction_adds_money_and_no_request(harness: &impl Harness) {
    let spool = Spool::attach(harness, 1).await;
    let none = TokenUsage::default();
    let correction = |revision, cost| UsageEvent {
        kind: EventKind::Adjustment,
        revision,
        cost: PicoUsd(cost),
        usage: none,
        ..event(1)
    };
    spool.append(0, &[event(1)]).await;
    spool.append(1, &[correction(1, -1_500_001), correction(2, 7)]).await;
    let counters = &spool.report(&Audience::Operator).await.by_model["gpt-x"];
    assert_eq!((counters.requests, counters.cost), (1, PicoUsdSum(COST - 1_500_001 + 7)));
    assert_eq!(counters.input_tokens, event(1).usage.input_total());
}

pub async fn a_release_takes_back_its_hold(harness: &impl Harness) {
    let spool = Spool::attach(harness, 1).await;
    let hold = UsageEvent { kind: EventKind::Hold, ..event(1) };
    let release = UsageEvent { kind: EventKind::Release, cost: PicoUsd(-hold.cost.0), ..hold.clone() };
    spool.append(0, &[hold]).await;
    let held = spool.report(&Audience::Operator).await.by_model["gpt-x"].clone();
    assert_eq!((held.requests, held.cost), (0, PicoUsdSum(COST)));
    spool.append(1, &[UsageEvent { cost: PicoUsd(1), ..event(1) }, release]).await;
    let settled = &spool.report(&Audience::Operator).await.by_model["gpt-x"];
    assert_eq!((settled.requests, settled.cost), (1, PicoUsdSum(1)));
    assert_eq!(settled.input_tokens, event(1).usage.input_total());
    assert_eq!(settled.output_tokens, event(1).usage.output_total());
}

pub async fn a_report_has_whole_hours(harness: &impl Harness) {
    const HOUR: i64 = 3_600_000_000;
    let spool = Spool::attach(harness, 1).await;
    let at = |number, micros| UsageEvent { admitted_at: Timestamp(micros), ..event(number) };
    spool.append(0, &[at(1, NOON - 1), at(2, NOON), at(3, NOON + HOUR - 1), at(4, NOON + HOUR)]).await;
    let requests = async |from: i64, to: i64| {
        let report = spool.ledger.report(&Audience::Operator, Timestamp(from), Timestamp(to)).await.unwrap();
        report.by_model.values().map(|counters| counters.requests).sum::<u64>()
    };
    assert_eq!(requests(NOON, NOON + HOUR).await, 2);
    assert_eq!(requests(NOON + 5, NOON + 6).await, 2, "rounded to its hour on both sides");
    assert_eq!(requests(NOON - 1, NOON).await, 1);
    assert_eq!(requests(NOON, NOON + HOUR + 1).await, 3);
    assert_eq!(requests(NOON, NOON).await, 0, "an empty span");
    assert_eq!(requests(NOON + HOUR, NOON).await, 0, "a reversed span");
    assert_eq!(requests(0, i64::MAX).await, 4);
}

pub async fn a_report_groups_by_utc_day(harness: &impl Harness) {
    const DAY: i64 = 86_400_000_000;
    let spool = Spool::attach(harness, 1).await;
    let midnight = (NOON / DAY + 1) * DAY;
    let at = |number, micros| UsageEvent { admitted_at: Timestamp(micros), ..event(number) };
    let events = [at(1, midnight - 1), at(2, midnight), at(3, midnight + DAY - 1)];
    spool.append(0, &events).await;
    let days: Vec<_> =
        spool.report(&Audience::Operator).await.by_day.into_iter().map(|(day, sum)| (day, sum.requests)).collect();
    let first = i32::try_from(NOON / DAY).unwrap();
    assert_eq!(days, [(first, 1), (first + 1, 2)]);
}

pub async fn nobody_sees_the_usage_of_another_key(harness: &impl Harness) {
    let spool = Spool::attach(harness, 1).await;
    let of = |number, owner| UsageEvent { key: key(owner), user: Some("same user".into()), ..event(number) };
    let events = [of(1, 1), of(2, 2), of(3, 1)];
    spool.append(0, &events).await;
    let own = Audience::Key(key(1));
    assert_eq!(spool.recent(&own).await, [events[2].clone(), events[0].clone()]);
    assert_eq!(spool.report(&own).await, sums_of(&[events[0].clone(), events[2].clone()]));
    let stranger = Audience::Key(key(3));
    assert!(spool.recent(&stranger).await.is_empty());
    assert_eq!(spool.report(&stranger).await, UsageReport::default());
    assert_eq!(spool.recent(&Audience::Operator).await.len(), 3);
    assert_eq!(spool.report(&Audience::Operator).await, sums_of(&events));
}

pub async fn the_gateways_own_usage_has_an_audience(harness: &impl Harness) {
    let spool = Spool::attach(harness, 1).await;
    let own = UsageEvent { key: KeyId::system(), ..event(1) };
    spool.append(0, &[own.clone(), event(2)]).await;
    assert_eq!(spool.recent(&Audience::Key(KeyId::system())).await, [own]);
}

pub async fn sums_exceed_64_bits_of_pico(harness: &impl Harness) {
    let spool = Spool::attach(harness, 1).await;
    let dear = |number| UsageEvent { cost: PicoUsd(i64::MAX), ..event(number) };
    spool.append(0, &(0..50).map(dear).collect::<Vec<_>>()).await;
    spool.append(50, &(50..100).map(dear).collect::<Vec<_>>()).await;
    let report = spool.report(&Audience::Operator).await;
    assert_eq!(report.by_model["gpt-x"].cost, PicoUsdSum(100 * i128::from(i64::MAX)));
}

pub async fn an_unpriced_event_stays_unpriced(harness: &impl Harness) {
    let spool = Spool::attach(harness, 1).await;
    let unpriced = UsageEvent { price_version: None, cost: PicoUsd::ZERO, ..event(1) };
    spool.append(0, std::slice::from_ref(&unpriced)).await;
    let counters = spool.report(&Audience::Operator).await.by_model["gpt-x"].clone();
    assert_eq!((counters.requests, counters.cost), (1, PicoUsdSum(0)));
    assert_eq!(spool.recent(&Audience::Operator).await, [unpriced]);
}

pub async fn nonsense_from_a_provider_does_not_block_the_ledger(harness: &impl Harness) {
    let spool = Spool::attach(harness, 1).await;
    let usage = TokenUsage {
        input: u64::MAX,
        cache_read: u64::MAX,
        cache_write: u64::MAX,
        output: u64::MAX,
        reasoning: u64::MAX,
        audio_in: u64::MAX,
        audio_out: u64::MAX,
        images: u64::MAX,
    };
    let events: Vec<UsageEvent> = (0..50).map(|number| UsageEvent { usage, ..event(number) }).collect();
    assert_eq!(spool.append(0, &events[..25]).await, Appended::Acknowledged(25));
    assert_eq!(spool.append(25, &events[25..]).await, Appended::Acknowledged(50));
    assert_eq!(spool.recent(&Audience::Operator).await.len(), 50);
    assert_eq!(spool.report(&Audience::Operator).await.by_model["gpt-x"].requests, 50);
}

pub async fn events_of_any_day_find_a_place(harness: &impl Harness) {
    const WEEK: u64 = 7 * 86_400_000;
    let first = Spool::attach(harness, 1).await;
    let second = Spool::attach(harness, 2).await;
    let on = |number: u64, millis: u64| UsageEvent { request: request_at(millis, number), ..event(number) };
    let noon = NOON as u64 / 1000;
    // The last one is the largest time stamp that an id can have.
    let events = [on(1, 0), on(2, noon - WEEK), on(3, noon), on(4, noon + 9 * WEEK), on(5, (1 << 48) - 1)];
    let others: Vec<UsageEvent> = (0..10).map(|number| on(100 + number, noon + number * WEEK)).collect();
    // Both may want the same new place at once.
    let answers = join(first.append(0, &events), second.append(0, &others)).await;
    assert_eq!(answers, (Appended::Acknowledged(5), Appended::Acknowledged(10)));
    let all: Vec<UsageEvent> = events.into_iter().chain(others).collect();
    first.assert_holds(&all).await;
}

pub async fn the_newest_events_come_first(harness: &impl Harness) {
    let spool = Spool::attach(harness, 1).await;
    let numbers = [5, 1, 9, 3, 7];
    spool.append(0, &numbers.map(event)).await;
    let recent = spool.ledger.recent(&Audience::Operator, 3).await.unwrap();
    assert_eq!(recent, [9, 7, 5].map(event));
    assert!(spool.ledger.recent(&Audience::Operator, 0).await.unwrap().is_empty());
    assert_eq!(spool.ledger.recent(&Audience::Operator, u16::MAX).await.unwrap().len(), 5);
}

pub async fn hostile_text_is_only_text(harness: &impl Harness) {
    let spool = Spool::attach(harness, 1).await;
    let text = "'); DROP TABLE usage_event; -- \" \\ %_ $1 ? żółw 🐢";
    let hostile = UsageEvent {
        user: Some(text.into()),
        model: text.into(),
        provider: Some(text.into()),
        credential: Some(text.into()),
        error: Some(text.into()),
        ..event(1)
    };
    spool.append(0, std::slice::from_ref(&hostile)).await;
    assert_eq!(spool.report(&Audience::Operator).await.by_model[text].requests, 1);
    assert_eq!(spool.recent(&Audience::Operator).await, [hostile]);
}

/// 2025-06-15T12:00:00Z in microseconds.
const NOON: i64 = 1_749_988_800_000_000;
const BEGIN: Timestamp = Timestamp(0);
const END: Timestamp = Timestamp(i64::MAX);
/// What [`event`] costs: more than one limb.
const COST: i128 = 1_690_000_123;

/// One attachment to one spool.
struct Spool {
    ledger: Arc<dyn UsageLedger>,
    id: SpoolId,
    generation: i64,
    acknowledged: u64,
}

impl Spool {
    async fn attach(harness: &impl Harness, number: u64) -> Self {
        let ledger = harness.ledger();
        let id = spool_id(number);
        let attachment = ledger.attach(id).await.unwrap();
        Self { ledger, id, generation: attachment.generation, acknowledged: attachment.acknowledged }
    }

    async fn append(&self, from: u64, events: &[UsageEvent]) -> Appended {
        let batch = Batch { spool: self.id, generation: self.generation, from, events: events.to_vec() };
        self.ledger.append(&batch).await.unwrap()
    }

    /// Sends all events in small batches as a drainer does, until the end or until it is fenced.
    async fn drain(&self, events: &[UsageEvent]) -> Appended {
        let mut position = self.acknowledged;
        loop {
            let rest = &events[usize::try_from(position).unwrap()..];
            let answer = self.append(position, &rest[..rest.len().min(7)]).await;
            match answer {
                Appended::Acknowledged(end) if end == events.len() as u64 => return answer,
                Appended::Acknowledged(next) | Appended::StandsAt(next) => position = next,
                Appended::Fenced => return answer,
            }
        }
    }

    async fn recent(&self, audience: &Audience) -> Vec<UsageEvent> {
        self.ledger.recent(audience, 1000).await.unwrap()
    }

    async fn report(&self, audience: &Audience) -> UsageReport {
        self.ledger.report(audience, BEGIN, END).await.unwrap()
    }

    /// These events, each once, and their sums.
    async fn assert_holds(&self, events: &[UsageEvent]) {
        let mut expected = events.to_vec();
        expected.sort_by_key(|event| std::cmp::Reverse((event.request.day(), event.request, event.attempt)));
        assert_eq!(self.recent(&Audience::Operator).await, expected);
        assert_eq!(self.report(&Audience::Operator).await, sums_of(events));
    }
}

fn spool_id(number: u64) -> SpoolId {
    SpoolId(Uuid::from_u128(0x5b00_1000 + u128::from(number)))
}

fn key(number: u64) -> KeyId {
    KeyId::parse(&format!("k{number:011}")).unwrap()
}

/// A `UUIDv7`; those of one time stamp sort by number.
fn request_at(millis: u64, number: u64) -> RequestId {
    RequestId(Uuid::from_u128(u128::from(millis) << 80 | 0x7 << 76 | 0x8 << 60 | u128::from(number)))
}

fn event(number: u64) -> UsageEvent {
    UsageEvent {
        request: request_at(NOON as u64 / 1000, number),
        attempt: 1,
        kind: EventKind::Charge,
        revision: 0,
        operation: Operation::Chat,
        key: key(1),
        user: None,
        model: "gpt-x".into(),
        provider: None,
        credential: None,
        outcome: Outcome::Success,
        error: None,
        admitted_at: Timestamp(NOON),
        first_ms: None,
        total_ms: None,
        usage: TokenUsage { input: 11, cache_read: 5, output: 7, reasoning: 2, ..TokenUsage::default() },
        usage_source: UsageSource::Provider,
        price_version: Some(3),
        cost: PicoUsd(COST as i64),
        provider_cost: None,
    }
}

/// What the ledger should say of charges whose requests had one attempt.
fn sums_of(events: &[UsageEvent]) -> UsageReport {
    let (mut by_model, mut by_day) = (BTreeMap::<String, Counters>::new(), BTreeMap::<i32, Counters>::new());
    for event in events {
        let mut cost = PicoUsdSum::default();
        cost += event.cost;
        let counters = Counters {
            requests: 1,
            successful: u64::from(event.outcome == Outcome::Success),
            cancelled: u64::from(event.outcome == Outcome::Cancelled),
            input_tokens: event.usage.input_total(),
            output_tokens: event.usage.output_total(),
            cost,
        };
        by_model.entry(event.model.to_string()).or_default().add(&counters);
        let day = i32::try_from(event.admitted_at.seconds().div_euclid(86_400)).unwrap();
        by_day.entry(day).or_default().add(&counters);
    }
    UsageReport { by_model, by_day }
}

/// A linear congruential generator: the same events in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

fn random_event(random: &mut Random, seed: u64) -> UsageEvent {
    let outcomes = [Outcome::Success, Outcome::Failed, Outcome::Cancelled, Outcome::Lost];
    let number = seed << 32 | random.below(1 << 31);
    UsageEvent {
        key: key(random.below(4)),
        model: format!("model-{}", random.below(3)).into(),
        outcome: outcomes[random.below(4) as usize],
        admitted_at: Timestamp(NOON + random.below(1 << 31) as i64 * 100),
        usage: TokenUsage {
            input: random.below(1 << 20),
            cache_read: random.below(1 << 20),
            cache_write: random.below(2),
            output: random.below(1 << 20),
            reasoning: random.below(100),
            audio_in: random.below(9),
            audio_out: random.below(9),
            images: random.below(4),
        },
        cost: PicoUsd((random.below(1 << 31) << 31 | random.below(1 << 31)) as i64),
        ..event(number)
    }
}
