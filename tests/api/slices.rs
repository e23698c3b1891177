//! A budget that pays for a part of an answer only: the client gets that part, and an ending that it understands.

use serde_json::{Value, json};

use crate::support::{
    Gateway, Key, MockUpstream, Reply, chunk, events, eventually, finish, post, stream::parse, stream::text_of,
    streamed_chat, usage,
};

/// One token.
const WORD: &str = "word ";

/// 4096 tokens of output cost $0.04096, and twice as many are not to be had.
fn key_members() -> Value {
    json!({"budget": {"amount_usd": "0.06", "window": "total"}})
}

fn long_chat(include_usage: bool) -> Value {
    let mut body = streamed_chat("gpt-4o");
    body["max_tokens"] = json!(16_000);
    body["stream_options"] = json!({"include_usage": include_usage});
    body
}

/// Of one request, with nothing reserved any more: Redis hears of its end shortly after its client.
async fn settled_usage(gateway: &Gateway, key: &Key) -> Value {
    eventually("nothing reserved", || async {
        Some(gateway.usage_of(key, 1).await).filter(|report| report["budget"]["reserved"] == "0")
    })
    .await
}

/// In chunks of five.
fn words(count: usize) -> String {
    chunk(&WORD.repeat(5)).repeat(count / 5)
}

#[tokio::test]
async fn an_answer_that_a_budget_does_not_pay_for_ends_as_at_its_cap() {
    let upstream = MockUpstream::start().await;
    let gateway = Gateway::before(&upstream).await;
    for include_usage in [true, false] {
        let key = gateway.key_with(key_members()).await;
        upstream.answer(Reply::stream().piece(&words(6000)).then_hang());
        let request = post("/v1/chat/completions", &long_chat(include_usage)).key(&key.text);
        let response = gateway.send(&request).await;
        assert_eq!(response.status, 200, "{}", response.text());
        let events = events(&response.body);
        let (done, rest) = events.split_last().unwrap();
        let (last, rest) = if include_usage { rest.split_last().unwrap() } else { (done, rest) };
        let (ending, deltas) = rest.split_last().unwrap();
        assert_eq!(done, "[DONE]");
        let choice = &parse(ending)["choices"][0];
        assert_eq!((&choice["delta"], &choice["finish_reason"]), (&json!({}), &json!("length")), "{ending}");
        assert_eq!(parse(ending)["id"], "chatcmpl-1");
        assert!(deltas.iter().all(|delta| parse(delta)["choices"][0]["finish_reason"].is_null()));

        let words = text_of(deltas).len() / WORD.len();
        assert!((2000..=3840).contains(&words), "{words}");
        let report = settled_usage(&gateway, &key).await;
        assert_eq!(report["successful_requests"], 1);
        // It is counted in parts, and the blank at the end of each is a token of its own.
        let counted = report["output_tokens"].as_u64().unwrap();
        assert!((words..words + 20).contains(&usize::try_from(counted).unwrap()), "{words} words are {counted} tokens");
        if include_usage {
            assert_eq!(parse(last)["usage"]["completion_tokens"], counted);
        }
    }
    assert_eq!(upstream.request(0).await.json()["max_tokens"], 16_000, "the client's own cap");
    gateway.stop().await;
}

#[tokio::test]
async fn an_answer_that_a_budget_pays_for_is_left_as_it_is() {
    let upstream = MockUpstream::start().await;
    let gateway = Gateway::before(&upstream).await;
    let key = gateway.key_with(json!({"budget": {"amount_usd": "0.2", "window": "total"}})).await;
    let whole = [words(6000), finish("stop"), usage(9, 6000), "data: [DONE]\n\n".to_owned()];
    upstream.answer(Reply::sse(&whole));
    let response = gateway.send(&post("/v1/chat/completions", &long_chat(true)).key(&key.text)).await;
    let events = events(&response.body);
    assert_eq!(text_of(&events), WORD.repeat(6000));
    let ending: Vec<_> = whole[1..].iter().map(|event| event["data: ".len()..].trim_end().to_owned()).collect();
    assert!(events.ends_with(&ending), "{:?}", events.last_chunk::<4>());
    let report = settled_usage(&gateway, &key).await;
    assert_eq!((&report["output_tokens"], &report["total_cost"]), (&json!(6000), &json!("0.0600225")));
    gateway.stop().await;
}
