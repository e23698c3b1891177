#![expect(clippy::disallowed_methods, reason = "real time and a real collector are what is tested")]

use std::time::Instant;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::mpsc,
};
use tracing_subscriber::layer::SubscriberExt;

use super::*;
use crate::config::telemetry::LogFormat;

fn settings(endpoint: &str) -> Settings {
    Settings {
        log_format: LogFormat::Auto,
        level: "info".to_owned(),
        otlp_endpoint: Some(endpoint.to_owned()),
        otlp_headers: Some(ai4free_ports::provider_settings::Secret::new("x-tenant=a%20b, x-other = c".to_owned())),
        service_name: "gateway-under-test".to_owned(),
        sample_percent: 100,
    }
}

/// Makes spans as the gateway does and returns how long that took.
fn make_spans(export: &TraceExport, spans: usize) -> Duration {
    let subscriber = tracing_subscriber::registry().with(export.layer());
    tracing::subscriber::with_default(subscriber, || {
        let started = Instant::now();
        for _ in 0..spans {
            tracing::info_span!(target: "ai4free_providers::layers::traced", "llm_call", otel.name = "chat gpt-4o")
                .in_scope(|| {});
            tracing::info_span!(target: "hyper::client", "not_ours").in_scope(|| {});
        }
        started.elapsed()
    })
}

/// Answers every POST with 200 and hands its bytes over.
async fn collector() -> (String, mpsc::UnboundedReceiver<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let (seen, requests) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            let mut request = Vec::new();
            while !is_complete(&request) && connection.read_buf(&mut request).await.unwrap() > 0 {}
            connection.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await.unwrap();
            seen.send(request).unwrap();
        }
    });
    (address, requests)
}

fn is_complete(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request);
    let Some((head, _)) = text.split_once("\r\n\r\n") else { return false };
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .map(|length| length.parse::<usize>().unwrap());
    request.len() >= head.len() + 4 + length.unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn spans_arrive_at_the_collector_in_one_post() {
    let (address, mut requests) = collector().await;
    let export = TraceExport::start(&settings(&address)).unwrap().unwrap();
    make_spans(&export, 3);
    export.shutdown().await;
    let request = requests.recv().await.unwrap();
    let text = String::from_utf8_lossy(&request);
    assert!(text.starts_with("POST /v1/traces HTTP/1.1\r\n"), "{text}");
    assert!(text.contains("x-tenant: a b\r\n") && text.contains("x-other: c\r\n"), "{text}");
    assert!(text.contains("gateway-under-test"));
    assert_eq!(text.matches("chat gpt-4o").count(), 3);
    assert!(!text.contains("not_ours"));
    assert!(requests.try_recv().is_err());
    assert_eq!((export.lost_spans().count(), export.queue.waiting.load(Ordering::Relaxed)), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_hung_collector_costs_spans_and_no_time() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap(); // accepts in its backlog, never answers
    let export = TraceExport::start(&settings(&format!("http://{}", listener.local_addr().unwrap()))).unwrap().unwrap();
    let spans = 4 * QUEUE;
    let took = make_spans(&export, spans);
    assert!(took < Duration::from_secs(2), "{took:?} for {spans} spans");
    assert!(export.lost_spans().count() >= u64::try_from(spans - QUEUE).unwrap(), "{}", export.lost_spans().count());
    let started = Instant::now();
    export.shutdown().await;
    assert!(started.elapsed() < Duration::from_secs(6), "{:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_dead_collector_is_counted() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let export = TraceExport::start(&settings(&address)).unwrap().unwrap();
    make_spans(&export, 3);
    let started = Instant::now();
    export.shutdown().await;
    assert!(started.elapsed() < Duration::from_secs(6), "{:?}", started.elapsed());
    assert_eq!(export.lost_spans().count(), 3);
}

#[tokio::test]
async fn an_https_collector_needs_no_more_than_its_url() {
    assert!(TraceExport::start(&settings("https://127.0.0.1:1")).unwrap().is_some());
    assert!(TraceExport::start(&Settings { otlp_endpoint: None, ..settings("") }).unwrap().is_none());
}
