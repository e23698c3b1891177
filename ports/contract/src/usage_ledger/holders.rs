//! Epochs follow each other, and what a holder that is over has not spent is free again.

use ai4free_ports::{
    budget::{Epoch, Holder},
    usage_ledger::GrantAnswer,
};
use futures_util::future::join_all;

use super::{
    Harness,
    budgets::{charged_to, grant, granted, request},
    fixture::{COST, Spool, spool_id},
};

pub async fn an_epoch_ends_when_the_limiter_is_another_or_has_lost_data(harness: &impl Harness) {
    let ledger = harness.ledger();
    let attest = async |run_id: &str, lost: Option<i64>| ledger.attest(run_id, lost.map(Epoch)).await.unwrap().0;
    assert_eq!(attest("a", None).await, 1);
    assert_eq!(attest("a", None).await, 1, "it is known");
    assert_eq!(attest("b", None).await, 2, "another process");
    assert_eq!(attest("b", Some(1)).await, 2, "what was lost is over already");
    assert_eq!(attest("b", Some(2)).await, 3, "lost");
    assert_eq!(attest("b", Some(2)).await, 3, "told again");
    assert_eq!(attest("a", Some(2)).await, 4, "the first process is back");
    assert_eq!(attest("a", None).await, 4);
}

pub async fn who_attests_the_same_at_once_gets_the_same_epoch(harness: &impl Harness) {
    let ledger = harness.ledger();
    for (round, (run_id, lost)) in
        [("a", None), ("b", None), ("b", Some(Epoch(2))), ("c", Some(Epoch(3)))].into_iter().enumerate()
    {
        let racers = (0..8).map(|_| ledger.attest(run_id, lost));
        for epoch in join_all(racers).await {
            assert_eq!(epoch.unwrap(), Epoch(round as i64 + 1), "{run_id} {lost:?}");
        }
    }
}

pub async fn closing_the_holders_of_a_spool_frees_what_they_did_not_spend(harness: &impl Harness) {
    let first = Spool::attach(harness, 1).await;
    assert_eq!(grant(harness, &request(first.holder(), 10 * COST)).await, granted(0, 10 * COST, 0));
    first.append(0, &[charged_to(first.holder(), 1), charged_to(first.holder(), 2)]).await;
    let second = Spool::attach(harness, 1).await;
    let asked = request(second.holder(), 10 * COST);
    assert_eq!(grant(harness, &asked).await, granted(0, 0, 10 * COST), "its events may not be here yet");
    let third = charged_to(first.holder(), 3);
    second.append(2, std::slice::from_ref(&third)).await;
    for _ in 0..2 {
        harness.ledger().close_holders(second.id, second.generation).await.unwrap();
    }
    assert_eq!(grant(harness, &asked).await, granted(0, 7 * COST, 3 * COST));
    // It is the current one, and other spools are other holders.
    let other = Spool::attach(harness, 2).await;
    harness.ledger().close_holders(other.id, other.generation + 1).await.unwrap();
    let by_other = request(Spool::attach(harness, 3).await.holder(), 10 * COST);
    assert_eq!(grant(harness, &by_other).await, granted(0, 0, 10 * COST));
    // What arrives late counts all the same.
    second.append(3, &[charged_to(first.holder(), 4)]).await;
    assert_eq!(grant(harness, &by_other).await, granted(0, 0, 11 * COST));
}

pub async fn a_shared_holder_closes_when_no_process_has_money_of_it(harness: &impl Harness) {
    let ledger = harness.ledger();
    let (first, second) = (Spool::attach(harness, 1).await, Spool::attach(harness, 2).await);
    let one = ledger.attest("a", None).await.unwrap();
    grant(harness, &request(Holder::Shared(one), 10 * COST)).await;
    first.append(0, &[charged_to(Holder::Shared(one), 1)]).await;
    first.beat(one).await;
    second.beat(one).await;
    assert_eq!(
        grant(harness, &request(Holder::Shared(one), 10 * COST)).await,
        granted(10 * COST, 10 * COST, 0),
        "the current epoch goes on"
    );
    second.beat(Epoch(0)).await;
    let two = ledger.attest("a", Some(one)).await.unwrap();
    let asked = request(Holder::Shared(two), 10 * COST);
    assert_eq!(grant(harness, &asked).await, granted(0, 0, 10 * COST));
    first.beat(one).await;
    assert_eq!(grant(harness, &asked).await, granted(0, 0, 10 * COST), "the second process has not said so");
    second.beat(two).await;
    assert_eq!(grant(harness, &asked).await, granted(0, 9 * COST, COST));
    second.append(0, &[charged_to(Holder::Shared(one), 2)]).await;
    let other = request(Spool::attach(harness, 3).await.holder(), 12 * COST);
    assert_eq!(grant(harness, &other).await, granted(0, COST, 11 * COST));
}

/// One that was stopped waits for nothing, and one that was taken over knows nothing.
pub async fn nobody_waits_for_the_beat_of_a_process_that_is_over(harness: &impl Harness) {
    let ledger = harness.ledger();
    let (gone, retired) = (Spool::attach(harness, 1).await, Spool::attach(harness, 2).await);
    let one = ledger.attest("a", None).await.unwrap();
    grant(harness, &request(Holder::Shared(one), COST)).await;
    let two = ledger.attest("a", Some(one)).await.unwrap();
    let successor = Spool::attach(harness, 1).await;
    ledger.retire(retired.id, retired.generation).await.unwrap();
    gone.beat(one).await;
    let asked = request(Holder::Shared(two), COST);
    assert_eq!(grant(harness, &asked).await, granted(0, 0, COST), "its successor has the events");
    successor.beat(one).await;
    assert_eq!(grant(harness, &asked).await, granted(0, COST, 0));
}

pub async fn a_retired_process_gives_back_what_it_was_granted(harness: &impl Harness) {
    let ledger = harness.ledger();
    let spool = Spool::attach(harness, 1).await;
    let asked = request(spool.holder(), 10 * COST);
    grant(harness, &asked).await;
    spool.append(0, &[charged_to(spool.holder(), 1)]).await;
    ledger.retire(spool.id, spool.generation - 1).await.unwrap();
    assert_eq!(grant(harness, &asked).await, granted(10 * COST, 10 * COST, 0), "that was another life of it");
    ledger.retire(spool.id, spool.generation).await.unwrap();
    assert_eq!(grant(harness, &asked).await, GrantAnswer::Stale);
    let other = request(Spool::attach(harness, 2).await.holder(), 10 * COST);
    assert_eq!(grant(harness, &other).await, granted(0, 9 * COST, COST));
    let again = Spool::attach(harness, 1).await;
    assert_eq!((again.id, again.acknowledged), (spool_id(1), 1));
    assert_eq!(grant(harness, &request(again.holder(), 11 * COST)).await, granted(0, COST, 10 * COST));
}
