use ai4free_ports::{
    runtime::Timestamp,
    usage_ledger::{Audience, UsageLedger},
};
use sea_orm::ConnectionTrait;

use crate::{
    Database, SqlUsageLedger, expire, list_tables,
    tests::{
        events::{COST, DAY, THURSDAY, append, event},
        harness::{Postgres, Sqlite, TestDatabase, on_both},
    },
};

on_both! {
    old_events_expire_and_their_sums_stay
    what_has_expired_is_not_verified
}

/// Wednesday, Thursday, Wednesday and Thursday: three weeks.
async fn four_events(database: &Database) {
    let days = [THURSDAY - DAY, THURSDAY, THURSDAY + 6 * DAY, THURSDAY + 7 * DAY];
    append(database, days.into_iter().zip(1..).map(|(at, number)| event(at, number)).collect()).await;
}

async fn old_events_expire_and_their_sums_stay(database: &Database) {
    let ledger = SqlUsageLedger::new(database.clone());
    four_events(database).await;
    let report = ledger.report(&Audience::Operator, Timestamp(0), Timestamp(i64::MAX)).await.unwrap();
    let left = async || ledger.recent(&Audience::Operator, 9).await.unwrap().len();
    let thursday = i32::try_from(THURSDAY / DAY).unwrap();
    assert_eq!(expire(database, thursday - 7).await.unwrap(), thursday - 7);
    assert_eq!(left().await, 4);
    for _ in 0..2 {
        assert_eq!(expire(database, thursday).await.unwrap(), thursday);
        assert_eq!(left().await, 3);
    }
    assert_eq!(expire(database, thursday + 7).await.unwrap(), thursday + 7);
    assert_eq!(left().await, 1);
    let after = ledger.report(&Audience::Operator, Timestamp(0), Timestamp(i64::MAX)).await.unwrap();
    assert_eq!(after, report);
    let window = ai4free_ports::budget::MoneyWindow { start: Timestamp(THURSDAY), end: Timestamp(THURSDAY + DAY) };
    let scope = ai4free_ports::rate_limiter::Scope::Key(crate::tests::events::key());
    assert_eq!(ledger.budget(&scope, &window).await.unwrap().settled.0, COST.into());
    // Days that have expired take events again: a spool may have been away for long.
    append(database, vec![event(THURSDAY, 9)]).await;
    assert_eq!(left().await, 2);
}

async fn what_has_expired_is_not_verified(database: &Database) {
    let ledger = SqlUsageLedger::new(database.clone());
    four_events(database).await;
    let thursday = i32::try_from(THURSDAY / DAY).unwrap();
    expire(database, thursday + 7).await.unwrap();
    expire(database, thursday).await.unwrap();
    let found = ledger.verify(Timestamp(0), Timestamp(i64::MAX)).await.unwrap();
    assert_eq!((found.events, found.differences), (1, Vec::new()), "only what is kept");
    database.writer.execute_unprepared("UPDATE usage_event SET cost_pico = 0").await.unwrap();
    let found = ledger.verify(Timestamp(0), Timestamp(i64::MAX)).await.unwrap();
    assert_eq!(found.differences.len(), 4, "{found:?}");
}

#[tokio::test]
async fn sqlite_deletes_to_the_day_and_in_portions() {
    let sqlite = Sqlite::start().await.unwrap();
    let database = sqlite.database();
    for batch in 0..7 {
        append(
            database,
            (0..400_u32)
                .map(|number| event(THURSDAY + i64::from(number % 2) * DAY, batch * 400 + u64::from(number)))
                .collect(),
        )
        .await;
    }
    let friday = i32::try_from(THURSDAY / DAY).unwrap() + 1;
    assert_eq!(expire(database, friday).await.unwrap(), friday);
    let left = SqlUsageLedger::new(database.clone()).recent(&Audience::Operator, 1000).await.unwrap();
    assert!(left.iter().all(|event| event.request.day() == friday));
    let verified = SqlUsageLedger::new(database.clone()).verify(Timestamp(0), Timestamp(i64::MAX)).await.unwrap();
    assert_eq!((verified.events, verified.differences), (1400, Vec::new()));
}

/// It may neither delete nor drop, and still expires what is old; but never the last week.
#[tokio::test]
async fn the_role_that_serves_drops_whole_old_weeks() {
    let Some(postgres) = Postgres::start().await else { return };
    let database = postgres.database();
    four_events(database).await;
    let partitions = async || {
        let tables = list_tables(postgres.owner()).await.unwrap();
        tables.into_iter().filter(|name| name.starts_with("usage_event_")).collect::<Vec<_>>()
    };
    assert_eq!(partitions().await, ["usage_event_20250605", "usage_event_20250612", "usage_event_20250619"]);
    let thursday = i32::try_from(THURSDAY / DAY).unwrap();
    assert_eq!(expire(database, thursday + 6).await.unwrap(), thursday, "a week is dropped when all of it is old");
    assert_eq!(partitions().await, ["usage_event_20250612", "usage_event_20250619"]);
    let now = "SELECT usage_event_ensure_partition(now()::date - date '1970-01-01')";
    database.writer.execute_unprepared(now).await.unwrap();
    let kept = expire(database, i32::MAX).await.unwrap();
    assert!(kept > thursday + 7 && kept < i32::MAX - 14, "{kept}");
    assert_eq!(partitions().await.len(), 1);
    postgres.end().await;
}
