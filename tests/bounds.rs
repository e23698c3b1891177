//! What is reserved for a prompt is never less than what the tokenizer counts of it, whatever the body is like.

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ai4free::application::{bounds, counting, policy::Policy};
    use ai4free_ports::{
        catalogue::{Model, ModelKind, OnDisconnect},
        limits::Limits,
        request::{InboundRequest, Operation},
        runtime::TokenCounter,
        usage::Encoding,
    };
    use ai4free_providers::dialects;
    use ai4free_tokens::TiktokenCounter;
    use proptest::{prelude::*, test_runner::TestRunner};
    use serde_json::{Value, json};

    const CONTEXT: u64 = 128_000;

    fn model() -> Model {
        Model {
            id: "m".into(),
            label: "m".into(),
            kind: ModelKind::Chat,
            targets: Arc::new([]),
            price: None,
            max_input_tokens: Some(CONTEXT),
            max_output_tokens: None,
            limits: Limits::NONE,
            encoding: Encoding::O200k,
            on_disconnect: OnDisconnect::Cancel,
            hides_reasoning: true,
            description: None,
            owned_by: "m".into(),
            created: 0,
            available: true,
        }
    }

    fn request(body: String) -> InboundRequest {
        let dialect = dialects::by_name("openai").unwrap();
        let body = bytes::Bytes::from(body);
        let view = dialect.view(Operation::Chat, &body).unwrap();
        InboundRequest { operation: Operation::Chat, dialect, body, view: Arc::new(view) }
    }

    /// Words, what tokenizers split worst, and what JSON has to escape.
    fn text() -> impl Strategy<Value = String> {
        prop_oneof![
            "[a-zA-Z ,.]{0,200}",
            "\\PC{0,60}",
            "[\u{1}-\u{1f}\"\\\\/]{0,40}",
            "[\u{1f300}-\u{1faff}\u{200d}\u{fe0f}]{0,30}",
            "[0-9a-f]{0,100}",
            "<\\|(endoftext|im_start|im_end)\\|>",
        ]
    }

    fn message() -> impl Strategy<Value = Value> {
        prop_oneof![
        (prop::sample::select(vec!["system", "developer", "user", "assistant"]), text(), prop::option::of(text()))
            .prop_map(|(role, content, name)| json!({ "role": role, "content": content, "name": name })),
        prop::collection::vec(text(), 0..3).prop_map(|parts| {
            let parts: Vec<_> = parts.iter().map(|part| json!({ "type": "text", "text": part })).collect();
            json!({ "role": "user", "content": parts })
        }),
        (text(), text()).prop_map(|(name, arguments)| {
            let function = json!({ "name": name, "arguments": arguments });
            json!({ "role": "assistant", "content": null, "tool_calls": [{ "id": "c", "type": "function", "function": function }] })
        }),
        text().prop_map(|content| json!({ "role": "tool", "tool_call_id": "c", "content": content })),
    ]
    }

    fn tool() -> impl Strategy<Value = Value> {
        (text(), text(), text()).prop_map(|(name, description, property)| {
        let parameters = json!({ "type": "object", "properties": { property: { "enum": [1, null, "a"] } } });
        json!({ "type": "function", "function": { "name": name, "description": description, "parameters": parameters } })
    })
    }

    /// The shortest body of these messages: nothing in it but what has to be.
    fn body() -> impl Strategy<Value = String> {
        (prop::collection::vec(message(), 1..8), prop::collection::vec(tool(), 0..4), any::<bool>()).prop_map(
            |(messages, tools, is_escaped)| {
                let mut body = json!({ "model": "m", "messages": messages });
                if !tools.is_empty() {
                    body["tools"] = tools.into();
                }
                let text = body.to_string();
                let escape = |c: char| if c.is_ascii() { c.to_string() } else { utf16_escapes(c) };
                if is_escaped { text.chars().map(escape).collect() } else { text }
            },
        )
    }

    fn utf16_escapes(c: char) -> String {
        c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")).collect()
    }

    #[test]
    fn no_prompt_has_more_tokens_than_are_reserved_for_it() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let counter: Arc<dyn TokenCounter> = Arc::new(TiktokenCounter::new());
        let (model, policy) = (model(), Policy::default());
        let mut runner =
            TestRunner::new(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(100) });
        let held = runner.run(&body(), |body| {
            let request = request(body);
            let bound = bounds::input(&request, &model, &policy);
            for encoding in [Encoding::O200k, Encoding::Cl100k] {
                let counted = runtime.block_on(counting::prompt_tokens(&counter, encoding, &request)).unwrap();
                prop_assert!(counted <= bound, "{counted} tokens, {bound} reserved");
            }
            Ok(())
        });
        held.unwrap();
    }

    #[test]
    fn what_bytes_do_not_bound_is_bounded_by_the_context() {
        let bound = |content: Value| {
            let body = json!({ "model": "m", "messages": [{ "role": "user", "content": content }] });
            bounds::input(&request(body.to_string()), &model(), &Policy::default())
        };
        for part in [
            json!({ "type": "image_url", "image_url": { "url": "https://example.org/a.png" } }),
            json!({ "type": "input_audio", "input_audio": { "data": "", "format": "wav" } }),
            json!({ "type": "file", "file": { "file_id": "file-1" } }),
            json!({ "type": "something_new" }),
        ] {
            assert_eq!(bound(json!([{ "type": "text", "text": "hi" }, part])), CONTEXT, "{part}");
        }
        assert!(bound(json!([{ "type": "text", "text": "hi" }])) < 200);
    }
}
