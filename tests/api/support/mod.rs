//! What the tests drive the gateway with: the real binary as a process, an upstream that does as it is told, and a client that
//! sends and sees bytes.

pub(crate) mod eventually;
pub(crate) mod gateway;
pub(crate) mod http;
mod postgres;
pub(crate) mod stores;
pub(crate) mod stream;
pub(crate) mod upstream;

pub(crate) use eventually::eventually;
pub(crate) use gateway::{Gateway, GatewayBuilder, Key, SYSTEM_SECRET};
pub(crate) use http::{Request, Response, delete, get, patch, post};
pub(crate) use stream::{DONE, chunk, events, finish, usage};
pub(crate) use upstream::{Gate, MockUpstream, Reply};

use serde_json::{Value, json};

/// A provider's whole answer: 9 tokens in, 12 out.
pub(crate) fn completion(text: &str) -> Value {
    json!({
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1_700_000_000, "model": "gpt-4o-2024-08-06",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text, "refusal": null},
                     "logprobs": null, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 9, "completion_tokens": 12, "total_tokens": 21}
    })
}

/// The body of a chat request for a model.
pub(crate) fn chat(model: &str) -> Value {
    json!({"model": model, "messages": [{"role": "user", "content": "Hello!"}]})
}

pub(crate) fn streamed_chat(model: &str) -> Value {
    json!({"model": model, "stream": true, "messages": [{"role": "user", "content": "Hello!"}]})
}
