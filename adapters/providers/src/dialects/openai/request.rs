//! Requests that cross: to the canonical chat and from it.

use ai4free_ports::{
    chat::{ChatRequest, Message, Part, Role, Tool},
    error::RequestError,
    request::{Edits, InboundRequest, Operation},
};
use bytes::Bytes;
use serde_json::{Map, Number, Value, json};

use super::{
    reply::{decode_call, encode_call},
    splice::DEFAULT_CAP_FIELD,
};

pub(super) fn decode(request: &InboundRequest) -> Result<ChatRequest, RequestError> {
    if request.operation != Operation::Chat {
        return Err(RequestError::new("This model does not serve this operation.").code("unsupported_operation"));
    }
    let mut body: Map<String, Value> = serde_json::from_slice(&request.body)
        .map_err(|_| RequestError::new("We could not parse the JSON body of your request.").code("invalid_json"))?;
    body.remove("model");
    body.remove("stream");
    body.remove("max_tokens");
    body.remove("max_completion_tokens");
    let messages = match body.remove("messages") {
        Some(Value::Array(messages)) => {
            messages.into_iter().enumerate().map(decode_message).collect::<Result<_, _>>()?
        }
        _ => return Err(wrong("messages", "an array of messages")),
    };
    Ok(ChatRequest {
        model: request.view.model.as_ref().to_owned(),
        messages,
        tools: decode_tools(body.remove("tools"))?,
        stream: request.view.stream,
        max_output_tokens: request.view.output_cap.as_ref().map(|cap| cap.tokens),
        temperature: decode_number(&mut body, "temperature")?,
        top_p: decode_number(&mut body, "top_p")?,
        stop: decode_stop(body.remove("stop"))?,
        extra: body,
    })
}

pub(super) fn encode(request: &ChatRequest, edits: &Edits) -> Bytes {
    let mut body = Map::new();
    body.insert("model".to_owned(), edits.model.as_ref().into());
    body.insert("messages".to_owned(), request.messages.iter().map(encode_message).collect());
    if !request.tools.is_empty() {
        body.insert("tools".to_owned(), request.tools.iter().map(encode_tool).collect());
    }
    if let Some(cap) = edits.output_cap.or(request.max_output_tokens) {
        body.insert(edits.output_cap_field.unwrap_or(DEFAULT_CAP_FIELD).to_owned(), cap.into());
    }
    for (name, value) in [("temperature", request.temperature), ("top_p", request.top_p)] {
        if let Some(number) = value.and_then(Number::from_f64) {
            body.insert(name.to_owned(), number.into());
        }
    }
    if !request.stop.is_empty() {
        body.insert("stop".to_owned(), request.stop.as_slice().into());
    }
    body.extend(request.extra.clone());
    if request.stream {
        body.insert("stream".to_owned(), true.into());
        if edits.ask_for_usage {
            ask_for_usage(&mut body);
        }
    } else {
        body.remove("stream_options");
    }
    Value::Object(body).to_string().into()
}

fn ask_for_usage(body: &mut Map<String, Value>) {
    let options = body.entry("stream_options").or_insert(Value::Null);
    match options {
        Value::Object(options) => {
            options.insert("include_usage".to_owned(), true.into());
        }
        other => *other = json!({ "include_usage": true }),
    }
}

fn decode_message((index, message): (usize, Value)) -> Result<Message, RequestError> {
    let at = |name: &str| format!("messages[{index}].{name}");
    let Value::Object(mut message) = message else { return Err(wrong(format!("messages[{index}]"), "an object")) };
    let role = match message.get("role").and_then(Value::as_str) {
        Some("system" | "developer") => Role::System,
        Some("user") => Role::User,
        Some("assistant") => Role::Assistant,
        Some("tool" | "function") => Role::Tool,
        _ => return Err(wrong(at("role"), "a role")),
    };
    let mut content = match message.remove("content") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::String(text)) => vec![Part::Text(text)],
        Some(Value::Array(parts)) => parts.into_iter().map(decode_part).collect(),
        Some(_) => return Err(wrong(at("content"), "a string or an array of parts")),
    };
    let mut text = |name: &str| match message.remove(name) {
        Some(Value::String(text)) => Some(text),
        _ => None,
    };
    let (refusal, name, tool_call_id) = (text("refusal"), text("name"), text("tool_call_id"));
    content.extend(refusal.map(Part::Text));
    let calls = message.get("tool_calls").and_then(Value::as_array).into_iter().flatten();
    let tool_calls = calls.enumerate().map(|(position, call)| decode_call(position, call)).collect();
    Ok(Message { role, content, name, tool_calls, tool_call_id })
}

