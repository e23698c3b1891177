//! Contract of [`UsageJournal`], with what drains it: each charge reaches the ledger once, whoever dies when.

use std::{sync::Arc, time::Duration};

use ai4free_ports::{
    error::JournalError,
    key::KeyId,
    money::PicoUsd,
    request::{Operation, RequestId},
    runtime::Timestamp,
    usage::{TokenUsage, UsageSource},
    usage_journal::{Checkpoint, UsageJournal},
    usage_ledger::{EventKind, Outcome, UsageEvent, UsageLedger},
};
use async_trait::async_trait;
use uuid::Uuid;

use crate::recording::{Fault, RecordingLedger};

/// A place where journals are kept, which survives the processes that write them.
pub trait Harness: Sized {
    /// An empty place.
    fn fresh() -> Self;

    /// An empty place that is full after this many bytes.
    fn with_capacity(bytes: u64) -> Self;

    /// Starts a process that takes over what dead ones have left.
    fn start(&self) -> Box<dyn Process>;

    /// Copies of this place as a death in the middle of any write could have left it, the oldest first, the whole last.
    fn torn_copies(&self) -> impl Iterator<Item = Self>;
}

/// A process with a journal. To drop it is `kill -9`.
#[async_trait]
pub trait Process: Send + Sync {
    fn journal(&self) -> Arc<dyn UsageJournal>;

    /// Runs the drainer until the ledger has everything.
    async fn drain(&self, ledger: Arc<dyn UsageLedger>);

    /// Runs the drainer until the future is dropped.
    async fn keep_draining(&self, ledger: Arc<dyn UsageLedger>);
}

/// An event of request `number`; the cost tells events apart.
pub fn charge(number: u128, cost: i64) -> UsageEvent {
    UsageEvent {
        request: RequestId(Uuid::from_u128(number)),
        attempt: 1,
        kind: EventKind::Charge,
        revision: 0,
        operation: Operation::Chat,
        key: KeyId::parse("0123456789Ab").unwrap(),
        user: Some("ann".into()),
        model: "gpt-x".into(),
        provider: Some("openai".into()),
        credential: Some("openai#1".into()),
        outcome: Outcome::Success,
        error: None,
        admitted_at: Timestamp::from_seconds(1_790_000_000),
        first_ms: Some(120),
        total_ms: Some(2400),
        usage: TokenUsage { input: 900, output: 70, ..TokenUsage::default() },
        usage_source: UsageSource::Provider,
        price_version: Some(3),
        cost: PicoUsd(cost),
        provider_cost: None,
        spending: Vec::new(),
    }
}

/// The same request at its bound, as it is opened.
pub fn bound(number: u128) -> UsageEvent {
    let usage = TokenUsage { input: 1000, output: 4096, ..TokenUsage::default() };
    UsageEvent { usage, outcome: Outcome::Failed, cost: PicoUsd(1_000_000), ..charge(number, 0) }
}

fn checkpoint(number: u128, cost: i64) -> Checkpoint {
    let usage = TokenUsage { input: 900, output: 33, ..TokenUsage::default() };
    Checkpoint { request: RequestId(Uuid::from_u128(number)), usage, source: UsageSource::Counted, cost: PicoUsd(cost) }
}

fn lost_at_bound(number: u128) -> UsageEvent {
    UsageEvent { outcome: Outcome::Lost, usage_source: UsageSource::Bound, ..bound(number) }
}

fn lost_at(checkpoint: &Checkpoint, number: u128) -> UsageEvent {
    let Checkpoint { usage, cost, .. } = *checkpoint;
    UsageEvent { outcome: Outcome::Lost, usage_source: UsageSource::Estimated, usage, cost, ..bound(number) }
}

/// As a request is opened that may wait: other threads may be writing.
///
/// # Errors
/// Those of [`UsageJournal::open`].
pub fn opened(journal: &dyn UsageJournal, bound: &UsageEvent) -> Result<(), JournalError> {
    loop {
        match journal.open(bound) {
            Err(JournalError::Busy) => std::thread::yield_now(),
            done => return done,
        }
    }
}

fn serve(journal: &dyn UsageJournal, number: u128, cost: i64) {
    opened(journal, &bound(number)).unwrap();
    journal.close(RequestId(Uuid::from_u128(number)), &[charge(number, cost)]);
}

