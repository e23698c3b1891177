//! Images in each style, on a real socket.

use std::sync::Arc;

use ai4free_contract::llm_provider::{
    Harness, SECRET,
    conversation::{PATIENT, call},
    upstream::{Step, Upstream},
    wire,
};
use ai4free_ports::{
    error::{ProviderError, ProviderErrorKind},
    llm_provider::{Facts, Reply},
    provider_settings::{ImageStyle, ProviderSettings, Quirks},
    request::Operation,
};
use serde_json::{Value, json};

use crate::{
    Transport, build,
    contract_tests::{OverHttp, StoppedClock, settings},
};

async fn images(settings: &ProviderSettings, body: &str) -> Result<(Value, Facts), ProviderError> {
    let provider = build(settings, Arc::new(Transport::new()), Arc::new(StoppedClock)).unwrap();
    let harness = OverHttp(build, Quirks::default());
    assert_eq!(harness.dialect().name(), "openai");
    match provider.call(call(&harness, Operation::ImageGeneration, body, PATIENT)).await? {
        Reply::Whole { body, facts } => Ok((serde_json::from_slice(&body).unwrap(), facts)),
        Reply::Stream(_) => panic!("a stream"),
    }
}

fn styled(base_url: &str, style: ImageStyle) -> ProviderSettings {
    ProviderSettings { images: Some(style), ..settings(base_url) }
}

fn jpeg() -> Vec<Step> {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: image/jpeg\r\ncontent-length: 3\r\nconnection: close\r\n\r\nABC";
    vec![Step::Write(head.as_bytes().to_vec())]
}

fn count(facts: &Facts) -> u64 {
    facts.usage.map_or(0, |usage| usage.images)
}

