//! Where each spool stands, the events of the ledger, and their sums by the hour.

use sea_orm_migration::{
    DbErr, SchemaManager,
    sea_orm::{self, DbBackend, DeriveIden},
    sea_query::{ColumnDef, Index, IntoIden, Table, TableCreateStatement},
};

#[derive(DeriveIden)]
enum Spool {
    Table,
    Id,
    Generation,
    Acknowledged,
}

#[derive(DeriveIden)]
enum UsageEvent {
    Table,
    /// Days since the Unix epoch, from the time stamp in the request id: so the key is unique over all partitions.
    Day,
    RequestId,
    Attempt,
    Kind,
    Revision,
    SpoolId,
    /// The event's number in its spool.
    SpoolPosition,
    Operation,
    KeyId,
    UserId,
    Model,
    Provider,
    Credential,
    Outcome,
    Error,
    AdmittedAt,
    FirstMs,
    TotalMs,
    InputTokens,
    CacheReadTokens,
    CacheWriteTokens,
    OutputTokens,
    ReasoningTokens,
    AudioInputTokens,
    AudioOutputTokens,
    Images,
    UsageSource,
    PriceVersion,
    CostPico,
    ProviderCostPico,
}

#[derive(DeriveIden)]
enum UsageHour {
    Table,
    KeyId,
    /// Hours since the Unix epoch.
    Hour,
    Model,
    Requests,
    Successful,
    Cancelled,
    InputTokens,
    OutputTokens,
    CostMicro,
    /// Pico-USD beside the whole micro-USD, added up without carry.
    CostRest,
}

pub(super) async fn create(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    let backend = manager.get_database_backend();
    for table in [spool(), usage_event(backend), usage_hour(backend)] {
        manager.create_table(table).await?;
    }
    Ok(())
}

pub(super) async fn drop(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    for table in [UsageHour::Table.into_iden(), UsageEvent::Table.into_iden(), Spool::Table.into_iden()] {
        manager.drop_table(Table::drop().table(table).if_exists().to_owned()).await?;
    }
    Ok(())
}

fn spool() -> TableCreateStatement {
    Table::create()
        .table(Spool::Table)
        .col(ColumnDef::new(Spool::Id).uuid().not_null().primary_key())
        .col(ColumnDef::new(Spool::Generation).big_integer().not_null())
        .col(ColumnDef::new(Spool::Acknowledged).big_integer().not_null())
        .to_owned()
}

/// No secondary index: each one costs as much again as the event itself.
fn usage_event(backend: DbBackend) -> TableCreateStatement {
    Table::create()
        .table(UsageEvent::Table)
        .col(ColumnDef::new(UsageEvent::Day).integer().not_null())
        .col(ColumnDef::new(UsageEvent::RequestId).uuid().not_null())
        .col(ColumnDef::new(UsageEvent::Attempt).integer().not_null())
        .col(ColumnDef::new(UsageEvent::Kind).small_integer().not_null())
        .col(ColumnDef::new(UsageEvent::Revision).integer().not_null())
        .col(ColumnDef::new(UsageEvent::SpoolId).uuid().not_null())
        .col(ColumnDef::new(UsageEvent::SpoolPosition).big_integer().not_null())
        .col(ColumnDef::new(UsageEvent::Operation).small_integer().not_null())
        .col(ColumnDef::new(UsageEvent::KeyId).text().not_null())
        .col(ColumnDef::new(UsageEvent::UserId).text())
        .col(ColumnDef::new(UsageEvent::Model).text().not_null())
        .col(ColumnDef::new(UsageEvent::Provider).text())
        .col(ColumnDef::new(UsageEvent::Credential).text())
        .col(ColumnDef::new(UsageEvent::Outcome).small_integer().not_null())
        .col(ColumnDef::new(UsageEvent::Error).text())
        .col(ColumnDef::new(UsageEvent::AdmittedAt).big_integer().not_null())
        .col(ColumnDef::new(UsageEvent::FirstMs).big_integer())
        .col(ColumnDef::new(UsageEvent::TotalMs).big_integer())
        .col(ColumnDef::new(UsageEvent::InputTokens).big_integer().not_null())
        .col(ColumnDef::new(UsageEvent::CacheReadTokens).big_integer().not_null())
        .col(ColumnDef::new(UsageEvent::CacheWriteTokens).big_integer().not_null())
        .col(ColumnDef::new(UsageEvent::OutputTokens).big_integer().not_null())
        .col(ColumnDef::new(UsageEvent::ReasoningTokens).big_integer().not_null())
        .col(ColumnDef::new(UsageEvent::AudioInputTokens).big_integer().not_null())
        .col(ColumnDef::new(UsageEvent::AudioOutputTokens).big_integer().not_null())
        .col(ColumnDef::new(UsageEvent::Images).big_integer().not_null())
        .col(ColumnDef::new(UsageEvent::UsageSource).small_integer().not_null())
        .col(ColumnDef::new(UsageEvent::PriceVersion).big_integer())
        .col(ColumnDef::new(UsageEvent::CostPico).big_integer().not_null())
        .col(ColumnDef::new(UsageEvent::ProviderCostPico).big_integer())
        .primary_key(
            Index::create()
                .col(UsageEvent::Day)
                .col(UsageEvent::RequestId)
                .col(UsageEvent::Attempt)
                .col(UsageEvent::Kind)
                .col(UsageEvent::Revision),
        )
        .extra(match backend {
            DbBackend::Postgres => "PARTITION BY RANGE (day)",
            _ => "WITHOUT ROWID",
        })
        .to_owned()
}

fn usage_hour(backend: DbBackend) -> TableCreateStatement {
    let mut table = Table::create()
        .table(UsageHour::Table)
        .col(ColumnDef::new(UsageHour::KeyId).text().not_null())
        .col(ColumnDef::new(UsageHour::Hour).big_integer().not_null())
        .col(ColumnDef::new(UsageHour::Model).text().not_null())
        .col(ColumnDef::new(UsageHour::Requests).big_integer().not_null())
        .col(ColumnDef::new(UsageHour::Successful).big_integer().not_null())
        .col(ColumnDef::new(UsageHour::Cancelled).big_integer().not_null())
        .col(ColumnDef::new(UsageHour::InputTokens).big_integer().not_null())
        .col(ColumnDef::new(UsageHour::OutputTokens).big_integer().not_null())
        .col(ColumnDef::new(UsageHour::CostMicro).big_integer().not_null())
        .col(ColumnDef::new(UsageHour::CostRest).big_integer().not_null())
        .primary_key(Index::create().col(UsageHour::KeyId).col(UsageHour::Hour).col(UsageHour::Model))
        .to_owned();
    if backend == DbBackend::Sqlite {
        table.extra("WITHOUT ROWID");
    }
    table
}
