//! The dialect as an object: each method is a module.

use std::sync::{Arc, LazyLock};

use ai4free_ports::{
    chat::{ChatReply, ChatRequest},
    dialect::{Dialect, ErrorPlace, EventReader, EventWriter, StreamContext, Tap, UpstreamError, WireError},
    error::{ProviderError, RequestError},
    llm_provider::Facts,
    request::{Edits, InboundRequest, Operation, RequestView, Rope},
};
use bytes::Bytes;

use super::{error, reader::OpenAiReader, reply, request, splice, tap::OpenAiTap, view, writer::OpenAiWriter};

pub const NAME: &str = "openai";

/// OpenAI's chat completions and images.
#[derive(Debug)]
pub struct OpenAi;

impl Dialect for OpenAi {
    fn name(&self) -> &'static str {
        NAME
    }

    fn view(&self, operation: Operation, body: &Bytes) -> Result<RequestView, RequestError> {
        view::view(operation, body)
    }

    fn splice(&self, request: &InboundRequest, edits: &Edits) -> Rope {
        splice::splice(request, edits)
    }

    fn decode_request(&self, request: &InboundRequest) -> Result<ChatRequest, RequestError> {
        request::decode(request)
    }

    fn encode_request(&self, request: &ChatRequest, edits: &Edits) -> Result<Bytes, RequestError> {
        Ok(request::encode(request, edits))
    }

    fn decode_reply(&self, body: &[u8]) -> Result<ChatReply, ProviderError> {
        reply::decode(body)
    }

    fn encode_reply(&self, reply: &ChatReply) -> Bytes {
        reply::encode(reply)
    }

    fn inspect_reply(&self, operation: Operation, body: &Bytes) -> Result<Facts, ProviderError> {
        reply::inspect(operation, body)
    }

    fn tap(&self, context: StreamContext) -> Box<dyn Tap> {
        Box::new(OpenAiTap::new(context))
    }

    fn event_reader(&self) -> Box<dyn EventReader> {
        Box::<OpenAiReader>::default()
    }

    fn event_writer(&self, context: StreamContext) -> Box<dyn EventWriter> {
        Box::new(OpenAiWriter::new(context))
    }

    fn classify_error(&self, error: &UpstreamError<'_>) -> ProviderError {
        error::classify(error)
    }

    fn write_error(&self, error: &WireError<'_>, place: ErrorPlace) -> Bytes {
        error::write(error, place)
    }
}

/// The one object of the process: it has no state.
#[must_use]
pub fn dialect() -> Arc<dyn Dialect> {
    static SHARED: LazyLock<Arc<OpenAi>> = LazyLock::new(|| Arc::new(OpenAi));
    SHARED.clone()
}
