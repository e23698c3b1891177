//! What is odd about upstreams, each oddity on a real socket.

use std::sync::Arc;

use ai4free_contract::llm_provider::{
    Harness, SECRET,
    conversation::{PATIENT, Transcript, call, chat, whole},
    upstream::{Step, Upstream},
    wire,
};
use ai4free_ports::{
    error::ProviderErrorKind,
    llm_provider::{Facts, LlmProvider, Reply},
    money::PicoUsd,
    provider_settings::{AuthStyle, EndpointStyle, OutputCapField, ProviderSettings, Quirks, RotateOn},
    request::Operation,
};
use futures_util::StreamExt;
use serde_json::{Value, json};

use crate::{
    Transport, build, build_probe,
    contract_tests::{OverHttp, StoppedClock, settings},
};

const ASK: &str = r#"{"model":"m","messages":[{"role":"user","content":"hi"}]}"#;
const ASK_STREAM: &str = r#"{"model":"m","stream":true,"messages":[{"role":"user","content":"hi"}]}"#;
const ASK_AUDIO: &str = r#"{"model":"m","modalities":["text","audio"],"audio":{"voice":"nova","format":"mp3"},"messages":[{"role":"user","content":"hi"}]}"#;

fn odd(quirks: Quirks) -> OverHttp {
    OverHttp(build, quirks)
}

fn provider(settings: &ProviderSettings) -> Arc<dyn LlmProvider> {
    build(settings, Arc::new(Transport::new()), Arc::new(StoppedClock)).unwrap()
}

fn sent(upstream: &Upstream) -> Value {
    serde_json::from_slice(&upstream.seen()[0].body).unwrap()
}

fn header<'a>(head: &'a str, name: &str) -> Vec<&'a str> {
    let lines = head.lines().filter_map(|line| line.split_once(": "));
    lines.filter(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value).collect()
}

fn raw(content_type: &str, body: &[u8]) -> Vec<Step> {
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    vec![Step::Write([head.as_bytes(), body].concat())]
}

async fn whole_body(provider: &dyn LlmProvider, call: ai4free_ports::llm_provider::Call) -> Value {
    let Reply::Whole { body, .. } = provider.call(call).await.unwrap() else { panic!("a stream") };
    serde_json::from_slice(&body).unwrap()
}

