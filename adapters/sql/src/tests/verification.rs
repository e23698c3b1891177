use ai4free_ports::{
    runtime::Timestamp,
    usage_ledger::{UsageLedger, Verification},
};
use sea_orm::ConnectionTrait;

use crate::{
    Database, SqlUsageLedger,
    tests::{
        events::{DAY, THURSDAY, append, event},
        harness::on_both,
    },
};

on_both! {
    each_changed_row_is_found
    what_is_not_asked_about_is_not_compared
    a_page_ends_anywhere
    a_ledger_that_is_wrong_throughout_has_a_bounded_report
}

/// Each of these is a ledger of its own, and the only thing wrong with it.
async fn each_changed_row_is_found(database: &Database) {
    let morning = THURSDAY + 3_600_000_000;
    append(database, vec![event(morning, 1), event(morning, 2), event(morning + DAY, 3)]).await;
    let clean = verify(database, 0, i64::MAX).await;
    assert_eq!((clean.events, clean.sums, clean.differences.len()), (3, 8, 0));

    let holder = "holder=\"s:00000000-0000-0000-0000-00005b001000:1\"";
    let sums = |hour: i64| {
        vec![
            format!("usage_hour key_id=\"k00000000001\" hour={hour} model=\"gpt-x\""),
            format!("usage_user_hour user_id=\"ann\" hour={hour} model=\"gpt-x\""),
            format!("usage_provider_hour hour={hour} provider=\"openai\" credential=\"openai#1\" model=\"gpt-x\""),
        ]
    };
    let first_hour = morning / 3_600_000_000;
    let budget = |day: i64| format!("budget_window scope=\"k:k00000000001\" win={} {holder}", THURSDAY + day * DAY);
    let later = morning + DAY;
    let cases = [
        // A changed cost differs from every sum that it is in.
        (
            format!("UPDATE usage_event SET cost_pico = cost_pico + 1 WHERE admitted_at = {later}"),
            format!("UPDATE usage_event SET cost_pico = cost_pico - 1 WHERE admitted_at = {later}"),
            [sums(first_hour + 24), vec![budget(1)]].concat(),
        ),
        (
            format!("UPDATE usage_event SET output_tokens = 8 WHERE admitted_at = {later}"),
            format!("UPDATE usage_event SET output_tokens = 7 WHERE admitted_at = {later}"),
            sums(first_hour + 24),
        ),
        (
            format!("UPDATE usage_event SET outcome = 2 WHERE admitted_at = {later}"),
            format!("UPDATE usage_event SET outcome = 1 WHERE admitted_at = {later}"),
            sums(first_hour + 24),
        ),
        ("UPDATE usage_hour SET requests = requests + 1".into(), "UPDATE usage_hour SET requests = requests - 1".into(), {
            vec![sums(first_hour).remove(0), sums(first_hour + 24).remove(0)]
        }),
        (
            "CREATE TABLE kept AS SELECT * FROM usage_provider_hour; DELETE FROM usage_provider_hour".into(),
            "INSERT INTO usage_provider_hour SELECT * FROM kept; DROP TABLE kept".into(),
            vec![sums(first_hour).remove(2), sums(first_hour + 24).remove(2)],
        ),
        (
            "CREATE TABLE kept AS SELECT * FROM usage_user_hour; DELETE FROM usage_user_hour".into(),
            "INSERT INTO usage_user_hour SELECT * FROM kept; DROP TABLE kept".into(),
            vec![sums(first_hour).remove(1), sums(first_hour + 24).remove(1)],
        ),
        (
            format!("UPDATE budget_window SET settled_rest = settled_rest + 1 WHERE win = {THURSDAY} AND holder <> '0'"),
            format!("UPDATE budget_window SET settled_rest = settled_rest - 1 WHERE win = {THURSDAY} AND holder <> '0'"),
            vec![budget(0)],
        ),
        (
            "CREATE TABLE kept AS SELECT * FROM budget_window; DELETE FROM budget_window".into(),
            "INSERT INTO budget_window SELECT * FROM kept; DROP TABLE kept".into(),
            vec![budget(0), budget(1)],
        ),
        (
            "CREATE TABLE kept AS SELECT * FROM budget_window WHERE holder <> '0'; DELETE FROM budget_window WHERE holder <> '0'"
                .into(),
            "INSERT INTO budget_window SELECT * FROM kept; DROP TABLE kept".into(),
            vec![budget(0), budget(1)],
        ),
        (
            format!("CREATE TABLE kept AS SELECT * FROM usage_event WHERE admitted_at = {later};
                DELETE FROM usage_event WHERE admitted_at = {later}"),
            "INSERT INTO usage_event SELECT * FROM kept; DROP TABLE kept".into(),
            [sums(first_hour + 24), vec![budget(1)]].concat(),
        ),
        (
            "UPDATE usage_event SET user_id = NULL".into(),
            "UPDATE usage_event SET user_id = 'ann'".into(),
            [first_hour, first_hour + 24]
                .into_iter()
                .flat_map(|hour| [sums(hour).remove(1), sums(hour).remove(1).replace("ann", "")])
                .collect(),
        ),
    ];
    for (change, undo, mut expected) in cases {
        database.writer.execute_unprepared(&change).await.unwrap();
        let found = verify(database, 0, i64::MAX).await;
        let mut names: Vec<String> = found.differences.iter().map(|difference| difference.sum.clone()).collect();
        names.sort();
        expected.sort();
        assert_eq!(names, expected, "{change}");
        assert!(found.differences.iter().all(|difference| difference.stored != difference.expected), "{found:?}");
        database.writer.execute_unprepared(&undo).await.unwrap();
        assert_eq!(verify(database, 0, i64::MAX).await, clean, "{undo}");
    }
}

async fn what_is_not_asked_about_is_not_compared(database: &Database) {
    append(database, (0..30).map(|day| event(THURSDAY + day * DAY, 1)).collect()).await;
    let wrong = THURSDAY + 10 * DAY;
    let change = format!("UPDATE usage_event SET cost_pico = 0 WHERE admitted_at = {wrong}");
    database.writer.execute_unprepared(&change).await.unwrap();
    for (from, to, events, differences) in [
        (0, wrong, 10, 0),
        (wrong, wrong + 1, 1, 4),
        (wrong + DAY - 1, wrong + DAY, 1, 4),
        (wrong + DAY, i64::MAX, 19, 0),
        (0, i64::MAX, 30, 4),
        (THURSDAY, THURSDAY, 0, 0),
        (wrong, 0, 0, 0),
    ] {
        let found = verify(database, from, to).await;
        assert_eq!((found.events, found.differences.len()), (events, differences), "{from} to {to}: {found:?}");
    }
}

/// Requests of three attempts, more than a page of them, in one hour.
async fn a_page_ends_anywhere(database: &Database) {
    for batch in 0..9 {
        let events = (0..100).flat_map(|number| {
            let attempt = move |attempt| ai4free_ports::usage_ledger::UsageEvent {
                attempt,
                ..event(THURSDAY, batch * 100 + number)
            };
            [attempt(1), attempt(2), attempt(3)]
        });
        append(database, events.collect()).await;
    }
    let found = verify(database, THURSDAY, THURSDAY + 1).await;
    assert_eq!((found.events, found.differences), (2700, Vec::new()));
}

async fn a_ledger_that_is_wrong_throughout_has_a_bounded_report(database: &Database) {
    for batch in 0..3 {
        let events = (0..400).map(|number| ai4free_ports::usage_ledger::UsageEvent {
            model: format!("m{number}").into(),
            ..event(THURSDAY + batch * 3_600_000_000, number)
        });
        append(database, events.collect()).await;
    }
    database.writer.execute_unprepared("UPDATE usage_event SET cost_pico = 1").await.unwrap();
    assert_eq!(verify(database, 0, i64::MAX).await.differences.len(), 1000);
}

async fn verify(database: &Database, from: i64, to: i64) -> Verification {
    SqlUsageLedger::new(database.clone()).verify(Timestamp(from), Timestamp(to)).await.unwrap()
}
