//! `[telemetry]`: log and traces.

use ai4free_ports::provider_settings::Secret;

use super::section::Section;

/// No `Debug`: the exporter's headers hold a credential.
#[derive(Clone)]
pub struct Telemetry {
    pub log_format: LogFormat,
    /// A tracing filter.
    pub level: String,
    /// Without `/v1/traces`. `None`: no traces.
    pub otlp_endpoint: Option<String>,
    /// `NAME=VALUE,…`.
    pub otlp_headers: Option<Secret>,
    pub service_name: String,
    /// From 0 to 100.
    pub sample_percent: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    Json,
    Text,
}

pub(super) fn read(section: Section<'_>) -> Telemetry {
    let formats = [("auto", LogFormat::Auto), ("json", LogFormat::Json), ("text", LogFormat::Text)];
    let otlp_endpoint = section.optional_text("otlp_endpoint");
    if otlp_endpoint.as_ref().is_some_and(|url| !url.starts_with("http://") && !url.starts_with("https://")) {
        section.wrong("otlp_endpoint", "expected http://… or https://…");
    }
    let telemetry = Telemetry {
        log_format: section.choice("log_format", &formats).unwrap_or(LogFormat::Auto),
        level: section.optional_text("level").unwrap_or_else(|| "info".to_owned()),
        otlp_endpoint,
        otlp_headers: section.secret("otlp_headers"),
        service_name: section.text("service_name"),
        sample_percent: u8::try_from(section.number("sample_percent", 0..=100)).unwrap_or(100),
    };
    section.finish();
    telemetry
}
