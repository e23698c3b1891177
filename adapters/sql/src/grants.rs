//! Money that holders may spend: no more than the budget of a window, whatever they know of each other.

use ai4free_ports::{
    budget::{Epoch, Holder, MoneyWindow},
    money::PicoUsdSum,
    rate_limiter::Scope,
    usage_ledger::{BudgetSum, GrantAnswer, GrantRequest},
};
use sea_orm::{
    ActiveModelTrait, ColumnTrait, ConnectionTrait, DatabaseTransaction, EntityTrait, Insert, IntoActiveModel,
    QueryFilter, QuerySelect, QueryTrait,
    sea_query::{Expr, OnConflict},
};

use crate::{
    database::Database,
    entity::{budget_window, spool},
    epochs,
    failure::Failure,
    limbs::Limbs,
    spent::spent,
    spools,
};

/// The holder of what was spent before the first grant. Its row is the lock of the window.
pub(crate) const BEFORE: &str = "0";
/// A grant is worth a trip to the database if it lasts for this many claims.
const CLAIMS_OF_A_GRANT: i128 = 16;

pub(crate) async fn grant(database: &Database, request: &GrantRequest) -> Result<GrantAnswer, Failure> {
    let transaction = database.begin_write().await?;
    let Some(closed_epoch) = hold_on_to(&transaction, request.holder).await? else {
        transaction.rollback().await?;
        return Ok(GrantAnswer::Stale);
    };
    lock_window(&transaction, &request.scope, &request.window).await?;
    let rows = rows(&transaction, &request.scope, &request.window).await?;

    let name = request.holder.to_string();
    let (mut before, mut mine, mut elsewhere, mut settled_elsewhere) = (0, 0, 0, PicoUsdSum::default());
    for row in &rows {
        if row.holder == name {
            (before, mine) = (granted(row).0, committed(row, closed_epoch).0);
        } else {
            elsewhere += committed(row, closed_epoch).0;
            settled_elsewhere += settled(row);
        }
    }
    let room = Ord::max(request.limit.0 - elsewhere - mine, 0);
    let part = room / i128::from(request.share.max(1));
    let wanted = Ord::max(part, CLAIMS_OF_A_GRANT * i128::from(request.claim.0));
    let is_known = before <= request.known.0;
    let granted = if room > 0 && is_known { mine + Ord::min(room, wanted) } else { before };
    if granted != before {
        let limbs = Limbs::of(PicoUsdSum(granted));
        let row = budget_window::Model {
            granted_micro: limbs.micro,
            granted_rest: limbs.rest,
            ..nothing(&request.scope, &request.window, name)
        };
        let raise = Insert::one(row.into_active_model()).on_conflict(
            OnConflict::columns(KEY)
                .update_columns([
                    budget_window::Column::GrantedMicro,
                    budget_window::Column::GrantedRest,
                    budget_window::Column::WinEnd,
                ])
                .to_owned(),
        );
        transaction.execute(&raise.into_query()).await?;
    }
    transaction.commit().await?;
    let (before, granted) = (PicoUsdSum(before), PicoUsdSum(granted));
    Ok(GrantAnswer::Granted { before, granted, elsewhere: PicoUsdSum(elsewhere), settled_elsewhere })
}

/// The holder promises to spend no more than this.
pub(crate) async fn lower(
    database: &Database,
    scope: &Scope,
    window: &MoneyWindow,
    holder: Holder,
    to: PicoUsdSum,
) -> Result<(), Failure> {
    let transaction = database.begin_write().await?;
    lock_window(&transaction, scope, window).await?;
    let name = holder.to_string();
    let mine = rows(&transaction, scope, window).await?.into_iter().find(|row| row.holder == name);
    if mine.is_some_and(|row| granted(&row) > to) {
        let limbs = Limbs::of(to);
        // Not the whole row: what is settled grows beside the lock of the window.
        budget_window::Entity::update_many()
            .col_expr(budget_window::Column::GrantedMicro, Expr::val(limbs.micro))
            .col_expr(budget_window::Column::GrantedRest, Expr::val(limbs.rest))
            .filter(budget_window::Column::Scope.eq(scope.to_text()))
            .filter(budget_window::Column::Win.eq(window.start.0))
            .filter(budget_window::Column::Holder.eq(name))
            .exec(&transaction)
            .await?;
    }
    Ok(transaction.commit().await?)
}

pub(crate) async fn budget(database: &Database, scope: &Scope, window: &MoneyWindow) -> Result<BudgetSum, Failure> {
    let closed_epoch = Epoch(epochs::row(&database.reader).await?.map_or(0, |row| row.closed_epoch));
    let rows = rows(&database.reader, scope, window).await?;
    let mut sum = BudgetSum::default();
    for row in &rows {
        sum.settled += settled(row);
        sum.committed += committed(row, closed_epoch);
    }
    if !rows.iter().any(|row| row.holder == BEFORE) {
        let before = spent_before(&database.reader, scope, window, &rows).await?;
        sum.settled += before;
        sum.committed += before;
    }
    Ok(sum)
}

