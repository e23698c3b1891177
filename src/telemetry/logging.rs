//! The log: one line per event on stderr, JSON for machines and text for people.

use std::fmt;

use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::{
    EnvFilter, Layer,
    filter::{FilterExt, filter_fn},
    fmt::{
        FmtContext, FormatEvent, FormatFields, MakeWriter,
        format::Writer,
        time::{FormatTime, SystemTime},
    },
    registry::LookupSpan,
};

use super::{
    events::{JsonFields, TextFields},
    start::InvalidSetting,
};
use crate::config::telemetry::LogFormat;

/// Events only: a span is not worth its cost unless somebody collects spans, so the log does not ask for any.
pub(super) fn layer<S, W>(
    level: &str,
    format: LogFormat,
    on_terminal: bool,
    writer: W,
) -> Result<Box<dyn Layer<S> + Send + Sync>, InvalidSetting>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let filter = EnvFilter::try_new(level)
        .map_err(|error| InvalidSetting { setting: "telemetry.level", problem: error.to_string() })?
        .and(filter_fn(|metadata: &Metadata<'_>| !metadata.is_span()));
    let lines = tracing_subscriber::fmt::layer().with_writer(writer);
    let as_json = match format {
        LogFormat::Auto => !on_terminal,
        LogFormat::Json => true,
        LogFormat::Text => false,
    };
    Ok(if as_json {
        lines.event_format(JsonLines).with_filter(filter).boxed()
    } else {
        lines.event_format(TextLines).with_ansi(on_terminal).with_filter(filter).boxed()
    })
}

/// `{"timestamp":…,"level":…,"target":…,"message":…,FIELDS}`.
struct JsonLines;

impl<S, N> FormatEvent<S, N> for JsonLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut time = String::new();
        SystemTime.format_time(&mut Writer::new(&mut time))?;
        let mut line = Vec::with_capacity(512);
        JsonFields::write(&mut line, &time, event).map_err(|_| fmt::Error)?;
        writer.write_str(std::str::from_utf8(&line).map_err(|_| fmt::Error)?)?;
        writer.write_char('\n')
    }
}

/// `TIME LEVEL TARGET: MESSAGE FIELD=VALUE …`.
struct TextLines;

impl<S, N> FormatEvent<S, N> for TextLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        SystemTime.format_time(&mut writer)?;
        let level = *event.metadata().level();
        if writer.has_ansi_escapes() {
            write!(writer, " {}{level:>5}\x1b[0m ", colour(level))?;
        } else {
            write!(writer, " {level:>5} ")?;
        }
        write!(writer, "{}:", event.metadata().target())?;
        TextFields::write(&mut writer, event)?;
        writer.write_char('\n')
    }
}

fn colour(level: tracing::Level) -> &'static str {
    match level {
        tracing::Level::ERROR => "\x1b[31m",
        tracing::Level::WARN => "\x1b[33m",
        tracing::Level::INFO => "\x1b[32m",
        _ => "\x1b[2m",
    }
}

#[cfg(test)]
mod tests;
