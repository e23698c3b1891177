//! Clauses on failures, deadlines and connections.

use std::{future::Future, time::Duration};

use ai4free_ports::{
    error::{ProviderError, ProviderErrorKind},
    llm_provider::{Call, Deadlines, LlmProvider, Reply},
    request::Operation,
};
use futures_util::StreamExt;
use tokio::time::Instant;

use super::{
    Harness, SECRET,
    conversation::{PATIENT, Transcript, call, chat, texts},
    upstream::{Step, Upstream},
    wire,
};

const ASK: &str = r#"{"model":"m","messages":[{"role":"user","content":"hi"}]}"#;
const ASK_STREAM: &str = r#"{"model":"m","stream":true,"messages":[{"role":"user","content":"hi"}]}"#;

/// How late a deadline may be.
const GRACE: Duration = Duration::from_millis(100);
/// How early a test would notice that it isn't the deadline that fired.
const EARLY: Duration = Duration::from_millis(20);
/// After which there is none.
const PATIENCE: Duration = Duration::from_secs(10);

async fn failed(provider: &dyn LlmProvider, call: Call) -> ProviderError {
    match provider.call(call).await {
        Ok(_) => panic!("a reply where an error is due"),
        Err(error) => error,
    }
}

pub async fn http_errors_are_classified(harness: &impl Harness) {
    use ProviderErrorKind::{Credential, Overloaded, Quota, RateLimit, Request, Server};
    let quota = r#"{"error":{"message":"x","type":"insufficient_quota","param":null,"code":"insufficient_quota"}}"#;
    let plain = r#"{"error":{"message":"no such thing","type":"t","param":"seed","code":"c"}}"#;
    for (status, headers, body, kind, try_next) in [
        (401, "", plain, Credential, true),
        (403, "", plain, Credential, true),
        (429, "retry-after: 7\r\n", plain, RateLimit, true),
        (429, "", quota, Quota, true),
        (400, "", plain, Request, false),
        (404, "", plain, Request, false),
        (422, "", plain, Request, false),
        (500, "", plain, Server, false),
        (502, "", "<html>Bad gateway</html>", Server, false),
        (503, "", plain, Overloaded, false),
        (529, "", "", Overloaded, false),
    ] {
        for ask in [ASK, ASK_STREAM] {
            let upstream = Upstream::start([wire::json(status, headers, body)]).await;
            let provider = harness.provider(&upstream.url());
            let error = failed(&*provider, chat(harness, ask)).await;
            assert_eq!(error.kind, kind, "{status} {body}");
            assert_eq!(error.status, Some(status));
            assert_eq!(error.try_next_credential, try_next, "{status}");
            assert!(error.request_was_sent);
            let retry_after = (!headers.is_empty()).then_some(Duration::from_secs(7));
            assert_eq!(error.retry_after, retry_after, "{status}");
            if kind == Request {
                let public = error.public.expect("the client's own error says why");
                assert_eq!((&*public.message, public.param.as_deref()), ("no such thing", Some("seed")));
            }
            assert_eq!(upstream.seen().len(), 1, "{status} must not be tried again here");
        }
    }
}

