//! Connections to Postgres or SQLite.

use std::{path::Path, str::FromStr, time::Duration};

use ai4free_ports::error::StoreError;
use sea_orm::{
    AccessMode, DatabaseConnection, DatabaseTransaction, DbBackend, DbErr, IsolationLevel, SqliteTransactionMode,
    TransactionOptions, TransactionTrait,
    sqlx::{
        ConnectOptions, Connection, SqliteConnection,
        postgres::{PgConnectOptions, PgPoolOptions},
        sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
    },
};

use crate::failure::{Failure, unavailable};

/// Connections that only read, on SQLite.
const SQLITE_READERS: u32 = 4;
/// How long a writer waits for one of another process.
const SQLITE_BUSY: Duration = Duration::from_secs(5);
/// Distinct statements that one connection keeps prepared: more than this crate has.
const PREPARED_STATEMENTS: usize = 128;
/// Ceilings that the server keeps, in milliseconds, should this process be unable to: a statement, a wait for a lock, and a
/// transaction whose owner says nothing more. The last one frees the locks of a replica that was cut off half-way.
const POSTGRES_CEILINGS: [(&str, &str); 3] =
    [("statement_timeout", "30000"), ("lock_timeout", "10000"), ("idle_in_transaction_session_timeout", "10000")];

/// How a database is used.
#[derive(Clone, Copy, Debug)]
pub struct DatabaseOptions {
    /// Connections to Postgres. SQLite has one that writes and four that read.
    pub max_connections: u32,
    /// How long to wait for a free connection. Short: a request that waits longer is better refused.
    pub acquire_timeout: Duration,
}

impl Default for DatabaseOptions {
    fn default() -> Self {
        Self { max_connections: 8, acquire_timeout: Duration::from_secs(1) }
    }
}

/// The database, as both adapters of this crate share it. Cloning shares the connections.
///
/// SQLite allows one writer at a time, so there is one connection that writes, and its users queue for it in order of
/// arrival instead of meeting each other's locks. Its transactions begin as `IMMEDIATE`: one that began by reading could not
/// become a writer after another process has written, whatever the busy timeout. Readers are never in a writer's way (WAL).
#[derive(Clone)]
pub struct Database {
    pub(crate) writer: DatabaseConnection,
    pub(crate) reader: DatabaseConnection,
    /// To open a connection of its own for a session lock.
    pub(crate) postgres: Option<PgConnectOptions>,
}

impl Database {
    pub(crate) fn backend(&self) -> DbBackend {
        self.writer.get_database_backend()
    }

    pub(crate) async fn begin_read(&self) -> Result<DatabaseTransaction, Failure> {
        self.reader.begin().await.map_err(|error| self.not_begun(error))
    }

    /// For many queries that must see one state of the database.
    pub(crate) async fn begin_snapshot(&self) -> Result<DatabaseTransaction, Failure> {
        let options = match self.backend() {
            DbBackend::Postgres => TransactionOptions {
                isolation_level: Some(IsolationLevel::RepeatableRead),
                access_mode: Some(AccessMode::ReadOnly),
                ..TransactionOptions::default()
            },
            // Its transactions see nothing else.
            _ => TransactionOptions::default(),
        };
        self.reader.begin_with_options(options).await.map_err(|error| self.not_begun(error))
    }

    pub(crate) async fn begin_write(&self) -> Result<DatabaseTransaction, Failure> {
        let options = TransactionOptions {
            sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
            ..TransactionOptions::default()
        };
        self.writer.begin_with_options(options).await.map_err(|error| self.not_begun(error))
    }

    fn not_begun(&self, error: DbErr) -> Failure {
        match (&self.postgres, error) {
            (Some(postgres), error @ (DbErr::ConnectionAcquire(_) | DbErr::Conn(_))) => {
                let server = format!("{}:{}", postgres.get_host(), postgres.get_port());
                Failure::NoConnection { server, error }
            }
            (_, error) => Failure::Database(error),
        }
    }

    /// Closes all connections, after what runs on them has ended.
    ///
    /// # Errors
    /// Never matters at the end of a process; tests want to know.
    pub async fn close(self) -> Result<(), StoreError> {
        let closed = self.reader.close().await.and(self.writer.close().await);
        closed.map_err(|error| unavailable(&error))
    }
}

