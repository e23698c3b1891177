//! Bringing the schema up to date, and taking it away.

use std::collections::BTreeSet;

use ai4free_migration::Migrator;
use ai4free_ports::error::StoreError;
use sea_orm::{
    ConnectionTrait, DatabaseTransaction, DbBackend, EntityTrait, QueryOrder,
    sea_query::{Expr, ExprTrait, Func, Query},
};
use sea_orm_migration::{MigratorTrait, SchemaManager, seaql_migrations};

use crate::{
    database::Database,
    failure::{Failure, while_a_client_waits, while_migrating},
};

/// Advisory lock of whoever changes the schema: "a4f" and a number, so that it is ours in a shared database.
const MIGRATION_LOCK: i64 = 0x6134_6600_0000_0001;

/// Which migrations a database has seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MigrationStatus {
    /// In the order of their names. May hold some that only a newer release knows.
    pub applied: Vec<String>,
    pub pending: Vec<String>,
}

/// Applies what is pending, all or nothing. Any number of replicas may do this at once: one works, the others wait for it.
///
/// A database that a newer release has migrated is left as it is: each schema works with the release before it.
///
/// # Errors
/// An unreachable database, or a migration that failed.
pub async fn migrate(database: &Database) -> Result<(), StoreError> {
    while_migrating(async {
        let transaction = database.begin_write().await?;
        lock(&transaction).await?;
        if !status(&transaction).await?.pending.is_empty() {
            Migrator::up(&transaction, None).await?;
        }
        Ok(transaction.commit().await?)
    })
    .await
}

/// Reads only: it needs no right to change the schema.
///
/// # Errors
/// An unreachable database.
pub async fn migration_status(database: &Database) -> Result<MigrationStatus, StoreError> {
    while_a_client_waits(async {
        let transaction = database.begin_read().await?;
        status(&transaction).await
    })
    .await
}

/// Drops all of our tables with what is in them.
///
/// # Errors
/// An unreachable database.
pub async fn clean(database: &Database) -> Result<(), StoreError> {
    while_migrating(async {
        let transaction = database.begin_write().await?;
        lock(&transaction).await?;
        Migrator::reset(&transaction).await?;
        Ok(transaction.commit().await?)
    })
    .await
}

/// [`clean`], then [`migrate`].
///
/// # Errors
/// An unreachable database.
pub async fn reset(database: &Database) -> Result<(), StoreError> {
    clean(database).await?;
    migrate(database).await
}

/// The tables of the database, or of the current schema on Postgres, by name.
///
/// # Errors
/// An unreachable database.
pub async fn list_tables(database: &Database) -> Result<Vec<String>, StoreError> {
    let mut query = Query::select();
    match database.backend() {
        DbBackend::Postgres => query
            .column("table_name")
            .from(("information_schema", "tables"))
            .and_where(Expr::col("table_schema").eq(Func::cust("current_schema"))),
        _ => query
            .column("name")
            .from("sqlite_master")
            .and_where(Expr::col("type").eq("table"))
            .and_where(Expr::col("name").not_like("sqlite\\_%")),
    };
    while_a_client_waits(async {
        let rows = database.reader.query_all(&query).await?;
        let names: Result<BTreeSet<String>, _> = rows.iter().map(|row| row.try_get_by_index(0)).collect();
        Ok(names?.into_iter().collect())
    })
    .await
}

async fn status(transaction: &DatabaseTransaction) -> Result<MigrationStatus, Failure> {
    let known: Vec<String> = Migrator::migrations().iter().map(|migration| migration.name().to_owned()).collect();
    if !SchemaManager::new(transaction).has_table("seaql_migrations").await? {
        return Ok(MigrationStatus { applied: Vec::new(), pending: known });
    }
    let rows =
        seaql_migrations::Entity::find().order_by_asc(seaql_migrations::Column::Version).all(transaction).await?;
    let applied: Vec<String> = rows.into_iter().map(|row| row.version).collect();
    let pending = known.into_iter().filter(|name| !applied.contains(name)).collect();
    Ok(MigrationStatus { applied, pending })
}

/// Held until the transaction ends. On SQLite the transaction itself is the lock.
pub(crate) async fn lock(transaction: &DatabaseTransaction) -> Result<(), Failure> {
    if transaction.get_database_backend() == DbBackend::Postgres {
        transaction.execute_unprepared("SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0").await?;
        transaction.execute(Query::select().expr(Func::cust("pg_advisory_xact_lock").arg(MIGRATION_LOCK))).await?;
    }
    Ok(())
}
