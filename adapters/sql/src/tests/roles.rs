use sea_orm::ConnectionTrait;

use crate::{
    failure::sql_state,
    tests::harness::{Postgres, TestDatabase},
};

/// What it may do is enough: the contracts run as this role.
#[tokio::test]
async fn the_role_that_serves_can_neither_rewrite_the_ledger_nor_change_the_schema() {
    const INSUFFICIENT_PRIVILEGE: &str = "42501";
    let Some(postgres) = Postgres::start().await else { return };
    for forbidden in [
        "UPDATE usage_event SET cost_pico = 0",
        "DELETE FROM usage_event",
        "TRUNCATE usage_event",
        "DELETE FROM usage_hour",
        "DELETE FROM usage_provider_hour",
        "DELETE FROM budget_window",
        "UPDATE usage_retention SET first_day = 0",
        "ALTER TABLE usage_event DETACH PARTITION usage_event_20250612",
        "DROP TABLE usage_event",
        "CREATE TABLE anything (id int)",
    ] {
        let refused = postgres.database().writer.execute_unprepared(forbidden).await.expect_err(forbidden);
        assert_eq!(sql_state(&refused).as_deref(), Some(INSUFFICIENT_PRIVILEGE), "{forbidden}: {refused}");
    }
    postgres.end().await;
}
