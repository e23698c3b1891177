//! A client that writes exactly the bytes that it is told to, and hands out what comes back as it comes.

use std::{net::SocketAddr, time::Duration};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::eventually::in_time;

#[derive(Clone)]
pub(crate) struct Request {
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

pub(crate) fn get(target: &str) -> Request {
    Request { method: "GET".into(), target: target.into(), headers: Vec::new(), body: Vec::new() }
}

pub(crate) fn delete(target: &str) -> Request {
    Request { method: "DELETE".into(), ..get(target) }
}

pub(crate) fn post(target: &str, body: &Value) -> Request {
    Request { method: "POST".into(), ..get(target) }.header("content-type", "application/json").body(body.to_string())
}

pub(crate) fn patch(target: &str, body: &Value) -> Request {
    Request { method: "PATCH".into(), ..post(target, body) }
}

impl Request {
    pub(crate) fn method(mut self, method: &str) -> Self {
        method.clone_into(&mut self.method);
        self
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.retain(|(known, _)| known != name);
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn without_header(mut self, name: &str) -> Self {
        self.headers.retain(|(known, _)| known != name);
        self
    }

    pub(crate) fn key(self, key: &str) -> Self {
        self.header("authorization", &format!("Bearer {key}"))
    }

    pub(crate) fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// The whole exchange.
    pub(crate) async fn send(&self, address: SocketAddr) -> Response {
        in_time("a response", async { self.open(address).await.whole().await }).await
    }

    /// Sends, and reads the head of the response.
    pub(crate) async fn open(&self, address: SocketAddr) -> Exchange {
        self.start(address).await.head().await
    }

    /// Only sends.
    pub(crate) async fn start(&self, address: SocketAddr) -> Connection {
        self.start_on(Connection::to(address).await).await
    }

    /// Only sends, on a connection whose last response has ended.
    pub(crate) async fn start_on(&self, mut connection: Connection) -> Connection {
        let address = connection.stream.peer_addr().unwrap();
        connection.write(&self.bytes(address)).await;
        connection
    }

    fn bytes(&self, address: SocketAddr) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/1.1\r\nhost: {address}\r\n", self.method, self.target);
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if !self.body.is_empty() || self.method == "POST" {
            head.push_str(&format!("content-length: {}\r\n", self.body.len()));
        }
        head.push_str("\r\n");
        [head.as_bytes(), &self.body].concat()
    }
}

/// An open connection, before the response.
pub(crate) struct Connection {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Connection {
    pub(crate) async fn to(address: SocketAddr) -> Self {
        let stream = in_time("a connection", TcpStream::connect(address)).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, read: Vec::new() }
    }

    /// A server may answer and close before it has read everything: that shows in the response.
    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes).await;
    }

    pub(crate) async fn head(mut self) -> Exchange {
        loop {
            if let Some(end) = find(&self.read, b"\r\n\r\n") {
                let head = String::from_utf8(self.read.drain(..end + 4).collect()).unwrap();
                return Exchange::new(self, &head);
            }
            let count = in_time("the head of a response", self.more()).await;
            assert!(count > 0, "closed before the head of a response: {:?}", String::from_utf8_lossy(&self.read));
        }
    }

    /// What comes until the connection is closed.
    pub(crate) async fn until_closed(mut self) -> Vec<u8> {
        in_time("the end of a connection", async { while self.more().await > 0 {} }).await;
        self.read
    }

    /// Closes with a FIN.
    pub(crate) fn close(self) {}

    /// Closes with a RST.
    pub(crate) fn reset(self) {
        self.stream.set_zero_linger().unwrap();
    }

    /// Nothing more, or a reset, is 0.
    async fn more(&mut self) -> usize {
        self.stream.read_buf(&mut self.read).await.unwrap_or(0)
    }
}

/// A response whose body is still on its way.
pub(crate) struct Exchange {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    connection: Connection,
    framing: Framing,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Framing {
    Length(usize),
    Chunked,
    Ended,
}

impl Exchange {
    fn new(connection: Connection, head: &str) -> Self {
        let mut lines = head.lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect();
        let framing = match header(&headers, "content-length") {
            _ if header(&headers, "transfer-encoding") == Some("chunked") => Framing::Chunked,
            Some(length) => Framing::Length(length.parse().unwrap()),
            None => Framing::Length(0),
        };
        Self { status, headers, connection, framing }
    }

