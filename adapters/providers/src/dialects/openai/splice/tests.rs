use std::sync::Arc;

use super::*;
use crate::dialects::openai::dialect;

fn spliced(operation: Operation, body: &str, edits: &Edits) -> String {
    let body = Bytes::from(body.to_owned());
    let view = Arc::new(dialect().view(operation, &body).unwrap());
    let rope = splice(&InboundRequest { operation, dialect: dialect(), body, view }, edits);
    String::from_utf8(rope.into_bytes().to_vec()).unwrap()
}

fn chat(body: &str, edits: &Edits) -> String {
    let messages = r#""messages":[{"role":"user","content":"a"}]"#;
    spliced(Operation::Chat, &body.replace("MESSAGES", messages), edits).replace(messages, "MESSAGES")
}

fn edits() -> Edits {
    Edits { model: "theirs".into(), output_cap: None, output_cap_field: None, ask_for_usage: true }
}

#[test]
fn only_what_must_differ_differs() {
    let body = r#" { "model" : "ours", MESSAGES ,"seed":9007199254740993,"t":1.0,"x":null}"#;
    let expected = r#" { "model" : "theirs", MESSAGES ,"seed":9007199254740993,"t":1.0,"x":null}"#;
    assert_eq!(chat(body, &edits()), expected);
    assert_eq!(chat(body, &Edits { model: "ours".into(), ..edits() }), body);
}

#[test]
fn usage_is_asked_of_every_stream() {
    for (written, expected) in [
        (
            r#"{"model":"theirs",MESSAGES,"stream":true}"#,
            r#"{"stream_options":{"include_usage":true},"model":"theirs",MESSAGES,"stream":true}"#,
        ),
        (
            r#"{"model":"theirs",MESSAGES,"stream":true,"stream_options":null}"#,
            r#"{"model":"theirs",MESSAGES,"stream":true,"stream_options":{"include_usage":true}}"#,
        ),
        (
            r#"{"model":"theirs",MESSAGES,"stream":true,"stream_options":{ "include_obfuscation":false}}"#,
            r#"{"model":"theirs",MESSAGES,"stream":true,"stream_options":{"include_usage":true, "include_obfuscation":false}}"#,
        ),
        (
            r#"{"model":"theirs",MESSAGES,"stream":true,"stream_options":{"include_usage": false}}"#,
            r#"{"model":"theirs",MESSAGES,"stream":true,"stream_options":{"include_usage": true}}"#,
        ),
        (r#"{"model":"theirs",MESSAGES,"stream":false}"#, r#"{"model":"theirs",MESSAGES,"stream":false}"#),
    ] {
        assert_eq!(chat(written, &edits()), expected);
    }
}

#[test]
fn the_cap_is_written_under_the_name_that_the_provider_knows() {
    let capped = Edits { output_cap: Some(9), ..edits() };
    let renamed = Edits { output_cap_field: Some("max_tokens"), ..edits() };
    for (written, edits, expected) in [
        (r#"{"model":"theirs",MESSAGES}"#, &capped, r#"{"max_completion_tokens":9,"model":"theirs",MESSAGES}"#),
        (r#"{"model":"theirs",MESSAGES,"max_tokens": 12}"#, &capped, r#"{"model":"theirs",MESSAGES,"max_tokens": 9}"#),
        (
            r#"{"model":"theirs",MESSAGES,"max_tokens":null}"#,
            &capped,
            r#"{"max_completion_tokens":9,"model":"theirs",MESSAGES}"#,
        ),
        (
            r#"{"max_tokens":null,"model":"theirs",MESSAGES}"#,
            &capped,
            r#"{"max_completion_tokens":9,"model":"theirs",MESSAGES}"#,
        ),
        (
            r#"{"model":"theirs",MESSAGES,"max_completion_tokens":12,"max_tokens":null}"#,
            &renamed,
            r#"{"model":"theirs",MESSAGES,"max_tokens":12}"#,
        ),
        (
            r#"{"model":"theirs",MESSAGES,"max_tokens":null}"#,
            &renamed,
            r#"{"model":"theirs",MESSAGES,"max_tokens":null}"#,
        ),
    ] {
        assert_eq!(chat(written, edits), expected);
    }
}

#[test]
fn an_image_request_gets_its_model() {
    let image = |body| spliced(Operation::ImageGeneration, body, &Edits { output_cap: Some(5), ..edits() });
    assert_eq!(image(r#"{"prompt":"a"}"#), r#"{"model":"theirs","prompt":"a"}"#);
    assert_eq!(image(r#"{"prompt":"a","model":null}"#), r#"{"prompt":"a","model":"theirs"}"#);
}
