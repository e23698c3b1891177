//! A client's request: the bytes as they came, and the few facts that the gateway needs of them.

use std::{fmt, ops::Range, sync::Arc};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::dialect::Dialect;

/// A `UUIDv7`. It is the `x-request-id`, the lease and the identity of the ledger's rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub uuid::Uuid);

impl RequestId {
    /// Days since the Unix epoch of the id's own time stamp. A part of the ledger's primary key: it follows from the id, so a
    /// replayed event falls on the same row on whichever day it is replayed.
    #[must_use]
    pub fn day(self) -> i32 {
        let millis = self.0.as_u128() >> 80;
        i32::try_from(millis / 86_400_000).unwrap_or(i32::MAX)
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "req_{}", self.0.as_simple())
    }
}

/// What a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    Chat,
    ImageGeneration,
}

impl Operation {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::ImageGeneration => "image_generation",
        }
    }
}

/// What one skipping pass over a body found. Spans are byte offsets into the original body.
///
/// Making one refuses a body that is not valid JSON or UTF-8, nests deeper than 128, or holds one of these top-level members
/// twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestView {
    /// As the client wrote it, escapes resolved.
    pub model: Arc<str>,
    /// The value of `model`, quotes included. `None`: the member is absent (image requests have a default model).
    pub model_span: Option<Range<usize>>,
    pub stream: bool,
    /// Whether the client wants the usage event of a stream.
    pub include_usage: bool,
    /// The value of `stream_options`, if it is there.
    pub stream_options_span: Option<Range<usize>>,
    /// The cap on output tokens that the client set: never `null`, always at least 1.
    pub output_cap: Option<OutputCap>,
    /// `null` output caps, key and value and one adjoining comma: they may have to go when a cap is written in.
    pub null_caps: Vec<Range<usize>>,
    /// `n`: how many answers, at least 1.
    pub choices: u32,
    /// Where a new member can be written: just after the opening brace of the body.
    pub insert_at: usize,
    /// Whether the body has any member at all, so that an inserted one needs a comma.
    pub has_members: bool,
    /// Whether parts may be in it whose tokens the number of bytes does not bound (images, audio, files).
    pub has_media: bool,
    /// Whether it offers tools. Providers wrap them in a text of their own.
    pub has_tools: bool,
    /// Whether it lets the provider do more than answer (search the web, run code), which is charged by the call.
    pub has_server_tools: bool,
}

/// A client's own cap on output tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputCap {
    pub tokens: u64,
    /// The member's name, quotes included, so that it can be renamed for providers that know only the other one.
    pub name_span: Range<usize>,
    /// The number.
    pub value_span: Range<usize>,
}

/// Original bytes, view, and the dialect they are written in. Cloning counts references.
#[derive(Clone)]
pub struct InboundRequest {
    pub operation: Operation,
    pub dialect: Arc<dyn Dialect>,
    pub body: Bytes,
    pub view: Arc<RequestView>,
}

/// What has to differ between the client's body and the provider's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edits {
    /// The provider's own name of the model.
    pub model: Arc<str>,
    /// Written in when it is not what the client said: the cap that was reserved.
    pub output_cap: Option<u64>,
    /// The name of the cap that the provider knows, if it knows only one.
    pub output_cap_field: Option<&'static str>,
    /// Usage is always asked of a stream: it is what we account with.
    pub ask_for_usage: bool,
}

/// A body made of slices of the original and small insertions: the prompt is never copied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rope(pub Vec<Bytes>);

impl Rope {
    #[must_use]
    pub fn length(&self) -> usize {
        self.0.iter().map(Bytes::len).sum()
    }

    /// The pieces as one contiguous body.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        match <[Bytes; 1]>::try_from(self.0) {
            Ok([only]) => only,
            Err(pieces) => pieces.concat().into(),
        }
    }
}

impl From<Bytes> for Rope {
    fn from(bytes: Bytes) -> Self {
        Self(vec![bytes])
    }
}
