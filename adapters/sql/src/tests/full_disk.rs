//! A disk that was full once.

use ai4free_ports::usage_ledger::{Appended, Batch, UsageLedger};
use sea_orm::{ConnectionTrait, DatabaseConnection, EntityTrait, PaginatorTrait};

use crate::{
    SqlUsageLedger,
    entity::{spool, usage_event},
    tests::{
        events::{SPOOL, THURSDAY, event},
        harness::{Sqlite, TestDatabase},
    },
};

/// What is acknowledged of the only spool, and how many events there are.
async fn seen_by_others(reader: &DatabaseConnection) -> (i64, u64) {
    let acknowledged = spool::Entity::find().one(reader).await.unwrap().unwrap().acknowledged;
    (acknowledged, usage_event::Entity::find().count(reader).await.unwrap())
}

/// When the disk is full SQLite ends a transaction by itself. What follows must not be written into one that the driver takes for
/// open, and that nobody will ever commit: it would be acknowledged, and gone with the process.
#[tokio::test]
async fn what_follows_a_transaction_that_sqlite_has_ended_is_there_for_everybody() {
    let sqlite = Sqlite::start().await.unwrap();
    let ledger = SqlUsageLedger::new(sqlite.database().clone());
    let generation = ledger.attach(SPOOL).await.unwrap().generation;
    for from in 0..3 {
        let ended = sqlite.database().begin_write().await.unwrap_or_else(|_| panic!("no transaction"));
        ended.execute_unprepared("ROLLBACK").await.unwrap();
        assert!(ended.commit().await.is_err(), "there is nothing to commit");
        // The next attempt fails as well.
        drop(sqlite.database().begin_write().await);
        let batch = Batch { spool: SPOOL, generation, from, events: vec![event(THURSDAY, from)] };
        assert_eq!(ledger.append(&batch).await.unwrap(), Appended::Acknowledged(from + 1));
        let expected = (i64::try_from(from + 1).unwrap(), from + 1);
        assert_eq!(seen_by_others(&sqlite.database().reader).await, expected);
    }
    sqlite.end().await;
}
