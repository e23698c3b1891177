//! A disk that was full once. `max_page_count` stands in for it: SQLite answers the same, and undoes as much.

use ai4free_ports::{
    error::StoreError,
    usage_ledger::{Appended, Batch, UsageEvent, UsageLedger},
};
use sea_orm::{ConnectionTrait, DatabaseConnection};

use crate::{
    SqlUsageLedger,
    tests::{
        events::{SPOOL, THURSDAY, event},
        harness::{Sqlite, TestDatabase},
    },
};

async fn most_pages(writer: &DatabaseConnection, most: u32) {
    writer.execute_unprepared(&format!("PRAGMA max_page_count = {most}")).await.unwrap();
}

fn events(numbers: std::ops::Range<u64>) -> Vec<UsageEvent> {
    // The longest names, so that few of them fill a page.
    let wide = |number| UsageEvent { user: Some("u".repeat(255).into()), ..event(THURSDAY, number) };
    numbers.map(wide).collect()
}

#[tokio::test]
async fn a_disk_that_was_full_once_is_written_again_when_there_is_room() {
    for size in [1, 50] {
        let sqlite = Sqlite::start().await.unwrap();
        let ledger = SqlUsageLedger::new(sqlite.database().clone());
        let generation = ledger.attach(SPOOL).await.unwrap().generation;
        most_pages(&sqlite.database().writer, 1).await; // as many as there are
        let mut from = 0;
        let batch = loop {
            let batch = Batch { spool: SPOOL, generation, from, events: events(from..from + size) };
            match ledger.append(&batch).await {
                Ok(appended) => assert_eq!(appended, Appended::Acknowledged(from + size)),
                Err(error) => {
                    assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
                    break batch;
                }
            }
            from += size;
            assert!(from < 10_000, "it is never full");
        };
        for _ in 0..3 {
            most_pages(&sqlite.database().writer, 1).await;
            assert!(ledger.append(&batch).await.is_err(), "it is still full");
        }
        most_pages(&sqlite.database().writer, 1 << 30).await;
        assert_eq!(ledger.append(&batch).await.unwrap(), Appended::Acknowledged(from + size), "{size} at once");
        assert_eq!(ledger.attach(SPOOL).await.unwrap().acknowledged, from + size, "nothing twice, nothing missing");
        sqlite.end().await;
    }
}
