//! A whole reply as a stream, for a client that asked for one: a provider answered JSON all the same, or can't stream it.

use ai4free_ports::{
    chat::{ChatEvent, ChatReply, Choice},
    dialect::Chunk,
    error::{ProviderError, ProviderErrorKind},
    llm_provider::{Frame, FrameStream},
    request::InboundRequest,
};
use serde_json::{Map, Value, json};

use crate::frames::{Lane, stream_context, write_events};

/// A stream of one frame that holds all events of the reply.
pub(crate) fn stream_reply(reply: ChatReply, request: &InboundRequest) -> FrameStream {
    let mut writer = request.dialect.event_writer(stream_context(request));
    stream_chunk(write_events(&mut *writer, events(reply)))
}

/// The same for a reply with parts that the canonical chat has no word for (audio): an OpenAI completion, rewritten as the
/// chunks in which OpenAI itself would have streamed it, and read from there as any other stream.
pub(crate) fn stream_completion(completion: &[u8], mut lane: impl Lane) -> Result<FrameStream, ProviderError> {
    let chunks = chunks(completion).ok_or_else(|| {
        ProviderError::new(ProviderErrorKind::Protocol).caused_by("the provider's reply is not a completion")
    })?;
    lane.feed(chunks.into()).map(stream_chunk)
}

fn stream_chunk(Chunk { bytes, facts }: Chunk) -> FrameStream {
    Box::pin(futures_util::stream::iter([Ok(Frame { bytes, facts })]))
}

fn events(reply: ChatReply) -> Vec<ChatEvent> {
    let mut events = vec![ChatEvent::Start { id: reply.id, created: reply.created, model: reply.model }];
    for (choice, answer) in (0..).zip(reply.choices) {
        choice_events(choice, answer, &mut events);
    }
    events.extend(reply.provider_cost.map(ChatEvent::ProviderCost));
    events.extend(reply.usage.map(ChatEvent::Usage));
    events.push(ChatEvent::End);
    events
}

fn choice_events(choice: u32, answer: Choice, events: &mut Vec<ChatEvent>) {
    events.extend(answer.reasoning.map(|text| ChatEvent::Reasoning { choice, text }));
    events.extend(answer.text.map(|text| ChatEvent::Text { choice, text }));
    events.extend(answer.refusal.map(|text| ChatEvent::Refusal { choice, text }));
    for (call, tool) in (0..).zip(answer.tool_calls) {
        events.push(ChatEvent::ToolCall { choice, call, id: tool.id, name: tool.name });
        events.push(ChatEvent::ToolArguments { choice, call, fragment: tool.arguments });
    }
    events.extend(answer.finish.map(|reason| ChatEvent::Finish { choice, reason }));
}

/// `None` when it has no choices: it is no completion.
fn chunks(completion: &[u8]) -> Option<String> {
    let mut completion: Map<String, Value> = serde_json::from_slice(completion).ok()?;
    let Some(Value::Array(choices)) = completion.remove("choices") else { return None };
    let usage = completion.remove("usage");
    completion.insert("object".to_owned(), "chat.completion.chunk".into());
    let mut stream = String::new();
    let mut write = |choices: Vec<Value>, usage: Option<Value>| {
        let mut chunk = completion.clone();
        chunk.insert("choices".to_owned(), choices.into());
        chunk.extend(usage.map(|usage| ("usage".to_owned(), usage)));
        stream.push_str("data: ");
        stream.push_str(&Value::Object(chunk).to_string());
        stream.push_str("\n\n");
    };
    for (index, mut choice) in choices.into_iter().enumerate() {
        let mut delta = choice.get_mut("message").map_or(Value::Null, Value::take);
        if let Some(calls) = delta.get_mut("tool_calls").and_then(Value::as_array_mut) {
            for (index, call) in calls.iter_mut().filter_map(Value::as_object_mut).enumerate() {
                call.insert("index".to_owned(), index.into());
            }
        }
        let finish = choice.get_mut("finish_reason").map(Value::take).filter(|reason| !reason.is_null());
        write(vec![json!({ "index": index, "delta": delta, "finish_reason": null })], None);
        let finish = finish.unwrap_or_else(|| "stop".into());
        write(vec![json!({ "index": index, "delta": {}, "finish_reason": finish })], None);
    }
    if let Some(usage) = usage.filter(|usage| !usage.is_null()) {
        write(vec![], Some(usage));
    }
    stream.push_str("data: [DONE]\n\n");
    Some(stream)
}
