//! Contract of [`Dialect`]: streams survive any cut, round trips lose nothing, and what is not complete never looks so.

mod samples;

use std::sync::Arc;

use ai4free_ports::{
    chat::{ChatEvent, ChatReply, Choice},
    dialect::{Dialect, ErrorPlace, StreamContext, UpstreamError, WireError},
    error::{ProviderErrorKind, PublicError},
    llm_provider::Facts,
    money::PicoUsd,
    request::{Edits, InboundRequest, Operation, Rope},
    usage::TokenUsage,
};
use bytes::{Bytes, BytesMut};

use self::samples::{conversation, full_usage, replies};

/// A stream as a provider sends it.
#[derive(Clone, Debug)]
pub struct Recorded {
    pub name: &'static str,
    pub bytes: Bytes,
}

/// A dialect, and what is said in it.
pub trait Harness {
    fn dialect(&self) -> Arc<dyn Dialect>;
    /// Complete streams, of each vendor and with each oddity.
    fn streams(&self) -> Vec<Recorded>;
    /// Streams that break off with an error of the provider, or that can't be read.
    fn broken_streams(&self) -> Vec<Recorded>;
    /// Requests for a stream. Each has the member `"unknown":{"kept":[1.0,9007199254740993]}` and the model `their-model`.
    fn requests(&self) -> Vec<Bytes>;
}

/// Turns all clauses into tests of one dialect: `dialect_contract!(MyHarness)`.
#[macro_export]
macro_rules! dialect_contract {
    ($harness:expr) => {
        $crate::dialect_contract!($harness =>
            a_stream_is_tapped_alike_however_it_is_cut
            a_stream_is_read_alike_however_it_is_cut
            a_broken_stream_fails_alike_however_it_is_cut
            a_stream_that_ends_early_is_an_error_and_not_a_finish
            a_complete_stream_says_so_once
            what_was_tapped_reads_as_the_original
            what_was_tapped_needs_no_mending
            usage_is_shown_once_and_only_when_it_was_asked_for
            what_is_counted_covers_what_is_read
            written_events_are_read_again
            a_providers_cost_is_told_and_not_written
            written_events_pass_the_tap_as_they_are
            an_unfinished_choice_is_no_end
            a_reply_survives_encoding
            a_reply_that_is_none_is_an_error
            splicing_keeps_every_other_byte
            an_error_in_a_stream_is_seen
            an_error_shows_no_secret
            bytes_that_mean_nothing_are_an_error
        );
    };
    ($harness:expr => $($clause:ident)+) => {
        $(
            #[tokio::test]
            async fn $clause() {
                $crate::dialect::$clause(&$harness).await;
            }
        )+
    };
}

pub async fn a_stream_is_tapped_alike_however_it_is_cut(harness: &impl Harness) {
    for stream in harness.streams() {
        for include_usage in [false, true] {
            let whole = tap(&*harness.dialect(), &[&stream.bytes], include_usage);
            assert_eq!(whole.error, None, "{}", stream.name);
            for reads in cuts(&stream.bytes) {
                let lengths: Vec<_> = reads.iter().map(|read| read.len()).collect();
                let cut = tap(&*harness.dialect(), &reads, include_usage);
                assert_eq!(cut, whole, "{} in reads of {lengths:?}", stream.name);
            }
        }
    }
}

pub async fn a_stream_is_read_alike_however_it_is_cut(harness: &impl Harness) {
    for stream in harness.streams().into_iter().chain(harness.broken_streams()) {
        let whole = read(&*harness.dialect(), &[&stream.bytes]);
        for reads in cuts(&stream.bytes) {
            let lengths: Vec<_> = reads.iter().map(|read| read.len()).collect();
            assert_eq!(read(&*harness.dialect(), &reads), whole, "{} in reads of {lengths:?}", stream.name);
        }
    }
}

pub async fn a_broken_stream_fails_alike_however_it_is_cut(harness: &impl Harness) {
    for stream in harness.broken_streams() {
        let whole = tap(&*harness.dialect(), &[&stream.bytes], true);
        assert!(whole.error.is_some() && !whole.facts.done, "{}", stream.name);
        for reads in cuts(&stream.bytes) {
            let lengths: Vec<_> = reads.iter().map(|read| read.len()).collect();
            assert_eq!(tap(&*harness.dialect(), &reads, true), whole, "{} in reads of {lengths:?}", stream.name);
        }
        assert!(read(&*harness.dialect(), &[&stream.bytes]).1.is_some(), "{}", stream.name);
    }
}