pub async fn an_error_in_place_of_the_first_event_is_an_error_of_the_call(harness: &impl Harness) {
    let error = wire::event(r#"{"error":{"message":"overloaded","type":"server_error","param":null,"code":null}}"#);
    let upstream = Upstream::start([vec![wire::stream_head(), error]]).await;
    let provider = harness.provider(&upstream.url());
    failed(&*provider, chat(harness, ASK_STREAM)).await;
}

pub async fn an_error_body_with_status_200_is_an_error(harness: &impl Harness) {
    let body = r#"{"error":{"message":"x","type":"server_error","param":null,"code":null}}"#;
    for ask in [ASK, ASK_STREAM] {
        let upstream = Upstream::start([wire::json(200, "", body)]).await;
        let provider = harness.provider(&upstream.url());
        failed(&*provider, chat(harness, ask)).await;
    }
}

pub async fn a_redirect_is_an_error_and_is_not_followed(harness: &impl Harness) {
    for ask in [ASK, ASK_STREAM] {
        let elsewhere = Upstream::start([wire::completion(r#"{"role":"assistant","content":"x"}"#, "stop")]).await;
        let location = format!("location: {}/v1/chat/completions\r\n", elsewhere.url());
        let upstream = Upstream::start([wire::json(307, &location, "")]).await;
        let provider = harness.provider(&upstream.url());
        failed(&*provider, chat(harness, ask)).await;
        assert_eq!(elsewhere.seen().len(), 0);
    }
}

pub async fn a_refused_connection_was_not_sent(harness: &impl Harness) {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.expect("bind");
    let port = listener.local_addr().expect("address").port();
    drop(listener);
    for ask in [ASK, ASK_STREAM] {
        let provider = harness.provider(&format!("http://127.0.0.1:{port}"));
        let error = failed(&*provider, chat(harness, ask)).await;
        assert_eq!((error.kind, error.request_was_sent), (ProviderErrorKind::Transport, false));
        assert!(provider.resting_until(0).is_some(), "the next request should go elsewhere");
    }
}

pub async fn garbage_is_an_error_and_not_a_panic(harness: &impl Harness) {
    for garbage in ["{not json", "[]", "\"text\"", "\u{0}"] {
        let first = vec![wire::stream_head(), wire::event(garbage)];
        let good = wire::chunk(r#"{"role":"assistant","content":"Hi"}"#, None);
        let later =
            vec![wire::stream_head(), good, wire::event(garbage), wire::chunk("{}", Some("stop")), wire::done()];
        let upstream = Upstream::start([first, later]).await;
        let provider = harness.provider(&upstream.url());
        failed(&*provider, chat(harness, ASK_STREAM)).await;
        let transcript = Transcript::of(harness, &*provider, chat(harness, ASK_STREAM)).await;
        assert!(transcript.error.is_some(), "{garbage}");
        assert!(!transcript.facts.done, "{garbage}");
    }
    let upstream = Upstream::start([wire::json(200, "", "{not json")]).await;
    let provider = harness.provider(&upstream.url());
    failed(&*provider, chat(harness, ASK)).await;
}

pub async fn a_cut_stream_is_an_error_and_not_a_second_request(harness: &impl Harness) {
    let good = wire::chunk(r#"{"role":"assistant","content":"Hi"}"#, None);
    let half = Step::Write(b"data: {\"id\":\"chatcmpl-up\",\"obj".to_vec());
    for end in [vec![], vec![Step::Reset], vec![half]] {
        let script = [vec![wire::stream_head(), good.clone()], end].concat();
        let upstream = Upstream::start([script]).await;
        let provider = harness.provider(&upstream.url());
        let transcript = Transcript::of(harness, &*provider, chat(harness, ASK_STREAM)).await;
        assert_eq!(transcript.text(), "Hi");
        assert_eq!(transcript.finishes(), 0, "no finish is invented");
        let error = transcript.error.expect("a stream that was cut ends with an error");
        assert!(matches!(error.kind, ProviderErrorKind::Protocol | ProviderErrorKind::Transport), "{error}");
        // Longer than the pauses after which SSE clients try again.
        tokio::time::sleep(Duration::from_millis(400)).await;
        assert_eq!(upstream.seen().len(), 1);
    }
}

pub async fn dropping_a_stream_closes_the_upstream_connection(harness: &impl Harness) {
    let good = wire::chunk(r#"{"role":"assistant","content":"Hi"}"#, None);
    let upstream = Upstream::start([vec![wire::stream_head(), good, Step::Hold]]).await;
    let provider = harness.provider(&upstream.url());
    let Ok(Reply::Stream(mut frames)) = provider.call(chat(harness, ASK_STREAM)).await else { panic!("no stream") };
    assert!(frames.next().await.is_some_and(|frame| frame.is_ok()));
    drop(frames);
    upstream.assert_hung_up().await;
}

pub async fn dropping_a_pending_call_closes_the_upstream_connection(harness: &impl Harness) {
    for (ask, script) in
        [(ASK, vec![Step::Hold]), (ASK_STREAM, vec![Step::Hold]), (ASK_STREAM, vec![wire::stream_head(), Step::Hold])]
    {
        let upstream = Upstream::start([script]).await;
        let provider = harness.provider(&upstream.url());
        tokio::select! {
            _ = provider.call(chat(harness, ask)) => panic!("nothing was answered"),
            () = upstream.wait_for_request() => {}
        }
        upstream.assert_hung_up().await;
    }
}

/// Panics unless the work ends with a deadline's error at about this time. A timer that runs beside it is the measure: a busy
/// machine delays both.
#[expect(clippy::disallowed_methods, reason = "a deadline is measured in the time that passes")]
async fn assert_times_out(at: Duration, work: impl Future<Output = ProviderError>) {
    let started = Instant::now();
    let timed = async {
        tokio::time::sleep(at).await;
        started.elapsed()
    };
    let work = async { (tokio::time::timeout(at + PATIENCE, work).await.expect("a deadline"), started.elapsed()) };
    let ((error, ended), timed) = tokio::join!(work, timed);
    assert!(ended + EARLY >= at, "ended after {ended:?}, before its deadline: {error}");
    assert!(ended <= timed + GRACE, "ended after {ended:?}, when a timer needed {timed:?}");
    assert_eq!(error.kind, ProviderErrorKind::Timeout);
}

async fn stream_error(harness: &impl Harness, provider: &dyn LlmProvider, call: Call) -> ProviderError {
    Transcript::of(harness, provider, call).await.error.expect("an error")
}

pub async fn the_first_event_has_a_deadline(harness: &impl Harness) {
    let first_byte = Duration::from_millis(150);
    for script in [vec![Step::Hold], vec![wire::stream_head(), Step::Hold]] {
        let upstream = Upstream::start([script]).await;
        let provider = harness.provider(&upstream.url());
        let call = call(harness, Operation::Chat, ASK_STREAM, Deadlines { first_byte, ..PATIENT });
        assert_times_out(first_byte, failed(&*provider, call)).await;
        upstream.assert_hung_up().await;
    }
}

pub async fn silence_in_a_stream_has_a_deadline(harness: &impl Harness) {
    let idle = Duration::from_millis(150);
    let good = wire::chunk(r#"{"role":"assistant","content":"Hi"}"#, None);
    let upstream = Upstream::start([vec![wire::stream_head(), good, Step::Hold]]).await;
    let provider = harness.provider(&upstream.url());
    let call = call(harness, Operation::Chat, ASK_STREAM, Deadlines { idle, ..PATIENT });
    assert_times_out(idle, stream_error(harness, &*provider, call)).await;
    upstream.assert_hung_up().await;
}

/// The error and the event before it arrive in one read, and then nothing more.
pub async fn an_error_behind_a_good_event_does_not_wait_for_more(harness: &impl Harness) {
    let bytes = |step: Step| match step {
        Step::Write(bytes) => bytes,
        _ => panic!("an event is written"),
    };
    let good = bytes(wire::chunk(r#"{"role":"assistant","content":"Hi"}"#, None));
    let error = bytes(wire::event(r#"{"error":{"message":"overloaded","type":"server_error"}}"#));
    let upstream = Upstream::start([vec![wire::stream_head(), Step::Write([good, error].concat()), Step::Hold]]).await;
    let provider = harness.provider(&upstream.url());
    let transcript = Transcript::of(harness, &*provider, chat(harness, ASK_STREAM)).await;
    let error = transcript.error.expect("the provider's error");
    assert_ne!(error.kind, ProviderErrorKind::Timeout, "{error}");
    upstream.assert_hung_up().await;
}

/// Some providers say `: keep-alive` while they think. (SSE clients drop comments, so in the crossing lane the idle deadline
/// has to be longer than the provider thinks.)
pub async fn comments_are_no_silence(harness: &impl Harness) {
    let comment = || [Step::Wait(Duration::from_millis(100)), Step::Write(b": keep-alive\n\n".to_vec())];
    let mut script = vec![wire::stream_head(), wire::chunk(r#"{"role":"assistant","content":"Hi"}"#, None)];
    script.extend((0..5).flat_map(|_| comment()));
    script.extend([wire::chunk("{}", Some("stop")), wire::done()]);
    let upstream = Upstream::start([script]).await;
    let provider = harness.provider(&upstream.url());
    let deadlines = Deadlines { idle: Duration::from_millis(300), ..PATIENT };
    let transcript = Transcript::of(harness, &*provider, call(harness, Operation::Chat, ASK_STREAM, deadlines)).await;
    assert!(transcript.error.is_none(), "{:?}", transcript.error);
    assert!(transcript.facts.done);
}

pub async fn a_whole_stream_has_a_deadline(harness: &impl Harness) {
    let total = Duration::from_millis(300);
    let good = wire::chunk(r#"{"role":"assistant","content":"Hi"}"#, None);
    let mut script = vec![wire::stream_head()];
    script.extend((0..100).flat_map(|_| [good.clone(), Step::Wait(Duration::from_millis(50))]));
    let upstream = Upstream::start([script]).await;
    let provider = harness.provider(&upstream.url());
    let call = call(harness, Operation::Chat, ASK_STREAM, Deadlines { total, ..PATIENT });
    assert_times_out(total, stream_error(harness, &*provider, call)).await;
}

pub async fn a_whole_reply_has_a_deadline(harness: &impl Harness) {
    let total = Duration::from_millis(150);
    let upstream = Upstream::start([vec![Step::Hold]]).await;
    let provider = harness.provider(&upstream.url());
    // A short deadline of a stream's events is none of a whole reply's.
    let deadlines = Deadlines { first_byte: Duration::from_millis(10), idle: Duration::from_millis(10), total };
    assert_times_out(total, failed(&*provider, call(harness, Operation::Chat, ASK, deadlines))).await;
    upstream.assert_hung_up().await;
}

pub async fn no_error_holds_the_secret(harness: &impl Harness) {
    let echo = format!(
        r#"{{"error":{{"message":"Incorrect API key provided: {SECRET}.","type":"t","param":null,"code":"{SECRET}"}}}}"#
    );
    let in_stream = vec![wire::stream_head(), wire::event(&echo)];
    let bodies = [400, 401, 429, 500].map(|status| wire::json(status, "", &echo));
    let scripts = bodies.into_iter().chain([in_stream, wire::json(200, "", &echo), vec![Step::Reset], vec![]]);
    for script in scripts {
        for ask in [ASK, ASK_STREAM] {
            let upstream = Upstream::start([script.clone()]).await;
            let provider = harness.provider(&upstream.url());
            let error = failed(&*provider, chat(harness, ask)).await;
            assert!(!texts(&error).contains(SECRET), "{}", texts(&error));
            assert!(upstream.seen()[0].head.contains(SECRET), "it was sent where it belongs");
        }
    }
}
