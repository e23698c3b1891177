//! What is odd about the providers of the old system, through the variables that it had.

use serde_json::{Value, json};

use crate::support::{
    DONE, Gateway, GatewayBuilder, MockUpstream, Reply, chat, chunk, completion, events, finish, post,
    stream::{event, text_of},
    streamed_chat, usage,
};

fn role() -> String {
    event(&json!([{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": null}]))
}

fn spoken() -> Reply {
    Reply::sse(&[role(), chunk("Hel"), chunk("lo"), finish("stop"), usage(9, 12), DONE.into()])
}

fn numbered(number: u8, upstream: &MockUpstream) -> GatewayBuilder {
    Gateway::builder()
        .set(&format!("PROVIDER_{number}_BASE_URL"), &upstream.url())
        .set(&format!("PROVIDER_{number}_API_KEY"), "its-key")
}

#[tokio::test]
async fn provider_1_has_a_whole_url_no_key_and_only_streams() {
    let upstream =
        MockUpstream::always(Reply::sse(&[role(), chunk("Hel"), chunk("lo"), finish("stop"), DONE.into()])).await;
    let url = format!("http://{}/api/chat?x=1", upstream.address);
    let gateway = Gateway::builder().set("PROVIDER_1_BASE_URL", &url).start().await;
    let key = gateway.key().await;
    let whole =
        gateway.send(&post("/v1/chat/completions", &chat("Provider-1/DeepSeek-R1")).key(&key.text)).await.success();
    assert_eq!(whole["object"], "chat.completion");
    assert_eq!(whole["choices"][0]["message"]["content"], "Hello");
    assert_eq!(whole["choices"][0]["finish_reason"], "stop");
    let streamed =
        gateway.send(&post("/v1/chat/completions", &streamed_chat("Provider-1/DeepSeek-R1")).key(&key.text)).await;
    assert_eq!(text_of(&events(&streamed.body)), "Hello");
    for request in upstream.requests() {
        assert_eq!(request.target, "/api/chat?x=1");
        assert_eq!(request.header("content-type"), Some("text/plain;charset=UTF-8"));
        assert_eq!(request.header("authorization"), None);
        assert!(request.header("user-agent").unwrap().starts_with("Mozilla/5.0"));
        let body = request.json();
        assert_eq!((&body["stream"], &body["model"]), (&json!(true), &json!("deepseek-ai/DeepSeek-R1")));
        assert_eq!(body.get("stream_options"), None);
    }
    let usage = gateway.usage_of(&key, 2).await;
    assert!(usage["output_tokens"].as_u64().unwrap() > 0, "counted here: {usage}");
    gateway.stop().await;
}

#[tokio::test]
async fn provider_2_takes_the_plain_protocol() {
    let upstream = MockUpstream::always(Reply::json(&completion("ok"))).await;
    let gateway = numbered(2, &upstream).start().await;
    let key = gateway.key().await;
    gateway.send(&post("/v1/chat/completions", &chat("Provider-2/gpt-4o")).key(&key.text)).await.success();
    let request = upstream.request(0).await;
    assert_eq!(request.header("authorization"), Some("Bearer its-key"));
    assert_eq!(request.json()["model"], "Provider-2/gpt-4o");
    gateway.stop().await;
}

#[tokio::test]
async fn provider_4_only_streams_and_reports_usage() {
    let upstream = MockUpstream::always(spoken()).await;
    let gateway = numbered(4, &upstream).start().await;
    let key = gateway.key().await;
    let reply =
        gateway.send(&post("/v1/chat/completions", &chat("Provider-4/DeepSeekV3")).key(&key.text)).await.success();
    assert_eq!(reply["choices"][0]["message"]["content"], "Hello");
    assert_eq!(reply["usage"]["total_tokens"], 21);
    assert_eq!(upstream.request(0).await.json()["stream_options"], json!({"include_usage": true}));
    assert_eq!(gateway.usage_of(&key, 1).await["total_tokens"], 21);
    gateway.stop().await;
}

#[tokio::test]
async fn tool_calls_of_a_provider_that_only_streams_are_put_together() {
    let call = |call: Value| event(&json!([{"index": 0, "delta": {"tool_calls": [call]}, "finish_reason": null}]));
    let stream = [
        role(),
        call(json!({"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": "{\"a\""}})),
        call(json!({"index": 0, "function": {"arguments": ":1}"}})),
        finish("tool_calls"),
        DONE.into(),
    ];
    let upstream = MockUpstream::always(Reply::sse(&stream)).await;
    let gateway = numbered(4, &upstream).start().await;
    let key = gateway.key().await;
    let reply =
        gateway.send(&post("/v1/chat/completions", &chat("Provider-4/DeepSeekV3")).key(&key.text)).await.success();
    let calls = &reply["choices"][0]["message"]["tool_calls"];
    assert_eq!(*calls, json!([{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{\"a\":1}"}}]));
    assert_eq!(reply["choices"][0]["finish_reason"], "tool_calls");
    gateway.stop().await;
}

#[tokio::test]
async fn a_stream_that_breaks_while_it_is_put_together_is_a_502() {
    let upstream = MockUpstream::always(Reply::stream().piece(&(role() + &chunk("Hel"))).then_cut()).await;
    let gateway = numbered(4, &upstream).start().await;
    let key = gateway.key().await;
    gateway.send(&post("/v1/chat/completions", &chat("Provider-4/DeepSeekV3")).key(&key.text)).await.error(502);
    assert_eq!(gateway.usage_of(&key, 1).await["failed_requests"], 1);
    gateway.stop().await;
}

#[tokio::test]
async fn provider_7_rotates_its_keys_on_the_statuses_that_it_is_told() {
    let upstream = MockUpstream::start().await;
    upstream.otherwise(|request| match request.header("authorization") {
        Some("Bearer a") => Reply::error(500, &json!({})),
        Some("Bearer b") => Reply::error(418, &json!({})),
        _ => Reply::json(&completion("ok")),
    });
    let gateway = Gateway::builder()
        .set("PROVIDER_7_BASE_URL", &upstream.url())
        .set("PROVIDER_7_API_KEYS", r#"["a","b","c"]"#)
        .set("PROVIDER_7_ERROR_CODES", "[500, 418]")
        .start()
        .await;
    let key = gateway.key().await;
    gateway.send(&post("/v1/chat/completions", &chat("Provider-7/gpt-4o")).key(&key.text)).await.success();
    assert_eq!(upstream.request_count(), 3);
    gateway.stop().await;
}

#[tokio::test]
async fn provider_7_rotates_on_every_failure_with_a_star_and_on_none_without_codes() {
    for (codes, status, attempts) in [(Some(r#"["*"]"#), 500, 2), (None, 500, 1), (Some("[503]"), 500, 1)] {
        let upstream = MockUpstream::always(Reply::error(status, &json!({}))).await;
        let mut builder =
            Gateway::builder().set("PROVIDER_7_BASE_URL", &upstream.url()).set("PROVIDER_7_API_KEYS", r#"["a","b"]"#);
        if let Some(codes) = codes {
            builder = builder.set("PROVIDER_7_ERROR_CODES", codes);
        }
        let gateway = builder.start().await;
        let key = gateway.key().await;
        gateway.send(&post("/v1/chat/completions", &chat("Provider-7/gpt-4o")).key(&key.text)).await.error(502);
        assert_eq!(upstream.request_count(), attempts, "{codes:?}");
        gateway.stop().await;
    }
}

#[tokio::test]
async fn provider_8_serves_ids_with_a_colon() {
    let upstream = MockUpstream::always(Reply::json(&completion("ok"))).await;
    let gateway = numbered(8, &upstream).start().await;
    let key = gateway.key().await;
    let body = chat("Provider-8/llama-4-maverick:free");
    gateway.send(&post("/v1/chat/completions", &body).key(&key.text)).await.success();
    assert_eq!(upstream.request(0).await.json()["model"], "meta-llama/llama-4-maverick:free");
    let usage = gateway.usage_of(&key, 1).await;
    assert_eq!((&usage["total_cost"], &usage["total_tokens"]), (&json!("0"), &json!(21)));
    gateway.stop().await;
}

#[tokio::test]
async fn provider_9_is_azure() {
    let upstream = MockUpstream::always(Reply::json(&completion("ok"))).await;
    let gateway = Gateway::builder()
        .set("AZURE_ENDPOINT", &format!("http://{}/", upstream.address))
        .set("AZURE_API_KEY", "azure-key")
        .set("AZURE_API_VERSION", "2025-01-01-preview")
        .start()
        .await;
    let key = gateway.key().await;
    let mut body = chat("Provider-9/o4-mini");
    body["max_tokens"] = json!(100);
    gateway.send(&post("/v1/chat/completions", &body).key(&key.text)).await.success();
    let request = upstream.request(0).await;
    assert_eq!(request.target, "/openai/deployments/o4-mini/chat/completions?api-version=2025-01-01-preview");
    assert_eq!((request.header("api-key"), request.header("authorization")), (Some("azure-key"), None));
    let sent = request.json();
    assert_eq!((&sent["max_completion_tokens"], sent.get("max_tokens")), (&json!(100), None));
    gateway.stop().await;
}

#[tokio::test]
async fn azure_prompt_filter_events_are_dropped() {
    let filter = "data: {\"choices\":[],\"created\":0,\"id\":\"\",\"model\":\"\",\"object\":\"\",\"prompt_filter_results\":[]}\n\n";
    let upstream =
        MockUpstream::always(Reply::sse(&[filter.into(), role(), chunk("Hello"), finish("stop"), DONE.into()])).await;
    let gateway = Gateway::builder()
        .set("AZURE_OPENAI_ENDPOINT", &format!("http://{}", upstream.address))
        .set("AZURE_OPENAI_API_KEY", "azure-key")
        .start()
        .await;
    let key = gateway.key().await;
    let response =
        gateway.send(&post("/v1/chat/completions", &streamed_chat("azure/my-deployment")).key(&key.text)).await;
    let events = events(&response.body);
    assert_eq!((events.len(), text_of(&events)), (4, "Hello".to_owned()), "{events:?}");
    let target = upstream.request(0).await.target;
    assert_eq!(target, "/openai/deployments/my-deployment/chat/completions?api-version=2024-10-21");
    gateway.stop().await;
}

#[tokio::test]
async fn a_model_with_two_providers_goes_on_to_the_second_when_the_first_is_not_there() {
    let gone = MockUpstream::start().await.url();
    let upstream = MockUpstream::always(Reply::json(&completion("ok"))).await;
    let models = json!({"version": 1, "price_version": 1, "models": [{
        "id": "both", "kind": "chat", "owned_by": "me",
        "targets": [{"provider": "Provider-2", "model": "first"}, {"provider": "Provider-8", "model": "second"}],
        "price": {"input": 1_000_000, "output": 1_000_000}
    }]});
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("models.json");
    std::fs::write(&file, models.to_string()).unwrap();
    let gateway = Gateway::builder()
        .toml(&format!("[catalogue]\nmodels = [{:?}]", file.to_str().unwrap()))
        .set("PROVIDER_2_BASE_URL", &gone)
        .set("PROVIDER_2_API_KEY", "two")
        .set("PROVIDER_8_BASE_URL", &upstream.url())
        .set("PROVIDER_8_API_KEY", "eight")
        .start()
        .await;
    let key = gateway.key().await;
    for _ in 0..2 {
        gateway.send(&post("/v1/chat/completions", &chat("both")).key(&key.text)).await.success();
    }
    assert_eq!(upstream.request(0).await.json()["model"], "second");
    let usage = gateway.usage_of(&key, 2).await;
    assert_eq!((&usage["successful_requests"], &usage["total_cost"]), (&json!(2), &json!("0.000042")));
    gateway.stop().await;
}