#[tokio::test]
async fn openai_s_own_images_are_forwarded() {
    let body = r#"{"created":1,"data":[{"url":"https://h/1.png"},{"url":"https://h/2.png"}],"x":1.0}"#;
    let upstream = Upstream::start([wire::json(200, "", body)]).await;
    let settings = styled(&upstream.url(), ImageStyle::OpenAi);
    let (reply, facts) = images(&settings, r#"{"model":"m","prompt":"a cat","n":2,"style":"vivid"}"#).await.unwrap();
    assert_eq!(reply.to_string(), body);
    assert_eq!(count(&facts), 2);
    assert!(facts.done);
    let seen = upstream.seen().remove(0);
    assert!(seen.head.starts_with("POST /images/generations "), "{}", seen.head);
    assert_eq!(
        serde_json::from_slice::<Value>(&seen.body).unwrap(),
        json!({ "model": "upstream-model", "prompt": "a cat", "n": 2, "style": "vivid" })
    );
}

#[tokio::test]
async fn an_image_in_a_chat_s_markdown_is_found_and_not_fetched() {
    let message = r#"{"role":"assistant","content":"Here: ![cat](https://images.example/1.png)"}"#;
    let upstream = Upstream::start([wire::completion(message, "stop")]).await;
    let style = ImageStyle::MarkdownInChat { image_hosts: vec!["other.example".into()] };
    let settings = styled(&upstream.url(), style);
    let (reply, facts) = images(&settings, r#"{"model":"m","prompt":"a cat","n":2}"#).await.unwrap();
    let image = json!({ "url": "https://images.example/1.png" });
    assert_eq!(reply, json!({ "created": 1_700_000_000, "data": [image, image] }));
    assert_eq!((count(&facts), upstream.seen().len()), (2, 2));
    let sent: Value = serde_json::from_slice(&upstream.seen()[0].body).unwrap();
    assert_eq!((&sent["messages"][0]["content"], &sent["model"]), (&json!("a cat"), &json!("upstream-model")));

    // Its host was not named by the operator.
    let error = images(&settings, r#"{"model":"m","prompt":"a cat","response_format":"b64_json"}"#).await.unwrap_err();
    assert_eq!(error.kind, ProviderErrorKind::Request);
    assert_eq!(error.public.unwrap().param.as_deref(), Some("response_format"));
}

#[tokio::test]
async fn an_image_on_a_named_host_is_fetched_only_from_public_https() {
    for url in
        ["http://localhost/1.png", "https://localhost:1/1.png", "https://127.0.0.1:1/1.png", "https://[::1]:1/1.png"]
    {
        let message = format!(r#"{{"role":"assistant","content":"![cat]({url})"}}"#);
        let upstream = Upstream::start([wire::completion(&message, "stop")]).await;
        let hosts = vec!["localhost".into(), "127.0.0.1".into(), "[::1]".into()];
        let settings = styled(&upstream.url(), ImageStyle::MarkdownInChat { image_hosts: hosts });
        let error = images(&settings, r#"{"model":"m","prompt":"","response_format":"b64_json"}"#).await.unwrap_err();
        let text = ai4free_contract::llm_provider::conversation::texts(&error);
        let was_refused = text.contains("may be downloaded") || text.contains("may be connected to");
        assert!(was_refused, "{url}: {text}");
    }
}

#[tokio::test]
async fn an_image_behind_a_get_url_has_its_prompt_as_one_segment() {
    let upstream = Upstream::start([jpeg()]).await;
    let url = format!("{}/prompt/", upstream.url()).into();
    let settings = styled(&upstream.url(), ImageStyle::GetUrl { url });
    let ask = r#"{"model":"m","prompt":"a/../cat? #1%","n":2,"size":"256x512"}"#;
    let (reply, facts) = images(&settings, ask).await.unwrap();
    let image = json!({ "url": "data:image/jpeg;base64,QUJD" });
    assert_eq!(reply["data"], json!([image, image]));
    assert_eq!(count(&facts), 2);
    let lines: Vec<_> = upstream.seen().iter().map(|seen| seen.head.lines().next().unwrap().to_owned()).collect();
    let rest = "?width=256&height=512&model=upstream-model&seed=";
    assert!(lines[0].starts_with(&format!("GET /prompt/a%2F..%2Fcat%3F%20%231%25{rest}")), "{}", lines[0]);
    assert_ne!(lines[0], lines[1], "each image has its own seed");
    assert!(upstream.seen()[0].head.contains(SECRET), "the provider's own host");

    let (again, _) =
        images(&settings, &ask.replace("\"n\":2", "\"n\":1,\"response_format\":\"b64_json\"")).await.unwrap();
    assert_eq!(again["data"], json!([{ "b64_json": "QUJD" }]));
    assert_eq!(upstream.seen()[2].head.lines().next().unwrap(), lines[0], "the same request makes the same image");
}

#[tokio::test]
async fn a_credential_does_not_follow_to_another_host() {
    let upstream = Upstream::start([jpeg()]).await;
    let settings = styled("http://127.0.0.2:9/v1", ImageStyle::GetUrl { url: upstream.url().into() });
    images(&settings, r#"{"model":"m","prompt":"cat"}"#).await.unwrap();
    assert!(!upstream.seen()[0].head.contains(SECRET));
}

#[tokio::test]
async fn what_is_not_an_image_is_an_error() {
    let upstream = Upstream::start([wire::json(200, "", "{}")]).await;
    let settings = styled(&upstream.url(), ImageStyle::GetUrl { url: upstream.url().into() });
    let error = images(&settings, r#"{"model":"m","prompt":"cat"}"#).await.unwrap_err();
    assert_eq!(error.kind, ProviderErrorKind::Protocol);
}

#[tokio::test]
async fn a_data_url_in_json_is_taken_apart() {
    let upstream = Upstream::start([wire::json(200, "", r#"{"result":"data:image/png;base64,QUJD"}"#)]).await;
    let settings = styled(&upstream.url(), ImageStyle::JsonDataUrl { url: upstream.url().into() });
    for (size, sent_size) in [("1024x1024", "1_1"), ("1024x1792", "9_16"), ("1792x1024", "16_9")] {
        let ask = format!(r#"{{"model":"m","prompt":"cat","size":"{size}","response_format":"b64_json"}}"#);
        let (reply, _) = images(&settings, &ask).await.unwrap();
        assert_eq!(reply["data"], json!([{ "b64_json": "QUJD" }]));
        let sent: Value = serde_json::from_slice(&upstream.seen().last().unwrap().body).unwrap();
        let expected = json!({ "prompt": "cat", "model": "upstream-model", "size": sent_size, "isPublic": false });
        assert_eq!(sent, expected);
    }
    let (reply, _) = images(&settings, r#"{"model":"m","prompt":"cat"}"#).await.unwrap();
    assert_eq!(reply["data"], json!([{ "url": "data:image/png;base64,QUJD" }]));
}

#[tokio::test]
async fn a_provider_without_images_says_so() {
    let error = images(&settings("http://127.0.0.1:9"), r#"{"model":"m","prompt":"cat"}"#).await.unwrap_err();
    assert_eq!((error.kind, error.request_was_sent), (ProviderErrorKind::Request, false));
    assert!(error.public.is_some());
}
