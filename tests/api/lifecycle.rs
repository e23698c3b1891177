//! Starting, stopping, crashing, and clients that are slow.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    time::{Duration, Instant},
};

use serde_json::json;
use tokio::net::TcpStream;

use crate::support::{
    DONE, Gate, Gateway, MockUpstream, Reply, chat, chunk, completion, events, eventually, finish, get, post,
    stores::{allow_replicas, uses_postgres},
    stream::{parse, text_of},
    streamed_chat, usage,
};

fn begun() -> Reply {
    Reply::stream().piece(&chunk("Hello there, how can I help you today?"))
}

#[tokio::test]
async fn a_stream_outlives_sigterm_while_readiness_says_so() {
    let gate = Gate::closed();
    let rest = finish("stop") + &usage(9, 12) + DONE;
    let upstream = MockUpstream::always(begun().wait(&gate).piece(&rest).end()).await;
    let mut gateway = Gateway::builder().openai(&upstream).set("AI4FREE__SERVER__PRE_STOP_SECONDS", "1").start().await;
    let key = gateway.key().await;
    let mut exchange = gateway.open(&post("/v1/chat/completions", &streamed_chat("gpt-4o")).key(&key.text)).await;
    let mut read = exchange.until("today?").await;
    // A connection that only waits must not hold the shutdown up.
    let idle = gateway.connect().await;

    gateway.terminate();
    let unready = eventually("readiness to end", || async {
        let response = gateway.send(&get("/readyz")).await;
        (response.status == 503).then(|| response.json())
    })
    .await;
    assert_eq!((&unready["status"], &unready["reasons"]), (&json!("unavailable"), &json!(["draining"])));
    gateway.send(&get("/livez")).await.success();
    eventually("the listener to close", || async { TcpStream::connect(gateway.address).await.is_err().then_some(()) })
        .await;

    gate.open();
    read.push_str(&exchange.whole().await.text());
    assert_eq!(events(read.as_bytes()).last().unwrap(), "[DONE]");
    gateway.assert_ended_well().await;
    drop(idle);

    let gateway = gateway.again().await;
    assert_eq!(gateway.usage_of(&key, 1).await["successful_requests"], 1);
    gateway.stop().await;
}

#[tokio::test]
async fn what_is_not_done_at_the_end_of_the_drain_is_cut_and_says_so() {
    let upstream = MockUpstream::always(begun().then_hang()).await;
    let mut gateway = Gateway::builder().openai(&upstream).set("AI4FREE__SERVER__DRAIN_SECONDS", "1").start().await;
    let key = gateway.key().await;
    let mut exchange = gateway.open(&post("/v1/chat/completions", &streamed_chat("gpt-4o")).key(&key.text)).await;
    let mut read = exchange.until("today?").await;
    gateway.terminate();
    let started = Instant::now();
    read.push_str(&exchange.whole().await.text());
    assert!((900..3000).contains(&started.elapsed().as_millis()), "{:?}", started.elapsed());
    let events = events(read.as_bytes());
    assert!(parse(events.last().unwrap())["error"]["message"].is_string(), "{events:?}");
    gateway.assert_ended_well().await;

    let gateway = gateway.again().await;
    let usage = gateway.usage_of(&key, 1).await;
    assert_eq!(usage["successful_requests"], 0, "{usage}");
    assert!(usage["output_tokens"].as_u64().unwrap() > 0, "{usage}");
    gateway.stop().await;
}

#[tokio::test]
async fn a_second_signal_ends_the_drain_at_once() {
    let upstream = MockUpstream::always(begun().then_hang()).await;
    let mut gateway = Gateway::before(&upstream).await;
    let key = gateway.key().await;
    let mut exchange = gateway.open(&post("/v1/chat/completions", &streamed_chat("gpt-4o")).key(&key.text)).await;
    exchange.until("today?").await;
    gateway.terminate();
    eventually("the listener to close", || async { TcpStream::connect(gateway.address).await.is_err().then_some(()) })
        .await;
    let started = Instant::now();
    gateway.terminate();
    gateway.assert_ended_well().await;
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    let gateway = gateway.again().await;
    gateway.usage_of(&key, 1).await;
    gateway.stop().await;
}

