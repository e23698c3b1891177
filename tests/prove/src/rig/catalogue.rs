//! The models of the proofs and what they cost: the oracle's own arithmetic, beside that of the gateway.

use serde_json::{Value, json};

/// Micro-USD per million tokens, which is pico-USD per token; micro-USD per image and request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Model {
    pub(crate) id: &'static str,
    pub(crate) version: u32,
    pub(crate) input: i64,
    pub(crate) cache_read: i64,
    pub(crate) output: i64,
    pub(crate) reasoning: i64,
    pub(crate) per_request: i64,
    pub(crate) per_image: i64,
    pub(crate) is_image: bool,
}

/// Primes, so that a wrong product is not right by chance.
pub(crate) const CHEAP: Model = Model {
    id: "prove/cheap",
    version: 11,
    input: 150_001,
    cache_read: 75_011,
    output: 600_011,
    reasoning: 600_011,
    per_request: 0,
    per_image: 0,
    is_image: false,
};
pub(crate) const DEAR: Model = Model {
    id: "prove/dear",
    version: 22,
    input: 15_000_017,
    cache_read: 1_500_007,
    output: 75_000_007,
    reasoning: 60_000_011,
    per_request: 0,
    per_image: 0,
    is_image: false,
};
pub(crate) const PER_REQUEST: Model = Model {
    id: "prove/per-request",
    version: 33,
    input: 2_500_009,
    cache_read: 2_500_009,
    output: 10_000_019,
    reasoning: 10_000_019,
    per_request: 10_007,
    per_image: 0,
    is_image: false,
};
/// Costs the same whatever it says.
pub(crate) const FIXED: Model = Model {
    id: "prove/fixed",
    version: 44,
    input: 0,
    cache_read: 0,
    output: 0,
    reasoning: 0,
    per_request: 10_000,
    per_image: 0,
    is_image: false,
};
pub(crate) const IMAGE: Model = Model {
    id: "prove/image",
    version: 55,
    input: 0,
    cache_read: 0,
    output: 0,
    reasoning: 0,
    per_request: 0,
    per_image: 40_009,
    is_image: true,
};

const ALL: [Model; 5] = [CHEAP, DEAR, PER_REQUEST, FIXED, IMAGE];

/// Disjoint counts, as the ledger has them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) input: i64,
    pub(crate) cache_read: i64,
    pub(crate) output: i64,
    pub(crate) reasoning: i64,
    pub(crate) images: i64,
}

impl Usage {
    pub(crate) fn tokens(&self) -> i64 {
        self.input + self.cache_read + self.output + self.reasoning
    }

    /// As a provider reports it.
    pub(crate) fn on_the_wire(&self) -> Value {
        let (prompt, completion) = (self.input + self.cache_read, self.output + self.reasoning);
        json!({
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": self.cache_read},
            "completion_tokens_details": {"reasoning_tokens": self.reasoning},
        })
    }
}

impl Model {
    pub(crate) fn cost_pico(&self, usage: &Usage) -> i128 {
        let product = |count: i64, price: i64| i128::from(count) * i128::from(price);
        product(usage.input, self.input)
            + product(usage.cache_read, self.cache_read)
            + product(usage.output, self.output)
            + product(usage.reasoning, self.reasoning)
            + product(usage.images, self.per_image) * 1_000_000
            + i128::from(self.per_request) * 1_000_000
    }
}

/// A file for `[catalogue] models`.
pub(crate) fn file() -> String {
    let entry = |model: &Model| {
        json!({
            "id": model.id,
            "kind": if model.is_image { "image" } else { "chat" },
            "targets": [{"provider": "openai", "model": model.id.trim_start_matches("prove/")}],
            "encoding": "bytes_per_four",
            "price": {
                "version": model.version,
                "input": model.input,
                "cache_read": model.cache_read,
                "output": model.output,
                "reasoning": model.reasoning,
                "per_request": model.per_request,
                "per_image": model.per_image,
            },
        })
    };
    json!({"version": 1, "models": ALL.iter().map(entry).collect::<Vec<_>>()}).to_string()
}
