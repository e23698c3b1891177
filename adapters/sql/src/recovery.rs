//! What others remember of the requests of a process that can't tell any more: charges, and holds until charges come.
//!
//! Locks are taken in one order: the spool whose requests they are, then the one that all this is stored under, then events,
//! then sums. The first makes a hold and the batch that would release it wait for each other.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    time::Duration,
};

use ai4free_ports::{
    request::RequestId,
    usage_ledger::{EventKind, Recovered, Remains, SpoolId, UsageEvent},
};
use sea_orm::{
    ColumnTrait, ConnectionTrait, DatabaseTransaction, EntityTrait, QueryFilter,
    entity::prelude::Uuid,
    sea_query::{Expr, ExprTrait, OnConflict, Query},
};

use crate::{
    append::{self, CHECK_VIOLATION, ensure_partitions, insert_new},
    database::Database,
    entity::{spool, usage_event},
    event_row::{Code, event_row, usage_event},
    failure::{Failure, sql_state},
    rollup::{LastAttempts, Sums},
    spending, spools,
};

/// Under which the events are stored that no spool has brought.
const REMEMBERED: SpoolId = SpoolId(Uuid::nil());

pub(crate) async fn recover(
    database: &Database,
    spool: SpoolId,
    remains: &Remains,
    silence: Duration,
) -> Result<Recovered, Failure> {
    match recover_once(database, spool, remains, silence).await {
        Err(Failure::Database(error)) if sql_state(&error).as_deref() == Some(CHECK_VIOLATION) => {
            let events: Vec<UsageEvent> = remains.charges.iter().chain(&remains.holds).cloned().collect();
            ensure_partitions(database, &events).await?;
            recover_once(database, spool, remains, silence).await
        }
        done => done,
    }
}

async fn recover_once(
    database: &Database,
    spool: SpoolId,
    remains: &Remains,
    silence: Duration,
) -> Result<Recovered, Failure> {
    let transaction = database.begin_write().await?;
    let mut register = spools::registration(database.backend(), spool, 0);
    transaction.execute(register.on_conflict(OnConflict::new().do_nothing().to_owned())).await?;
    lock(&transaction, spool).await?;
    let are_held = !remains.holds.is_empty() && miss(database, &transaction, spool, silence).await?;
    let charged = charges(&transaction, remains.holds.iter().map(|hold| hold.request.0)).await?;
    let is_open = |hold: &&UsageEvent| !charged.contains_key(&hold.request);
    let holds = remains.holds.iter().filter(|_| are_held).filter(is_open);
    // A journal that lost the end of a request has charged it at its bound, under fewer attempts perhaps than it had.
    let known = charges(&transaction, remains.charges.iter().map(|event| event.request.0)).await?;
    let unknown = remains.charges.iter().filter(|event| !known.contains_key(&event.request));
    let events: Vec<&UsageEvent> = unknown.chain(holds).collect();
    let from = store_next(&transaction, events.len()).await?;
    let mut rows: Vec<usage_event::Model> =
        events.into_iter().zip(from..).map(|(event, position)| stored(event, position)).collect();
    append::sort(&mut rows);
    let last_attempts = LastAttempts::of(&rows);
    let mut new = insert_new(&transaction, rows).await?;
    let ended = remains.charges.iter().map(|event| event.request).chain(remains.never_sent.iter().copied());
    new.extend(release(&transaction, ended.map(|request| request.0)).await?);
    append::add(&transaction, Sums::of(&new, &last_attempts)?).await?;
    transaction.commit().await?;
    Ok(Recovered { charged, are_held })
}

/// Takes back what is held of these requests. The new rows.
pub(crate) async fn release(
    transaction: &DatabaseTransaction,
    requests: impl Iterator<Item = Uuid>,
) -> Result<Vec<usage_event::Model>, Failure> {
    let held = of_kind(transaction, requests, EventKind::Hold).await?;
    if held.is_empty() {
        return Ok(Vec::new());
    }
    let from = store_next(transaction, held.len()).await?;
    let released = |(hold, position): (usage_event::Model, i64)| usage_event::Model {
        kind: EventKind::Release.code(),
        cost_pico: hold.cost_pico.saturating_neg(),
        spool_id: REMEMBERED.0,
        spool_position: position,
        ..hold
    };
    let mut rows: Vec<usage_event::Model> = held.into_iter().zip(from..).map(released).collect();
    append::sort(&mut rows);
    Ok(insert_new(transaction, rows).await?)
}