#[tokio::test]
async fn a_crash_loses_no_request_and_charges_none_twice() {
    let upstream = MockUpstream::start().await;
    let mut gateway = Gateway::before(&upstream).await;
    let key = gateway.key().await;
    upstream.answer(Reply::json(&completion("ok")));
    gateway.send(&post("/v1/chat/completions", &chat("gpt-4o")).key(&key.text)).await.success();
    upstream.answer(begun().then_hang());
    let mut exchange = gateway.open(&post("/v1/chat/completions", &streamed_chat("gpt-4o")).key(&key.text)).await;
    exchange.until("today?").await;
    gateway.crash();

    let gateway = gateway.again().await;
    let usage = gateway.usage_of(&key, 2).await;
    assert_eq!((&usage["successful_requests"], &usage["failed_requests"]), (&json!(1), &json!(1)), "{usage}");
    assert!(usage["output_tokens"].as_u64().unwrap() > 12, "what may have been used is charged: {usage}");
    assert_ne!(usage["total_cost"], "0.0001425");

    let mut gateway = gateway;
    gateway.crash();
    let gateway = gateway.again().await;
    gateway.send(&post("/v1/chat/completions", &chat("local/echo")).key(&key.text)).await.success();
    let again = gateway.usage_of(&key, 3).await;
    assert_eq!(again["model_usage"]["gpt-4o"], usage["model_usage"]["gpt-4o"], "once is once");
    gateway.stop().await;
}

#[tokio::test]
async fn keys_and_usage_survive_a_restart() {
    let mut gateway = Gateway::start().await;
    let key = gateway.key().await;
    gateway.send(&post("/v1/chat/completions", &chat("local/echo")).key(&key.text)).await.success();
    gateway.terminate();
    gateway.assert_ended_well().await;
    let gateway = gateway.again().await;
    gateway.send(&post("/v1/chat/completions", &chat("local/echo")).key(&key.text)).await.success();
    gateway.usage_of(&key, 2).await;
    gateway.stop().await;
}

#[tokio::test]
async fn heads_that_drip_in_and_connections_that_say_nothing_are_closed_in_time() {
    let gateway = Gateway::builder().set("AI4FREE__SERVER__HEADER_TIMEOUT_SECONDS", "1").start().await;
    for sent in ["", "GET /health HTTP/1.1\r\nhost: x\r\nx-dri"] {
        let mut connection = gateway.connect().await;
        connection.write(sent.as_bytes()).await;
        let started = Instant::now();
        connection.until_closed().await;
        let took = started.elapsed();
        assert!((800..1500).contains(&took.as_millis()), "{sent:?}: {took:?}");
    }
    gateway.stop().await;
}

#[tokio::test]
async fn a_connection_that_was_served_is_kept_for_a_while() {
    let gateway = Gateway::builder()
        .set("AI4FREE__SERVER__HEADER_TIMEOUT_SECONDS", "1")
        .set("AI4FREE__SERVER__KEEP_ALIVE_SECONDS", "2")
        .start()
        .await;
    let mut exchange = gateway.open(&get("/health")).await;
    while !exchange.piece().await.is_empty() {}
    let started = Instant::now();
    exchange.into_connection().until_closed().await;
    let took = started.elapsed();
    assert!((1800..2600).contains(&took.as_millis()), "{took:?}");
    gateway.stop().await;
}

#[tokio::test]
async fn a_client_that_does_not_read_is_given_up() {
    let flood = (0..16).fold(Reply::stream(), |reply, _| reply.piece(&chunk(&"x".repeat(1 << 20))));
    let upstream = MockUpstream::always(flood.then_hang()).await;
    let gateway = Gateway::builder().openai(&upstream).set("AI4FREE__SERVER__WRITE_TIMEOUT_SECONDS", "1").start().await;
    let key = gateway.key().await;
    let request = post("/v1/chat/completions", &streamed_chat("gpt-4o")).key(&key.text);
    let unread = request.start(gateway.address).await;
    upstream.end_of(0).await;
    assert_eq!(gateway.usage_of(&key, 1).await["cancelled_requests"], 1);
    drop(unread);
    gateway.stop().await;
}

