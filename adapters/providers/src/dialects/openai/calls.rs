//! Mends the tool calls of a streamed delta.

use ai4free_ports::error::ProviderError;
use serde_json::{Map, Value};

use super::choices::{Calls, Fragment};

/// Numbers the fragments as the client will count the calls, and lets id, type and name through once. Whether it changed
/// anything.
pub(super) fn mend_calls(
    delta: &mut Map<String, Value>,
    calls: &mut Calls,
    reply: &str,
    choice: u64,
) -> Result<bool, ProviderError> {
    let fragments = match delta.get_mut("tool_calls") {
        None => return Ok(false),
        Some(Value::Array(fragments)) => fragments,
        Some(_) => {
            delta.shift_remove("tool_calls");
            return Ok(true);
        }
    };
    let mut is_changed = false;
    for fragment in fragments.iter_mut().filter_map(Value::as_object_mut) {
        let upstream_index = fragment.get("index").and_then(Value::as_u64);
        let id = text(fragment, "id");
        let has_name = fragment.get("function").and_then(|function| text(function.as_object()?, "name")).is_some();
        let position = match calls.find(upstream_index, id, has_name) {
            Fragment::Of(position) => {
                is_changed |= continue_call(fragment);
                position
            }
            Fragment::First => {
                let position = calls.count();
                let id = id.map(str::to_owned);
                is_changed |= id.is_none();
                let id = id.unwrap_or_else(|| format!("call_{reply}_{choice}_{position}"));
                is_changed |= begin_call(fragment, &id);
                calls.begin(upstream_index, id)?;
                position
            }
        };
        if upstream_index != u64::try_from(position).ok() {
            fragment.shift_remove("index");
            fragment.shift_insert(0, "index".to_owned(), position.into());
            is_changed = true;
        }
        is_changed |= mend_arguments(fragment);
    }
    Ok(is_changed)
}

/// Text and thinking of a list of content blocks.
pub(super) fn block_texts(blocks: &[Value]) -> (String, String) {
    let (mut texts, mut thoughts) = (String::new(), String::new());
    for block in blocks {
        match block.get("type").and_then(Value::as_str) {
            Some("thinking") => match block.get("thinking") {
                Some(Value::Array(inner)) => thoughts.push_str(&block_texts(inner).0),
                Some(Value::String(thought)) => thoughts.push_str(thought),
                _ => {}
            },
            _ => texts.push_str(block.get("text").and_then(Value::as_str).or(block.as_str()).unwrap_or_default()),
        }
    }
    (texts, thoughts)
}

pub(super) fn argument_bytes(delta: &Map<String, Value>) -> usize {
    let calls = delta.get("tool_calls").and_then(Value::as_array).into_iter().flatten();
    let functions = calls.filter_map(|call| call.get("function")).chain(delta.get("function_call"));
    functions.filter_map(|function| function.get("arguments")?.as_str()).map(str::len).sum()
}

/// Arguments as a string: some vendors send the object itself.
pub(super) fn arguments_text(arguments: &Value) -> String {
    match arguments {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

fn begin_call(fragment: &mut Map<String, Value>, id: &str) -> bool {
    let mut is_changed = false;
    if text(fragment, "id").is_none() {
        fragment.insert("id".to_owned(), id.into());
        is_changed = true;
    }
    if fragment.contains_key("function") {
        if !fragment.get("type").is_some_and(|kind| kind == "function") {
            fragment.insert("type".to_owned(), "function".into());
            is_changed = true;
        }
        if let Some(Value::Object(function)) = fragment.get_mut("function")
            && !function.contains_key("arguments")
        {
            function.insert("arguments".to_owned(), "".into());
            is_changed = true;
        }
    }
    is_changed
}

/// Accumulating clients would join a repeated id or name to itself.
fn continue_call(fragment: &mut Map<String, Value>) -> bool {
    let mut is_changed = fragment.shift_remove("id").is_some();
    is_changed |= fragment.shift_remove("type").is_some();
    if let Some(Value::Object(function)) = fragment.get_mut("function") {
        is_changed |= function.shift_remove("name").is_some();
    }
    is_changed
}

fn mend_arguments(fragment: &mut Map<String, Value>) -> bool {
    let Some(Value::Object(function)) = fragment.get_mut("function") else { return false };
    match function.get_mut("arguments") {
        None | Some(Value::String(_)) => false,
        Some(arguments) => {
            *arguments = arguments_text(arguments).into();
            true
        }
    }
}

fn text<'a>(object: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    object.get(name).and_then(Value::as_str).filter(|text| !text.is_empty())
}
