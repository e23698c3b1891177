//! Who holds a spool, whether it lives, and when what it was granted is free again.

use std::time::Duration;

use ai4free_ports::{
    budget::{Epoch, Holder},
    usage_ledger::{Attachment, SpoolId},
};
use sea_orm::{
    ColumnTrait, ConnectionTrait, DbBackend, EntityTrait, PaginatorTrait, QueryFilter, QueryOrder, QuerySelect,
    sea_query::{Expr, ExprTrait, Func, InsertStatement, OnConflict, Query},
};

use crate::{
    database::Database,
    entity::{budget_window, limiter_epoch, spool},
    epochs,
    failure::Failure,
    keyset::after,
};

pub(crate) const LIVE: i16 = 1;
/// It was silent when others told the ledger what they remember of its requests: some may be held.
pub(crate) const MISSED: i16 = 2;
/// It was drained before its process ended.
pub(crate) const CLEAN: i16 = 3;
/// A spool that says nothing for longer has no request that runs.
const SILENCE: i64 = 24 * 3_600 * 1_000_000;
/// Rows that one transaction closes.
const CLOSED_AT_ONCE: u64 = 500;

pub(crate) async fn attach(database: &Database, spool: SpoolId) -> Result<Attachment, Failure> {
    let next_generation = Expr::col((spool::Entity, spool::Column::Generation)).add(1);
    // What it was charged while it was missed is still to come.
    let is_missed = Expr::col((spool::Entity, spool::Column::State)).eq(MISSED);
    let state_again = Expr::case(is_missed, MISSED).finally(LIVE);
    let mut attach = registration(database.backend(), spool, 1);
    attach
        .on_conflict(
            OnConflict::column(spool::Column::Id)
                .value(spool::Column::Generation, next_generation)
                .value(spool::Column::State, state_again)
                .update_columns([spool::Column::ClosedEpoch, spool::Column::BeatAt])
                .to_owned(),
        )
        .returning(Query::returning().columns([spool::Column::Generation, spool::Column::Acknowledged]));
    let row = database.writer.query_one(&attach).await?;
    let row = row.ok_or_else(|| Failure::Corrupt("no row of a spool that was just attached".into()))?;
    let acknowledged: i64 = row.try_get_by_index(1)?;
    Ok(Attachment { generation: row.try_get_by_index(0)?, acknowledged: u64::try_from(acknowledged).unwrap_or(0) })
}

/// The row of a spool of which the ledger has nothing.
pub(crate) fn registration(backend: DbBackend, spool: SpoolId, generation: i64) -> InsertStatement {
    Query::insert()
        .into_table(spool::Entity)
        .columns([
            spool::Column::Id,
            spool::Column::Generation,
            spool::Column::Acknowledged,
            spool::Column::State,
            spool::Column::ClosedEpoch,
            spool::Column::BeatAt,
        ])
        .values_panic([
            spool.0.into(),
            generation.into(),
            0_i64.into(),
            LIVE.into(),
            0_i64.into(),
            database_time(backend),
        ])
        .to_owned()
}

/// Shared holders close as soon as no spool that lives has money of them: what they were granted and nobody spent is free.
pub(crate) async fn beat(
    database: &Database,
    spool: SpoolId,
    generation: i64,
    closed_epoch: Epoch,
) -> Result<(), Failure> {
    let now = database_time(database.backend());
    spool::Entity::update_many()
        .col_expr(spool::Column::BeatAt, now.clone())
        .col_expr(spool::Column::ClosedEpoch, Expr::val(closed_epoch.0))
        .filter(spool::Column::Id.eq(spool.0))
        .filter(spool::Column::Generation.eq(generation))
        .exec(&database.writer)
        .await?;
    let Some(known) = epochs::row(&database.reader).await? else { return Ok(()) };
    if known.closed_epoch >= known.epoch - 1 {
        return Ok(());
    }
    let closed_by_all: Option<Option<i64>> = spool::Entity::find()
        .select_only()
        .column_as(spool::Column::ClosedEpoch.min(), "closed_by_all")
        .filter(spool::Column::State.ne(CLEAN))
        .filter(Expr::col(spool::Column::BeatAt).gt(now.sub(SILENCE)))
        .into_tuple()
        .one(&database.reader)
        .await?;
    let closed = closed_by_all.flatten().map_or(0, |epoch| Ord::min(epoch, known.epoch - 1));
    if closed > known.closed_epoch {
        limiter_epoch::Entity::update_many()
            .col_expr(limiter_epoch::Column::ClosedEpoch, Expr::val(closed))
            .filter(limiter_epoch::Column::ClosedEpoch.lt(closed))
            .exec(&database.writer)
            .await?;
    }
    Ok(())
}

