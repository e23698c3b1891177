//! Reads chosen members of a JSON object as the slices they are written in, and skips the rest, in one pass.

use std::ops::Range;

use ai4free_ports::error::RequestError;
use memchr::memchr2;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::messages::MessagesSeed;

/// The deepest nesting of arrays and objects that is read.
const MAX_DEPTH: usize = 128;
/// More than any list of names has.
const MAX_NAMES: usize = 12;

/// The members that were asked for, each at most once.
pub(super) struct Members<'a> {
    text: &'a str,
    names: &'static [&'static str],
    values: [Option<&'a RawValue>; MAX_NAMES],
    pub(super) is_empty: bool,
    /// What the messages are like, if there is a member `messages` and it was asked for.
    pub(super) messages: Option<Messages>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Messages {
    pub(super) has_media: bool,
}

/// What is wrong, told from within a pass of serde, whose errors can't carry it.
#[derive(Default)]
pub(super) struct Report {
    /// The member that is being read, as a path.
    pub(super) at: String,
    pub(super) fault: Option<RequestError>,
}

impl<'a> Members<'a> {
    /// Reads the members `names` of the object `text`, which is called `path` in errors. `messages`, if it is among them, is
    /// looked into.
    pub(super) fn read(text: &'a str, names: &'static [&'static str], path: &str) -> Result<Self, RequestError> {
        let mut members = Self { text, names, values: [None; MAX_NAMES], is_empty: true, messages: None };
        let mut report = Report { at: path.to_owned(), fault: None };
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let read = (&mut deserializer).deserialize_map(Reader { members: &mut members, report: &mut report, path });
        match read.and_then(|()| deserializer.end()) {
            Ok(()) => Ok(members),
            Err(error) => Err(report.fault.take().unwrap_or_else(|| fault_of(&error, &report.at))),
        }
    }

    pub(super) fn get(&self, name: &str) -> Option<&'a RawValue> {
        let position = self.names.iter().position(|known| *known == name)?;
        self.values.get(position).copied().flatten()
    }

    /// Where a value stands in the text.
    pub(super) fn span(&self, value: &RawValue) -> Range<usize> {
        let start = value.get().as_ptr().addr().saturating_sub(self.text.as_ptr().addr());
        start..start.saturating_add(value.get().len())
    }

    /// Where the key of a value stands in the text, quotes included. The key has no quote in it, escaped or not.
    pub(super) fn key_span(&self, value: &RawValue) -> Option<Range<usize>> {
        let before = self.text.get(..self.span(value).start)?.trim_ascii_end().strip_suffix(':')?.trim_ascii_end();
        let start = before.strip_suffix('"')?.rfind('"')?;
        Some(start..before.len())
    }

    /// Takes `value` if it is the first of this name.
    fn put(&mut self, position: usize, value: &'a RawValue) -> bool {
        self.values.get_mut(position).is_some_and(|slot| slot.replace(value).is_none())
    }
}

impl Report {
    /// A serde error that stands for `fault`.
    pub(super) fn refuse<E: serde::de::Error>(&mut self, fault: RequestError) -> E {
        self.fault = Some(fault);
        E::custom("refused")
    }

    pub(super) fn duplicate<E: serde::de::Error>(&mut self, param: String) -> E {
        let fault = RequestError::new(format!("Duplicate member: '{param}'.")).code("invalid_request_body");
        self.refuse(fault.param(param))
    }
}

/// Refuses what is not text, and what nests so deep that reading it could overflow a stack somewhere.
pub(super) fn checked_text(body: &[u8]) -> Result<&str, RequestError> {
    let text = std::str::from_utf8(body).map_err(|error| {
        let at = error.valid_up_to();
        RequestError::new(format!("The body is not valid UTF-8 (byte {at}).")).code("invalid_request_body")
    })?;
    if is_deeper_than(MAX_DEPTH, body) {
        let message = format!("The body is nested more than {MAX_DEPTH} levels deep.");
        return Err(RequestError::new(message).code("invalid_request_body"));
    }
    Ok(text)
}

/// `path.name`, or the name alone at the top.
pub(super) fn path_to(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

fn is_deeper_than(limit: usize, json: &[u8]) -> bool {
    let mut depth = 0_usize;
    let mut rest = json;
    while let Some((byte, tail)) = rest.split_first() {
        rest = tail;
        match byte {
            b'"' => rest = after_string(rest),
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > limit {
            return true;
        }
    }
    false
}

/// What follows the closing quote.
fn after_string(mut rest: &[u8]) -> &[u8] {
    while let Some(at) = memchr2(b'"', b'\\', rest) {
        let is_end = rest.get(at) == Some(&b'"');
        rest = rest.get(at + if is_end { 1 } else { 2 }..).unwrap_or_default();
        if is_end {
            return rest;
        }
    }
    &[]
}

fn fault_of(error: &serde_json::Error, path: &str) -> RequestError {
    if !error.is_data() {
        let (line, column) = (error.line(), error.column());
        let message = format!("We could not parse the JSON body of your request (line {line}, column {column}).");
        return RequestError::new(message).code("invalid_json");
    }
    if path.is_empty() {
        return RequestError::new("The body must be a JSON object.").code("invalid_type");
    }
    let expected = if path == "messages" { "an array of messages" } else { "an object" };
    RequestError::new(format!("Invalid type for '{path}': expected {expected}."))
        .param(path.to_owned())
        .code("invalid_type")
}

struct Reader<'m, 'a> {
    members: &'m mut Members<'a>,
    report: &'m mut Report,
    path: &'m str,
}

impl<'a> Visitor<'a> for Reader<'_, 'a> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<(), A::Error> {
        let Self { members, report, path } = self;
        while let Some(position) = map.next_key_seed(Position(members.names))? {
            members.is_empty = false;
            let Some((position, name)) = position else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            let is_first = if name == "messages" {
                name.clone_into(&mut report.at);
                let messages = map.next_value_seed(MessagesSeed(report))?;
                report.at.clear();
                members.messages.replace(messages).is_none()
            } else {
                let value = map.next_value()?;
                members.put(position, value)
            };
            if !is_first {
                return Err(report.duplicate(path_to(path, name)));
            }
        }
        Ok(())
    }
}

/// Finds a key in a list of names.
struct Position(&'static [&'static str]);

impl<'a> DeserializeSeed<'a> for Position {
    type Value = Option<(usize, &'static str)>;

    fn deserialize<D: Deserializer<'a>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Position {
    type Value = Option<(usize, &'static str)>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
        Ok(self.0.iter().copied().enumerate().find(|(_, name)| *name == key))
    }
}
