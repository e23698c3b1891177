//! A span for each attempt. Never a prompt, never a secret.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use ai4free_ports::{
    error::ProviderError,
    llm_provider::{Call, CredentialInfo, Facts, Frame, FrameStream, LlmProvider, Reply},
    runtime::Timestamp,
};
use async_trait::async_trait;
use futures_core::Stream;
use tracing::{Instrument, Span, field::Empty};

use super::attributes::{
    CACHE_READ_TOKENS, CREDENTIAL, ERROR_TYPE, INPUT_TOKENS, OPERATION_NAME, OUTPUT_TOKENS, PROVIDER_NAME,
    REASONING_TOKENS, REQUEST_ID, REQUEST_MODEL, REQUEST_STREAM, SPAN_KIND, SPAN_NAME,
};

/// Costs a look at the level when nobody listens.
pub struct Traced<P> {
    inner: P,
    provider: Arc<str>,
}

impl<P> Traced<P> {
    #[must_use]
    pub fn new(inner: P, provider: Arc<str>) -> Self {
        Self { inner, provider }
    }
}

#[async_trait]
impl<P: LlmProvider> LlmProvider for Traced<P> {
    fn credentials(&self) -> &[CredentialInfo] {
        self.inner.credentials()
    }

    fn resting_until(&self, credential: usize) -> Option<Timestamp> {
        self.inner.resting_until(credential)
    }

    async fn call(&self, call: Call) -> Result<Reply, ProviderError> {
        let operation = call.request.operation.as_str();
        let span = tracing::info_span!(
            "llm_call",
            { SPAN_NAME } = format!("{operation} {}", call.edits.model),
            { SPAN_KIND } = "client",
            { OPERATION_NAME } = operation,
            { PROVIDER_NAME } = &*self.provider,
            { REQUEST_MODEL } = &*call.edits.model,
            { REQUEST_STREAM } = call.request.view.stream,
            { REQUEST_ID } = %call.id,
            { CREDENTIAL } = self.inner.credentials().get(call.credential).map(|credential| &*credential.id),
            { ERROR_TYPE } = Empty,
            { INPUT_TOKENS } = Empty,
            { OUTPUT_TOKENS } = Empty,
            { CACHE_READ_TOKENS } = Empty,
            { REASONING_TOKENS } = Empty,
        );
        if span.is_disabled() {
            return self.inner.call(call).await;
        }
        let reply = self.inner.call(call).instrument(span.clone()).await;
        match reply {
            Ok(Reply::Whole { body, facts }) => {
                record_usage(&span, &facts);
                Ok(Reply::Whole { body, facts })
            }
            Ok(Reply::Stream(inner)) => Ok(Reply::Stream(Box::pin(InSpan { inner, span }))),
            Err(error) => {
                record_error(&span, &error);
                Err(error)
            }
        }
    }
}

/// Keeps the span open as long as the stream.
struct InSpan {
    inner: FrameStream,
    span: Span,
}

impl Stream for InSpan {
    type Item = Result<Frame, ProviderError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Self { inner, span } = self.get_mut();
        let item = span.in_scope(|| inner.as_mut().poll_next(cx));
        match &item {
            Poll::Ready(Some(Ok(frame))) => record_usage(span, &frame.facts),
            Poll::Ready(Some(Err(error))) => record_error(span, error),
            Poll::Ready(None) | Poll::Pending => {}
        }
        item
    }
}

fn record_usage(span: &Span, facts: &Facts) {
    if let Some(usage) = facts.usage {
        span.record(INPUT_TOKENS, usage.input_total());
        span.record(OUTPUT_TOKENS, usage.output_total());
        span.record(CACHE_READ_TOKENS, usage.cache_read);
        span.record(REASONING_TOKENS, usage.reasoning);
    }
}

fn record_error(span: &Span, error: &ProviderError) {
    span.record(ERROR_TYPE, error.kind.as_str());
}

#[cfg(test)]
mod tests;
