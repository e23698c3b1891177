//! [`KeyStore`] in SQL.

use std::sync::Arc;

use ai4free_ports::{
    error::StoreError,
    key::{KeyId, StoredKey},
    key_store::{KeyChanges, KeyPage, KeyStore},
    runtime::Timestamp,
};
use async_trait::async_trait;
use sea_orm::{
    ActiveModelTrait,
    ActiveValue::NotSet,
    ColumnTrait, ConnectionTrait, DatabaseTransaction, EntityTrait, IntoActiveModel, QueryFilter, QueryOrder,
    QuerySelect, QueryTrait,
    sea_query::{Expr, ExprTrait, OnConflict, Query},
};

use crate::{
    database::Database,
    entity::{api_key, api_key_secret, key_change_sequence, pepper},
    failure::{Failure, in_the_background, while_a_client_waits},
    key_row::{key_row, secret_rows, stored_key},
};

/// Changes that one poll of the feed may return.
const CHANGES_AT_A_TIME: u64 = 1000;

/// Keys in Postgres or SQLite.
///
/// Each change takes the next number of the change sequence first, and holds that row's lock until it is committed. So
/// changes are serialised, and whoever has seen number n can be sure that all numbers below n are visible.
pub struct SqlKeyStore {
    database: Database,
}

impl SqlKeyStore {
    #[must_use]
    pub fn new(database: Database) -> Self {
        Self { database }
    }
}

#[async_trait]
impl KeyStore for SqlKeyStore {
    async fn find(&self, id: &KeyId) -> Result<Option<Arc<StoredKey>>, StoreError> {
        while_a_client_waits(async {
            // One statement, so that a key is never read with the secrets of another version.
            let query = api_key::Entity::find_by_id(id.as_str()).find_with_related(api_key_secret::Entity);
            let found = query.order_by_asc(api_key_secret::Column::Position).all(&self.database.reader).await?;
            found.into_iter().next().map(|(key, secrets)| stored_key(key, secrets).map(Arc::new)).transpose()
        })
        .await
    }

    async fn create(&self, key: &StoredKey) -> Result<(), StoreError> {
        while_a_client_waits(async {
            let transaction = self.database.begin_write().await?;
            let sequence = next_change(&transaction).await?;
            let row = key_row(key, sequence)?.into_active_model();
            api_key::Entity::insert(row).exec_without_returning(&transaction).await?;
            insert_secrets(&transaction, key).await?;
            Ok(transaction.commit().await?)
        })
        .await
    }

    async fn update(&self, key: &StoredKey) -> Result<i64, StoreError> {
        while_a_client_waits(async {
            let transaction = self.database.begin_write().await?;
            let sequence = next_change(&transaction).await?;
            let version = key.version.saturating_add(1);
            let mut row = key_row(key, sequence)?.into_active_model().reset_all();
            row.version = sea_orm::Set(version);
            row.created_sequence = NotSet;
            // What `touch` has written is newer than what this writer had read.
            row.last_used_at = NotSet;
            let updated = api_key::Entity::update_many()
                .set(row)
                .filter(api_key::Column::Id.eq(key.id.as_str()))
                .filter(api_key::Column::Version.eq(key.version))
                .exec(&transaction)
                .await?;
            if updated.rows_affected == 0 {
                return Err(Failure::Conflict("the key was changed in the meantime"));
            }
            api_key_secret::Entity::delete_many()
                .filter(api_key_secret::Column::KeyId.eq(key.id.as_str()))
                .exec(&transaction)
                .await?;
            insert_secrets(&transaction, key).await?;
            transaction.commit().await?;
            Ok(version)
        })
        .await
    }

    async fn list(&self, after: Option<&KeyId>, limit: u16) -> Result<KeyPage, StoreError> {
        let limit = usize::from(limit);
        let mut page = api_key::Entity::find()
            .select_only()
            .column(api_key::Column::Id)
            .order_by_asc(api_key::Column::CreatedSequence)
            .limit(limit as u64 + 1);
        if let Some(after) = after {
            let place = api_key::Entity::find_by_id(after.as_str())
                .select_only()
                .column(api_key::Column::CreatedSequence)
                .into_query();
            page = page.filter(Expr::col(api_key::Column::CreatedSequence).gt(place));
        }
        while_a_client_waits(async {
            let mut found = api_key::Entity::find()
                .filter(api_key::Column::Id.in_subquery(page.into_query()))
                .find_with_related(api_key_secret::Entity)
                .order_by_asc(api_key_secret::Column::Position)
                .all(&self.database.reader)
                .await?;
            // The join comes ordered by id.
            found.sort_by_key(|(key, _)| key.created_sequence);
            let has_more = found.len() > limit;
            let keys = found.into_iter().take(limit).map(|(key, secrets)| stored_key(key, secrets));
            Ok(KeyPage { keys: keys.collect::<Result<_, _>>()?, has_more })
        })
        .await
    }

