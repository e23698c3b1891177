//! The database schema, as migrations that are only ever appended to.
//!
//! The same migrations run on Postgres and on SQLite. A change must work with the release before it, because replicas are
//! replaced one by one: first a migration that adds, in a later release one that removes.
//!
//! To add one: write `mNNNN_name.rs` (a folder, if it has more than one idea), and put it at the end of the list below.
//! Never edit one that has been released.

mod m0001_foundation;
mod m0002_money;

use sea_orm_migration::{MigrationTrait, MigratorTrait, async_trait};

/// All migrations, in order.
pub struct Migrator;

#[async_trait::async_trait]
impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![Box::new(m0001_foundation::Foundation), Box::new(m0002_money::Money)]
    }
}
