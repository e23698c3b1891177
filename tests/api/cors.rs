//! Browsers: `/v1/*` may be called from everywhere, key administration from nowhere.

use serde_json::json;

use crate::support::{Gateway, Response, get, post};

const ALLOWED: &str = "access-control-allow-origin";

fn assert_no_cors(response: &Response) {
    assert!(response.headers.iter().all(|(name, _)| !name.starts_with("access-control-")), "{:?}", response.headers);
}

#[tokio::test]
async fn answers_and_errors_may_be_read_from_every_origin() {
    let gateway = Gateway::start().await;
    for request in [get("/v1/models"), get("/v1/usage"), get("/v1/nowhere"), post("/v1/chat/completions", &json!({}))] {
        let response = gateway.send(&request.header("origin", "https://app.example")).await;
        assert_eq!(response.header(ALLOWED), Some("*"));
        assert_eq!(response.header("access-control-allow-credentials"), None);
        let exposed = response.header("access-control-expose-headers").unwrap();
        for name in ["x-request-id", "retry-after", "x-ratelimit-remaining-requests", "x-ai4free-limit-scope"] {
            assert!(exposed.contains(name), "{exposed}");
        }
    }
    gateway.stop().await;
}

#[tokio::test]
async fn a_preflight_is_answered_without_a_key() {
    let gateway = Gateway::start().await;
    let preflight = get("/v1/chat/completions")
        .method("OPTIONS")
        .header("origin", "https://app.example")
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", "authorization,content-type,x-stainless-lang");
    let response = gateway.send(&preflight).await;
    assert_eq!((response.status, response.header(ALLOWED)), (204, Some("*")));
    let headers = response.header("access-control-allow-headers").unwrap();
    assert!(headers.contains("authorization") && headers.contains("x-stainless-lang"), "{headers}");
    assert!(response.header("access-control-allow-methods").unwrap().contains("POST"));
    gateway.stop().await;
}

#[tokio::test]
async fn key_administration_is_not_for_browsers() {
    let gateway = Gateway::start().await;
    for path in ["/v1/api-keys", "/v1/api-keys/x", "/v1/api-keys/x/rotate"] {
        let preflight = get(path)
            .method("OPTIONS")
            .header("origin", "https://app.example")
            .header("access-control-request-method", "POST");
        let response = gateway.send(&preflight).await;
        assert_eq!(response.status, 405);
        assert_no_cors(&response);
        assert_no_cors(&gateway.administer(get(path).header("origin", "https://app.example")).await);
    }
    assert_no_cors(&gateway.send(&get("/health").header("origin", "https://app.example")).await);
    gateway.stop().await;
}

#[tokio::test]
async fn origins_can_be_listed_or_forbidden() {
    let listed = r#"["https://app.example"]"#;
    let gateway = Gateway::builder().toml(&format!("[http]\ncors_origins = {listed}")).start().await;
    let ask = |origin: &str| get("/v1/models").header("origin", origin);
    let allowed = gateway.send(&ask("https://app.example")).await;
    assert_eq!((allowed.header(ALLOWED), allowed.header("vary")), (Some("https://app.example"), Some("origin")));
    for origin in ["https://evil.example", "https://app.example.evil.example", "null", "https://äpp.example"] {
        assert_eq!(gateway.send(&ask(origin)).await.header(ALLOWED), None, "{origin}");
    }
    gateway.stop().await;
    let gateway = Gateway::builder().toml("[http]\ncors_origins = []").start().await;
    assert_no_cors(&gateway.send(&ask("https://app.example")).await);
    gateway.stop().await;
}
