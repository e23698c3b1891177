//! What the scripted upstream says, on the wire of OpenAI.

use super::upstream::Step;

/// A response with a body of known length.
#[must_use]
pub fn json(status: u16, headers: &str, body: &str) -> Vec<Step> {
    let head = format!(
        "HTTP/1.1 {status} Status\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n{headers}\r\n",
        body.len()
    );
    vec![Step::Write((head + body).into_bytes())]
}

/// The head of a stream whose body ends with the connection.
#[must_use]
pub fn stream_head() -> Step {
    Step::Write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n".to_vec())
}

#[must_use]
pub fn event(data: &str) -> Step {
    Step::Write(format!("data: {data}\n\n").into_bytes())
}

/// One chunk of a stream; `delta` is JSON, `finish` a reason or nothing.
#[must_use]
pub fn chunk(delta: &str, finish: Option<&str>) -> Step {
    let finish = finish.map_or("null".to_owned(), |reason| format!("\"{reason}\""));
    event(&format!(
        r#"{{"id":"chatcmpl-up","object":"chat.completion.chunk","created":7,"model":"upstream-model","choices":[{{"index":0,"delta":{delta},"finish_reason":{finish}}}]}}"#
    ))
}

#[must_use]
pub fn usage_chunk() -> Step {
    event(&format!(
        r#"{{"id":"chatcmpl-up","object":"chat.completion.chunk","created":7,"model":"upstream-model","choices":[],"usage":{USAGE}}}"#
    ))
}

#[must_use]
pub fn done() -> Step {
    event("[DONE]")
}

/// A whole stream around these deltas.
#[must_use]
pub fn stream(deltas: &[&str], finish: &str) -> Vec<Step> {
    let mut steps = vec![stream_head(), chunk(r#"{"role":"assistant","content":""}"#, None)];
    steps.extend(deltas.iter().map(|delta| chunk(delta, None)));
    steps.extend([chunk("{}", Some(finish)), usage_chunk(), done()]);
    steps
}

/// A whole completion with this message.
#[must_use]
pub fn completion(message: &str, finish: &str) -> Vec<Step> {
    let body = format!(
        r#"{{"id":"chatcmpl-up","object":"chat.completion","created":7,"model":"upstream-model","choices":[{{"index":0,"message":{message},"logprobs":null,"finish_reason":"{finish}"}}],"usage":{USAGE}}}"#
    );
    json(200, "", &body)
}

const USAGE: &str = r#"{"prompt_tokens":5,"completion_tokens":5,"total_tokens":10}"#;
