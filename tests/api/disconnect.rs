//! A client that goes takes its upstream call with it, whenever and however it goes.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::{
    Gateway, Key, MockUpstream, Reply, Request, chat, chunk, get, http::Connection, post, stream::event, streamed_chat,
};

/// Promised are 100 ms, which the proofs measure; the machine that runs the tests may be loaded.
const AT_ONCE: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Goodbye {
    Fin,
    Reset,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    /// The provider has said nothing yet.
    BeforeTheHead,
    /// The provider has sent its head, and no event.
    BeforeTheFirstEvent,
    WithinTheStream,
}

fn reply(moment: Moment) -> Reply {
    match moment {
        Moment::BeforeTheHead => Reply::hang(),
        Moment::BeforeTheFirstEvent => Reply::stream().then_hang(),
        Moment::WithinTheStream => {
            let role =
                event(&json!([{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": null}]));
            Reply::stream().piece(&(role + &chunk("Hello there, how can I help you today?"))).then_hang()
        }
    }
}

fn leave(connection: Connection, goodbye: Goodbye) {
    match goodbye {
        Goodbye::Fin => connection.close(),
        Goodbye::Reset => connection.reset(),
    }
}

async fn assert_cancelled(request: impl Fn(&Key) -> Request, moments: &[Moment]) {
    let upstream = MockUpstream::start().await;
    let gateway = Gateway::before(&upstream).await;
    let mut number = 0;
    for moment in moments {
        for goodbye in [Goodbye::Fin, Goodbye::Reset] {
            let key = gateway.key().await;
            upstream.answer(reply(*moment));
            let mut connection = request(&key).start(gateway.address).await;
            let call = upstream.request(number).await;
            number += 1;
            if *moment == Moment::WithinTheStream {
                let mut exchange = connection.head().await;
                exchange.until("Hello there").await;
                connection = exchange.into_connection();
            }
            let left = Instant::now();
            leave(connection, goodbye);
            let ended = upstream.end_of(call.connection).await.saturating_duration_since(left);
            println!("{moment:?}, {goodbye:?}: the provider's connection ended after {ended:?}");
            assert!(ended <= AT_ONCE, "{moment:?}, {goodbye:?}: {ended:?}");

            let usage = gateway.usage_of(&key, 1).await;
            assert_eq!(usage["cancelled_requests"], 1, "{moment:?}: {usage}");
            assert_eq!((&usage["failed_requests"], &usage["successful_requests"]), (&json!(0), &json!(0)));
            let output = usage["output_tokens"].as_u64().unwrap();
            match moment {
                // Ten tokens by the tokenizer; an estimate may be off by the length of a token.
                Moment::WithinTheStream => assert!((8..=12).contains(&output), "{usage}"),
                _ => assert_eq!(output, 0, "{moment:?}: nothing came: {usage}"),
            }
        }
    }
    gateway.stop().await;
}

#[tokio::test]
async fn a_client_that_leaves_a_whole_request_cancels_the_providers_work() {
    assert_cancelled(|key| post("/v1/chat/completions", &chat("gpt-4o")).key(&key.text), &[Moment::BeforeTheHead])
        .await;
}

#[tokio::test]
async fn a_client_that_leaves_a_stream_cancels_the_providers_work() {
    let moments = [Moment::BeforeTheHead, Moment::BeforeTheFirstEvent, Moment::WithinTheStream];
    assert_cancelled(|key| post("/v1/chat/completions", &streamed_chat("gpt-4o")).key(&key.text), &moments).await;
}

#[tokio::test]
async fn a_client_that_leaves_an_image_request_cancels_the_providers_work() {
    let upstream = MockUpstream::always(Reply::hang()).await;
    let gateway = Gateway::before(&upstream).await;
    let key = gateway.key().await;
    let body = json!({"model": "openai/gpt-image-1", "prompt": "a cat"});
    let connection = post("/v1/images/generations", &body).key(&key.text).start(gateway.address).await;
    upstream.request(0).await;
    let left = Instant::now();
    connection.close();
    let ended = upstream.end_of(0).await.saturating_duration_since(left);
    assert!(ended <= AT_ONCE, "{ended:?}");
    assert_eq!(gateway.usage_of(&key, 1).await["cancelled_requests"], 1);
    gateway.stop().await;
}

#[tokio::test]
async fn a_client_that_stops_sending_a_body_costs_nothing() {
    let gateway = Gateway::builder().set("AI4FREE__SERVER__BODY_TIMEOUT_SECONDS", "1").start().await;
    let key = gateway.key().await;
    let mut connection = gateway.connect().await;
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\n\
         content-length: 1000\r\n\r\n{{",
        key.text
    );
    connection.write(head.as_bytes()).await;
    connection.head().await.whole().await.error(408);
    assert_eq!(gateway.send(&get("/v1/usage").key(&key.text)).await.success()["total_requests"], 0);
    gateway.stop().await;
}

#[tokio::test]
async fn many_clients_that_leave_leave_nothing_behind() {
    const CLIENTS: usize = 50;
    let upstream = MockUpstream::always(reply(Moment::WithinTheStream)).await;
    let gateway = Gateway::before(&upstream).await;
    let key = gateway.key().await;
    let request = post("/v1/chat/completions", &streamed_chat("gpt-4o")).key(&key.text);
    let mut exchanges = Vec::new();
    for _ in 0..CLIENTS {
        exchanges.push(gateway.open(&request).await);
    }
    let left = Instant::now();
    for exchange in exchanges {
        exchange.into_connection().close();
    }
    let mut worst = Duration::ZERO;
    for connection in 0..CLIENTS {
        worst = worst.max(upstream.end_of(connection).await.saturating_duration_since(left));
    }
    println!("{CLIENTS} connections to the provider ended within {worst:?}");
    let usage = gateway.usage_of(&key, CLIENTS as u64).await;
    assert_eq!(usage["cancelled_requests"], CLIENTS);
    gateway.stop().await;
}
