//! What the echo says: decided once per request, in whichever form it is then sent.

use ai4free_ports::{
    chat::{ChatReply, ChatRequest, Choice, FinishReason, Part, Role, ToolCall},
    error::RequestError,
    request::RequestId,
    usage::TokenUsage,
};
use serde_json::{Value, value::RawValue};

/// As OpenAI's own bound on `n`.
const MAX_CHOICES: u32 = 128;

/// Cap on the bytes of all choices together.
const MAX_OUTPUT: usize = 32 << 20;

/// Documented count of the echo's tokens: bytes divided by this, rounded up.
const BYTES_PER_TOKEN: usize = 4;

/// One answer; every choice of the reply is the same.
pub(super) struct Answer {
    pub(super) id: String,
    pub(super) created: i64,
    pub(super) model: String,
    pub(super) choices: u32,
    pub(super) content: Content,
    pub(super) finish: FinishReason,
    pub(super) usage: TokenUsage,
    request: RequestId,
}

pub(super) enum Content {
    Text(String),
    Call { name: String, arguments: String },
}

impl Answer {
    pub(super) fn new(
        request: RequestId,
        chat: &ChatRequest,
        choices: u32,
        cap: Option<u64>,
        created: i64,
    ) -> Result<Self, RequestError> {
        if choices > MAX_CHOICES {
            return Err(RequestError::new("n must be at most 128.").param("n"));
        }
        let prompt = last_user_text(chat);
        let (mut content, mut finish) = match tool_call(chat, &prompt) {
            Some((name, arguments)) => (Content::Call { name, arguments }, FinishReason::ToolCalls),
            None => (Content::Text(until_stop(prompt, &chat.stop)), FinishReason::Stop),
        };
        let (Content::Text(output) | Content::Call { arguments: output, .. }) = &mut content;
        let most = cap
            .map_or(usize::MAX, |tokens| usize::try_from(tokens).unwrap_or(usize::MAX).saturating_mul(BYTES_PER_TOKEN));
        if output.len() > most {
            output.truncate(output.floor_char_boundary(most));
            finish = FinishReason::Length;
        }
        let output_bytes = output.len().saturating_mul(usize::try_from(choices).unwrap_or(usize::MAX));
        if output_bytes > MAX_OUTPUT {
            return Err(RequestError::new("The echo of this prompt would be too long.").param("messages"));
        }
        Ok(Self {
            id: format!("chatcmpl-{request}"),
            created,
            model: chat.model.clone(),
            choices,
            content,
            finish,
            usage: TokenUsage {
                input: tokens(prompt_bytes(chat)),
                output: tokens(output_bytes),
                ..TokenUsage::default()
            },
            request,
        })
    }

    pub(super) fn call_id(&self, choice: u32) -> String {
        format!("call_{}_{choice}", self.request.0.as_simple())
    }

    pub(super) fn into_reply(self) -> ChatReply {
        let choices = (0..self.choices).map(|choice| {
            let mut answer = Choice { finish: Some(self.finish), ..Choice::default() };
            match &self.content {
                Content::Text(text) => answer.text = Some(text.clone()),
                Content::Call { name, arguments } => {
                    let call = ToolCall { id: self.call_id(choice), name: name.clone(), arguments: arguments.clone() };
                    answer.tool_calls = vec![call];
                }
            }
            answer
        });
        let choices = choices.collect();
        ChatReply {
            id: self.id,
            created: self.created,
            model: self.model,
            choices,
            usage: Some(self.usage),
            provider_cost: None,
        }
    }
}

fn last_user_text(chat: &ChatRequest) -> String {
    let last = chat.messages.iter().rfind(|message| message.role == Role::User);
    last.map(|message| texts(&message.content).collect()).unwrap_or_default()
}

fn texts(content: &[Part]) -> impl Iterator<Item = &str> {
    content.iter().filter_map(|part| match part {
        Part::Text(text) => Some(text.as_str()),
        Part::Media(_) => None,
    })
}

fn prompt_bytes(chat: &ChatRequest) -> usize {
    chat.messages.iter().flat_map(|message| texts(&message.content)).map(str::len).sum()
}

fn tokens(bytes: usize) -> u64 {
    u64::try_from(bytes.div_ceil(BYTES_PER_TOKEN)).unwrap_or(u64::MAX)
}

/// The tool that the client insists on, or that the prompt names (`call NAME {json}`), with the prompt's arguments.
fn tool_call(chat: &ChatRequest, prompt: &str) -> Option<(String, String)> {
    let (asked_name, asked_arguments) = asked_call(prompt);
    let is_known = |name: &str| chat.tools.iter().any(|tool| tool.name == name);
    let choice = chat.extra.get("tool_choice");
    if choice.is_some_and(|choice| choice == "none") {
        return None;
    }
    let forced = choice.and_then(|choice| choice.pointer("/function/name")).and_then(Value::as_str);
    let asked = asked_name.filter(|name| is_known(name));
    let is_required = choice.is_some_and(|choice| choice == "required");
    let name = match forced.filter(|name| is_known(name)).or(asked) {
        Some(name) => name,
        None if is_required => &chat.tools.first()?.name,
        None => return None,
    };
    let arguments = asked_arguments.filter(|_| asked == Some(name)).unwrap_or("{}");
    Some((name.to_owned(), arguments.to_owned()))
}