/// Opens the database that a URL names: `postgres://…`, or `sqlite:` and a path ([`sqlite_url`]).
///
/// Postgres is connected to when it is first used, so that the process starts while it is down. A SQLite file is created,
/// readable by its owner only.
///
/// # Errors
/// When the URL can't be used, or the file can't be opened. No error holds the URL: there may be a password in it.
pub async fn connect(url: &str, options: DatabaseOptions) -> Result<Database, StoreError> {
    if url.starts_with("postgres:") || url.starts_with("postgresql:") {
        connect_postgres(url, options)
    } else if url.starts_with("sqlite:") {
        connect_sqlite(url, options).await
    } else {
        Err(unusable("the database URL must begin with postgres:// or sqlite:"))
    }
}

/// The URL of a SQLite file.
#[must_use]
pub fn sqlite_url(path: &Path) -> String {
    // The characters that mean something in a URL.
    let path = path.to_string_lossy().replace('%', "%25").replace('?', "%3F").replace('#', "%23");
    format!("sqlite://{path}?mode=rwc")
}

fn connect_postgres(url: &str, options: DatabaseOptions) -> Result<Database, StoreError> {
    let connection = PgConnectOptions::from_str(url)
        .map_err(|_: sea_orm::sqlx::Error| unusable("the Postgres URL can't be parsed"))?
        .application_name("ai4free")
        .statement_cache_capacity(PREPARED_STATEMENTS)
        .options(POSTGRES_CEILINGS)
        .disable_statement_logging();
    let pool = PgPoolOptions::new()
        .max_connections(options.max_connections)
        .acquire_timeout(options.acquire_timeout)
        .connect_lazy_with(connection.clone());
    let connections = DatabaseConnection::from(pool);
    Ok(Database { writer: connections.clone(), reader: connections, postgres: Some(connection) })
}

async fn connect_sqlite(url: &str, options: DatabaseOptions) -> Result<Database, StoreError> {
    if url.contains(":memory:") || url.contains("mode=memory") {
        return Err(unusable("SQLite in memory has a database for each connection: use a file"));
    }
    let connection = SqliteConnectOptions::from_str(url)
        .map_err(|_: sea_orm::sqlx::Error| unusable("the SQLite URL can't be parsed"))?
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Normal)
        .busy_timeout(SQLITE_BUSY)
        .foreign_keys(true)
        .statement_cache_capacity(PREPARED_STATEMENTS)
        .disable_statement_logging();
    create_private(connection.get_filename()).map_err(|error| StoreError::Unavailable(Box::new(error)))?;
    // Connected at once: switching a new file to WAL must not race with the readers.
    let writer = SqlitePoolOptions::new()
        .max_connections(1)
        .idle_timeout(None)
        .max_lifetime(None)
        .acquire_timeout(SQLITE_BUSY)
        .before_acquire(|connection, _| Box::pin(async { Ok(has_ended(connection)) }))
        .connect_with(connection.clone())
        .await
        .map_err(|error| unavailable(&error))?;
    let reader = SqlitePoolOptions::new()
        .max_connections(SQLITE_READERS)
        .acquire_timeout(options.acquire_timeout)
        .before_acquire(|connection, _| Box::pin(async { Ok(has_ended(connection)) }))
        .connect_lazy_with(connection);
    Ok(Database { writer: writer.into(), reader: reader.into(), postgres: None })
}

/// Whether the last transaction of a connection that nobody uses has come to its end; one where it has not is replaced.
///
/// When the disk is full, SQLite rolls a transaction back by itself. The driver's own rollback fails then, and it goes on to
/// count the transaction as open: what follows are savepoints, and after the next failure they are within a transaction that
/// nobody will ever commit. They would be acknowledged, seen by this connection alone, and gone with the process.
fn has_ended(connection: &SqliteConnection) -> bool {
    !connection.is_in_transaction()
}

/// SQLite gives its journal files the permissions of the database.
fn create_private(path: &Path) -> std::io::Result<()> {
    let mut file = std::fs::OpenOptions::new();
    file.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut file, 0o600);
    match file.open(path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

fn unusable(why: &'static str) -> StoreError {
    StoreError::Unavailable(why.into())
}
