//! Keys and the ledger in SQL: Postgres and SQLite through the same entities, queries and migrations.
//!
//! [`connect`] and [`migrate`], then [`SqlKeyStore`] and [`SqlUsageLedger`] over the same [`Database`]; [`expire`] once a day.
//! Values are always bound, and queries are made with sea-orm's builders: what inserts the ledger's rows, `rows`, is all the SQL
//! text that there is.

mod append;
mod database;
mod entity;
mod epochs;
mod event_row;
mod event_span;
mod failure;
mod grants;
mod key_row;
mod key_store;
mod keyset;
mod limbs;
mod limiter_mode;
mod recovery;
mod reports;
mod retention;
mod rollup;
mod rows;
mod schema;
mod shares;
mod spending;
mod spent;
mod spools;
#[cfg(test)]
mod tests;
mod usage_ledger;
mod verification;

pub use database::{Database, DatabaseOptions, connect, sqlite_url};
pub use key_store::SqlKeyStore;
pub use limiter_mode::{LimiterModeError, LimiterModeLock, limiter_mode_lock};
pub use retention::expire;
pub use schema::{MigrationStatus, clean, list_tables, migrate, migration_status, reset};
pub use usage_ledger::SqlUsageLedger;
