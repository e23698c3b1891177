//! The body of a response as hyper sends it.

use std::{
    convert::Infallible,
    io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_core::Stream;
use http_body_util::{Full, combinators::BoxBody};
use hyper::body::{Body, Frame, SizeHint};

use crate::http::sse::SseStream;

/// One of three, so that what most responses hold need not be boxed.
pub(super) enum ReplyBody {
    Whole(Full<Bytes>),
    Events(SseStream),
    /// Of poem's making.
    Framework(BoxBody<Bytes, io::Error>),
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match self.get_mut() {
            Self::Whole(body) => {
                Pin::new(body).poll_frame(context).map(|frame| frame.map(|frame| frame.map_err(no_error)))
            }
            Self::Events(events) => {
                Pin::new(events).poll_next(context).map(|bytes| bytes.map(|bytes| bytes.map(Frame::data)))
            }
            Self::Framework(body) => Pin::new(body).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(body) => body.is_end_stream(),
            Self::Events(_) => false,
            Self::Framework(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(body) => body.size_hint(),
            Self::Events(_) => SizeHint::default(),
            Self::Framework(body) => body.size_hint(),
        }
    }
}

fn no_error(error: Infallible) -> io::Error {
    match error {}
}
