//! A streamed reply put together to a whole one, for providers that only stream.

use std::collections::BTreeMap;

use ai4free_ports::{
    chat::{ChatEvent, ChatReply, Choice, ToolCall},
    dialect::EventReader,
    error::{ProviderError, ProviderErrorKind},
};
use bytes::Bytes;
use futures_core::Stream;
use futures_util::StreamExt;

use crate::transport::MAX_WHOLE_REPLY;

/// Reads a stream to its end event. A stream that was cut is an error, as a whole reply that was cut would be.
pub(crate) async fn aggregate<S>(mut upstream: S, mut reader: Box<dyn EventReader>) -> Result<ChatReply, ProviderError>
where
    S: Stream<Item = Result<Bytes, ProviderError>> + Unpin,
{
    let (mut events, mut whole, mut length) = (Vec::new(), Whole::default(), 0_usize);
    while !whole.is_complete {
        match upstream.next().await {
            Some(read) => {
                let read = read?;
                length = length.saturating_add(read.len());
                if length > MAX_WHOLE_REPLY {
                    return Err(incomplete("the provider's stream is too large to be put together"));
                }
                reader.feed(&read, &mut events)?;
            }
            None => {
                reader.end(&mut events)?;
                events.drain(..).for_each(|event| whole.absorb(event));
                break;
            }
        }
        events.drain(..).for_each(|event| whole.absorb(event));
    }
    if !whole.is_complete || whole.choices.is_empty() {
        return Err(incomplete("the provider's stream ended before it was complete"));
    }
    Ok(whole.into_reply())
}

#[derive(Default)]
struct Whole {
    reply: ChatReply,
    choices: BTreeMap<u32, PartialChoice>,
    is_complete: bool,
}

#[derive(Default)]
struct PartialChoice {
    choice: Choice,
    calls: BTreeMap<u32, ToolCall>,
}

impl Whole {
    fn absorb(&mut self, event: ChatEvent) {
        match event {
            ChatEvent::Start { id, created, model } => {
                self.reply = ChatReply { id, created, model, ..ChatReply::default() };
            }
            ChatEvent::Text { choice, text } => append(&mut self.choice(choice).choice.text, &text),
            ChatEvent::Reasoning { choice, text } => append(&mut self.choice(choice).choice.reasoning, &text),
            ChatEvent::Refusal { choice, text } => append(&mut self.choice(choice).choice.refusal, &text),
            ChatEvent::ToolCall { choice, call, id, name } => {
                self.choice(choice).calls.insert(call, ToolCall { id, name, arguments: String::new() });
            }
            ChatEvent::ToolArguments { choice, call, fragment } => {
                if let Some(call) = self.choice(choice).calls.get_mut(&call) {
                    call.arguments.push_str(&fragment);
                }
            }
            ChatEvent::Finish { choice, reason } => self.choice(choice).choice.finish = Some(reason),
            ChatEvent::ProviderCost(cost) => self.reply.provider_cost = Some(cost),
            ChatEvent::Usage(usage) => self.reply.usage = Some(usage),
            ChatEvent::End => self.is_complete = true,
        }
    }

    fn choice(&mut self, index: u32) -> &mut PartialChoice {
        self.choices.entry(index).or_default()
    }

    fn into_reply(self) -> ChatReply {
        let choices = self
            .choices
            .into_values()
            .map(|PartialChoice { choice, calls }| Choice { tool_calls: calls.into_values().collect(), ..choice });
        ChatReply { choices: choices.collect(), ..self.reply }
    }
}

fn append(text: &mut Option<String>, piece: &str) {
    text.get_or_insert_default().push_str(piece);
}

fn incomplete(reason: &'static str) -> ProviderError {
    ProviderError::new(ProviderErrorKind::Protocol).caused_by(reason)
}
