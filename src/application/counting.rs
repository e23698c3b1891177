//! Counting tokens where the provider has not: prompts that a limit must know, and replies without a usage report.

use std::sync::Arc;

use ai4free_ports::{
    chat::{ChatEvent, ChatReply, ChatRequest, Part},
    dialect::Dialect,
    error::CountError,
    request::InboundRequest,
    runtime::TokenCounter,
    usage::{Encoding, TokenUsage},
};
use bytes::Bytes;

/// Tokens that the chat format adds to each message (three, and its role), and to each conversation for the answer's start
/// (<https://cookbook.openai.com/examples/how_to_count_tokens_with_tiktoken>).
const PER_MESSAGE: u64 = 4;
const PER_CONVERSATION: u64 = 3;

/// Tokens of the prompt's text. Images, audio and files are not in it.
pub async fn prompt_tokens(
    counter: &Arc<dyn TokenCounter>,
    encoding: Encoding,
    request: &InboundRequest,
) -> Result<u64, CountError> {
    let chat = request.dialect.decode_request(request).map_err(|error| CountError(Box::new(error)))?;
    chat_tokens(counter, encoding, &chat).await
}

/// The same of a request that has been decoded.
pub async fn chat_tokens(
    counter: &Arc<dyn TokenCounter>,
    encoding: Encoding,
    chat: &ChatRequest,
) -> Result<u64, CountError> {
    let overhead = match encoding {
        Encoding::BytesPerFour => 0,
        Encoding::Cl100k | Encoding::O200k => {
            u64::try_from(chat.messages.len()).unwrap_or(u64::MAX).saturating_mul(PER_MESSAGE) + PER_CONVERSATION
        }
    };
    let text = counter.count(encoding, prompt_text(chat).into()).await?;
    Ok(text.saturating_add(overhead))
}

/// Usage of a whole reply that reports none.
pub async fn reply_usage(
    counter: &Arc<dyn TokenCounter>,
    encoding: Encoding,
    request: &InboundRequest,
    body: &[u8],
) -> Result<TokenUsage, CountError> {
    let reply = request.dialect.decode_reply(body).map_err(|error| CountError(Box::new(error)))?;
    usage_of(counter, encoding, request, reply_text(&reply)).await
}

/// Usage of a stream that reported none, from the frames that the client was sent.
pub async fn stream_usage(
    counter: &Arc<dyn TokenCounter>,
    encoding: Encoding,
    request: &InboundRequest,
    frames: &[Bytes],
) -> Result<TokenUsage, CountError> {
    let text = stream_text(&request.dialect, frames).map_err(|error| CountError(Box::new(error)))?;
    usage_of(counter, encoding, request, text).await
}

/// A rough count for when there is no time to count: four bytes a token.
#[must_use]
pub fn estimate(bytes: u64) -> u64 {
    bytes.div_ceil(4)
}

async fn usage_of(
    counter: &Arc<dyn TokenCounter>,
    encoding: Encoding,
    request: &InboundRequest,
    output: String,
) -> Result<TokenUsage, CountError> {
    let input = prompt_tokens(counter, encoding, request).await?;
    let output = counter.count(encoding, output.into()).await?;
    Ok(TokenUsage { input, output, ..TokenUsage::default() })
}

fn prompt_text(chat: &ChatRequest) -> String {
    let mut text = String::new();
    for message in &chat.messages {
        for part in &message.content {
            if let Part::Text(part) = part {
                text.push_str(part);
            }
        }
        text.push_str(message.name.as_deref().unwrap_or_default());
        for call in &message.tool_calls {
            text.push_str(&call.name);
            text.push_str(&call.arguments);
        }
    }
    for tool in &chat.tools {
        text.push_str(&tool.name);
        text.push_str(tool.description.as_deref().unwrap_or_default());
        if let Some(parameters) = &tool.parameters {
            text.push_str(&parameters.to_string());
        }
    }
    text
}

fn reply_text(reply: &ChatReply) -> String {
    let mut text = String::new();
    for choice in &reply.choices {
        for part in [&choice.text, &choice.reasoning, &choice.refusal].into_iter().flatten() {
            text.push_str(part);
        }
        for call in &choice.tool_calls {
            text.push_str(&call.name);
            text.push_str(&call.arguments);
        }
    }
    text
}

fn stream_text(dialect: &Arc<dyn Dialect>, frames: &[Bytes]) -> Result<String, ai4free_ports::error::ProviderError> {
    let (mut reader, mut events, mut text) = (dialect.event_reader(), Vec::new(), String::new());
    for frame in frames {
        reader.feed(frame, &mut events)?;
        for event in events.drain(..) {
            append_text(&event, &mut text);
        }
    }
    Ok(text)
}

/// The part of a reply's text that an event adds.
pub(super) fn append_text(event: &ChatEvent, text: &mut String) {
    match event {
        ChatEvent::Text { text: part, .. }
        | ChatEvent::Reasoning { text: part, .. }
        | ChatEvent::Refusal { text: part, .. }
        | ChatEvent::ToolArguments { fragment: part, .. }
        | ChatEvent::ToolCall { name: part, .. } => text.push_str(part),
        ChatEvent::Start { .. }
        | ChatEvent::Finish { .. }
        | ChatEvent::ProviderCost(_)
        | ChatEvent::Usage(_)
        | ChatEvent::End => {}
    }
}
