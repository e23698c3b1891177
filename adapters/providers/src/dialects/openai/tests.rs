//! The contract of the port, and properties over all fixtures.

use std::sync::Arc;

use ai4free_contract::dialect::{Harness, Recorded, read, tap};
use ai4free_ports::{
    chat::ChatEvent,
    dialect::Dialect,
    request::{Edits, InboundRequest, Operation},
};
use bytes::Bytes;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::{dialect, fixtures};

struct OpenAiHarness;

impl Harness for OpenAiHarness {
    fn dialect(&self) -> Arc<dyn Dialect> {
        dialect()
    }

    fn streams(&self) -> Vec<Recorded> {
        fixtures::complete()
    }

    fn broken_streams(&self) -> Vec<Recorded> {
        fixtures::broken()
    }

    fn requests(&self) -> Vec<Bytes> {
        let members = [
            "",
            r#","max_tokens":77"#,
            r#","max_tokens":5,"max_completion_tokens":null"#,
            r#", "max_tokens" : null , "max_completion_tokens":null"#,
            r#","stream_options":null"#,
            r#","stream_options":{}"#,
            r#","stream_options":{"include_obfuscation":false}"#,
            r#","stream_options":{"include_usage":false,"x":[1]}"#,
            r#","n":2,"stream_options":{"include_usage":true}"#,
        ];
        let unknown = r#""unknown":{"kept":[1.0,9007199254740993]}"#;
        let known = r#""model":"their-model","messages":[{"role":"user","content":"hi"}],"stream":true"#;
        let body = |members: &&str| format!("{{{unknown},{known}{members}}}").into();
        let reversed = format!("  {{\"max_tokens\":null,{known},{unknown}}} ");
        members.iter().map(body).chain([reversed.into()]).collect()
    }
}

ai4free_contract::dialect_contract!(OpenAiHarness);

#[test]
fn line_ends_do_not_change_what_the_client_gets() {
    for stream in fixtures::complete().into_iter().filter(|stream| !stream.bytes.contains(&b'\r')) {
        for line_end in ["\r\n", "\r"] {
            let other = fixtures::with_line_ends(&stream.bytes, line_end);
            let expected = tap(&*dialect(), &[&stream.bytes], true);
            assert_eq!(tap(&*dialect(), &[&other], true), expected, "{} with {line_end:?}", stream.name);
        }
    }
}

/// What the SDKs rely on, in every stream that leaves.
#[test]
fn every_stream_is_one_that_the_sdks_take() {
    for stream in fixtures::complete() {
        for include_usage in [false, true] {
            let tapped = tap(&*dialect(), &[&stream.bytes], include_usage);
            let text = std::str::from_utf8(&tapped.bytes).unwrap();
            let mut payloads: Vec<_> = text
                .strip_suffix("\n\n")
                .unwrap()
                .split("\n\n")
                .map(|event| event.strip_prefix("data: ").unwrap_or_else(|| panic!("{}: {event}", stream.name)))
                .collect();
            assert_eq!(payloads.pop(), Some("[DONE]"), "{}", stream.name);
            let chunks: Vec<Value> = payloads.iter().map(|payload| serde_json::from_str(payload).unwrap()).collect();
            check_chunks(&chunks, stream.name);
        }
    }
}

fn check_chunks(chunks: &[Value], name: &str) {
    let mut begun: Vec<(u64, bool, Vec<Value>)> = Vec::new();
    for (position, chunk) in chunks.iter().enumerate() {
        for member in ["id", "object", "created", "model"] {
            assert_eq!(chunk[member], chunks[0][member], "{name}: {member} of {chunk}");
        }
        assert_eq!(chunk["object"], "chat.completion.chunk", "{name}");
        let choices = chunk["choices"].as_array().unwrap();
        assert_eq!(choices.is_empty(), chunk["usage"].is_object(), "{name}: {chunk}");
        assert!(!choices.is_empty() || position == chunks.len() - 1, "{name}: usage is last");
        for choice in choices {
            let index = choice["index"].as_u64().unwrap();
            let delta = choice["delta"].as_object().unwrap();
            assert!(choice.get("finish_reason").is_some(), "{name}: {choice}");
            assert!(delta.get("content").is_none_or(|content| content.is_null() || content.is_string()), "{name}");
            let is_first = !begun.iter().any(|(known, ..)| *known == index);
            assert_eq!(delta.get("role"), is_first.then(|| Value::from("assistant")).as_ref(), "{name}: {choice}");
            if is_first {
                begun.push((index, false, Vec::new()));
            }
            let (_, is_finished, calls) = begun.iter_mut().find(|(known, ..)| *known == index).unwrap();
            for call in delta.get("tool_calls").map(|calls| calls.as_array().unwrap()).into_iter().flatten() {
                let call_index = usize::try_from(call["index"].as_u64().unwrap()).unwrap();
                assert!(call["function"]["arguments"].is_string(), "{name}: {call}");
                if call_index == calls.len() {
                    assert!(call["id"].is_string() && call["function"]["name"].is_string(), "{name}: {call}");
                    assert_eq!(call["type"], "function", "{name}: {call}");
                    assert!(!calls.contains(&call["id"]), "{name}: {call}");
                    calls.push(call["id"].clone());
                } else {
                    assert!(call_index < calls.len(), "{name}: {call}");
                    assert!(call.get("id").is_none() && call["function"].get("name").is_none(), "{name}: {call}");
                }
            }
            if !choice["finish_reason"].is_null() {
                assert!(!std::mem::replace(is_finished, true), "{name}: {choice}");
            }
        }
    }
    assert!(begun.iter().all(|(_, is_finished, _)| *is_finished), "{name}");
}

