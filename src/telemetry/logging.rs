//! The log: one line per event on stderr, JSON for machines and text for people.

use std::fmt;

use tracing::{Event, Level, Metadata, Subscriber, level_filters::LevelFilter};
use tracing_log::NormalizeEvent;
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
        .map_err(|error| InvalidSetting { setting: "telemetry.level", problem: error.to_string() })?;
    let most_verbose = filter.max_level_hint();
    let muted = muted(level, most_verbose);
    let is_muted = move |target: &str| muted.iter().any(|muted| target.starts_with(muted));
    let most_verbose = most_verbose.unwrap_or(LevelFilter::TRACE);
    let events = filter_fn(move |metadata: &Metadata<'_>| {
        let is_wanted = metadata.is_event() && *metadata.level() <= most_verbose;
        is_wanted && (*metadata.level() == Level::ERROR || !is_muted(metadata.target()))
    });
    // Without the hint of both, every disabled event and span of every crate would be asked about one by one.
    let filter = filter.and(events.with_max_level_hint(most_verbose));
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

/// Targets of dependencies whose warnings repeat, for each connection, what this crate says once: the Redis client's, and
/// what Postgres remarks on statements that succeed.
const CHATTY: [&str; 2] = ["fred", "sqlx::postgres::notice"];

/// Those of which only errors are logged. Whoever names the crate in the filter, or asks for more than `info`, gets it all.
fn muted(level: &str, most_verbose: Option<LevelFilter>) -> Vec<&'static str> {
    if most_verbose.is_none_or(|most| most > LevelFilter::INFO) {
        return Vec::new();
    }
    let is_named = |target: &str| target.split("::").next().is_some_and(|name| level.contains(name));
    CHATTY.into_iter().filter(|target| !is_named(target)).collect()
}

/// Of an event that came as a record of the `log` crate, the metadata hold no more than its level.
fn target<'a>(event: &'a Event<'_>, of_record: Option<&'a Metadata<'_>>) -> &'a str {
    of_record.unwrap_or_else(|| event.metadata()).target()
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
        let of_record = event.normalized_metadata();
        let target = target(event, of_record.as_ref());
        JsonFields::write(&mut line, &time, target, event).map_err(|_| fmt::Error)?;
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
        let of_record = event.normalized_metadata();
        write!(writer, "{}:", target(event, of_record.as_ref()))?;
        TextFields::write(&mut writer, event)?;
        writer.write_char('\n')
    }
}

fn colour(level: Level) -> &'static str {
    match level {
        Level::ERROR => "\x1b[31m",
        Level::WARN => "\x1b[33m",
        Level::INFO => "\x1b[32m",
        _ => "\x1b[2m",
    }
}

#[cfg(test)]
mod tests;