pub(crate) async fn retire(database: &Database, spool: SpoolId, generation: i64) -> Result<(), Failure> {
    let retired = spool::Entity::update_many()
        .col_expr(spool::Column::State, Expr::val(CLEAN))
        .filter(spool::Column::Id.eq(spool.0))
        .filter(spool::Column::Generation.eq(generation))
        .exec(&database.writer)
        .await?;
    // From here on it gets no grant.
    if retired.rows_affected > 0 { close_holders(database, spool, generation.saturating_add(1)).await } else { Ok(()) }
}

pub(crate) async fn silent(database: &Database, longer_than: Duration) -> Result<u64, Failure> {
    let now = database_time(database.backend());
    let silence = i64::try_from(longer_than.as_micros()).unwrap_or(i64::MAX);
    let silent = spool::Entity::find()
        .filter(spool::Column::State.ne(CLEAN))
        .filter(Expr::col(spool::Column::BeatAt).gt(now.clone().sub(SILENCE)))
        .filter(Expr::col(spool::Column::BeatAt).lt(now.sub(silence)));
    Ok(silent.count(&database.reader).await?)
}

pub(crate) async fn close_holders(database: &Database, spool: SpoolId, generation: i64) -> Result<(), Failure> {
    use budget_window::Column::{Holder as HolderColumn, Scope, Win};
    let of_spool = format!("s:{}:", spool.0);
    let mut last: Option<(String, i64, String)> = None;
    loop {
        let mut page = budget_window::Entity::find()
            .select_only()
            .columns([Scope, Win, HolderColumn])
            .filter(HolderColumn.starts_with(&of_spool))
            .filter(budget_window::Column::Closed.eq(false))
            .order_by_asc(Scope)
            .order_by_asc(Win)
            .order_by_asc(HolderColumn)
            .limit(CLOSED_AT_ONCE);
        if let Some((scope, win, holder)) = last {
            page = page.filter(after([Scope, Win, HolderColumn], [scope.into(), win.into(), holder.into()]));
        }
        let mut page: Vec<(String, i64, String)> = page.into_tuple().all(&database.writer).await?;
        let Some(end) = page.last().cloned() else { return Ok(()) };
        page.retain(|(_, _, holder)| {
            matches!(holder.parse(), Ok(Holder::Process { generation: earlier, .. }) if earlier < generation)
        });
        close(database, page).await?;
        last = Some(end);
    }
}

async fn close(database: &Database, mut rows: Vec<(String, i64, String)>) -> Result<(), Failure> {
    // In the order in which batches add to them, or they deadlock.
    rows.sort_unstable();
    let transaction = database.begin_write().await?;
    for key in rows {
        budget_window::Entity::update_many()
            .col_expr(budget_window::Column::Closed, Expr::val(true))
            .filter(budget_window::Column::Scope.eq(key.0))
            .filter(budget_window::Column::Win.eq(key.1))
            .filter(budget_window::Column::Holder.eq(key.2))
            .exec(&transaction)
            .await?;
    }
    Ok(transaction.commit().await?)
}

/// Microseconds since the Unix epoch, to the second. The clocks of processes differ.
pub(crate) fn database_time(backend: DbBackend) -> Expr {
    let seconds = match backend {
        DbBackend::Postgres => Expr::from(Func::cust("date_part").arg("epoch").arg(Func::cust("now"))),
        _ => Expr::from(Func::cust("unixepoch")),
    };
    seconds.cast_as("bigint").mul(1_000_000_i64)
}