    /// The next piece of the body; empty at its end.
    pub(crate) async fn piece(&mut self) -> Vec<u8> {
        in_time("a piece of a body", self.next_piece()).await.expect("the body broke off")
    }

    /// Reads on until the body holds this text. Returns everything that was read for it.
    pub(crate) async fn until(&mut self, text: &str) -> String {
        let mut read = Vec::new();
        while find(&read, text.as_bytes()).is_none() {
            let piece = self.piece().await;
            assert!(!piece.is_empty(), "the body ended without {text:?}: {:?}", String::from_utf8_lossy(&read));
            read.extend(piece);
        }
        String::from_utf8(read).unwrap()
    }

    pub(crate) async fn whole(mut self) -> Response {
        let mut body = Vec::new();
        loop {
            let piece = self.piece().await;
            if piece.is_empty() {
                return Response { status: self.status, headers: self.headers, body };
            }
            body.extend(piece);
        }
    }

    pub(crate) fn into_connection(self) -> Connection {
        self.connection
    }

    /// `None`: the connection was closed within the body.
    async fn next_piece(&mut self) -> Option<Vec<u8>> {
        loop {
            match self.framing {
                Framing::Ended | Framing::Length(0) => return Some(Vec::new()),
                Framing::Length(left) if !self.connection.read.is_empty() => {
                    let count = left.min(self.connection.read.len());
                    self.framing = Framing::Length(left - count);
                    return Some(self.connection.read.drain(..count).collect());
                }
                Framing::Chunked => {
                    if let Some(chunk) = take_chunk(&mut self.connection.read) {
                        if chunk.is_empty() {
                            self.framing = Framing::Ended;
                        }
                        return Some(chunk);
                    }
                }
                Framing::Length(_) => {}
            }
            if self.connection.more().await == 0 {
                return None;
            }
        }
    }
}

pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Response {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        header(&self.headers, name)
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {:?}", self.text()))
    }

    /// The body of a success.
    pub(crate) fn success(&self) -> Value {
        assert_eq!(self.status, 200, "{}", self.text());
        self.json()
    }

    /// The `error` of an answer with this status, after all that holds for every error.
    pub(crate) fn error(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", String::from_utf8_lossy(&self.body));
        let error = self.any_error();
        let kinds: &[&str] = match status {
            429 => &["requests", "tokens", "insufficient_quota", "invalid_request_error"],
            500.. => &["server_error"],
            _ => &["invalid_request_error"],
        };
        assert!(kinds.contains(&error["type"].as_str().unwrap()), "{error}");
        error
    }

    /// What holds for every error, whatever its status.
    pub(crate) fn any_error(&self) -> Value {
        let body = self.json();
        assert_eq!(self.header("content-type").map(|text| text.split(';').next().unwrap()), Some("application/json"));
        assert!(self.header("x-request-id").is_some_and(|id| id.starts_with("req_")), "{:?}", self.headers);
        assert_eq!(body.as_object().unwrap().len(), 1, "{body}");
        let error = &body["error"];
        let names: Vec<&String> = error.as_object().unwrap().keys().collect();
        assert_eq!(names, ["message", "type", "param", "code"]);
        assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()), "{error}");
        assert!(error["type"].is_string(), "{error}");
        assert!(error["param"].is_string() || error["param"].is_null(), "{error}");
        assert!(error["code"].is_string() || error["code"].is_null(), "{error}");
        error.clone()
    }

    pub(crate) fn retry_after(&self) -> Option<Duration> {
        Some(Duration::from_secs(self.header("retry-after")?.parse().unwrap()))
    }
}

fn header<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers.iter().find(|(known, _)| known == name).map(|(_, value)| &**value)
}

pub(crate) fn find(bytes: &[u8], pattern: &[u8]) -> Option<usize> {
    bytes.windows(pattern.len()).position(|window| window == pattern)
}

/// One whole chunk, if there is one; empty for the last.
fn take_chunk(read: &mut Vec<u8>) -> Option<Vec<u8>> {
    let line = find(read, b"\r\n")?;
    let length = usize::from_str_radix(std::str::from_utf8(&read[..line]).unwrap(), 16).unwrap();
    if read.len() < line + 2 + length + 2 {
        return None;
    }
    let chunk = read[line + 2..line + 2 + length].to_vec();
    read.drain(..line + 2 + length + 2);
    Some(chunk)
}