#[tokio::test]
async fn only_our_own_headers_go_out_and_the_credential_once() {
    for (make, ask) in [(build as crate::contract_tests::Build, ASK), (build, ASK_STREAM), (build_probe, ASK_STREAM)] {
        let deltas = [r#"{"content":"x"}"#];
        let script = if ask == ASK {
            wire::completion(r#"{"role":"assistant","content":"x"}"#, "stop")
        } else {
            wire::stream(&deltas, "stop")
        };
        let upstream = Upstream::start([script]).await;
        let mut settings = settings(&format!("{}/v1", upstream.url()));
        settings.headers = vec![("X-Org".into(), "ours".into()), ("Authorization".into(), "Bearer other".into())];
        let harness = odd(Quirks::default());
        let provider = make(&settings, Arc::new(Transport::new()), Arc::new(StoppedClock)).unwrap();
        assert!(provider.call(chat(&harness, ask)).await.is_ok());
        let head = upstream.seen().remove(0).head;
        let mut names: Vec<_> =
            head.lines().filter_map(|line| line.split_once(": ")).map(|(name, _)| name.to_ascii_lowercase()).collect();
        names.sort();
        assert_eq!(names, ["accept", "authorization", "content-length", "content-type", "host", "user-agent", "x-org"]);
        assert!(head.starts_with("POST /v1/chat/completions HTTP/1.1\r\n"), "{head}");
        assert_eq!(header(&head, "authorization"), [format!("Bearer {SECRET}")]);
        assert_eq!(header(&head, "user-agent"), [concat!("ai4free/", env!("CARGO_PKG_VERSION"))]);
        let accept = if ask == ASK { "application/json" } else { "text/event-stream" };
        assert_eq!(header(&head, "accept"), [accept]);
    }
}

#[tokio::test]
async fn azure_has_the_deployment_in_the_path_and_the_key_in_its_own_header() {
    let upstream = Upstream::start([wire::completion(r#"{"role":"assistant","content":"x"}"#, "stop")]).await;
    let mut settings = settings(&upstream.url());
    settings.endpoint = EndpointStyle::AzureDeployment { api_version: "2024-12-01-preview".into() };
    settings.auth = AuthStyle::Header("api-key".into());
    settings.quirks.output_cap_field = Some(OutputCapField::MaxCompletionTokens);
    let harness = odd(Quirks::default());
    let body = r#"{"model":"m","max_tokens":9,"messages":[{"role":"user","content":"hi"}]}"#;
    whole(&harness, &*provider(&settings), chat(&harness, body)).await;
    let head = upstream.seen().remove(0).head;
    let path = "/openai/deployments/upstream-model/chat/completions?api-version=2024-12-01-preview";
    assert!(head.starts_with(&format!("POST {path} HTTP/1.1\r\n")), "{head}");
    assert_eq!((header(&head, "api-key"), header(&head, "authorization")), (vec![SECRET], vec![]));
    assert_eq!((&sent(&upstream)["max_completion_tokens"], &sent(&upstream)["max_tokens"]), (&json!(9), &Value::Null));
}

#[tokio::test]
async fn a_full_url_is_the_endpoint_itself() {
    let upstream = Upstream::start([wire::completion(r#"{"role":"assistant","content":"x"}"#, "stop")]).await;
    let mut settings = settings(&format!("{}/api/ask?v=1", upstream.url()));
    settings.endpoint = EndpointStyle::FullUrl;
    settings.quirks.content_type = Some("text/plain;charset=UTF-8".into());
    let harness = odd(Quirks::default());
    whole(&harness, &*provider(&settings), chat(&harness, ASK)).await;
    let head = upstream.seen().remove(0).head;
    assert!(head.starts_with("POST /api/ask?v=1 HTTP/1.1\r\n"), "{head}");
    assert_eq!(header(&head, "content-type"), ["text/plain;charset=UTF-8"]);
}

#[tokio::test]
async fn what_is_only_streamed_is_put_together_for_who_wants_it_whole() {
    let deltas = [r#"{"reasoning_content":"Hm."}"#, r#"{"content":"Hello "}"#, r#"{"content":"there"}"#];
    let harness = odd(Quirks { stream_only: true, ..Quirks::default() });
    let upstream = Upstream::start([wire::stream(&deltas, "length")]).await;
    let (reply, facts) = whole(&harness, &*harness.provider(&upstream.url()), chat(&harness, ASK)).await;
    assert_eq!(reply.choices[0].text.as_deref(), Some("Hello there"));
    assert_eq!(reply.choices[0].reasoning.as_deref(), Some("Hm."));
    assert_eq!(reply.choices[0].finish, Some(ai4free_ports::chat::FinishReason::Length));
    assert_eq!(facts.usage.map(|usage| usage.total()), Some(10));
    assert_eq!((&sent(&upstream)["stream"], &sent(&upstream)["model"]), (&json!(true), &json!("upstream-model")));
    assert_eq!(sent(&upstream)["stream_options"], json!({ "include_usage": true }));

    let cut = [vec![wire::stream_head()], deltas.iter().map(|delta| wire::chunk(delta, None)).collect()].concat();
    let upstream = Upstream::start([cut]).await;
    let error = harness.provider(&upstream.url()).call(chat(&harness, ASK)).await.err().unwrap();
    assert_eq!(error.kind, ProviderErrorKind::Protocol, "half a reply is none");
}

#[tokio::test]
async fn what_a_provider_says_that_it_cost_survives_putting_together_and_crossing() {
    const COST: &str = r#"{"id":"chatcmpl-up","object":"chat.completion.chunk","created":7,"model":"upstream-model","choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3,"cost":1.5e-11}}"#;
    let streamed = || {
        let head = vec![wire::stream_head(), wire::chunk(r#"{"content":"Hi"}"#, None), wire::chunk("{}", Some("stop"))];
        Upstream::start([[head, vec![wire::event(COST), wire::done()]].concat()])
    };
    let cost = Some(PicoUsd(15));
    let stream_only = odd(Quirks { stream_only: true, ..Quirks::default() });
    let (_, facts) =
        whole(&stream_only, &*stream_only.provider(&streamed().await.url()), chat(&stream_only, ASK)).await;
    assert_eq!(facts.provider_cost, cost, "put together");
    for make in [build as crate::contract_tests::Build, build_probe] {
        let harness = OverHttp(make, Quirks::default());
        let Reply::Stream(mut frames) =
            harness.provider(&streamed().await.url()).call(chat(&harness, ASK_STREAM)).await.unwrap()
        else {
            panic!("a whole reply")
        };
        let mut facts = Facts::default();
        while let Some(frame) = frames.next().await {
            facts.absorb(&frame.unwrap().facts);
        }
        assert_eq!(facts.provider_cost, cost, "streamed");
        let upstream = Upstream::start([wire::json(
            200,
            "",
            &COST.replace(
                r#""choices":[]"#,
                r#""choices":[{"index":0,"message":{"role":"assistant","content":"Hi"},"finish_reason":"stop"}]"#,
            ),
        )])
        .await;
        let (_, facts) = whole(&harness, &*harness.provider(&upstream.url()), chat(&harness, ASK)).await;
        assert_eq!(facts.provider_cost, cost, "whole");
    }
}

#[tokio::test]
async fn stream_options_are_not_sent_to_who_refuses_them() {
    let harness = odd(Quirks { no_stream_options: true, ..Quirks::default() });
    let with_options = r#"{"model":"m","stream":true,"stream_options":{"include_usage":true},"messages":[{"role":"user","content":"hi"}]}"#;
    for ask in [ASK_STREAM, with_options] {
        let upstream = Upstream::start([wire::stream(&[r#"{"content":"x"}"#], "stop")]).await;
        Transcript::of(&harness, &*harness.provider(&upstream.url()), chat(&harness, ask)).await;
        assert_eq!(sent(&upstream).get("stream_options"), None);
    }
}

#[tokio::test]
async fn raw_text_becomes_a_completion() {
    let harness = odd(Quirks { raw_reply: true, ..Quirks::default() });
    let upstream = Upstream::start([raw("text/plain", "Grüß Gott".as_bytes())]).await;
    let reply = whole_body(&*harness.provider(&upstream.url()), chat(&harness, ASK)).await;
    assert_eq!(reply["choices"][0]["message"]["content"], "Grüß Gott");
    assert_eq!((&reply["object"], &reply["created"]), (&json!("chat.completion"), &json!(1_700_000_000)));
    assert_eq!(reply["model"], "upstream-model");

    for (ask, script) in [(ASK, raw("text/plain", b"")), (ASK, raw("audio/mpeg", b"\xff\xfe"))] {
        let upstream = Upstream::start([script]).await;
        let error = harness.provider(&upstream.url()).call(chat(&harness, ask)).await.err().unwrap();
        assert_eq!(error.kind, ProviderErrorKind::Protocol);
    }
}

#[tokio::test]
async fn raw_audio_becomes_a_message_that_is_heard() {
    let harness = odd(Quirks { raw_reply: true, whole_audio: true, ..Quirks::default() });
    let upstream = Upstream::start([raw("audio/mpeg", b"\xff\xfeABC")]).await;
    let reply = whole_body(&*harness.provider(&upstream.url()), chat(&harness, ASK_AUDIO)).await;
    let message = &reply["choices"][0]["message"];
    assert_eq!((&message["audio"]["data"], &message["audio"]["format"]), (&json!("//5BQkM="), &json!("mp3")));
    assert_eq!(message["content"], Value::Null);
}

#[tokio::test]
async fn audio_that_can_not_be_streamed_is_asked_for_whole_and_streamed_from_here() {
    let message =
        r#"{"role":"assistant","content":null,"audio":{"id":"a1","data":"QUJD","transcript":"Hi","expires_at":9}}"#;
    for make in [build as crate::contract_tests::Build, build_probe] {
        let harness = OverHttp(make, Quirks { whole_audio: true, ..Quirks::default() });
        let upstream = Upstream::start([wire::completion(message, "stop")]).await;
        let ask = ASK_AUDIO.replacen('{', r#"{"stream":true,"#, 1);
        let transcript = Transcript::of(&harness, &*harness.provider(&upstream.url()), chat(&harness, &ask)).await;
        assert_ne!(sent(&upstream)["stream"], true);
        assert_eq!(sent(&upstream).get("stream_options"), None);
        assert_eq!(transcript.finishes(), 1);
        assert!(transcript.facts.done && transcript.facts.usage.is_some());
        if make as usize == build as crate::contract_tests::Build as usize {
            let text = String::from_utf8(transcript.bytes).unwrap();
            assert!(text.contains(r#""audio":{"id":"a1","data":"QUJD""#), "{text}");
        }
        // A question without audio streams as ever.
        let upstream = Upstream::start([wire::stream(&[r#"{"content":"x"}"#], "stop")]).await;
        let transcript =
            Transcript::of(&harness, &*harness.provider(&upstream.url()), chat(&harness, ASK_STREAM)).await;
        assert_eq!(transcript.text(), "x");
    }
}

#[tokio::test]
async fn the_next_credential_is_tried_on_the_statuses_that_are_named() {
    for (rotate_on, status, expected) in [
        (RotateOn::Nothing, 500, false),
        (RotateOn::Statuses(vec![418, 500]), 500, true),
        (RotateOn::Statuses(vec![418]), 500, false),
        (RotateOn::AnyFailure, 502, true),
        (RotateOn::AnyFailure, 400, false),
    ] {
        let harness = odd(Quirks { rotate_on: rotate_on.clone(), ..Quirks::default() });
        let upstream = Upstream::start([wire::json(status, "", "{}")]).await;
        let error = harness.provider(&upstream.url()).call(chat(&harness, ASK)).await.err().unwrap();
        assert_eq!(error.try_next_credential, expected, "{rotate_on:?} {status}");
    }
}

#[tokio::test]
async fn a_reply_without_end_is_not_read_without_end() {
    let harness = odd(Quirks::default());
    let head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n".to_vec();
    let mut script = vec![Step::Write(head)];
    script.extend((0..40).map(|_| Step::Write(vec![b' '; 1 << 20])));
    for script in [
        script,
        vec![
            Step::Write(
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 99999999999\r\n\r\n".to_vec(),
            ),
            Step::Hold,
        ],
    ] {
        let upstream = Upstream::start([script]).await;
        let error =
            harness.provider(&upstream.url()).call(call(&harness, Operation::Chat, ASK, PATIENT)).await.err().unwrap();
        assert_eq!(error.kind, ProviderErrorKind::Protocol);
        assert!(ai4free_contract::llm_provider::conversation::texts(&error).contains("too large"));
    }
}

#[tokio::test]
async fn a_metadata_address_is_never_called() {
    let refused = build(&settings("http://169.254.169.254/v1"), Arc::new(Transport::new()), Arc::new(StoppedClock));
    assert_eq!(refused.err().unwrap().field, "base_url");
    // A name that the URL parser leaves alone and the resolver turns into one is refused on connecting.
    let harness = odd(Quirks::default());
    let named = settings("http://metadata.localhost.invalid/v1");
    let error = provider(&named).call(chat(&harness, ASK)).await.err().unwrap();
    assert_eq!((error.kind, error.request_was_sent), (ProviderErrorKind::Transport, false));
}
