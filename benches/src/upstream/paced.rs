//! A body whose events are written one at a time.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
    vec::IntoIter,
};

use bytes::Bytes;
use hyper::body::{Body, Frame};
use tokio::time::{Sleep, sleep};

pub(crate) struct Paced {
    events: IntoIter<Bytes>,
    pause: Duration,
    waiting: Option<Pin<Box<Sleep>>>,
    /// Whether hyper has had an occasion to write what it has.
    is_written: bool,
}

impl Paced {
    pub(crate) fn new(events: Vec<Bytes>, pause: Duration) -> Self {
        Self { events: events.into_iter(), pause, waiting: None, is_written: true }
    }
}

impl Body for Paced {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        if let Some(waiting) = &mut this.waiting {
            ready!(waiting.as_mut().poll(context));
            this.waiting = None;
        } else if !this.is_written {
            // Once round the scheduler: hyper writes when there is nothing more to be had.
            this.is_written = true;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let Some(event) = this.events.next() else { return Poll::Ready(None) };
        this.is_written = false;
        if !this.pause.is_zero() && this.events.len() > 0 {
            this.waiting = Some(Box::pin(sleep(this.pause)));
        }
        Poll::Ready(Some(Ok(Frame::data(event))))
    }
}
