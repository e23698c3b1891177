use std::time::Duration;

use sea_orm::ConnectionTrait;

use crate::{
    DatabaseOptions, LimiterModeError, LimiterModeLock, connect, limiter_mode_lock,
    tests::harness::{Postgres, Sqlite, TestDatabase},
};

/// To wait in vain.
const SHORT: Duration = Duration::from_millis(100);
/// For a lock that somebody is giving back.
const LONG: Duration = Duration::from_secs(10);

#[tokio::test]
async fn memory_limits_have_the_database_for_themselves() {
    let Some(postgres) = Postgres::start().await else { return };
    let memory = take(&postgres, true, LONG).await.unwrap();
    assert_held(take(&postgres, true, SHORT).await);
    assert_held(take(&postgres, false, SHORT).await);
    memory.renew().await.unwrap();
    memory.release().await;
    take(&postgres, false, LONG).await.unwrap().release().await;
    postgres.end().await;
}

#[tokio::test]
async fn redis_limits_share_the_database() {
    let Some(postgres) = Postgres::start().await else { return };
    let first = take(&postgres, false, LONG).await.unwrap();
    let second = take(&postgres, false, LONG).await.unwrap();
    assert_held(take(&postgres, true, SHORT).await);
    first.release().await;
    assert_held(take(&postgres, true, SHORT).await);
    second.release().await;
    take(&postgres, true, LONG).await.unwrap().release().await;
    postgres.end().await;
}

#[tokio::test]
async fn a_restarted_process_waits_for_its_predecessor() {
    let Some(postgres) = Postgres::start().await else { return };
    let predecessor = take(&postgres, true, LONG).await.unwrap();
    let (successor, ()) = tokio::join!(take(&postgres, true, LONG), async {
        // No promise of the lock: only so that the successor is most often seen waiting.
        tokio::task::yield_now().await;
        drop(predecessor);
    });
    successor.unwrap().release().await;
    postgres.end().await;
}

#[tokio::test]
async fn a_lock_lost_with_its_connection_is_taken_again_or_reported() {
    let Some(postgres) = Postgres::start().await else { return };
    // In vain only once: a session that was ended is gone a moment later.
    let lock = take(&postgres, true, Duration::from_secs(3)).await.unwrap();
    end_lock_sessions(&postgres).await;
    lock.renew().await.unwrap();
    assert_held(take(&postgres, true, SHORT).await);

    // Ended again, and another process is faster this time. Taking waits until the old session is gone.
    end_lock_sessions(&postgres).await;
    let other = take(&postgres, true, LONG).await.unwrap();
    assert_held(lock.renew().await);
    other.release().await;
    lock.renew().await.unwrap();
    lock.release().await;
    postgres.end().await;
}

#[tokio::test]
async fn a_database_that_is_down_is_not_a_held_lock() {
    let down = connect("postgres://someone@127.0.0.1:1/gateway", DatabaseOptions::default()).await.unwrap();
    let refused = limiter_mode_lock(&down, true, SHORT).await.err();
    assert!(matches!(refused, Some(LimiterModeError::Unavailable(_))), "{refused:?}");
}

#[tokio::test]
async fn sqlite_needs_no_lock() {
    let sqlite = Sqlite::start().await.unwrap();
    let first = limiter_mode_lock(sqlite.database(), true, SHORT).await.unwrap();
    let second = limiter_mode_lock(sqlite.database(), true, SHORT).await.unwrap();
    first.renew().await.unwrap();
    second.release().await;
}

async fn take(postgres: &Postgres, exclusive: bool, patience: Duration) -> Result<LimiterModeLock, LimiterModeError> {
    limiter_mode_lock(postgres.database(), exclusive, patience).await
}

async fn end_lock_sessions(postgres: &Postgres) {
    let sessions = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND database =
        (SELECT oid FROM pg_database WHERE datname = current_database())";
    postgres.owner().writer.execute_unprepared(sessions).await.unwrap();
}

fn assert_held<T>(result: Result<T, LimiterModeError>) {
    assert!(matches!(result, Err(LimiterModeError::HeldByAnother)), "{:?}", result.err());
}
