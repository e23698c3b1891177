//! Mends the chunks of a stream so that they are OpenAI's, whatever the vendor: the slow way, for the few that need it.
//!
//! Id, object, creation time and model are those of the first chunk; the role comes in the first delta of a choice and never
//! again; tool calls are numbered from 0 and have their id and name once; each choice finishes once. Chunks without choices
//! are dropped: clients index `choices[0]`.

use ai4free_ports::{
    error::{ProviderError, ProviderErrorKind},
    llm_provider::Facts,
};
use serde_json::{Map, Value};

use super::{
    calls::{self, mend_calls},
    choices::{Choice, Choices, Identity},
    error::{protocol, within},
    usage::Envelope,
};

/// The state of one stream.
#[derive(Debug, Default)]
pub(super) struct Sanitiser {
    pub(super) identity: Option<Identity>,
    pub(super) choices: Choices,
}

/// A chunk after mending.
#[derive(Debug)]
pub(super) struct Sanitised {
    pub(super) chunk: Map<String, Value>,
    /// Whether it differs from what arrived.
    pub(super) is_changed: bool,
    /// Whether it has a choice to show. Without one it may still have usage.
    pub(super) has_choices: bool,
    /// The usage object, taken out of the chunk when it has choices.
    pub(super) usage: Option<Value>,
    pub(super) facts: Facts,
}

impl Sanitiser {
    pub(super) fn sanitise(&mut self, payload: &[u8]) -> Result<Sanitised, ProviderError> {
        let value = serde_json::from_slice::<Value>(payload)
            .map_err(|error| ProviderError::new(ProviderErrorKind::Protocol).caused_by(error))?;
        if let Some(error) = within(&value) {
            return Err(error);
        }
        let Value::Object(mut chunk) = value else { return Err(protocol("an event is not an object")) };
        let reported = serde_json::from_slice::<Envelope<'_>>(payload).unwrap_or_default().read();
        let mut facts = Facts { usage: reported.usage, provider_cost: reported.cost, ..Facts::default() };

        let (mut choices, mut is_changed) = match chunk.get_mut("choices") {
            Some(Value::Array(choices)) => (std::mem::take(choices), false),
            _ => (Vec::new(), true),
        };
        let had_choices = !choices.is_empty();
        if had_choices {
            let identity = self.identity.get_or_insert_with(|| Identity::of(&chunk));
            let mut kept = Vec::with_capacity(choices.len());
            for (position, mut choice) in choices.drain(..).enumerate() {
                match mend_choice(&mut self.choices, identity, &mut choice, position, &mut facts)? {
                    Mended::Kept { is_changed: choice_is_changed } => {
                        is_changed |= choice_is_changed;
                        kept.push(choice);
                    }
                    Mended::Empty => is_changed = true,
                }
            }
            choices = kept;
            facts.finished = self.choices.are_finished();
        }
        let has_choices = !choices.is_empty();
        chunk.insert("choices".to_owned(), choices.into());
        is_changed |= self.identify(&mut chunk);
        let usage = usage_of(&chunk);
        if had_choices {
            is_changed |= take_usage(&mut chunk);
        }
        Ok(Sanitised { chunk, is_changed, has_choices, usage, facts })
    }

    /// A chunk that only says what was consumed.
    pub(super) fn usage_chunk(&self, usage: Value) -> Map<String, Value> {
        let mut chunk = Map::new();
        self.identify(&mut chunk);
        chunk.insert("choices".to_owned(), Value::Array(Vec::new()));
        chunk.insert("usage".to_owned(), usage);
        chunk
    }

    fn identify(&self, chunk: &mut Map<String, Value>) -> bool {
        let Some(identity) = &self.identity else { return false };
        let mut is_changed = false;
        for (name, value) in identity.members() {
            if chunk.get(name) != Some(&value) {
                chunk.insert(name.to_owned(), value);
                is_changed = true;
            }
        }
        is_changed
    }
}

enum Mended {
    Kept {
        is_changed: bool,
    },
    /// It says nothing, after its choice has finished.
    Empty,
}

fn usage_of(chunk: &Map<String, Value>) -> Option<Value> {
    let usage = chunk.get("usage").filter(|usage| usage.is_object());
    usage.or_else(|| chunk.get("x_groq")?.get("usage").filter(|usage| usage.is_object())).cloned()
}

/// It goes into an event of its own.
fn take_usage(chunk: &mut Map<String, Value>) -> bool {
    let mut is_changed = false;
    if chunk.get("usage").is_some_and(|usage| !usage.is_null()) {
        chunk.insert("usage".to_owned(), Value::Null);
        is_changed = true;
    }
    if let Some(Value::Object(groq)) = chunk.get_mut("x_groq") {
        is_changed |= groq.shift_remove("usage").is_some();
    }
    is_changed
}

