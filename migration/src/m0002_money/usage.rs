//! Which budgets an event is charged to, and its sums by user and by provider.

use sea_orm_migration::{
    DbErr, SchemaManager,
    sea_orm::{self, ConnectionTrait, DbBackend, DeriveIden},
    sea_query::{ColumnDef, Iden, Index, IndexCreateStatement, IntoIden, Table, TableCreateStatement},
};

use super::{add_columns, drop_columns};

#[derive(DeriveIden)]
enum UsageEvent {
    Table,
    /// JSON array of `[scope, start of the window, holder]`; empty text for none.
    Spending,
}

/// As `usage_hour`, by owner; those of keys without one are under the empty name.
#[derive(DeriveIden)]
enum UsageUserHour {
    Table,
    UserId,
    Hour,
    Model,
}

/// As `usage_hour`, by provider and credential, empty if there was none. The hour comes first: reports are about all of a span.
#[derive(DeriveIden)]
enum UsageProviderHour {
    Table,
    Hour,
    Provider,
    Credential,
    Model,
}

/// The same sums in each table.
#[derive(DeriveIden)]
enum Sum {
    Requests,
    Successful,
    Cancelled,
    InputTokens,
    OutputTokens,
    CostMicro,
    CostRest,
}

pub(super) async fn create(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    let spending = ColumnDef::new(UsageEvent::Spending).text().not_null().default("").take();
    add_columns(manager, UsageEvent::Table, [spending]).await?;
    let backend = manager.get_database_backend();
    let by_user = Index::create().col(UsageUserHour::UserId).col(UsageUserHour::Hour).col(UsageUserHour::Model).take();
    let by_provider = Index::create()
        .col(UsageProviderHour::Hour)
        .col(UsageProviderHour::Provider)
        .col(UsageProviderHour::Credential)
        .col(UsageProviderHour::Model)
        .take();
    let mut users = sums(UsageUserHour::Table, backend, by_user);
    users.col(ColumnDef::new(UsageUserHour::UserId).text().not_null());
    users.col(ColumnDef::new(UsageUserHour::Hour).big_integer().not_null());
    users.col(ColumnDef::new(UsageUserHour::Model).text().not_null());
    let mut providers = sums(UsageProviderHour::Table, backend, by_provider);
    providers.col(ColumnDef::new(UsageProviderHour::Hour).big_integer().not_null());
    providers.col(ColumnDef::new(UsageProviderHour::Provider).text().not_null());
    providers.col(ColumnDef::new(UsageProviderHour::Credential).text().not_null());
    providers.col(ColumnDef::new(UsageProviderHour::Model).text().not_null());
    for table in [users, providers] {
        manager.create_table(table).await?;
    }
    let connection = manager.get_connection();
    connection.execute_unprepared(&sums_so_far("usage_user_hour", "user_id, hour, model")).await?;
    connection.execute_unprepared(&sums_so_far("usage_provider_hour", "hour, provider, credential, model")).await?;
    Ok(())
}

pub(super) async fn drop(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    for table in [UsageProviderHour::Table.into_iden(), UsageUserHour::Table.into_iden()] {
        manager.drop_table(Table::drop().table(table).if_exists().to_owned()).await?;
    }
    drop_columns(manager, UsageEvent::Table, [UsageEvent::Spending]).await
}

fn sums(table: impl Iden + 'static, backend: DbBackend, mut key: IndexCreateStatement) -> TableCreateStatement {
    let mut table = Table::create().table(table).primary_key(&mut key).to_owned();
    for sum in [
        Sum::Requests,
        Sum::Successful,
        Sum::Cancelled,
        Sum::InputTokens,
        Sum::OutputTokens,
        Sum::CostMicro,
        Sum::CostRest,
    ] {
        table.col(ColumnDef::new(sum).big_integer().not_null());
    }
    if backend == DbBackend::Sqlite {
        table.extra("WITHOUT ROWID");
    }
    table
}

/// Of the events that are there. A request is counted with its last charge, tokens and money with every event; a release
/// (kind 4) takes tokens back.
fn sums_so_far(table: &str, key: &str) -> String {
    format!(
        r"
INSERT INTO {table} ({key}, requests, successful, cancelled, input_tokens, output_tokens, cost_micro, cost_rest)
SELECT {key}, CAST(sum(counted) AS bigint),
    CAST(sum(CASE WHEN outcome = 1 THEN counted ELSE 0 END) AS bigint),
    CAST(sum(CASE WHEN outcome = 3 THEN counted ELSE 0 END) AS bigint),
    CAST(sum(sign * input) AS bigint), CAST(sum(sign * output) AS bigint),
    CAST(sum(cost_pico / 1000000) AS bigint), CAST(sum(cost_pico % 1000000) AS bigint)
FROM (
    SELECT coalesce(user_id, '') AS user_id, coalesce(provider, '') AS provider, coalesce(credential, '') AS credential,
        model, admitted_at / 3600000000 AS hour, outcome, cost_pico,
        CASE WHEN kind = 1 AND attempt = max(CASE WHEN kind = 1 THEN attempt END) OVER (PARTITION BY day, request_id)
            THEN 1 ELSE 0 END AS counted,
        CASE WHEN kind = 4 THEN -1 ELSE 1 END AS sign,
        input_tokens + cache_read_tokens + cache_write_tokens + audio_input_tokens AS input,
        output_tokens + reasoning_tokens + audio_output_tokens AS output
    FROM usage_event
) AS event
GROUP BY {key}"
    )
}
