//! Streams: faithful, in time, and never finished-looking when they are not.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{
    DONE, Gate, Gateway, Key, MockUpstream, Reply, Request, chunk, completion, events, finish, post,
    stream::{data, event, parse, text_of},
    streamed_chat, usage,
};

fn role() -> String {
    event(&json!([{"index": 0, "delta": {"role": "assistant", "content": "", "refusal": null}, "logprobs": null,
                   "finish_reason": null}]))
}

fn ask(key: &Key) -> Request {
    post("/v1/chat/completions", &streamed_chat("gpt-4o")).key(&key.text)
}

fn ask_with_usage(key: &Key) -> Request {
    let mut body = streamed_chat("gpt-4o");
    body["stream_options"] = json!({"include_usage": true});
    post("/v1/chat/completions", &body).key(&key.text)
}

/// Starts a gateway before a provider with this one reply, and returns the whole stream of a client.
async fn streamed(reply: Reply) -> (Gateway, Key, Vec<u8>) {
    let upstream = MockUpstream::always(reply).await;
    let gateway = Gateway::before(&upstream).await;
    let key = gateway.key().await;
    let response = gateway.send(&ask(&key)).await;
    assert_eq!(response.status, 200, "{}", response.text());
    (gateway, key, response.body)
}

/// A client that has just sent something acknowledges the next small piece 40 ms later, in the hope of a reply to send along.
/// With Nagle's algorithm on the gateway's side of the connection, a second small piece would wait for that, once a stream. So
/// nearly every stream of a gateway without TCP_NODELAY has an event that is late; a busy machine delays some of them.
#[tokio::test]
async fn a_small_event_does_not_wait_for_the_acknowledgement_of_the_one_before() {
    const STREAMS: usize = 20;
    const EVENTS: usize = 6;
    let gate = Gate::closed();
    let words: Vec<String> = (0..EVENTS).map(|number| format!("word {number}.")).collect();
    let paced = words.iter().fold(Reply::stream(), |reply, word| reply.wait(&gate).piece(&chunk(word)));
    let upstream = MockUpstream::always(paced.piece(&(finish("stop") + DONE)).end()).await;
    let gateway = Gateway::before(&upstream).await;
    let key = gateway.key().await;
    let mut connection = gateway.connect().await;
    let mut latest = Vec::new();
    for _ in 0..STREAMS {
        connection = ask(&key).start_on(connection).await;
        gate.open();
        let mut exchange = connection.head().await;
        exchange.until(&words[0]).await;
        let mut late = Duration::ZERO;
        for word in &words[1..] {
            let written = Instant::now();
            gate.open();
            exchange.until(word).await;
            late = late.max(written.elapsed());
        }
        exchange.until(DONE).await;
        assert_eq!(exchange.piece().await, b"");
        connection = exchange.into_connection();
        latest.push(late);
    }
    latest.sort();
    let quick = latest[STREAMS / 4];
    assert!(quick < Duration::from_millis(20), "most streams have an event that is late: {latest:?}");
    gateway.stop().await;
}

#[tokio::test]
async fn each_event_is_passed_on_before_the_next_one_exists() {
    let gates = [Gate::closed(), Gate::closed(), Gate::closed()];
    let pieces = [role(), chunk("Hel"), chunk("lo") + &finish("stop") + DONE];
    let reply = pieces.iter().zip(&gates).fold(Reply::stream(), |reply, (piece, gate)| reply.wait(gate).piece(piece));
    let upstream = MockUpstream::always(reply.end()).await;
    let gateway = Gateway::before(&upstream).await;
    let key = gateway.key().await;
    let connection = ask(&key).start(gateway.address).await;
    upstream.request(0).await;
    gates[0].open();
    let mut exchange = connection.head().await;
    assert_eq!(exchange.status, 200);
    assert_eq!(exchange.until("\n\n").await, pieces[0]);
    gates[1].open();
    assert_eq!(exchange.until("\n\n").await, pieces[1]);
    gates[2].open();
    let rest = exchange.whole().await;
    assert_eq!(rest.text(), pieces[2]);
    gateway.stop().await;
}

