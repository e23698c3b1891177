//! What a provider's failure becomes.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Gateway, MockUpstream, Reply, chat, completion, get, post, streamed_chat};

/// An error in OpenAI's form.
fn body(message: &str) -> Value {
    json!({"error": {"message": message, "type": "invalid_request_error", "param": "messages", "code": "some_code"}})
}

#[tokio::test]
async fn a_providers_statuses_become_the_right_ones_whole_and_streamed() {
    let upstream = MockUpstream::start().await;
    let gateway = Gateway::before(&upstream).await;
    let key = gateway.key().await;
    let table = [
        (400, 400, Some("some_code")),
        (404, 404, Some("some_code")),
        (413, 413, Some("some_code")),
        (422, 400, Some("some_code")),
        (401, 502, Some("upstream_credential")),
        (403, 502, Some("upstream_credential")),
        (402, 502, Some("upstream_quota")),
        (429, 429, Some("rate_limit_exceeded")),
        (408, 504, Some("upstream_timeout")),
        (500, 502, Some("upstream_server")),
        (502, 502, Some("upstream_server")),
        (503, 502, Some("upstream_overloaded")),
        (504, 504, Some("upstream_timeout")),
        (529, 503, Some("upstream_overloaded")),
        (301, 502, Some("upstream_protocol")),
    ];
    for (theirs, ours, code) in table {
        for request in [chat("gpt-4o"), streamed_chat("gpt-4o")] {
            upstream.answer(Reply::error(theirs, &body("what they said")));
            let response = gateway.send(&post("/v1/chat/completions", &request).key(&key.text)).await;
            let error = response.error(ours);
            assert_eq!(error["code"].as_str(), code, "{theirs}");
            let is_the_clients_fault = (400..429).contains(&ours);
            assert_eq!(error["message"] == "what they said", is_the_clients_fault, "{theirs}: {error}");
            assert_eq!(error["param"] == "messages", is_the_clients_fault, "{theirs}: {error}");
            assert_eq!(response.retry_after().is_some(), matches!(theirs, 503 | 529), "{theirs}");
        }
    }
    let usage = gateway.usage_of(&key, 2 * table.len() as u64).await;
    assert_eq!(usage["failed_requests"], 2 * table.len());
    assert_eq!(usage["total_cost"], "0");
    gateway.stop().await;
}

#[tokio::test]
async fn a_429_passes_with_the_providers_retry_after() {
    let upstream = MockUpstream::start().await;
    let gateway = Gateway::before(&upstream).await;
    let key = gateway.key().await;
    for (theirs, ours) in [("7", 7), ("0.2", 1), ("86400", 86_400)] {
        let headers = [("content-type", "application/json"), ("retry-after", theirs)];
        upstream.answer(Reply::with_headers(429, &headers, body("slow down").to_string()));
        let response = gateway.send(&post("/v1/chat/completions", &chat("gpt-4o")).key(&key.text)).await;
        let error = response.error(429);
        assert_eq!((&error["type"], &error["code"]), (&json!("requests"), &json!("rate_limit_exceeded")));
        assert_eq!(response.retry_after(), Some(Duration::from_secs(ours)));
    }
    gateway.stop().await;
}

