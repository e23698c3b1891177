//! Epochs of the shared limiter: how often it has lost its data.

use ai4free_ports::budget::Epoch;
use sea_orm::{
    ActiveModelTrait, ConnectionTrait, DatabaseTransaction, EntityTrait, IntoActiveModel, QuerySelect, QueryTrait,
    sea_query::OnConflict,
};

use crate::{database::Database, entity::limiter_epoch, failure::Failure};

/// The only row.
const ROW: i16 = 1;

pub(crate) async fn attest(database: &Database, run_id: &str, lost: Option<Epoch>) -> Result<Epoch, Failure> {
    let transaction = database.begin_write().await?;
    let epoch = match lock_exclusive(&transaction).await? {
        Some(known) => next(&transaction, known, run_id, lost).await?,
        None => {
            let first = limiter_epoch::Model { id: ROW, epoch: 1, run_id: run_id.to_owned(), closed_epoch: 0 };
            let insert = limiter_epoch::Entity::insert(first.into_active_model())
                .on_conflict(OnConflict::new().do_nothing().to_owned())
                .into_query();
            transaction.execute(&insert).await?;
            let known = lock_exclusive(&transaction).await?.ok_or_else(gone)?;
            next(&transaction, known, run_id, lost).await?
        }
    };
    transaction.commit().await?;
    Ok(Epoch(epoch))
}

/// `None`: there has been no shared limiter yet.
pub(crate) async fn row(connection: &impl ConnectionTrait) -> Result<Option<limiter_epoch::Model>, Failure> {
    Ok(limiter_epoch::Entity::find_by_id(ROW).one(connection).await?)
}

/// Until the transaction ends, there is no next epoch.
pub(crate) async fn lock_shared(transaction: &DatabaseTransaction) -> Result<Option<limiter_epoch::Model>, Failure> {
    Ok(limiter_epoch::Entity::find_by_id(ROW).lock_shared().one(transaction).await?)
}

async fn lock_exclusive(transaction: &DatabaseTransaction) -> Result<Option<limiter_epoch::Model>, Failure> {
    Ok(limiter_epoch::Entity::find_by_id(ROW).lock_exclusive().one(transaction).await?)
}

/// Who comes second with the same question finds it answered: the row has the new process, and the next epoch.
async fn next(
    transaction: &DatabaseTransaction,
    known: limiter_epoch::Model,
    run_id: &str,
    lost: Option<Epoch>,
) -> Result<i64, Failure> {
    if known.run_id == run_id && lost != Some(Epoch(known.epoch)) {
        return Ok(known.epoch);
    }
    let epoch = known.epoch.saturating_add(1);
    let row = limiter_epoch::Model { epoch, run_id: run_id.to_owned(), ..known };
    limiter_epoch::Entity::update(row.into_active_model().reset_all()).exec(transaction).await?;
    Ok(epoch)
}

fn gone() -> Failure {
    Failure::Conflict("the epoch was forgotten in the meantime")
}
