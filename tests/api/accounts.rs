//! What Redis has counted of budgets is what the ledger has, and follows it.

use std::time::Duration;

use serde_json::json;
use tokio::{task::JoinSet, time::sleep};

use crate::support::{Gateway, Key, Request, chat, post, stores::uses_redis};

/// "Hello!" is 2 tokens in and out, and `local/echo` costs a dollar a million: it can cost no more than it does, $0.000004.
fn echo(key: &Key) -> Request {
    let mut body = chat("local/echo");
    body["max_tokens"] = json!(2);
    post("/v1/chat/completions", &body).key(&key.text)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_line_compares_and_corrects_what_redis_has_counted() {
    if !uses_redis() {
        return;
    }
    let closed = |name, amount| {
        format!(
            "[plans.{name}]\nbudget = {{ amount_usd = \"{amount}\", window = \"month\", on_redis_down = \"closed\" }}\n"
        )
    };
    let plans = [closed("narrow", "0.00001"), closed("wide", "1")].concat();
    let gateway = Gateway::builder().toml(&plans).start().await;
    let verify = || {
        let (code, verified) = gateway.command("ledger verify");
        (code, verified["differences"].as_array().unwrap().clone(), verified["redis"].clone())
    };
    let fine = |budgets: u64| (Some(0), Vec::new(), json!({"budgets": budgets, "undecided": 0}));
    let key = gateway.key_with(json!({"plan": "narrow"})).await;
    gateway.decided(&echo(&key)).await.success();
    gateway.usage_of(&key, 1).await;
    assert_eq!(verify(), fine(1));

    // Twice the price, of which the gateway hears nothing: what is left of its budget is less all the same, at once.
    let models = json!({"version": 1, "price_version": 7, "models": [{"id": "local/echo", "price": {"input": 2_000_000, "output": 2_000_000}}]});
    std::fs::write(gateway.home().join("models.json"), models.to_string()).unwrap();
    std::fs::write(gateway.home().join("ai4free.toml"), format!("{plans}[catalogue]\nmodels = [\"models.json\"]"))
        .unwrap();
    for adjusted in [1, 0] {
        let (code, applied) = gateway.command("ledger reprice --all --yes");
        assert_eq!((code, &applied["total"]["adjusted"]), (Some(0), &json!(adjusted)), "{applied}");
    }
    let refused = gateway.decided(&echo(&key)).await;
    let error = refused.error(429);
    assert_eq!(error["code"], "insufficient_quota");
    let told = error["message"].as_str().unwrap();
    assert!(told.contains("$0.000002 of $0.00001 remain (settled $0.000008, reserved $0, resets at "), "{told}");
    assert_eq!(verify(), fine(1));

    // While others are served.
    let busy = gateway.key_with(json!({"plan": "wide"})).await;
    gateway.decided(&echo(&busy)).await.success();
    let (request, address) = (echo(&busy), gateway.address);
    let mut lanes = JoinSet::new();
    for _ in 0..3 {
        let request = request.clone();
        lanes.spawn(async move {
            loop {
                request.send(address).await;
                sleep(Duration::from_millis(20)).await;
            }
        });
    }
    assert_eq!(tokio::task::block_in_place(verify), fine(2));
    lanes.shutdown().await;

    let drift =
        "for _, key in ipairs(redis.call('KEYS', ARGV[1])) do redis.call('HINCRBY', key, 'uh', -1) end return 'ok'";
    let of_narrow = format!("{{}}:0:m:*:key:{}:*", key.id);
    assert_eq!(gateway.redis(&["EVAL", drift, "0", &of_narrow]).await, "$2");
    let (code, differences, _) = verify();
    assert_eq!((code, differences.len()), (Some(1), 1), "{differences:?}");
    assert_eq!(
        (&differences[0]["stored"], &differences[0]["expected"]),
        (&json!("0.000007 USD"), &json!("0.000008 USD"))
    );
    assert!(differences[0]["sum"].as_str().unwrap().starts_with(&format!("limiter budget scope=\"k:{}\"", key.id)));
    gateway.stop().await;
}
