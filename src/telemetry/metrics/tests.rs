use std::{sync::Arc, time::Duration};

use ai4free_ports::{
    money::PicoUsd,
    rate_limiter::{LimitKind, Scope},
    request::RequestId,
    usage::{TokenUsage, UsageSource},
    usage_ledger::Outcome,
};

use super::*;
use crate::telemetry::labels::{MOST_MODELS, OTHER};

fn summary() -> RequestSummary {
    RequestSummary {
        request: RequestId(uuid::Uuid::from_u128(7)),
        operation: Operation::Chat,
        streamed: true,
        key: None,
        model: Some("gpt-4o".into()),
        provider: Some("openai".into()),
        credential: Some("openai#1".into()),
        end: RequestEnd::Admitted { outcome: Outcome::Success, error: None },
        attempts: 1,
        usage: TokenUsage { input: 10, cache_read: 4, output: 3, reasoning: 2, ..TokenUsage::default() },
        usage_source: UsageSource::Provider,
        usage_clamped: false,
        cost: Some(PicoUsd(1_690_000_000)),
        reservation_exceeded: false,
        first_byte: Some(Duration::from_millis(120)),
        total: Duration::from_millis(900),
        upstream: Duration::from_micros(899_850),
    }
}

#[track_caller]
fn assert_lines(text: &str, lines: &[&str]) {
    for line in lines {
        assert!(text.lines().any(|actual| actual == *line), "no line `{line}` in\n{text}");
    }
}

#[test]
fn a_request_is_counted_with_its_tokens_cost_and_times() {
    let metrics = Metrics::new().unwrap();
    metrics.finished(&summary());
    metrics.finished(&summary());
    let text = metrics.render();
    assert_lines(
        &text,
        &[
            "# TYPE ai4free_requests_total counter",
            r#"ai4free_requests_total{model="gpt-4o",operation="chat",outcome="success",provider="openai"} 2"#,
            r#"ai4free_tokens_total{direction="input",model="gpt-4o"} 20"#,
            r#"ai4free_tokens_total{direction="cache_read",model="gpt-4o"} 8"#,
            r#"ai4free_tokens_total{direction="output",model="gpt-4o"} 6"#,
            r#"ai4free_tokens_total{direction="reasoning",model="gpt-4o"} 4"#,
            r#"ai4free_cost_pico_usd_total{model="gpt-4o"} 3380000000"#,
            r#"ai4free_first_byte_seconds_bucket{operation="chat",le="0.1"} 0"#,
            r#"ai4free_first_byte_seconds_bucket{operation="chat",le="0.25"} 2"#,
            r#"ai4free_request_seconds_bucket{le="1"} 2"#,
            r#"ai4free_overhead_seconds_bucket{le="0.0001"} 0"#,
            r#"ai4free_overhead_seconds_bucket{le="0.0002"} 2"#,
        ],
    );
    assert!(!text.contains("audio_in"), "a bucket that was never used has no series");
}

#[test]
fn refusals_and_failures_of_a_provider_are_told_apart() {
    let metrics = Metrics::new().unwrap();
    let refused = RequestEnd::LimitReached { scope: Scope::User("alice".into()), kind: LimitKind::Tokens };
    metrics.finished(&RequestSummary { end: refused, provider: None, ..summary() });
    metrics.finished(&RequestSummary {
        end: RequestEnd::Refused("unauthenticated"),
        model: None,
        provider: None,
        ..summary()
    });
    let failed = RequestEnd::Admitted { outcome: Outcome::Failed, error: Some("upstream_timeout") };
    metrics.finished(&RequestSummary { end: failed, ..summary() });
    let text = metrics.render();
    assert_lines(
        &text,
        &[
            r#"ai4free_refusals_total{reason="tokens",scope="user"} 1"#,
            r#"ai4free_refusals_total{reason="unauthenticated",scope="none"} 1"#,
            r#"ai4free_upstream_errors_total{kind="timeout",provider="openai"} 1"#,
            r#"ai4free_requests_total{model="gpt-4o",operation="chat",outcome="limit_reached",provider="none"} 1"#,
            r#"ai4free_requests_total{model="none",operation="chat",outcome="refused",provider="none"} 1"#,
            r#"ai4free_requests_total{model="gpt-4o",operation="chat",outcome="failed",provider="openai"} 1"#,
            "ai4free_request_seconds_count 1",
        ],
    );
    assert!(!text.contains("alice"), "a user is no label");
}

