//! Canonical events to OpenAI's stream, chunk for chunk as OpenAI itself writes them.

use std::collections::BTreeSet;

use ai4free_ports::{
    chat::{ChatEvent, FinishReason},
    dialect::{EventWriter, StreamContext},
    llm_provider::Facts,
    usage::TokenUsage,
};
use bytes::{BufMut, BytesMut};
use serde_json::{Value, json};

use super::{choices::OBJECT, splice::quoted, usage};

pub(super) struct OpenAiWriter {
    context: StreamContext,
    /// The members that are the same in every chunk, up to its choices.
    head: String,
    begun: BTreeSet<u32>,
    unfinished: BTreeSet<u32>,
    usage: Option<TokenUsage>,
}

impl OpenAiWriter {
    pub(super) fn new(context: StreamContext) -> Self {
        Self { context, head: String::new(), begun: BTreeSet::new(), unfinished: BTreeSet::new(), usage: None }
    }

    /// The first delta of a choice has its role; what follows says what kind of answer it is.
    fn begin(&mut self, choice: u32, content: &Value, out: &mut BytesMut) {
        if self.begun.insert(choice) {
            self.unfinished.insert(choice);
            let delta = json!({ "role": "assistant", "content": content, "refusal": null });
            self.chunk(choice, &delta.to_string(), None, out);
        }
    }

    fn text(&mut self, choice: u32, name: &str, text: &str, out: &mut BytesMut) -> Facts {
        self.begin(choice, &"".into(), out);
        self.chunk(choice, &format!("{{\"{name}\":{}}}", quoted(text)), None, out);
        Facts { output_bytes: length(text), ..Facts::default() }
    }

    fn chunk(&self, choice: u32, delta: &str, finish: Option<&str>, out: &mut BytesMut) {
        let finish = finish.map_or_else(|| "null".to_owned(), quoted);
        let usage = if self.context.include_usage { ",\"usage\":null" } else { "" };
        self.event(
            &format!("[{{\"index\":{choice},\"delta\":{delta},\"logprobs\":null,\"finish_reason\":{finish}}}]{usage}"),
            out,
        );
    }

    fn event(&self, choices: &str, out: &mut BytesMut) {
        for part in ["data: ", &self.head, choices, "}\n\n"] {
            out.put_slice(part.as_bytes());
        }
    }

    fn end(&self, out: &mut BytesMut) {
        if let Some(usage) = self.usage.filter(|_| self.context.include_usage) {
            self.event(&format!("[],\"usage\":{}", usage::to_wire(&usage)), out);
        }
        out.put_slice(b"data: [DONE]\n\n");
    }
}

impl EventWriter for OpenAiWriter {
    fn write(&mut self, event: &ChatEvent, out: &mut BytesMut) -> Facts {
        match event {
            ChatEvent::Start { id, created, model } => {
                let (id, model) = (quoted(id), quoted(model));
                self.head = format!(
                    "{{\"id\":{id},\"object\":\"{OBJECT}\",\"created\":{created},\"model\":{model},\"choices\":"
                );
                Facts::default()
            }
            ChatEvent::Text { choice, text } => self.text(*choice, "content", text, out),
            ChatEvent::Reasoning { choice, text } => self.text(*choice, "reasoning_content", text, out),
            ChatEvent::Refusal { choice, text } => self.text(*choice, "refusal", text, out),
            ChatEvent::ToolCall { choice, call, id, name } => {
                self.begin(*choice, &Value::Null, out);
                let function = json!({ "name": name, "arguments": "" });
                let call = json!({ "index": call, "id": id, "type": "function", "function": function });
                self.chunk(*choice, &json!({ "tool_calls": [call] }).to_string(), None, out);
                Facts::default()
            }
            ChatEvent::ToolArguments { choice, call, fragment } => {
                self.begin(*choice, &Value::Null, out);
                let delta = json!({ "tool_calls": [{ "index": call, "function": { "arguments": fragment } }] });
                self.chunk(*choice, &delta.to_string(), None, out);
                Facts { output_bytes: length(fragment), ..Facts::default() }
            }
            ChatEvent::Finish { choice, reason } => {
                self.begin(*choice, &"".into(), out);
                self.chunk(*choice, "{}", Some(finish_word(*reason)), out);
                self.unfinished.remove(choice);
                Facts { finished: self.unfinished.is_empty(), ..Facts::default() }
            }
            ChatEvent::ProviderCost(cost) => Facts { provider_cost: Some(*cost), ..Facts::default() },
            ChatEvent::Usage(usage) => {
                self.usage = Some(*usage);
                Facts { usage: self.usage, ..Facts::default() }
            }
            ChatEvent::End => {
                self.end(out);
                Facts { finished: self.unfinished.is_empty(), done: true, ..Facts::default() }
            }
        }
    }
}

pub(super) fn finish_word(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
        FinishReason::ToolCalls => "tool_calls",
        FinishReason::ContentFilter => "content_filter",
    }
}

fn length(text: &str) -> u64 {
    u64::try_from(text.len()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(include_usage: bool) -> String {
        let mut writer = OpenAiWriter::new(StreamContext { include_usage });
        let mut out = BytesMut::new();
        for event in [
            ChatEvent::Start { id: "chatcmpl-1".into(), created: 1, model: "m".into() },
            ChatEvent::Text { choice: 0, text: "Hi".into() },
            ChatEvent::ToolCall { choice: 1, call: 0, id: "call_x".into(), name: "f".into() },
            ChatEvent::ToolArguments { choice: 1, call: 0, fragment: "{\"ci".into() },
            ChatEvent::Finish { choice: 0, reason: FinishReason::Stop },
            ChatEvent::Finish { choice: 1, reason: FinishReason::ToolCalls },
            ChatEvent::Usage(TokenUsage { input: 3, output: 2, ..TokenUsage::default() }),
            ChatEvent::End,
        ] {
            writer.write(&event, &mut out);
        }
        String::from_utf8(out.to_vec()).unwrap()
    }

    fn expected(usage_null: &str, usage_event: &str) -> String {
        let chunk = |choice: &str| {
            format!(
                "data: {{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\"choices\":[{choice}]{usage_null}}}\n\n"
            )
        };
        [
            chunk(r#"{"index":0,"delta":{"role":"assistant","content":"","refusal":null},"logprobs":null,"finish_reason":null}"#),
            chunk(r#"{"index":0,"delta":{"content":"Hi"},"logprobs":null,"finish_reason":null}"#),
            chunk(r#"{"index":1,"delta":{"role":"assistant","content":null,"refusal":null},"logprobs":null,"finish_reason":null}"#),
            chunk(r#"{"index":1,"delta":{"tool_calls":[{"index":0,"id":"call_x","type":"function","function":{"name":"f","arguments":""}}]},"logprobs":null,"finish_reason":null}"#),
            chunk(r#"{"index":1,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{\"ci"}}]},"logprobs":null,"finish_reason":null}"#),
            chunk(r#"{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}"#),
            chunk(r#"{"index":1,"delta":{},"logprobs":null,"finish_reason":"tool_calls"}"#),
            usage_event.to_owned(),
            "data: [DONE]\n\n".to_owned(),
        ]
        .concat()
    }

    #[test]
    fn a_stream_is_written_as_openai_writes_it() {
        assert_eq!(written(false), expected("", ""));
        let usage = r#"data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"m","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5,"prompt_tokens_details":{"cached_tokens":0,"audio_tokens":0},"completion_tokens_details":{"reasoning_tokens":0,"audio_tokens":0,"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}}}"#;
        assert_eq!(written(true), expected(",\"usage\":null", &format!("{usage}\n\n")));
    }
}