#[tokio::test]
async fn a_stream_has_the_headers_that_keep_proxies_from_holding_it_back() {
    let upstream = MockUpstream::always(Reply::sse(&[role(), chunk("a"), finish("stop"), DONE.into()])).await;
    let gateway = Gateway::before(&upstream).await;
    let key = gateway.key().await;
    let response = gateway.send(&ask(&key)).await;
    assert_eq!(response.header("content-type"), Some("text/event-stream"));
    assert_eq!(response.header("cache-control"), Some("no-cache"));
    assert_eq!(response.header("x-accel-buffering"), Some("no"));
    assert_eq!(response.header("content-length"), None);
    assert!(response.header("x-request-id").is_some());
    assert_eq!(upstream.request(0).await.header("accept"), Some("text/event-stream"));
    gateway.stop().await;
}

#[tokio::test]
async fn the_usage_event_is_for_those_who_asked_and_charged_in_any_case() {
    let stream = [role(), chunk("Hello"), finish("stop"), usage(9, 12), DONE.into()];
    let upstream = MockUpstream::always(Reply::sse(&stream)).await;
    let gateway = Gateway::before(&upstream).await;
    let key = gateway.key().await;

    let without = events(&gateway.send(&ask(&key)).await.body);
    assert_eq!(text_of(&without), "Hello");
    assert_eq!(without.len(), 4, "{without:?}");
    assert!(without.iter().all(|event| !event.contains("\"usage\":{") && !event.contains("\"choices\":[]")));
    assert_eq!(upstream.request(0).await.json()["stream_options"], json!({"include_usage": true}));

    let with = events(&gateway.send(&ask_with_usage(&key)).await.body);
    let usages: Vec<Value> = with[..with.len() - 1].iter().map(|event| parse(event)).collect();
    assert_eq!(usages.last().unwrap()["usage"]["total_tokens"], 21);
    assert_eq!(usages.last().unwrap()["choices"], json!([]));
    assert_eq!(usages.iter().filter(|event| event["usage"].is_object()).count(), 1);
    assert_eq!(with.last().unwrap(), "[DONE]");

    let charged = gateway.usage_of(&key, 2).await;
    assert_eq!((&charged["input_tokens"], &charged["output_tokens"]), (&json!(18), &json!(24)));
    assert_eq!(charged["total_cost"], "0.000285");
    gateway.stop().await;
}

#[tokio::test]
async fn a_stream_without_usage_is_counted_here() {
    let (gateway, key, _) = streamed(Reply::sse(&[
        role(),
        chunk("Hello there, how can"),
        chunk(" I help you today?"),
        finish("stop"),
        DONE.into(),
    ]))
    .await;
    let usage = gateway.usage_of(&key, 1).await;
    assert_eq!((&usage["input_tokens"], &usage["output_tokens"]), (&json!(9), &json!(10)));
    gateway.stop().await;
}

#[tokio::test]
async fn the_body_ends_at_once_after_done_although_the_provider_hangs() {
    let events = role() + &chunk("a") + &finish("stop") + DONE;
    let upstream = MockUpstream::always(Reply::stream().piece(&events).then_hang()).await;
    let gateway = Gateway::before(&upstream).await;
    let key = gateway.key().await;
    let mut exchange = gateway.open(&ask(&key)).await;
    let mut read = exchange.until("[DONE]").await;
    let done = Instant::now();
    loop {
        let piece = exchange.piece().await;
        if piece.is_empty() {
            break;
        }
        read.push_str(&String::from_utf8(piece).unwrap());
    }
    let late = done.elapsed();
    assert!(read.ends_with(DONE), "{read}");
    assert!(late < Duration::from_millis(250), "the body ended {late:?} after [DONE]");
    assert_eq!(gateway.usage_of(&key, 1).await["successful_requests"], 1);
    gateway.stop().await;
}

