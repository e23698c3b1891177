//! A call as the application makes it, and everything that came of it.

use std::{sync::Arc, time::Duration};

use ai4free_ports::{
    chat::{ChatEvent, ChatReply},
    error::ProviderError,
    llm_provider::{Call, Deadlines, Facts, LlmProvider, Reply},
    request::{Edits, InboundRequest, Operation, RequestId},
};
use bytes::Bytes;
use futures_util::StreamExt;

use super::Harness;

/// Longer than any test takes.
pub const PATIENT: Deadlines =
    Deadlines { first_byte: Duration::from_secs(20), idle: Duration::from_secs(20), total: Duration::from_secs(20) };

/// A call with this body, which is on the wire of OpenAI.
pub fn call(harness: &impl Harness, operation: Operation, body: &str, deadlines: Deadlines) -> Call {
    let dialect = harness.dialect();
    let body = Bytes::copy_from_slice(body.as_bytes());
    let view = Arc::new(dialect.view(operation, &body).expect("a valid request"));
    let edits =
        Edits { model: "upstream-model".into(), output_cap: None, output_cap_field: None, ask_for_usage: view.stream };
    Call {
        id: RequestId(uuid::Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0001)),
        request: InboundRequest { operation, dialect, body, view },
        edits: Arc::new(edits),
        credential: 0,
        deadlines,
    }
}

pub fn chat(harness: &impl Harness, body: &str) -> Call {
    call(harness, Operation::Chat, body, PATIENT)
}

/// The reply to a request that didn't ask for a stream.
pub async fn whole(harness: &impl Harness, provider: &dyn LlmProvider, call: Call) -> (ChatReply, Facts) {
    match provider.call(call).await.expect("a reply") {
        Reply::Whole { body, facts } => (harness.dialect().decode_reply(&body).expect("a completion"), facts),
        Reply::Stream(_) => panic!("a stream that nobody asked for"),
    }
}

/// What a client reads of a stream.
#[derive(Default)]
pub struct Transcript {
    pub bytes: Vec<u8>,
    pub events: Vec<ChatEvent>,
    pub facts: Facts,
    pub error: Option<ProviderError>,
}

impl Transcript {
    /// Reads a stream to its end, whichever it is.
    pub async fn of(harness: &impl Harness, provider: &dyn LlmProvider, call: Call) -> Self {
        let Reply::Stream(mut frames) = provider.call(call).await.expect("a stream that begins") else {
            panic!("a whole reply where a stream was asked for")
        };
        let mut transcript = Self::default();
        let mut reader = harness.dialect().event_reader();
        while let Some(item) = frames.next().await {
            assert!(!transcript.facts.done && transcript.error.is_none(), "a stream ends with `done` or with an error");
            match item {
                Ok(frame) => {
                    let is_empty = frame.bytes.is_empty() && frame.facts == Facts::default();
                    assert!(!is_empty, "a frame holds something for the client or for the ledger");
                    transcript.facts.absorb(&frame.facts);
                    transcript.bytes.extend_from_slice(&frame.bytes);
                    reader.feed(&frame.bytes, &mut transcript.events).expect("readable frames");
                }
                Err(error) => transcript.error = Some(error),
            }
        }
        transcript
    }

    pub fn text(&self) -> String {
        let texts = self.events.iter().filter_map(|event| match event {
            ChatEvent::Text { text, .. } => Some(text.as_str()),
            _ => None,
        });
        texts.collect()
    }

    /// Name and arguments of each tool call, in order.
    pub fn tool_calls(&self) -> Vec<(String, String)> {
        let mut calls: Vec<(String, String)> = Vec::new();
        for event in &self.events {
            match event {
                ChatEvent::ToolCall { name, .. } => calls.push((name.clone(), String::new())),
                ChatEvent::ToolArguments { call, fragment, .. } => {
                    calls[usize::try_from(*call).expect("small")].1.push_str(fragment);
                }
                _ => {}
            }
        }
        calls
    }

    pub fn finishes(&self) -> usize {
        self.events.iter().filter(|event| matches!(event, ChatEvent::Finish { .. })).count()
    }
}

/// Everything that an error could print, its causes too.
pub fn texts(error: &ProviderError) -> String {
    let mut texts = format!("{error} {error:?} {error:#?}");
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        texts.push_str(&format!(" {error} {error:?}"));
        cause = error.source();
    }
    texts
}