#[tokio::test]
async fn a_new_sqlite_store_gets_one_key_that_is_shown_once() {
    let mut gateway = Gateway::start().await;
    let said = gateway.stdout();
    if uses_postgres() {
        assert_eq!(said, "");
        return gateway.stop().await;
    }
    let key = said.split_whitespace().find(|word| word.starts_with("sk-a4f-")).unwrap().to_owned();
    assert!(said.contains(&format!("curl -N http://{}/v1/chat/completions", gateway.address)), "{said}");
    assert!(!gateway.stderr().contains(&key));
    let request = post("/v1/chat/completions", &streamed_chat("local/echo")).key(&key);
    assert_eq!(text_of(&events(&gateway.send(&request).await.body)), "Hello!");
    gateway.terminate();
    gateway.assert_ended_well().await;
    let gateway = gateway.again().await;
    assert_eq!(gateway.stdout(), "");
    gateway.stop().await;
}

#[tokio::test]
async fn secrets_are_generated_for_sqlite_and_demanded_for_postgres() {
    let builder = Gateway::builder().set("SYSTEM_SECRET", "");
    if uses_postgres() {
        let (code, said) = builder.refused().await;
        assert_eq!(code, Some(78), "{said}");
        assert!(said.contains("SYSTEM_SECRET"), "{said}");
        return;
    }
    let mut gateway = builder.start().await;
    let file = gateway.data_dir().join("secrets.toml");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let said = gateway.stdout();
    let key = said.split_whitespace().find(|word| word.starts_with("sk-a4f-")).unwrap();
    gateway.terminate();
    gateway.assert_ended_well().await;
    let gateway = gateway.again().await;
    gateway.send(&get("/v1/usage").key(key)).await.success();
    gateway.stop().await;
}

#[tokio::test]
async fn weak_secrets_and_unknown_settings_are_refused_without_being_repeated() {
    for (name, value, hint) in [
        ("SYSTEM_SECRET", "too-short-9c1", "SYSTEM_SECRET"),
        ("SYSTEM_SECRET", "zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz", "SYSTEM_SECRET"),
        ("AI4FREE__SERVER__LISTN", "canary-value-9c1", "listen"),
        ("AI4FREE__SERVER__DRAIN_SECONDS", "canary-value-9c1", "drain_seconds"),
    ] {
        let (code, said) = Gateway::builder().set(name, value).refused().await;
        assert_eq!(code, Some(78), "{name}: {said}");
        assert!(said.contains(hint), "{name}: {said}");
        if name == "SYSTEM_SECRET" {
            assert!(!said.contains(value), "{said}");
        }
    }
}

#[tokio::test]
async fn another_pepper_than_that_of_the_keys_is_refused() {
    let mut gateway = Gateway::start().await;
    gateway.key().await;
    gateway.terminate();
    gateway.assert_ended_well().await;
    let (code, said) = gateway.refused_again(("SYSTEM_SECRET", "another-secret-of-the-system-4kT8vQ2x")).await;
    assert_eq!(code, Some(78), "{said}");
    assert!(said.contains("pepper"), "{said}");
}

#[tokio::test]
async fn a_second_process_that_could_not_share_limits_is_refused() {
    if allow_replicas() {
        return;
    }
    let gateway = Gateway::start().await;
    let mut second = Gateway::builder();
    if !uses_postgres() {
        second = second.set("AI4FREE_DATA_DIR", gateway.data_dir().to_str().unwrap());
    }
    let (code, said) = second.refused_beside(&gateway).await;
    assert_eq!(code, Some(78), "{said}");
    assert!(said.contains("another process"), "{said}");
    let key = gateway.key().await;
    gateway.send(&post("/v1/chat/completions", &chat("local/echo")).key(&key.text)).await.success();
    gateway.stop().await;
}

#[tokio::test]
async fn readiness_and_liveness_speak_of_the_process() {
    let gateway = Gateway::start().await;
    assert_eq!(gateway.send(&get("/health")).await.success(), json!({"status": "ok"}));
    assert_eq!(gateway.send(&get("/livez")).await.success(), json!({"status": "ok"}));
    let ready = eventually("a connection to every store", || async {
        let ready = gateway.send(&get("/readyz")).await.success();
        ready.get("degraded").is_none().then_some(ready)
    })
    .await;
    assert_eq!(ready, json!({"status": "ok"}));
    gateway.stop().await;
}
