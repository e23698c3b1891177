//! A disk that takes nothing more. `RLIMIT_FSIZE` stands in for a full one: every write to a file fails, and raises a signal that
//! ends a process which does not expect it.

use std::time::Duration;

use serde_json::json;

use crate::support::{
    DONE, Gate, Gateway, MockUpstream, Reply, chat, chunk, completion, events, eventually, finish, get, post,
    streamed_chat, usage,
};

const UNWRITTEN: &str = "ai4free_spool_unwritten_requests";

async fn metric(gateway: &Gateway, name: &str) -> u64 {
    let metrics = get("/metrics").send(gateway.admin_address().unwrap()).await.text();
    let value = metrics.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    value.unwrap_or_else(|| panic!("no {name} in {metrics}"))
}

#[tokio::test]
async fn without_room_for_usage_nothing_is_sent_and_nothing_that_was_sent_is_lost() {
    let gate = Gate::closed();
    let upstream = MockUpstream::start().await;
    let gateway = Gateway::builder().openai(&upstream).set("AI4FREE__ADMIN__LISTEN", "127.0.0.1:0").start().await;
    let key = gateway.key().await;
    let request = post("/v1/chat/completions", &chat("gpt-4o")).key(&key.text);
    upstream.answer(Reply::json(&completion("ok")));
    gateway.send(&request).await.success();
    gateway.usage_of(&key, 1).await;
    let rest = finish("stop") + &usage(9, 12) + DONE;
    upstream.answer(Reply::stream().piece(&chunk("Hello there.")).wait(&gate).piece(&rest).end());
    let mut exchange = gateway.open(&post("/v1/chat/completions", &streamed_chat("gpt-4o")).key(&key.text)).await;
    let mut read = exchange.until("there.").await;

    gateway.limit_file_size(Some(0));
    for _ in 0..5 {
        let refused = gateway.send(&request).await;
        assert_eq!(refused.error(503)["code"], "accounting_unavailable");
        assert!(refused.retry_after().is_some_and(|after| after >= Duration::from_secs(1)), "{:?}", refused.headers);
    }
    let unready = gateway.send(&get("/readyz")).await;
    assert_eq!((unready.status, &unready.json()["reasons"]), (503, &json!(["spool"])));
    gateway.send(&get("/livez")).await.success();
    gate.open();
    read.push_str(&exchange.whole().await.text());
    assert_eq!(events(read.as_bytes()).last().unwrap(), "[DONE]");
    assert_eq!(metric(&gateway, UNWRITTEN).await, 1);
    assert_eq!(upstream.request_count(), 2, "no request that can't be charged is sent");

    gateway.limit_file_size(None);
    eventually("readiness to return, although nobody asks for anything", || async {
        (gateway.send(&get("/readyz")).await.status == 200).then_some(())
    })
    .await;
    assert_eq!(gateway.usage_of(&key, 2).await["successful_requests"], 2);
    assert_eq!(metric(&gateway, UNWRITTEN).await, 0);
    upstream.answer(Reply::json(&completion("ok")));
    gateway.send(&request).await.success();
    assert_eq!(gateway.usage_of(&key, 3).await["successful_requests"], 3);
    gateway.stop_after_trouble().await;
}

#[tokio::test]
async fn a_process_that_dies_on_a_full_disk_has_charged_all_that_it_sent() {
    let upstream = MockUpstream::start().await;
    let gate = Gate::closed();
    let mut gateway = Gateway::before(&upstream).await;
    let key = gateway.key().await;
    let request = post("/v1/chat/completions", &chat("gpt-4o")).key(&key.text);
    upstream.answer(Reply::json(&completion("ok")));
    gateway.send(&request).await.success();
    gateway.usage_of(&key, 1).await;
    let rest = finish("stop") + &usage(9, 12) + DONE;
    upstream.answer(Reply::stream().piece(&chunk("Hello there.")).wait(&gate).piece(&rest).end());
    let mut exchange = gateway.open(&post("/v1/chat/completions", &streamed_chat("gpt-4o")).key(&key.text)).await;
    exchange.until("there.").await;
    gateway.limit_file_size(Some(0));
    gate.open();
    exchange.whole().await;
    assert_eq!(gateway.send(&request).await.error(503)["code"], "accounting_unavailable");
    gateway.crash();

    let gateway = gateway.again().await;
    let usage = gateway.usage_of(&key, 2).await;
    assert_eq!(usage["failed_requests"], 1, "its end was not written, its beginning was: {usage}");
    assert_eq!(upstream.request_count(), 2);
    gateway.stop().await;
}

