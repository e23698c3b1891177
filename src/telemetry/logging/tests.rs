use std::{
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use ai4free_ports::{
    key::KeyId,
    money::PicoUsd,
    rate_limiter::{LimitKind, Scope},
    request::{Operation, RequestId},
    runtime::{RequestEnd, RequestObserver, RequestSummary},
    usage::{TokenUsage, UsageSource},
    usage_ledger::Outcome,
};
use serde_json::{Value, json};
use tracing_subscriber::layer::SubscriberExt;

use super::*;
use crate::telemetry::{metrics::Metrics, observer::Observer};

#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl Captured {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl io::Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Captured {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

fn logged(level: &str, format: LogFormat, act: impl FnOnce()) -> String {
    let captured = Captured::default();
    let layer = layer(level, format, false, captured.clone()).unwrap();
    tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), act);
    captured.text()
}

fn summary() -> RequestSummary {
    RequestSummary {
        request: RequestId(uuid::Uuid::from_u128(7)),
        operation: Operation::Chat,
        streamed: true,
        key: KeyId::parse("abcdefghijkl"),
        model: Some("gpt-4o".into()),
        provider: Some("openai".into()),
        credential: Some("openai#1".into()),
        end: RequestEnd::Admitted { outcome: Outcome::Failed, error: Some("upstream_timeout") },
        attempts: 2,
        usage: TokenUsage { input: 10, cache_read: 4, output: 3, reasoning: 2, ..TokenUsage::default() },
        usage_source: UsageSource::Counted,
        usage_clamped: false,
        cost: Some(PicoUsd(1_690_000_000)),
        reservation_exceeded: false,
        first_byte: Some(Duration::from_millis(120)),
        total: Duration::from_millis(900),
        upstream: Duration::from_micros(899_850),
    }
}

fn observe(summary: &RequestSummary) {
    Observer::new(Arc::new(Metrics::new().unwrap())).finished(summary);
}

#[test]
fn a_request_is_one_json_line_of_known_fields() {
    let text = logged("info", LogFormat::Json, || observe(&summary()));
    let mut line: Value = serde_json::from_str(text.strip_suffix('\n').unwrap()).unwrap();
    assert!(line.as_object_mut().unwrap().remove("timestamp").unwrap().as_str().unwrap().ends_with('Z'));
    assert_eq!(
        line,
        json!({
            "level": "INFO", "target": "ai4free::request", "message": "request finished",
            "request": "req_00000000000000000000000000000007", "operation": "chat", "streamed": true,
            "model": "gpt-4o", "key": "abcdefghijkl", "provider": "openai", "credential": "openai#1", "attempts": 2,
            "outcome": "failed", "error": "upstream_timeout", "input_tokens": 14, "output_tokens": 5,
            "cost_usd": "0.00169", "usage_source": "counted",
            "first_byte_ms": 120, "total_ms": 900, "upstream_ms": 899, "overhead_us": 150,
        })
    );
}

#[test]
fn a_refusal_says_which_limit_and_has_no_usage_source() {
    let end = RequestEnd::LimitReached { scope: Scope::User("alice".into()), kind: LimitKind::Requests };
    let text = logged("info", LogFormat::Json, || observe(&RequestSummary { end, ..summary() }));
    let line: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (&line["outcome"], &line["limit_scope"], &line["limit_kind"]),
        (&json!("limit_reached"), &json!("user"), &json!("requests"))
    );
    assert!(line.get("usage_source").is_none() && line.get("error").is_none());
}

#[test]
fn the_request_log_is_silent_below_its_level_and_when_switched_off() {
    for level in ["warn", "info,ai4free::request=off"] {
        assert_eq!(logged(level, LogFormat::Json, || observe(&summary())), "");
    }
}

#[test]
fn the_log_asks_for_no_spans() {
    logged("trace", LogFormat::Json, || assert!(tracing::error_span!("work").is_disabled()));
}

#[derive(Debug, thiserror::Error)]
#[error("store unavailable")]
struct Outer(#[source] io::Error);

#[test]
fn an_error_is_logged_with_its_causes() {
    let act = || {
        let error = Outer(io::Error::other("connection refused"));
        tracing::warn!(error = &error as &dyn std::error::Error, "key store failed");
    };
    let line: Value = serde_json::from_str(&logged("info", LogFormat::Json, act)).unwrap();
    assert_eq!(line["error"], "store unavailable: connection refused");
    let text = logged("info", LogFormat::Text, act);
    assert!(text.ends_with("tests: key store failed error=store unavailable: connection refused\n"), "{text}");
}

#[test]
fn a_hostile_text_neither_begins_a_line_nor_colours_one() {
    let hostile = "a\r\nERROR forged \x1b[31mred \u{9b}31m";
    let act = || tracing::info!(shown = %hostile, quoted = hostile, "{hostile}");
    for format in [LogFormat::Json, LogFormat::Text] {
        let text = logged("info", format, act);
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(!text.trim_end().contains(['\r', '\x1b']), "{text}");
    }
    assert!(!logged("info", LogFormat::Text, act).contains('\u{9b}'));
}

#[test]
fn a_wrong_level_names_the_setting() {
    let error =
        layer::<tracing_subscriber::Registry, _>("info,=", LogFormat::Json, false, Captured::default()).err().unwrap();
    assert_eq!(error.setting, "telemetry.level");
}

/// As the `log` crate's bridge does it.
fn record(target: &str, level: tracing_log::log::Level, message: &str) {
    let arguments = format_args!("{message}");
    let record = tracing_log::log::Record::builder()
        .target(target)
        .level(level)
        .args(arguments)
        .module_path(Some(target))
        .build();
    tracing_log::format_trace(&record).unwrap();
}

#[test]
fn a_record_of_the_log_crate_has_its_own_target() {
    let act = || record("rustls::conn", tracing_log::log::Level::Warn, "no session");
    let mut line: Value = serde_json::from_str(&logged("info", LogFormat::Json, act)).unwrap();
    line.as_object_mut().unwrap().remove("timestamp");
    assert_eq!(line, json!({ "level": "WARN", "target": "rustls::conn", "message": "no session" }));
    let text = logged("info", LogFormat::Text, act);
    assert!(text.ends_with("  WARN rustls::conn: no session\n"), "{text}");
}

#[test]
fn dependencies_that_repeat_themselves_log_errors_only_unless_asked() {
    let act = || {
        record("fred::router::responses", tracing_log::log::Level::Warn, "broadcasting");
        record("fred::router::responses", tracing_log::log::Level::Error, "broken");
        tracing::info!(target: "sqlx::postgres::notice", "relation exists");
        tracing::info!("ours");
    };
    let messages = |level| -> Vec<String> {
        let lines = logged(level, LogFormat::Json, act);
        let message = |line: &str| serde_json::from_str::<Value>(line).unwrap()["message"].as_str().unwrap().to_owned();
        lines.lines().map(message).collect()
    };
    assert_eq!(messages("info"), ["broken", "ours"]);
    assert_eq!(messages("error"), ["broken"]);
    assert_eq!(messages("info,fred=warn"), ["broadcasting", "broken", "ours"]);
    assert_eq!(messages("info,sqlx=info"), ["broken", "relation exists", "ours"]);
    assert_eq!(messages("debug"), ["broadcasting", "broken", "relation exists", "ours"]);
    assert!(messages("off").is_empty());
}
