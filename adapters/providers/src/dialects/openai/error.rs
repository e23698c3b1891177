//! Errors: what a provider's failure means, and how ours are written.
//!
//! Bodies come as OpenAI's envelope, with a string for an error (Ollama), flat (vLLM), as `detail` (Mistral, FastAPI), in an
//! array (Gemini), without a type (Azure), as HTML or not at all; `code` may be a number (OpenRouter).

use std::time::Duration;

use ai4free_ports::{
    dialect::{ErrorPlace, UpstreamError, WireError},
    error::{ProviderError, ProviderErrorKind, PublicError},
};
use bytes::Bytes;
use serde_json::{Value, json};

use super::redact::{redacted, word};

const MAX_RETRY_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

pub(super) fn classify(error: &UpstreamError<'_>) -> ProviderError {
    let said = Said::read(error.body);
    let kind = kind_of(error.status, &said);
    let mut classified = of_kind(kind, said);
    classified.status = Some(error.status);
    classified.retry_after = error.retry_after.and_then(retry_after);
    classified
}

/// The error that a reply or an event with status 200 holds, if it holds one.
pub(super) fn within(reply: &Value) -> Option<ProviderError> {
    let in_groq = || reply.get("x_groq").and_then(|groq| groq.get("error"));
    let is_there = |error: &Value| !matches!(error, Value::Null | Value::Bool(false)) && error != "";
    let is_flat = reply.get("object").is_some_and(|object| object == "error");
    let error = reply.get("error").filter(|error| is_there(error)).or_else(in_groq).filter(|error| is_there(error));
    if error.is_none() && !is_flat {
        return None;
    }
    let said = Said::of(error.unwrap_or(reply));
    let status = said.status();
    let kind = status.map_or_else(|| kind_of_words(&said), |status| kind_of(status, &said));
    let mut classified = of_kind(kind, said);
    classified.status = status;
    Some(classified)
}

pub(super) fn protocol(what: &'static str) -> ProviderError {
    ProviderError::new(ProviderErrorKind::Protocol).caused_by(what)
}

pub(super) fn write(error: &WireError<'_>, place: ErrorPlace) -> Bytes {
    let PublicError { message, param, code } = &error.error;
    let body = json!({ "error": { "message": message, "type": error.kind, "param": param, "code": code } });
    match place {
        ErrorPlace::Body => body.to_string().into(),
        ErrorPlace::Stream => format!("data: {body}\n\n").into(),
    }
}

/// What the provider said, whatever the form.
#[derive(Default)]
struct Said {
    message: Option<String>,
    kind: Option<String>,
    param: Option<String>,
    code: Option<String>,
}

impl Said {
    fn read(body: &[u8]) -> Self {
        let body = body.trim_ascii();
        match serde_json::from_slice::<Value>(body) {
            Ok(Value::Array(list)) => list.first().map(Self::of_body).unwrap_or_default(),
            Ok(value) => Self::of_body(&value),
            // Half a JSON text or a page of HTML tells a client nothing.
            Err(_) if matches!(body.first(), None | Some(b'{' | b'[' | b'<')) => Self::default(),
            Err(_) => Self { message: std::str::from_utf8(body).ok().map(str::to_owned), ..Self::default() },
        }
    }

    fn of_body(body: &Value) -> Self {
        Self::of(body.get("error").filter(|error| !error.is_null()).unwrap_or(body))
    }

    fn of(error: &Value) -> Self {
        if let Value::String(message) = error {
            return Self { message: Some(message.clone()), ..Self::default() };
        }
        let text = |name: &str| match error.get(name)? {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        };
        Self {
            message: text("message").or_else(|| detail(error.get("detail")?)),
            kind: text("type"),
            param: text("param"),
            code: text("code").or_else(|| text("statusCode")),
        }
    }

    fn is(&self, word: &str) -> bool {
        self.code.as_deref() == Some(word) || self.kind.as_deref() == Some(word)
    }

