//! A wire protocol as a pure codec, in both directions.
//!
//! The driver compares the dialect of the client with the provider's. The same: the *byte lane* — [`Dialect::splice`] the
//! request, [`Dialect::tap`] the stream, and no field that we don't know is lost. Different: the *crossing lane* — decode with
//! the one, encode with the other. So there are N codecs and never N×M converters.

use bytes::{Bytes, BytesMut};

use crate::{
    chat::{ChatEvent, ChatReply, ChatRequest},
    error::{ProviderError, PublicError, RequestError},
    llm_provider::Facts,
    request::{Edits, InboundRequest, Operation, RequestView, Rope},
};

/// What a stream's writer must know of the client's request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamContext {
    /// Whether the client asked for the usage event. It is asked upstream in any case and dropped when it did not.
    pub include_usage: bool,
}

/// Client-ready bytes and what they said. Empty bytes: nothing to send yet.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Chunk {
    pub bytes: Bytes,
    pub facts: Facts,
}

/// An upstream HTTP error as it arrived.
#[derive(Clone, Debug)]
pub struct UpstreamError<'a> {
    pub status: u16,
    pub retry_after: Option<&'a str>,
    /// Capped; may be HTML, may be cut.
    pub body: &'a [u8],
}

/// Where an error is written: as the body of an HTTP error, or into a stream that has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorPlace {
    Body,
    Stream,
}

/// An error in the terms of the client's protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WireError<'a> {
    /// `invalid_request_error`, `server_error`, `requests`, `tokens`, `insufficient_quota`.
    pub kind: &'a str,
    pub error: PublicError,
}

/// Stateless and shared; each stream gets its own state object. No method does I/O, blocks or panics, whatever the bytes.
pub trait Dialect: Send + Sync + 'static {
    /// The name that `data/providers.json` uses.
    fn name(&self) -> &'static str;

    /// Reads the few facts that the gateway needs, in one pass. [`RequestError`] names the member that is wrong.
    fn view(&self, operation: Operation, body: &Bytes) -> Result<RequestView, RequestError>;

    /// Byte lane: the client's body with the edits applied and everything else as it was, byte for byte.
    fn splice(&self, request: &InboundRequest, edits: &Edits) -> Rope;

    fn decode_request(&self, request: &InboundRequest) -> Result<ChatRequest, RequestError>;
    fn encode_request(&self, request: &ChatRequest, edits: &Edits) -> Result<Bytes, RequestError>;

    fn decode_reply(&self, body: &[u8]) -> Result<ChatReply, ProviderError>;
    fn encode_reply(&self, reply: &ChatReply) -> Bytes;

    /// Byte lane: checks a whole reply and reads its usage. A body that is not a reply of this operation is an error.
    fn inspect_reply(&self, operation: Operation, body: &Bytes) -> Result<Facts, ProviderError>;
    fn tap(&self, context: StreamContext) -> Box<dyn Tap>;

    fn event_reader(&self) -> Box<dyn EventReader>;
    fn event_writer(&self, context: StreamContext) -> Box<dyn EventWriter>;

    /// What an HTTP error of a provider of this dialect means. Its public part is redacted and capped here.
    fn classify_error(&self, error: &UpstreamError<'_>) -> ProviderError;
    fn write_error(&self, error: &WireError<'_>, place: ErrorPlace) -> Bytes;
}

/// Same dialect in and out: verifies, then forwards the slice it was given; re-frames or repairs what does not conform.
///
/// Any re-chunking of the same upstream bytes yields the same events and facts: when an error stands behind good events in one
/// read, they are returned and the next call returns the error. After an error or `done`, it is not fed again.
pub trait Tap: Send {
    fn feed(&mut self, read: Bytes) -> Result<Chunk, ProviderError>;
    /// The upstream body ended. An error when the reply was not complete; never an invented finish.
    fn end(&mut self) -> Result<Chunk, ProviderError>;
}

/// Upstream bytes to canonical events; any re-chunking of the input gives the same events.
pub trait EventReader: Send {
    fn feed(&mut self, read: &[u8], out: &mut Vec<ChatEvent>) -> Result<(), ProviderError>;
    fn end(&mut self, out: &mut Vec<ChatEvent>) -> Result<(), ProviderError>;
}

/// Canonical events to client bytes.
pub trait EventWriter: Send {
    fn write(&mut self, event: &ChatEvent, out: &mut BytesMut) -> Facts;
}