#[tokio::test]
async fn a_finished_stream_without_done_gets_one() {
    let (gateway, key, body) = streamed(Reply::sse(&[role(), chunk("a"), finish("stop")])).await;
    assert_eq!(events(&body).last().unwrap(), "[DONE]");
    assert_eq!(gateway.usage_of(&key, 1).await["successful_requests"], 1);
    gateway.stop().await;
}

/// Whatever breaks a stream: the client is told, `[DONE]` is not sent, no finish reason is made up.
async fn assert_broken(reply: Reply) {
    let (gateway, key, body) = streamed(reply).await;
    let events = events(&body);
    let error = parse(events.last().unwrap());
    assert!(error["error"]["message"].is_string(), "{events:?}");
    assert_eq!(error["error"]["type"], "server_error", "{events:?}");
    assert!(events.iter().all(|event| event != "[DONE]"), "{events:?}");
    assert!(events.iter().all(|event| !event.contains("\"finish_reason\":\"")), "{events:?}");
    assert_eq!(text_of(&events[..events.len() - 1]), "partial");
    let usage = gateway.usage_of(&key, 1).await;
    assert_eq!((&usage["failed_requests"], &usage["successful_requests"]), (&json!(1), &json!(0)));
    assert!(usage["output_tokens"].as_u64().unwrap() > 0, "what was sent is charged: {usage}");
    gateway.stop().await;
}

fn begun() -> Reply {
    Reply::stream().piece(&(role() + &chunk("partial")))
}

#[tokio::test]
async fn a_stream_that_ends_early_is_an_error_and_not_a_finish() {
    assert_broken(begun().end()).await;
}

#[tokio::test]
async fn a_stream_that_is_cut_is_an_error_and_not_a_finish() {
    assert_broken(begun().then_cut()).await;
}

#[tokio::test]
async fn a_stream_that_is_cut_within_an_event_is_an_error() {
    assert_broken(begun().piece("data: {\"id\":\"chatcmpl-1\",\"choi").then_cut()).await;
}

#[tokio::test]
async fn a_stream_that_is_reset_is_an_error() {
    let gate = Gate::closed();
    let upstream = MockUpstream::always(begun().wait(&gate).then_reset()).await;
    let gateway = Gateway::before(&upstream).await;
    let key = gateway.key().await;
    let mut exchange = gateway.open(&ask(&key)).await;
    exchange.until("partial").await;
    gate.open();
    let rest = events(&exchange.whole().await.body);
    assert_eq!(parse(rest.last().unwrap())["error"]["code"], "upstream_transport");
    assert_eq!(gateway.usage_of(&key, 1).await["failed_requests"], 1);
    gateway.stop().await;
}

#[tokio::test]
async fn done_without_a_finish_is_an_error() {
    assert_broken(begun().piece(DONE).end()).await;
}

#[tokio::test]
async fn an_event_that_is_no_json_is_an_error() {
    assert_broken(begun().piece("data: {oops}\n\n").piece(&(finish("stop") + DONE)).end()).await;
}

#[tokio::test]
async fn an_error_event_within_a_stream_is_passed_on_as_one() {
    let error = data(&json!({"error": {"message": "The server is on fire", "type": "server_error", "code": 500}}));
    assert_broken(begun().piece(&error).piece(DONE).end()).await;
}

#[tokio::test]
async fn an_error_as_the_first_event_is_an_http_error() {
    let error = data(&json!({"error": {"message": "Too long", "type": "invalid_request_error",
                                       "code": "context_length_exceeded", "param": "messages"}}));
    let upstream = MockUpstream::always(Reply::sse(&[error, DONE.into()])).await;
    let gateway = Gateway::before(&upstream).await;
    let key = gateway.key().await;
    let error = gateway.send(&ask(&key)).await.error(400);
    assert_eq!(error["code"], "context_length_exceeded");
    assert_eq!(error["message"], "Too long");
    gateway.stop().await;
}

