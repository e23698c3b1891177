use std::{error::Error, fmt::Write, time::Duration};

use ai4free_ports::{error::StoreError, key::KeyId, key_store::KeyStore};
use sea_orm::{ConnectionTrait, sea_query::Query};

use crate::{
    DatabaseOptions, SqlKeyStore, connect, list_tables, migrate, migration_status, sqlite_url,
    tests::harness::{PATIENT, Sqlite, TestDatabase},
};

#[tokio::test]
async fn a_database_that_is_down_is_an_error_of_each_call_and_not_of_the_start() {
    // Port 1 of this machine: nothing listens there.
    let url = "postgres://someone:hunter2@127.0.0.1:1/gateway";
    let database = connect(url, DatabaseOptions::default()).await.unwrap();
    let found = SqlKeyStore::new(database.clone()).find(&KeyId::parse("k00000000001").unwrap()).await;
    assert_says_nothing_of("hunter2", &found.unwrap_err());
    assert_says_nothing_of("hunter2", &migrate(&database).await.unwrap_err());
}

#[tokio::test]
async fn an_url_that_cannot_be_used_is_not_repeated() {
    for url in [
        "mysql://root:hunter2@localhost/x",
        "hunter2",
        "postgres://root:hunter2@localhost:port/x",
        "postgresql://root:hunter2@[::1/x",
        "sqlite://hunter2/missing/directory/x.db",
        "sqlite://hunter2.db?mode=wrong",
        "sqlite::memory:?hunter2",
        "sqlite://hunter2?mode=memory",
    ] {
        let refused = connect(url, DatabaseOptions::default()).await;
        assert_says_nothing_of("hunter2", &refused.err().unwrap_or_else(|| panic!("{url} was accepted")));
    }
}

#[tokio::test]
async fn a_sqlite_file_may_have_any_name_and_is_its_owners() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("50% of #1? ż.db");
    let database = connect(&sqlite_url(&path), PATIENT).await.unwrap();
    migrate(&database).await.unwrap();
    for file in std::fs::read_dir(directory.path()).unwrap() {
        let file = file.unwrap();
        assert!(file.file_name().to_string_lossy().starts_with("50% of #1? ż.db"), "{file:?}");
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{file:?}");
    }
    database.close().await.unwrap();
    let again = connect(&sqlite_url(&path), PATIENT).await.unwrap();
    assert!(list_tables(&again).await.unwrap().contains(&"api_key".to_owned()));
}

#[tokio::test]
async fn two_processes_may_write_to_one_sqlite_file() {
    let sqlite = Sqlite::start().await.unwrap();
    let url = sqlite_url(&sqlite.directory.path().join("test.db"));
    let other = connect(&url, PATIENT).await.unwrap();
    let (first, second) = (SqlKeyStore::new(sqlite.database().clone()), SqlKeyStore::new(other));
    for version in 0..50_u8 {
        let (one, two) = tokio::join!(
            first.remember_pepper(version.into(), [1; 32]),
            second.remember_pepper(version.into(), [2; 32])
        );
        assert_eq!(one.unwrap(), two.unwrap());
    }
}

/// A transaction that begins by reading fails here: it can't write after another process has.
#[tokio::test]
async fn two_processes_may_migrate_one_sqlite_file() {
    for _ in 0..10 {
        let directory = tempfile::tempdir().unwrap();
        let url = sqlite_url(&directory.path().join("test.db"));
        let (first, second) = (connect(&url, PATIENT).await.unwrap(), connect(&url, PATIENT).await.unwrap());
        let (one, two) = tokio::join!(migrate(&first), migrate(&second));
        one.unwrap();
        two.unwrap();
    }
}

#[tokio::test]
async fn sqlite_writes_ahead() {
    let sqlite = Sqlite::start().await.unwrap();
    let mode = Query::select().column("journal_mode").from("pragma_journal_mode").to_owned();
    let row = sqlite.database().reader.query_one(&mode).await.unwrap().unwrap();
    assert_eq!(row.try_get_by_index::<String>(0).unwrap(), "wal");
}

#[tokio::test]
async fn an_unreachable_postgres_is_named_by_host_and_port_and_each_cause_once() {
    let url = "postgres://canary-user:canary-password@127.0.0.1:1/canary-name";
    let options = DatabaseOptions { acquire_timeout: Duration::from_millis(50), ..DatabaseOptions::default() };
    let down = connect(url, options).await.unwrap();
    let asked = SqlKeyStore::new(down.clone()).current_sequence().await.unwrap_err();
    for error in [migrate(&down).await.unwrap_err(), migration_status(&down).await.unwrap_err()] {
        assert_says_nothing_of("canary", &error);
        assert_eq!(causes(&error).matches("no connection to Postgres at 127.0.0.1:1: ").count(), 1, "{error:?}");
        assert_eq!(causes(&error).matches("timed out").count(), 1, "{error:?}");
    }
    assert_eq!(causes(&asked).matches("timed out").count(), 1, "{asked:?}");
}

fn assert_says_nothing_of(secret: &str, error: &StoreError) {
    assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
    let text = format!("{error:?}{}", causes(error));
    assert!(!text.contains(secret), "{text}");
}

/// As `anyhow` and the log write an error.
fn causes(error: &StoreError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        write!(text, ": {error}").unwrap();
        cause = error.source();
    }
    text
}
