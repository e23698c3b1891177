//! Upstream events to canonical ones, for a client of another protocol and for replies that are put together here.

use ai4free_ports::{
    chat::{ChatEvent, FinishReason},
    dialect::EventReader,
    error::ProviderError,
};
use serde_json::{Map, Value};

use super::{
    choices::Identity,
    error::protocol,
    sanitise::{Sanitised, Sanitiser},
};
use crate::dialects::sse::{self, Event, EventSplitter};

#[derive(Default)]
pub(super) struct OpenAiReader {
    splitter: EventSplitter,
    sanitiser: Sanitiser,
    has_started: bool,
    is_done: bool,
}

impl OpenAiReader {
    fn event(&mut self, event: &[u8], out: &mut Vec<ChatEvent>) -> Result<(), ProviderError> {
        let Some(data) = sse::data(event) else { return Ok(()) };
        match data.trim_ascii() {
            [] => Ok(()),
            b"[DONE]" => self.finish(out),
            payload => self.chunk(payload, out),
        }
    }

    fn chunk(&mut self, payload: &[u8], out: &mut Vec<ChatEvent>) -> Result<(), ProviderError> {
        let Sanitised { chunk, facts, .. } = self.sanitiser.sanitise(payload)?;
        if let Some(Identity { id, created, model }) = &self.sanitiser.identity
            && !self.has_started
        {
            self.has_started = true;
            out.push(ChatEvent::Start { id: id.clone(), created: *created, model: model.clone() });
        }
        let choices = chunk.get("choices").and_then(Value::as_array).into_iter().flatten();
        choices.filter_map(Value::as_object).for_each(|choice| read_choice(choice, out));
        out.extend(facts.provider_cost.map(ChatEvent::ProviderCost));
        if let Some(usage) = facts.usage {
            out.push(ChatEvent::Usage(usage));
        }
        Ok(())
    }

    fn finish(&mut self, out: &mut Vec<ChatEvent>) -> Result<(), ProviderError> {
        if !self.sanitiser.choices.are_finished() {
            return Err(protocol("the stream ended before the reply was complete"));
        }
        self.is_done = true;
        out.push(ChatEvent::End);
        Ok(())
    }
}

impl EventReader for OpenAiReader {
    fn feed(&mut self, read: &[u8], out: &mut Vec<ChatEvent>) -> Result<(), ProviderError> {
        let mut at = 0;
        while !self.is_done {
            match self.splitter.next(read, &mut at)? {
                None => break,
                Some(Event::Within(range)) => self.event(read.get(range).unwrap_or_default(), out)?,
                Some(Event::Carried(event)) => self.event(&event, out)?,
            }
        }
        Ok(())
    }

    fn end(&mut self, out: &mut Vec<ChatEvent>) -> Result<(), ProviderError> {
        if self.is_done {
            return Ok(());
        }
        if let Some(event) = self.splitter.finish() {
            self.event(&event, out)?;
        }
        if self.is_done { Ok(()) } else { self.finish(out) }
    }
}

/// OpenAI's finish reason; a vendor's own one is a stop.
pub(super) fn finish_of(reason: &str) -> FinishReason {
    match reason {
        "length" => FinishReason::Length,
        "tool_calls" | "function_call" => FinishReason::ToolCalls,
        "content_filter" => FinishReason::ContentFilter,
        _ => FinishReason::Stop,
    }
}

fn read_choice(choice: &Map<String, Value>, out: &mut Vec<ChatEvent>) {
    let Some(index) = choice.get("index").and_then(small_number) else { return };
    if let Some(Value::Object(delta)) = choice.get("delta") {
        let text = |name: &str| delta.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
        if let Some(text) = text("reasoning_content").or_else(|| text("reasoning")) {
            out.push(ChatEvent::Reasoning { choice: index, text: text.to_owned() });
        }
        if let Some(text) = text("content") {
            out.push(ChatEvent::Text { choice: index, text: text.to_owned() });
        }
        if let Some(text) = text("refusal") {
            out.push(ChatEvent::Refusal { choice: index, text: text.to_owned() });
        }
        let fragments = delta.get("tool_calls").and_then(Value::as_array).into_iter().flatten();
        fragments.for_each(|fragment| read_fragment(index, fragment, out));
    }
    if let Some(reason) = choice.get("finish_reason").and_then(Value::as_str) {
        out.push(ChatEvent::Finish { choice: index, reason: finish_of(reason) });
    }
}

/// A fragment after mending: only the first one of a call has an id.
fn read_fragment(choice: u32, fragment: &Value, out: &mut Vec<ChatEvent>) {
    let Some(call) = fragment.get("index").and_then(small_number) else { return };
    let text = |object: &str, name: &str| fragment.get(object)?.get(name)?.as_str();
    if let Some(id) = fragment.get("id").and_then(Value::as_str) {
        let name = text("function", "name").or_else(|| text("custom", "name")).unwrap_or_default();
        out.push(ChatEvent::ToolCall { choice, call, id: id.to_owned(), name: name.to_owned() });
    }
    let arguments = text("function", "arguments").or_else(|| text("custom", "input"));
    if let Some(fragment) = arguments.filter(|arguments| !arguments.is_empty()) {
        out.push(ChatEvent::ToolArguments { choice, call, fragment: fragment.to_owned() });
    }
}

fn small_number(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|number| u32::try_from(number).ok())
}
