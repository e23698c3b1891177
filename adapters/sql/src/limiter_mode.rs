//! A lock that keeps processes with incompatible limiters off the same database.
//!
//! Limits in memory hold only if there is one process; limits in Redis hold for any number. So a process with memory limits
//! takes the lock exclusively, one with Redis shares it.

use std::time::Duration;

use ai4free_ports::error::StoreError;
use sea_orm::{
    ConnectionTrait, DatabaseConnection,
    sea_query::{Func, Query},
    sqlx::postgres::PgPoolOptions,
};

use crate::{
    database::Database,
    failure::{Failure, sql_state, within},
};

/// As the migration lock's, with the next number.
const LIMITER_MODE_LOCK: i64 = 0x6134_6600_0000_0002;
/// `lock_not_available`: what Postgres answers when `lock_timeout` has passed.
const LOCK_NOT_AVAILABLE: &str = "55P03";
/// For connecting, and for the answer, on top of the time that the lock itself may take.
const ROUND_TRIPS: Duration = Duration::from_secs(2);

/// Why the lock was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LimiterModeError {
    /// Another process holds it in a way that excludes ours. Starting would break limits.
    #[error("another process uses this database with limits that exclude ours")]
    HeldByAnother,
    /// It is not known. Worth trying again.
    #[error("can't take the limiter-mode lock")]
    Unavailable(#[source] StoreError),
}

/// Holds the lock, on a connection of its own, until it is dropped or the connection breaks.
pub struct LimiterModeLock {
    /// `None` on SQLite: the lock of the data directory keeps other processes off already.
    connection: Option<DatabaseConnection>,
    exclusive: bool,
    patience: Duration,
}

impl LimiterModeLock {
    /// Takes the lock again if the connection had broken, and with it the lock. To be called now and then.
    ///
    /// # Errors
    /// [`LimiterModeError::HeldByAnother`] if another process has used the gap.
    pub async fn renew(&self) -> Result<(), LimiterModeError> {
        let Some(connection) = &self.connection else {
            return Ok(());
        };
        // A session may take its own lock any number of times; they all go with the session.
        let function = if self.exclusive { "pg_advisory_lock" } else { "pg_advisory_lock_shared" };
        let taken = within(self.patience + ROUND_TRIPS, async {
            match connection.execute(Query::select().expr(Func::cust(function).arg(LIMITER_MODE_LOCK))).await {
                Ok(_) => Ok(true),
                Err(error) if sql_state(&error).as_deref() == Some(LOCK_NOT_AVAILABLE) => Ok(false),
                Err(error) => Err(Failure::Database(error)),
            }
        });
        match taken.await {
            Ok(true) => Ok(()),
            Ok(false) => Err(LimiterModeError::HeldByAnother),
            Err(error) => Err(LimiterModeError::Unavailable(error)),
        }
    }

    /// Gives the lock back before it returns; dropping does so a moment later.
    pub async fn release(self) {
        if let Some(connection) = self.connection {
            // An error here means that the connection, and so the lock, is gone already.
            let _ = connection.close().await;
        }
    }
}

/// Takes the lock, waiting for up to `patience` (10 s is what a restart needs) for a process that holds it to end.
///
/// # Errors
/// See [`LimiterModeError`].
pub async fn limiter_mode_lock(
    database: &Database,
    exclusive: bool,
    patience: Duration,
) -> Result<LimiterModeLock, LimiterModeError> {
    let connection = database.postgres.clone().map(|options| {
        let ceilings =
            [("lock_timeout", patience.as_millis().max(1).to_string()), ("statement_timeout", "0".to_owned())];
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .idle_timeout(None)
            .max_lifetime(None)
            .acquire_timeout(ROUND_TRIPS)
            .connect_lazy_with(options.options(ceilings));
        DatabaseConnection::from(pool)
    });
    let lock = LimiterModeLock { connection, exclusive, patience };
    lock.renew().await?;
    Ok(lock)
}
