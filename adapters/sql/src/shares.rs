//! What one holder has of budgets, for comparison with what it says itself.

use ai4free_ports::{budget::Holder, money::PicoUsdSum, rate_limiter::Scope, runtime::Timestamp, usage_ledger::Share};
use sea_orm::{ColumnTrait, Condition, EntityTrait, QueryFilter, QueryOrder, QuerySelect};

use crate::{database::Database, entity::budget_window, failure::Failure, keyset};

const PAGE: u64 = 500;

pub(crate) async fn shares(
    database: &Database,
    holder: Holder,
    at: Timestamp,
    after: Option<&(Scope, Timestamp)>,
) -> Result<Vec<Share>, Failure> {
    use budget_window::Column::{Holder as HolderColumn, Scope as ScopeColumn, Win, WinEnd};
    let mut page = budget_window::Entity::find()
        .filter(HolderColumn.eq(holder.to_string()))
        .filter(Condition::any().add(WinEnd.is_null()).add(WinEnd.gt(at.0)))
        .order_by_asc(ScopeColumn)
        .order_by_asc(Win)
        .limit(PAGE);
    if let Some((scope, window)) = after {
        page = page.filter(keyset::after([ScopeColumn, Win], [scope.to_text().into(), window.0.into()]));
    }
    page.all(&database.reader).await?.iter().map(to_share).collect()
}

pub(crate) async fn share(
    database: &Database,
    holder: Holder,
    scope: &Scope,
    window: Timestamp,
) -> Result<Option<Share>, Failure> {
    let key = (scope.to_text(), window.0, holder.to_string());
    budget_window::Entity::find_by_id(key).one(&database.reader).await?.as_ref().map(to_share).transpose()
}

fn to_share(row: &budget_window::Model) -> Result<Share, Failure> {
    let scope = Scope::parse(&row.scope);
    Ok(Share {
        scope: scope.ok_or_else(|| Failure::Corrupt(format!("no scope: {}", row.scope).into()))?,
        window: Timestamp(row.win),
        end: row.win_end.map(Timestamp),
        granted: PicoUsdSum::from_limbs(row.granted_micro, row.granted_rest),
        settled: PicoUsdSum::from_limbs(row.settled_micro, row.settled_rest),
    })
}
