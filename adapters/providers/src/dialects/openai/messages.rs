//! Checks the messages of a request as they are passed over: roles and kinds of content, and whether there is media in them.

use ai4free_ports::error::RequestError;
use serde::{
    Deserialize,
    de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use super::members::{Messages, Report};

const ROLES: [&str; 6] = ["system", "developer", "user", "assistant", "tool", "function"];

/// Passes over the value of `messages`.
pub(super) struct MessagesSeed<'r>(pub(super) &'r mut Report);

impl<'a> DeserializeSeed<'a> for MessagesSeed<'_> {
    type Value = Messages;

    fn deserialize<D: Deserializer<'a>>(self, deserializer: D) -> Result<Messages, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'a> Visitor<'a> for MessagesSeed<'_> {
    type Value = Messages;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an array of messages")
    }

    fn visit_seq<A: SeqAccess<'a>>(self, mut messages: A) -> Result<Messages, A::Error> {
        let report = self.0;
        let (mut index, mut has_media) = (0_usize, false);
        report.at.clear();
        loop {
            // The path is only written when it is needed: most messages are fine.
            let read = messages.next_element_seed(MessageSeed { report, index });
            match read {
                Ok(Some(message_has_media)) => has_media |= message_has_media,
                Ok(None) => break,
                Err(error) => {
                    if report.at.is_empty() {
                        report.at = format!("messages[{index}]");
                    }
                    return Err(error);
                }
            }
            index += 1;
        }
        if index == 0 {
            let fault = RequestError::new("Invalid 'messages': expected at least one message, but got an empty array.");
            return Err(report.refuse(fault.param("messages").code("empty_array")));
        }
        Ok(Messages { has_media })
    }
}

struct MessageSeed<'r> {
    report: &'r mut Report,
    index: usize,
}

impl<'a> DeserializeSeed<'a> for MessageSeed<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'a>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'a> Visitor<'a> for MessageSeed<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a message")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<bool, A::Error> {
        let (mut role, mut content, mut refers_to_audio) = (None::<&RawValue>, None::<&RawValue>, false);
        while let Some(key) = map.next_key()? {
            let is_first = match key {
                Key::Role => role.replace(map.next_value()?).is_none(),
                Key::Content => content.replace(map.next_value()?).is_none(),
                Key::Audio => {
                    refers_to_audio = map.next_value::<&RawValue>()?.get() != "null";
                    true
                }
                Key::Other => map.next_value::<IgnoredAny>().map(|_| true)?,
            };
            if !is_first {
                let name = if matches!(key, Key::Role) { "role" } else { "content" };
                return Err(self.report.duplicate(format!("messages[{}].{name}", self.index)));
            }
        }
        match check(self.index, role, content) {
            Ok(()) => Ok(refers_to_audio || content.is_some_and(has_media)),
            Err(fault) => Err(self.report.refuse(fault)),
        }
    }
}

#[derive(Clone, Copy, Deserialize)]
#[serde(field_identifier, rename_all = "snake_case")]
enum Key {
    Role,
    Content,
    Audio,
    #[serde(other)]
    Other,
}

fn check(index: usize, role: Option<&RawValue>, content: Option<&RawValue>) -> Result<(), RequestError> {
    let Some(role) = role else {
        let param = format!("messages[{index}].role");
        let fault = RequestError::new(format!("Missing required parameter: '{param}'."));
        return Err(fault.param(param).code("missing_required_parameter"));
    };
    let is_content_optional = match ROLES.iter().find(|known| is_text(role, known)) {
        Some(role) => matches!(*role, "assistant" | "function"),
        None => return Err(wrong_role(index, role)),
    };
    match content.map(|content| content.get().bytes().next()) {
        Some(Some(b'"' | b'[')) => Ok(()),
        None | Some(Some(b'n')) if is_content_optional => Ok(()),
        None => {
            let param = format!("messages[{index}].content");
            let fault = RequestError::new(format!("Missing required parameter: '{param}'."));
            Err(fault.param(param).code("missing_required_parameter"))
        }
        Some(_) => {
            let param = format!("messages[{index}].content");
            let fault =
                RequestError::new(format!("Invalid type for '{param}': expected a string or an array of parts."));
            Err(fault.param(param).code("invalid_type"))
        }
    }
}

fn wrong_role(index: usize, role: &RawValue) -> RequestError {
    let param = format!("messages[{index}].role");
    let fault = if role.get().starts_with('"') {
        let known = ROLES.join("', '");
        RequestError::new(format!("Invalid value for '{param}'. Supported values are: '{known}'."))
            .code("invalid_value")
    } else {
        RequestError::new(format!("Invalid type for '{param}': expected a string.")).code("invalid_type")
    };
    fault.param(param)
}

fn is_text(value: &RawValue, expected: &str) -> bool {
    let written = value.get();
    let unquoted = written.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    unquoted == Some(expected)
        || (written.contains('\\') && serde_json::from_str::<String>(written).is_ok_and(|text| text == expected))
}

/// Whether an array of parts may hold one whose tokens its bytes do not bound. An array that can't be read may.
fn has_media(content: &RawValue) -> bool {
    let content = content.get();
    content.starts_with('[') && serde_json::from_str::<Parts>(content).map_or(true, |parts| parts.has_media)
}

struct Parts {
    has_media: bool,
}

impl<'a> Deserialize<'a> for Parts {
    fn deserialize<D: Deserializer<'a>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(PartsVisitor)
    }
}

struct PartsVisitor;

impl<'a> Visitor<'a> for PartsVisitor {
    type Value = Parts;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an array of parts")
    }

    fn visit_seq<A: SeqAccess<'a>>(self, mut parts: A) -> Result<Parts, A::Error> {
        let mut has_media = false;
        while let Some(part) = parts.next_element::<Part<'a>>()? {
            has_media |= !["text", "refusal", "thinking"].iter().any(|known| is_text(part.kind, known));
        }
        Ok(Parts { has_media })
    }
}

#[derive(Deserialize)]
struct Part<'a> {
    #[serde(borrow, rename = "type")]
    kind: &'a RawValue,
}