/// What the ledger has after a process has started in `place` and drained it.
async fn drained<H: Harness>(place: &H) -> Vec<UsageEvent> {
    let ledger = Arc::new(RecordingLedger::default());
    place.start().drain(ledger.clone()).await;
    ledger.events()
}

pub async fn a_closed_request_is_in_the_ledger_once_and_as_it_was<H: Harness>() {
    let place = H::fresh();
    let (process, ledger) = (place.start(), Arc::new(RecordingLedger::default()));
    let event = UsageEvent { error: Some("upstream_server".into()), provider_cost: Some(PicoUsd(5)), ..charge(1, 7) };
    opened(&*process.journal(), &bound(1)).unwrap();
    process.journal().close(event.request, std::slice::from_ref(&event));
    process.drain(ledger.clone()).await;
    assert_eq!(ledger.events(), [event]);
}

pub async fn a_second_close_changes_nothing<H: Harness>() {
    let place = H::fresh();
    let (process, ledger) = (place.start(), Arc::new(RecordingLedger::default()));
    serve(&*process.journal(), 1, 7);
    let correction = UsageEvent { attempt: 2, ..charge(1, 8) };
    process.journal().close(correction.request, &[correction]);
    process.drain(ledger.clone()).await;
    assert_eq!(ledger.events(), [charge(1, 7)]);
    drop(process);
    assert_eq!(drained(&place).await, [charge(1, 7)]);
}

pub async fn a_close_or_checkpoint_of_a_request_that_was_never_opened_changes_nothing<H: Harness>() {
    let place = H::fresh();
    let process = place.start();
    process.journal().checkpoint(&checkpoint(1, 5));
    process.journal().close(charge(1, 7).request, &[charge(1, 7)]);
    drop(process);
    assert_eq!(drained(&place).await, []);
}

pub async fn a_request_that_was_closed_without_events_costs_nothing<H: Harness>() {
    let place = H::fresh();
    let process = place.start();
    opened(&*process.journal(), &bound(1)).unwrap();
    process.journal().close(bound(1).request, &[]);
    serve(&*process.journal(), 2, 7);
    drop(process);
    assert_eq!(drained(&place).await, [charge(2, 7)]);
}

pub async fn all_events_of_a_request_are_in_one_batch<H: Harness>() {
    let place = H::fresh();
    let (process, ledger) = (place.start(), Arc::new(RecordingLedger::default()));
    for number in 1..=300 {
        opened(&*process.journal(), &bound(number)).unwrap();
        let attempts = [1, 2, 3].map(|attempt| UsageEvent { attempt, ..charge(number, i64::from(attempt)) });
        process.journal().close(bound(number).request, &attempts);
    }
    process.drain(ledger.clone()).await;
    assert_eq!(ledger.events().len(), 900);
    for batch in ledger.batches() {
        assert!(batch.chunk_by(|a, b| a.request == b.request).all(|request| request.len() == 3));
    }
}

pub async fn who_is_killed_between_open_and_close_is_charged_at_the_bound<H: Harness>() {
    let place = H::fresh();
    let process = place.start();
    serve(&*process.journal(), 1, 7);
    opened(&*process.journal(), &bound(2)).unwrap();
    drop(process);
    assert_eq!(drained(&place).await, [charge(1, 7), lost_at_bound(2)]);
}

pub async fn who_is_killed_after_a_checkpoint_is_charged_at_the_last_one<H: Harness>() {
    let place = H::fresh();
    let process = place.start();
    opened(&*process.journal(), &bound(1)).unwrap();
    process.journal().checkpoint(&checkpoint(1, 5));
    process.journal().checkpoint(&checkpoint(1, 6));
    drop(process);
    assert_eq!(drained(&place).await, [lost_at(&checkpoint(1, 6), 1)]);
}

pub async fn many_starts_in_a_row_change_nothing<H: Harness>() {
    let place = H::fresh();
    let ledger = Arc::new(RecordingLedger::default());
    let process = place.start();
    serve(&*process.journal(), 1, 7);
    opened(&*process.journal(), &bound(2)).unwrap();
    opened(&*process.journal(), &bound(3)).unwrap();
    process.journal().checkpoint(&checkpoint(3, 5));
    drop(process);
    for _ in 0..5 {
        drop(place.start());
    }
    for _ in 0..3 {
        place.start().drain(ledger.clone()).await;
        assert_eq!(ledger.events(), [charge(1, 7), lost_at_bound(2), lost_at(&checkpoint(3, 5), 3)]);
    }
    assert_eq!(ledger.acknowledged(), 3);
}

