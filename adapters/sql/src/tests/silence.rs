use std::time::Duration;

use ai4free_ports::{
    budget::{Epoch, Holder, MoneyWindow},
    money::{PicoUsd, PicoUsdSum},
    rate_limiter::Scope,
    usage_ledger::{GrantRequest, SpoolId, UsageLedger},
};
use sea_orm::ConnectionTrait;
use uuid::Uuid;

use crate::{Database, SqlUsageLedger, tests::harness::on_both};

on_both! {
    nobody_waits_for_a_process_that_was_silent_for_a_day
    who_is_silent_is_counted_until_it_is_retired_or_a_day_has_passed
}

async fn who_is_silent_is_counted_until_it_is_retired_or_a_day_has_passed(database: &Database) {
    let ledger = SqlUsageLedger::new(database.clone());
    let (one, other) = (SpoolId(Uuid::from_u128(1)), SpoolId(Uuid::from_u128(2)));
    let attached = ledger.attach(one).await.unwrap();
    ledger.attach(other).await.unwrap();
    let silent = async |seconds| ledger.silent(Duration::from_secs(seconds)).await.unwrap();
    let go_back = async |seconds: i64| {
        let micros = seconds * 1_000_000;
        let back = format!("UPDATE spool SET beat_at = beat_at - {micros}");
        database.writer.execute_unprepared(&back).await.unwrap();
    };
    assert_eq!(silent(600).await, 0);
    go_back(1_000).await;
    assert_eq!((silent(600).await, silent(3_000).await), (2, 0));
    ledger.beat(one, attached.generation, Epoch(0)).await.unwrap();
    assert_eq!(silent(600).await, 1);
    go_back(1_000).await;
    ledger.retire(one, attached.generation).await.unwrap();
    assert_eq!(silent(600).await, 1);
    go_back(86_400).await;
    assert_eq!(silent(600).await, 0);
}

async fn nobody_waits_for_a_process_that_was_silent_for_a_day(database: &Database) {
    let ledger = SqlUsageLedger::new(database.clone());
    let (lost, here) = (SpoolId(Uuid::from_u128(1)), SpoolId(Uuid::from_u128(2)));
    ledger.attach(lost).await.unwrap();
    let attached = ledger.attach(here).await.unwrap();
    let first = ledger.attest("a", None).await.unwrap();
    let committed = async || ledger.budget(&Scope::Gateway, &MoneyWindow::TOTAL).await.unwrap().committed.0;
    let request = GrantRequest {
        scope: Scope::Gateway,
        window: MoneyWindow::TOTAL,
        holder: Holder::Shared(first),
        limit: PicoUsdSum(5),
        claim: PicoUsd(1),
        share: 1,
        known: PicoUsdSum::default(),
    };
    ledger.grant(&request).await.unwrap();
    ledger.attest("a", Some(first)).await.unwrap();
    let beat = async || ledger.beat(here, attached.generation, first).await.unwrap();
    let silent_for = async |seconds: i64| {
        let micros = seconds * 1_000_000;
        let back = format!("UPDATE spool SET beat_at = beat_at - {micros} WHERE closed_epoch = 0");
        database.writer.execute_unprepared(&back).await.unwrap();
    };
    beat().await;
    assert_eq!(committed().await, 5, "the other process may have money of the epoch");
    silent_for(86_300).await;
    beat().await;
    assert_eq!(committed().await, 5, "it was silent for almost a day");
    silent_for(101).await;
    beat().await;
    assert_eq!(committed().await, 0);
    assert_eq!(ledger.attest("a", None).await.unwrap(), Epoch(2));
}
