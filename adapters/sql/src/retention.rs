//! Lets old events go. Their sums stay.

use ai4free_ports::error::StoreError;
use sea_orm::{
    ColumnTrait, ConnectionTrait, DbBackend, EntityTrait, Insert, IntoActiveModel, QueryFilter, QueryOrder,
    QuerySelect, QueryTrait,
    sea_query::{Expr, ExprTrait, Func, OnConflict, Query},
};

use crate::{
    database::Database,
    entity::{usage_event, usage_retention},
    failure::{Failure, in_the_background},
    keyset::before,
};

/// Rows that SQLite deletes in one transaction: those who append wait for it.
const DELETED_AT_ONCE: u64 = 1000;
/// The only row.
const ROW: i16 = 1;

/// Lets the events of the days before `before_day` (days since the Unix epoch) go for ever, and answers the first day of which
/// all are kept. Sums, budgets and reports are as they were; what has expired can't be verified any more.
///
/// On Postgres, whole weeks of the table are dropped, so up to six days more are kept, and always the last week: the function
/// that does so can't be asked for more by a role that may not delete. On SQLite the rows are deleted, some at a time.
///
/// # Errors
/// An unreachable database, or a table that is in use for longer. Some may have expired; to be called again, tomorrow if need
/// be.
pub async fn expire(database: &Database, before_day: i32) -> Result<i32, StoreError> {
    if database.backend() == DbBackend::Postgres {
        return in_the_background(drop_weeks(database, before_day)).await;
    }
    let first_day = in_the_background(remember(database, before_day)).await?;
    while in_the_background(delete_some(database, first_day)).await? {}
    Ok(first_day)
}

async fn drop_weeks(database: &Database, before_day: i32) -> Result<i32, Failure> {
    let expire = Query::select().expr(Func::cust("usage_event_expire").arg(before_day)).to_owned();
    let row = database.writer.query_one(&expire).await?;
    let row = row.ok_or_else(|| Failure::Corrupt("no answer of a function".into()))?;
    Ok(row.try_get_by_index(0)?)
}

/// Before anything is deleted, so that nobody compares half a day.
async fn remember(database: &Database, before_day: i32) -> Result<i32, Failure> {
    let row = usage_retention::Model { id: ROW, first_day: before_day };
    let mut later = OnConflict::column(usage_retention::Column::Id);
    later.update_column(usage_retention::Column::FirstDay);
    later.action_and_where(Expr::col((usage_retention::Entity, usage_retention::Column::FirstDay)).lt(before_day));
    let remember = Insert::one(row.into_active_model()).on_conflict(later).into_query();
    database.writer.execute(&remember).await?;
    let known = usage_retention::Entity::find_by_id(ROW).one(&database.writer).await?;
    Ok(known.map_or(before_day, |row| row.first_day))
}

/// `false`: there are none left.
async fn delete_some(database: &Database, first_day: i32) -> Result<bool, Failure> {
    use usage_event::Column::{Day, RequestId};
    let expired = usage_event::Entity::find()
        .select_only()
        .columns([Day, RequestId])
        .filter(Day.lt(first_day))
        .order_by_asc(Day)
        .order_by_asc(RequestId)
        .offset(DELETED_AT_ONCE)
        .limit(1);
    let end: Option<(i32, sea_orm::entity::prelude::Uuid)> = expired.into_tuple().one(&database.reader).await?;
    let mut delete = usage_event::Entity::delete_many().filter(Day.lt(first_day));
    if let Some((day, request)) = end {
        delete = delete.filter(before([Day, RequestId], [day.into(), request.into()]));
    }
    delete.exec(&database.writer).await?;
    Ok(end.is_some())
}
