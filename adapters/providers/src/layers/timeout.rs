//! Ends an attempt that takes too long, in whichever of three ways.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use ai4free_ports::{
    error::{ProviderError, ProviderErrorKind},
    llm_provider::{Call, CredentialInfo, Frame, FrameStream, LlmProvider, Reply},
    request::Operation,
    runtime::Timestamp,
};
use async_trait::async_trait;
use futures_core::Stream;
use tokio::time::{Instant, Sleep};

use crate::frames::is_empty;

/// The deadlines of [`Call`]: before the first event an `Err`, in a stream an error as its last item. What is inside is
/// dropped with it.
pub struct Timeout<P> {
    inner: P,
}

impl<P> Timeout<P> {
    #[must_use]
    pub fn new(inner: P) -> Self {
        Self { inner }
    }
}

#[async_trait]
impl<P: LlmProvider> LlmProvider for Timeout<P> {
    fn credentials(&self) -> &[CredentialInfo] {
        self.inner.credentials()
    }

    fn resting_until(&self, credential: usize) -> Option<Timestamp> {
        self.inner.resting_until(credential)
    }

    async fn call(&self, call: Call) -> Result<Reply, ProviderError> {
        let deadlines = call.deadlines;
        let is_stream = call.request.view.stream && call.request.operation == Operation::Chat;
        let first = if is_stream { deadlines.first_byte.min(deadlines.total) } else { deadlines.total };
        let end = now() + deadlines.total;
        match tokio::time::timeout(first, self.inner.call(call)).await {
            Err(_) => Err(timed_out(if is_stream { "the first event" } else { "the reply" })),
            Ok(Ok(Reply::Stream(inner))) => Ok(Reply::Stream(Box::pin(Watched::new(inner, end, deadlines.idle)))),
            Ok(other) => other,
        }
    }
}

/// One timer for both deadlines. It is set anew when it fires, not with every event: an event costs one look at the clock.
struct Watched {
    inner: Option<FrameStream>,
    timer: Pin<Box<Sleep>>,
    last_read: Instant,
    idle: Duration,
    end: Instant,
}

impl Watched {
    fn new(inner: FrameStream, end: Instant, idle: Duration) -> Self {
        let last_read = now();
        let timer = Box::pin(tokio::time::sleep_until(end.min(last_read + idle)));
        Self { inner: Some(inner), timer, last_read, idle, end }
    }

    fn give_up(&mut self, awaited: &'static str) -> Poll<Option<Result<Frame, ProviderError>>> {
        self.inner = None;
        Poll::Ready(Some(Err(timed_out(awaited))))
    }
}

impl Stream for Watched {
    type Item = Result<Frame, ProviderError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let watched = self.get_mut();
        loop {
            let Some(inner) = watched.inner.as_mut() else { return Poll::Ready(None) };
            let Poll::Ready(item) = inner.as_mut().poll_next(cx) else { break };
            watched.last_read = now();
            let is_last = match &item {
                Some(Ok(frame)) => frame.facts.done,
                Some(Err(_)) | None => true,
            };
            if is_last {
                watched.inner = None;
            } else if watched.last_read >= watched.end {
                // A stream that always has something ready never lets the timer speak.
                return watched.give_up("the end of the stream");
            }
            // A read without anything for the client (a comment) is a sign of life and no more.
            if !matches!(&item, Some(Ok(frame)) if is_empty(frame)) {
                return Poll::Ready(item);
            }
        }
        while watched.timer.as_mut().poll(cx).is_ready() {
            let now = now();
            if now >= watched.end {
                return watched.give_up("the end of the stream");
            }
            let silent_until = watched.last_read + watched.idle;
            if now >= silent_until {
                return watched.give_up("the next event");
            }
            watched.timer.as_mut().reset(watched.end.min(silent_until));
        }
        Poll::Pending
    }
}

#[expect(clippy::disallowed_methods, reason = "the timer runs on tokio's clock, so the deadline must be read from it")]
fn now() -> Instant {
    Instant::now()
}

fn timed_out(awaited: &'static str) -> ProviderError {
    ProviderError::new(ProviderErrorKind::Timeout).caused_by(format!("gave up waiting for {awaited}"))
}
