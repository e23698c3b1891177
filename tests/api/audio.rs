//! Audio is a chat completion on an audio model.

use serde_json::{Value, json};

use crate::support::{Gateway, GatewayBuilder, MockUpstream, Reply, completion, events, post, stream::parse};

const MODEL: &str = "Provider-5/gpt-4o-audio-preview";

fn builder(upstream: &MockUpstream) -> GatewayBuilder {
    Gateway::builder()
        .set("PROVIDER_5_BASE_URL", &format!("http://{}", upstream.address))
        .set("PROVIDER_5_API_KEY", "five")
}

fn body(stream: bool) -> Value {
    json!({"model": MODEL, "stream": stream, "modalities": ["text", "audio"],
           "audio": {"voice": "nova", "format": "mp3"}, "messages": [{"role": "user", "content": "Say hi"}]})
}

fn spoken() -> Value {
    let mut whole = completion("");
    whole["choices"][0]["message"] = json!({"role": "assistant", "content": null, "refusal": null,
        "audio": {"id": "audio_1", "data": "UklGRg==", "transcript": "hi", "expires_at": 1_800_000_000}});
    whole["usage"] = json!({"prompt_tokens": 20, "completion_tokens": 30, "total_tokens": 50,
        "completion_tokens_details": {"audio_tokens": 25, "reasoning_tokens": 0}});
    whole
}

#[tokio::test]
async fn voice_and_format_reach_the_provider_and_its_audio_comes_back() {
    let upstream = MockUpstream::always(Reply::json(&spoken())).await;
    let gateway = builder(&upstream).start().await;
    let key = gateway.key().await;
    let response = gateway.send(&post("/v1/chat/completions", &body(false)).key(&key.text)).await;
    assert_eq!(response.success(), spoken());
    let request = upstream.request(0).await;
    assert_eq!(request.target, "/openai/chat/completions");
    let sent = request.json();
    assert_eq!((&sent["model"], &sent["audio"]), (&json!("openai-audio"), &json!({"voice": "nova", "format": "mp3"})));
    let usage = gateway.usage_of(&key, 1).await;
    assert_eq!((&usage["input_tokens"], &usage["output_tokens"]), (&json!(20), &json!(30)));
    gateway.stop().await;
}

#[tokio::test]
async fn raw_audio_becomes_a_completion() {
    let upstream = MockUpstream::always(Reply::whole(200, "audio/mpeg", b"\xff\xd8\xff\xe0jpeg")).await;
    let gateway = builder(&upstream).start().await;
    let key = gateway.key().await;
    let reply = gateway.send(&post("/v1/chat/completions", &body(false)).key(&key.text)).await.success();
    let message = &reply["choices"][0]["message"];
    assert_eq!((&message["content"], &message["role"]), (&Value::Null, &json!("assistant")));
    assert_eq!((&message["audio"]["data"], &message["audio"]["format"]), (&json!("/9j/4GpwZWc="), &json!("mp3")));
    assert_eq!(reply["choices"][0]["finish_reason"], "stop");
    gateway.stop().await;
}

#[tokio::test]
async fn raw_text_becomes_a_completion() {
    let upstream = MockUpstream::always(Reply::whole(200, "text/plain; charset=utf-8", "Bonjour é")).await;
    let gateway = builder(&upstream).start().await;
    let key = gateway.key().await;
    let chat = crate::support::chat("Provider-5/gpt-4o");
    let reply = gateway.send(&post("/v1/chat/completions", &chat).key(&key.text)).await.success();
    assert_eq!(reply["choices"][0]["message"]["content"], "Bonjour é");
    assert!(gateway.usage_of(&key, 1).await["output_tokens"].as_u64().unwrap() > 0, "counted here");
    gateway.stop().await;
}

#[tokio::test]
async fn an_audio_answer_can_be_streamed_although_the_provider_does_not() {
    let upstream = MockUpstream::always(Reply::json(&spoken())).await;
    let gateway = builder(&upstream).start().await;
    let key = gateway.key().await;
    let response = gateway.send(&post("/v1/chat/completions", &body(true)).key(&key.text)).await;
    let events = events(&response.body);
    assert_eq!(events.last().unwrap(), "[DONE]");
    let audio = events.iter().filter(|event| *event != "[DONE]").map(|event| parse(event));
    let audio: Vec<Value> =
        audio.map(|event| event["choices"][0]["delta"]["audio"].clone()).filter(|audio| !audio.is_null()).collect();
    assert_eq!((audio.len(), &audio[0]["data"], &audio[0]["transcript"]), (1, &json!("UklGRg=="), &json!("hi")));
    assert_ne!(upstream.request(0).await.json()["stream"], true);
    gateway.stop().await;
}
