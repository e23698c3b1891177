//! Since when events are kept, and the right to let older ones go.

use sea_orm_migration::{
    DbErr, SchemaManager,
    sea_orm::{self, ConnectionTrait, DbBackend, DeriveIden},
    sea_query::{ColumnDef, Table},
};

/// One row, once events have expired: sums of earlier days can't be compared with anything.
#[derive(DeriveIden)]
enum UsageRetention {
    Table,
    Id,
    /// The first day whose events are all kept, in days since the Unix epoch.
    FirstDay,
}

/// A function, owned by the role that migrates, so that the role that serves needs no right to drop or delete. Whole weeks
/// are dropped with their partitions: nothing is deleted row by row. Whoever may execute it can't take away the last week.
/// It waits two seconds for the table, because writers wait behind it.
const CREATE: &str = r"
CREATE FUNCTION usage_event_expire(before_day integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT SET lock_timeout = '2s' AS $$
DECLARE
    last_day integer := least(before_day, (now() AT TIME ZONE 'UTC')::date - date '1970-01-01' - 7);
    kept_day integer;
    week record;
BEGIN
    PERFORM pg_advisory_xact_lock('usage_event'::regclass::oid::bigint);
    kept_day := last_day - ((last_day % 7) + 7) % 7;
    FOR week IN
        SELECT format('%I', child.relname) AS name
        FROM pg_inherits JOIN pg_class AS child ON child.oid = inhrelid
        WHERE inhparent = 'usage_event'::regclass
            AND (regexp_match(pg_get_expr(child.relpartbound, child.oid), 'TO \((\d+)\)'))[1]::integer <= kept_day
    LOOP
        EXECUTE format('ALTER TABLE usage_event DETACH PARTITION %s', week.name);
        EXECUTE format('DROP TABLE %s', week.name);
    END LOOP;
    INSERT INTO usage_retention (id, first_day) VALUES (1, kept_day)
        ON CONFLICT (id) DO UPDATE SET first_day = greatest(usage_retention.first_day, excluded.first_day);
    RETURN kept_day;
END $$;
REVOKE ALL ON FUNCTION usage_event_expire(integer) FROM PUBLIC;
";

pub(super) async fn create(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    let table = Table::create()
        .table(UsageRetention::Table)
        .col(ColumnDef::new(UsageRetention::Id).small_integer().not_null().primary_key())
        .col(ColumnDef::new(UsageRetention::FirstDay).integer().not_null())
        .to_owned();
    manager.create_table(table).await?;
    execute_on_postgres(manager, CREATE).await
}

pub(super) async fn drop(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    execute_on_postgres(manager, "DROP FUNCTION IF EXISTS usage_event_expire(integer)").await?;
    manager.drop_table(Table::drop().table(UsageRetention::Table).if_exists().to_owned()).await
}

async fn execute_on_postgres(manager: &SchemaManager<'_>, sql: &str) -> Result<(), DbErr> {
    if manager.get_database_backend() == DbBackend::Postgres {
        manager.get_connection().execute_unprepared(sql).await?;
    }
    Ok(())
}
