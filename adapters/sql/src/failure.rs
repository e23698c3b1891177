//! What goes wrong inside this crate, and how long anything may take.

use std::{borrow::Cow, fmt::Display, future::Future, time::Duration};

use ai4free_ports::error::{Source, StoreError};
use sea_orm::{DbErr, RuntimeErr, SqlErr};
use tokio::time::timeout;

/// A client waits for these.
const REQUEST_DEADLINE: Duration = Duration::from_secs(2);
/// Batches and chores: nobody waits, but nothing may hang for ever.
const BACKGROUND_DEADLINE: Duration = Duration::from_secs(30);
/// A migration may rewrite a large table, or wait for another replica that does.
const MIGRATION_DEADLINE: Duration = Duration::from_secs(15 * 60);

/// Reads all events of a year, perhaps.
const VERIFICATION_DEADLINE: Duration = Duration::from_secs(3600);

/// Lets `?` work on the database's errors; becomes a [`StoreError`] at the port.
#[derive(Debug)]
pub(crate) enum Failure {
    Database(DbErr),
    /// `server` is host and port, never more of the URL.
    NoConnection {
        server: String,
        error: DbErr,
    },
    Conflict(&'static str),
    Corrupt(Cow<'static, str>),
}

impl From<DbErr> for Failure {
    fn from(error: DbErr) -> Self {
        Self::Database(error)
    }
}

impl From<Failure> for StoreError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Database(error) if matches!(error.sql_err(), Some(SqlErr::UniqueConstraintViolation(_))) => {
                Self::Conflict("the row exists already".into())
            }
            Failure::Database(error) => unavailable(&error),
            Failure::NoConnection { server, error } => {
                unavailable(&format_args!("no connection to Postgres at {server}: {error}"))
            }
            Failure::Conflict(what) => Self::Conflict(what.into()),
            Failure::Corrupt(what) => Self::Corrupt(what),
        }
    }
}

/// The libraries' errors have their causes in their text: as sources they would bring them once more.
pub(crate) fn unavailable(error: &impl Display) -> StoreError {
    StoreError::Unavailable(error.to_string().into())
}

/// What Postgres calls the error (five characters, <https://www.postgresql.org/docs/current/errcodes-appendix.html>).
pub(crate) fn sql_state(error: &DbErr) -> Option<String> {
    let (DbErr::Conn(RuntimeErr::SqlxError(error))
    | DbErr::Exec(RuntimeErr::SqlxError(error))
    | DbErr::Query(RuntimeErr::SqlxError(error))) = error
    else {
        return None;
    };
    error.as_database_error()?.code().map(Cow::into_owned)
}

pub(crate) async fn while_a_client_waits<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, StoreError> {
    within(REQUEST_DEADLINE, work).await
}

pub(crate) async fn in_the_background<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, StoreError> {
    within(BACKGROUND_DEADLINE, work).await
}

pub(crate) async fn while_migrating<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, StoreError> {
    within(MIGRATION_DEADLINE, work).await
}

pub(crate) async fn while_verifying<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, StoreError> {
    within(VERIFICATION_DEADLINE, work).await
}

pub(crate) async fn within<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, StoreError> {
    match timeout(limit, work).await {
        Ok(done) => Ok(done?),
        Err(elapsed) => Err(StoreError::Unavailable(Source::from(elapsed))),
    }
}
