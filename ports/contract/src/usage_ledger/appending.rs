//! Every event is stored once and read as it was.

use ai4free_ports::{
    budget::{Epoch, Holder, Spending},
    money::PicoUsd,
    rate_limiter::Scope,
    request::Operation,
    runtime::Timestamp,
    usage::{TokenUsage, UsageSource},
    usage_ledger::{Appended, Audience, EventKind, Outcome, UsageEvent},
};
use futures_util::{
    FutureExt,
    future::{join, join_all},
};

use super::{
    Harness,
    fixture::{NOON, Spool, event, key, request_at, spool_id},
};

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
        spending: vec![
            Spending { scope: Scope::Gateway, window: Timestamp(0), holder: Holder::Shared(Epoch(17)) },
            Spending { scope: Scope::User("a:\"b]".into()), window: Timestamp(NOON), holder: spool.holder() },
        ],
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
    let unknown =
        Spool { generation: attached.generation + 3, ledger: harness.ledger(), id: spool_id(1), acknowledged: 4 };
    assert_eq!(unknown.append(4, &[event(4)]).await, Appended::Acknowledged(5));
    assert_eq!(attached.append(5, &[event(5)]).await, Appended::Fenced);
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
