//! Whole replies: checked and measured on the byte lane, decoded and encoded when they cross.

use ai4free_ports::{
    chat::{ChatReply, Choice, ToolCall},
    error::{ProviderError, ProviderErrorKind},
    llm_provider::Facts,
    request::Operation,
    usage::TokenUsage,
};
use bytes::Bytes;
use serde::{Deserialize, de::IgnoredAny};
use serde_json::{Map, Value, json, value::RawValue};

use super::{
    calls::{arguments_text, block_texts},
    error::{protocol, within},
    reader::finish_of,
    sanitise::finish_reason,
    usage::{self, Envelope},
    writer::finish_word,
};

/// Reads what has to be accounted; nothing of the reply is built.
pub(super) fn inspect(operation: Operation, body: &[u8]) -> Result<Facts, ProviderError> {
    let reply: Inspected<'_> = serde_json::from_slice(body).map_err(unreadable)?;
    // Rare enough to be read as a whole.
    if [reply.error, reply.object, reply.x_groq].into_iter().flatten().any(may_be_error)
        && let Some(error) = serde_json::from_slice(body).ok().as_ref().and_then(within)
    {
        return Err(error);
    }
    let reported = Envelope { usage: reply.usage, x_groq: reply.x_groq }.read();
    let mut facts = Facts { usage: reported.usage, provider_cost: reported.cost, done: true, ..Facts::default() };
    match operation {
        Operation::Chat => {
            let choices = reply.choices.filter(|choices| !choices.is_empty());
            let choices = choices.ok_or_else(|| protocol("a reply without choices"))?;
            facts.finished =
                choices.iter().all(|choice| choice.finish_reason.is_some_and(|reason| reason.get() != "null"));
            facts.output_bytes = choices.iter().map(InspectedChoice::output_bytes).sum();
        }
        Operation::ImageGeneration => {
            let images = reply.data.ok_or_else(|| protocol("a reply without images"))?;
            let images = u64::try_from(images.len()).unwrap_or(u64::MAX);
            facts.finished = true;
            facts.usage = Some(TokenUsage { images, ..reported.usage.unwrap_or_default() });
        }
    }
    Ok(facts)
}

pub(super) fn decode(body: &[u8]) -> Result<ChatReply, ProviderError> {
    let reply: Value = serde_json::from_slice(body).map_err(unreadable)?;
    if let Some(error) = within(&reply) {
        return Err(error);
    }
    let choices = reply.get("choices").and_then(Value::as_array).filter(|choices| !choices.is_empty());
    let choices = choices.ok_or_else(|| protocol("a reply without choices"))?;
    let text = |name: &str| reply.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let reported = serde_json::from_slice::<Envelope<'_>>(body).unwrap_or_default().read();
    Ok(ChatReply {
        id: text("id"),
        created: reply.get("created").and_then(Value::as_i64).unwrap_or(0),
        model: text("model"),
        choices: choices.iter().map(decode_choice).collect(),
        usage: reported.usage,
        provider_cost: reported.cost,
    })
}

pub(super) fn encode(reply: &ChatReply) -> Bytes {
    let mut body = Map::new();
    body.insert("id".to_owned(), reply.id.as_str().into());
    body.insert("object".to_owned(), "chat.completion".into());
    body.insert("created".to_owned(), reply.created.into());
    body.insert("model".to_owned(), reply.model.as_str().into());
    let choices = reply.choices.iter().enumerate().map(|(index, choice)| encode_choice(index, choice));
    body.insert("choices".to_owned(), choices.collect());
    if let Some(usage) = &reply.usage {
        body.insert("usage".to_owned(), usage::to_wire(usage));
    }
    Value::Object(body).to_string().into()
}

#[derive(Deserialize)]
struct Inspected<'a> {
    #[serde(borrow)]
    error: Option<&'a RawValue>,
    #[serde(borrow)]
    object: Option<&'a RawValue>,
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
    #[serde(borrow)]
    x_groq: Option<&'a RawValue>,
    #[serde(borrow)]
    choices: Option<Vec<InspectedChoice<'a>>>,
    data: Option<Vec<IgnoredAny>>,
}

#[derive(Deserialize)]
struct InspectedChoice<'a> {
    #[serde(borrow)]
    finish_reason: Option<&'a RawValue>,
    #[serde(borrow)]
    message: Option<InspectedMessage<'a>>,
}

