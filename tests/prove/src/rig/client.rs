//! HTTP/1.1 as a client of the gateway speaks it, over a socket that can be left in every way there is.

use std::{io, net::SocketAddr};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

#[derive(Clone)]
pub(crate) struct Request {
    head: String,
    body: Vec<u8>,
}

/// A whole answer.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

/// One connection, used again and again.
pub(crate) struct Connection {
    stream: TcpStream,
    read: Vec<u8>,
}

/// An answer whose head is there and whose body is not yet.
pub(crate) struct Head {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    framing: Framing,
}

#[derive(Clone, Copy)]
enum Framing {
    Left(usize),
    Chunked,
    Ended,
}

impl Request {
    pub(crate) fn new(method: &str, path: &str) -> Self {
        Self { head: format!("{method} {path} HTTP/1.1\r\nhost: gateway\r\n"), body: Vec::new() }
    }

    pub(crate) fn chat(key: &str, body: &Value) -> Self {
        Self::new("POST", "/v1/chat/completions").header("authorization", &format!("Bearer {key}")).json(body)
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.head.push_str(&format!("{name}: {value}\r\n"));
        self
    }

    pub(crate) fn json(mut self, body: &Value) -> Self {
        self.body = body.to_string().into_bytes();
        self.header("content-type", "application/json")
    }

    /// On a connection of its own.
    pub(crate) async fn send(&self, address: SocketAddr) -> io::Result<Reply> {
        Connection::open(address).await?.exchange(self).await
    }

    fn bytes(&self) -> Vec<u8> {
        let head = format!("{}content-length: {}\r\n\r\n", self.head, self.body.len());
        [head.as_bytes(), &self.body].concat()
    }
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        header(&self.headers, name)
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("not JSON: {}", self.text()))
    }

    /// The `code` of an error.
    pub(crate) fn code(&self) -> String {
        let body: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        body["error"]["code"].as_str().unwrap_or_default().to_owned()
    }

    pub(crate) fn retry_after(&self) -> Option<u64> {
        self.header("retry-after")?.parse().ok()
    }

    /// A stream that came to its end.
    pub(crate) fn is_done(&self) -> bool {
        self.body.windows(12).any(|window| window == b"data: [DONE]")
    }
}

impl Head {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        header(&self.headers, name)
    }
}

impl Connection {
    pub(crate) async fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, read: Vec::new() })
    }

    pub(crate) async fn exchange(&mut self, request: &Request) -> io::Result<Reply> {
        self.start(request).await?;
        let mut head = self.head().await?;
        let mut body = Vec::new();
        while let Some(piece) = self.piece(&mut head).await? {
            body.extend(piece);
        }
        Ok(Reply { status: head.status, headers: head.headers, body })
    }

    /// Sends a request and reads nothing.
    pub(crate) async fn start(&mut self, request: &Request) -> io::Result<()> {
        self.stream.write_all(&request.bytes()).await
    }

    pub(crate) async fn head(&mut self) -> io::Result<Head> {
        let end = loop {
            if let Some(end) = self.read.windows(4).position(|window| window == b"\r\n\r\n") {
                break end + 4;
            }
            self.more().await?;
        };
        let text = String::from_utf8_lossy(&self.read.drain(..end).collect::<Vec<_>>()).into_owned();
        let mut lines = text.lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok());
        let status = status.ok_or_else(|| io::Error::other("no status"))?;
        let headers: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect();
        let length = header(&headers, "content-length").and_then(|length| length.parse().ok());
        let framing = match (header(&headers, "transfer-encoding"), length) {
            (Some(_), _) => Framing::Chunked,
            (None, Some(length)) if length > 0 => Framing::Left(length),
            (None, _) => Framing::Ended,
        };
        Ok(Head { status, headers, framing })
    }

    /// The next bytes of the body; `None` at its end.
    pub(crate) async fn piece(&mut self, head: &mut Head) -> io::Result<Option<Vec<u8>>> {
        match head.framing {
            Framing::Ended => Ok(None),
            Framing::Left(left) => {
                if self.read.is_empty() {
                    self.more().await?;
                }
                let piece: Vec<u8> = self.read.drain(..self.read.len().min(left)).collect();
                head.framing = if piece.len() == left { Framing::Ended } else { Framing::Left(left - piece.len()) };
                Ok(Some(piece))
            }
            Framing::Chunked => {
                let end = loop {
                    if let Some(end) = self.read.windows(2).position(|window| window == b"\r\n") {
                        break end;
                    }
                    self.more().await?;
                };
                let size = String::from_utf8_lossy(&self.read[..end]).into_owned();
                let size = usize::from_str_radix(&size, 16).map_err(io::Error::other)?;
                while self.read.len() < end + 2 + size + 2 {
                    self.more().await?;
                }
                let piece: Vec<u8> = self.read.drain(..end + 2 + size + 2).skip(end + 2).take(size).collect();
                if size == 0 {
                    head.framing = Framing::Ended;
                    return Ok(None);
                }
                Ok(Some(piece))
            }
        }
    }

    async fn more(&mut self) -> io::Result<()> {
        match self.stream.read_buf(&mut self.read).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    /// Whether the other side has closed it, as far as this one can know.
    pub(crate) fn is_closed(&self) -> bool {
        let mut byte = [0];
        match self.stream.try_read(&mut byte) {
            Err(error) => error.kind() != io::ErrorKind::WouldBlock,
            Ok(_) => true,
        }
    }

    /// FIN.
    pub(crate) fn close(self) {}

    /// RST.
    pub(crate) fn reset(self) {
        let _ = self.stream.set_zero_linger();
    }

    /// FIN, and goes on reading: what comes until the other side ends.
    pub(crate) async fn half_close(mut self) -> io::Result<usize> {
        self.stream.shutdown().await?;
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest).await
    }
}

fn header<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers.iter().find(|(known, _)| known == name).map(|(_, value)| &**value)
}
