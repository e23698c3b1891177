//! Recorded streams and replies, one per vendor and oddity, and the same stream in other line ends.

use ai4free_contract::dialect::Recorded;
use bytes::Bytes;

macro_rules! recorded {
    ($($name:literal)+) => {
        vec![$(Recorded { name: $name, bytes: Bytes::from_static(fixture!($name)) }),+]
    };
}

macro_rules! fixture {
    ($name:literal) => {
        include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/openai/", $name))
    };
}

pub(super) use fixture;

pub(super) fn complete() -> Vec<Recorded> {
    let mut streams = recorded![
        "azure.sse"
        "deepseek.sse"
        "framing.sse"
        "groq.sse"
        "ids_change.sse"
        "mistral.sse"
        "nulls.sse"
        "openai_logprobs.sse"
        "openai_refusal.sse"
        "openai_text.sse"
        "openai_tools_parallel.sse"
        "openai_two_choices.sse"
        "openrouter.sse"
        "perplexity.sse"
        "python_spaces.sse"
        "tools_all_index_zero.sse"
        "tools_with_gaps.sse"
        "tools_without_index.sse"
        "vllm_usage_in_every_chunk.sse"
        "xai.sse"
    ];
    for (name, line_end) in [("framing, CRLF", "\r\n"), ("framing, CR", "\r")] {
        streams.push(Recorded { name, bytes: with_line_ends(fixture!("framing.sse"), line_end) });
    }
    streams
}

pub(super) fn broken() -> Vec<Recorded> {
    recorded!["flat_error_string.sse" "openrouter_error.sse" "vllm_error.sse"]
}

/// A line end in a stream is never in a string: this changes framing only.
pub(super) fn with_line_ends(stream: &[u8], line_end: &str) -> Bytes {
    String::from_utf8(stream.to_vec()).unwrap().replace('\n', line_end).into()
}
