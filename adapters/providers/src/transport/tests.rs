use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use ai4free_contract::llm_provider::{
    SECRET,
    conversation::{chat, texts},
    upstream::{Step, Upstream},
};
use ai4free_ports::{
    error::ProviderErrorKind,
    llm_provider::LlmProvider,
    provider_settings::{ProviderSettings, Quirks, Timeouts},
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::{
    build,
    contract_tests::{BOTH_LANES, Build, OverHttp, StoppedClock, settings},
};

const ASK: &str = r#"{"model":"m","messages":[{"role":"user","content":"hi"}]}"#;
const ASK_STREAM: &str = r#"{"model":"m","stream":true,"messages":[{"role":"user","content":"hi"}]}"#;

fn made(make: Build, settings: &ProviderSettings) -> Arc<dyn LlmProvider> {
    make(settings, Arc::new(Transport::new()), Arc::new(StoppedClock)).unwrap()
}

#[tokio::test]
async fn an_upstream_that_does_not_speak_tls_is_an_error_and_the_request_was_not_sent() {
    for (make, ask) in BOTH_LANES.into_iter().flat_map(|make| [(make, ASK), (make, ASK_STREAM)]) {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let harness = OverHttp(make, Quirks::default());
        let provider = made(make, &settings(&format!("https://127.0.0.1:{port}/v1")));
        let answer = async {
            let (mut socket, _) = listener.accept().await.unwrap();
            tokio::io::AsyncWriteExt::write_all(&mut socket, b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = answer => {}
            reply = provider.call(chat(&harness, ask)) => {
                let error = reply.err().unwrap();
                assert_eq!((error.kind, error.request_was_sent), (ProviderErrorKind::Transport, false));
                assert!(!texts(&error).contains(SECRET));
            }
        }
    }
}

#[tokio::test]
async fn a_handshake_that_does_not_end_counts_against_the_connect_timeout() {
    for (make, ask) in [(BOTH_LANES[0], ASK), (BOTH_LANES[1], ASK_STREAM)] {
        // Nobody accepts: the kernel completes the TCP handshake, and no TLS follows.
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let timeouts = Timeouts { connect: Duration::from_millis(150), ..Timeouts::default() };
        let settings = ProviderSettings { timeouts, ..settings(&format!("https://127.0.0.1:{port}")) };
        let (harness, provider) = (OverHttp(make, Quirks::default()), made(make, &settings));
        // Loads the trust roots, which takes its time and isn't connecting.
        let _ = provider.call(chat(&harness, ask)).await;
        let call = tokio::time::timeout(Duration::from_millis(250), provider.call(chat(&harness, ask)));
        let error = call.await.expect("the timeout fires within 100 ms").err().unwrap();
        assert_eq!((error.kind, error.request_was_sent), (ProviderErrorKind::Timeout, false));
        assert!(provider.resting_until(0).is_some());
    }
}

#[tokio::test]
async fn a_kept_connection_that_closes_never_makes_a_request_arrive_twice() {
    let body = r#"{"id":"c","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"x"},"finish_reason":"stop"}]}"#;
    // It says nothing of closing, and closes: the connection is in the pool when that happens.
    let head = format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len());
    let upstream = Upstream::start([vec![Step::Write((head + body).into_bytes())]]).await;
    let harness = OverHttp(build, Quirks::default());
    let provider = made(build, &settings(&upstream.url()));
    for number in 0..100 {
        let ask = ASK.replace("hi", &format!("question {number}."));
        if let Err(error) = provider.call(chat(&harness, &ask)).await {
            assert_eq!(error.kind, ProviderErrorKind::Transport, "the race between the close and the next request");
        }
        let question = format!("question {number}.");
        let times =
            upstream.seen().iter().filter(|seen| String::from_utf8_lossy(&seen.body).contains(&question)).count();
        assert!(times <= 1, "{question} arrived {times} times");
    }
}

#[tokio::test]
async fn a_body_is_collected_up_to_its_cap() {
    let body =
        |pieces: &[&'static str]| RequestBody::from(Rope(pieces.iter().map(|piece| Bytes::from(*piece)).collect()));
    assert_eq!(collect(body(&[]), 5).await.unwrap(), "");
    assert_eq!(collect(body(&["abcde"]), 5).await.unwrap(), "abcde");
    assert_eq!(collect(body(&["ab", "c", "de"]), 5).await.unwrap(), "abcde");
    assert_eq!(collect(body(&["ab", "c", "def"]), 5).await.unwrap_err().kind, ProviderErrorKind::Protocol);
}

/// What a request is written in two pieces for (its head, then a body that does not fit with it) would otherwise wait for the
/// provider's late acknowledgement of the first, 40 ms.
#[tokio::test]
async fn connections_to_providers_send_small_pieces_at_once() {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    let connected = tcp_connector().call(url.parse().unwrap()).await.unwrap();
    assert!(connected.inner().nodelay().unwrap());
}

/// An upstream that answers every request with a stream, and counts its connections.
async fn streams(listener: tokio::net::TcpListener, connections: &AtomicUsize) {
    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\ne\r\ndata: [DONE]\n\n\r\n0\r\n\r\n";
    let mut open = FuturesUnordered::new();
    loop {
        tokio::select! {
            Ok((mut socket, _)) = listener.accept() => {
                connections.fetch_add(1, Ordering::SeqCst);
                open.push(async move {
                    let mut read = Vec::new();
                    while socket.read_buf(&mut read).await.is_ok_and(|bytes| bytes > 0) {
                        if read.ends_with(b"{}") {
                            read.clear();
                            socket.write_all(ANSWER).await.unwrap();
                        }
                    }
                });
            }
            Some(()) = open.next() => {}
        }
    }
}

#[tokio::test]
async fn a_connection_is_used_again_whether_its_stream_was_read_to_its_end_or_to_its_last_event() {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    let connections = AtomicUsize::new(0);
    let client = UpstreamClient::new(Arc::new(Transport::new()), Duration::from_secs(5));
    let body = || RequestBody::from(Rope([Bytes::from_static(b"{}")].into_iter().collect()));
    let calls = async {
        for number in 0..20 {
            let request = Request::post(&url).body(body()).unwrap();
            let mut response = client.send(request).await.unwrap().into_body();
            let event = response.frame().await.unwrap().unwrap().into_data().unwrap();
            assert_eq!(event, "data: [DONE]\n\n");
            if number < 10 {
                assert!(response.frame().await.is_none());
            }
        }
    };
    tokio::select! {
        () = streams(listener, &connections) => {}
        () = calls => {}
    }
    // The end of a stream that is not read any more may still be on its way when the next request comes.
    assert!((1..=2).contains(&connections.load(Ordering::SeqCst)), "{connections:?} for 20 requests");
}
