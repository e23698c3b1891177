//! Budgets: who was granted money, who spends it, and sums by user and by provider.
//!
//! It only adds, with defaults, so that the release before goes on writing until it is replaced.

mod budgets;
mod keys;
mod retention;
mod usage;

use sea_orm_migration::{
    DbErr, MigrationName, MigrationTrait, SchemaManager, async_trait,
    sea_query::{ColumnDef, IntoIden, Table},
};

pub(crate) struct Money;

impl MigrationName for Money {
    fn name(&self) -> &'static str {
        "m0002_money"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Money {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        keys::create(manager).await?;
        budgets::create(manager).await?;
        usage::create(manager).await?;
        retention::create(manager).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        retention::drop(manager).await?;
        usage::drop(manager).await?;
        budgets::drop(manager).await?;
        keys::drop(manager).await
    }
}

/// One statement for each: SQLite adds no two columns at once.
async fn add_columns(
    manager: &SchemaManager<'_>,
    table: impl IntoIden,
    columns: impl IntoIterator<Item = ColumnDef>,
) -> Result<(), DbErr> {
    let table = table.into_iden();
    for column in columns {
        manager.alter_table(Table::alter().table(table.clone()).add_column(column).to_owned()).await?;
    }
    Ok(())
}

async fn drop_columns(
    manager: &SchemaManager<'_>,
    table: impl IntoIden,
    columns: impl IntoIterator<Item = impl IntoIden>,
) -> Result<(), DbErr> {
    let table = table.into_iden();
    for column in columns {
        manager.alter_table(Table::alter().table(table.clone()).drop_column(column).to_owned()).await?;
    }
    Ok(())
}
