use ai4free_ports::money::PicoUsd;

use super::*;
use crate::dialects::openai::fixtures::fixture;

#[test]
fn a_reply_is_measured_without_being_changed() {
    let facts = inspect(Operation::Chat, fixture!("reply.json")).unwrap();
    assert_eq!(facts.output_bytes, "Hello! How can I assist you today?".len() as u64);
    assert_eq!(facts.usage.map(|usage| (usage.input, usage.output)), Some((19, 10)));
    assert!(facts.finished && facts.done);
    let facts = inspect(Operation::Chat, fixture!("reply_deepseek_leading_lines.json")).unwrap();
    assert_eq!(facts.usage.map(|usage| (usage.cache_read, usage.reasoning)), Some((8, 15)));
}

#[test]
fn a_reply_of_images_counts_them() {
    let facts = inspect(Operation::ImageGeneration, fixture!("reply_images.json")).unwrap();
    assert_eq!(facts.usage.map(|usage| (usage.images, usage.input, usage.output)), Some((2, 50, 50)));
    assert!(inspect(Operation::ImageGeneration, fixture!("reply.json")).is_err());
    let bare = inspect(Operation::ImageGeneration, br#"{"created":1,"data":[{"url":"https://x"}]}"#).unwrap();
    assert_eq!(bare.usage, Some(TokenUsage { images: 1, ..TokenUsage::default() }));
}

#[test]
fn what_a_provider_says_that_a_reply_cost_is_kept_to_the_last_digit() {
    let cost = Some(PicoUsd(204_000_100));
    assert_eq!(inspect(Operation::Chat, fixture!("reply_openrouter.json")).unwrap().provider_cost, cost);
    assert_eq!(decode(fixture!("reply_openrouter.json")).unwrap().provider_cost, cost);
    let images = br#"{"data":[{"url":"https://x"}],"usage":{"cost_in_usd_ticks":200000000}}"#;
    let facts = inspect(Operation::ImageGeneration, images).unwrap();
    assert_eq!(facts.provider_cost, Some(PicoUsd(20_000_000_000)));
}

#[test]
fn an_error_with_status_200_is_an_error() {
    for (body, kind) in [
        (r#"{"error":{"message":"m","code":429}}"#, ProviderErrorKind::RateLimit),
        (r#"{"error":"text","choices":[{}]}"#, ProviderErrorKind::Server),
        (r#"{"object":"error","message":"m","code":400}"#, ProviderErrorKind::Request),
        (r#"{"choices":null}"#, ProviderErrorKind::Protocol),
    ] {
        assert_eq!(inspect(Operation::Chat, body.as_bytes()).unwrap_err().kind, kind, "{body}");
        assert_eq!(decode(body.as_bytes()).unwrap_err().kind, kind, "{body}");
    }
    assert!(inspect(Operation::Chat, br#"{"error":null,"choices":[{"message":{"content":"a"}}]}"#).is_ok());
}

#[test]
fn vendors_ways_are_decoded() {
    let reply = decode(fixture!("reply_deepseek_leading_lines.json")).unwrap();
    let choice = &reply.choices[0];
    assert_eq!((choice.text.as_deref(), choice.reasoning.as_deref()), (None, Some("Hm.")));
    assert_eq!(choice.tool_calls[1].arguments, "not json");
    let odd = br#"{"choices":[{"message":{"content":[{"type":"thinking","thinking":[{"type":"text","text":"Hm"}]},
        {"type":"text","text":"Oui"}],"tool_calls":[{"function":{"name":"f","arguments":{"a":1}}}]},"finish_reason":"eos"}]}"#;
    let choice = decode(odd).unwrap().choices.remove(0);
    assert_eq!((choice.text.as_deref(), choice.reasoning.as_deref()), (Some("Oui"), Some("Hm")));
    assert_eq!(choice.tool_calls, [ToolCall { id: "call_0".into(), name: "f".into(), arguments: r#"{"a":1}"#.into() }]);
    assert_eq!(choice.finish, Some(ai4free_ports::chat::FinishReason::Stop));
}

#[test]
fn a_reply_is_written_as_openai_writes_it() {
    let choice =
        Choice { text: Some("Hi".into()), finish: Some(ai4free_ports::chat::FinishReason::Stop), ..Choice::default() };
    let usage = Some(TokenUsage { input: 3, output: 1, ..TokenUsage::default() });
    let reply = ChatReply {
        id: "chatcmpl-1".into(),
        created: 1,
        model: "m".into(),
        choices: vec![choice],
        usage,
        provider_cost: None,
    };
    let expected = r#"{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"Hi","refusal":null},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":1,"total_tokens":4,"prompt_tokens_details":{"cached_tokens":0,"audio_tokens":0},"completion_tokens_details":{"reasoning_tokens":0,"audio_tokens":0,"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}}}"#;
    assert_eq!(encode(&reply), expected);
}
