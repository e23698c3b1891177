//! Starts telemetry for a process, once, and ends it.

use std::{io::IsTerminal, sync::Arc};

use ai4free_ports::runtime::RequestObserver;
use tracing_subscriber::{layer::SubscriberExt, util::SubscriberInitExt};

use super::{
    line_writer::{LineWriter, StderrLines},
    logging,
    metrics::Metrics,
    observer::Observer,
    otlp::TraceExport,
    panics,
};
use crate::config::telemetry::{LogFormat, Telemetry as Settings};

/// A setting of telemetry that can't be used.
#[derive(Debug, thiserror::Error)]
#[error("{setting}: {problem}")]
pub struct InvalidSetting {
    pub setting: &'static str,
    pub problem: String,
}

/// Telemetry of a running gateway.
pub struct Telemetry {
    pub metrics: Arc<Metrics>,
    traces: Option<TraceExport>,
    lines: LineWriter,
}

impl Telemetry {
    /// Metrics and the request log in one.
    #[must_use]
    pub fn observer(&self) -> Arc<dyn RequestObserver> {
        Arc::new(Observer::new(self.metrics.clone()))
    }

    /// Sends what is still queued: spans for at most five seconds, then log lines for at most one. Lines that are logged
    /// later are written directly.
    pub async fn shutdown(&self) {
        if let Some(traces) = &self.traces {
            traces.shutdown().await;
        }
        self.lines.flush().await;
    }
}

/// Starts log, metrics and, if there is a collector, spans. Belongs to the verb that serves; needs a Tokio runtime.
///
/// # Errors
/// [`InvalidSetting`], or telemetry was started before.
pub fn start(settings: &Settings) -> anyhow::Result<Telemetry> {
    let metrics = Arc::new(Metrics::new()?);
    let (lines, dropped_lines) = LineWriter::start()?;
    metrics.register_counter(
        "ai4free_log_lines_dropped_total",
        "Log lines that were dropped because stderr did not take them fast enough.",
        Box::new(move || dropped_lines.count()),
    )?;
    let traces = TraceExport::start(settings)?;
    if let Some(traces) = &traces {
        let lost = traces.lost_spans();
        metrics.register_counter(
            "ai4free_trace_spans_dropped_total",
            "Spans that were dropped because the collector was too slow, unreachable or refused them.",
            Box::new(move || lost.count()),
        )?;
    }
    let log = logging::layer(&settings.level, settings.log_format, std::io::stderr().is_terminal(), lines.clone())?;
    tracing_subscriber::registry().with(log).with(traces.as_ref().map(TraceExport::layer)).try_init()?;
    panics::count_and_redact(metrics.panics());
    Ok(Telemetry { metrics, traces, lines })
}

/// The log of a short verb: written directly, so that no line is lost when the process ends.
///
/// # Errors
/// [`InvalidSetting`], or telemetry was started before.
pub fn log_to_stderr(level: &str, format: LogFormat) -> anyhow::Result<()> {
    let log = logging::layer(level, format, std::io::stderr().is_terminal(), StderrLines)?;
    tracing_subscriber::registry().with(log).try_init()?;
    Ok(())
}
