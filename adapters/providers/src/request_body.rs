//! A request's body as hyper sends it: the rope's slices, one after the other, never joined.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use ai4free_ports::request::Rope;
use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

pub(crate) struct RequestBody {
    pieces: std::vec::IntoIter<Bytes>,
    left: u64,
    sent: Sent,
}

impl RequestBody {
    /// Whether all of it was handed over for sending.
    pub(crate) fn sent(&self) -> Sent {
        self.sent.clone()
    }
}

impl From<Rope> for RequestBody {
    fn from(mut rope: Rope) -> Self {
        rope.0.retain(|piece| !piece.is_empty());
        let left = u64::try_from(rope.length()).unwrap_or(u64::MAX);
        // A request without a body is sent as soon as it has a connection.
        Self { pieces: rope.0.into_iter(), left, sent: Sent(Arc::new(AtomicBool::new(left == 0))) }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let body = self.get_mut();
        let piece = body.pieces.next().inspect(|piece| {
            body.left = body.left.saturating_sub(u64::try_from(piece.len()).unwrap_or(u64::MAX));
            if body.left == 0 {
                body.sent.0.store(true, Ordering::Relaxed);
            }
        });
        Poll::Ready(piece.map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// Watches a body from outside: hyper keeps the body itself.
#[derive(Clone)]
pub(crate) struct Sent(Arc<AtomicBool>);

impl Sent {
    pub(crate) fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