fn mend_choice(
    choices: &mut Choices,
    identity: &Identity,
    choice: &mut Value,
    position: usize,
    facts: &mut Facts,
) -> Result<Mended, ProviderError> {
    let Value::Object(choice) = choice else { return Err(protocol("a choice is not an object")) };
    let mut is_changed = false;
    let index = match choice.get("index").and_then(Value::as_u64) {
        Some(index) => index,
        None => {
            is_changed = true;
            choice.shift_insert(0, "index".to_owned(), position.into());
            u64::try_from(position).unwrap_or(u64::MAX)
        }
    };
    if !choice.get("delta").is_some_and(Value::is_object) {
        choice.insert("delta".to_owned(), Value::Object(Map::new()));
        is_changed = true;
    }
    let is_first = choices.get(index).is_none();
    if is_first {
        choices.begin(index)?;
    }
    let Some(state) = choices.get_mut(index) else { return Err(protocol("a choice is lost")) };
    if let Some(Value::Object(delta)) = choice.get_mut("delta") {
        is_changed |= mend_role(delta, is_first);
        is_changed |= mend_content(delta);
        is_changed |= mend_calls(delta, &mut state.calls, &identity.id, index)?;
        facts.output_bytes = facts.output_bytes.saturating_add(output_bytes(delta));
    }
    let was_finished = state.is_finished;
    is_changed |= mend_finish(choice, state)?;
    if was_finished && !is_first && says_nothing(choice) {
        return Ok(Mended::Empty);
    }
    Ok(Mended::Kept { is_changed })
}

/// Accumulating clients would join a repeated role to `assistantassistant`.
fn mend_role(delta: &mut Map<String, Value>, is_first: bool) -> bool {
    if !is_first {
        let is_repeated = delta.get("role").is_some_and(|role| !role.is_null());
        return is_repeated && delta.shift_remove("role").is_some();
    }
    if delta.get("role").is_some_and(|role| role == "assistant") {
        return false;
    }
    delta.shift_remove("role");
    delta.shift_insert(0, "role".to_owned(), "assistant".into());
    true
}

/// Mistral's reasoning models stream lists of blocks: <https://docs.mistral.ai/capabilities/reasoning>.
fn mend_content(delta: &mut Map<String, Value>) -> bool {
    let Some(Value::Array(blocks)) = delta.get("content") else { return false };
    let (text, thinking) = calls::block_texts(blocks);
    delta.insert("content".to_owned(), text.into());
    if !thinking.is_empty() {
        delta.insert("reasoning_content".to_owned(), thinking.into());
    }
    true
}

fn mend_finish(choice: &mut Map<String, Value>, state: &mut Choice) -> Result<bool, ProviderError> {
    let written = choice.get("finish_reason").cloned();
    let reason = match written.as_ref().and_then(Value::as_str) {
        None | Some("") => None,
        Some("error") => return Err(ProviderError::new(ProviderErrorKind::Server).caused_by("finish reason `error`")),
        Some(_) if state.is_finished => None,
        Some(reason) => Some(finish_reason(reason)),
    };
    state.is_finished |= reason.is_some();
    let mended = reason.map_or(Value::Null, Value::from);
    if written.as_ref() == Some(&mended) {
        return Ok(false);
    }
    choice.insert("finish_reason".to_owned(), mended);
    Ok(true)
}

/// OpenAI's word for a vendor's finish reason; an unknown one stays.
pub(super) fn finish_reason(vendor: &str) -> &str {
    match vendor {
        "eos" | "eos_token" | "end_turn" | "stop_sequence" | "COMPLETE" | "STOP" => "stop",
        "model_length" | "max_tokens" | "MAX_TOKENS" => "length",
        "tool_use" | "TOOL_CALL" => "tool_calls",
        "SAFETY" | "safety" => "content_filter",
        known => known,
    }
}

fn says_nothing(choice: &Map<String, Value>) -> bool {
    let is_frame = |name: &str| {
        matches!(name, "index" | "delta" | "finish_reason" | "native_finish_reason" | "logprobs" | "stop_reason")
    };
    let is_blank = |value: &Value| match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        _ => false,
    };
    choice.get("finish_reason").is_none_or(Value::is_null)
        && choice.keys().all(|name| is_frame(name))
        && choice.get("logprobs").is_none_or(Value::is_null)
        && choice.get("delta").and_then(Value::as_object).is_none_or(|delta| delta.values().all(is_blank))
}

/// As the scan counts them.
fn output_bytes(delta: &Map<String, Value>) -> u64 {
    let text = |name: &str| delta.get(name).and_then(Value::as_str).map_or(0, str::len);
    let texts = ["content", "reasoning_content", "reasoning", "refusal"].into_iter().map(text).sum::<usize>();
    let audio = delta.get("audio").map_or(0, |audio| audio.to_string().len());
    let arguments = calls::argument_bytes(delta);
    u64::try_from(texts + audio + arguments).unwrap_or(u64::MAX)
}
