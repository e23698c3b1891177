use ai4free_contract::dialect::tap;
use ai4free_ports::error::ProviderErrorKind;

use super::*;
use crate::dialects::openai::{
    dialect,
    fixtures::{complete, fixture},
};

const BEGIN: &str = r#"{"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}"#;
const FINISH: &str = r#"{"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#;

fn framed_text(payloads: &[&str]) -> String {
    payloads.iter().map(|payload| format!("data: {payload}\n\n")).collect()
}

fn said(content: &str) -> String {
    BEGIN.replace(r#"{"role":"assistant","content":""}"#, &format!(r#"{{"content":{content}}}"#))
}

fn tapped(stream: &str, include_usage: bool) -> (String, Facts, Option<ProviderErrorKind>) {
    let tapped = tap(&*dialect(), &[stream.as_bytes()], include_usage);
    (String::from_utf8(tapped.bytes.to_vec()).unwrap(), tapped.facts, tapped.error)
}

#[test]
fn conforming_events_leave_as_one_slice_of_the_read() {
    let stream = Bytes::from_static(fixture!("openai_text.sse"));
    let usage_event = memchr::memmem::find(&stream, b"\"choices\":[]").unwrap();
    let start = memchr::memmem::rfind(&stream[..usage_event], b"data: ").unwrap();
    let read = stream.slice(..start);
    let mut tap = OpenAiTap::new(StreamContext::default());
    let chunk = tap.feed(read.clone()).unwrap();
    assert_eq!((chunk.bytes.as_ptr(), chunk.bytes.len()), (read.as_ptr(), read.len()));
    assert_eq!(chunk.facts.output_bytes, 3 + 2 + 10 + 11 + 1);
    assert!(chunk.facts.finished && !chunk.facts.done);
    // Usage was not asked for: nothing of it is left.
    let end = tap.feed(stream.slice(start..)).unwrap();
    assert_eq!(end.bytes, DONE_EVENT);
    assert_eq!(end.facts.usage.map(|usage| (usage.input, usage.output)), Some((19, 10)));
}

#[test]
fn most_events_are_only_scanned() {
    for name in [
        "openai_text.sse",
        "openai_tools_parallel.sse",
        "openai_two_choices.sse",
        "deepseek.sse",
        "azure.sse",
        "python_spaces.sse",
    ] {
        let stream = complete().into_iter().find(|stream| stream.name == name).unwrap().bytes;
        let mut tap = OpenAiTap::new(StreamContext::default());
        let (mut scanned, mut at) = (0, 0);
        let mut splitter = EventSplitter::default();
        while let Ok(Some(Event::Within(range))) = splitter.next(&stream, &mut at) {
            let event = stream.slice(range);
            let payload = sse::plain_data(&event);
            let verified = payload.and_then(|payload| tap.template.as_ref()?.verify(payload, &tap.sanitiser.choices));
            scanned += usize::from(verified.is_some());
            tap.feed(event).unwrap();
        }
        assert!(scanned >= 2, "{name}: {scanned}");
    }
}

#[test]
fn a_null_role_passes_and_a_repeated_one_is_taken_out() {
    let null = said("\"a\"").replace("{\"content\"", "{\"role\":null,\"content\"");
    let repeated = null.replace("null,\"content\"", "\"assistant\",\"content\"");
    let stream = framed_text(&[BEGIN, &null, &repeated, FINISH, "[DONE]"]);
    assert_eq!(tapped(&stream, false).0, framed_text(&[BEGIN, &null, &said("\"a\""), FINISH, "[DONE]"]));
}

#[test]
fn every_chunk_is_of_the_first_ones_reply() {
    let good = said("\"a\"");
    for (written, other) in [
        (r#""id":"c""#, r#""id":"d""#),
        (r#""model":"m""#, r#""model":"n""#),
        (r#""created":1"#, r#""created":2"#),
        ("chat.completion.chunk", "chat.completion"),
    ] {
        let stream = framed_text(&[BEGIN, &good, &good.replace(written, other), FINISH, "[DONE]"]);
        assert_eq!(tapped(&stream, false).0, framed_text(&[BEGIN, &good, &good, FINISH, "[DONE]"]));
    }
}

#[test]
fn a_choice_finishes_once_and_says_so_or_null() {
    let good = said("\"a\"");
    let without = good.replace(r#","finish_reason":null"#, "");
    let stream = framed_text(&[BEGIN, &without, FINISH, &said("\"\""), FINISH, &said("null"), "[DONE]"]);
    assert_eq!(tapped(&stream, false).0, framed_text(&[BEGIN, &good, FINISH, "[DONE]"]));
}

#[test]
fn usage_that_was_not_asked_for_leaves_no_trace() {
    let stream = std::str::from_utf8(fixture!("vllm_usage_in_every_chunk.sse")).unwrap();
    let (text, facts, _) = tapped(stream, false);
    assert!(!text.contains("usage"), "{text}");
    assert_eq!(facts.usage.map(|usage| (usage.input, usage.output)), Some((11, 5)));
}

#[test]
fn usage_comes_between_the_finish_and_the_end() {
    let (text, _, _) = tapped(std::str::from_utf8(fixture!("openai_text.sse")).unwrap(), true);
    assert_eq!(text.as_bytes(), fixture!("openai_text.sse"));
    let (text, facts, _) = tapped(std::str::from_utf8(fixture!("openrouter.sse")).unwrap(), true);
    let events: Vec<_> = text.trim_end().split("\n\n").collect();
    assert!(events[events.len() - 3].contains(r#""finish_reason":"stop""#), "{text}");
    assert!(events[events.len() - 2].contains(r#""choices":[],"usage":{"prompt_tokens":14"#), "{text}");
    assert_eq!(facts.provider_cost.map(|cost| cost.0), Some(140_000_000));
    assert_eq!(text.matches("\"usage\":{").count(), 1);
}

#[test]
fn what_a_provider_says_that_a_stream_cost_is_kept_to_the_last_digit() {
    for (stream, cost) in [
        (&fixture!("openrouter.sse")[..], 140_000_000),
        (&fixture!("perplexity.sse")[..], 5_012_000_000),
        (&fixture!("xai.sse")[..], 204_000_000),
    ] {
        let stream = std::str::from_utf8(stream).unwrap();
        assert_eq!(tapped(stream, false).1.provider_cost.map(|cost| cost.0), Some(cost), "{stream}");
    }
}

#[test]
fn a_dead_stream_never_looks_finished() {
    for (stream, kind) in [
        (framed_text(&[BEGIN]), ProviderErrorKind::Protocol),
        (framed_text(&[BEGIN, &said("\"a\"")]) + "data: {\"id\":\"c\",\"obj", ProviderErrorKind::Protocol),
        (framed_text(&[BEGIN, "[DONE]"]), ProviderErrorKind::Protocol),
        (framed_text(&[BEGIN, "{broken}", FINISH, "[DONE]"]), ProviderErrorKind::Protocol),
        (framed_text(&[BEGIN, r#"{"error":{"message":"x","code":429}}"#, "[DONE]"]), ProviderErrorKind::RateLimit),
        (framed_text(&[BEGIN, &FINISH.replace("\"stop\"", "\"error\"")]), ProviderErrorKind::Server),
    ] {
        let (text, facts, error) = tapped(&stream, true);
        assert_eq!(error, Some(kind), "{stream}");
        assert!(!facts.done && !facts.finished && !text.contains("[DONE]"), "{text}");
        assert!(text.starts_with("data: {\"id\":\"c\""), "what came before is delivered: {text}");
    }
}

#[test]
fn a_missing_end_event_is_added_and_nothing_follows_it() {
    let whole = framed_text(&[BEGIN, &said("\"a\""), FINISH, "[DONE]"]);
    assert_eq!(tapped(&framed_text(&[BEGIN, &said("\"a\""), FINISH]), true).0, whole);
    let mut tap = OpenAiTap::new(StreamContext::default());
    let chunk = tap.feed((whole.clone() + "data: {\"more\":1}\n\n").into()).unwrap();
    assert_eq!(chunk.bytes, whole);
    assert!(chunk.facts.done && chunk.facts.finished);
    assert_eq!(tap.end().unwrap(), Chunk::default());
}

#[test]
fn a_scan_is_as_strict_as_a_parser() {
    for bad in [
        r#"{"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]"#,
        r#"{"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"content":"a},"finish_reason":null}]}"#,
        "{\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"\u{1}\"},\"finish_reason\":null}]}",
        r#"{"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}}"#,
        r#"{"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"content":"\q"},"finish_reason":null}]}"#,
    ] {
        let (_, _, error) = tapped(&framed_text(&[BEGIN, bad, FINISH, "[DONE]"]), false);
        assert_eq!(error, Some(ProviderErrorKind::Protocol), "{bad}");
    }
}

#[test]
fn what_a_string_holds_is_text() {
    let content = said(r#""\"usage\":{\"error\":1} data: [DONE]\n\n \"choices\":[] \ud83d""#);
    let whole = framed_text(&[BEGIN, &content, FINISH, "[DONE]"]);
    let (text, facts, error) = tapped(&whole, false);
    assert_eq!((text, facts.usage, error), (whole, None, None));
}

#[test]
fn a_huge_event_passes_and_a_monstrous_one_does_not() {
    let content = format!("\"{}\"", "x".repeat(2 << 20));
    let stream = framed_text(&[BEGIN, &said(&content), FINISH, "[DONE]"]);
    let reads: Vec<_> = stream.as_bytes().chunks(1 << 10).collect();
    let tapped = tap(&*dialect(), &reads, false);
    assert_eq!((tapped.error, tapped.bytes.len()), (None, stream.len()));
    let chunk = vec![b'x'; 1 << 20];
    let endless: Vec<_> = std::iter::repeat_n(&chunk[..], 17).collect();
    assert_eq!(tap(&*dialect(), &endless, false).error, Some(ProviderErrorKind::Protocol));
}
