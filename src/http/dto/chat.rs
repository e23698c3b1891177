//! Documentation of chat completions. Requests and replies are not parsed into these: they are forwarded as they are.

use std::collections::HashMap;

use poem_openapi::{Enum, Object, types::Any};
use serde_json::Value;

/// A chat completion request. Members that are not listed are passed to the provider untouched.
#[derive(Object)]
pub(in crate::http) struct ChatCompletionRequest {
    /// Id of a model, see `/v1/models`.
    model: String,
    /// The conversation so far; at least one.
    #[oai(validator(min_items = 1))]
    messages: Vec<ChatMessage>,
    /// Whether to stream the completion as server-sent events.
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    /// The most tokens that may be generated, hidden reasoning included.
    #[oai(validator(minimum(value = "1")))]
    max_completion_tokens: Option<u64>,
    /// Older name of `max_completion_tokens`.
    #[oai(validator(minimum(value = "1")))]
    max_tokens: Option<u64>,
    #[oai(validator(minimum(value = "0"), maximum(value = "2")))]
    temperature: Option<f64>,
    #[oai(validator(minimum(value = "0"), maximum(value = "1")))]
    top_p: Option<f64>,
    /// How many choices to generate.
    #[oai(validator(minimum(value = "1"), maximum(value = "128")))]
    n: Option<u32>,
    /// A string, or up to four strings, that end the generation.
    stop: Option<Any<Value>>,
    #[oai(validator(minimum(value = "-2"), maximum(value = "2")))]
    presence_penalty: Option<f64>,
    #[oai(validator(minimum(value = "-2"), maximum(value = "2")))]
    frequency_penalty: Option<f64>,
    logit_bias: Option<HashMap<String, f64>>,
    logprobs: Option<bool>,
    #[oai(validator(minimum(value = "0"), maximum(value = "20")))]
    top_logprobs: Option<u32>,
    seed: Option<i64>,
    tools: Option<Vec<Tool>>,
    /// `none`, `auto`, `required`, or an object that names a tool.
    tool_choice: Option<Any<Value>>,
    parallel_tool_calls: Option<bool>,
    /// `{"type":"text"}`, `{"type":"json_object"}` or `{"type":"json_schema","json_schema":{…}}`.
    response_format: Option<Any<Value>>,
    /// `none`, `minimal`, `low`, `medium`, `high`, …
    reasoning_effort: Option<String>,
    /// `["text"]` or `["text","audio"]`.
    modalities: Option<Vec<String>>,
    audio: Option<AudioOptions>,
    user: Option<String>,
}

#[derive(Object)]
pub(in crate::http) struct StreamOptions {
    /// Whether the stream's last event before `[DONE]` reports the usage.
    include_usage: Option<bool>,
}

#[derive(Object)]
pub(in crate::http) struct AudioOptions {
    voice: Option<String>,
    /// `wav`, `mp3`, `flac`, `opus`, `aac` or `pcm16`.
    format: Option<String>,
}

#[derive(Object)]
pub(in crate::http) struct ChatMessage {
    role: MessageRole,
    /// A string, or a list of parts (text, image, audio, file); null beside `tool_calls`.
    content: Option<Any<Value>>,
    name: Option<String>,
    tool_calls: Option<Vec<ToolCall>>,
    /// Which tool call a message of the role `tool` answers.
    tool_call_id: Option<String>,
    /// What the assistant refused to say.
    refusal: Option<String>,
    audio: Option<Any<Value>>,
}

#[derive(Enum)]
#[oai(rename_all = "lowercase")]
enum MessageRole {
    System,
    Developer,
    User,
    Assistant,
    Tool,
    Function,
}

#[derive(Object)]
pub(in crate::http) struct Tool {
    /// `function` or `custom`.
    #[oai(rename = "type")]
    kind: String,
    function: Option<FunctionDefinition>,
    custom: Option<Any<Value>>,
}

#[derive(Object)]
pub(in crate::http) struct FunctionDefinition {
    name: String,
    description: Option<String>,
    /// JSON Schema of the arguments.
    parameters: Option<Any<Value>>,
    strict: Option<bool>,
}

#[derive(Object)]
pub(in crate::http) struct ToolCall {
    id: String,
    #[oai(rename = "type")]
    kind: String,
    function: FunctionCall,
}

#[derive(Object)]
pub(in crate::http) struct FunctionCall {
    name: String,
    /// A string that should hold JSON; models sometimes write something else.
    arguments: String,
}

#[derive(Object)]
pub(in crate::http) struct ChatCompletion {
    id: String,
    /// `chat.completion`.
    object: String,
    /// Unix seconds.
    created: i64,
    model: String,
    choices: Vec<Choice>,
    usage: Option<CompletionUsage>,
    service_tier: Option<String>,
    system_fingerprint: Option<String>,
}

#[derive(Object)]
pub(in crate::http) struct Choice {
    index: u32,
    message: AssistantMessage,
    logprobs: Option<Any<Value>>,
    /// `stop`, `length`, `tool_calls`, `content_filter` or `function_call`.
    finish_reason: Option<String>,
}

#[derive(Object)]
pub(in crate::http) struct AssistantMessage {
    /// `assistant`.
    role: String,
    content: Option<String>,
    refusal: Option<String>,
    tool_calls: Option<Vec<ToolCall>>,
    annotations: Option<Any<Value>>,
    audio: Option<Any<Value>>,
    /// Visible reasoning of some providers.
    reasoning_content: Option<String>,
}

#[derive(Object)]
pub(in crate::http) struct CompletionUsage {
    prompt_tokens: u64,
    completion_tokens: u64,
    total_tokens: u64,
    prompt_tokens_details: Option<Any<Value>>,
    completion_tokens_details: Option<Any<Value>>,
}

/// One event of a streamed completion. After the last one comes `data: [DONE]`.
#[derive(Object)]
pub(in crate::http) struct ChatCompletionChunk {
    id: String,
    /// `chat.completion.chunk`.
    object: String,
    created: i64,
    model: String,
    /// Empty in the event that reports the usage.
    choices: Vec<ChunkChoice>,
    usage: Option<CompletionUsage>,
}

#[derive(Object)]
pub(in crate::http) struct ChunkChoice {
    index: u32,
    delta: Delta,
    logprobs: Option<Any<Value>>,
    finish_reason: Option<String>,
}

#[derive(Object)]
pub(in crate::http) struct Delta {
    role: Option<String>,
    content: Option<String>,
    refusal: Option<String>,
    tool_calls: Option<Vec<ToolCallDelta>>,
    reasoning_content: Option<String>,
}

#[derive(Object)]
pub(in crate::http) struct ToolCallDelta {
    index: u32,
    id: Option<String>,
    #[oai(rename = "type")]
    kind: Option<String>,
    function: Option<FunctionCallDelta>,
}

#[derive(Object)]
pub(in crate::http) struct FunctionCallDelta {
    name: Option<String>,
    arguments: Option<String>,
}