    /// A code that is an HTTP status of an error.
    fn status(&self) -> Option<u16> {
        self.code.as_deref()?.parse().ok().filter(|status| (400..600).contains(status))
    }

    fn into_public(self) -> Option<PublicError> {
        let message = self.message.filter(|message| !looks_like_html(message))?;
        let message = redacted(&message);
        (!message.trim().is_empty()).then(|| PublicError {
            message: message.into(),
            param: self.param.as_deref().and_then(word),
            code: self.code.as_deref().and_then(word),
        })
    }
}

/// A text, or FastAPI's list of what is wrong where.
fn detail(detail: &Value) -> Option<String> {
    match detail {
        Value::String(text) => Some(text.clone()),
        Value::Array(list) => {
            let messages: Vec<_> = list.iter().filter_map(|fault| fault.get("msg")?.as_str()).collect();
            (!messages.is_empty()).then(|| messages.join("; "))
        }
        _ => detail.get("message").and_then(Value::as_str).map(str::to_owned),
    }
}

fn looks_like_html(text: &str) -> bool {
    let start: String = text.trim_start().chars().take(15).collect::<String>().to_ascii_lowercase();
    start.starts_with("<!doctype") || start.starts_with("<html") || start.starts_with("<?xml") || text.contains("</")
}

fn of_kind(kind: ProviderErrorKind, said: Said) -> ProviderError {
    use ProviderErrorKind::{Credential, Quota, RateLimit, Request};
    ProviderError {
        try_next_credential: matches!(kind, Credential | Quota | RateLimit),
        public: (kind == Request).then(|| said.into_public()).flatten(),
        ..ProviderError::new(kind)
    }
}

fn kind_of(status: u16, said: &Said) -> ProviderErrorKind {
    let is_client_status = (400..500).contains(&status);
    match status {
        _ if is_client_status && is_quota(said) => ProviderErrorKind::Quota,
        // Gemini refuses a wrong key with 400.
        _ if is_client_status && said.is("invalid_api_key") => ProviderErrorKind::Credential,
        401 | 403 => ProviderErrorKind::Credential,
        402 => ProviderErrorKind::Quota,
        408 | 504 => ProviderErrorKind::Timeout,
        429 => ProviderErrorKind::RateLimit,
        503 | 529 => ProviderErrorKind::Overloaded,
        400..500 => ProviderErrorKind::Request,
        500.. => ProviderErrorKind::Server,
        _ => ProviderErrorKind::Protocol,
    }
}

/// Without a status there is only what the words say.
fn kind_of_words(said: &Said) -> ProviderErrorKind {
    if is_quota(said) {
        return ProviderErrorKind::Quota;
    }
    let any = |words: &[&str]| words.iter().any(|word| said.is(word));
    if any(&["invalid_api_key", "authentication_error", "permission_error"]) {
        ProviderErrorKind::Credential
    } else if any(&["rate_limit_exceeded", "rate_limit_error", "requests", "tokens"]) {
        ProviderErrorKind::RateLimit
    } else if any(&["overloaded_error", "overloaded", "service_unavailable"]) {
        ProviderErrorKind::Overloaded
    } else if any(&["timeout", "timeout_error"]) {
        ProviderErrorKind::Timeout
    } else if any(&["invalid_request_error", "content_filter", "context_length_exceeded", "BadRequestError"]) {
        ProviderErrorKind::Request
    } else {
        ProviderErrorKind::Server
    }
}

fn is_quota(said: &Said) -> bool {
    ["insufficient_quota", "billing_hard_limit_reached", "billing_not_active"].iter().any(|word| said.is(word))
}

/// Seconds, whole or not. A date is not read: its clock is not ours.
fn retry_after(header: &str) -> Option<Duration> {
    let seconds = header.trim().parse::<f64>().ok().filter(|seconds| *seconds >= 0.0)?;
    Some(Duration::try_from_secs_f64(seconds).map_or(MAX_RETRY_AFTER, |wait| wait.min(MAX_RETRY_AFTER)))
}

#[cfg(test)]
mod tests;
