//! One connection, one request at a time.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{
    Request, StatusCode,
    client::conn::http1::{SendRequest, handshake},
};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Opened with the first request, and again after a failure.
pub(crate) struct Connection {
    address: SocketAddr,
    open: Option<SendRequest<Full<Bytes>>>,
}

/// An answer, when its parts came.
pub(crate) struct Answer {
    pub(crate) first_event: Option<Instant>,
    /// Between reads that brought an event.
    pub(crate) gaps: Vec<Duration>,
    pub(crate) events: u64,
    pub(crate) ended: Instant,
}

impl Connection {
    pub(crate) fn to(address: SocketAddr) -> Self {
        Self { address, open: None }
    }

    /// Reads the answer to its end. An answer that is not a success is an error.
    pub(crate) async fn ask(&mut self, request: Request<Full<Bytes>>, is_stream: bool) -> anyhow::Result<Answer> {
        let mut sender = match self.open.take() {
            Some(sender) if !sender.is_closed() => sender,
            _ => self.connect().await?,
        };
        sender.ready().await?;
        let mut answer = sender.send_request(request).await?;
        if answer.status() != StatusCode::OK {
            let body = answer.into_body().collect().await?.to_bytes();
            bail!("{}", String::from_utf8_lossy(&body));
        }
        let mut seen = Answer { first_event: None, gaps: Vec::new(), events: 0, ended: Instant::now() };
        let (mut scan, mut last) = (Scan::default(), None);
        while let Some(frame) = answer.body_mut().frame().await {
            let Ok(data) = frame.context("the answer was cut")?.into_data() else { continue };
            if !is_stream {
                continue;
            }
            let events = scan.read(&data);
            if events > 0 {
                let now = Instant::now();
                seen.events += events;
                seen.first_event.get_or_insert(now);
                seen.gaps.extend(last.replace(now).map(|last: Instant| now - last));
            }
        }
        if is_stream && !scan.is_done() {
            bail!("a stream ended without [DONE]");
        }
        seen.ended = Instant::now();
        self.open = Some(sender);
        Ok(seen)
    }

    /// Sends, and leaves the answer's body as it is.
    pub(crate) async fn open(
        mut self,
        request: Request<Full<Bytes>>,
    ) -> anyhow::Result<hyper::Response<hyper::body::Incoming>> {
        Ok(self.connect().await?.send_request(request).await?)
    }

    async fn connect(&mut self) -> anyhow::Result<SendRequest<Full<Bytes>>> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let (mut sender, connection) = handshake(TokioIo::new(stream)).await?;
        tokio::task::spawn_local(async move {
            // Whoever sends on it learns of its end.
            let _ended = connection.await;
        });
        sender.ready().await?;
        Ok(sender)
    }
}

/// Counts the events of a stream, however it is cut into reads.
#[derive(Default)]
struct Scan {
    is_within_line: bool,
    tail: Vec<u8>,
}

const DONE: &[u8] = b"[DONE]\n\n";

impl Scan {
    /// Every line that is not empty is an event here: the upstream sends no others.
    fn read(&mut self, data: &[u8]) -> u64 {
        let mut events = 0;
        for byte in data {
            let is_end = *byte == b'\n';
            events += u64::from(!is_end && !self.is_within_line);
            self.is_within_line = !is_end;
        }
        self.tail.extend(data.iter().rev().take(DONE.len()).rev());
        let excess = self.tail.len().saturating_sub(DONE.len());
        self.tail.drain(..excess);
        events
    }

    fn is_done(&self) -> bool {
        self.tail == DONE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_counted_however_they_are_cut() {
        let stream = b"data: {\"a\":\"b\"}\n\ndata: {}\n\ndata: [DONE]\n\n";
        for size in 1..stream.len() {
            let mut scan = Scan::default();
            let events: u64 = stream.chunks(size).map(|piece| scan.read(piece)).sum();
            assert_eq!((events, scan.is_done()), (3, true), "in pieces of {size}");
        }
        let mut scan = Scan::default();
        scan.read(b"data: {}\n\n");
        assert!(!scan.is_done());
    }
}
