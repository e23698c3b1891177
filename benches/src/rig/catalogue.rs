//! The models of a benchmark: like a small model of OpenAI's, with a price, so that every request costs something.

use serde_json::{Value, json};

/// What the rows ask for: see `upstream/script.rs` for the names.
const MODELS: [&str; 3] = ["bench", "bench-gap10", "bench-hold"];

/// A file for `[catalogue] models`, with `more` models that nobody steers anything by.
pub(crate) fn file(more: &[String]) -> Value {
    let names = MODELS.iter().copied().chain(more.iter().map(String::as_str));
    let models: Vec<Value> = names
        .map(|name| {
            json!({
                "id": name,
                "kind": "chat",
                "targets": [{"provider": "openai", "model": name}],
                "encoding": "o200k",
                "price": {"input": 150_000, "output": 600_000, "cache_read": 75_000},
                "max_input_tokens": 128_000,
                "max_output_tokens": 16_384,
                "hides_reasoning": false,
            })
        })
        .collect();
    json!({"version": 1, "models": models})
}
