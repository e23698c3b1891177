//! A model may have its answers brought to their end although their client has gone, so that the provider's own count is charged.

use serde_json::{Value, json};

use crate::support::{
    DONE, Gate, Gateway, MockUpstream, Reply, chat, chunk, completion, eventually, finish, get, http::Connection, post,
    streamed_chat, usage,
};

/// A gateway that drains, and a request of which nothing is answered before the gate is open.
struct Drained {
    gateway: Gateway,
    upstream: MockUpstream,
    key: crate::support::Key,
    gate: Gate,
}

impl Drained {
    async fn start() -> Self {
        let upstream = MockUpstream::start().await;
        let builder = Gateway::builder().openai(&upstream).toml("[providers.openai]\non_disconnect = \"drain\"");
        let gateway = builder.set("AI4FREE__ADMIN__LISTEN", "127.0.0.1:0").start().await;
        let key = gateway.key().await;
        Self { gateway, upstream, key, gate: Gate::closed() }
    }

    async fn begin(&self, body: &Value, reply: Reply) -> Connection {
        self.upstream.answer(reply);
        let connection = post("/v1/chat/completions", body).key(&self.key.text).start(self.gateway.address).await;
        self.upstream.request(0).await;
        connection
    }

    /// The client goes, and then the provider answers. What is charged.
    async fn leave(self, connection: Connection) -> Value {
        connection.close();
        eventually("the call to go on without its client", || async {
            let metrics = get("/metrics").send(self.gateway.admin_address().unwrap()).await.text();
            metrics.lines().any(|line| line == "ai4free_calls_drained 1").then_some(())
        })
        .await;
        self.gate.open();
        let report = self.gateway.usage_of(&self.key, 1).await;
        assert_eq!((&report["cancelled_requests"], &report["successful_requests"]), (&json!(1), &json!(0)));
        self.gateway.stop().await;
        report
    }
}

#[tokio::test]
async fn a_client_that_leaves_is_charged_the_providers_own_count() {
    let drained = Drained::start().await;
    let rest = [chunk(" there"), finish("stop"), usage(9, 1234), DONE.to_owned()].concat();
    let reply = Reply::stream().piece(&chunk("Hello")).wait(&drained.gate).piece(&rest).end();
    let mut exchange = drained.begin(&streamed_chat("openai/gpt-4o"), reply).await.head().await;
    exchange.until("Hello").await;
    let report = drained.leave(exchange.into_connection()).await;
    assert_eq!((&report["input_tokens"], &report["output_tokens"]), (&json!(9), &json!(1234)));
}

#[tokio::test]
async fn a_whole_reply_that_nobody_waits_for_is_charged_the_providers_own_count() {
    let drained = Drained::start().await;
    let mut body = completion("Hello there");
    body["usage"] = json!({"prompt_tokens": 9, "completion_tokens": 1234, "total_tokens": 1243});
    let reply = Reply::default().wait(&drained.gate).followed_by(Reply::json(&body));
    let connection = drained.begin(&chat("openai/gpt-4o"), reply).await;
    let report = drained.leave(connection).await;
    assert_eq!((&report["input_tokens"], &report["output_tokens"]), (&json!(9), &json!(1234)));
}

#[tokio::test]
async fn a_stream_that_is_left_before_it_begins_is_charged_the_providers_own_count() {
    let drained = Drained::start().await;
    let rest = [chunk("Hello"), finish("stop"), usage(9, 1234), DONE.to_owned()].concat();
    let reply = Reply::stream().wait(&drained.gate).piece(&rest).end();
    let connection = drained.begin(&streamed_chat("openai/gpt-4o"), reply).await;
    let report = drained.leave(connection).await;
    assert_eq!((&report["input_tokens"], &report["output_tokens"]), (&json!(9), &json!(1234)));
}