#[tokio::test]
async fn a_whole_completion_in_answer_to_a_stream_request_becomes_a_stream() {
    let (gateway, key, body) = streamed(Reply::json(&completion("all at once"))).await;
    let events = events(&body);
    assert_eq!(text_of(&events), "all at once");
    assert_eq!(events.last().unwrap(), "[DONE]");
    assert_eq!(gateway.usage_of(&key, 1).await["total_tokens"], 21);
    gateway.stop().await;
}

#[tokio::test]
async fn streamed_tool_calls_keep_their_ids_indexes_and_fragments() {
    let call = |call: Value| {
        event(&json!([{"index": 0, "delta": {"tool_calls": [call]}, "logprobs": null, "finish_reason": null}]))
    };
    let stream = [
        event(&json!([{"index": 0, "delta": {"role": "assistant", "content": null}, "logprobs": null,
                       "finish_reason": null}])),
        call(json!({"index": 0, "id": "call_a", "type": "function", "function": {"name": "weather", "arguments": ""}})),
        call(json!({"index": 0, "function": {"arguments": "{\"city\":"}})),
        call(json!({"index": 1, "id": "call_b", "type": "function", "function": {"name": "time", "arguments": ""}})),
        call(json!({"index": 0, "function": {"arguments": "\"Par\\u00eds\"}"}})),
        call(json!({"index": 1, "function": {"arguments": "{}"}})),
        finish("tool_calls"),
        DONE.to_owned(),
    ];
    let (gateway, _, body) = streamed(Reply::sse(&stream)).await;
    assert_eq!(String::from_utf8(body).unwrap(), stream.concat());
    gateway.stop().await;
}

#[tokio::test]
async fn interleaved_choices_and_log_probabilities_are_passed_on_as_they_are() {
    let piece = |index: u32, text: &str| {
        let logprobs = json!({"content": [{"token": text, "logprob": -0.5, "bytes": null, "top_logprobs": []}]});
        event(&json!([{"index": index, "delta": {"content": text}, "logprobs": logprobs, "finish_reason": null}]))
    };
    let start = |index: u32| {
        event(&json!([{"index": index, "delta": {"role": "assistant", "content": ""}, "logprobs": null,
                       "finish_reason": null}]))
    };
    let end = |index: u32| event(&json!([{"index": index, "delta": {}, "logprobs": null, "finish_reason": "stop"}]));
    let stream = [
        start(0),
        start(1),
        piece(1, "b"),
        piece(0, "a"),
        piece(1, "B"),
        end(1),
        piece(0, "A"),
        end(0),
        DONE.to_owned(),
    ];
    let upstream = MockUpstream::always(Reply::sse(&stream)).await;
    let gateway = Gateway::before(&upstream).await;
    let key = gateway.key().await;
    let mut body = streamed_chat("gpt-4o");
    body["n"] = json!(2);
    let response = gateway.send(&post("/v1/chat/completions", &body).key(&key.text)).await;
    assert_eq!(response.text(), stream.concat());
    gateway.stop().await;
}

#[tokio::test]
async fn events_split_at_any_byte_and_framed_in_any_way_read_the_same() {
    let text = chunk("héllo 😀 \u{2028}");
    let lf = role() + &text + &finish("stop") + DONE;
    let expected = "héllo 😀 \u{2028}";
    let by_byte = lf.as_bytes().chunks(1).fold(Reply::stream(), Reply::raw_piece).end();
    let crlf = Reply::stream().piece(&lf.replace('\n', "\r\n")).end();
    let bare_cr = Reply::stream().piece(&lf.replace('\n', "\r")).end();
    let dressed = format!("\u{feff}: hello\n\nid: 7\nevent: message\nretry: 5\n{}", lf.replace("data: ", "data:"));
    let dressed = Reply::stream().piece(&dressed).end();
    let upstream = MockUpstream::start().await;
    let gateway = Gateway::before(&upstream).await;
    let key = gateway.key().await;
    for (name, reply) in [("by byte", by_byte), ("crlf", crlf), ("bare cr", bare_cr), ("dressed", dressed)] {
        upstream.answer(reply);
        let response = gateway.send(&ask(&key)).await;
        let events = events(&response.body);
        assert_eq!(text_of(&events), expected, "{name}");
        assert_eq!((events.len(), events.last().unwrap().as_str()), (4, "[DONE]"), "{name}: {events:?}");
    }
    gateway.stop().await;
}