#[tokio::test]
async fn whoever_prefers_it_is_served_without_a_row_and_it_is_loud() {
    let upstream = MockUpstream::start().await;
    let builder = Gateway::builder().openai(&upstream).set("AI4FREE__ADMIN__LISTEN", "127.0.0.1:0");
    let gateway = builder.toml("[usage]\nwhen_full = \"allow_unmetered\"").start().await;
    let budget = json!({"budget": {"amount_usd": "100", "window": "total"}});
    let (key, with_budget) = (gateway.key().await, gateway.key_with(budget).await);
    let ask = |key: &str| post("/v1/chat/completions", &chat("gpt-4o")).key(key);
    for key in [&key, &with_budget] {
        upstream.answer(Reply::json(&completion("ok")));
        let served = gateway.send(&ask(&key.text)).await;
        served.success();
        assert_eq!(served.header("x-ai4free-degraded"), None);
        gateway.usage_of(key, 1).await;
    }
    gateway.limit_file_size(Some(0));
    for number in 1..=3 {
        upstream.answer(Reply::json(&completion("ok")));
        let served = gateway.send(&ask(&key.text)).await;
        served.success();
        assert_eq!(served.header("x-ai4free-degraded"), Some("accounting"));
        assert_eq!(metric(&gateway, "ai4free_unmetered_requests_total").await, number);
        assert_eq!(gateway.send(&ask(&with_budget.text)).await.error(503)["code"], "accounting_unavailable");
    }
    assert_eq!(upstream.request_count(), 5, "what spends of a budget is not sent");
    let ready = gateway.send(&get("/readyz")).await;
    assert_eq!((ready.status, &ready.json()["degraded"]), (200, &json!(["spool"])));

    gateway.limit_file_size(None);
    eventually("the journal to take requests again", || async {
        (gateway.send(&get("/readyz")).await.json()["degraded"].is_null()).then_some(())
    })
    .await;
    upstream.answer(Reply::json(&completion("ok")));
    let served = gateway.send(&ask(&key.text)).await;
    served.success();
    assert_eq!(served.header("x-ai4free-degraded"), None);
    gateway.usage_of(&key, 2).await; // those that were served meanwhile have no row
    gateway.stop_after_trouble().await;
}

/// SQLite ends a transaction by itself when its file can't be written. What is acknowledged afterwards has to be in the file.
#[tokio::test]
async fn a_database_that_could_not_be_written_once_is_written_again() {
    let upstream = MockUpstream::start().await;
    let mut gateway = Gateway::before(&upstream).await;
    let key = gateway.key().await;
    let log = gateway.data_dir().join("ai4free.db-wal");
    let request = post("/v1/chat/completions", &chat("gpt-4o")).key(&key.text);
    upstream.answer(Reply::json(&completion("ok")));
    gateway.send(&request).await.success();
    gateway.usage_of(&key, 1).await;
    let Ok(written) = std::fs::metadata(&log) else { return gateway.stop().await }; // it is not SQLite
    // The journal, which is shorter, still has room.
    gateway.limit_file_size(Some(written.len()));
    for _ in 0..3 {
        upstream.answer(Reply::json(&completion("ok")));
        gateway.send(&request).await.success();
    }
    eventually("an error of the ledger", || async { gateway.stderr().contains("can't be brought").then_some(()) })
        .await;
    gateway.limit_file_size(None);
    gateway.usage_of(&key, 4).await;
    gateway.crash();
    let gateway = gateway.again().await;
    gateway.usage_of(&key, 4).await;
    gateway.stop_after_trouble().await;
}
