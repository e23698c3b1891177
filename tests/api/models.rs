//! `/v1/models`.

use serde_json::{Value, json};

use crate::support::{Gateway, MockUpstream, get, post};

fn ids(list: &Value) -> Vec<String> {
    list["data"].as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn the_list_is_public_and_has_openais_fields_prices_and_limits() {
    let gateway = Gateway::start().await;
    let list = gateway.send(&get("/v1/models")).await.success();
    assert_eq!(list["object"], "list");
    for model in list["data"].as_array().unwrap() {
        assert!(model["id"].is_string() && model["owned_by"].is_string() && model["created"].is_i64(), "{model}");
        assert_eq!(model["object"], "model");
        assert!(model["available"].is_boolean() && model.get("pricing").is_some(), "{model}");
    }
    let mut unique = ids(&list);
    unique.sort();
    unique.dedup();
    assert_eq!(unique.len(), ids(&list).len());
    assert!(unique.len() >= 102, "the models of the old system are there: {}", unique.len());
    let echo = list["data"].as_array().unwrap().iter().find(|model| model["id"] == "local/echo").unwrap();
    assert_eq!((&echo["available"], &echo["pricing"]["input"]), (&json!(true), &json!("1")));
    let old_form = gateway.send(&post("/v1/models", &json!({}))).await.success();
    assert_eq!(old_form, list);
    gateway.stop().await;
}

#[tokio::test]
async fn ids_with_slashes_and_colons_are_found_plain_and_encoded() {
    let gateway = Gateway::start().await;
    for path in [
        "/v1/models/Provider-8/llama-4-maverick:free",
        "/v1/models/Provider-8%2Fllama-4-maverick%3Afree",
        "/v1/models/Provider-8%2fllama-4-maverick:free",
        "/v1/models/Provider-8/llama-4-maverick%3Afree?x=1",
    ] {
        let model = gateway.send(&get(path)).await.success();
        assert_eq!(model["id"], "Provider-8/llama-4-maverick:free", "{path}");
    }
    gateway.send(&get("/v1/models/gpt-4o")).await.success();
    gateway.stop().await;
}

#[tokio::test]
async fn a_vendors_model_that_is_not_listed_shows_its_prices_and_tiers() {
    let upstream = MockUpstream::start().await;
    let gateway = Gateway::before(&upstream).await;
    let pricing = gateway.send(&get("/v1/models/openai/gpt-6-sol")).await.success()["pricing"].clone();
    assert_eq!((&pricing["input"], &pricing["cache_write"]), (&json!("2"), &json!("2.5")));
    assert_eq!(
        (&pricing["tiers"][0]["above_input_tokens"], &pricing["tiers"][0]["output"]),
        (&json!(272_000), &json!("15"))
    );
    let audio = gateway.send(&get("/v1/models/openai/gpt-audio")).await.success()["pricing"].clone();
    assert_eq!((&audio["audio_output"], &audio["tiers"]), (&json!("64"), &json!(null)));
    let listed = gateway.send(&get("/v1/models")).await.success();
    assert!(!ids(&listed).contains(&"openai/gpt-6-sol".to_owned()));
    gateway.stop().await;
}

#[tokio::test]
async fn an_id_is_decoded_once() {
    let upstream = MockUpstream::start().await;
    let gateway = Gateway::before(&upstream).await;
    for (path, id) in [("openai%2Fa%2525b", "openai/a%25b"), ("openai/a%25b", "openai/a%b")] {
        assert_eq!(gateway.send(&get(&format!("/v1/models/{path}"))).await.success()["id"], id);
    }
    gateway.stop().await;
}

#[tokio::test]
async fn a_model_that_is_not_there_is_a_404_that_names_it() {
    let gateway = Gateway::start().await;
    for path in ["/v1/models/nothing", "/v1/models/a/b/c", "/v1/models/%F0%9F%98%80", "/v1/models/x%00y"] {
        let error = gateway.send(&get(path)).await.error(404);
        assert_eq!((&error["code"], &error["param"]), (&json!("model_not_found"), &json!("model")), "{path}");
    }
    gateway.send(&get("/v1/models/%ff")).await.error(400);
    gateway.stop().await;
}

#[tokio::test]
async fn a_key_narrows_the_list_and_a_wrong_one_is_refused() {
    let gateway = Gateway::start().await;
    let key = gateway.key_with(json!({"models": ["Provider-1/*", "gpt-4o"]})).await;
    let list = gateway.send(&get("/v1/models").key(&key.text)).await.success();
    assert!(ids(&list).iter().all(|id| id.starts_with("Provider-1/") || id == "gpt-4o"), "{list}");
    assert!(ids(&list).len() > 1);
    gateway.send(&get("/v1/models/gpt-4o").key(&key.text)).await.success();
    let other = gateway.send(&get("/v1/models/local/echo").key(&key.text)).await;
    assert!([403, 404].contains(&other.status), "{}", other.status);
    for wrong in ["sk-a4f-wrong", "", &key.text[..key.text.len() - 1]] {
        for path in ["/v1/models", "/v1/models/gpt-4o"] {
            assert_eq!(gateway.send(&get(path).key(wrong)).await.error(401)["code"], "invalid_api_key");
        }
    }
    gateway.stop().await;
}

#[tokio::test]
async fn a_private_list_wants_a_key() {
    let gateway = Gateway::builder().set("AI4FREE__HTTP__PUBLIC_MODELS", "false").start().await;
    let key = gateway.key().await;
    gateway.send(&get("/v1/models")).await.error(401);
    gateway.send(&get("/v1/models/gpt-4o")).await.error(401);
    gateway.send(&get("/v1/models").key(&key.text)).await.success();
    gateway.stop().await;
}
