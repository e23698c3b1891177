//! Weekly partitions of the events, on Postgres.
//!
//! They are made by the ledger when a batch needs one, not ahead by a job that may fail to run; and there is no default
//! partition, because rows in it would stand in the way of every partition made later.

use sea_orm_migration::{
    DbErr, SchemaManager,
    sea_orm::{ConnectionTrait, DbBackend},
};

/// A function, owned by the role that migrates, so that the role that serves needs no right to create tables: only the
/// right to execute this. Partitions are attached rather than created in place, because that does not stop writers.
/// A week starts on a Thursday, as the Unix epoch does.
const CREATE: &str = r"
CREATE FUNCTION usage_event_ensure_partition(day integer) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    first_day integer := day - day % 7;
    partition_name text := 'usage_event_' || to_char(date '1970-01-01' + first_day, 'YYYYMMDD');
BEGIN
    PERFORM pg_advisory_xact_lock('usage_event'::regclass::oid::bigint);
    IF to_regclass(partition_name) IS NULL THEN
        EXECUTE format('CREATE TABLE %I (LIKE usage_event)', partition_name);
        EXECUTE format('ALTER TABLE usage_event ATTACH PARTITION %I FOR VALUES FROM (%s) TO (%s)',
                       partition_name, first_day, first_day + 7);
    END IF;
END $$;
REVOKE ALL ON FUNCTION usage_event_ensure_partition(integer) FROM PUBLIC;
";

pub(super) async fn create(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    execute_on_postgres(manager, CREATE).await
}

pub(super) async fn drop(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    execute_on_postgres(manager, "DROP FUNCTION IF EXISTS usage_event_ensure_partition(integer)").await
}

async fn execute_on_postgres(manager: &SchemaManager<'_>, sql: &str) -> Result<(), DbErr> {
    if manager.get_database_backend() == DbBackend::Postgres {
        manager.get_connection().execute_unprepared(sql).await?;
    }
    Ok(())
}
