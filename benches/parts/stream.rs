//! Events of a stream, and whole replies, on the byte lane (`tap`) and on the crossing lane (`reader`).

use std::sync::Arc;

use ai4free_ports::{
    dialect::{Dialect, StreamContext},
    request::Operation,
};
use ai4free_providers::dialects;
use bytes::Bytes;
use divan::{Bencher, counter::ItemsCount};

const WORDS: usize = 64;

fn event(rest: &str) -> String {
    format!(
        "data: {{\"id\":\"chatcmpl-Bx01\",\"object\":\"chat.completion.chunk\",\"created\":1753000000,\"model\":\"gpt-4o-mini\",\"service_tier\":\"default\",\"system_fingerprint\":\"fp_34a54ae93c\",\"choices\":{rest}}}\n\n"
    )
}

/// Each in a read of its own.
fn events() -> Vec<Bytes> {
    let choice = |delta: &str, finish: &str| {
        event(&format!(r#"[{{"index":0,"delta":{delta},"logprobs":null,"finish_reason":{finish}}}],"usage":null"#))
    };
    let words = std::iter::repeat_with(|| choice(r#"{"content":" gateway"}"#, "null")).take(WORDS);
    std::iter::once(choice(r#"{"role":"assistant","content":"","refusal":null}"#, "null"))
        .chain(words)
        .chain([
            choice("{}", r#""stop""#),
            event(r#"[],"usage":{"prompt_tokens":42,"completion_tokens":64,"total_tokens":106}"#),
            "data: [DONE]\n\n".to_owned(),
        ])
        .map(Bytes::from)
        .collect()
}

fn dialect() -> Arc<dyn Dialect> {
    dialects::by_name("openai").unwrap()
}

/// A whole stream; its throughput is told in events.
#[divan::bench]
fn tap(bencher: Bencher<'_, '_>) {
    let (dialect, events) = (dialect(), events());
    bencher.counter(ItemsCount::new(events.len())).bench(|| {
        let mut tap = dialect.tap(StreamContext { include_usage: true });
        for event in &events {
            divan::black_box(tap.feed(event.clone()).unwrap());
        }
    });
}

/// A whole stream; its throughput is told in events.
#[divan::bench]
fn reader(bencher: Bencher<'_, '_>) {
    let (dialect, events) = (dialect(), events());
    bencher.counter(ItemsCount::new(events.len())).bench(|| {
        let (mut reader, mut read) = (dialect.event_reader(), Vec::new());
        for event in &events {
            reader.feed(event, &mut read).unwrap();
        }
        read
    });
}

/// A whole reply of 1.2 KB.
#[divan::bench]
fn inspect_reply(bencher: Bencher<'_, '_>) {
    let text = " the gateway answers with small pieces of text".repeat(13);
    let body: Bytes = format!(
        r#"{{"id":"chatcmpl-Bx01","object":"chat.completion","created":1753000000,"model":"gpt-4o-mini","choices":[{{"index":0,"message":{{"role":"assistant","content":"{text}","refusal":null,"annotations":[]}},"logprobs":null,"finish_reason":"stop"}}],"usage":{{"prompt_tokens":42,"completion_tokens":128,"total_tokens":170,"prompt_tokens_details":{{"cached_tokens":0,"audio_tokens":0}},"completion_tokens_details":{{"reasoning_tokens":0,"audio_tokens":0,"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}}}},"service_tier":"default","system_fingerprint":"fp_34a54ae93c"}}"#
    )
    .into();
    let dialect = dialect();
    bencher.bench(|| dialect.inspect_reply(Operation::Chat, &body).unwrap());
}