pub async fn a_stream_that_ends_early_is_an_error_and_not_a_finish(harness: &impl Harness) {
    for stream in harness.streams() {
        let lengths =
            cuts(&stream.bytes).filter_map(|reads| <[&[u8]; 2]>::try_from(reads).ok().map(|[head, _]| head.len()));
        for length in lengths {
            let cut = stream.bytes.slice(..length);
            let tapped = tap(&*harness.dialect(), &[&cut], false);
            let at = format!("{} cut at byte {length}", stream.name);
            assert_eq!(tapped.facts.done, tapped.error.is_none(), "{at}");
            assert!(tapped.facts.finished || tapped.error.is_some(), "{at}");
            let (events, error) = read(&*harness.dialect(), &[&cut]);
            assert_eq!(error, tapped.error, "{at}");
            assert_eq!(events.last() == Some(&ChatEvent::End), error.is_none(), "{at}");
        }
    }
}

pub async fn a_complete_stream_says_so_once(harness: &impl Harness) {
    for stream in harness.streams() {
        let tapped = tap(&*harness.dialect(), &[&stream.bytes], false);
        assert!(tapped.facts.finished && tapped.facts.done, "{}", stream.name);
        let (events, _) = read(&*harness.dialect(), &[&stream.bytes]);
        assert!(matches!(events.first(), Some(ChatEvent::Start { .. })), "{}", stream.name);
        let count = |wanted: fn(&ChatEvent) -> bool| events.iter().filter(|event| wanted(event)).count();
        assert_eq!(count(|event| matches!(event, ChatEvent::Start { .. })), 1, "{}", stream.name);
        assert_eq!(count(|event| matches!(event, ChatEvent::End)), 1, "{}", stream.name);
        let mut finished: Vec<_> = events.iter().filter_map(finished_choice).collect();
        finished.sort_unstable();
        let mut once = finished.clone();
        once.dedup();
        assert_eq!(finished, once, "{}", stream.name);
        let behind: &[u8] = b"data: nonsense\n\n";
        let more = [&tapped.bytes[..], behind].concat();
        assert_eq!(
            tap(&*harness.dialect(), &[&more], false).error,
            None,
            "{}: what is behind the end is not read",
            stream.name
        );
        assert_eq!(read(&*harness.dialect(), &[&tapped.bytes, behind]).1, None, "{}", stream.name);
    }
}

pub async fn what_was_tapped_reads_as_the_original(harness: &impl Harness) {
    for stream in harness.streams() {
        for include_usage in [false, true] {
            let tapped = tap(&*harness.dialect(), &[&stream.bytes], include_usage);
            let content = |bytes: &[u8]| {
                let (mut events, _) = read(&*harness.dialect(), &[bytes]);
                events.retain(|event| !matches!(event, ChatEvent::ProviderCost(_) | ChatEvent::Usage(_)));
                events
            };
            assert_eq!(content(&tapped.bytes), content(&stream.bytes), "{}", stream.name);
        }
    }
}

pub async fn what_was_tapped_needs_no_mending(harness: &impl Harness) {
    for stream in harness.streams() {
        for include_usage in [false, true] {
            let once = tap(&*harness.dialect(), &[&stream.bytes], include_usage);
            let twice = tap(&*harness.dialect(), &[&once.bytes], include_usage);
            assert_eq!(text(&twice.bytes), text(&once.bytes), "{}", stream.name);
        }
    }
}

pub async fn usage_is_shown_once_and_only_when_it_was_asked_for(harness: &impl Harness) {
    let mut streams_with_usage = 0;
    for stream in harness.streams() {
        for include_usage in [false, true] {
            let tapped = tap(&*harness.dialect(), &[&stream.bytes], include_usage);
            let (events, _) = read(&*harness.dialect(), &[&tapped.bytes]);
            let shown: Vec<_> = events.iter().filter_map(usage_of).collect();
            let expected: Vec<_> = tapped.facts.usage.filter(|_| include_usage).into_iter().collect();
            assert_eq!(shown, expected, "{}", stream.name);
            if let [.., before_last, _] = &events[..]
                && !expected.is_empty()
            {
                assert_eq!(usage_of(before_last), tapped.facts.usage, "{}: its place is before the end", stream.name);
            }
            streams_with_usage += usize::from(tapped.facts.usage.is_some());
        }
    }
    assert!(streams_with_usage > 0);
}

