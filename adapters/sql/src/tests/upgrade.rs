use ai4free_migration::Migrator;
use ai4free_ports::{
    runtime::Timestamp,
    usage_ledger::{Dimension, UsageLedger},
};
use sea_orm::ConnectionTrait;
use sea_orm_migration::MigratorTrait;

use crate::{
    Database, SqlUsageLedger, clean, migrate,
    tests::{
        events::{COST, THURSDAY},
        harness::on_both,
    },
};

on_both! {
    a_ledger_of_the_first_release_gets_all_sums
}

/// A request of two attempts, one without owner and provider, a correction, a hold and its release.
async fn a_ledger_of_the_first_release_gets_all_sums(database: &Database) {
    clean(database).await.unwrap();
    Migrator::up(&database.writer, Some(1)).await.unwrap();
    if database.backend() == sea_orm::DbBackend::Postgres {
        let partition = format!("SELECT usage_event_ensure_partition({})", THURSDAY / 86_400_000_000);
        database.writer.execute_unprepared(&partition).await.unwrap();
    }
    let id = |number: i64| {
        let millis = THURSDAY / 1000;
        let hex = format!("{millis:012x}70008000{number:012x}");
        match database.backend() {
            sea_orm::DbBackend::Postgres => format!("'{hex}'"),
            _ => format!("x'{hex}'"),
        }
    };
    let day = THURSDAY / 86_400_000_000;
    for (number, attempt, kind, user, outcome, cost) in [
        (1, 1, 1, "'ann'", 2, COST),
        (1, 2, 1, "'ann'", 1, COST),
        (2, 1, 1, "NULL", 3, COST),
        (2, 1, 2, "NULL", 3, -1_500_001),
        (3, 1, 3, "'ann'", 4, COST),
        (3, 1, 4, "'ann'", 4, -COST),
    ] {
        let id = id(number);
        let (provider, sums) = if user == "NULL" { ("NULL", 0) } else { ("'openai'", 1) };
        let insert = format!(
            "INSERT INTO usage_event (day, request_id, attempt, kind, revision, spool_id, spool_position, operation, key_id,
                user_id, model, provider, outcome, admitted_at, input_tokens, cache_read_tokens, cache_write_tokens,
                output_tokens, reasoning_tokens, audio_input_tokens, audio_output_tokens, images, usage_source, cost_pico)
            VALUES ({day}, {id}, {attempt}, {kind}, 0, {id}, 0, 1, 'k00000000001', {user}, 'gpt-x', {provider}, {outcome},
                {THURSDAY}, {sums}, 0, 0, {sums}, 0, 0, 0, 0, 1, {cost})"
        );
        database.writer.execute_unprepared(&insert).await.unwrap();
    }
    let sums = format!(
        "INSERT INTO usage_hour VALUES ('k00000000001', {}, 'gpt-x', 2, 1, 1, 2, 2, 0, {})",
        THURSDAY / 3_600_000_000,
        3 * COST - 1_500_001
    );
    database.writer.execute_unprepared(&sums).await.unwrap();

    migrate(database).await.unwrap();
    let ledger = SqlUsageLedger::new(database.clone());
    let found = ledger.verify(Timestamp(0), Timestamp(i64::MAX)).await.unwrap();
    assert_eq!((found.events, found.sums, found.differences), (6, 5, Vec::new()));
    let by_user = ledger.breakdown(Dimension::User, Timestamp(0), Timestamp(i64::MAX)).await.unwrap();
    assert_eq!((by_user["ann"].requests, by_user["ann"].cost.0), (1, 2 * i128::from(COST)));
    assert_eq!((by_user[""].cancelled, by_user[""].cost.0), (1, i128::from(COST) - 1_500_001));
    assert_eq!(ledger.recent(&ai4free_ports::usage_ledger::Audience::Operator, 9).await.unwrap().len(), 6);
}
