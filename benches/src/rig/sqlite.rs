//! The gateway's database file, from outside.

use std::{path::Path, time::Duration};

use anyhow::{Context, ensure};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor, Row, SqliteConnection, sqlite::SqliteConnectOptions};
use tokio::runtime::{Builder, Runtime};

pub(crate) struct Sqlite {
    runtime: Runtime,
    connection: SqliteConnection,
}

/// Events to be inserted at once.
const AT_ONCE: u64 = 100_000;

impl Sqlite {
    pub(crate) fn open(file: &Path) -> anyhow::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let options = SqliteConnectOptions::new().filename(file).busy_timeout(Duration::from_secs(30));
        let connection = runtime.block_on(options.connect()).context("can't open the database of the gateway")?;
        Ok(Self { runtime, connection })
    }

    /// Nobody else writes to it until this is released: usage stays in the journal.
    pub(crate) fn hold(&mut self) -> anyhow::Result<()> {
        self.runtime.block_on(self.connection.execute("BEGIN IMMEDIATE"))?;
        Ok(())
    }

    pub(crate) fn release(&mut self) -> anyhow::Result<()> {
        self.runtime.block_on(self.connection.execute("ROLLBACK"))?;
        Ok(())
    }

    /// Fills the ledger up to so many events with copies of one that is there, each under an id of its own.
    pub(crate) fn fill_ledger(&mut self, events: u64) -> anyhow::Result<()> {
        let columns: Vec<String> = self.runtime.block_on(async {
            let rows = self.connection.fetch_all("PRAGMA table_info(usage_event)").await?;
            rows.iter().map(|row| row.try_get("name")).collect::<Result<_, _>>()
        })?;
        ensure!(columns.iter().any(|column| column == "request_id"), "the ledger has no request ids: {columns:?}");
        let copied = columns.iter().map(|column| match column.as_str() {
            // Ids that rise, as those of real requests do.
            "request_id" => "unhex(printf('%032x', number))".to_owned(),
            column => column.to_owned(),
        });
        let (copied, columns) = (copied.collect::<Vec<_>>().join(", "), columns.join(", "));
        for from in (0..events).step_by(usize::try_from(AT_ONCE)?) {
            let to = (from + AT_ONCE).min(events);
            let statement = format!(
                "WITH RECURSIVE numbers (number) AS (SELECT {from} + 1 UNION ALL SELECT number + 1 FROM numbers WHERE number < {to})
                 INSERT INTO usage_event ({columns}) SELECT {copied} FROM numbers,
                 (SELECT * FROM usage_event ORDER BY request_id DESC LIMIT 1)"
            );
            self.runtime.block_on(self.connection.execute(AssertSqlSafe(statement)))?;
        }
        Ok(())
    }

    pub(crate) fn close(self) -> anyhow::Result<()> {
        self.runtime.block_on(self.connection.close())?;
        Ok(())
    }
}
