//! Keys with their change feed, and the ledger of usage.
//!
//! Money, tokens and times are `bigint` in both databases: SQLite would keep a decimal as a float. Times are microseconds
//! since the Unix epoch unless the column says otherwise.

mod keys;
mod ledger;
mod partitions;

use sea_orm_migration::{DbErr, MigrationName, MigrationTrait, SchemaManager, async_trait};

pub(crate) struct Foundation;

impl MigrationName for Foundation {
    fn name(&self) -> &'static str {
        "m0001_foundation"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Foundation {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        keys::create(manager).await?;
        ledger::create(manager).await?;
        partitions::create(manager).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        partitions::drop(manager).await?;
        ledger::drop(manager).await?;
        keys::drop(manager).await
    }
}
