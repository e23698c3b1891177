use std::sync::Arc;

use super::*;
use crate::dialects::openai::dialect;

fn inbound(body: &Value) -> InboundRequest {
    let body = Bytes::from(body.to_string());
    let view = Arc::new(dialect().view(Operation::Chat, &body).unwrap());
    InboundRequest { operation: Operation::Chat, dialect: dialect(), body, view }
}

fn edits() -> Edits {
    Edits { model: "theirs".into(), output_cap: Some(9), output_cap_field: Some("max_tokens"), ask_for_usage: true }
}

#[test]
fn a_request_crosses_and_comes_back_the_same() {
    let body = json!({
        "model": "ours",
        "messages": [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": [{"type": "text", "text": "look"}, {"type": "image_url", "image_url": {"url": "https://x"}}], "name": "ann"},
            {"role": "assistant", "content": null, "tool_calls": [{"id": "call_a", "type": "function", "function": {"name": "f", "arguments": "{"}}]},
            {"role": "tool", "content": "done", "tool_call_id": "call_a"},
        ],
        "tools": [{"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}],
        "temperature": 0.5,
        "stop": ["a", "b"],
        "seed": 7,
        "response_format": {"type": "json_object"},
        "stream_options": {"include_obfuscation": false},
        "stream": true,
    });
    let decoded = decode(&inbound(&body)).unwrap();
    assert_eq!((decoded.model.as_str(), decoded.stream, decoded.max_output_tokens), ("ours", true, None));
    let encoded: Value = serde_json::from_slice(&encode(&decoded, &edits())).unwrap();
    let mut expected = body;
    expected["model"] = "theirs".into();
    expected["max_tokens"] = 9.into();
    expected["stream_options"]["include_usage"] = true.into();
    assert_eq!(encoded, expected);
}

#[test]
fn a_whole_reply_is_asked_without_options_of_a_stream() {
    let mut decoded = decode(&inbound(&json!({
        "model": "ours", "messages": [{"role": "user", "content": "a"}], "stream": true, "stream_options": {}, "max_tokens": 5,
    })))
    .unwrap();
    decoded.stream = false;
    let edits = Edits { output_cap: None, output_cap_field: None, ..edits() };
    let encoded: Value = serde_json::from_slice(&encode(&decoded, &edits)).unwrap();
    let expected =
        json!({"model": "theirs", "messages": [{"role": "user", "content": "a"}], "max_completion_tokens": 5});
    assert_eq!(encoded, expected);
}

#[test]
fn what_has_no_canonical_form_is_refused_by_name() {
    for (member, value, param) in [
        ("tools", json!([{"type": "custom", "custom": {"name": "x"}}]), "tools[0].type"),
        ("tools", json!({}), "tools"),
        ("temperature", json!("hot"), "temperature"),
        ("stop", json!([5]), "stop"),
    ] {
        let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "a"}]});
        body[member] = value;
        assert_eq!(decode(&inbound(&body)).unwrap_err().param.as_deref(), Some(param));
    }
}
