//! Whole completions: what reaches the provider, what comes back, what is charged.

use serde_json::json;

use crate::support::{Gateway, MockUpstream, Reply, chat, completion, post};

#[tokio::test]
async fn a_request_reaches_the_provider_byte_for_byte_but_for_the_model() {
    let upstream = MockUpstream::always(Reply::json(&completion("ok"))).await;
    let gateway = Gateway::before(&upstream).await;
    let key = gateway.key().await;
    let body = |model: &str| {
        format!(
            "{{ \"seed\": 9007199254740993123 ,\n\t\"model\":\"{model}\",\"temperature\":1.0,\"top_p\" : 1e0,\"stop\":null,\
             \"messages\":[{{\"role\":\"user\",\"content\":\"caf\\u00e9 \\ud83d\\ude00 \\u0041 é\",\"name\":null}},\
             {{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{{\"id\":\"c\",\"type\":\"function\",\
             \"function\":{{\"name\":\"f\",\"arguments\":\"{{not json\"}}}}]}}],\
             \"x_unknown\":{{\"b\":1.10,\"a\":[],\"a\":0}},\"logit_bias\":{{}},\"n\":1}}"
        )
    };
    let request = post("/v1/chat/completions", &json!(0)).body(body("openai/gpt-4o")).key(&key.text);
    gateway.send(&request).await.success();
    assert_eq!(upstream.request(0).await.text(), body("gpt-4o"));
    gateway.stop().await;
}

#[tokio::test]
async fn a_reply_comes_back_byte_for_byte() {
    let body = "{\"id\":\"x\",\"object\":\"chat.completion\",\"created\":1,\"model\":\"gpt-4o-2024-08-06\",\"choices\":[\
                {\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"caf\\u00e9 \\ud83d\\ude00\",\
                \"x_extra\":1.0},\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":12,\
                \"total_tokens\":21,\"x_detail\":null},\"x_large\":9007199254740993123}";
    let upstream = MockUpstream::always(Reply::whole(200, "application/json", body)).await;
    let gateway = Gateway::before(&upstream).await;
    let key = gateway.key().await;
    let response = gateway.send(&post("/v1/chat/completions", &chat("gpt-4o")).key(&key.text)).await;
    assert_eq!((response.status, response.text().as_str()), (200, body));
    assert_eq!(response.header("content-type"), Some("application/json"));
    gateway.stop().await;
}