fn stored(event: &UsageEvent, position: i64) -> usage_event::Model {
    event_row(event, REMEMBERED, position, spending::to_text(&event.spending))
}

async fn lock(transaction: &DatabaseTransaction, spool: SpoolId) -> Result<(), Failure> {
    let same = Query::update()
        .table(spool::Entity)
        .value(spool::Column::State, Expr::col(spool::Column::State))
        .and_where(spool::Column::Id.eq(spool.0))
        .to_owned();
    transaction.execute(&same).await?;
    Ok(())
}

/// From now on its batches release what they charge. Not if it was heard of within `silence`: whether it was not. One that was
/// drained to its end has nothing more to bring.
async fn miss(
    database: &Database,
    transaction: &DatabaseTransaction,
    spool: SpoolId,
    silence: Duration,
) -> Result<bool, Failure> {
    let micros = i64::try_from(silence.as_micros()).unwrap_or(i64::MAX);
    let is_clean = Expr::col(spool::Column::State).eq(spools::CLEAN);
    let missed = spool::Entity::update_many()
        .col_expr(spool::Column::State, Expr::case(is_clean, spools::CLEAN).finally(spools::MISSED).into())
        .filter(spool::Column::Id.eq(spool.0))
        .filter(Expr::col(spool::Column::BeatAt).lte(spools::database_time(database.backend()).sub(micros)))
        .exec(transaction)
        .await?;
    Ok(missed.rows_affected > 0)
}

/// The number of the next of so many events that are stored here.
async fn store_next(transaction: &DatabaseTransaction, count: usize) -> Result<i64, Failure> {
    let count = i64::try_from(count).unwrap_or(i64::MAX);
    let mut register = spools::registration(transaction.get_database_backend(), REMEMBERED, 0);
    transaction.execute(register.on_conflict(OnConflict::new().do_nothing().to_owned())).await?;
    let next = Query::update()
        .table(spool::Entity)
        .value(spool::Column::State, spools::CLEAN) // nobody waits for its beat
        .value(spool::Column::Acknowledged, Expr::col(spool::Column::Acknowledged).add(count))
        .and_where(spool::Column::Id.eq(REMEMBERED.0))
        .returning_col(spool::Column::Acknowledged)
        .to_owned();
    let row = transaction.query_one(&next).await?;
    let row = row.ok_or_else(|| Failure::Corrupt("no row of a spool that was just registered".into()))?;
    Ok(row.try_get_by_index::<i64>(0)? - count)
}

async fn charges(
    transaction: &DatabaseTransaction,
    requests: impl Iterator<Item = Uuid>,
) -> Result<HashMap<RequestId, Vec<UsageEvent>>, Failure> {
    let mut charges: HashMap<RequestId, Vec<UsageEvent>> = HashMap::new();
    for row in of_kind(transaction, requests, EventKind::Charge).await? {
        let event = usage_event(row)?;
        charges.entry(event.request).or_default().push(event);
    }
    Ok(charges)
}

async fn of_kind(
    transaction: &DatabaseTransaction,
    requests: impl Iterator<Item = Uuid>,
    kind: EventKind,
) -> Result<Vec<usage_event::Model>, Failure> {
    let requests: HashSet<Uuid> = requests.collect();
    if requests.is_empty() {
        return Ok(Vec::new());
    }
    let days: BTreeSet<i32> = requests.iter().map(|request| RequestId(*request).day()).collect();
    let rows = usage_event::Entity::find()
        .filter(usage_event::Column::Day.is_in(days))
        .filter(usage_event::Column::RequestId.is_in(requests))
        .filter(usage_event::Column::Kind.eq(kind.code()));
    Ok(rows.all(transaction).await?)
}