pub async fn a_full_journal_refuses_to_open_and_still_closes<H: Harness>() {
    let place = H::with_capacity(16 * 1024);
    let (process, ledger) = (place.start(), Arc::new(RecordingLedger::default()));
    let journal = process.journal();
    let open: Vec<u128> = (1..1000).take_while(|number| opened(&*journal, &bound(*number)).is_ok()).collect();
    assert!((4..100).contains(&open.len()), "{} requests were opened", open.len());
    assert!(matches!(opened(&*journal, &bound(5000)), Err(JournalError::Full)));
    for number in &open {
        journal.close(bound(*number).request, &[charge(*number, 7)]);
    }
    process.drain(ledger.clone()).await;
    assert_eq!(ledger.events(), Vec::from_iter(open.iter().map(|number| charge(*number, 7))));
}

pub async fn a_death_in_any_write_loses_no_close_that_was_complete_and_doubles_nothing<H: Harness>() {
    let place = H::fresh();
    let process = place.start();
    serve(&*process.journal(), 1, 7);
    opened(&*process.journal(), &bound(2)).unwrap();
    process.journal().checkpoint(&checkpoint(2, 5));
    serve(&*process.journal(), 3, 8);
    drop(process);
    // What a request is charged may only go from nothing over its bound and its checkpoint to its close.
    let stages: [Vec<UsageEvent>; 3] = [
        vec![lost_at_bound(1), charge(1, 7)],
        vec![lost_at_bound(2), lost_at(&checkpoint(2, 5), 2)],
        vec![lost_at_bound(3), charge(3, 8)],
    ];
    let mut reached = [None; 3];
    for (cut, copy) in place.torn_copies().enumerate() {
        let charged = drained(&copy).await;
        for ((events, reached), number) in stages.iter().zip(&mut reached).zip(1_u128..) {
            let found: Vec<_> = charged.iter().filter(|event| event.request == bound(number).request).collect();
            assert!(found.len() <= 1, "cut {cut}: request {number} is charged twice");
            let stage =
                found.first().map(|found| events.iter().position(|event| event == *found).expect("a known stage"));
            assert!(stage >= *reached, "cut {cut}: request {number} fell back from {reached:?} to {stage:?}");
            *reached = stage;
        }
    }
    assert_eq!(reached, [Some(1); 3]);
}

pub async fn a_ledger_that_fails_is_tried_again_and_nothing_is_doubled<H: Harness>() {
    let place = H::fresh();
    let (process, ledger) = (place.start(), Arc::new(RecordingLedger::default()));
    for number in 1..=1100 {
        serve(&*process.journal(), number, 7);
    }
    ledger.fail([Fault::BeforeCommit, Fault::AfterCommit, Fault::None, Fault::AfterCommit]);
    process.drain(ledger.clone()).await;
    assert_eq!(ledger.events(), Vec::from_iter((1..=1100).map(|number| charge(number, 7))));
}

pub async fn a_drainer_that_dies_at_any_append_is_replaced_and_nothing_is_doubled<H: Harness>() {
    for working in 0..3 {
        for fault in [Fault::HangBeforeCommit, Fault::HangAfterCommit] {
            let place = H::fresh();
            let (process, ledger) = (place.start(), Arc::new(RecordingLedger::default()));
            for number in 1..=1100 {
                serve(&*process.journal(), number, 7);
            }
            ledger.fail(std::iter::repeat_n(Fault::None, working).chain([fault]));
            tokio::select! {
                () = process.keep_draining(ledger.clone()) => panic!("the drainer ended"),
                () = ledger.hung() => {}
            }
            drop(process);
            place.start().drain(ledger.clone()).await;
            assert_eq!(
                ledger.events(),
                Vec::from_iter((1..=1100).map(|number| charge(number, 7))),
                "{working} {fault:?}"
            );
        }
    }
}