#[test]
fn the_number_of_models_with_series_of_their_own_is_bounded() {
    let metrics = Arc::new(Metrics::new().unwrap());
    let most = u32::try_from(MOST_MODELS).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4_u32 {
            let metrics = metrics.clone();
            scope.spawn(move || {
                for model in 0..most {
                    let model = format!("model-{}", model * 4 + thread);
                    metrics.finished(&RequestSummary { model: Some(model.into()), ..summary() });
                }
            });
        }
    });
    let text = metrics.render();
    let requests: Vec<&str> = text.lines().filter(|line| line.starts_with("ai4free_requests_total{")).collect();
    assert_eq!(requests.len(), MOST_MODELS + 1);
    let other = format!(
        r#"ai4free_requests_total{{model="{OTHER}",operation="chat",outcome="success",provider="openai"}} {}"#,
        3 * MOST_MODELS
    );
    assert!(requests.contains(&other.as_str()), "the rest is counted together");
}

#[test]
fn gauges_and_counters_kept_elsewhere_are_read_at_each_scrape() {
    use std::sync::atomic::{AtomicI64, Ordering};
    let metrics = Metrics::new().unwrap();
    let bytes = Arc::new(AtomicI64::new(5));
    let read = bytes.clone();
    metrics.register_gauge("ai4free_spool_bytes", "Spool.", Box::new(move || read.load(Ordering::Relaxed))).unwrap();
    metrics.register_counter("ai4free_spans_total", "Spans.", Box::new(|| 3)).unwrap();
    assert!(metrics.register_gauge("ai4free_spool_bytes", "Again.", Box::new(|| 0)).is_err());
    assert_lines(&metrics.render(), &["# TYPE ai4free_spool_bytes gauge", "ai4free_spool_bytes 5"]);
    bytes.store(6, Ordering::Relaxed);
    assert_lines(
        &metrics.render(),
        &["ai4free_spool_bytes 6", "# TYPE ai4free_spans_total counter", "ai4free_spans_total 3"],
    );
}

#[test]
fn a_histogram_kept_elsewhere_has_its_buckets_summed_up() {
    const BOUNDS: [Duration; 2] = [Duration::from_micros(10), Duration::from_millis(1)];
    let metrics = Metrics::new().unwrap();
    let read = || Times { bounds: &BOUNDS, counts: vec![3, 2, 1], sum: Duration::from_secs(2) };
    metrics.register_histogram("ai4free_spool_write_seconds", "Writes.", Box::new(read)).unwrap();
    assert_lines(
        &metrics.render(),
        &[
            "# TYPE ai4free_spool_write_seconds histogram",
            r#"ai4free_spool_write_seconds_bucket{le="0.00001"} 3"#,
            r#"ai4free_spool_write_seconds_bucket{le="0.001"} 5"#,
            r#"ai4free_spool_write_seconds_bucket{le="+Inf"} 6"#,
            "ai4free_spool_write_seconds_sum 2",
            "ai4free_spool_write_seconds_count 6",
        ],
    );
}

/// Not a promise, a figure: `cargo test --release -- --ignored --nocapture cost_of`.
#[test]
#[ignore = "measures"]
#[expect(clippy::disallowed_methods, reason = "real time is what is measured")]
fn cost_of_one_request() {
    let metrics = Metrics::new().unwrap();
    let summary = summary();
    let started = std::time::Instant::now();
    for _ in 0..1_000_000 {
        metrics.finished(&summary);
    }
    println!("{:?} per request", started.elapsed() / 1_000_000);
}

#[test]
fn what_was_not_believed_and_what_was_not_reserved_are_counted() {
    let metrics = Metrics::new().unwrap();
    metrics.finished(&RequestSummary { usage_clamped: true, ..summary() });
    metrics.finished(&RequestSummary { reservation_exceeded: true, ..summary() });
    metrics.finished(&RequestSummary { reservation_exceeded: true, ..summary() });
    assert_lines(&metrics.render(), &["ai4free_usage_clamped_total 1", "ai4free_budget_reservation_exceeded_total 2"]);
}
