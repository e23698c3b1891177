//! What each holder was granted in each window and has settled, and the epochs and spools that holders are named after.

use sea_orm_migration::{
    DbErr, SchemaManager,
    sea_orm::{self, DbBackend, DeriveIden},
    sea_query::{ColumnDef, Index, IntoIden, Table, TableCreateStatement},
};

use super::{add_columns, drop_columns};

#[derive(DeriveIden)]
enum Spool {
    Table,
    /// 1 live, 2 dead, 3 clean, 4 retired.
    State,
    /// None of its requests holds money of this epoch or an earlier one, and the ledger has all their events.
    ClosedEpoch,
    /// By the database's clock.
    BeatAt,
}

/// One row: the current epoch of the shared limiter.
#[derive(DeriveIden)]
enum LimiterEpoch {
    Table,
    Id,
    Epoch,
    /// As the limiter's process calls itself.
    RunId,
    /// The holders `r:E` of this and all earlier epochs are closed.
    ClosedEpoch,
}

#[derive(DeriveIden)]
enum BudgetWindow {
    Table,
    /// `g`, `u:ID`, `k:ID`, `m:ID`, `c:ID`.
    Scope,
    /// Where the window starts.
    Win,
    /// `r:EPOCH`, `s:SPOOL:GENERATION`, or `0`: what the scope had spent before its first grant. That row is also the lock of
    /// the window.
    Holder,
    GrantedMicro,
    GrantedRest,
    SettledMicro,
    SettledRest,
    /// What is settled counts, and no longer what was granted.
    Closed,
    /// Where the window ends, known to those that were granted something.
    WinEnd,
}

pub(super) async fn create(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    let columns = [
        ColumnDef::new(Spool::State).small_integer().not_null().default(1).take(),
        ColumnDef::new(Spool::ClosedEpoch).big_integer().not_null().default(0).take(),
        ColumnDef::new(Spool::BeatAt).big_integer().not_null().default(0).take(),
    ];
    add_columns(manager, Spool::Table, columns).await?;
    manager.create_table(limiter_epoch()).await?;
    manager.create_table(budget_window(manager.get_database_backend())).await
}

pub(super) async fn drop(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    for table in [BudgetWindow::Table.into_iden(), LimiterEpoch::Table.into_iden()] {
        manager.drop_table(Table::drop().table(table).if_exists().to_owned()).await?;
    }
    drop_columns(manager, Spool::Table, [Spool::BeatAt, Spool::ClosedEpoch, Spool::State]).await
}

fn limiter_epoch() -> TableCreateStatement {
    Table::create()
        .table(LimiterEpoch::Table)
        .col(ColumnDef::new(LimiterEpoch::Id).small_integer().not_null().primary_key())
        .col(ColumnDef::new(LimiterEpoch::Epoch).big_integer().not_null())
        .col(ColumnDef::new(LimiterEpoch::RunId).text().not_null())
        .col(ColumnDef::new(LimiterEpoch::ClosedEpoch).big_integer().not_null())
        .to_owned()
}

fn budget_window(backend: DbBackend) -> TableCreateStatement {
    let mut table = Table::create()
        .table(BudgetWindow::Table)
        .col(ColumnDef::new(BudgetWindow::Scope).text().not_null())
        .col(ColumnDef::new(BudgetWindow::Win).big_integer().not_null())
        .col(ColumnDef::new(BudgetWindow::Holder).text().not_null())
        .col(ColumnDef::new(BudgetWindow::GrantedMicro).big_integer().not_null())
        .col(ColumnDef::new(BudgetWindow::GrantedRest).big_integer().not_null())
        .col(ColumnDef::new(BudgetWindow::SettledMicro).big_integer().not_null())
        .col(ColumnDef::new(BudgetWindow::SettledRest).big_integer().not_null())
        .col(ColumnDef::new(BudgetWindow::Closed).boolean().not_null())
        .col(ColumnDef::new(BudgetWindow::WinEnd).big_integer())
        .primary_key(Index::create().col(BudgetWindow::Scope).col(BudgetWindow::Win).col(BudgetWindow::Holder))
        .to_owned();
    if backend == DbBackend::Sqlite {
        table.extra("WITHOUT ROWID");
    }
    table
}
