//! The few facts of a request that the gateway needs, and where they stand in its bytes.

use std::{ops::Range, sync::Arc};

use ai4free_ports::{
    error::RequestError,
    request::{Operation, OutputCap, RequestView},
};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::members::{Members, checked_text};

const CHAT_MEMBERS: &[&str] = &[
    "model",
    "messages",
    "stream",
    "n",
    "stream_options",
    "max_tokens",
    "max_completion_tokens",
    "tools",
    "functions",
    "web_search_options",
];
/// Tools that the client itself runs.
const CLIENT_TOOLS: [&str; 2] = ["function", "custom"];
const IMAGE_MEMBERS: &[&str] = &["model", "prompt", "n", "size", "response_format", "stream"];

pub(super) fn view(operation: Operation, body: &[u8]) -> Result<RequestView, RequestError> {
    let text = checked_text(body)?;
    let insert_at = text.find('{').map_or(0, |brace| brace + 1);
    match operation {
        Operation::Chat => chat(text, insert_at),
        Operation::ImageGeneration => image(text, insert_at),
    }
}

fn chat(text: &str, insert_at: usize) -> Result<RequestView, RequestError> {
    let members = Members::read(text, CHAT_MEMBERS, "")?;
    let Some(model) = members.get("model") else { return Err(missing("model")) };
    let Some(messages) = members.messages else { return Err(missing("messages")) };
    let options = members.get("stream_options").map(read_stream_options).transpose()?;
    let (output_cap, null_caps) = output_caps(text, &members)?;
    let tools = Tools::of(&members);
    Ok(RequestView {
        model: model_name(model)?,
        model_span: Some(members.span(model)),
        stream: boolean(&members, "stream", "stream")?,
        include_usage: options.unwrap_or(false),
        stream_options_span: members.get("stream_options").map(|value| members.span(value)),
        output_cap,
        null_caps,
        choices: choices(&members, 128)?,
        insert_at,
        has_members: !members.is_empty,
        has_media: messages.has_media,
        has_tools: tools.any,
        has_server_tools: tools.of_server,
    })
}

fn image(text: &str, insert_at: usize) -> Result<RequestView, RequestError> {
    let members = Members::read(text, IMAGE_MEMBERS, "")?;
    let model = members.get("model").filter(|value| value.get() != "null");
    match members.get("prompt") {
        None => return Err(missing("prompt")),
        Some(prompt) if !prompt.get().starts_with('"') => return Err(wrong_type("prompt", "a string", prompt)),
        Some(_) => {}
    }
    let optional = |name| members.get(name).filter(|value| value.get() != "null");
    if let Some(size) = optional("size").filter(|size| !size.get().starts_with('"')) {
        return Err(wrong_type("size", "a string", size));
    }
    if let Some(format) = optional("response_format").filter(|format| !is_one_of(format, &["url", "b64_json"])) {
        return Err(match format.get().starts_with('"') {
            false => wrong_type("response_format", "a string", format),
            true => invalid("response_format", "Supported values are: 'url' and 'b64_json'."),
        });
    }
    if boolean(&members, "stream", "stream")? {
        let fault = RequestError::new("Unsupported value: 'stream'. Images are not streamed here.");
        return Err(fault.param("stream").code("unsupported_value"));
    }
    Ok(RequestView {
        model: model.map_or(Ok("".into()), model_name)?,
        // A `null` is written over as a name would be.
        model_span: members.get("model").map(|value| members.span(value)),
        stream: false,
        include_usage: false,
        stream_options_span: None,
        output_cap: None,
        null_caps: Vec::new(),
        choices: choices(&members, 10)?,
        insert_at,
        has_members: !members.is_empty,
        has_media: false,
        has_tools: false,
        has_server_tools: false,
    })
}

#[derive(Default)]
struct Tools {
    any: bool,
    of_server: bool,
}

impl Tools {
    /// What is wrong with them is for the provider to say.
    fn of(members: &Members<'_>) -> Self {
        let given = |name| members.get(name).filter(|value| value.get() != "null" && !is_empty_list(value.get()));
        let searches = given("web_search_options").is_some();
        Self {
            any: given("tools").is_some() || given("functions").is_some() || searches,
            of_server: given("tools").is_some_and(|tools| !are_client_tools(tools)) || searches,
        }
    }
}

fn is_empty_list(value: &str) -> bool {
    let inside = value.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    inside.is_some_and(|inside| inside.trim_ascii().is_empty())
}

/// One that can't be read may be anything.
fn are_client_tools(tools: &RawValue) -> bool {
    let is_client_tool = |tool: &Tool<'_>| tool.kind.is_some_and(|kind| is_one_of(kind, &CLIENT_TOOLS));
    serde_json::from_str::<Vec<Tool<'_>>>(tools.get()).is_ok_and(|tools| tools.iter().all(is_client_tool))
}

