//! Every model of the old system answers, through the variables that it had.

#![expect(clippy::indexing_slicing, clippy::unwrap_used, reason = "a test may fail")]

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::support::{
    DONE, Gateway, Key, MockUpstream, Reply, chat, chunk, completion, events, finish, post, stream::text_of,
    streamed_chat, usage,
};

const IMAGE: &str = "data:image/png;base64,iVBORw0KGgo=";

/// One upstream in the place of all nine: what comes in tells which of them it is.
async fn nine_providers() -> (MockUpstream, Gateway) {
    let upstream = MockUpstream::start().await;
    upstream.otherwise(|request| {
        if request.method == "GET" {
            return Reply::whole(200, "image/png", b"\x89PNG\r\n\x1a\n");
        }
        let body = request.json();
        match (request.target.as_str(), body["model"].as_str()) {
            ("/six", _) => Reply::json(&json!({"result": IMAGE})),
            (_, Some("flux")) => Reply::json(&completion("![a cat](https://images.example.com/cat.png)")),
            _ if body["stream"] == json!(true) => {
                Reply::sse(&[chunk("Hel"), chunk("lo"), finish("stop"), usage(9, 12), DONE.into()])
            }
            _ => Reply::json(&completion("Hello")),
        }
    });
    let root = format!("http://{}", upstream.address);
    let mut builder = Gateway::builder()
        .set("PROVIDER_1_BASE_URL", &format!("{root}/one"))
        .set("PROVIDER_5_IMG_BASE_URL", &format!("{root}/prompt"))
        .set("PROVIDER_6_BASE_URL", &format!("{root}/six"))
        .set("AZURE_ENDPOINT", &root)
        .set("AZURE_API_KEY", "nine");
    for number in [2, 3, 4, 5, 7, 8] {
        builder = builder
            .set(&format!("PROVIDER_{number}_BASE_URL"), &format!("{root}/{number}/v1"))
            .set(&format!("PROVIDER_{number}_API_KEY"), "its-key");
    }
    let gateway = builder.start().await;
    (upstream, gateway)
}

/// The models as `/v1/models` lists them, by kind.
async fn listed(gateway: &Gateway) -> BTreeMap<String, Vec<String>> {
    let mut by_kind = BTreeMap::<String, Vec<String>>::new();
    let list = gateway.send(&crate::support::get("/v1/models")).await.success();
    for model in list["data"].as_array().unwrap() {
        let id = model["id"].as_str().unwrap();
        if id.starts_with("Provider-") {
            assert_eq!(model["available"], json!(true), "{id}");
            by_kind.entry(model["type"].as_str().unwrap().to_owned()).or_default().push(id.to_owned());
        }
    }
    by_kind
}

async fn ask(gateway: &Gateway, key: &Key, path: &str, body: &Value) -> crate::support::Response {
    gateway.send(&post(path, body).key(&key.text)).await
}

#[tokio::test]
async fn each_of_the_102_models_of_the_old_system_answers_whole_and_streamed() {
    let (upstream, gateway) = nine_providers().await;
    let key = gateway.key_with(json!({"plan": "unlimited"})).await;
    let models = listed(&gateway).await;
    let counts: Vec<_> = models.iter().map(|(kind, ids)| (kind.as_str(), ids.len())).collect();
    assert_eq!(counts, [("audio", 1), ("chat", 95), ("image", 6)]);

    for id in models["chat"].iter().chain(&models["audio"]) {
        let mut body = chat(id);
        body["max_tokens"] = json!(100);
        let whole = ask(&gateway, &key, "/v1/chat/completions", &body).await.success();
        assert_eq!(whole["choices"][0]["message"]["content"], "Hello", "{id}");
        let mut body = streamed_chat(id);
        body["max_tokens"] = json!(100);
        let streamed = ask(&gateway, &key, "/v1/chat/completions", &body).await;
        let events = events(&streamed.body);
        assert_eq!(text_of(&events), "Hello", "{id}");
        assert_eq!(events.last().map(String::as_str), Some("[DONE]"), "{id}");
    }
    for id in &models["image"] {
        let images =
            ask(&gateway, &key, "/v1/images/generations", &json!({"model": id, "prompt": "a cat"})).await.success();
        assert!(images["data"][0]["url"].is_string(), "{id}: {images}");
    }
    assert!(upstream.request_count() >= 2 * 96 + 6);
    let usage = gateway.usage_of(&key, 2 * 96 + 6).await;
    assert_eq!((&usage["successful_requests"], &usage["failed_requests"]), (&json!(198), &json!(0)));
    assert_eq!(usage["model_usage"].as_object().unwrap().len(), 102);
    gateway.stop().await;
}