#[tokio::test]
async fn every_form_of_a_vendors_error_becomes_the_envelope() {
    let upstream = MockUpstream::start().await;
    let gateway = Gateway::before(&upstream).await;
    let key = gateway.key().await;
    let html = "<!DOCTYPE html><html><body>nginx</body></html>";
    let table: [(u16, &str, &str, u16, Option<&str>); 11] = [
        (500, "text/html", html, 502, None),
        (404, "text/html", html, 404, None),
        (400, "application/json", r#"{"error":"model not found"}"#, 400, Some("model not found")),
        (
            400,
            "application/json",
            r#"{"object":"error","message":"flat","type":"BadRequestError","code":400}"#,
            400,
            Some("flat"),
        ),
        (
            422,
            "application/json",
            r#"{"detail":[{"loc":["body"],"msg":"field required"}]}"#,
            400,
            Some("field required"),
        ),
        (
            400,
            "application/json",
            r#"[{"error":{"code":400,"message":"in a list","status":"INVALID_ARGUMENT"}}]"#,
            400,
            Some("in a list"),
        ),
        (400, "text/plain", "plain words", 400, Some("plain words")),
        (400, "application/json", "", 400, None),
        (400, "application/json", r#"{"error":{"mess"#, 400, None),
        (502, "application/json", "null", 502, None),
        (400, "application/json", r#"{"error":{"message":"<html></html>"}}"#, 400, None),
    ];
    for (status, content_type, text, ours, message) in table {
        upstream.answer(Reply::whole(status, content_type, text));
        let response = gateway.send(&post("/v1/chat/completions", &chat("gpt-4o")).key(&key.text)).await;
        let error = response.error(ours);
        if let Some(message) = message {
            assert_eq!(error["message"], message, "{text}");
        }
        assert!(!response.text().contains('<'), "{}", response.text());
    }
    gateway.stop().await;
}

#[tokio::test]
async fn a_providers_words_lose_secrets_and_excess() {
    let upstream = MockUpstream::start().await;
    let gateway = Gateway::before(&upstream).await;
    let key = gateway.key().await;
    let leak = format!("Bad key sk-proj-{} at {}", "A1b2".repeat(12), "x".repeat(100_000));
    upstream.answer(Reply::error(400, &body(&leak)));
    let response = gateway.send(&post("/v1/chat/completions", &chat("gpt-4o")).key(&key.text)).await;
    response.error(400);
    assert!(!response.text().contains("A1b2A1b2"), "{}", response.text());
    assert!(response.body.len() < 10_000, "{} bytes", response.body.len());
    gateway.stop().await;
}

#[tokio::test]
async fn a_provider_that_is_not_there_is_a_502_at_once() {
    let gone = MockUpstream::start().await.url();
    let gateway =
        Gateway::builder().set("OPENAI_API_KEY", "provider-key-1").set("OPENAI_BASE_URL", &gone).start().await;
    let key = gateway.key().await;
    for request in [chat("gpt-4o"), streamed_chat("gpt-4o")] {
        let response = gateway.send(&post("/v1/chat/completions", &request).key(&key.text)).await;
        assert_eq!(response.error(502)["code"], "upstream_transport");
        assert!(!response.text().contains("127.0.0.1"), "{}", response.text());
    }
    let usage = gateway.usage_of(&key, 2).await;
    assert_eq!((&usage["failed_requests"], &usage["total_tokens"]), (&json!(2), &json!(0)));
    gateway.stop().await;
}

#[tokio::test]
async fn a_provider_that_resets_or_cuts_the_connection_is_a_502() {
    let upstream = MockUpstream::start().await;
    let gateway = Gateway::before(&upstream).await;
    let key = gateway.key().await;
    let cut_body = Reply::with_headers(200, &[("content-type", "application/json")], "").then_cut();
    for reply in [Reply::reset(), Reply::hang_up(), cut_body] {
        upstream.answer(reply);
        gateway.send(&post("/v1/chat/completions", &chat("gpt-4o")).key(&key.text)).await.error(502);
    }
    assert_eq!(upstream.request_count(), 3, "nothing is sent twice");
    gateway.stop().await;
}

#[tokio::test]
async fn a_provider_that_is_too_slow_is_a_504() {
    let upstream = MockUpstream::always(Reply::hang()).await;
    let gateway = Gateway::builder().openai(&upstream).set("AI4FREE__TIMEOUTS__TOTAL_SECONDS", "1").start().await;
    let key = gateway.key().await;
    let started = Instant::now();
    let response = gateway.send(&post("/v1/chat/completions", &chat("gpt-4o")).key(&key.text)).await;
    let took = started.elapsed();
    assert_eq!(response.error(504)["code"], "upstream_timeout");
    assert!((1000..2000).contains(&took.as_millis()), "{took:?}");
    upstream.end_of(0).await;
    assert_eq!(gateway.usage_of(&key, 1).await["failed_requests"], 1);
    gateway.stop().await;
}

#[tokio::test]
async fn a_model_whose_provider_has_no_credential_is_a_503_that_says_so() {
    let gateway = Gateway::start().await;
    let key = gateway.key().await;
    let response = gateway.send(&post("/v1/chat/completions", &chat("Provider-2/gpt-4o")).key(&key.text)).await;
    assert_eq!(response.error(503)["code"], "provider_disabled");
    assert!(response.retry_after().is_some());
    gateway.stop().await;
}

#[tokio::test]
async fn the_first_credential_that_works_answers_and_the_others_are_tried_once_each() {
    let refusals = [
        Reply::error(401, &body("bad key")),
        Reply::error(403, &body("forbidden")),
        Reply::with_headers(429, &[("retry-after", "60")], ""),
        Reply::error(429, &json!({"error": {"message": "pay", "code": "insufficient_quota"}})),
    ];
    for refusal in refusals {
        let upstream = MockUpstream::start().await;
        upstream.otherwise(move |request| match request.header("authorization") {
            Some("Bearer first") => refusal.clone(),
            _ => Reply::json(&completion("ok")),
        });
        let gateway = Gateway::builder()
            .set("OPENAI_API_KEYS", "first,second")
            .set("OPENAI_BASE_URL", &upstream.url())
            .start()
            .await;
        let key = gateway.key().await;
        for _ in 0..3 {
            gateway.send(&post("/v1/chat/completions", &chat("gpt-4o")).key(&key.text)).await.success();
        }
        let seen: Vec<String> =
            upstream.requests().iter().map(|request| request.header("authorization").unwrap().to_owned()).collect();
        assert_eq!(seen, ["Bearer first", "Bearer second", "Bearer second", "Bearer second"], "the first one rests");
        let usage = gateway.usage_of(&key, 3).await;
        assert_eq!((&usage["successful_requests"], &usage["total_tokens"]), (&json!(3), &json!(63)));
        gateway.stop().await;
    }
}

#[tokio::test]
async fn when_every_credential_is_refused_each_was_tried_once() {
    let upstream = MockUpstream::always(Reply::error(401, &body("bad key"))).await;
    let gateway = Gateway::builder()
        .set("OPENAI_API_KEYS", r#"["first","second","third"]"#)
        .set("OPENAI_BASE_URL", &upstream.url())
        .start()
        .await;
    let key = gateway.key().await;
    gateway.send(&post("/v1/chat/completions", &chat("gpt-4o")).key(&key.text)).await.error(502);
    assert_eq!(upstream.request_count(), 3);
    let usage = gateway.usage_of(&key, 1).await;
    assert_eq!((&usage["failed_requests"], &usage["total_cost"]), (&json!(1), &json!("0")));
    gateway.stop().await;
}

/// Each attempt is a row, and a ledger takes the rows of a request at once: 500 at most.
#[tokio::test]
async fn however_many_credentials_are_refused_a_request_is_tried_a_hundred_times_and_counted_once() {
    let upstream = MockUpstream::always(Reply::error(401, &body("bad key"))).await;
    let credentials: Vec<String> = (0..600).map(|number| format!("credential-{number}")).collect();
    let gateway = Gateway::builder()
        .set("OPENAI_API_KEYS", &credentials.join(","))
        .set("OPENAI_BASE_URL", &upstream.url())
        .start()
        .await;
    let key = gateway.key().await;
    gateway.send(&post("/v1/chat/completions", &chat("gpt-4o")).key(&key.text)).await.error(502);
    assert_eq!(upstream.request_count(), 100);
    assert_eq!(gateway.usage_of(&key, 1).await["failed_requests"], 1);
    gateway.stop().await;
}

#[tokio::test]
async fn a_clients_own_error_is_not_tried_again() {
    let upstream = MockUpstream::always(Reply::error(400, &body("no"))).await;
    let gateway =
        Gateway::builder().set("OPENAI_API_KEYS", "first,second").set("OPENAI_BASE_URL", &upstream.url()).start().await;
    let key = gateway.key().await;
    gateway.send(&post("/v1/chat/completions", &chat("gpt-4o")).key(&key.text)).await.error(400);
    assert_eq!(upstream.request_count(), 1);
    gateway.stop().await;
}

#[tokio::test]
async fn request_ids_are_unique_and_never_the_clients() {
    let gateway = Gateway::start().await;
    let mut ids = std::collections::BTreeSet::new();
    for path in ["/health", "/v1/models", "/nowhere", "/v1/usage"] {
        let response = gateway.send(&get(path).header("x-request-id", "mine")).await;
        let id = response.header("x-request-id").unwrap().to_owned();
        assert!(id.starts_with("req_") && ids.insert(id));
    }
    gateway.stop().await;
}