fn decode_part(mut part: Value) -> Part {
    let name = match part.get("type").and_then(Value::as_str) {
        Some("text") => "text",
        Some("refusal") => "refusal",
        _ => return Part::Media(part),
    };
    match part.get_mut(name).map(Value::take) {
        Some(Value::String(text)) => Part::Text(text),
        _ => Part::Text(String::new()),
    }
}

fn decode_tools(tools: Option<Value>) -> Result<Vec<Tool>, RequestError> {
    let tools = match tools {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(tools)) => tools,
        Some(_) => return Err(wrong("tools", "an array of tools")),
    };
    let decode = |(index, mut tool): (usize, Value)| {
        let function = tool.get_mut("function").and_then(Value::as_object_mut);
        let function = function.ok_or_else(|| {
            let param = format!("tools[{index}].type");
            let message = format!("Unsupported value for '{param}': this model takes tools of type 'function' only.");
            RequestError::new(message).param(param).code("unsupported_value")
        })?;
        let text = |name: &str| function.get(name).and_then(Value::as_str).map(str::to_owned);
        let name = text("name").ok_or_else(|| wrong(format!("tools[{index}].function.name"), "a string"))?;
        let description = text("description");
        Ok(Tool { name, description, parameters: function.remove("parameters").filter(|schema| !schema.is_null()) })
    };
    tools.into_iter().enumerate().map(decode).collect()
}

fn decode_number(body: &mut Map<String, Value>, name: &'static str) -> Result<Option<f64>, RequestError> {
    match body.remove(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => value.as_f64().map(Some).ok_or_else(|| wrong(name, "a number")),
    }
}

fn decode_stop(stop: Option<Value>) -> Result<Vec<String>, RequestError> {
    let refused = || wrong("stop", "a string or an array of strings");
    match stop {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::String(text)) => Ok(vec![text]),
        Some(Value::Array(list)) => {
            list.into_iter().map(|text| text.as_str().map(str::to_owned).ok_or_else(refused)).collect()
        }
        Some(_) => Err(refused()),
    }
}

fn encode_message(message: &Message) -> Value {
    let role = match message.role {
        Role::System => "system",
        Role::User => "user",
        Role::Assistant => "assistant",
        Role::Tool => "tool",
    };
    let mut encoded = Map::new();
    encoded.insert("role".to_owned(), role.into());
    encoded.insert("content".to_owned(), encode_content(&message.content));
    for (name, text) in [("name", &message.name), ("tool_call_id", &message.tool_call_id)] {
        if let Some(text) = text {
            encoded.insert(name.to_owned(), text.as_str().into());
        }
    }
    if !message.tool_calls.is_empty() {
        encoded.insert("tool_calls".to_owned(), message.tool_calls.iter().map(encode_call).collect());
    }
    encoded.into()
}

/// One text as a string: every provider takes that.
fn encode_content(content: &[Part]) -> Value {
    match content {
        [] => Value::Null,
        [Part::Text(text)] => text.as_str().into(),
        parts => parts
            .iter()
            .map(|part| match part {
                Part::Text(text) => json!({ "type": "text", "text": text }),
                Part::Media(media) => media.clone(),
            })
            .collect(),
    }
}

fn encode_tool(tool: &Tool) -> Value {
    let mut function = Map::new();
    function.insert("name".to_owned(), tool.name.as_str().into());
    if let Some(description) = &tool.description {
        function.insert("description".to_owned(), description.as_str().into());
    }
    if let Some(parameters) = &tool.parameters {
        function.insert("parameters".to_owned(), parameters.clone());
    }
    json!({ "type": "function", "function": function })
}

fn wrong(param: impl Into<std::borrow::Cow<'static, str>>, expected: &str) -> RequestError {
    let param = param.into();
    RequestError::new(format!("Invalid type for '{param}': expected {expected}.")).param(param).code("invalid_type")
}

#[cfg(test)]
mod tests;
