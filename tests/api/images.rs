//! Images, in the four ways in which providers make them.

use serde_json::{Value, json};

use crate::support::{Gateway, Key, MockUpstream, Reply, completion, post};

/// A byte that is no text, and its base64.
const PIXEL: (&[u8], &str) = (b"\xff\xd8\xff\xe0jpeg", "/9j/4GpwZWc=");

async fn make(gateway: &Gateway, key: &Key, body: Value) -> Value {
    gateway.send(&post("/v1/images/generations", &body).key(&key.text)).await.success()
}

#[tokio::test]
async fn a_provider_with_openais_endpoint_gets_the_request_and_is_charged_per_image() {
    let made = json!({"created": 1_700_000_000, "data": [{"b64_json": "AAAA"}, {"b64_json": "BBBB"}], "x_extra": 1.0});
    let upstream = MockUpstream::always(Reply::json(&made)).await;
    let gateway = Gateway::before(&upstream).await;
    let key = gateway.key().await;
    let body = json!({"model": "openai/gpt-image-1", "prompt": "a cat", "n": 2, "background": "transparent"});
    assert_eq!(make(&gateway, &key, body.clone()).await, made);
    let request = upstream.request(0).await;
    assert_eq!(request.target, "/v1/images/generations");
    assert_eq!(request.text(), body.to_string().replace("openai/gpt-image-1", "gpt-image-1"));
    let usage = gateway.usage_of(&key, 1).await;
    assert_eq!(usage["successful_requests"], 1);
    gateway.stop().await;
}

#[tokio::test]
async fn provider_3_answers_a_chat_with_a_markdown_image() {
    let upstream =
        MockUpstream::always(Reply::json(&completion("Here: ![cat](https://images.example.com/cat.png)"))).await;
    let gateway =
        Gateway::builder().set("PROVIDER_3_BASE_URL", &upstream.url()).set("PROVIDER_3_API_KEY", "three").start().await;
    let key = gateway.key().await;
    let mut body = json!({"model": "Provider-3/flux-1.1-ultra", "prompt": "a cat"});
    let images = make(&gateway, &key, body.clone()).await;
    assert_eq!(images["data"], json!([{"url": "https://images.example.com/cat.png"}]));
    let request = upstream.request(0).await;
    assert_eq!(request.target, "/v1/chat/completions");
    assert_eq!(request.header("authorization"), Some("Bearer three"));
    assert_eq!(request.json()["messages"], json!([{"role": "user", "content": "a cat"}]));
    assert_eq!(request.json()["model"], "flux");
    // A URL in a provider's words is not fetched unless the operator named its host.
    body["response_format"] = json!("b64_json");
    let error = gateway.send(&post("/v1/images/generations", &body).key(&key.text)).await.error(400);
    assert_eq!(error["param"], "response_format");
    let usage = gateway.usage_of(&key, 2).await;
    assert_eq!(usage["total_cost"], "0.008", "8000 millionths of a dollar for the one that was made");
    gateway.stop().await;
}

#[tokio::test]
async fn provider_5_is_asked_by_get_and_answers_with_bytes() {
    let upstream = MockUpstream::always(Reply::whole(200, "image/jpeg", PIXEL.0)).await;
    let gateway = Gateway::builder()
        .set("PROVIDER_5_BASE_URL", &format!("http://{}", upstream.address))
        .set("PROVIDER_5_IMG_BASE_URL", &format!("http://{}/prompt", upstream.address))
        .set("PROVIDER_5_API_KEY", "five")
        .start()
        .await;
    let key = gateway.key().await;
    // It is the default model.
    let body = json!({"prompt": "a cat/dog? ü", "n": 2, "size": "512x256"});
    let images = make(&gateway, &key, body).await;
    let url = format!("data:image/jpeg;base64,{}", PIXEL.1);
    assert_eq!(images["data"], json!([{"url": url}, {"url": url}]));
    let requests = upstream.requests();
    assert_eq!(requests.len(), 2);
    for request in &requests {
        assert_eq!(request.method, "GET");
        assert!(request.target.starts_with("/prompt/a%20cat%2Fdog%3F%20%C3%BC?width=512&height=256&model=flux&seed="));
    }
    assert_ne!(requests[0].target, requests[1].target, "each image has a seed of its own");
    let body = json!({"model": "Provider-5/flux-pro", "prompt": "a cat", "response_format": "b64_json"});
    assert_eq!(make(&gateway, &key, body).await["data"], json!([{"b64_json": PIXEL.1}]));
    assert_eq!(gateway.usage_of(&key, 2).await["total_cost"], "0.024");
    gateway.stop().await;
}

