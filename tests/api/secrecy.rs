//! What must never be written anywhere: prompts, replies, keys. And the metrics, which are read by others.

use std::{fs, path::Path};

use serde_json::json;

use crate::support::{
    DONE, Gateway, MockUpstream, Reply, SYSTEM_SECRET, chat, chunk, completion, finish, get, http::find, post,
    streamed_chat,
};

const PROMPT: &str = "canary-of-the-prompt-51c7";
const ANSWER: &str = "canary-of-the-answer-93be";
const PROVIDER_KEY: &str = "canary-of-the-provider-key-77aa";

#[tokio::test]
async fn no_prompt_answer_or_secret_is_written_anywhere() {
    let upstream = MockUpstream::start().await;
    let gateway = Gateway::builder()
        .set("OPENAI_API_KEY", PROVIDER_KEY)
        .set("OPENAI_BASE_URL", &upstream.url())
        .set("RUST_LOG", "trace")
        .set("AI4FREE__ADMIN__LISTEN", "127.0.0.1:0")
        .start()
        .await;
    let key = gateway.key_with(json!({"limits": {"tokens_per_minute": 1_000_000}})).await;
    let secret = &key.text[19..62];
    let echoed = format!("you sent {PROMPT} with the key {PROVIDER_KEY}");
    let without_usage = Reply::sse(&[chunk(ANSWER), finish("stop"), DONE.into()]);
    let replies = [
        Reply::json(&completion(ANSWER)),
        without_usage,
        Reply::stream().piece(&chunk(ANSWER)).then_cut(),
        Reply::error(500, &json!({"error": {"message": echoed}})),
        Reply::error(401, &json!({"error": {"message": echoed}})),
        Reply::error(429, &json!({"error": {"message": echoed}})),
        Reply::whole(200, "application/json", format!("{{\"{ANSWER}")),
        Reply::whole(200, "text/event-stream", format!("data: {{\"{ANSWER}\n\n")),
        Reply::reset(),
    ];
    let mut told = Vec::new();
    for reply in replies {
        for body in [chat("gpt-4o"), streamed_chat("gpt-4o")] {
            upstream.answer(reply.clone());
            let body = body.to_string().replace("Hello!", PROMPT);
            let request = post("/v1/chat/completions", &json!(0)).body(body).key(&key.text);
            let response = gateway.send(&request).await;
            if response.status >= 400 {
                told.extend(response.body);
            }
        }
    }
    for bad in
        [format!("{{\"model\":\"gpt-4o\",\"messages\":\"{PROMPT}\"}}"), format!("{{\"model\":\"gpt-4o\" {PROMPT}")]
    {
        let response = gateway.send(&post("/v1/chat/completions", &json!(0)).body(bad).key(&key.text)).await;
        response.error(400);
        told.extend(response.body);
    }
    told.extend(gateway.send(&get("/v1/usage").key(&format!("{}x", key.text))).await.body);
    gateway.administer(get(&format!("/v1/api-keys/{}", key.id))).await.success();
    let metrics = get("/metrics").send(gateway.admin_address().unwrap()).await;
    assert!(metrics.text().contains("ai4free_requests_total"), "{}", metrics.text());

    let mut places = vec![
        ("error bodies".to_owned(), told),
        ("metrics".to_owned(), metrics.body),
        ("log".to_owned(), gateway.stderr().into_bytes()),
        ("stdout".to_owned(), gateway.stdout().into_bytes()),
    ];
    read_files(&gateway.data_dir(), &mut places);
    assert!(places.iter().any(|(place, _)| place.contains("spool")), "the usage journal is looked at");
    for (what, canary) in [
        ("prompt", PROMPT),
        ("answer", ANSWER),
        ("provider's key", PROVIDER_KEY),
        ("key", secret),
        ("system secret", SYSTEM_SECRET),
    ] {
        for (place, bytes) in &places {
            if let Some(at) = find(bytes, canary.as_bytes()) {
                let around = &bytes[at.saturating_sub(300)..(at + 60).min(bytes.len())];
                panic!("the {what} is in {place}: {}", String::from_utf8_lossy(around));
            }
        }
    }
    gateway.stop().await;
}

#[tokio::test]
async fn metrics_are_off_until_they_are_given_an_address_and_then_only_there() {
    let gateway = Gateway::start().await;
    assert_eq!(gateway.admin_address(), None);
    gateway.send(&get("/metrics")).await.error(404);
    gateway.stop().await;

    let gateway = Gateway::builder().set("AI4FREE__ADMIN__LISTEN", "127.0.0.1:0").start().await;
    let key = gateway.key().await;
    for number in 0..3 {
        let body = chat(&format!("invented-{number}"));
        gateway.send(&post("/v1/chat/completions", &body).key(&key.text)).await.error(404);
    }
    gateway.send(&post("/v1/chat/completions", &chat("local/echo")).key(&key.text)).await.success();
    gateway.send(&get("/metrics")).await.error(404);
    let admin = gateway.admin_address().unwrap();
    let metrics = get("/metrics").send(admin).await;
    assert_eq!(metrics.status, 200);
    let text = metrics.text();
    assert!(text.contains("model=\"local/echo\""), "{text}");
    assert!(!text.contains("invented"), "a client can't make up labels: {text}");
    get("/v1/models").send(admin).await.error(404);
    gateway.stop().await;
}

fn read_files(folder: &Path, places: &mut Vec<(String, Vec<u8>)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read_files(&path, places);
        } else {
            places.push((path.display().to_string(), fs::read(&path).unwrap()));
        }
    }
}
