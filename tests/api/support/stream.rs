//! Server-sent events of a chat completion: as a provider writes them, and as a client reads them.

use serde_json::{Value, json};

pub(crate) const DONE: &str = "data: [DONE]\n\n";

/// One piece of text; a provider's first one has the role.
pub(crate) fn chunk(text: &str) -> String {
    event(&json!([{"index": 0, "delta": {"content": text}, "logprobs": null, "finish_reason": null}]))
}

pub(crate) fn finish(reason: &str) -> String {
    event(&json!([{"index": 0, "delta": {}, "logprobs": null, "finish_reason": reason}]))
}

/// The last event before `[DONE]`, for those who asked.
pub(crate) fn usage(prompt: u64, completion: u64) -> String {
    let usage = json!({"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion});
    data(&json!({"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1_700_000_000,
                 "model": "gpt-4o-2024-08-06", "choices": [], "usage": usage}))
}

/// An event with these choices.
pub(crate) fn event(choices: &Value) -> String {
    data(&json!({"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1_700_000_000,
                 "model": "gpt-4o-2024-08-06", "choices": choices}))
}

pub(crate) fn data(value: &Value) -> String {
    format!("data: {value}\n\n")
}

/// The payloads of a stream. Nothing but `data:` lines and comments may be in it.
pub(crate) fn events(body: &[u8]) -> Vec<String> {
    let text = std::str::from_utf8(body).unwrap();
    assert!(text.is_empty() || text.ends_with("\n\n"), "the stream ends within an event: {text:?}");
    let blocks = text.split("\n\n").filter(|block| !block.is_empty() && !block.starts_with(':'));
    blocks
        .map(|block| {
            assert_eq!(block.lines().count(), 1, "{block:?}");
            block.strip_prefix("data: ").unwrap_or_else(|| panic!("not a data line: {block:?}")).to_owned()
        })
        .collect()
}

/// The text of choice 0, put together.
pub(crate) fn text_of(events: &[String]) -> String {
    let parsed = events.iter().filter(|event| *event != "[DONE]").map(|event| parse(event));
    parsed
        .filter_map(|event| Some(event["choices"].as_array()?.first()?["delta"]["content"].as_str()?.to_owned()))
        .collect()
}

pub(crate) fn parse(event: &str) -> Value {
    serde_json::from_str(event).unwrap_or_else(|error| panic!("{error}: {event}"))
}
