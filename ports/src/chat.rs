//! The canonical chat: what a request and a reply mean, apart from any wire format. Dialects convert to and from it when a
//! request crosses from one to another, or when a reply is made here.

use serde_json::{Map, Value};

use crate::{money::PicoUsd, usage::TokenUsage};

#[derive(Clone, Debug, Default, PartialEq)]
pub struct ChatRequest {
    pub model: String,
    pub messages: Vec<Message>,
    pub tools: Vec<Tool>,
    pub stream: bool,
    pub max_output_tokens: Option<u64>,
    pub temperature: Option<f64>,
    pub top_p: Option<f64>,
    pub stop: Vec<String>,
    /// Everything else, as the client wrote it. A dialect that has no word for a member says so.
    pub extra: Map<String, Value>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// `system` and `developer`.
    System,
    User,
    Assistant,
    Tool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    pub role: Role,
    pub content: Vec<Part>,
    pub name: Option<String>,
    pub tool_calls: Vec<ToolCall>,
    /// Which call a message of [`Role::Tool`] answers.
    pub tool_call_id: Option<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Part {
    Text(String),
    /// An image, audio or file part, as the client wrote it.
    Media(Value),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Tool {
    pub name: String,
    pub description: Option<String>,
    /// JSON Schema.
    pub parameters: Option<Value>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolCall {
    pub id: String,
    pub name: String,
    /// A string that should hold JSON, and need not.
    pub arguments: String,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct ChatReply {
    pub id: String,
    /// Unix seconds.
    pub created: i64,
    pub model: String,
    pub choices: Vec<Choice>,
    pub usage: Option<TokenUsage>,
    /// What the provider says that it cost, where it says so. It is for the ledger and not written to clients.
    pub provider_cost: Option<PicoUsd>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Choice {
    pub text: Option<String>,
    pub reasoning: Option<String>,
    pub refusal: Option<String>,
    pub tool_calls: Vec<ToolCall>,
    pub finish: Option<FinishReason>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    Stop,
    Length,
    ToolCalls,
    ContentFilter,
}

/// One step of a streamed reply. `choice` counts answers, `call` counts tool calls within an answer, both from 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChatEvent {
    /// Always first, exactly once.
    Start {
        id: String,
        created: i64,
        model: String,
    },
    Text {
        choice: u32,
        text: String,
    },
    Reasoning {
        choice: u32,
        text: String,
    },
    Refusal {
        choice: u32,
        text: String,
    },
    /// Once per call, before its arguments.
    ToolCall {
        choice: u32,
        call: u32,
        id: String,
        name: String,
    },
    ToolArguments {
        choice: u32,
        call: u32,
        fragment: String,
    },
    Finish {
        choice: u32,
        reason: FinishReason,
    },
    /// What the provider says that the reply cost, before the usage that came with it. The last one counts; not written to
    /// clients.
    ProviderCost(PicoUsd),
    /// The last one counts.
    Usage(TokenUsage),
    /// The reply is complete. A stream that ends without it was cut.
    End,
}
