use ai4free_ports::request::Operation;

use super::*;

fn chat(members: &str) -> Result<RequestView, RequestError> {
    let messages = r#""messages":[{"role":"user","content":"hi"}]"#;
    view(Operation::Chat, format!("{{\"model\":\"m\",{messages}{members}}}").as_bytes())
}

fn with_messages(messages: &str) -> Result<RequestView, RequestError> {
    view(Operation::Chat, format!("{{\"model\":\"m\",\"messages\":{messages}}}").as_bytes())
}

fn image(members: &str) -> Result<RequestView, RequestError> {
    view(Operation::ImageGeneration, format!("{{\"prompt\":\"a cat\"{members}}}").as_bytes())
}

fn refusal(view: Result<RequestView, RequestError>) -> (Option<String>, &'static str) {
    let error = view.unwrap_err();
    (error.param.map(|param| param.into_owned()), error.code.unwrap())
}

fn refused(view: Result<RequestView, RequestError>, param: &str, code: &str) {
    assert_eq!(refusal(view), (Some(param.to_owned()), code.to_owned().leak() as &str));
}

#[test]
fn the_facts_of_a_request_and_where_they_stand() {
    let body = r#" {"model":"gpt-\u0034o" , "messages":[{"role":"user","content":"hi"}],"max_completion_tokens":null,
        "max_\u0074okens": 12,"n":3,"stream":true,"stream_options":{"include_usage":true},"logit_bias":{"1":2}}"#;
    let view = view(Operation::Chat, body.as_bytes()).unwrap();
    assert_eq!(&*view.model, "gpt-4o");
    assert_eq!(body.get(view.model_span.unwrap()).unwrap(), r#""gpt-\u0034o""#);
    assert_eq!((view.stream, view.include_usage, view.choices), (true, true, 3));
    assert_eq!(body.get(view.stream_options_span.unwrap()).unwrap(), r#"{"include_usage":true}"#);
    let cap = view.output_cap.unwrap();
    assert_eq!(cap.tokens, 12);
    assert_eq!((body.get(cap.name_span).unwrap(), body.get(cap.value_span).unwrap()), (r#""max_\u0074okens""#, "12"));
    assert_eq!(
        view.null_caps.iter().map(|span| body.get(span.clone()).unwrap()).collect::<Vec<_>>(),
        [r#","max_completion_tokens":null"#]
    );
    assert_eq!((view.insert_at, view.has_members, view.has_media), (2, true, false));
}

#[test]
fn what_is_absent_or_null_has_its_default() {
    for members in ["", r#","n":null,"stream":null,"stream_options":null,"max_tokens":null"#] {
        let view = chat(members).unwrap();
        assert_eq!((view.choices, view.stream, view.include_usage, view.output_cap), (1, false, false, None));
    }
}

#[test]
fn a_body_that_is_not_an_object_is_refused() {
    for (body, code) in [
        ("null", "invalid_type"),
        ("[]", "invalid_type"),
        ("5", "invalid_type"),
        ("\"{}\"", "invalid_type"),
        ("", "invalid_json"),
        ("{", "invalid_json"),
        ("{\"a\":1,}", "invalid_json"),
        ("{\"model\":\"m\"} x", "invalid_json"),
        ("{\"\\ud800\":1}", "invalid_json"),
        ("\u{feff}{}", "invalid_json"),
    ] {
        let error = view(Operation::Chat, body.as_bytes()).unwrap_err();
        assert_eq!((error.param, error.code), (None, Some(code)), "{body}");
    }
    let error = view(Operation::Chat, b"{\"model\":\n nope}").unwrap_err();
    assert!(error.message.contains("line 2, column 3"), "{error}");
    assert_eq!(view(Operation::Chat, b"{\"a\":\"\xff\"}").unwrap_err().code, Some("invalid_request_body"));
}

#[test]
fn nesting_has_an_end() {
    let nested = |depth: usize| chat(&format!(",\"x\":{}1{}", "[".repeat(depth), "]".repeat(depth)));
    assert!(nested(127).is_ok());
    assert_eq!(nested(128).unwrap_err().code, Some("invalid_request_body"));
    assert!(chat(&format!(",\"x\":\"{}\"", "[\\\"{".repeat(200))).is_ok(), "brackets in a string are text");
}

#[test]
fn a_member_that_is_read_stands_once() {
    refused(chat(r#","model":"m""#), "model", "invalid_request_body");
    refused(chat(r#","\u006dodel":"m""#), "model", "invalid_request_body");
    refused(chat(r#","messages":[{"role":"user","content":"a"}]"#), "messages", "invalid_request_body");
    refused(chat(r#","stream":true,"stream":false"#), "stream", "invalid_request_body");
    let options = r#","stream_options":{"include_usage":true,"include_usage":false}"#;
    refused(chat(options), "stream_options.include_usage", "invalid_request_body");
    let roles = r#"[{"role":"user","content":"a"},{"role":"user","role":"system","content":"a"}]"#;
    refused(with_messages(roles), "messages[1].role", "invalid_request_body");
    assert!(chat(r#","user":"a","user":"b""#).is_ok(), "what is not read is the provider's affair");
}

#[test]
fn the_model_is_text() {
    let model = |model: &str| {
        let body = format!("{{\"model\":{model},\"messages\":[{{\"role\":\"user\",\"content\":\"\"}}]}}");
        view(Operation::Chat, body.as_bytes())
    };
    assert_eq!(&*model(r#""\ud83d\ude00""#).unwrap().model, "😀");
    for (written, code) in [
        ("null", "invalid_type"),
        ("5", "invalid_type"),
        ("[\"m\"]", "invalid_type"),
        ("\"\"", "invalid_value"),
        (r#""\ud83d""#, "invalid_value"),
    ] {
        refused(model(written), "model", code);
    }
    let absent = view(Operation::Chat, br#"{"messages":[{"role":"user","content":""}]}"#);
    refused(absent, "model", "missing_required_parameter");
}

#[test]
fn messages_are_checked_one_by_one() {
    refused(view(Operation::Chat, br#"{"model":"m"}"#), "messages", "missing_required_parameter");
    refused(with_messages("null"), "messages", "invalid_type");
    refused(with_messages("{}"), "messages", "invalid_type");
    refused(with_messages("\"hi\""), "messages", "invalid_type");
    refused(with_messages("[]"), "messages", "empty_array");
    for (message, member, code) in [
        ("null", "", "invalid_type"),
        ("\"hi\"", "", "invalid_type"),
        ("[]", "", "invalid_type"),
        ("{}", ".role", "missing_required_parameter"),
        (r#"{"role":5,"content":"a"}"#, ".role", "invalid_type"),
        (r#"{"role":"robot","content":"a"}"#, ".role", "invalid_value"),
        (r#"{"role":"user"}"#, ".content", "missing_required_parameter"),
        (r#"{"role":"user","content":null}"#, ".content", "invalid_type"),
        (r#"{"role":"system","content":5}"#, ".content", "invalid_type"),
        (r#"{"role":"assistant","content":{}}"#, ".content", "invalid_type"),
    ] {
        let messages = format!("[{{\"role\":\"user\",\"content\":\"a\"}},{message}]");
        refused(with_messages(&messages), &format!("messages[1]{member}"), code);
    }
    let all = r#"[{"role":"system","content":"a"},{"role":"developer","content":["x"]},{"role":"us\u0065r","content":[]},
        {"role":"assistant"},{"content":null,"role":"assistant","tool_calls":[]},{"role":"tool","content":"\ud800","tool_call_id":"x"},
        {"role":"function","content":null,"name":"f"}]"#;
    assert!(with_messages(all).is_ok());
}

#[test]
fn media_is_seen_however_it_is_written() {
    let content =
        |content: &str| with_messages(&format!("[{{\"role\":\"user\",\"content\":{content}}}]")).unwrap().has_media;
    assert!(!content("\"image_url\""));
    assert!(!content(r#"[{"type":"text","text":"image_url"},{"text":"a","type":"text"}]"#));
    for media in [
        r#"[{"type":"text","text":"a"},{"type":"image_url","image_url":{"url":"https://x"}}]"#,
        r#"[{"type":"\u0069mage_url","image_url":{}}]"#,
        r#"[{"type":"input_audio","input_audio":{}}]"#,
        r#"[{"type":"file","file":{}}]"#,
        r#"[{"image_url":{}}]"#,
        r#"["x"]"#,
    ] {
        assert!(content(media), "{media}");
    }
    let audio = r#"[{"role":"user","content":"a"},{"role":"assistant","audio":{"id":"audio_1"}}]"#;
    assert!(with_messages(audio).unwrap().has_media);
}

#[test]
fn numbers_have_bounds() {
    for (member, param, code) in [
        (r#","n":0"#, "n", "integer_below_min_value"),
        (r#","n":129"#, "n", "integer_above_max_value"),
        (r#","n":1.0"#, "n", "invalid_type"),
        (r#","n":"1""#, "n", "invalid_type"),
        (r#","max_tokens":0"#, "max_tokens", "integer_below_min_value"),
        (r#","max_tokens":-1"#, "max_tokens", "integer_below_min_value"),
        (r#","max_tokens":1e3"#, "max_tokens", "invalid_type"),
        (r#","max_tokens":true"#, "max_tokens", "invalid_type"),
        (r#","max_completion_tokens":18446744073709551616"#, "max_completion_tokens", "integer_above_max_value"),
        (r#","max_tokens":5,"max_completion_tokens":5"#, "max_tokens", "invalid_parameter_combination"),
        (r#","stream":"true""#, "stream", "invalid_type"),
        (r#","stream_options":true"#, "stream_options", "invalid_type"),
        (r#","stream_options":{"include_usage":1}"#, "stream_options.include_usage", "invalid_type"),
    ] {
        refused(chat(member), param, code);
    }
    assert_eq!(chat(r#","n":128"#).unwrap().choices, 128);
}

#[test]
fn null_caps_can_go_with_their_commas() {
    for body in [
        r#"{"max_tokens":null,"max_completion_tokens":null,M}"#,
        r#"{"max_tokens":null,M,"max_completion_tokens":null}"#,
        r#"{M , "max_tokens" : null , "max_completion_tokens" : null }"#,
        r#"{M,"max_completion_tokens":null}"#,
    ] {
        let body = body.replace('M', r#""model":"m","messages":[{"role":"user","content":"a"}]"#);
        let mut rest = body.clone();
        for span in view(Operation::Chat, body.as_bytes()).unwrap().null_caps.into_iter().rev() {
            rest.replace_range(span, "");
        }
        let rest: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&rest).unwrap();
        assert_eq!(rest.len(), 2, "{body}");
    }
}

#[test]
fn an_image_request_needs_a_prompt_and_no_model() {
    let plain = image("").unwrap();
    assert_eq!((&*plain.model, plain.model_span, plain.choices), ("", None, 1));
    let full =
        image(r#","model":"dall-e-3","n":10,"size":"1024x1024","response_format":"b64_json","style":null"#).unwrap();
    assert_eq!((&*full.model, full.choices), ("dall-e-3", 10));
    refused(view(Operation::ImageGeneration, b"{}"), "prompt", "missing_required_parameter");
    refused(view(Operation::ImageGeneration, br#"{"prompt":5}"#), "prompt", "invalid_type");
    refused(image(r#","n":11"#), "n", "integer_above_max_value");
    refused(image(r#","size":5"#), "size", "invalid_type");
    refused(image(r#","response_format":"png""#), "response_format", "invalid_value");
    refused(image(r#","response_format":{}"#), "response_format", "invalid_type");
    refused(image(r#","stream":true"#), "stream", "unsupported_value");
}

#[test]
fn tools_are_told_and_those_that_the_provider_runs() {
    let tools = |members: &str| chat(members).map(|view| (view.has_tools, view.has_server_tools)).unwrap();
    for none in ["", r#","tools":null"#, r#","tools":[ ]"#, r#","tool_choice":"none""#, r#","web_search_options":null"#]
    {
        assert_eq!(tools(none), (false, false), "{none}");
    }
    for client in [
        r#","tools":[{"type":"function","function":{"name":"f","parameters":{"type":"web_search"}}}]"#,
        r#","tools":[{"function":{"name":"f"},"ty\u0070e":"func\u0074ion"},{"type":"custom","custom":{"name":"c"}}]"#,
        r#","functions":[{"name":"f"}]"#,
    ] {
        assert_eq!(tools(client), (true, false), "{client}");
    }
    for server in [
        r#","web_search_options":{}"#,
        r#","tools":[{"type":"function","function":{"name":"f"}},{"type":"web_search_preview"}]"#,
        r#","tools":[{"google_search":{}}]"#,
        r#","tools":[{"type":"function","type":"code_interpreter"}]"#,
        r#","tools":["web_search"]"#,
        r#","tools":{"type":"function"}"#,
    ] {
        assert_eq!(tools(server), (true, true), "{server}");
    }
    refused(chat(r#","tools":[],"tools":[{"type":"web_search"}]"#), "tools", "invalid_request_body");
}
