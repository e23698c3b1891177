//! The echo as a provider.

use std::sync::Arc;

use ai4free_ports::{
    error::{ProviderError, RequestError},
    limits::Limits,
    llm_provider::{Call, CredentialInfo, Facts, LlmProvider, Reply},
    request::Operation,
    runtime::Clock,
};
use async_trait::async_trait;

use super::{
    answer::{Answer, Content},
    stream::EchoStream,
};
use crate::{frames::stream_context, outgoing::refused};

/// Does no I/O and keeps nothing.
pub struct EchoProvider {
    clock: Arc<dyn Clock>,
    credentials: [CredentialInfo; 1],
}

impl EchoProvider {
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, credentials: [CredentialInfo { id: "local#1".into(), limits: Limits::NONE }] }
    }
}

#[async_trait]
impl LlmProvider for EchoProvider {
    fn credentials(&self) -> &[CredentialInfo] {
        &self.credentials
    }

    async fn call(&self, call: Call) -> Result<Reply, ProviderError> {
        let request = &call.request;
        if request.operation != Operation::Chat {
            return Err(refused(RequestError::new("local/echo answers chat completions only.").param("model")));
        }
        let mut chat = request.dialect.decode_request(request).map_err(refused)?;
        chat.model = request.view.model.as_ref().to_owned();
        let cap = call.edits.output_cap.or(chat.max_output_tokens);
        let answer =
            Answer::new(call.id, &chat, request.view.choices, cap, self.clock.now().seconds()).map_err(refused)?;
        if request.view.stream {
            let writer = request.dialect.event_writer(stream_context(request));
            return Ok(Reply::Stream(Box::pin(EchoStream::new(answer, writer))));
        }
        let (Content::Text(output) | Content::Call { arguments: output, .. }) = &answer.content;
        let output_bytes = u64::try_from(output.len()).unwrap_or(u64::MAX).saturating_mul(answer.choices.into());
        let facts = Facts { usage: Some(answer.usage), output_bytes, finished: true, done: true, ..Facts::default() };
        Ok(Reply::Whole { body: request.dialect.encode_reply(&answer.into_reply()), facts })
    }
}
