//! A model may have its answers read to their end although their client has gone, so that the provider's own count is charged.

use serde_json::json;

use crate::support::{DONE, Gate, Gateway, MockUpstream, Reply, chunk, finish, post, streamed_chat, usage};

#[tokio::test]
async fn a_client_that_leaves_is_charged_the_providers_own_count() {
    let upstream = MockUpstream::start().await;
    let builder = Gateway::builder().openai(&upstream).toml("[providers.openai]\non_disconnect = \"drain\"");
    let gateway = builder.start().await;
    let (key, gate) = (gateway.key().await, Gate::closed());
    let rest = [chunk(" there"), finish("stop"), usage(9, 1234), DONE.to_owned()].concat();
    upstream.answer(Reply::stream().piece(&chunk("Hello")).wait(&gate).piece(&rest).end());
    let request = post("/v1/chat/completions", &streamed_chat("openai/gpt-4o")).key(&key.text);
    let mut exchange = request.start(gateway.address).await.head().await;
    exchange.until("Hello").await;
    exchange.into_connection().close();
    gate.open();
    let report = gateway.usage_of(&key, 1).await;
    assert_eq!((&report["cancelled_requests"], &report["successful_requests"]), (&json!(1), &json!(0)));
    assert_eq!((&report["input_tokens"], &report["output_tokens"]), (&json!(9), &json!(1234)));
    gateway.stop().await;
}
