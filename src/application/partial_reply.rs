//! A streamed reply as far as it was sent: how many tokens it has, counted part by part, and an ending for it.

use std::{collections::BTreeMap, sync::Arc};

use ai4free_ports::{
    chat::{ChatEvent, FinishReason},
    dialect::{EventReader, StreamContext},
    error::{CountError, ProviderError},
    llm_provider::{Facts, Frame},
    request::InboundRequest,
    runtime::TokenCounter,
    usage::{Encoding, TokenUsage},
};
use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;

use crate::application::counting;

pub(super) struct PartialReply {
    counter: Arc<dyn TokenCounter>,
    encoding: Encoding,
    request: InboundRequest,
    reader: Box<dyn EventReader>,
    /// Who the reply says that it is.
    start: ChatEvent,
    /// The answers that have begun, and whether they are finished, in all that was read.
    choices: Choices,
    /// The same in what was sent.
    sent: Choices,
}

type Choices = BTreeMap<u32, bool>;

impl PartialReply {
    pub(super) fn new(counter: Arc<dyn TokenCounter>, encoding: Encoding, request: InboundRequest) -> Self {
        let reader = request.dialect.event_reader();
        // Until it has said so itself.
        let start = ChatEvent::Start { id: String::new(), created: 0, model: request.view.model.as_ref().to_owned() };
        Self { counter, encoding, request, reader, start, choices: Choices::new(), sent: Choices::new() }
    }

    /// Tokens of the next part that was sent, in the client's dialect.
    pub(super) async fn count_sent(&mut self, frames: &[Bytes]) -> Result<u64, CountError> {
        let tokens = self.count_waiting(frames).await;
        self.waiting_was_sent();
        tokens
    }

    /// Tokens of the part that follows, and may be sent or not.
    pub(super) async fn count_waiting(&mut self, frames: &[Bytes]) -> Result<u64, CountError> {
        let text = self.read(frames).map_err(|error| CountError(Box::new(error)))?;
        self.counter.count(self.encoding, text.into()).await
    }

    pub(super) fn waiting_was_sent(&mut self) {
        self.sent.clone_from(&self.choices);
    }

    fn read(&mut self, frames: &[Bytes]) -> Result<String, ProviderError> {
        let (mut events, mut text) = (Vec::new(), String::new());
        for frame in frames {
            self.reader.feed(frame, &mut events)?;
            for event in events.drain(..) {
                counting::append_text(&event, &mut text);
                self.note(event);
            }
        }
        Ok(text)
    }

    fn note(&mut self, event: ChatEvent) {
        match event {
            ChatEvent::Start { .. } => self.start = event,
            ChatEvent::Finish { choice, .. } => {
                self.choices.insert(choice, true);
            }
            ChatEvent::Text { choice, .. }
            | ChatEvent::Reasoning { choice, .. }
            | ChatEvent::Refusal { choice, .. }
            | ChatEvent::ToolCall { choice, .. }
            | ChatEvent::ToolArguments { choice, .. } => {
                self.choices.entry(choice).or_default();
            }
            ChatEvent::ProviderCost(_) | ChatEvent::Usage(_) | ChatEvent::End => {}
        }
    }

    /// Tokens of the prompt.
    pub(super) fn count_prompt(&self) -> BoxFuture<'static, Result<TokenUsage, CountError>> {
        let (counter, encoding, request) = (self.counter.clone(), self.encoding, self.request.clone());
        Box::pin(async move {
            let input = counting::prompt_tokens(&counter, encoding, &request).await?;
            Ok(TokenUsage { input, ..TokenUsage::default() })
        })
    }

    /// Ends every answer that is not finished as at its cap.
    pub(super) fn ending(&self, usage: TokenUsage) -> Frame {
        let view = &self.request.view;
        let mut writer = self.request.dialect.event_writer(StreamContext { include_usage: view.include_usage });
        // The writer has to know what the client has seen already, and must not write it again.
        let mut seen = BytesMut::new();
        writer.write(&self.start, &mut seen);
        for choice in self.sent.keys() {
            writer.write(&ChatEvent::Text { choice: *choice, text: String::new() }, &mut seen);
        }
        let mut bytes = BytesMut::new();
        let is_finished = |choice: u32| self.sent.get(&choice).is_some_and(|is_finished| *is_finished);
        for choice in (0..view.choices).filter(|choice| !is_finished(*choice)) {
            writer.write(&ChatEvent::Finish { choice, reason: FinishReason::Length }, &mut bytes);
        }
        writer.write(&ChatEvent::Usage(usage), &mut bytes);
        writer.write(&ChatEvent::End, &mut bytes);
        let facts = Facts { usage: Some(usage), finished: true, done: true, ..Facts::default() };
        Frame { bytes: bytes.freeze(), facts }
    }
}
