//! Whole completions: what reaches the provider, what comes back, what is charged.

use serde_json::json;

use crate::support::{Gateway, MockUpstream, Reply, chat, completion, get, post, streamed_chat};

#[tokio::test]
async fn a_request_reaches_the_provider_byte_for_byte_but_for_the_model() {
    let upstream = MockUpstream::always(Reply::json(&completion("ok"))).await;
    let gateway = Gateway::before(&upstream).await;
    let key = gateway.key().await;
    let body = |model: &str| {
        format!(
            "{{ \"seed\": 9007199254740993123 ,\n\t\"model\":\"{model}\",\"temperature\":1.0,\"top_p\" : 1e0,\"stop\":null,\
             \"messages\":[{{\"role\":\"user\",\"content\":\"caf\\u00e9 \\ud83d\\ude00 \\u0041 é\",\"name\":null}},\
             {{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{{\"id\":\"c\",\"type\":\"function\",\
             \"function\":{{\"name\":\"f\",\"arguments\":\"{{not json\"}}}}]}}],\
             \"x_unknown\":{{\"b\":1.10,\"a\":[],\"a\":0}},\"logit_bias\":{{}},\"n\":1}}"
        )
    };
    let request = post("/v1/chat/completions", &json!(0)).body(body("openai/gpt-4o")).key(&key.text);
    gateway.send(&request).await.success();
    assert_eq!(upstream.request(0).await.text(), body("gpt-4o"));
    gateway.stop().await;
}

#[tokio::test]
async fn a_reply_comes_back_byte_for_byte() {
    let body = "{\"id\":\"x\",\"object\":\"chat.completion\",\"created\":1,\"model\":\"gpt-4o-2024-08-06\",\"choices\":[\
                {\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"caf\\u00e9 \\ud83d\\ude00\",\
                \"x_extra\":1.0},\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":12,\
                \"total_tokens\":21,\"x_detail\":null},\"x_large\":9007199254740993123}";
    let upstream = MockUpstream::always(Reply::whole(200, "application/json", body)).await;
    let gateway = Gateway::before(&upstream).await;
    let key = gateway.key().await;
    let response = gateway.send(&post("/v1/chat/completions", &chat("gpt-4o")).key(&key.text)).await;
    assert_eq!((response.status, response.text().as_str()), (200, body));
    assert_eq!(response.header("content-type"), Some("application/json; charset=utf-8"));
    gateway.stop().await;
}

#[tokio::test]
async fn choices_tool_calls_and_log_probabilities_come_back_as_they_are() {
    let mut whole = completion("one");
    whole["choices"] = json!([
        {"index": 0, "message": {"role": "assistant", "content": "one", "refusal": null}, "finish_reason": "stop",
         "logprobs": {"content": [{"token": "one", "logprob": -0.25, "bytes": [111], "top_logprobs": []}], "refusal": null}},
        {"index": 1, "message": {"role": "assistant", "content": null, "refusal": null, "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{\"city\":\"Paris\"}"}}]},
         "logprobs": null, "finish_reason": "tool_calls"}
    ]);
    let upstream = MockUpstream::always(Reply::json(&whole)).await;
    let gateway = Gateway::before(&upstream).await;
    let key = gateway.key().await;
    let mut body = chat("gpt-4o");
    body["n"] = json!(2);
    body["logprobs"] = json!(true);
    body["tools"] = json!([{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]);
    let response = gateway.send(&post("/v1/chat/completions", &body).key(&key.text)).await;
    assert_eq!(response.success(), whole);
    assert_eq!(upstream.request(0).await.json(), body);
    gateway.stop().await;
}

#[tokio::test]
async fn a_provider_sees_its_own_credential_and_nothing_of_the_clients_headers() {
    let upstream = MockUpstream::always(Reply::json(&completion("ok"))).await;
    let gateway = Gateway::before(&upstream).await;
    let key = gateway.key().await;
    let request = post("/v1/chat/completions", &chat("gpt-4o"))
        .key(&key.text)
        .header("cookie", "session=1")
        .header("x-forwarded-for", "10.1.2.3")
        .header("x-stainless-lang", "python")
        .header("openai-organization", "org-1")
        .header("x-api-key", "other");
    gateway.send(&request).await.success();
    let request = upstream.request(0).await;
    assert_eq!((request.method.as_str(), request.target.as_str()), ("POST", "/v1/chat/completions"));
    let mut names: Vec<&str> = request.headers.iter().map(|(name, _)| &**name).collect();
    names.sort_unstable();
    assert_eq!(names, ["accept", "authorization", "content-length", "content-type", "host", "user-agent"]);
    assert_eq!(request.header("authorization"), Some("Bearer provider-key-1"));
    assert_eq!(request.header("host").unwrap(), upstream.address.to_string());
    gateway.stop().await;
}

#[tokio::test]
async fn nothing_of_a_providers_headers_reaches_the_client() {
    let body = completion("ok").to_string();
    let headers = [
        ("content-type", "application/json"),
        ("set-cookie", "a=b"),
        ("x-request-id", "theirs"),
        ("openai-organization", "org-of-the-operator"),
        ("x-ratelimit-remaining-requests", "12345"),
        ("server", "upstream"),
    ];
    let upstream = MockUpstream::always(Reply::with_headers(200, &headers, body)).await;
    let gateway = Gateway::before(&upstream).await;
    let key = gateway.key().await;
    let response = gateway.send(&post("/v1/chat/completions", &chat("gpt-4o")).key(&key.text)).await;
    response.success();
    for name in ["set-cookie", "openai-organization", "x-ratelimit-remaining-requests", "server"] {
        assert_eq!(response.header(name), None, "{name}");
    }
    assert!(response.header("x-request-id").unwrap().starts_with("req_"));
    gateway.stop().await;
}