pub async fn what_is_counted_covers_what_is_read(harness: &impl Harness) {
    for stream in harness.streams() {
        let tapped = tap(&*harness.dialect(), &[&stream.bytes], false);
        let (events, _) = read(&*harness.dialect(), &[&stream.bytes]);
        let read: usize = events.iter().map(output_bytes).sum();
        assert!(tapped.facts.output_bytes >= read as u64, "{}: {:?} of {read}", stream.name, tapped.facts);
        assert!(tapped.facts.output_bytes <= 2 * read as u64 + 16, "{}: {:?} of {read}", stream.name, tapped.facts);
        let last_usage = events.iter().filter_map(usage_of).next_back();
        assert_eq!(tapped.facts.usage, last_usage, "{}", stream.name);
        let last_cost = events.iter().filter_map(cost_of).next_back();
        assert_eq!(tapped.facts.provider_cost, last_cost, "{}", stream.name);
    }
}

pub async fn written_events_are_read_again(harness: &impl Harness) {
    let (bytes, facts) = write(&*harness.dialect(), &conversation(), true);
    assert!(facts.finished && facts.done);
    assert_eq!(facts.usage, Some(full_usage()));
    assert_eq!(facts.output_bytes, conversation().iter().map(output_bytes).sum::<usize>() as u64);
    assert_eq!(read(&*harness.dialect(), &[&bytes]), (conversation(), None));
    let (bytes, _) = write(&*harness.dialect(), &conversation(), false);
    let unasked: Vec<_> = conversation().into_iter().filter(|event| usage_of(event).is_none()).collect();
    assert_eq!(read(&*harness.dialect(), &[&bytes]), (unasked, None));
}

pub async fn a_providers_cost_is_told_and_not_written(harness: &impl Harness) {
    let cost = PicoUsd(123_456_789);
    let mut events = conversation();
    events.insert(events.len() - 2, ChatEvent::ProviderCost(cost));
    let (bytes, facts) = write(&*harness.dialect(), &events, true);
    assert_eq!(facts.provider_cost, Some(cost));
    assert_eq!(text(&bytes), text(&write(&*harness.dialect(), &conversation(), true).0));
    for reply in replies() {
        let with_cost = ChatReply { provider_cost: Some(cost), ..reply.clone() };
        assert_eq!(harness.dialect().encode_reply(&with_cost), harness.dialect().encode_reply(&reply));
    }
}

pub async fn written_events_pass_the_tap_as_they_are(harness: &impl Harness) {
    for include_usage in [false, true] {
        let (bytes, facts) = write(&*harness.dialect(), &conversation(), include_usage);
        let tapped = tap(&*harness.dialect(), &[&bytes], include_usage);
        assert_eq!(text(&tapped.bytes), text(&bytes));
        assert_eq!(tapped.facts.usage, facts.usage.filter(|_| include_usage));
        assert_eq!((tapped.facts.finished, tapped.facts.done), (true, true));
    }
}

pub async fn an_unfinished_choice_is_no_end(harness: &impl Harness) {
    let mut events = conversation();
    let last_finish = events.iter().rposition(|event| finished_choice(event).is_some()).unwrap();
    events.truncate(last_finish);
    let (bytes, facts) = write(&*harness.dialect(), &events, true);
    assert!(!facts.finished && !facts.done);
    assert_eq!(tap(&*harness.dialect(), &[&bytes], true).error, Some(ProviderErrorKind::Protocol));
}

pub async fn a_reply_survives_encoding(harness: &impl Harness) {
    let dialect = harness.dialect();
    for reply in replies() {
        let body = dialect.encode_reply(&reply);
        assert_eq!(dialect.decode_reply(&body).unwrap(), reply);
        let facts = dialect.inspect_reply(Operation::Chat, &body).unwrap();
        assert_eq!((facts.usage, facts.finished, facts.done), (reply.usage, true, true));
        let bytes: usize = reply.choices.iter().map(choice_bytes).sum();
        assert!(facts.output_bytes >= bytes as u64, "{facts:?} of {bytes}");
    }
}

pub async fn a_reply_that_is_none_is_an_error(harness: &impl Harness) {
    for body in ["", "[]", "null", "{}", "{", "<html></html>", "{\"choices\":[]}", "\"text\"", "\u{feff}"] {
        let body = Bytes::from_static(body.as_bytes());
        assert!(harness.dialect().decode_reply(&body).is_err(), "{body:?}");
        assert!(harness.dialect().inspect_reply(Operation::Chat, &body).is_err(), "{body:?}");
    }
}

