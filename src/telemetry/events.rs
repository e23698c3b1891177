//! The fields of an event as they are written: complete, and with nothing in them that a terminal or a parser would obey.
//!
//! The formatters that come with `tracing-subscriber` leave out the causes of an error in JSON and write line breaks of a
//! displayed value as they are in text.

use std::{
    error::Error,
    fmt::{self, Debug, Write},
};

use serde::ser::{Serialize, SerializeMap, Serializer};
use tracing::{
    Event,
    field::{Field, Visit},
};

/// Fields as members of one JSON object.
pub(super) struct JsonFields<M: SerializeMap> {
    map: M,
    outcome: Result<(), M::Error>,
}

impl JsonFields<serde_json::ser::Compound<'_, &mut Vec<u8>, serde_json::ser::CompactFormatter>> {
    pub(super) fn write(line: &mut Vec<u8>, time: &str, target: &str, event: &Event<'_>) -> serde_json::Result<()> {
        let mut serializer = serde_json::Serializer::new(line);
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("timestamp", time)?;
        map.serialize_entry("level", event.metadata().level().as_str())?;
        map.serialize_entry("target", target)?;
        let mut fields = JsonFields { map, outcome: Ok(()) };
        event.record(&mut fields);
        fields.outcome?;
        SerializeMap::end(fields.map)
    }
}

impl<M: SerializeMap> JsonFields<M> {
    fn entry(&mut self, field: &Field, value: &(impl Serialize + ?Sized)) {
        if self.outcome.is_ok() && !is_of_record(field) {
            self.outcome = self.map.serialize_entry(field.name(), value);
        }
    }
}

impl<M: SerializeMap> Visit for JsonFields<M> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.entry(field, &Text(format_args!("{value:?}")));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.entry(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.entry(field, &value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.entry(field, &value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.entry(field, &value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.entry(field, &value);
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        self.entry(field, &Text(Chain(value)));
    }
}

/// Fields as `name=value`, the message without its name.
pub(super) struct TextFields<'a, W> {
    line: &'a mut W,
    outcome: fmt::Result,
}

impl<W: Write> TextFields<'_, W> {
    pub(super) fn write(line: &mut W, event: &Event<'_>) -> fmt::Result {
        let mut fields = TextFields { line, outcome: Ok(()) };
        event.record(&mut fields);
        fields.outcome
    }

    fn entry(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        if self.outcome.is_err() || is_of_record(field) {
            return;
        }
        let name = field.name();
        let named = if name == "message" { self.line.write_char(' ') } else { write!(self.line, " {name}=") };
        self.outcome = named.and_then(|()| Escaped(self.line).write_fmt(value));
    }
}

impl<W: Write> Visit for TextFields<'_, W> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.entry(field, format_args!("{value:?}"));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        self.entry(field, format_args!("{}", Chain(value)));
    }
}

/// Where a record of the `log` crate came from, which `tracing-log` adds to its fields.
fn is_of_record(field: &Field) -> bool {
    field.name().starts_with("log.")
}

/// Control characters are shown, not sent: a client's text can neither begin a line nor colour one.
struct Escaped<'a, W>(&'a mut W);

impl<W: Write> Write for Escaped<'_, W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for part in text.split_inclusive(char::is_control) {
            match part.chars().next_back().filter(|last| last.is_control()) {
                Some(control) => {
                    self.0.write_str(part.strip_suffix(control).unwrap_or_default())?;
                    write!(self.0, "{}", control.escape_default())?;
                }
                None => self.0.write_str(part)?,
            }
        }
        Ok(())
    }
}

/// An error and all of its causes.
struct Chain<'a>(&'a (dyn Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

/// Serialised as it is displayed, without a copy.
struct Text<D>(D);

impl<D: fmt::Display> Serialize for Text<D> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}
