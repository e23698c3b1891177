//! An upstream stream, pulled: one read per poll, through a codec, to frames that a client can have as they are.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use ai4free_ports::{
    chat::ChatEvent,
    dialect::{Chunk, Dialect, EventReader, EventWriter, StreamContext, Tap},
    error::{ProviderError, ProviderErrorKind, Source},
    llm_provider::{Facts, Frame, FrameStream},
    request::InboundRequest,
};
use bytes::{Bytes, BytesMut};
use futures_core::Stream;
use hyper::body::Body;

use crate::transport;

/// Upstream bytes to client-ready chunks.
pub(crate) trait Lane: Send + Unpin {
    fn feed(&mut self, read: Bytes) -> Result<Chunk, ProviderError>;
    fn end(&mut self) -> Result<Chunk, ProviderError>;
}

/// Client and provider speak the same protocol: what arrives is verified and forwarded.
pub(crate) struct ByteLane(Box<dyn Tap>);

impl ByteLane {
    pub(crate) fn new(request: &InboundRequest) -> Self {
        Self(request.dialect.tap(stream_context(request)))
    }
}

impl Lane for ByteLane {
    fn feed(&mut self, read: Bytes) -> Result<Chunk, ProviderError> {
        self.0.feed(read)
    }

    fn end(&mut self) -> Result<Chunk, ProviderError> {
        self.0.end()
    }
}

/// They don't: what arrives is read with the one dialect and written with the other.
pub(crate) struct CrossingLane {
    reader: Box<dyn EventReader>,
    writer: Box<dyn EventWriter>,
    events: Vec<ChatEvent>,
}

impl CrossingLane {
    pub(crate) fn new(provider: &dyn Dialect, request: &InboundRequest) -> Self {
        let writer = request.dialect.event_writer(stream_context(request));
        Self { reader: provider.event_reader(), writer, events: Vec::new() }
    }

    fn write_events(&mut self) -> Chunk {
        write_events(&mut *self.writer, self.events.drain(..))
    }
}

impl Lane for CrossingLane {
    fn feed(&mut self, read: Bytes) -> Result<Chunk, ProviderError> {
        self.reader.feed(&read, &mut self.events)?;
        Ok(self.write_events())
    }

    fn end(&mut self) -> Result<Chunk, ProviderError> {
        self.reader.end(&mut self.events)?;
        Ok(self.write_events())
    }
}

/// Dropping it closes the upstream connection.
///
/// A read that holds nothing for the client (a comment, part of an event) makes an empty frame, so that the layer that
/// watches for silence sees that there is none; that layer drops it.
pub(crate) struct Frames<S, L> {
    upstream: Option<S>,
    lane: L,
    held: Option<Frame>,
    /// A lane hands out what is good of a read first: an error behind it is asked for before anything more is read.
    asks_for_rest: bool,
}

impl<S, L> Frames<S, L>
where
    S: Stream<Item = Result<Bytes, ProviderError>> + Send + Unpin + 'static,
    L: Lane + 'static,
{
    /// Waits for the first good event: an error before it can still become an HTTP status, or another attempt elsewhere.
    pub(crate) async fn begin(upstream: S, lane: L) -> Result<FrameStream, ProviderError> {
        let mut frames = Self { upstream: Some(upstream), lane, held: None, asks_for_rest: false };
        loop {
            match std::future::poll_fn(|cx| Pin::new(&mut frames).poll_next(cx)).await.transpose()? {
                Some(frame) if is_empty(&frame) => {}
                Some(frame) => {
                    frames.held = Some(frame);
                    return Ok(Box::pin(frames));
                }
                None => {
                    let empty = ProviderError::new(ProviderErrorKind::Protocol);
                    return Err(empty.caused_by("the provider's stream holds no event"));
                }
            }
        }
    }
}

impl<S, L> Stream for Frames<S, L>
where
    S: Stream<Item = Result<Bytes, ProviderError>> + Unpin,
    L: Lane,
{
    type Item = Result<Frame, ProviderError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let frames = self.get_mut();
        if let Some(frame) = frames.held.take() {
            return Poll::Ready(Some(Ok(frame)));
        }
        let Some(upstream) = frames.upstream.as_mut() else { return Poll::Ready(None) };
        if std::mem::take(&mut frames.asks_for_rest)
            && let Err(error) = frames.lane.feed(Bytes::new())
        {
            frames.upstream = None;
            return Poll::Ready(Some(Err(error)));
        }
        let chunk = match ready!(Pin::new(upstream).poll_next(cx)) {
            Some(read) => {
                frames.asks_for_rest = true;
                read.and_then(|read| frames.lane.feed(read))
            }
            None => {
                frames.upstream = None;
                frames.lane.end()
            }
        };
        // Some upstreams leave the connection open after the end event: nothing is read behind it.
        if chunk.as_ref().map_or(true, |chunk| chunk.facts.done) {
            frames.upstream = None;
        }
        Poll::Ready(Some(chunk.map(|Chunk { bytes, facts }| Frame { bytes, facts })))
    }
}

/// A response's body as the lanes take it.
pub(crate) struct BodyStream<B>(pub(crate) B);

impl<B> Stream for BodyStream<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Source>,
{
    type Item = Result<Bytes, ProviderError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready(match ready!(Pin::new(&mut self.0).poll_frame(cx)) {
            None => None,
            Some(Ok(frame)) => Some(Ok(frame.into_data().unwrap_or_default())),
            Some(Err(error)) => Some(Err(transport::transport_error(error, true))),
        })
    }
}

pub(crate) fn is_empty(frame: &Frame) -> bool {
    frame.bytes.is_empty() && frame.facts == Facts::default()
}

pub(crate) fn stream_context(request: &InboundRequest) -> StreamContext {
    StreamContext { include_usage: request.view.include_usage }
}

pub(crate) fn write_events(writer: &mut dyn EventWriter, events: impl IntoIterator<Item = ChatEvent>) -> Chunk {
    let (mut bytes, mut facts) = (BytesMut::new(), Facts::default());
    for event in events {
        facts.absorb(&writer.write(&event, &mut bytes));
    }
    Chunk { bytes: bytes.freeze(), facts }
}
