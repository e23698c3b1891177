//! A point in time as a client may write it.

use std::borrow::Cow;

use ai4free_ports::runtime::Timestamp;
use poem_openapi::{
    registry::{MetaSchema, MetaSchemaRef},
    types::{ParseError, ParseFromJSON, ParseResult, ToJSON, Type},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

#[derive(Deserialize, Serialize)]
#[serde(untagged, expecting = "expected Unix seconds or a time in RFC 3339")]
pub(super) enum Moment {
    UnixSeconds(i64),
    Rfc3339(String),
}

impl Moment {
    /// `None`: a text that is no time.
    pub(super) fn timestamp(&self) -> Option<Timestamp> {
        let seconds = match self {
            Self::UnixSeconds(seconds) => *seconds,
            Self::Rfc3339(text) => OffsetDateTime::parse(text, &Rfc3339).ok()?.unix_timestamp(),
        };
        Some(Timestamp::from_seconds(seconds))
    }
}

/// `2026-12-01T00:00:00Z`, in whole seconds.
pub(in crate::http) fn rfc3339(at: Timestamp) -> String {
    let at = OffsetDateTime::from_unix_timestamp(at.seconds()).ok();
    at.and_then(|at| at.format(&Rfc3339).ok()).unwrap_or_default()
}

/// By hand, because a derived union calls itself an object, which neither form is.
impl Type for Moment {
    const IS_REQUIRED: bool = true;

    type RawValueType = Self;
    type RawElementValueType = Self;

    fn name() -> Cow<'static, str> {
        "unix-seconds-or-date-time".into()
    }

    fn schema_ref() -> MetaSchemaRef {
        let inline = |ty, format| MetaSchemaRef::Inline(Box::new(MetaSchema::new_with_format(ty, format)));
        let any_of = vec![inline("integer", "int64"), inline("string", "date-time")];
        MetaSchemaRef::Inline(Box::new(MetaSchema { any_of, ..MetaSchema::ANY }))
    }

    fn as_raw_value(&self) -> Option<&Self> {
        Some(self)
    }

    fn raw_element_iter<'a>(&'a self) -> Box<dyn Iterator<Item = &'a Self> + 'a> {
        Box::new(self.as_raw_value().into_iter())
    }
}

impl ParseFromJSON for Moment {
    fn parse_from_json(value: Option<Value>) -> ParseResult<Self> {
        serde_json::from_value(value.unwrap_or_default()).map_err(ParseError::custom)
    }
}

impl ToJSON for Moment {
    fn to_json(&self) -> Option<Value> {
        serde_json::to_value(self).ok()
    }
}
