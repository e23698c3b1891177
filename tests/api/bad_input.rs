//! Whatever a client sends: an error of its own, in the one form, at once. Never a 5xx, HTML or a hang.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::{Gateway, Key, Request, Response, chat, get, post};

fn echo(key: &Key, body: impl Into<Vec<u8>>) -> Request {
    post("/v1/chat/completions", &chat("local/echo")).body(body).key(&key.text)
}

fn assert_clean(response: &Response, about: &str) {
    let error = response.any_error();
    assert!((400..500).contains(&response.status), "{about}: {}", response.status);
    assert_eq!(error["type"], "invalid_request_error", "{about}: {error}");
    assert!(!response.text().contains("</"), "{about}: {error}");
}

#[tokio::test]
async fn bodies_that_are_wrong_are_400s_that_name_the_member() {
    let gateway = Gateway::start().await;
    let key = gateway.key().await;
    let messages = r#""messages":[{"role":"user","content":"a"}]"#;
    let with = |members: &str| format!(r#"{{"model":"local/echo",{messages},{members}}}"#);
    let deep = format!("{}1{}", "[".repeat(200), "]".repeat(200));
    let deepest = "[".repeat(1 << 20);
    let table: Vec<(String, Option<&str>)> = vec![
        (String::new(), None),
        (" ".into(), None),
        ("{".into(), None),
        ("{}".into(), Some("model")),
        ("null".into(), None),
        ("[]".into(), None),
        ("\"text\"".into(), None),
        ("12".into(), None),
        ("{\"model\":\"local/echo\"} trailing".into(), None),
        (format!("{}}}", with("\"n\":1")), None),
        (r#"{"model":"local/echo"}"#.into(), Some("messages")),
        (format!("{{{messages}}}"), Some("model")),
        (format!(r#"{{"model":null,{messages}}}"#), Some("model")),
        (format!(r#"{{"model":5,{messages}}}"#), Some("model")),
        (format!(r#"{{"model":["a"],{messages}}}"#), Some("model")),
        (r#"{"model":"local/echo","messages":null}"#.into(), Some("messages")),
        (r#"{"model":"local/echo","messages":[]}"#.into(), Some("messages")),
        (r#"{"model":"local/echo","messages":{}}"#.into(), Some("messages")),
        (r#"{"model":"local/echo","messages":"hi"}"#.into(), Some("messages")),
        (r#"{"model":"local/echo","messages":[1]}"#.into(), Some("messages[0]")),
        (r#"{"model":"local/echo","messages":[null]}"#.into(), Some("messages[0]")),
        (r#"{"model":"local/echo","messages":[{"content":"a"}]}"#.into(), Some("messages[0].role")),
        (r#"{"model":"local/echo","messages":[{"role":"king","content":"a"}]}"#.into(), Some("messages[0].role")),
        (r#"{"model":"local/echo","messages":[{"role":5,"content":"a"}]}"#.into(), Some("messages[0].role")),
        (r#"{"model":"local/echo","messages":[{"role":"user","content":7}]}"#.into(), Some("messages[0].content")),
        (with(r#""stream":"yes""#), Some("stream")),
        (with(r#""stream":1"#), Some("stream")),
        (with(r#""n":0"#), Some("n")),
        (with(r#""n":-1"#), Some("n")),
        (with(r#""n":1000000"#), Some("n")),
        (with(r#""n":1.5"#), Some("n")),
        (with(r#""n":"2""#), Some("n")),
        (with(r#""max_tokens":-5"#), Some("max_tokens")),
        (with(r#""max_tokens":"5""#), Some("max_tokens")),
        (with(r#""max_tokens":1e400"#), Some("max_tokens")),
        (with(r#""max_completion_tokens":{}"#), Some("max_completion_tokens")),
        (with(r#""max_tokens":5,"max_completion_tokens":5"#), Some("max_tokens")),
        (with(r#""stream_options":5"#), Some("stream_options")),
        (with(r#""stream_options":{"include_usage":"x"}"#), Some("stream_options.include_usage")),
        (with(r#""model":"other""#), Some("model")),
        (with(messages), Some("messages")),
        (with(&format!(r#""x":{deep}"#)), None),
        (deepest, None),
        (with("\"x\":\"\u{0}\""), None),
        (with(r#""x":"\ud800""#).replace("\\ud800", "\\uZZZZ"), None),
        (with(r#""x":nan"#), None),
        (format!("\u{feff}{}", with("\"n\":1")), None),
    ];
    for (body, param) in table {
        let about: String = body.chars().take(120).collect();
        let response = gateway.send(&echo(&key, body)).await;
        assert_eq!(response.status, 400, "{about}: {}", response.text());
        assert_clean(&response, &about);
        if param.is_some() {
            assert_eq!(response.any_error()["param"].as_str(), param, "{about}: {}", response.text());
        }
    }
    assert_eq!(gateway.send(&get("/v1/usage").key(&key.text)).await.success()["total_requests"], 0);
    gateway.stop().await;
}

#[tokio::test]
async fn bytes_that_are_no_text_are_a_400() {
    let gateway = Gateway::start().await;
    let key = gateway.key().await;
    let whole = br#"{"model":"local/echo","messages":[{"role":"user","content":"AAAA"}]}"#;
    for bad in [&b"\xff\xfe\xfd\xfc"[..], b"\xc3\x28\xc3\x28", b"\xed\xa0\x80A", b"\xf4\x90\x80\x80"] {
        let at = whole.windows(4).position(|window| window == b"AAAA").unwrap();
        let mut body = whole.to_vec();
        body.splice(at..at + 4, bad.iter().copied());
        let response = gateway.send(&echo(&key, body)).await;
        assert_eq!(response.status, 400);
        assert_clean(&response, "invalid UTF-8");
    }
    gateway.stop().await;
}

#[tokio::test]
async fn a_body_that_is_too_large_is_a_413_declared_or_not() {
    let gateway = Gateway::start().await;
    let key = gateway.key().await;
    let started = Instant::now();
    let large = vec![b'x'; 20 << 20];
    let declared = gateway.send(&echo(&key, large.clone())).await;
    declared.error(413);
    let mut chunked = gateway.connect().await;
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\n\
         transfer-encoding: chunked\r\n\r\n",
        key.text
    );
    chunked.write(head.as_bytes()).await;
    for piece in large.chunks(1 << 20) {
        chunked.write(format!("{:x}\r\n", piece.len()).as_bytes()).await;
        chunked.write(piece).await;
        chunked.write(b"\r\n").await;
    }
    chunked.write(b"0\r\n\r\n").await;
    chunked.head().await.whole().await.error(413);
    assert!(started.elapsed() < Duration::from_secs(10));
    gateway.stop().await;
}

#[tokio::test]
async fn content_types_and_encodings_that_are_not_json_are_415() {
    let gateway = Gateway::start().await;
    let key = gateway.key().await;
    let good = echo(&key, chat("local/echo").to_string());
    for content_type in
        ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "json", ""]
    {
        gateway.send(&good.clone().header("content-type", content_type)).await.error(415);
    }
    gateway.send(&good.clone().without_header("content-type")).await.error(415);
    gateway.send(&good.clone().header("content-encoding", "gzip")).await.error(415);
    for content_type in ["application/json; charset=utf-8", "Application/JSON", "application/json;x=y"] {
        gateway.send(&good.clone().header("content-type", content_type)).await.success();
    }
    gateway.stop().await;
}

#[tokio::test]
async fn unknown_paths_and_methods_are_404_and_405() {
    let gateway = Gateway::start().await;
    let key = gateway.key().await;
    let not_built = ["/v1/embeddings", "/v1/completions", "/v1/responses", "/v1/messages", "/v1/audio/speech"];
    for path in [
        "/",
        "/v1",
        "/v1/",
        "/nowhere",
        "/v1/chat",
        "/v1/chat/completions/",
        "//v1/models",
        "/v1/../health",
        "/metrics",
    ]
    .into_iter()
    .chain(not_built)
    {
        for request in [get(path), post(path, &json!({})).key(&key.text)] {
            let response = gateway.send(&request).await;
            assert_eq!(response.status, 404, "{path}");
            assert_clean(&response, path);
        }
    }
    for (path, method) in [
        ("/v1/chat/completions", "GET"),
        ("/v1/chat/completions", "PUT"),
        ("/v1/models", "DELETE"),
        ("/health", "POST"),
        ("/v1/api-keys", "PUT"),
        ("/v1/usage", "PATCH"),
        ("/v1/models", "BREW"),
    ] {
        let response = gateway.send(&get(path).method(method)).await;
        assert_eq!(response.status, 405, "{method} {path}");
        assert_clean(&response, path);
    }
    gateway.stop().await;
}

#[tokio::test]
async fn models_that_are_not_there_or_of_another_kind_are_refused() {
    let gateway = Gateway::start().await;
    let key = gateway.key().await;
    let long = "m".repeat(100_000);
    for name in ["nothing", "", "local/", "openai/gpt-4o", "../../etc/passwd", "a\nb", "😀", &long] {
        let response = gateway.send(&post("/v1/chat/completions", &chat(name)).key(&key.text)).await;
        assert_clean(&response, name);
        assert!(response.body.len() < 1000, "a client's own text is quoted only so far");
    }
    let image_model = gateway.send(&post("/v1/chat/completions", &chat("Provider-5/flux-pro")).key(&key.text)).await;
    assert_eq!(image_model.error(400)["param"], "model");
    let body = json!({"model": "local/echo", "prompt": "a cat"});
    let chat_model = gateway.send(&post("/v1/images/generations", &body).key(&key.text)).await;
    assert_eq!(chat_model.error(400)["param"], "model");
    gateway.stop().await;
}

#[tokio::test]
async fn heads_that_are_too_large_or_malformed_are_refused_in_the_one_form() {
    let gateway = Gateway::start().await;
    let large = gateway.send(&get("/health").header("x-large", &"x".repeat(400 << 10))).await;
    large.error(431);
    let many = (0..200).fold(get("/health"), |request, number| request.header(&format!("x-{number}"), "1"));
    gateway.send(&many).await.error(431);
    let long = gateway.send(&get(&format!("/{}", "x".repeat(100_000)))).await;
    assert!([414, 431].contains(&long.status), "{}", long.status);
    long.any_error();
    for raw in [
        "GET /health HTTP/1.1\r\n\r\n",
        "GET /health HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
        "GET /health HTTP/1.1\r\nhost: a\r\nauthorization: Bearer x\r\nauthorization: Bearer y\r\n\r\n",
        "POST /v1/usage HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST /v1/usage HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}",
        "POST /v1/usage HTTP/1.1\r\nhost: a\r\ncontent-length: -1\r\n\r\n",
        "POST /v1/usage HTTP/1.1\r\nhost: a\r\ntransfer-encoding: xchunked\r\n\r\n",
        "GET /health HTTP/1.1\r\nhost : a\r\n\r\n",
        "GET /he\u{1}alth HTTP/1.1\r\nhost: a\r\n\r\n",
        "GET health HTTP/1.1\r\nhost: a\r\n\r\n",
        "NONSENSE\r\n\r\n",
        "GET / HTTP/9.9\r\nhost: a\r\n\r\n",
    ] {
        let mut connection = gateway.connect().await;
        connection.write(raw.as_bytes()).await;
        let response = connection.head().await.whole().await;
        assert_clean(&response, raw);
    }
    // Who speaks HTTP/2 could not read an answer in HTTP/1.
    let mut connection = gateway.connect().await;
    connection.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    assert!(connection.until_closed().await.is_empty());
    gateway.send(&get("/health")).await.success();
    gateway.stop().await;
}

#[tokio::test]
async fn image_requests_that_are_wrong_are_400s_that_name_the_member() {
    let gateway = Gateway::start().await;
    let key = gateway.key().await;
    let table = [
        (json!({}), "prompt"),
        (json!({"prompt": null}), "prompt"),
        (json!({"prompt": 5}), "prompt"),
        (json!({"prompt": "a", "n": 0}), "n"),
        (json!({"prompt": "a", "n": 11}), "n"),
        (json!({"prompt": "a", "n": "1"}), "n"),
        (json!({"prompt": "a", "size": 512}), "size"),
        (json!({"prompt": "a", "response_format": "png"}), "response_format"),
        (json!({"prompt": "a", "stream": true}), "stream"),
        (json!({"prompt": "a", "model": 7}), "model"),
    ];
    for (body, param) in table {
        let error = gateway.send(&post("/v1/images/generations", &body).key(&key.text)).await.error(400);
        assert_eq!(error["param"], param, "{body}: {error}");
    }
    gateway.stop().await;
}

#[tokio::test]
async fn authentication_comes_before_the_body_is_read() {
    let gateway = Gateway::start().await;
    let response = gateway.send(&post("/v1/chat/completions", &json!(0)).body("not json").key("wrong")).await;
    response.error(401);
    gateway.stop().await;
}