#[tokio::test]
async fn events_without_choices_and_other_vendors_oddities_are_mended() {
    let empty = event(&json!([]));
    let no_role = event(&json!([{"index": 0, "delta": {"content": "a", "tool_calls": null}, "finish_reason": null}]));
    let (gateway, _, body) = streamed(Reply::sse(&[empty, no_role, finish("eos"), DONE.into()])).await;
    let events = events(&body);
    let first = parse(&events[0]);
    assert_eq!(first["choices"][0]["delta"]["role"], "assistant", "{events:?}");
    assert!(events.iter().all(|event| !event.contains("\"choices\":[]") && !event.contains("eos")), "{events:?}");
    assert_eq!(text_of(&events), "a");
    gateway.stop().await;
}

#[tokio::test]
async fn a_megabyte_in_one_event_passes() {
    let large = "x".repeat(1 << 20);
    let (gateway, _, body) = streamed(Reply::sse(&[role(), chunk(&large), finish("stop"), DONE.into()])).await;
    assert_eq!(text_of(&events(&body)), large);
    gateway.stop().await;
}

#[tokio::test]
async fn silence_within_a_stream_ends_it_with_an_error() {
    let upstream = MockUpstream::always(begun().then_hang()).await;
    let gateway = Gateway::builder().openai(&upstream).set("AI4FREE__TIMEOUTS__IDLE_SECONDS", "1").start().await;
    let key = gateway.key().await;
    let started = Instant::now();
    let response = gateway.send(&ask(&key)).await;
    let took = started.elapsed();
    let events = events(&response.body);
    assert_eq!(parse(events.last().unwrap())["error"]["code"], "upstream_timeout");
    assert!((1000..2000).contains(&took.as_millis()), "{took:?}");
    let usage = gateway.usage_of(&key, 1).await;
    assert_eq!(usage["failed_requests"], 1);
    upstream.end_of(0).await;
    gateway.stop().await;
}

#[tokio::test]
async fn silence_before_a_stream_is_a_504() {
    let upstream = MockUpstream::always(Reply::stream().then_hang()).await;
    let gateway = Gateway::builder().openai(&upstream).set("AI4FREE__TIMEOUTS__FIRST_BYTE_SECONDS", "1").start().await;
    let key = gateway.key().await;
    let started = Instant::now();
    let response = gateway.send(&ask(&key)).await;
    let took = started.elapsed();
    assert_eq!(response.error(504)["code"], "upstream_timeout");
    assert!((1000..2000).contains(&took.as_millis()), "{took:?}");
    upstream.end_of(0).await;
    gateway.stop().await;
}

#[tokio::test]
async fn the_built_in_echo_streams_like_a_provider() {
    let gateway = Gateway::start().await;
    let key = gateway.key().await;
    let body = json!({"model": "local/echo", "stream": true, "stream_options": {"include_usage": true},
                      "messages": [{"role": "user", "content": "Hello, gateway! How are you?"}]});
    let response = gateway.send(&post("/v1/chat/completions", &body).key(&key.text)).await;
    let events = events(&response.body);
    assert_eq!(text_of(&events), "Hello, gateway! How are you?");
    assert_eq!(parse(&events[events.len() - 2])["usage"]["completion_tokens"], 7);
    assert_eq!(gateway.usage_of(&key, 1).await["total_cost"], "0.000014");
    gateway.stop().await;
}
