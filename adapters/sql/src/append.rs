//! Appending a batch: fence, events, sums, in one transaction.

use std::collections::HashSet;

use ai4free_ports::usage_ledger::{Appended, Batch, EventKind, UsageEvent};
use sea_orm::{
    ColumnTrait, ConnectionTrait, DatabaseTransaction, DbErr, EntityTrait, IntoActiveModel, QueryFilter,
    sea_query::{self, Expr, Func, Query},
};
use serde::Serialize;

use crate::{
    database::Database,
    entity::{budget_window, spool, usage_event, usage_hour, usage_provider_hour, usage_user_hour},
    event_row::{Code, event_rows},
    failure::{Failure, sql_state},
    recovery,
    rollup::{HourlySums, LastAttempts, Sums},
    rows::{self, OnConflict},
    spools,
};

/// `check_violation`: also what Postgres answers when no partition takes a row.
pub(crate) const CHECK_VIOLATION: &str = "23514";
/// Days in a partition, as the migration has it.
const PARTITION_DAYS: i32 = 7;

pub(crate) async fn append(database: &Database, batch: &Batch) -> Result<Appended, Failure> {
    match append_once(database, batch).await {
        Err(Failure::Database(error)) if sql_state(&error).as_deref() == Some(CHECK_VIOLATION) => {
            ensure_partitions(database, &batch.events).await?;
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
    sort(&mut rows);
    let last_attempts = LastAttempts::of(&rows);

    let transaction = database.begin_write().await?;
    let fence = Query::update()
        .table(spool::Entity)
        .value(spool::Column::Acknowledged, to)
        .and_where(spool::Column::Id.eq(batch.spool.0))
        .and_where(spool::Column::Generation.eq(batch.generation))
        .and_where(spool::Column::Acknowledged.eq(from))
        .returning_col(spool::Column::State)
        .to_owned();
    let Some(passed) = transaction.query_one(&fence).await? else {
        let answer = where_it_stands(&transaction, batch).await?;
        transaction.commit().await?;
        return Ok(answer);
    };
    // Others may have brought events of one that was missed: then it is not so rare.
    let is_missed = passed.try_get_by_index::<i16>(0)? == spools::MISSED;
    let expected = if is_missed { Expected::KnownEvents } else { expected };
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
            let charged: Vec<_> = charges(&rows).map(|row| row.request_id).collect();
            let mut new = insert_new(&transaction, rows).await?;
            if is_missed {
                new.extend(recovery::release(&transaction, charged.into_iter()).await?);
            }
            Sums::of(&new, &last_attempts)?
        }
    };
    add(&transaction, sums).await?;
    transaction.commit().await?;
    Ok(Appended::Acknowledged(position(to)))
}

pub(crate) fn sort(rows: &mut [usage_event::Model]) {
    rows.sort_by_key(|row| (row.day, row.request_id, row.attempt, row.kind, row.revision));
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

/// Those that were not in the ledger yet.
pub(crate) async fn insert_new(
    transaction: &DatabaseTransaction,
    rows: Vec<usage_event::Model>,
) -> Result<Vec<usage_event::Model>, DbErr> {
    let position = usage_event::Column::SpoolPosition;
    let inserted = rows::insert_returning::<usage_event::Entity>(transaction, rows.clone(), position).await?;
    let inserted: HashSet<i64> = inserted.into_iter().map(|row| row.try_get_by_index(0)).collect::<Result<_, _>>()?;
    Ok(rows.into_iter().filter(|row| inserted.contains(&row.spool_position)).collect())
}

fn charges(rows: &[usage_event::Model]) -> impl Iterator<Item = &usage_event::Model> {
    rows.iter().filter(|row| row.kind == EventKind::Charge.code())
}

/// Last of all, because other spools write to the same sums: their locks are held for as short as can be. Those that most
/// spools share come last.
pub(crate) async fn add(transaction: &DatabaseTransaction, sums: Sums) -> Result<(), DbErr> {
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
pub(crate) async fn ensure_partitions(database: &Database, events: &[UsageEvent]) -> Result<(), DbErr> {
    let mut days: Vec<i32> = events.iter().map(|event| event.request.day()).collect();
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
