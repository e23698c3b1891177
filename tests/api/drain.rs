//! A model may have its answers read to their end although their client has gone, so that the provider's own count is charged.

use std::time::Duration;

use serde_json::json;
use tokio::time::sleep;

use crate::support::{DONE, Gate, Gateway, MockUpstream, Reply, chunk, finish, post, streamed_chat, usage};

#[tokio::test]
async fn a_client_that_leaves_is_charged_the_providers_own_count() {
    let upstream = MockUpstream::start().await;
    let builder = Gateway::builder().openai(&upstream).toml("[providers.openai]\non_disconnect = \"drain\"");
    let gateway = builder.start().await;
    let rest = [chunk(" there"), finish("stop"), usage(9, 1234), DONE.to_owned()].concat();
    // Whether the gateway has seen that its client has gone can't be seen from here: if the rest comes first, the client may
    // as well have had it all.
    let mut pause = Duration::from_millis(10);
    let report = loop {
        let (key, gate) = (gateway.key().await, Gate::closed());
        upstream.answer(Reply::stream().piece(&chunk("Hello")).wait(&gate).piece(&rest).end());
        let request = post("/v1/chat/completions", &streamed_chat("openai/gpt-4o")).key(&key.text);
        let mut exchange = request.start(gateway.address).await.head().await;
        exchange.until("Hello").await;
        exchange.into_connection().close();
        sleep(pause).await;
        gate.open();
        let report = gateway.usage_of(&key, 1).await;
        if report["cancelled_requests"] == 1 || pause > Duration::from_secs(5) {
            break report;
        }
        pause *= 2;
    };
    assert_eq!((&report["cancelled_requests"], &report["successful_requests"]), (&json!(1), &json!(0)));
    assert_eq!((&report["input_tokens"], &report["output_tokens"]), (&json!(9), &json!(1234)));
    gateway.stop().await;
}
