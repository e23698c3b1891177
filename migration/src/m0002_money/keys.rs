//! The budget of a key, and what its limits do while the shared limiter is away.

use sea_orm_migration::{
    DbErr, SchemaManager,
    sea_orm::{self, DeriveIden},
    sea_query::ColumnDef,
};

use super::{add_columns, drop_columns};

#[derive(DeriveIden)]
enum ApiKey {
    Table,
    BudgetMicro,
    /// Pico-USD beside the whole micro-USD.
    BudgetRest,
    BudgetPeriod,
    BudgetTimeZone,
    BudgetOnRedisDown,
    OnRedisDown,
}

pub(super) async fn create(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    let columns = [
        ColumnDef::new(ApiKey::BudgetMicro).big_integer().take(),
        ColumnDef::new(ApiKey::BudgetRest).big_integer().take(),
        ColumnDef::new(ApiKey::BudgetPeriod).text().take(),
        ColumnDef::new(ApiKey::BudgetTimeZone).text().take(),
        ColumnDef::new(ApiKey::BudgetOnRedisDown).text().take(),
        ColumnDef::new(ApiKey::OnRedisDown).text().take(),
    ];
    add_columns(manager, ApiKey::Table, columns).await
}

pub(super) async fn drop(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    let columns = [
        ApiKey::OnRedisDown,
        ApiKey::BudgetOnRedisDown,
        ApiKey::BudgetTimeZone,
        ApiKey::BudgetPeriod,
        ApiKey::BudgetRest,
        ApiKey::BudgetMicro,
    ];
    drop_columns(manager, ApiKey::Table, columns).await
}
