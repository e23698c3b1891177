use ProviderErrorKind::{Credential, Overloaded, Protocol, Quota, RateLimit, Request, Server, Timeout};

use super::*;

fn classified(status: u16, body: &str) -> ProviderError {
    classify(&UpstreamError { status, retry_after: None, body: body.as_bytes() })
}

#[test]
fn a_status_says_what_an_error_means() {
    for (status, kind, try_next) in [
        (302, Protocol, false),
        (400, Request, false),
        (401, Credential, true),
        (402, Quota, true),
        (403, Credential, true),
        (404, Request, false),
        (405, Request, false),
        (408, Timeout, false),
        (413, Request, false),
        (415, Request, false),
        (422, Request, false),
        (429, RateLimit, true),
        (500, Server, false),
        (502, Server, false),
        (503, Overloaded, false),
        (504, Timeout, false),
        (529, Overloaded, false),
    ] {
        let error = classified(status, r#"{"error":{"message":"m","type":"t","param":"p","code":7}}"#);
        assert_eq!((error.kind, error.try_next_credential, error.status), (kind, try_next, Some(status)));
        assert_eq!(error.public.is_some(), kind == Request, "{status}");
    }
}

#[test]
fn words_say_more_than_a_status() {
    let quota = r#"{"error":{"message":"m","type":"insufficient_quota","param":null,"code":"insufficient_quota"}}"#;
    assert_eq!(classified(429, quota).kind, Quota);
    assert_eq!(classified(403, quota).kind, Quota);
    assert_eq!(classified(500, quota).kind, Server);
    assert_eq!(classified(400, r#"[{"error":{"code":"invalid_api_key","message":"m"}}]"#).kind, Credential);
}

#[test]
fn every_form_of_body_is_read() {
    let public = |body: &str| {
        let public = classified(400, body).public?;
        Some((public.message.into_string(), public.param.map(String::from), public.code.map(String::from)))
    };
    let said = |message: &str, code: Option<&str>| Some((message.to_owned(), None, code.map(str::to_owned)));
    let nested = r#"{"error":{"message":"too long","type":"t","param":"messages","code":"context_length_exceeded"}}"#;
    let expected =
        Some(("too long".to_owned(), Some("messages".to_owned()), Some("context_length_exceeded".to_owned())));
    assert_eq!(public(nested), expected);
    assert_eq!(public(r#"{"error":"no model"}"#), said("no model", None));
    assert_eq!(public(r#"{"object":"error","message":"flat","type":"T","code":400}"#), said("flat", Some("400")));
    assert_eq!(public(r#"{"error":{"code":"429","message":"azure"}}"#), said("azure", Some("429")));
    assert_eq!(public(r#"{"statusCode":400,"message":"azure"}"#), said("azure", Some("400")));
    assert_eq!(public(r#"{"detail":"mistral"}"#), said("mistral", None));
    assert_eq!(public(r#"{"detail":[{"loc":["body","x"],"msg":"extra"},{"msg":"more"}]}"#), said("extra; more", None));
    assert_eq!(public("plain words"), said("plain words", None));
    for nothing in [
        "",
        "  ",
        "<html><body>x</body></html>",
        "{\"error\":{\"mess",
        "null",
        "5",
        r#"{"error":{"message":"<html></html>"}}"#,
    ] {
        assert_eq!(public(nothing), None, "{nothing}");
    }
}

#[test]
fn a_wait_is_read_and_capped() {
    let wait = |header| {
        classify(&UpstreamError { status: 429, retry_after: Some(header), body: b"" })
            .retry_after
            .map(|wait| wait.as_millis())
    };
    assert_eq!(wait("7"), Some(7_000));
    assert_eq!(wait(" 1.5 "), Some(1_500));
    assert_eq!(wait("0"), Some(0));
    assert_eq!(wait("1e30"), Some(86_400_000));
    for unread in ["-1", "NaN", "", "Wed, 21 Oct 2015 07:28:00 GMT"] {
        assert_eq!(wait(unread), None, "{unread}");
    }
}

#[test]
fn an_error_within_a_reply_is_classified_by_its_code() {
    let kind = |reply: &str| within(&serde_json::from_str(reply).unwrap()).map(|error| (error.kind, error.status));
    assert_eq!(kind(r#"{"error":{"code":502,"message":"m"}}"#), Some((Server, Some(502))));
    assert_eq!(kind(r#"{"error":{"code":429,"message":"m"}}"#), Some((RateLimit, Some(429))));
    assert_eq!(kind(r#"{"error":{"code":"rate_limit_exceeded"}}"#), Some((RateLimit, None)));
    assert_eq!(kind(r#"{"error":{"type":"overloaded_error"}}"#), Some((Overloaded, None)));
    assert_eq!(kind(r#"{"error":"text"}"#), Some((Server, None)));
    assert_eq!(kind(r#"{"object":"error","message":"m","code":400}"#), Some((Request, Some(400))));
    assert_eq!(kind(r#"{"x_groq":{"error":"failed"}}"#), Some((Server, None)));
    for good in
        ["{}", r#"{"error":null}"#, r#"{"error":false}"#, r#"{"object":"chat.completion","x_groq":{"id":"a"}}"#, "[]"]
    {
        assert_eq!(kind(good), None, "{good}");
    }
}

#[test]
fn an_error_is_written_in_the_envelope() {
    let error = WireError {
        kind: "invalid_request_error",
        error: PublicError { message: "a \"b\"\nc".into(), param: Some("n".into()), code: None },
    };
    let body = r#"{"error":{"message":"a \"b\"\nc","type":"invalid_request_error","param":"n","code":null}}"#;
    assert_eq!(write(&error, ErrorPlace::Body), body);
    assert_eq!(write(&error, ErrorPlace::Stream), format!("data: {body}\n\n"));
}