#[derive(Deserialize)]
struct Tool<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<&'a RawValue>,
}

/// Whether the usage event is asked for.
fn read_stream_options(options: &RawValue) -> Result<bool, RequestError> {
    if options.get() == "null" {
        return Ok(false);
    }
    let members = Members::read(options.get(), &["include_usage"], "stream_options")?;
    boolean(&members, "include_usage", "stream_options.include_usage")
}

/// The cap that the client set, and those that are `null`.
fn output_caps(text: &str, members: &Members<'_>) -> Result<(Option<OutputCap>, Vec<Range<usize>>), RequestError> {
    let (mut cap, mut nulls) = (None, Vec::new());
    for name in ["max_tokens", "max_completion_tokens"] {
        let Some((value, name_span)) = members.get(name).and_then(|value| Some((value, members.key_span(value)?)))
        else {
            continue;
        };
        let value_span = members.span(value);
        if value.get() == "null" {
            nulls.push(name_span.start..value_span.end);
            continue;
        }
        let tokens = integer(name, value, 1, u64::MAX)?;
        if cap.replace(OutputCap { tokens, name_span, value_span }).is_some() {
            let message = "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported.";
            return Err(RequestError::new(message).param("max_tokens").code("invalid_parameter_combination"));
        }
    }
    Ok((cap, with_commas(text, nulls)))
}

/// Widens each member by one comma beside it, and no comma twice: without them the rest is still an object.
fn with_commas(text: &str, mut members: Vec<Range<usize>>) -> Vec<Range<usize>> {
    members.sort_by_key(|member| member.start);
    let mut taken = 0;
    for member in &mut members {
        let before = text.get(taken..member.start).unwrap_or_default().trim_ascii_end();
        let after = text.get(member.end..).unwrap_or_default();
        if before.ends_with(',') {
            member.start = taken + before.len() - 1;
        } else if after.trim_ascii_start().starts_with(',') {
            member.end += after.find(',').map_or(0, |comma| comma + 1);
        }
        taken = member.end;
    }
    members
}

fn model_name(value: &RawValue) -> Result<Arc<str>, RequestError> {
    if !value.get().starts_with('"') {
        return Err(wrong_type("model", "a string", value));
    }
    match serde_json::from_str::<String>(value.get()) {
        Ok(name) if name.is_empty() => Err(invalid("model", "Expected the name of a model, but got an empty string.")),
        Ok(name) => Ok(name.into()),
        Err(_) => Err(invalid("model", "It is not valid Unicode.")),
    }
}

fn choices(members: &Members<'_>, most: u64) -> Result<u32, RequestError> {
    let Some(n) = members.get("n").filter(|n| n.get() != "null") else { return Ok(1) };
    let n = integer("n", n, 1, most)?;
    Ok(u32::try_from(n).unwrap_or(u32::MAX))
}

fn boolean(members: &Members<'_>, name: &str, path: &'static str) -> Result<bool, RequestError> {
    match members.get(name).map(|value| (value, value.get())) {
        None | Some((_, "null" | "false")) => Ok(false),
        Some((_, "true")) => Ok(true),
        Some((value, _)) => Err(wrong_type(path, "a boolean", value)),
    }
}

fn integer(name: &'static str, value: &RawValue, least: u64, most: u64) -> Result<u64, RequestError> {
    let written = value.get();
    let digits = written.strip_prefix('-').unwrap_or(written);
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong_type(name, "an integer", value));
    }
    match written.parse() {
        Ok(number) if number > most => {
            Err(invalid(name, &format!("Expected a value <= {most}.")).code("integer_above_max_value"))
        }
        Ok(number) if number >= least => Ok(number),
        Err(_) if !written.starts_with('-') => {
            Err(invalid(name, "The number is too large.").code("integer_above_max_value"))
        }
        _ => Err(invalid(name, &format!("Expected a value >= {least}.")).code("integer_below_min_value")),
    }
}

fn is_one_of(value: &RawValue, words: &[&str]) -> bool {
    serde_json::from_str::<String>(value.get()).is_ok_and(|text| words.contains(&text.as_str()))
}

fn missing(name: &'static str) -> RequestError {
    RequestError::new(format!("Missing required parameter: '{name}'.")).param(name).code("missing_required_parameter")
}

fn invalid(name: &'static str, reason: &str) -> RequestError {
    RequestError::new(format!("Invalid value for '{name}'. {reason}")).param(name).code("invalid_value")
}

fn wrong_type(name: &'static str, expected: &str, value: &RawValue) -> RequestError {
    let got = match value.get().bytes().next() {
        Some(b'"') => "a string",
        Some(b'{') => "an object",
        Some(b'[') => "an array",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        _ => "a number",
    };
    RequestError::new(format!("Invalid type for '{name}': expected {expected}, but got {got}."))
        .param(name)
        .code("invalid_type")
}

#[cfg(test)]
mod tests;
