//! What is asked of the provider. It need not be what the client asked for: some providers only stream, some can't stream
//! everything.

use std::{borrow::Cow, sync::Arc};

use ai4free_ports::{
    chat::ChatRequest,
    dialect::Dialect,
    error::{ProviderError, ProviderErrorKind, PublicError, RequestError},
    provider_settings::Quirks,
    request::{Edits, InboundRequest, Rope},
};
use memchr::memmem;
use serde_json::Value;

pub(crate) struct Outgoing {
    pub(crate) body: Rope,
    /// Whether the provider is asked to stream.
    pub(crate) is_stream: bool,
}

impl Outgoing {
    /// The client's bytes with small edits where both sides speak one protocol and nothing is odd, else written anew.
    pub(crate) fn new(
        request: &InboundRequest,
        edits: &Edits,
        dialect: &Arc<dyn Dialect>,
        quirks: &Quirks,
    ) -> Result<Self, ProviderError> {
        let view = &request.view;
        let is_stream = if quirks.stream_only {
            true
        } else if view.stream && quirks.whole_audio {
            !wants_audio(request)
        } else {
            view.stream
        };
        let edits = adapted(edits, quirks, is_stream);
        let is_bytewise = Arc::ptr_eq(&request.dialect, dialect)
            && is_stream == view.stream
            && !(quirks.no_stream_options && view.stream_options_span.is_some());
        if is_bytewise {
            return Ok(Self { body: dialect.splice(request, &edits), is_stream });
        }
        let mut typed = request.dialect.decode_request(request).map_err(refused)?;
        typed.stream = is_stream;
        if quirks.no_stream_options || !is_stream {
            typed.extra.remove("stream_options");
        }
        let body = dialect.encode_request(&typed, &edits).map_err(refused)?;
        Ok(Self { body: body.into(), is_stream })
    }
}

/// Whether the client asked for an answer that is heard. Read only for the few providers for which it matters.
pub(crate) fn wants_audio(request: &InboundRequest) -> bool {
    // Most requests don't have the word in them and need not be parsed.
    memmem::find(&request.body, b"audio").is_some()
        && request.dialect.decode_request(request).is_ok_and(|typed| asks_for_audio(&typed))
}

/// The client's request can't be put into the provider's words.
pub(crate) fn refused(error: RequestError) -> ProviderError {
    let public = PublicError {
        message: error.message.into_owned().into(),
        param: error.param.map(|param| param.into_owned().into()),
        code: error.code.map(Into::into),
    };
    ProviderError { public: Some(public), request_was_sent: false, ..ProviderError::new(ProviderErrorKind::Request) }
}

fn asks_for_audio(typed: &ChatRequest) -> bool {
    let modalities = typed.extra.get("modalities").and_then(Value::as_array);
    modalities.is_some_and(|all| all.iter().any(|modality| modality == "audio"))
}

fn adapted<'a>(edits: &'a Edits, quirks: &Quirks, is_stream: bool) -> Cow<'a, Edits> {
    // A stream that is put together here needs its usage as much as one that is forwarded.
    let ask_for_usage = (edits.ask_for_usage || quirks.stream_only) && is_stream && !quirks.no_stream_options;
    let output_cap_field = edits.output_cap_field.or(quirks.output_cap_field.map(|field| field.name()));
    if ask_for_usage == edits.ask_for_usage && output_cap_field == edits.output_cap_field {
        return Cow::Borrowed(edits);
    }
    Cow::Owned(Edits { ask_for_usage, output_cap_field, ..edits.clone() })
}