#[derive(Deserialize)]
struct InspectedMessage<'a> {
    #[serde(borrow)]
    content: Option<&'a RawValue>,
    #[serde(borrow)]
    reasoning_content: Option<&'a RawValue>,
    #[serde(borrow)]
    reasoning: Option<&'a RawValue>,
    #[serde(borrow)]
    refusal: Option<&'a RawValue>,
    #[serde(borrow)]
    tool_calls: Option<&'a RawValue>,
    #[serde(borrow)]
    audio: Option<&'a RawValue>,
}

impl InspectedChoice<'_> {
    /// As the parts are written: an upper bound.
    fn output_bytes(&self) -> u64 {
        let Some(message) = &self.message else { return 0 };
        let parts = [
            message.content,
            message.reasoning_content,
            message.reasoning,
            message.refusal,
            message.tool_calls,
            message.audio,
        ];
        let lengths = parts.into_iter().flatten().map(|part| match part.get() {
            "null" => 0,
            // Without its quotes or brackets.
            written => written.len().saturating_sub(2),
        });
        u64::try_from(lengths.sum::<usize>()).unwrap_or(u64::MAX)
    }
}

fn may_be_error(member: &RawValue) -> bool {
    !matches!(member.get(), "null" | "\"chat.completion\"")
}

fn unreadable(error: serde_json::Error) -> ProviderError {
    ProviderError::new(ProviderErrorKind::Protocol).caused_by(error)
}

fn decode_choice(choice: &Value) -> Choice {
    let message = choice.get("message").unwrap_or(&Value::Null);
    let text = |name: &str| message.get(name).and_then(Value::as_str).map(str::to_owned);
    let (content, thinking) = match message.get("content") {
        Some(Value::Array(blocks)) => {
            let (content, thinking) = block_texts(blocks);
            (Some(content), Some(thinking).filter(|thinking| !thinking.is_empty()))
        }
        _ => (text("content"), None),
    };
    let calls = message.get("tool_calls").and_then(Value::as_array).into_iter().flatten();
    Choice {
        text: content,
        reasoning: text("reasoning_content").or_else(|| text("reasoning")).or(thinking),
        refusal: text("refusal"),
        tool_calls: calls.enumerate().map(|(position, call)| decode_call(position, call)).collect(),
        finish: choice.get("finish_reason").and_then(Value::as_str).map(|reason| finish_of(finish_reason(reason))),
    }
}

/// Ollama's calls have no ids, and objects for arguments.
pub(super) fn decode_call(position: usize, call: &Value) -> ToolCall {
    let text = |object: &str, name: &str| call.get(object)?.get(name)?.as_str();
    let id = call.get("id").and_then(Value::as_str).filter(|id| !id.is_empty());
    let function = call.get("function").and_then(|function| function.get("arguments")).map(arguments_text);
    let arguments = function.or_else(|| text("custom", "input").map(str::to_owned));
    ToolCall {
        id: id.map_or_else(|| format!("call_{position}"), str::to_owned),
        name: text("function", "name").or_else(|| text("custom", "name")).unwrap_or_default().to_owned(),
        arguments: arguments.unwrap_or_default(),
    }
}

pub(super) fn encode_call(call: &ToolCall) -> Value {
    let function = json!({ "name": call.name, "arguments": call.arguments });
    json!({ "id": call.id, "type": "function", "function": function })
}

fn encode_choice(index: usize, choice: &Choice) -> Value {
    let mut message = Map::new();
    message.insert("role".to_owned(), "assistant".into());
    message.insert("content".to_owned(), choice.text.as_deref().into());
    if let Some(reasoning) = &choice.reasoning {
        message.insert("reasoning_content".to_owned(), reasoning.as_str().into());
    }
    message.insert("refusal".to_owned(), choice.refusal.as_deref().into());
    if !choice.tool_calls.is_empty() {
        message.insert("tool_calls".to_owned(), choice.tool_calls.iter().map(encode_call).collect());
    }
    let finish = choice.finish.map(finish_word);
    json!({ "index": index, "message": message, "logprobs": null, "finish_reason": finish })
}

#[cfg(test)]
mod tests;