pub async fn splicing_keeps_every_other_byte(harness: &impl Harness) {
    let kept = br#""unknown":{"kept":[1.0,9007199254740993]}"#;
    for body in harness.requests() {
        let dialect = harness.dialect();
        let view = dialect.view(Operation::Chat, &body).unwrap();
        let inbound = |body: Bytes| InboundRequest {
            operation: Operation::Chat,
            dialect: dialect.clone(),
            view: Arc::new(dialect.view(Operation::Chat, &body).unwrap()),
            body,
        };
        let nothing = Edits {
            model: view.model.clone(),
            output_cap: view.output_cap.as_ref().map(|cap| cap.tokens),
            output_cap_field: None,
            ask_for_usage: false,
        };
        assert_eq!(dialect.splice(&inbound(body.clone()), &nothing), Rope(vec![body.clone()]), "{}", text(&body));
        let edits =
            Edits { model: "our \"model\"".into(), output_cap: Some(77), output_cap_field: None, ask_for_usage: true };
        let rope = dialect.splice(&inbound(body.clone()), &edits);
        let inserted: usize = rope.0.iter().filter(|piece| !is_within(piece, &body)).map(Bytes::len).sum();
        assert!(inserted < 150, "the body is not copied: {inserted} bytes");
        let spliced = rope.into_bytes();
        assert!(spliced.windows(kept.len()).any(|window| window == kept), "{}", text(&spliced));
        let again = dialect.view(Operation::Chat, &spliced).unwrap();
        assert_eq!(&*again.model, "our \"model\"");
        assert_eq!(again.output_cap.as_ref().map(|cap| cap.tokens), Some(77), "{}", text(&spliced));
        assert!(again.null_caps.is_empty(), "{}", text(&spliced));
        assert_eq!((again.stream, again.include_usage), (true, true), "{}", text(&spliced));
        assert_eq!((again.choices, again.has_media), (view.choices, view.has_media));
        assert_eq!(dialect.splice(&inbound(spliced.clone()), &edits), Rope(vec![spliced]));
    }
}

pub async fn an_error_in_a_stream_is_seen(harness: &impl Harness) {
    let dialect = harness.dialect();
    let error =
        WireError { kind: "server_error", error: PublicError { message: "it broke".into(), param: None, code: None } };
    let (mut bytes, _) = write(&*dialect, &conversation()[..3], false);
    bytes = [bytes, dialect.write_error(&error, ErrorPlace::Stream)].concat().into();
    let tapped = tap(&*dialect, &[&bytes], false);
    assert_eq!(tapped.error, Some(ProviderErrorKind::Server));
    assert!(!tapped.bytes.is_empty(), "what came before it is delivered");
    assert_eq!(read(&*dialect, &[&bytes]).1, Some(ProviderErrorKind::Server));
    assert!(dialect.inspect_reply(Operation::Chat, &dialect.write_error(&error, ErrorPlace::Body)).is_err());
}

pub async fn an_error_shows_no_secret(harness: &impl Harness) {
    let dialect = harness.dialect();
    for status in (100..=599).chain([0, 999]) {
        let message = "bad key sk-proj-0123456789abcdef, see https://provider.example/keys or ask ops@provider.example";
        let error = PublicError { message: message.into(), param: None, code: Some("bad_key".into()) };
        let body = dialect.write_error(&WireError { kind: "invalid_request_error", error }, ErrorPlace::Body);
        let page = Bytes::from_static(b"<html><body>sk-proj-0123456789abcdef</body></html>");
        for body in [&body[..], &body[..body.len() / 2], &page, b"", b"\xff\xfe"] {
            let error = dialect.classify_error(&UpstreamError { status, retry_after: Some("soon"), body });
            assert_eq!(error.status, Some(status));
            assert_eq!(error.retry_after, None);
            let shown = format!("{error} {error:?}");
            assert!(!["sk-proj", "provider.example", "<html"].iter().any(|secret| shown.contains(secret)), "{shown}");
        }
    }
}

pub async fn bytes_that_mean_nothing_are_an_error(harness: &impl Harness) {
    let dialect = harness.dialect();
    for stream in
        ["", "\n\n\n", "data: {\n\n", "data: nonsense\n\n", "data: []\n\n", "data: null\n\n", "<html>", "\u{feff}"]
    {
        let tapped = tap(&*dialect, &[stream.as_bytes()], true);
        assert_eq!((tapped.error, tapped.bytes.len()), (Some(ProviderErrorKind::Protocol), 0), "{stream:?}");
        assert_eq!(read(&*dialect, &[stream.as_bytes()]), (vec![], Some(ProviderErrorKind::Protocol)), "{stream:?}");
    }
    assert_eq!(tap(&*dialect, &[b"data: \xff\xfe\n\n"], true).error, Some(ProviderErrorKind::Protocol));
}

