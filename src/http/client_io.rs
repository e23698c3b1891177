//! A client's connection, with three things that hyper's server lacks: a deadline for the first request's head that is not the
//! one for idle connections, a deadline for writes that the client does not read, and a body for hyper's own rejections.

use std::{
    future::Future,
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use ai4free_ports::runtime::IdSource;
use bytes::{Buf, Bytes};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::Sleep,
};

pub(super) struct ClientIo {
    stream: TcpStream,
    write_timeout: Duration,
    ids: Arc<dyn IdSource>,
    /// Until the first request has been read.
    first_head: Option<FirstHead>,
    /// Runs while a write waits for the client to read.
    stalled: Option<Pin<Box<Sleep>>>,
    /// Our rejection, on its way in place of hyper's.
    rejection: Option<Rejection>,
}

struct Rejection {
    bytes: Bytes,
    /// The length of what it replaces.
    replaced: usize,
}

/// hyper has one timer for both a head that drips in and a connection that is kept alive. A stranger gets less patience than
/// a client that has been served.
pub(super) struct FirstHead {
    deadline: Pin<Box<Sleep>>,
    /// Set when the first request has been read.
    read: Arc<AtomicBool>,
}

impl FirstHead {
    pub(super) fn within(timeout: Duration, read: Arc<AtomicBool>) -> Self {
        Self { deadline: Box::pin(tokio::time::sleep(timeout)), read }
    }
}

impl ClientIo {
    pub(super) fn new(
        stream: TcpStream,
        first_head: FirstHead,
        write_timeout: Duration,
        ids: Arc<dyn IdSource>,
    ) -> Self {
        Self { stream, write_timeout, ids, first_head: Some(first_head), stalled: None, rejection: None }
    }

    fn check_first_head(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        let Some(first_head) = &mut self.first_head else { return Ok(()) };
        if first_head.read.load(Ordering::Relaxed) {
            self.first_head = None;
            return Ok(());
        }
        match first_head.deadline.as_mut().poll(context) {
            Poll::Ready(()) => {
                Err(io::Error::new(io::ErrorKind::TimedOut, "the head of the request did not arrive in time"))
            }
            Poll::Pending => Ok(()),
        }
    }

    /// Fails a write that has been waiting for too long; otherwise sees to being woken when it has.
    fn watch<T>(&mut self, context: &mut Context<'_>, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if result.is_ready() {
            self.stalled = None;
            return result;
        }
        let timeout = self.write_timeout;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout)));
        ready!(stalled.as_mut().poll(context));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client stopped reading")))
    }

    fn poll_rejection(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        while let Some(rejection) = &mut self.rejection {
            if rejection.bytes.is_empty() {
                let replaced = rejection.replaced;
                self.rejection = None;
                return Poll::Ready(Ok(replaced));
            }
            let written = Pin::new(&mut self.stream).poll_write(context, &rejection.bytes);
            match ready!(self.watch(context, written)) {
                Ok(count) => {
                    if let Some(rejection) = &mut self.rejection {
                        rejection.bytes.advance(count);
                    }
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(0))
    }
}

impl AsyncRead for ClientIo {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.check_first_head(context)?;
        Pin::new(&mut this.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for ClientIo {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.rejection.is_none() {
            this.rejection = rejection_for(bytes, &*this.ids);
        }
        if this.rejection.is_some() {
            return this.poll_rejection(context);
        }
        let written = Pin::new(&mut this.stream).poll_write(context, bytes);
        this.watch(context, written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.rejection.is_none() {
            this.rejection = slices.first().and_then(|first| rejection_for(first, &*this.ids));
        }
        if this.rejection.is_some() {
            return this.poll_rejection(context);
        }
        let written = Pin::new(&mut this.stream).poll_write_vectored(context, slices);
        this.watch(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

/// hyper answers a head that it can't parse by itself: a bare status, without a body. Our own answers all have an
/// `x-request-id`, so a 4xx head without one is hyper's.
fn rejection_for(written: &[u8], ids: &dyn IdSource) -> Option<Rejection> {
    let status = written.strip_prefix(b"HTTP/1.1 4")?.get(..2)?;
    let is_ours = written.windows(13).any(|window| window.eq_ignore_ascii_case(b"x-request-id:"));
    if is_ours || !written.ends_with(b"\r\n\r\n") {
        return None;
    }
    let (line, message) = match status {
        b"31" => ("431 Request Header Fields Too Large", "The header of the request is too large."),
        b"14" => ("414 URI Too Long", "The URL of the request is too long."),
        b"08" => ("408 Request Timeout", "The header of the request did not arrive in time."),
        _ => ("400 Bad Request", "The request is not valid HTTP."),
    };
    let body =
        format!(r#"{{"error":{{"message":"{message}","type":"invalid_request_error","param":null,"code":null}}}}"#);
    let head = format!(
        "HTTP/1.1 {line}\r\ncontent-type: application/json\r\nx-request-id: {}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        ids.request_id(),
        body.len()
    );
    Some(Rejection { bytes: (head + &body).into(), replaced: written.len() })
}

#[cfg(test)]
mod tests {
    use ai4free_ports::request::RequestId;

    use super::*;

    struct Nil;
    impl IdSource for Nil {
        fn request_id(&self) -> RequestId {
            RequestId(uuid::Uuid::nil())
        }
    }

    #[test]
    fn only_the_servers_own_rejections_are_replaced() {
        let bare = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
        let rejection = rejection_for(bare, &Nil).unwrap();
        assert_eq!(rejection.replaced, bare.len());
        assert!(rejection.bytes.starts_with(b"HTTP/1.1 431 ") && rejection.bytes.ends_with(b"\"code\":null}}"));
        for ours in [
            &b"HTTP/1.1 404 Not Found\r\nX-Request-Id: req_1\r\n\r\n"[..],
            b"HTTP/1.1 200 OK\r\n\r\n",
            b"data: HTTP/1.1 400\r\n\r\n",
            b"HTTP/1.1 4",
        ] {
            assert!(rejection_for(ours, &Nil).is_none());
        }
    }
}