#[tokio::test]
async fn what_a_provider_reports_is_charged_at_the_models_prices() {
    let mut whole = completion("ok");
    whole["usage"] = json!({
        "prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150,
        "prompt_tokens_details": {"cached_tokens": 40}, "completion_tokens_details": {"reasoning_tokens": 20}
    });
    let upstream = MockUpstream::always(Reply::json(&whole)).await;
    let gateway = Gateway::before(&upstream).await;
    let key = gateway.key().await;
    gateway.send(&post("/v1/chat/completions", &chat("gpt-4o")).key(&key.text)).await.success();
    let usage = gateway.usage_of(&key, 1).await;
    assert_eq!((&usage["input_tokens"], &usage["output_tokens"]), (&json!(100), &json!(50)));
    // 60 × 2.5 + 40 × 1.25 + 50 × 10 millionths of a dollar.
    assert_eq!(usage["total_cost"], "0.0007");
    assert_eq!(usage["successful_requests"], 1);
    assert_eq!(usage["model_usage"]["gpt-4o"]["cost"], "0.0007");
    gateway.stop().await;
}

#[tokio::test]
async fn a_reply_without_usage_is_counted_here() {
    let mut whole = completion("Hello there, how can I help you today?");
    whole.as_object_mut().unwrap().remove("usage");
    let upstream = MockUpstream::always(Reply::json(&whole)).await;
    let gateway = Gateway::before(&upstream).await;
    let key = gateway.key().await;
    gateway.send(&post("/v1/chat/completions", &chat("gpt-4o")).key(&key.text)).await.success();
    let usage = gateway.usage_of(&key, 1).await;
    // One message of "Hello!" (2 tokens) with 3 around it, the role, and 3 for the reply; and the ten tokens of the answer.
    assert_eq!((&usage["input_tokens"], &usage["output_tokens"]), (&json!(9), &json!(10)));
    gateway.stop().await;
}

#[tokio::test]
async fn a_model_without_a_price_is_served_under_its_pattern_and_costs_nothing() {
    let upstream = MockUpstream::always(Reply::json(&completion("ok"))).await;
    let gateway = Gateway::before(&upstream).await;
    let key = gateway.key().await;
    gateway.send(&post("/v1/chat/completions", &chat("openai/brand-new:beta")).key(&key.text)).await.success();
    assert_eq!(upstream.request(0).await.json()["model"], "brand-new:beta");
    let usage = gateway.usage_of(&key, 1).await;
    assert_eq!((&usage["total_cost"], &usage["total_tokens"]), (&json!("0"), &json!(21)));
    gateway.stop().await;
}

#[tokio::test]
async fn a_200_that_is_no_completion_is_the_providers_fault() {
    let upstream = MockUpstream::start().await;
    let gateway = Gateway::before(&upstream).await;
    let key = gateway.key().await;
    for body in ["<html>hi</html>", "{}", "[]", "null", "{\"choices\":", ""] {
        upstream.answer(Reply::whole(200, "application/json", body));
        let response = gateway.send(&post("/v1/chat/completions", &chat("gpt-4o")).key(&key.text)).await;
        assert_eq!(response.error(502)["code"], "upstream_protocol", "{body}");
    }
    let usage = gateway.usage_of(&key, 6).await;
    assert_eq!(usage["failed_requests"], 6);
    gateway.stop().await;
}

#[tokio::test]
async fn an_error_in_a_200_is_an_error() {
    let body = json!({"error": {"message": "slow down", "type": "requests", "code": 429}});
    let upstream = MockUpstream::always(Reply::json(&body)).await;
    let gateway = Gateway::before(&upstream).await;
    let key = gateway.key().await;
    for body in [chat("gpt-4o"), streamed_chat("gpt-4o")] {
        gateway.send(&post("/v1/chat/completions", &body).key(&key.text)).await.error(429);
    }
    gateway.stop().await;
}

#[tokio::test]
async fn the_built_in_echo_works_with_no_provider_at_all() {
    let gateway = Gateway::start().await;
    let key = gateway.key().await;
    let body = json!({"model": "local/echo", "messages": [{"role": "user", "content": "Hello, gateway!"}]});
    let reply = gateway.send(&post("/v1/chat/completions", &body).key(&key.text)).await.success();
    assert_eq!(reply["choices"][0]["message"]["content"], "Hello, gateway!");
    // 15 bytes are 4 tokens.
    assert_eq!(reply["usage"]["prompt_tokens"], 4);
    assert_eq!(gateway.usage_of(&key, 1).await["total_cost"], "0.000008");
    gateway.send(&get("/health")).await.success();
    gateway.stop().await;
}

#[tokio::test]
async fn requests_share_the_providers_connections() {
    let upstream = MockUpstream::always(Reply::json(&completion("ok"))).await;
    let gateway = Gateway::before(&upstream).await;
    let key = gateway.key().await;
    for _ in 0..5 {
        gateway.send(&post("/v1/chat/completions", &chat("gpt-4o")).key(&key.text)).await.success();
    }
    assert!(upstream.requests().iter().all(|request| request.connection == 0));
    gateway.stop().await;
}