pub async fn commits_that_the_ledger_has_lost_are_sent_again<H: Harness>() {
    let place = H::fresh();
    let (process, ledger) = (place.start(), Arc::new(RecordingLedger::default()));
    for round in 0..4_u128 {
        serve(&*process.journal(), round + 1, 7);
        process.drain(ledger.clone()).await;
    }
    ledger.lose_commits(2);
    assert_eq!(ledger.events().len(), 2);
    serve(&*process.journal(), 5, 7);
    process.drain(ledger.clone()).await;
    assert_eq!(ledger.events(), Vec::from_iter((1..=5).map(|number| charge(number, 7))));
}

pub async fn a_ledger_that_was_made_anew_gets_everything_that_is_kept<H: Harness>() {
    let place = H::fresh();
    let (process, ledger) = (place.start(), Arc::new(RecordingLedger::default()));
    serve(&*process.journal(), 1, 7);
    process.drain(ledger.clone()).await;
    drop(process);
    ledger.forget_everything();
    let process = place.start();
    serve(&*process.journal(), 2, 7);
    process.drain(ledger.clone()).await;
    assert_eq!(ledger.events(), [charge(1, 7), charge(2, 7)]);
}

pub async fn whoever_waits_for_the_drain_finds_what_was_closed_before<H: Harness>() {
    let place = H::fresh();
    let (process, ledger) = (place.start(), Arc::new(RecordingLedger::default()));
    let journal = process.journal();
    let asking = async {
        for number in 1..=20 {
            serve(&*journal, number, 7);
            journal.drained(Duration::from_secs(10)).await;
            assert_eq!(ledger.events().len() as u128, number);
        }
    };
    tokio::select! {
        () = process.keep_draining(ledger.clone()) => panic!("the drainer ended"),
        () = asking => {}
    }
}

pub async fn requests_on_many_threads_are_all_there<H: Harness>() {
    let place = H::fresh();
    let process = place.start();
    std::thread::scope(|scope| {
        for thread in 0..8_u128 {
            let journal = process.journal();
            scope.spawn(move || {
                for number in 0..100 {
                    serve(&*journal, thread * 1000 + number, 7);
                }
            });
        }
    });
    drop(process);
    let mut requests: Vec<_> = drained(&place).await.into_iter().map(|event| event.request).collect();
    requests.sort_unstable();
    requests.dedup();
    assert_eq!(requests.len(), 800);
}

pub async fn whoever_waits_for_durability_is_answered_whatever_the_request_is_doing<H: Harness>() {
    let place = H::fresh();
    let process = place.start();
    let journal = process.journal();
    journal.durable(bound(1).request).await.unwrap();
    opened(&*journal, &bound(1)).unwrap();
    journal.durable(bound(1).request).await.unwrap();
    journal.close(bound(1).request, &[charge(1, 7)]);
    journal.durable(bound(1).request).await.unwrap();
    drop((journal, process));
    assert_eq!(drained(&place).await, [charge(1, 7)]);
}

/// Every clause as a test of one harness.
#[macro_export]
macro_rules! usage_journal_contract {
    ($harness:ty) => {
        $crate::usage_journal_contract! { $harness:
            a_closed_request_is_in_the_ledger_once_and_as_it_was
            a_second_close_changes_nothing
            a_close_or_checkpoint_of_a_request_that_was_never_opened_changes_nothing
            a_request_that_was_closed_without_events_costs_nothing
            all_events_of_a_request_are_in_one_batch
            who_is_killed_between_open_and_close_is_charged_at_the_bound
            who_is_killed_after_a_checkpoint_is_charged_at_the_last_one
            many_starts_in_a_row_change_nothing
            a_full_journal_refuses_to_open_and_still_closes
            a_death_in_any_write_loses_no_close_that_was_complete_and_doubles_nothing
            a_ledger_that_fails_is_tried_again_and_nothing_is_doubled
            a_drainer_that_dies_at_any_append_is_replaced_and_nothing_is_doubled
            commits_that_the_ledger_has_lost_are_sent_again
            a_ledger_that_was_made_anew_gets_everything_that_is_kept
            whoever_waits_for_the_drain_finds_what_was_closed_before
            requests_on_many_threads_are_all_there
            whoever_waits_for_durability_is_answered_whatever_the_request_is_doing
        }
    };
    ($harness:ty: $($clause:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $clause() {
                $crate::usage_journal::$clause::<$harness>().await;
            }
        )*
    };
}
