//! Clauses on good replies.

use ai4free_ports::{chat::ChatEvent, llm_provider::Reply};
use futures_util::StreamExt;

use super::{
    Harness,
    conversation::{Transcript, chat, whole},
    upstream::{Step, Upstream},
    wire,
};

const TEXT: &str = "Hello there, wörld!";
const ASK: &str = r#"{"model":"local/echo","messages":[{"role":"user","content":"Hello there, wörld!"}]}"#;
const ASK_STREAM: &str =
    r#"{"model":"local/echo","stream":true,"messages":[{"role":"user","content":"Hello there, wörld!"}]}"#;
const ASK_STREAM_AND_USAGE: &str = r#"{"model":"local/echo","stream":true,"stream_options":{"include_usage":true},"messages":[{"role":"user","content":"Hello there, wörld!"}]}"#;
const TOOLS: &str = r#""messages":[{"role":"user","content":"call get_weather {\"city\":\"Paris\"}"}],"tools":[{"type":"function","function":{"name":"get_weather","parameters":{"type":"object"}}}]"#;
const ARGUMENTS: &str = r#"{"city":"Paris"}"#;

fn text_stream() -> Vec<Step> {
    wire::stream(&[r#"{"content":"Hello "}"#, r#"{"content":"there, "}"#, r#"{"content":"wörld!"}"#], "stop")
}

pub async fn a_text_is_answered(harness: &impl Harness) {
    let script = wire::completion(r#"{"role":"assistant","content":"Hello there, wörld!","refusal":null}"#, "stop");
    let upstream = Upstream::start([script]).await;
    let provider = harness.provider(&upstream.url());
    let (reply, facts) = whole(harness, &*provider, chat(harness, ASK)).await;
    assert_eq!(reply.choices.len(), 1);
    assert_eq!(reply.choices[0].text.as_deref(), Some(TEXT));
    assert!(reply.choices[0].finish.is_some());
    assert!(facts.usage.is_some_and(|usage| usage.input_total() > 0 && usage.output_total() > 0), "{facts:?}");
    assert!(facts.done && facts.finished, "{facts:?}");
    assert_eq!(facts.output_bytes, TEXT.len() as u64);
}

pub async fn a_streamed_text_is_the_same_text(harness: &impl Harness) {
    let upstream = Upstream::start([text_stream()]).await;
    let provider = harness.provider(&upstream.url());
    let transcript = Transcript::of(harness, &*provider, chat(harness, ASK_STREAM)).await;
    assert!(transcript.error.is_none());
    assert_eq!(transcript.text(), TEXT);
    assert_eq!(transcript.facts.output_bytes, TEXT.len() as u64);
    assert!(transcript.facts.done && transcript.facts.finished);
}

pub async fn a_tool_call_keeps_its_name_and_arguments(harness: &impl Harness) {
    let message = r#"{"role":"assistant","content":null,"tool_calls":[{"id":"call_1","type":"function","function":{"name":"get_weather","arguments":"{\"city\":\"Paris\"}"}}]}"#;
    let deltas = [
        r#"{"tool_calls":[{"index":0,"id":"call_1","type":"function","function":{"name":"get_weather","arguments":""}}]}"#,
        r#"{"tool_calls":[{"index":0,"function":{"arguments":"{\"city\""}}]}"#,
        r#"{"tool_calls":[{"index":0,"function":{"arguments":":\"Paris\"}"}}]}"#,
    ];
    let scripts = [wire::completion(message, "tool_calls"), wire::stream(&deltas, "tool_calls")];
    let upstream = Upstream::start(scripts).await;
    let provider = harness.provider(&upstream.url());

    let body = format!(r#"{{"model":"local/echo",{TOOLS}}}"#);
    let (reply, _) = whole(harness, &*provider, chat(harness, &body)).await;
    let calls = &reply.choices[0].tool_calls;
    assert_eq!(calls.len(), 1);
    assert_eq!((calls[0].name.as_str(), calls[0].arguments.as_str()), ("get_weather", ARGUMENTS));
    assert!(!calls[0].id.is_empty());

    let body = format!(r#"{{"model":"local/echo","stream":true,{TOOLS}}}"#);
    let transcript = Transcript::of(harness, &*provider, chat(harness, &body)).await;
    assert_eq!(transcript.tool_calls(), [("get_weather".to_owned(), ARGUMENTS.to_owned())]);
}

pub async fn a_stream_has_one_finish_then_usage_then_its_end(harness: &impl Harness) {
    let upstream = Upstream::start([text_stream()]).await;
    let provider = harness.provider(&upstream.url());
    let transcript = Transcript::of(harness, &*provider, chat(harness, ASK_STREAM_AND_USAGE)).await;
    let events = &transcript.events;
    assert!(matches!(events.first(), Some(ChatEvent::Start { .. })), "{events:?}");
    assert_eq!(transcript.finishes(), 1);
    assert!(
        matches!(events.as_slice(), [.., ChatEvent::Finish { .. }, ChatEvent::Usage(_), ChatEvent::End]),
        "{events:?}"
    );
    assert!(transcript.bytes.ends_with(b"data: [DONE]\n\n"));
}

pub async fn usage_is_a_fact_even_when_the_client_did_not_ask(harness: &impl Harness) {
    let upstream = Upstream::start([text_stream()]).await;
    let provider = harness.provider(&upstream.url());
    let transcript = Transcript::of(harness, &*provider, chat(harness, ASK_STREAM)).await;
    assert!(transcript.facts.usage.is_some_and(|usage| usage.total() > 0));
    assert!(!transcript.events.iter().any(|event| matches!(event, ChatEvent::Usage(_))), "{:?}", transcript.events);
}

pub async fn a_dropped_stream_ends_quietly(harness: &impl Harness) {
    let upstream = Upstream::start([text_stream()]).await;
    let provider = harness.provider(&upstream.url());
    let Ok(Reply::Stream(mut frames)) = provider.call(chat(harness, ASK_STREAM)).await else { panic!("no stream") };
    assert!(frames.next().await.is_some_and(|frame| frame.is_ok()));
    drop(frames);
}

pub async fn parallel_tool_calls_split_over_chunks_are_kept_apart(harness: &impl Harness) {
    let deltas = [
        r#"{"tool_calls":[{"index":0,"id":"call_1","type":"function","function":{"name":"first","arguments":""}}]}"#,
        r#"{"tool_calls":[{"index":0,"function":{"arguments":"{\"a\""}}]}"#,
        r#"{"tool_calls":[{"index":1,"id":"call_2","type":"function","function":{"name":"second","arguments":""}}]}"#,
        r#"{"tool_calls":[{"index":1,"function":{"arguments":"{\"b\":2}"}}]}"#,
        r#"{"tool_calls":[{"index":0,"function":{"arguments":":1}"}}]}"#,
    ];
    let upstream = Upstream::start([wire::stream(&deltas, "tool_calls")]).await;
    let provider = harness.provider(&upstream.url());
    let transcript = Transcript::of(harness, &*provider, chat(harness, ASK_STREAM)).await;
    let expected = [("first", r#"{"a":1}"#), ("second", r#"{"b":2}"#)];
    assert_eq!(transcript.tool_calls(), expected.map(|(name, arguments)| (name.to_owned(), arguments.to_owned())));
}

pub async fn nothing_is_read_behind_the_end_event(harness: &impl Harness) {
    let mut script = text_stream();
    script.push(Step::Hold);
    let upstream = Upstream::start([script]).await;
    let provider = harness.provider(&upstream.url());
    let transcript = Transcript::of(harness, &*provider, chat(harness, ASK_STREAM)).await;
    assert!(transcript.facts.done);
    upstream.assert_hung_up().await;
}

pub async fn a_json_body_becomes_a_stream_of_one_piece(harness: &impl Harness) {
    let script = wire::completion(r#"{"role":"assistant","content":"Hello there, wörld!"}"#, "stop");
    let upstream = Upstream::start([script]).await;
    let provider = harness.provider(&upstream.url());
    let transcript = Transcript::of(harness, &*provider, chat(harness, ASK_STREAM)).await;
    assert_eq!(transcript.text(), TEXT);
    assert_eq!(transcript.finishes(), 1);
    assert!(transcript.facts.done && transcript.facts.usage.is_some());
    assert!(transcript.bytes.ends_with(b"data: [DONE]\n\n"));
}

pub async fn unknown_members_reach_the_wire_byte_for_byte(harness: &impl Harness) {
    const ODD: &str =
        r#""x_unknown" : {"a":1.0, "b":[null, 1e400], "a":"twice"},"seed":123456789012345678901234567890"#;
    let upstream = Upstream::start([text_stream()]).await;
    let provider = harness.provider(&upstream.url());
    let body =
        format!(r#"{{"model":"m",{ODD},"stream":true,"messages":[{{"role":"user","content":"\u00e9\ud83d\ude00"}}]}}"#);
    Transcript::of(harness, &*provider, chat(harness, &body)).await;
    let sent = String::from_utf8(upstream.seen().remove(0).body).expect("UTF-8");
    assert!(sent.contains(ODD), "{sent}");
    assert!(sent.contains(r#""\u00e9\ud83d\ude00""#), "{sent}");
    assert!(sent.contains(r#""upstream-model""#), "{sent}");
}
