//! `/v1/uptime/{model}`.

use futures_util::future::join_all;
use serde_json::json;

use crate::support::{DONE, Gate, Gateway, MockUpstream, Reply, chunk, finish, get, stream::event, usage};

fn alive() -> Reply {
    let role = event(&json!([{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": null}]));
    Reply::sse(&[role, chunk("pong"), finish("stop"), usage(8, 1), DONE.into()])
}

#[tokio::test]
async fn one_check_answers_everybody_and_is_charged_to_nobody_of_them() {
    let gate = Gate::closed();
    let upstream = MockUpstream::always(Reply::default().wait(&gate).followed_by(alive())).await;
    let gateway = Gateway::before(&upstream).await;
    let key = gateway.key_with(json!({"limits": {"requests_per_minute": 1}})).await;
    let request = get("/v1/uptime/gpt-4o").key(&key.text);
    let opened = async {
        upstream.request(0).await;
        gate.open();
    };
    let (responses, ()) = tokio::join!(join_all((0..20).map(|_| gateway.send(&request))), opened);
    for response in responses {
        let up = response.success();
        assert_eq!((&up["status"], &up["model"]), (&json!("200 OK"), &json!("gpt-4o")));
        assert!(up["checked_at"].is_i64() && up["first_token_ms"].is_u64() && up["cached"].is_boolean(), "{up}");
    }
    assert_eq!(gateway.send(&request).await.success()["cached"], true);
    assert_eq!(upstream.request_count(), 1);
    let sent = upstream.request(0).await.json();
    assert_eq!((&sent["stream"], &sent["model"]), (&json!(true), &json!("gpt-4o")));
    assert_eq!(gateway.usage(&key).await["total_requests"], 0);
    gateway.stop().await;
}

#[tokio::test]
async fn a_model_that_does_not_answer_is_a_503_that_is_shared_too() {
    for reply in [Reply::error(500, &json!({})), Reply::sse(&[DONE.into()]), Reply::hang_up()] {
        let upstream = MockUpstream::always(reply).await;
        let gateway = Gateway::before(&upstream).await;
        let key = gateway.key().await;
        for _ in 0..2 {
            let response = gateway.send(&get("/v1/uptime/gpt-4o").key(&key.text)).await;
            assert_eq!(response.error(503)["code"], "model_unavailable");
            assert!(response.retry_after().is_some());
        }
        assert_eq!(upstream.request_count(), 1);
        gateway.stop().await;
    }
}

#[tokio::test]
async fn ids_have_slashes_and_colons_here_too() {
    let upstream = MockUpstream::always(alive()).await;
    let gateway =
        Gateway::builder().set("PROVIDER_8_BASE_URL", &upstream.url()).set("PROVIDER_8_API_KEY", "eight").start().await;
    let key = gateway.key().await;
    for path in ["Provider-8/llama-4-maverick:free", "Provider-8%2Fllama-4-maverick%3Afree"] {
        let up = gateway.send(&get(&format!("/v1/uptime/{path}")).key(&key.text)).await.success();
        assert_eq!(up["model"], "Provider-8/llama-4-maverick:free");
    }
    assert_eq!(upstream.request_count(), 1);
    gateway.send(&get("/v1/uptime/local/echo").key(&key.text)).await.success();
    gateway.stop().await;
}

#[tokio::test]
async fn who_may_not_ask_is_told_so() {
    let gateway = Gateway::start().await;
    let key = gateway.key_with(json!({"models": ["Provider-5/*"]})).await;
    gateway.send(&get("/v1/uptime/local/echo")).await.error(401);
    gateway.send(&get("/v1/uptime/local/echo").key(&key.text)).await.error(403);
    gateway.send(&get("/v1/uptime/nothing").key(&key.text)).await.error(404);
    gateway.send(&get("/v1/uptime/Provider-5/flux-pro").key(&key.text)).await.error(400);
    gateway.stop().await;
}