/// The parts of `call NAME {json}`; text that is no JSON object is no arguments.
fn asked_call(prompt: &str) -> (Option<&str>, Option<&str>) {
    let Some(rest) = prompt.strip_prefix("call ") else { return (None, None) };
    let (name, arguments) = rest.trim().split_once(char::is_whitespace).unwrap_or((rest.trim(), ""));
    let arguments = arguments.trim();
    let is_object = arguments.starts_with('{') && serde_json::from_str::<&RawValue>(arguments).is_ok();
    (Some(name), is_object.then_some(arguments))
}

fn until_stop(mut text: String, stops: &[String]) -> String {
    let first = stops.iter().filter(|stop| !stop.is_empty()).filter_map(|stop| text.find(stop.as_str())).min();
    if let Some(first) = first {
        text.truncate(first);
    }
    text
}

#[cfg(test)]
mod tests {
    use ai4free_ports::chat::{Message, Tool};
    use serde_json::json;

    use super::*;

    const NIL: RequestId = RequestId(uuid::Uuid::nil());

    fn chat(prompt: &str, tool_choice: Value) -> ChatRequest {
        let message = |role, text: &str| Message {
            role,
            content: vec![Part::Text(text.to_owned())],
            name: None,
            tool_calls: vec![],
            tool_call_id: None,
        };
        let tool = |name: &str| Tool { name: name.to_owned(), description: None, parameters: None };
        ChatRequest {
            messages: vec![message(Role::System, "12345"), message(Role::User, prompt), message(Role::Assistant, "")],
            tools: vec![tool("first"), tool("second")],
            extra: [("tool_choice".to_owned(), tool_choice)].into_iter().collect(),
            ..ChatRequest::default()
        }
    }

    fn answer(chat: &ChatRequest, choices: u32, cap: Option<u64>) -> Answer {
        Answer::new(NIL, chat, choices, cap, 0).unwrap()
    }

    fn text(answer: &Answer) -> &str {
        let Content::Text(text) = &answer.content else { panic!("not a text") };
        text
    }

    #[test]
    fn the_text_is_the_last_user_message_up_to_a_stop_or_the_cap() {
        let mut request = chat("über den Wolken", Value::Null);
        let whole = answer(&request, 2, None);
        assert_eq!((text(&whole), whole.finish), ("über den Wolken", FinishReason::Stop));
        assert_eq!((whole.usage.input, whole.usage.output), (6, 8), "21 and 2 × 16 bytes");
        let cut = answer(&request, 1, Some(1));
        assert_eq!((text(&cut), cut.finish), ("übe", FinishReason::Length));
        request.stop = vec!["Wolken".to_owned(), " den".to_owned(), String::new()];
        let stopped = answer(&request, 1, Some(100));
        assert_eq!((text(&stopped), stopped.finish), ("über", FinishReason::Stop));
    }

    #[test]
    fn a_character_is_never_cut() {
        let cut = answer(&chat("abcé", Value::Null), 1, Some(1));
        assert_eq!(text(&cut), "abc");
    }

    #[test]
    fn a_tool_is_called_when_the_client_insists_or_the_prompt_asks() {
        let named = json!({ "type": "function", "function": { "name": "second" } });
        for (prompt, tool_choice, expected) in [
            ("hi", json!("auto"), None),
            ("hi", json!("required"), Some(("first", "{}"))),
            ("hi", named, Some(("second", "{}"))),
            ("call second {\"a\": 1.0}", json!("auto"), Some(("second", "{\"a\": 1.0}"))),
            ("call second {\"a\"", json!("auto"), Some(("second", "{}"))),
            ("call second", Value::Null, Some(("second", "{}"))),
            ("call third {}", json!("auto"), None),
            ("call third {\"a\":1}", json!("required"), Some(("first", "{}"))),
            ("call second {}", json!("none"), None),
        ] {
            let answer = answer(&chat(prompt, tool_choice.clone()), 1, None);
            let call = match &answer.content {
                Content::Call { name, arguments } => Some((name.as_str(), arguments.as_str())),
                Content::Text(_) => None,
            };
            assert_eq!(call, expected, "{prompt} {tool_choice}");
        }
    }

    #[test]
    fn a_small_request_never_makes_an_endless_reply() {
        let request = chat(&"x".repeat(1 << 20), Value::Null);
        assert!(Answer::new(NIL, &request, 129, None, 0).is_err());
        assert!(Answer::new(NIL, &request, 128, None, 0).is_err());
        assert!(Answer::new(NIL, &request, 128, Some(10), 0).is_ok());
    }
}
