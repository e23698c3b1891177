//! A metered stream as the body of a response. Dropping the body drops the stream, and so the upstream call.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use ai4free_ports::{
    dialect::{Dialect, ErrorPlace},
    error::{ProviderError, ProviderErrorKind},
    llm_provider::FrameStream,
};
use bytes::Bytes;
use futures_core::Stream;
use poem::http::{HeaderName, HeaderValue, header};
use tokio::time::{Interval, MissedTickBehavior};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::http::error;

/// Silence after which a comment is sent, so that no proxy on the way takes the connection for dead.
const KEEP_ALIVE_AFTER: Duration = Duration::from_secs(15);
const KEEP_ALIVE: &[u8] = b": keepalive\n\n";

/// Nothing on the way may keep events or hold them back.
pub(super) fn headers() -> [(HeaderName, HeaderValue); 2] {
    const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");
    let value = HeaderValue::from_static;
    [(header::CACHE_CONTROL, value("no-cache")), (ACCEL_BUFFERING, value("no"))]
}

pub(super) struct SseStream {
    frames: Option<FrameStream>,
    dialect: Arc<dyn Dialect>,
    keep_alive: Interval,
    sent_since_tick: bool,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl SseStream {
    /// `cut` ends the stream with an error event: the server's patience at shutdown is over.
    pub(super) fn new(frames: FrameStream, dialect: Arc<dyn Dialect>, cut: &CancellationToken) -> Self {
        let mut keep_alive = tokio::time::interval(KEEP_ALIVE_AFTER);
        // A client that did not read for a while has missed nothing.
        keep_alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            frames: Some(frames),
            dialect,
            keep_alive,
            // The first tick is immediate; it must not send anything.
            sent_since_tick: true,
            // One of its own: waiting takes a lock of the token, which all streams would share.
            cut: Box::pin(cut.child_token().cancelled_owned()),
        }
    }

    /// An error event, and then the end without `[DONE]`: a client must not take a cut stream for a finished one.
    fn fail(&mut self, error: ProviderError) -> Bytes {
        self.frames = None;
        self.dialect.write_error(&error::provider(error).wire(), ErrorPlace::Stream)
    }
}

/// Never an `Err`: what goes wrong is told in the stream.
impl Stream for SseStream {
    type Item = io::Result<Bytes>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            let Some(frames) = &mut this.frames else { return Poll::Ready(None) };
            let bytes = match frames.as_mut().poll_next(context) {
                Poll::Ready(Some(Ok(frame))) => {
                    if frame.facts.done {
                        this.frames = None;
                    }
                    frame.bytes
                }
                Poll::Ready(Some(Err(error))) => this.fail(error),
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => return this.poll_silence(context),
            };
            if !bytes.is_empty() {
                this.sent_since_tick = true;
                return Poll::Ready(Some(Ok(bytes)));
            }
        }
    }
}

impl SseStream {
    fn poll_silence(&mut self, context: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        if self.cut.as_mut().poll(context).is_ready() {
            let bytes = self.fail(ProviderError::new(ProviderErrorKind::Overloaded));
            return Poll::Ready(Some(Ok(bytes)));
        }
        while self.keep_alive.poll_tick(context).is_ready() {
            if !std::mem::replace(&mut self.sent_since_tick, false) {
                return Poll::Ready(Some(Ok(Bytes::from_static(KEEP_ALIVE))));
            }
        }
        Poll::Pending
    }
}