/// Id, name and arguments of each call, as a client puts them together.
fn calls(stream: &[u8]) -> Vec<(String, String, String)> {
    let mut calls: Vec<(String, String, String)> = Vec::new();
    for event in read(&*dialect(), &[stream]).0 {
        match event {
            ChatEvent::ToolCall { call, id, name, .. } => {
                assert_eq!(call as usize, calls.len());
                calls.push((id, name, String::new()));
            }
            ChatEvent::ToolArguments { call, fragment, .. } => calls[call as usize].2.push_str(&fragment),
            _ => {}
        }
    }
    calls
}

#[test]
fn calls_are_told_apart_however_they_are_numbered() {
    let call = |id: &str, name: &str, arguments: &str| (id.to_owned(), name.to_owned(), arguments.to_owned());
    let expected = [call("a", "f", "{}"), call("b", "g", r#"{"x":1}"#)];
    assert_eq!(calls(fixtures::fixture!("tools_without_index.sse")), expected);
    let expected = [call("a", "f", "{}"), call("call_t1_0_1", "g", "{}")];
    assert_eq!(calls(fixtures::fixture!("tools_with_gaps.sse")), expected);
    // A fragment without an id goes to the last call of its index.
    let expected = [call("a", "f", "{}"), call("b", "g", r#"{"k":2}"#), call("c", "h", "{}")];
    assert_eq!(calls(fixtures::fixture!("tools_all_index_zero.sse")), expected);
    let expected = [
        call("call_DdmO9pD3xa9XTPNJ32zg2hcA", "get_weather", r#"{"city":"Paris"}"#),
        call("call_ABCO9pD3xa9XTPNJ32zg2hcB", "get_weather", r#"{"city":"Rome"}"#),
    ];
    assert_eq!(calls(fixtures::fixture!("openai_tools_parallel.sse")), expected);
}

/// Cuts bytes at the given places.
fn cut<'a>(bytes: &'a [u8], places: &[prop::sample::Index]) -> Vec<&'a [u8]> {
    let mut places: Vec<_> = places.iter().map(|place| place.index(bytes.len() + 1)).collect();
    places.sort_unstable();
    let mut reads = Vec::new();
    let mut from = 0;
    for place in places.into_iter().chain([bytes.len()]) {
        reads.push(&bytes[from..place]);
        from = place;
    }
    reads
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(".{0,6}", inner, 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// Writes an object with its members in the given order, with or without spaces.
fn written(members: &[(String, Value)], is_spaced: bool) -> String {
    let space = if is_spaced { " \n" } else { "" };
    let members: Vec<_> = members
        .iter()
        .map(|(name, value)| format!("{space}{}{space}:{space}{value}{space}", Value::from(name.as_str())))
        .collect();
    format!("{space}{{{}}}{space}", members.join(","))
}

fn members() -> impl Strategy<Value = Vec<(String, Value)>> {
    let own = (
        prop::option::of(prop_oneof![Just(json!(5)), Just(Value::Null)]),
        prop::option::of(Just(Value::Null)),
        prop::option::of(prop_oneof![
            Just(Value::Null),
            Just(json!({})),
            Just(json!({"include_usage": false, "include_obfuscation": false})),
            Just(json!({"include_usage": true})),
        ]),
        any::<bool>(),
    );
    let unknown = prop::collection::btree_map("[a-z]{1,3}[\"\\\\é]?", value(), 0..4);
    (own, unknown)
        .prop_map(|((cap, null_cap, options, stream), unknown)| {
            let mut members: Vec<(String, Value)> = vec![
                ("model".into(), "m\u{e9}\"".into()),
                ("messages".into(), json!([{"role": "user", "content": "hi"}])),
                ("stream".into(), stream.into()),
            ];
            members.extend(cap.map(|cap| ("max_tokens".into(), cap)));
            members.extend(null_cap.map(|cap| ("max_completion_tokens".into(), cap)));
            members.extend(options.map(|options| ("stream_options".into(), options)));
            let own: Vec<_> = members.iter().map(|(name, _)| name.clone()).collect();
            members.extend(unknown.into_iter().filter(|(name, _)| !own.contains(name) && name != "n"));
            members
        })
        .prop_shuffle()
}

/// What splicing must come to, done on the parsed body.
fn expected(mut body: Map<String, Value>, edits: &Edits) -> Map<String, Value> {
    body.insert("model".into(), (*edits.model).into());
    let client_cap =
        ["max_tokens", "max_completion_tokens"].into_iter().find(|name| body.get(*name).is_some_and(Value::is_number));
    let cap = edits.output_cap.map(Value::from).or_else(|| body.get(client_cap?).cloned());
    let name = edits.output_cap_field.or(client_cap).unwrap_or("max_completion_tokens");
    let is_same = client_cap.is_some_and(|known| known == name && body.get(known) == cap.as_ref());
    if let Some(cap) = cap.filter(|_| !is_same) {
        body.remove("max_tokens");
        body.remove("max_completion_tokens");
        body.insert(name.into(), cap);
    }
    if edits.ask_for_usage && body["stream"] == true {
        let options = body.entry("stream_options").or_insert(Value::Null);
        if options.is_null() {
            *options = json!({});
        }
        options["include_usage"] = true.into();
    }
    body
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))] // each looks at every stream

    #[test]
    fn any_cutting_of_any_stream_gives_the_same(
        places in prop::collection::vec(any::<prop::sample::Index>(), 0..40),
        include_usage: bool,
    ) {
        for stream in fixtures::complete().into_iter().chain(fixtures::broken()) {
            let reads = cut(&stream.bytes, &places);
            let whole = [&stream.bytes[..]];
            prop_assert_eq!(
                tap(&*dialect(), &reads, include_usage),
                tap(&*dialect(), &whole, include_usage),
                "{}", stream.name
            );
            prop_assert_eq!(read(&*dialect(), &reads), read(&*dialect(), &whole), "{}", stream.name);
        }
    }

}

proptest! {
    #[test]
    fn damage_never_panics_and_is_never_cut_differently(
        stream in 0_usize..20,
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        places in prop::collection::vec(any::<prop::sample::Index>(), 0..10),
    ) {
        let mut bytes = fixtures::complete()[stream].bytes.to_vec();
        for (place, byte) in damage {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        let reads = cut(&bytes, &places);
        prop_assert_eq!(tap(&*dialect(), &reads, true), tap(&*dialect(), &[&bytes], true));
        prop_assert_eq!(read(&*dialect(), &reads), read(&*dialect(), &[&bytes]));
    }

    #[test]
    fn a_spliced_body_is_the_same_but_for_the_edits(
        members in members(),
        is_spaced: bool,
        output_cap in prop::option::of(1_u64..9),
        output_cap_field in prop::option::of(prop_oneof![Just("max_tokens"), Just("max_completion_tokens")]),
        ask_for_usage: bool,
    ) {
        let body = Bytes::from(written(&members, is_spaced));
        let view = dialect().view(Operation::Chat, &body).unwrap();
        let view = Arc::new(view);
        let request = InboundRequest { operation: Operation::Chat, dialect: dialect(), view, body };
        let edits = Edits { model: "their/model".into(), output_cap, output_cap_field, ask_for_usage };
        let spliced = dialect().splice(&request, &edits).into_bytes();
        let parsed: Map<String, Value> = serde_json::from_slice(&spliced).unwrap();
        prop_assert_eq!(&parsed, &expected(members.into_iter().collect(), &edits));
        // The same members, and none of them twice.
        prop_assert!(dialect().view(Operation::Chat, &spliced).is_ok());
    }

    #[test]
    fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let body = Bytes::from(bytes);
        for operation in [Operation::Chat, Operation::ImageGeneration] {
            prop_assert!(dialect().view(operation, &body).is_err());
            prop_assert!(dialect().inspect_reply(operation, &body).is_err());
        }
    }
}
