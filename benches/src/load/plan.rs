//! What is sent, to whom, how often.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use serde_json::json;

pub(crate) const CHAT: &str = "/v1/chat/completions";
/// Bytes of an ordinary prompt; its request has some 0.6 KB.
const PROMPT: usize = 400;
const SENTENCE: &str = "Explain what a reverse proxy does. ";

/// A load and how long it lasts.
#[derive(Clone)]
pub(crate) struct Load {
    pub(crate) address: SocketAddr,
    pub(crate) path: String,
    /// Taken in turn.
    pub(crate) keys: Vec<String>,
    /// Taken in turn.
    pub(crate) bodies: Vec<Bytes>,
    pub(crate) is_stream: bool,
    pub(crate) connections: usize,
    /// Requests a second. `None`: a closed loop.
    pub(crate) rate: Option<f64>,
    pub(crate) warm_up: Duration,
    pub(crate) span: Duration,
    /// Ends after so many requests instead, however long they take.
    pub(crate) most: Option<u64>,
}

impl Load {
    /// Whole answers in a closed loop, after a second to warm up.
    pub(crate) fn closed(address: SocketAddr, key: &str, connections: usize, span: Duration) -> Self {
        Self {
            address,
            path: CHAT.to_owned(),
            keys: vec![key.to_owned()],
            bodies: vec![body("bench", PROMPT, false)],
            is_stream: false,
            connections,
            rate: None,
            warm_up: Duration::from_secs(1),
            span,
            most: None,
        }
    }

    pub(crate) fn connections(mut self, count: usize) -> Self {
        self.connections = count;
        self
    }

    pub(crate) fn keys(mut self, keys: &[String]) -> Self {
        self.keys = keys.to_vec();
        self
    }

    pub(crate) fn streams(mut self, model: &str) -> Self {
        self.is_stream = true;
        self.bodies = vec![body(model, PROMPT, true)];
        self
    }

    pub(crate) fn models(mut self, models: &[String]) -> Self {
        self.bodies = models.iter().map(|model| body(model, PROMPT, false)).collect();
        self
    }

    pub(crate) fn prompt(mut self, length: usize) -> Self {
        self.bodies = vec![body("bench", length, false)];
        self
    }

    pub(crate) fn rate(mut self, per_second: f64) -> Self {
        self.rate = Some(per_second);
        self
    }

    /// For what is not measured by time.
    pub(crate) fn brief(mut self) -> Self {
        self.warm_up = Duration::ZERO;
        self.span = Duration::from_secs(1);
        self
    }

    /// So many requests.
    pub(crate) fn most(mut self, requests: usize) -> Self {
        self.warm_up = Duration::ZERO;
        self.most = u64::try_from(requests).ok();
        self
    }
}

/// A request whose prompt has `length` bytes.
pub(crate) fn body(model: &str, length: usize, is_stream: bool) -> Bytes {
    let prompt: String = SENTENCE.chars().cycle().take(length).collect();
    let mut body = json!({
        "model": model,
        "messages": [
            {"role": "system", "content": "You are a helpful assistant that answers briefly and exactly."},
            {"role": "user", "content": prompt},
        ],
        "temperature": 0.7,
        "max_tokens": 256,
    });
    if let (true, Some(members)) = (is_stream, body.as_object_mut()) {
        members.insert("stream".to_owned(), true.into());
        members.insert("stream_options".to_owned(), json!({"include_usage": true}));
    }
    body.to_string().into()
}
