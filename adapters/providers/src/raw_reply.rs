//! A successful reply that is raw text or raw audio instead of JSON, wrapped into a completion (`Provider-5` of old: an
//! upstream like Pollinations answers so).

use ai4free_ports::{
    error::{ProviderError, ProviderErrorKind},
    request::{InboundRequest, RequestId},
    runtime::Timestamp,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

use crate::outgoing::wants_audio;

/// The body itself when it is a JSON object, else a completion around it.
pub(crate) fn completion(
    id: RequestId,
    request: &InboundRequest,
    model: &str,
    now: Timestamp,
    body: Bytes,
) -> Result<Bytes, ProviderError> {
    if body.trim_ascii_start().starts_with(b"{") && serde_json::from_slice::<&RawValue>(&body).is_ok() {
        return Ok(body);
    }
    if body.is_empty() {
        return Err(ProviderError::new(ProviderErrorKind::Protocol).caused_by("the provider's reply is empty"));
    }
    let message = if wants_audio(request) {
        audio_message(id, request, now, &body)
    } else {
        let text = std::str::from_utf8(&body)
            .map_err(|error| ProviderError::new(ProviderErrorKind::Protocol).caused_by(error))?;
        json!({ "role": "assistant", "content": text, "refusal": null })
    };
    let completion = json!({
        "id": format!("chatcmpl-{id}"),
        "object": "chat.completion",
        "created": now.seconds(),
        "model": model,
        "choices": [{ "index": 0, "message": message, "logprobs": null, "finish_reason": "stop" }],
    });
    Ok(completion.to_string().into())
}

fn audio_message(id: RequestId, request: &InboundRequest, now: Timestamp, body: &[u8]) -> Value {
    json!({
        "role": "assistant",
        "content": null,
        "refusal": null,
        "audio": {
            "id": format!("audio_{id}"),
            "data": STANDARD.encode(body),
            "format": audio_format(request),
            "transcript": "",
            // It is kept nowhere, so it can't be referred to in a later turn.
            "expires_at": now.seconds(),
        },
    })
}

/// The format that the client asked for; `wav` is what such providers send unasked.
fn audio_format(request: &InboundRequest) -> String {
    #[derive(Deserialize)]
    struct Body {
        audio: Audio,
    }
    #[derive(Deserialize)]
    struct Audio {
        format: String,
    }
    serde_json::from_slice::<Body>(&request.body).map_or_else(|_| "wav".to_owned(), |body| body.audio.format)
}
