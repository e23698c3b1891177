//! The SSE client of the crossing lane, with what makes it safe for a POST.
//!
//! By its default policy reqwest-eventsource sends the request again after every end of a stream, for ever: so it never
//! retries here, and it is closed at the first error. It buffers an unfinished event without a bound of its own; a finished
//! one above [`MAX_EVENT`] is refused, and the idle deadline ends one that doesn't finish.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use ai4free_ports::error::{ProviderError, ProviderErrorKind};
use bytes::{BufMut, Bytes, BytesMut};
use futures_core::Stream;
use futures_util::StreamExt;
use http::{HeaderMap, Response, Uri, header::ACCEPT};
use reqwest_eventsource::{Error, Event, EventSource, retry};

use crate::transport;

/// Cap on one event, in bytes. The largest that providers send are images of about 10 MiB.
const MAX_EVENT: usize = 16 << 20;

pub(crate) enum Opened {
    Events(Box<Events>),
    /// Another status than 200, or another content type.
    Other(Response<reqwest::Body>),
}

/// Sends the request once and waits for the head of the response.
pub(crate) async fn open(
    client: &reqwest::Client,
    url: &Uri,
    mut headers: HeaderMap,
    body: Bytes,
) -> Result<Opened, ProviderError> {
    headers.remove(ACCEPT); // EventSource adds its own
    let request = client.post(url.to_string()).headers(headers).body(body);
    let mut source = EventSource::new(request)
        .map_err(|_| ProviderError::new(ProviderErrorKind::Protocol).caused_by("the request can't be cloned"))?;
    source.set_retry_policy(Box::new(retry::Never));
    match source.next().await {
        Some(Ok(Event::Open)) => Ok(Opened::Events(Box::new(Events { source }))),
        Some(Err(Error::InvalidStatusCode(_, response) | Error::InvalidContentType(_, response))) => {
            Ok(Opened::Other(response.into()))
        }
        Some(Err(error)) => Err(event_error(error)),
        Some(Ok(Event::Message(_))) | None => Err(event_error(Error::StreamEnded)),
    }
}

/// Whole events in the one form that every reader of the protocol takes: `data:` lines and a blank one.
pub(crate) struct Events {
    source: EventSource,
}

impl Stream for Events {
    type Item = Result<Bytes, ProviderError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let source = &mut self.get_mut().source;
        let event = ready!(source.poll_next_unpin(cx));
        Poll::Ready(match event {
            // The end of the body, not yet of the reply: the reader knows whether it was complete.
            None | Some(Err(Error::StreamEnded)) => None,
            Some(Ok(Event::Open)) => Some(Ok(Bytes::new())),
            Some(Ok(Event::Message(message))) if message.data.len() > MAX_EVENT => {
                source.close();
                let error = ProviderError::new(ProviderErrorKind::Protocol);
                Some(Err(error.caused_by("an event of the provider's stream is too large")))
            }
            Some(Ok(Event::Message(message))) => Some(Ok(framed(&message.event, &message.data))),
            Some(Err(error)) => {
                source.close();
                Some(Err(event_error(error)))
            }
        })
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.source.close();
    }
}

fn framed(name: &str, data: &str) -> Bytes {
    let mut event = BytesMut::with_capacity(name.len() + data.len() + 16);
    // `message` is what an event without a name is called.
    if name != "message" {
        event.put_slice(b"event: ");
        event.put_slice(name.as_bytes());
        event.put_u8(b'\n');
    }
    for line in data.split('\n') {
        event.put_slice(b"data: ");
        event.put_slice(line.as_bytes());
        event.put_u8(b'\n');
    }
    event.put_u8(b'\n');
    event.freeze()
}

fn event_error(error: Error) -> ProviderError {
    match error {
        Error::Transport(error) => transport::reqwest_error(error),
        // The texts of the others hold pieces of the stream, or the response with its URL.
        Error::Utf8(_) => ProviderError::new(ProviderErrorKind::Protocol).caused_by("the stream is not UTF-8"),
        _ => ProviderError::new(ProviderErrorKind::Protocol).caused_by("the stream is not an event stream"),
    }
}