    async fn changed_since(&self, sequence: i64) -> Result<KeyChanges, StoreError> {
        while_a_client_waits(async {
            let changed: Vec<(String, i64)> = api_key::Entity::find()
                .select_only()
                .columns([api_key::Column::Id, api_key::Column::ChangedSequence])
                .filter(api_key::Column::ChangedSequence.gt(sequence))
                .order_by_asc(api_key::Column::ChangedSequence)
                .limit(CHANGES_AT_A_TIME)
                .into_tuple()
                .all(&self.database.reader)
                .await?;
            let sequence = match changed.last() {
                Some((_, last)) => *last,
                // Smaller only if an older state of the database was restored.
                None => key_change_sequence::Entity::find()
                    .one(&self.database.reader)
                    .await?
                    .map_or(sequence, |row| Ord::min(row.last, sequence)),
            };
            // An id that is not one can't be cached by anybody either.
            let keys = changed.iter().filter_map(|(id, _)| KeyId::parse(id)).collect();
            Ok(KeyChanges { keys, sequence })
        })
        .await
    }

    async fn current_sequence(&self) -> Result<i64, StoreError> {
        while_a_client_waits(async {
            let row = key_change_sequence::Entity::find().one(&self.database.reader).await?;
            Ok(row.ok_or_else(no_sequence)?.last)
        })
        .await
    }

    async fn touch(&self, used: &[(KeyId, Timestamp)]) -> Result<(), StoreError> {
        // Always in the same order: two replicas that touch the same keys must not deadlock.
        let mut used: Vec<_> = used.iter().collect();
        used.sort_unstable();
        in_the_background(async {
            let transaction = self.database.begin_write().await?;
            for (id, at) in used {
                let earlier = api_key::Column::LastUsedAt.is_null().or(api_key::Column::LastUsedAt.lt(at.0));
                api_key::Entity::update_many()
                    .col_expr(api_key::Column::LastUsedAt, Expr::val(at.0))
                    .filter(api_key::Column::Id.eq(id.as_str()))
                    .filter(earlier)
                    .exec(&transaction)
                    .await?;
            }
            Ok(transaction.commit().await?)
        })
        .await
    }

    async fn remember_pepper(&self, version: u16, fingerprint: [u8; 32]) -> Result<[u8; 32], StoreError> {
        let version = i32::from(version);
        while_a_client_waits(async {
            let row = pepper::Model { version, fingerprint: fingerprint.to_vec() }.into_active_model();
            let insert = pepper::Entity::insert(row).on_conflict(OnConflict::new().do_nothing().to_owned());
            self.database.writer.execute(&insert.into_query()).await?;
            let remembered = pepper::Entity::find_by_id(version).one(&self.database.writer).await?;
            let remembered = remembered.ok_or(Failure::Conflict("the pepper was forgotten in the meantime"))?;
            remembered.fingerprint.try_into().map_err(|_| Failure::Corrupt("the fingerprint of a pepper".into()))
        })
        .await
    }
}

async fn next_change(transaction: &DatabaseTransaction) -> Result<i64, Failure> {
    let count_up = Query::update()
        .table(key_change_sequence::Entity)
        .value(key_change_sequence::Column::Last, Expr::col(key_change_sequence::Column::Last).add(1))
        .returning_col(key_change_sequence::Column::Last)
        .to_owned();
    let row = transaction.query_one(&count_up).await?.ok_or_else(no_sequence)?;
    Ok(row.try_get_by_index(0)?)
}

async fn insert_secrets(transaction: &DatabaseTransaction, key: &StoredKey) -> Result<(), Failure> {
    for secret in secret_rows(key) {
        api_key_secret::Entity::insert(secret.into_active_model()).exec_without_returning(transaction).await?;
    }
    Ok(())
}

fn no_sequence() -> Failure {
    Failure::Corrupt("the change sequence of the keys is missing".into())
}