#[tokio::test]
async fn provider_6_is_posted_a_small_json_and_answers_with_a_data_url() {
    let answer = json!({"result": format!("data:image/png;base64,{}", PIXEL.1)});
    let upstream = MockUpstream::always(Reply::json(&answer)).await;
    let gateway = Gateway::builder()
        .set("PROVIDER_6_BASE_URL", &format!("http://{}/api/generate", upstream.address))
        .start()
        .await;
    let key = gateway.key().await;
    let body = json!({"model": "Provider-6/sana-6b", "prompt": "a cat", "size": "256x256"});
    let images = make(&gateway, &key, body).await;
    assert_eq!(images["data"], json!([{"url": answer["result"]}]));
    let request = upstream.request(0).await;
    assert_eq!((request.method.as_str(), request.target.as_str()), ("POST", "/api/generate"));
    assert_eq!(request.json(), json!({"prompt": "a cat", "model": "sana_1_6b", "size": "1_1", "isPublic": false}));
    assert_eq!(request.header("authorization"), None);
    assert_eq!(request.header("origin"), Some("https://fastflux.co"));
    assert_eq!(gateway.usage_of(&key, 1).await["total_cost"], "0.008");
    gateway.stop().await;
}

#[tokio::test]
async fn an_answer_without_an_image_is_the_providers_fault_and_costs_nothing() {
    let upstream = MockUpstream::start().await;
    let address = upstream.address;
    let gateway = Gateway::builder()
        .set("PROVIDER_3_BASE_URL", &upstream.url())
        .set("PROVIDER_3_API_KEY", "three")
        .set("PROVIDER_5_BASE_URL", &format!("http://{address}"))
        .set("PROVIDER_5_IMG_BASE_URL", &format!("http://{address}/prompt"))
        .set("PROVIDER_5_API_KEY", "five")
        .set("PROVIDER_6_BASE_URL", &format!("http://{address}/"))
        .start()
        .await;
    let key = gateway.key().await;
    for (model, reply) in [
        ("Provider-3/flux-1.1-ultra", Reply::json(&completion("Sorry, I can't."))),
        ("Provider-5/flux-pro", Reply::whole(200, "text/html", "<html>busy</html>")),
        ("Provider-6/flux-dev", Reply::json(&json!({"result": "javascript:alert(1)"}))),
        ("Provider-6/flux-dev", Reply::json(&json!({"result": "https://elsewhere.example/x.png"}))),
    ] {
        upstream.answer(reply);
        let body = json!({"model": model, "prompt": "a cat"});
        gateway.send(&post("/v1/images/generations", &body).key(&key.text)).await.error(502);
    }
    let usage = gateway.usage_of(&key, 4).await;
    assert_eq!((&usage["failed_requests"], &usage["total_cost"]), (&json!(4), &json!("0")));
    gateway.stop().await;
}

#[tokio::test]
async fn image_requests_have_limits_of_their_own() {
    let upstream = MockUpstream::always(Reply::json(&json!({"created": 1, "data": [{"b64_json": "AAAA"}]}))).await;
    let gateway = Gateway::before(&upstream).await;
    let limits = json!({"limits": {"image_requests_per_minute": 2, "requests_per_minute": 1}});
    let key = gateway.key_with(limits).await;
    let body = json!({"model": "openai/gpt-image-1", "prompt": "a cat"});
    let request = post("/v1/images/generations", &body).key(&key.text);
    for _ in 0..2 {
        gateway.send(&request).await.success();
    }
    assert_eq!(gateway.send(&request).await.error(429)["code"], "rate_limit_exceeded");
    let text = post("/v1/chat/completions", &crate::support::chat("local/echo")).key(&key.text);
    gateway.send(&text).await.success();
    gateway.send(&text).await.error(429);
    gateway.stop().await;
}