const KEY: [budget_window::Column; 3] =
    [budget_window::Column::Scope, budget_window::Column::Win, budget_window::Column::Holder];

/// Keeps the holder's epoch or spool as it is until the transaction ends, and says which shared holders are closed. `None`:
/// the holder may not be granted anything any more.
async fn hold_on_to(transaction: &DatabaseTransaction, holder: Holder) -> Result<Option<Epoch>, Failure> {
    let epoch = match holder {
        Holder::Shared(epoch) => epochs::lock_shared(transaction).await?.filter(|current| current.epoch == epoch.0),
        Holder::Process { spool, generation } => {
            let row = spool::Entity::find_by_id(spool.0).lock_shared().one(transaction).await?;
            if row.is_none_or(|row| row.generation != generation || row.state == spools::CLEAN) {
                return Ok(None);
            }
            return Ok(Some(Epoch(epochs::row(transaction).await?.map_or(0, |row| row.closed_epoch))));
        }
    };
    Ok(epoch.map(|row| Epoch(row.closed_epoch)))
}

/// Whoever is the first in a window counts what was spent in it so far: the budget may be new.
async fn lock_window(transaction: &DatabaseTransaction, scope: &Scope, window: &MoneyWindow) -> Result<(), Failure> {
    let lock = || {
        let key = (scope.to_text(), window.start.0, BEFORE.to_owned());
        budget_window::Entity::find_by_id(key).lock_exclusive().one(transaction)
    };
    if lock().await?.is_some() {
        return Ok(());
    }
    let row = budget_window::Model { closed: true, ..nothing(scope, window, BEFORE.to_owned()) };
    let insert = Insert::one(row.clone().into_active_model()).on_conflict(OnConflict::new().do_nothing().to_owned());
    // Waits for another transaction that inserts the same row.
    if transaction.execute(&insert.into_query()).await?.rows_affected() == 0 {
        lock().await?;
        return Ok(());
    }
    let others = rows(transaction, scope, window).await?;
    let before = Limbs::of(spent_before(transaction, scope, window, &others).await?);
    let row = budget_window::Model { settled_micro: before.micro, settled_rest: before.rest, ..row };
    budget_window::Entity::update(row.into_active_model().reset_all()).exec(transaction).await?;
    Ok(())
}

/// What was spent in the window by events that are charged to none of its holders. There are holders before there is a grant
/// if the database has lost the grant, or if the budget was not enforced while the limiter was away.
async fn spent_before(
    connection: &impl ConnectionTrait,
    scope: &Scope,
    window: &MoneyWindow,
    holders: &[budget_window::Model],
) -> Result<PicoUsdSum, Failure> {
    let charged: i128 = holders.iter().map(|row| settled(row).0).sum();
    // Read after the holders: an event that comes in between is counted twice rather than never.
    let all = spent(connection, scope, window).await?;
    Ok(PicoUsdSum(Ord::max(all.0 - charged, 0)))
}

async fn rows(
    connection: &impl ConnectionTrait,
    scope: &Scope,
    window: &MoneyWindow,
) -> Result<Vec<budget_window::Model>, Failure> {
    let rows = budget_window::Entity::find()
        .filter(budget_window::Column::Scope.eq(scope.to_text()))
        .filter(budget_window::Column::Win.eq(window.start.0));
    Ok(rows.all(connection).await?)
}

fn nothing(scope: &Scope, window: &MoneyWindow, holder: String) -> budget_window::Model {
    budget_window::Model {
        scope: scope.to_text(),
        win: window.start.0,
        holder,
        granted_micro: 0,
        granted_rest: 0,
        settled_micro: 0,
        settled_rest: 0,
        closed: false,
        win_end: Some(window.end.0),
    }
}

/// What counts against the budget.
fn committed(row: &budget_window::Model, closed_epoch: Epoch) -> PicoUsdSum {
    let is_closed = row.closed || matches!(row.holder.parse(), Ok(Holder::Shared(epoch)) if epoch <= closed_epoch);
    if is_closed { settled(row) } else { Ord::max(granted(row), settled(row)) }
}

fn granted(row: &budget_window::Model) -> PicoUsdSum {
    PicoUsdSum::from_limbs(row.granted_micro, row.granted_rest)
}

fn settled(row: &budget_window::Model) -> PicoUsdSum {
    PicoUsdSum::from_limbs(row.settled_micro, row.settled_rest)
}