/// All that a tap said of a stream.
#[derive(Debug, PartialEq)]
pub struct Tapped {
    pub bytes: Bytes,
    pub facts: Facts,
    pub error: Option<ProviderErrorKind>,
}

/// Feeds reads to a fresh tap, as a driver would.
pub fn tap(dialect: &dyn Dialect, reads: &[&[u8]], include_usage: bool) -> Tapped {
    let mut tap = dialect.tap(StreamContext { include_usage });
    let (mut bytes, mut facts) = (BytesMut::new(), Facts::default());
    let mut reads = reads.iter();
    let error = loop {
        let chunk = match reads.next() {
            Some(read) => tap.feed(Bytes::copy_from_slice(read)),
            None => tap.end(),
        };
        match chunk {
            Err(error) => break Some(error.kind),
            Ok(chunk) => {
                bytes.extend_from_slice(&chunk.bytes);
                facts.absorb(&chunk.facts);
                if chunk.facts.done {
                    break None;
                }
                assert!(reads.len() > 0 || !chunk.facts.done);
            }
        }
    };
    Tapped { bytes: bytes.freeze(), facts, error }
}

/// Feeds reads to a fresh reader.
pub fn read(dialect: &dyn Dialect, reads: &[&[u8]]) -> (Vec<ChatEvent>, Option<ProviderErrorKind>) {
    let mut reader = dialect.event_reader();
    let mut events = Vec::new();
    for read in reads {
        if let Err(error) = reader.feed(read, &mut events) {
            return (events, Some(error.kind));
        }
    }
    let error = reader.end(&mut events).err().map(|error| error.kind);
    (events, error)
}

/// The same bytes in other reads: of each length, and in two at the places where it matters.
pub fn cuts(bytes: &[u8]) -> impl Iterator<Item = Vec<&[u8]>> {
    let even = [1, 2, 3, 7, 61, 256, 1000].into_iter().map(|length| bytes.chunks(length).collect());
    let is_line_end = |at: &usize| bytes.get(*at).is_some_and(|byte| matches!(byte, b'\n' | b'\r'));
    let places = (0..bytes.len()).filter(move |at| at % 97 == 0 || is_line_end(at) || is_line_end(&(at + 1)));
    even.chain(places.map(|at| bytes.split_at(at)).map(|(head, tail)| vec![head, tail]))
}

fn write(dialect: &dyn Dialect, events: &[ChatEvent], include_usage: bool) -> (Bytes, Facts) {
    let mut writer = dialect.event_writer(StreamContext { include_usage });
    let (mut bytes, mut facts) = (BytesMut::new(), Facts::default());
    for event in events {
        facts.absorb(&writer.write(event, &mut bytes));
    }
    (bytes.freeze(), facts)
}

fn finished_choice(event: &ChatEvent) -> Option<u32> {
    match event {
        ChatEvent::Finish { choice, .. } => Some(*choice),
        _ => None,
    }
}

fn usage_of(event: &ChatEvent) -> Option<TokenUsage> {
    match event {
        ChatEvent::Usage(usage) => Some(*usage),
        _ => None,
    }
}

fn cost_of(event: &ChatEvent) -> Option<PicoUsd> {
    match event {
        ChatEvent::ProviderCost(cost) => Some(*cost),
        _ => None,
    }
}

fn output_bytes(event: &ChatEvent) -> usize {
    match event {
        ChatEvent::Text { text, .. } | ChatEvent::Reasoning { text, .. } | ChatEvent::Refusal { text, .. } => {
            text.len()
        }
        ChatEvent::ToolArguments { fragment, .. } => fragment.len(),
        _ => 0,
    }
}

fn choice_bytes(choice: &Choice) -> usize {
    let texts = [&choice.text, &choice.reasoning, &choice.refusal].into_iter().flatten().map(String::len);
    texts.chain(choice.tool_calls.iter().map(|call| call.arguments.len())).sum()
}

/// Whether a piece is a slice of the body itself.
fn is_within(piece: &Bytes, body: &Bytes) -> bool {
    let body = body.as_ptr_range();
    piece.is_empty() || body.contains(&piece.as_ptr())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
