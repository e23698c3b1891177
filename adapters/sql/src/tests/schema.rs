use std::time::Duration;

use sea_orm::{ConnectionTrait, EntityTrait, IntoActiveModel};
use sea_orm_migration::seaql_migrations;

use crate::{
    MigrationStatus, SqlKeyStore, clean, list_tables, migrate, migration_status, reset,
    tests::harness::{Postgres, TestDatabase, on_both},
};

on_both! {
    what_was_migrated_is_known
    many_may_migrate_at_once
    a_database_of_a_newer_release_is_left_as_it_is
    cleaning_takes_our_tables_and_no_others
    a_reset_database_is_empty_and_works
}

async fn what_was_migrated_is_known(database: &crate::Database) {
    let all = MigrationStatus { applied: vec!["m0001_foundation".into(), "m0002_money".into()], pending: Vec::new() };
    assert_eq!(migration_status(database).await.unwrap(), all);
    clean(database).await.unwrap();
    let none = MigrationStatus { applied: Vec::new(), pending: all.applied.clone() };
    assert_eq!(migration_status(database).await.unwrap(), none);
    assert_eq!(list_tables(database).await.unwrap(), [""; 0], "asking creates nothing");
    migrate(database).await.unwrap();
    assert_eq!(migration_status(database).await.unwrap(), all);
}

async fn many_may_migrate_at_once(database: &crate::Database) {
    clean(database).await.unwrap();
    let mut replicas = tokio::task::JoinSet::new();
    for _ in 0..6 {
        let database = database.clone();
        replicas.spawn(async move { migrate(&database).await });
    }
    for migrated in replicas.join_all().await {
        migrated.unwrap();
    }
    assert!(migration_status(database).await.unwrap().pending.is_empty());
}

async fn a_database_of_a_newer_release_is_left_as_it_is(database: &crate::Database) {
    let newer = seaql_migrations::Model { version: "m9999_future".into(), applied_at: 0 };
    let insert = seaql_migrations::Entity::insert(newer.into_active_model());
    insert.exec_without_returning(&database.writer).await.unwrap();
    migrate(database).await.unwrap();
    let status = migration_status(database).await.unwrap();
    assert_eq!(status.applied, ["m0001_foundation", "m0002_money", "m9999_future"]);
    assert!(status.pending.is_empty());
}

async fn cleaning_takes_our_tables_and_no_others(database: &crate::Database) {
    database.writer.execute_unprepared("CREATE TABLE somebody_elses (id int)").await.unwrap();
    clean(database).await.unwrap();
    assert_eq!(list_tables(database).await.unwrap(), ["somebody_elses"]);
    clean(database).await.expect("there is nothing to clean");
}

async fn a_reset_database_is_empty_and_works(database: &crate::Database) {
    use ai4free_ports::key_store::KeyStore;
    let store = SqlKeyStore::new(database.clone());
    store.remember_pepper(1, [1; 32]).await.unwrap();
    reset(database).await.unwrap();
    // The tables are other ones now, and no connection may have kept a statement of the old.
    assert_eq!(store.remember_pepper(1, [2; 32]).await.unwrap(), [2; 32]);
    assert_eq!(store.current_sequence().await.unwrap(), 0);
}

#[tokio::test]
async fn a_migration_waits_for_another_replicas() {
    let Some(postgres) = Postgres::start().await else { return };
    clean(postgres.owner()).await.unwrap();
    let slow = crate::connect(&postgres.owner_url, crate::tests::harness::PATIENT).await.unwrap();
    let transaction = slow.begin_write().await.unwrap();
    crate::schema::lock(&transaction).await.unwrap();
    let waiting = tokio::time::timeout(Duration::from_millis(200), migrate(postgres.owner())).await;
    assert!(waiting.is_err(), "it did not wait");
    transaction.commit().await.unwrap();
    migrate(postgres.owner()).await.unwrap();
    slow.close().await.unwrap();
    postgres.end().await;
}
