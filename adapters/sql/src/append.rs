//! Appending a batch: fence, events, sums, in one transaction.

use std::collections::HashSet;

use ai4free_ports::usage_ledger::{Appended, Batch};
use sea_orm::{
    ColumnTrait, ConnectionTrait, DatabaseTransaction, DbErr, EntityTrait, IntoActiveModel, QueryFilter,
    sea_query::{self, Expr, Func, Query},
};
use serde::Serialize;

use crate::{
    database::Database,
    entity::{budget_window, spool, usage_event, usage_hour, usage_provider_hour, usage_user_hour},
    event_row::event_rows,
    failure::{Failure, sql_state},
    rollup::{HourlySums, LastAttempts, Sums},
    rows::{self, OnConflict},
    spools,
};

/// `check_violation`: also what Postgres answers when no partition takes a row.
const CHECK_VIOLATION: &str = "23514";
/// Days in a partition, as the migration has it.
const PARTITION_DAYS: i32 = 7;

pub(crate) async fn append(database: &Database, batch: &Batch) -> Result<Appended, Failure> {
    match append_once(database, batch).await {
        Err(Failure::Database(error)) if sql_state(&error).as_deref() == Some(CHECK_VIOLATION) => {
            ensure_partitions(database, batch).await?;
            append_once(database, batch).await
        }
        // The fence had refused an attachment that the database had lost, and that is made good now.
        Ok(Appended::StandsAt(position)) if position == batch.from => append_once(database, batch).await,
        done => done,
    }
}

async fn append_once(database: &Database, batch: &Batch) -> Result<Appended, Failure> {
    append_expecting(database, batch, Expected::NewEvents).await
}

/// What is in a batch. An event may have come by another spool, if that one was copied, or in another place of this one. That
/// is rare, and to be told of each event whether it was there is dear: so nobody asks before the count is short.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Expected {
    NewEvents,
    KnownEvents,
}

async fn append_expecting(database: &Database, batch: &Batch, expected: Expected) -> Result<Appended, Failure> {
    let from = i64::try_from(batch.from).map_err(|_| Failure::Corrupt("position in a spool".into()))?;
    let mut rows = event_rows(batch, from);
    let to = from.saturating_add_unsigned(rows.len() as u64);
    // Two spools that hold the same events must insert them in one order, or they deadlock.
    rows.sort_by_key(|row| (row.day, row.request_id, row.attempt, row.kind, row.revision));
    let last_attempts = LastAttempts::of(&rows);

    let transaction = database.begin_write().await?;
    let fenced = spool::Entity::update_many()
        .col_expr(spool::Column::Acknowledged, Expr::val(to))
        .filter(spool::Column::Id.eq(batch.spool.0))
        .filter(spool::Column::Generation.eq(batch.generation))
        .filter(spool::Column::Acknowledged.eq(from))
        .exec(&transaction)
        .await?;
    if fenced.rows_affected == 0 {
        let answer = where_it_stands(&transaction, batch).await?;
        transaction.commit().await?;
        return Ok(answer);
    }
    let sums = match expected {
        Expected::NewEvents => {
            let (count, sums) = (rows.len() as u64, Sums::of(&rows, &last_attempts)?);
            if rows::insert::<usage_event::Entity>(&transaction, rows, &OnConflict::Nothing).await? < count {
                transaction.rollback().await?;
                return Box::pin(append_expecting(database, batch, Expected::KnownEvents)).await;
            }
            sums
        }
        Expected::KnownEvents => {
            let inserted = insert_new(&transaction, &rows).await?;
            Sums::of(rows.iter().filter(|row| inserted.contains(&row.spool_position)), &last_attempts)?
        }
    };
    add(&transaction, sums).await?;
    transaction.commit().await?;
    Ok(Appended::Acknowledged(position(to)))
}

/// Why the fence refused. A spool that the database does not know as we left it (it lost commits in a failover, or was
/// restored) is registered again: whoever attached with the highest generation is the one that owns the spool.
async fn where_it_stands(transaction: &DatabaseTransaction, batch: &Batch) -> Result<Appended, Failure> {
    let registered = spool::Entity::find_by_id(batch.spool.0).one(transaction).await?;
    let Some(registered) = registered else {
        let mut register = spools::registration(transaction.get_database_backend(), batch.spool, batch.generation);
        transaction.execute(register.on_conflict(sea_query::OnConflict::new().do_nothing().to_owned())).await?;
        return Ok(Appended::StandsAt(0));
    };
    if registered.generation > batch.generation {
        return Ok(Appended::Fenced);
    }
    if registered.generation < batch.generation {
        spool::Entity::update_many()
            .col_expr(spool::Column::Generation, Expr::val(batch.generation))
            .filter(spool::Column::Id.eq(batch.spool.0))
            .filter(spool::Column::Generation.eq(registered.generation))
            .exec(transaction)
            .await?;
    }
    Ok(Appended::StandsAt(position(registered.acknowledged)))
}

/// The positions of those that were not in the ledger yet.
async fn insert_new(transaction: &DatabaseTransaction, rows: &[usage_event::Model]) -> Result<HashSet<i64>, DbErr> {
    let position = usage_event::Column::SpoolPosition;
    let inserted = rows::insert_returning::<usage_event::Entity>(transaction, rows.to_vec(), position).await?;
    inserted.into_iter().map(|row| row.try_get_by_index(0)).collect()
}

/// Last of all, because other spools write to the same sums: their locks are held for as short as can be. Those that most
/// spools share come last.
async fn add(transaction: &DatabaseTransaction, sums: Sums) -> Result<(), DbErr> {
    add_sums::<usage_hour::Entity>(transaction, sums.keys).await?;
    add_sums::<usage_user_hour::Entity>(transaction, sums.users).await?;
    add_sums::<usage_provider_hour::Entity>(transaction, sums.providers).await?;
    // A budget that nobody was granted anything of gets a row as well: what is charged to it counts.
    let add = OnConflict::Add {
        key: &[budget_window::Column::Scope, budget_window::Column::Win, budget_window::Column::Holder],
        columns: &[budget_window::Column::SettledMicro, budget_window::Column::SettledRest],
    };
    rows::insert::<budget_window::Entity>(transaction, sums.budgets, &add).await?;
    Ok(())
}

async fn add_sums<E>(transaction: &DatabaseTransaction, sums: Vec<E::Model>) -> Result<(), DbErr>
where
    E: HourlySums,
    E::Model: IntoActiveModel<E::ActiveModel> + Serialize,
{
    let add = OnConflict::Add { key: &E::key_columns(), columns: &E::count_columns() };
    rows::insert::<E>(transaction, sums, &add).await?;
    Ok(())
}

/// In transactions of their own, before the batch is tried again: their locks end with them.
async fn ensure_partitions(database: &Database, batch: &Batch) -> Result<(), DbErr> {
    let mut days: Vec<i32> = batch.events.iter().map(|event| event.request.day()).collect();
    days.sort_unstable();
    days.dedup_by_key(|day| *day / PARTITION_DAYS);
    for day in days {
        let ensure = Query::select().expr(Func::cust("usage_event_ensure_partition").arg(day)).to_owned();
        database.writer.execute(&ensure).await?;
    }
    Ok(())
}

fn position(stored: i64) -> u64 {
    u64::try_from(stored).unwrap_or(0)
}
