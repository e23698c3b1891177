//! The ledger as a client sees it.

use futures_util::future::join_all;
use serde_json::json;

use crate::support::{
    Gateway, MockUpstream, Reply, chat, completion, get, post,
    stores::{uses_postgres, uses_redis},
};

#[tokio::test]
async fn a_report_has_totals_models_and_days() {
    let upstream = MockUpstream::start().await;
    let gateway = Gateway::before(&upstream).await;
    let key = gateway.key().await;
    upstream.answer(Reply::json(&completion("ok")));
    upstream.answer(Reply::error(500, &json!({})));
    for model in ["gpt-4o", "gpt-4o", "local/echo"] {
        gateway.send(&post("/v1/chat/completions", &chat(model)).key(&key.text)).await;
    }
    let usage = gateway.usage_of(&key, 3).await;
    assert_eq!((&usage["object"], &usage["key_id"]), (&json!("usage"), &json!(key.id)));
    assert_eq!(
        [&usage["successful_requests"], &usage["failed_requests"], &usage["cancelled_requests"]],
        [&json!(2), &json!(1), &json!(0)]
    );
    // "Hello!" is 6 bytes: 2 tokens in and out, at a dollar a million.
    assert_eq!((&usage["input_tokens"], &usage["output_tokens"]), (&json!(11), &json!(14)));
    assert_eq!((&usage["total_cost"], &usage["currency"]), (&json!("0.0001465"), &json!("USD")));
    assert_eq!(usage["success_rate"], 66.67);
    let models = usage["model_usage"].as_object().unwrap();
    assert_eq!(models["gpt-4o"]["total_requests"], 2);
    assert_eq!(models["gpt-4o"]["failed_requests"], 1);
    assert_eq!(models["local/echo"]["cost"], "0.000004");
    let days = usage["days"].as_array().unwrap();
    assert_eq!(days.iter().map(|day| day["total_requests"].as_u64().unwrap()).sum::<u64>(), 3);
    gateway.stop().await;
}

#[tokio::test]
async fn the_old_forms_answer_the_same() {
    let gateway = Gateway::start().await;
    let key = gateway.key().await;
    gateway.send(&post("/v1/chat/completions", &chat("local/echo")).key(&key.text)).await.success();
    let expected = gateway.usage_of(&key, 1).await;
    let in_body = json!({"api_key": key.text});
    for request in [
        post("/v1/usage", &in_body),
        post("/usage", &in_body),
        post("/v1/usage", &json!({})).key(&key.text),
        post("/v1/usage", &json!({})).body("").without_header("content-type").key(&key.text),
        get("/usage").key(&key.text),
    ] {
        assert_eq!(gateway.send(&request).await.success(), expected);
    }
    for request in [
        get("/v1/usage"),
        get("/usage"),
        post("/v1/usage", &json!({})),
        post("/v1/usage", &json!({"api_key": "sk-a4f-wrong"})),
    ] {
        assert_eq!(gateway.send(&request).await.error(401)["code"], "invalid_api_key");
    }
    assert_eq!(gateway.send(&post("/v1/usage", &json!({"key": "x"}))).await.error(400)["param"], "key");
    gateway.stop().await;
}

#[tokio::test]
async fn a_report_may_be_of_a_time() {
    let gateway = Gateway::start().await;
    let key = gateway.key().await;
    gateway.send(&post("/v1/chat/completions", &chat("local/echo")).key(&key.text)).await.success();
    gateway.usage_of(&key, 1).await;
    let total = async |query: &str| {
        let request = get(&format!("/v1/usage?{query}")).key(&key.text);
        gateway.send(&request).await.success()["total_requests"].as_u64().unwrap()
    };
    assert_eq!(total("from=2020-01-01").await, 1);
    assert_eq!(total("from=0&to=4000000000").await, 1);
    assert_eq!(total("to=2020-01-01T00:00:00Z").await, 0);
    assert_eq!(total("from=4000000000&to=4000003600").await, 0);
    for (query, param) in [("from=yesterday", "from"), ("to=2020-13-01", "to"), ("from=", "from")] {
        let error = gateway.send(&get(&format!("/v1/usage?{query}")).key(&key.text)).await.error(400);
        assert_eq!(error["param"], param);
    }
    gateway.stop().await;
}

#[tokio::test]
async fn what_is_younger_than_the_retention_stays() {
    let mut gateway = Gateway::builder().set("AI4FREE__USAGE__RETENTION_DAYS", "1").start().await;
    let key = gateway.key().await;
    gateway.send(&post("/v1/chat/completions", &chat("local/echo")).key(&key.text)).await.success();
    gateway.usage_of(&key, 1).await;
    // Again, right at the start.
    gateway.crash();
    let gateway = gateway.again().await;
    let (code, verified) = gateway.command("ledger verify");
    assert_eq!((code, &verified["events"]), (Some(0), &json!(1)), "{verified}");
    assert_eq!(gateway.usage(&key).await["total_requests"], 1);
    gateway.stop().await;
}

#[tokio::test]
async fn a_key_sees_its_own_usage_only() {
    let gateway = Gateway::start().await;
    let (one, other) = (gateway.key().await, gateway.key().await);
    gateway.send(&post("/v1/chat/completions", &chat("local/echo")).key(&one.text)).await.success();
    gateway.usage_of(&one, 1).await;
    assert_eq!(gateway.usage(&other).await["total_requests"], 0);
    gateway.stop().await;
}

#[tokio::test]
async fn a_report_that_is_asked_for_right_after_an_answer_has_it() {
    let gateway = Gateway::start().await;
    let key = gateway.key().await;
    let mut at_once = 0;
    for requests in 1..=20_u64 {
        gateway.send(&post("/v1/chat/completions", &chat("local/echo")).key(&key.text)).await.success();
        at_once += u64::from(gateway.usage(&key).await["total_requests"] == requests);
        gateway.usage_of(&key, requests).await;
    }
    // A report waits for what has just ended, and not for ever: a busy machine may need longer now and then.
    assert!(at_once >= 10, "{at_once} of 20");
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_keys_at_once_are_charged_for_exactly_what_they_asked() {
    const KEYS: usize = 100;
    let each = if uses_postgres() || uses_redis() { 20 } else { 50 };
    let gateway = Gateway::start().await;
    let mut keys = Vec::new();
    for _ in 0..KEYS {
        let key = gateway.key().await;
        // Known to the process before many ask at once: what a slow store of keys does is not what this is about.
        gateway.usage(&key).await;
        keys.push(key);
    }
    let started = std::time::Instant::now();
    for batch in keys.chunks(4) {
        // Every key of the batch has all its requests in flight at once.
        let requests = batch.iter().flat_map(|key| (0..each).map(move |_| key)).map(|key| async {
            let request = post("/v1/chat/completions", &chat("local/echo")).key(&key.text);
            gateway.send(&request).await.success();
        });
        join_all(requests).await;
    }
    println!("{} requests took {:?}", KEYS * each, started.elapsed());
    for key in &keys {
        let usage = gateway.usage_of(key, each as u64).await;
        assert_eq!(usage["successful_requests"], each);
        assert_eq!(usage["total_tokens"], 4 * each);
        assert_eq!(usage["total_cost"], if each == 50 { "0.0002" } else { "0.00008" });
    }
    gateway.stop().await;
}
