//! What is said in every dialect.

use ai4free_ports::{
    chat::{ChatEvent, ChatReply, Choice, FinishReason, ToolCall},
    usage::TokenUsage,
};

/// Everything that a stream can say.
pub(super) fn conversation() -> Vec<ChatEvent> {
    let text = |text: &str| ChatEvent::Text { choice: 0, text: text.into() };
    vec![
        ChatEvent::Start { id: "reply-1".into(), created: 1_763_800_000, model: "a \"model\"".into() },
        ChatEvent::Reasoning { choice: 0, text: "Hm.\n".into() },
        text("Hel"),
        text("lo \u{2028} 中 😀 \" \\ data: x\n\n"),
        ChatEvent::ToolCall { choice: 0, call: 0, id: "call_a".into(), name: "f".into() },
        ChatEvent::ToolArguments { choice: 0, call: 0, fragment: "{\"a\":".into() },
        ChatEvent::Refusal { choice: 1, text: "No.".into() },
        ChatEvent::ToolArguments { choice: 0, call: 0, fragment: "1}".into() },
        ChatEvent::ToolCall { choice: 0, call: 1, id: "call_b".into(), name: "g".into() },
        ChatEvent::ToolArguments { choice: 0, call: 1, fragment: "not json".into() },
        ChatEvent::Finish { choice: 0, reason: FinishReason::ToolCalls },
        ChatEvent::Finish { choice: 1, reason: FinishReason::ContentFilter },
        ChatEvent::Usage(full_usage()),
        ChatEvent::End,
    ]
}

pub(super) fn full_usage() -> TokenUsage {
    TokenUsage {
        input: 10,
        cache_read: 20,
        cache_write: 30,
        output: 40,
        reasoning: 50,
        audio_in: 0,
        audio_out: 0,
        images: 0,
    }
}

pub(super) fn replies() -> Vec<ChatReply> {
    let reply = |choices, usage| ChatReply {
        id: "reply-1".into(),
        created: 1_763_800_000,
        model: "m".into(),
        choices,
        usage,
        provider_cost: None,
    };
    let call = |id: &str| ToolCall { id: id.into(), name: "f".into(), arguments: "{\"a\": 1".into() };
    let plain = Choice { text: Some("Hi \u{0} \"".into()), finish: Some(FinishReason::Stop), ..Choice::default() };
    let calls = Choice {
        reasoning: Some("Hm".into()),
        tool_calls: vec![call("call_a"), call("call_b")],
        finish: Some(FinishReason::ToolCalls),
        ..Choice::default()
    };
    let refused = Choice { refusal: Some("No".into()), finish: Some(FinishReason::Length), ..Choice::default() };
    vec![
        reply(vec![plain.clone()], Some(full_usage())),
        reply(vec![calls, refused, plain.clone()], Some(TokenUsage::default())),
        reply(vec![Choice { text: Some(String::new()), finish: Some(FinishReason::ContentFilter), ..plain }], None),
    ]
}
