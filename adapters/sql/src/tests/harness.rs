//! Databases for tests: a new one each time.

use std::{
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use ai4free_ports::{key_store::KeyStore, usage_ledger::UsageLedger};
use async_trait::async_trait;
use sea_orm::{
    ConnectionTrait, DatabaseConnection,
    sqlx::{
        ConnectOptions,
        postgres::{PgConnectOptions, PgPoolOptions},
    },
};
use tempfile::TempDir;

use crate::{Database, DatabaseOptions, SqlKeyStore, SqlUsageLedger, connect, migrate, sqlite_url};

/// A slow machine is no failure.
pub(crate) const PATIENT: DatabaseOptions =
    DatabaseOptions { max_connections: 8, acquire_timeout: Duration::from_secs(10) };

/// What the role that serves has to be granted: neither schema changes, nor changes of the ledger's events.
const GRANTS: &str = "
    GRANT SELECT, INSERT, UPDATE ON api_key, key_change_sequence, pepper, spool, limiter_epoch, budget_window TO {role};
    GRANT SELECT, INSERT, UPDATE ON usage_hour, usage_user_hour, usage_provider_hour TO {role};
    GRANT SELECT, INSERT, UPDATE, DELETE ON api_key_secret TO {role};
    GRANT SELECT, INSERT ON usage_event TO {role};
    GRANT SELECT ON seaql_migrations, usage_retention TO {role};
    GRANT EXECUTE ON FUNCTION usage_event_ensure_partition(integer), usage_event_expire(integer) TO {role};
";

/// A migrated database that is gone after [`end`](Self::end).
#[async_trait]
pub(crate) trait TestDatabase: Sized + Send + Sync {
    /// `None`: not configured.
    async fn start() -> Option<Self>;
    /// As the role that serves.
    fn database(&self) -> &Database;
    /// As the role that migrates.
    fn owner(&self) -> &Database;
    async fn end(self);
}

pub(crate) struct Sqlite {
    database: Database,
    pub(crate) directory: TempDir,
}

#[async_trait]
impl TestDatabase for Sqlite {
    async fn start() -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let url = sqlite_url(&directory.path().join("test.db"));
        let database = connect(&url, PATIENT).await.unwrap();
        migrate(&database).await.unwrap();
        Some(Self { database, directory })
    }

    fn database(&self) -> &Database {
        &self.database
    }

    fn owner(&self) -> &Database {
        &self.database
    }

    async fn end(self) {
        self.database.close().await.unwrap();
    }
}

pub(crate) struct Postgres {
    server: String,
    /// Of the database, and of the role that serves.
    name: String,
    pub(crate) owner_url: String,
    owner: Database,
    database: Database,
}

#[async_trait]
impl TestDatabase for Postgres {
    async fn start() -> Option<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let server = postgres_url()?;
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("ai4free_test_{}_{number}", std::process::id());
        on_server(&server, &format!("CREATE DATABASE {name}")).await;
        let (address, _) = server.rsplit_once('/').unwrap();
        let owner_url = format!("{address}/{name}");
        let owner = connect(&owner_url, PATIENT).await.unwrap();
        migrate(&owner).await.unwrap();
        owner.writer.execute_unprepared(&format!("CREATE ROLE {name} LOGIN PASSWORD 'test'")).await.unwrap();
        owner.writer.execute_unprepared(&GRANTS.replace("{role}", &name)).await.unwrap();
        let (_, host) = address.rsplit_once(['@', '/']).unwrap();
        let database = connect(&format!("postgres://{name}:test@{host}/{name}"), PATIENT).await.unwrap();
        Some(Self { server, name, owner_url, owner, database })
    }

    fn database(&self) -> &Database {
        &self.database
    }

    fn owner(&self) -> &Database {
        &self.owner
    }

    async fn end(self) {
        self.database.close().await.unwrap();
        self.owner.close().await.unwrap();
        on_server(&self.server, &format!("DROP DATABASE {} WITH (FORCE)", self.name)).await;
        on_server(&self.server, &format!("DROP ROLE {}", self.name)).await;
    }
}

/// Either database, as the harness of both contracts.
pub(crate) struct On<T>(T);

#[async_trait]
impl<T: TestDatabase> ai4free_contract::key_store::Harness for On<T> {
    async fn fresh() -> Option<Self> {
        T::start().await.map(Self)
    }

    fn store(&self) -> Arc<dyn KeyStore> {
        Arc::new(SqlKeyStore::new(self.0.database().clone()))
    }

    async fn end(self) {
        self.0.end().await;
    }
}

#[async_trait]
impl<T: TestDatabase> ai4free_contract::usage_ledger::Harness for On<T> {
    async fn fresh() -> Option<Self> {
        T::start().await.map(Self)
    }

    fn ledger(&self) -> Arc<dyn UsageLedger> {
        Arc::new(SqlUsageLedger::new(self.0.database().clone()))
    }

    async fn end(self) {
        self.0.end().await;
    }
}

/// The same clauses for both databases, as the role that migrates.
macro_rules! on_both {
    ($($clause:ident)+) => {
        mod sqlite {
            $(
                #[tokio::test]
                async fn $clause() {
                    crate::tests::harness::on::<crate::tests::harness::Sqlite>(super::$clause).await;
                }
            )+
        }
        mod postgres {
            $(
                #[tokio::test]
                async fn $clause() {
                    crate::tests::harness::on::<crate::tests::harness::Postgres>(super::$clause).await;
                }
            )+
        }
    };
}
pub(crate) use on_both;

pub(crate) async fn on<T: TestDatabase>(clause: impl AsyncFn(&Database)) {
    if let Some(test) = T::start().await {
        clause(test.owner()).await;
        test.end().await;
    }
}

fn postgres_url() -> Option<String> {
    let url = std::env::var("AI4FREE_TEST_POSTGRES_URL").ok().filter(|url| !url.is_empty());
    if url.is_none() {
        assert!(std::env::var_os("AI4FREE_TEST_REQUIRE_SERVICES").is_none(), "AI4FREE_TEST_POSTGRES_URL is not set");
        println!("skipped: AI4FREE_TEST_POSTGRES_URL is not set");
    }
    url
}

async fn on_server(url: &str, sql: &str) {
    let options = PgConnectOptions::from_str(url).unwrap().disable_statement_logging();
    let pool = PgPoolOptions::new().max_connections(1).connect_lazy_with(options);
    let connection = DatabaseConnection::from(pool);
    connection.execute_unprepared(sql).await.unwrap();
    connection.close().await.unwrap();
}
