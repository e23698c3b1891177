//! HTTP/1 connections that are kept for the next request.
//!
//! Our own: hyper-util's client starts a task for each response, to see its connection become free again, and prepares a new
//! connection beside each free one.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, Once, PoisonError, Weak},
    task::{Context, Poll, ready},
    time::Duration,
};

use ai4free_ports::error::Source;
use bytes::Bytes;
use http::{HeaderValue, Request, Response, Uri, header::HOST, uri::Authority};
use hyper::{
    body::{Body, Frame, Incoming, SizeHint},
    client::conn::http1::{self, SendRequest},
    rt::{Read, Write},
};
use tokio::time::Instant;
use tower_service::Service;

use crate::request_body::RequestBody;

/// Idle connections are closed before common load balancers close them (60 s): a request written into a connection that is
/// just being closed is lost, and is not sent again.
const IDLE_TIMEOUT: Duration = Duration::from_secs(50);
const MAX_IDLE_PER_HOST: usize = 256;

/// Connections of one kind (plain or TLS), by host and port.
pub(crate) struct Pool<C> {
    connector: C,
    idle: Arc<Idle>,
    /// Begins with the first connection.
    sweeping: Once,
}

/// Why there is no response.
pub(crate) struct NotAnswered {
    pub(crate) source: Source,
    /// Whether there was a connection to send the request on.
    pub(crate) is_connected: bool,
}

impl<C> Pool<C>
where
    C: Service<Uri> + Clone,
    C::Response: Read + Write + Send + Unpin + 'static,
    C::Error: Into<Source>,
{
    pub(crate) fn new(connector: C) -> Self {
        Self { connector, idle: Arc::default(), sweeping: Once::new() }
    }

    /// Sends a request once. One that a kept connection hands back, because it was closed before it took it, goes to another.
    pub(crate) async fn send(&self, mut request: Request<RequestBody>) -> Result<Response<PooledBody>, NotAnswered> {
        let not_connected = |source: Source| NotAnswered { source, is_connected: false };
        let uri = std::mem::take(request.uri_mut());
        let host = uri.authority().cloned().ok_or_else(|| not_connected("a URL without a host".into()))?;
        *request.uri_mut() = uri.path_and_query().cloned().map_or_else(Uri::default, Uri::from);
        if !request.headers().contains_key(HOST) {
            let name = HeaderValue::try_from(host.as_str()).map_err(|error| not_connected(error.into()))?;
            request.headers_mut().insert(HOST, name);
        }
        loop {
            let kept = self.idle.take(&host);
            let was_kept = kept.is_some();
            let mut sender = match kept {
                Some(sender) => sender,
                None => self.connect(uri.clone()).await.map_err(not_connected)?,
            };
            let mut error = match sender.try_send_request(request).await {
                Ok(response) => {
                    let place = Place { idle: self.idle.clone(), host };
                    return Ok(response.map(|body| PooledBody::new(body, sender, place)));
                }
                Err(error) => error,
            };
            match error.take_message().filter(|_| was_kept) {
                Some(unsent) => request = unsent,
                None => return Err(NotAnswered { source: error.into_error().into(), is_connected: true }),
            }
        }
    }

    async fn connect(&self, uri: Uri) -> Result<SendRequest<RequestBody>, Source> {
        let mut connector = self.connector.clone();
        std::future::poll_fn(|cx| connector.poll_ready(cx)).await.map_err(Into::into)?;
        let io = connector.call(uri).await.map_err(Into::into)?;
        let (mut sender, connection) = http1::handshake(io).await?;
        #[expect(clippy::disallowed_methods, reason = "one task a connection, which ends with it")]
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "an upstream connection ended");
            }
        });
        sender.ready().await?;
        let idle = Arc::downgrade(&self.idle);
        #[expect(clippy::disallowed_methods, reason = "one task a pool, which ends with it")]
        self.sweeping.call_once(|| drop(tokio::spawn(sweep(idle))));
        Ok(sender)
    }
}

/// Closes what nobody has used for too long.
async fn sweep(idle: Weak<Idle>) {
    loop {
        tokio::time::sleep(IDLE_TIMEOUT).await;
        let Some(idle) = idle.upgrade() else { return };
        let now = now();
        idle.by_host().retain(|_, kept| {
            kept.retain(|kept| kept.is_good(now));
            !kept.is_empty()
        });
    }
}

#[derive(Default)]
struct Idle(Mutex<HashMap<Authority, Vec<Kept>>>);

struct Kept {
    sender: SendRequest<RequestBody>,
    since: Instant,
}

impl Kept {
    fn is_good(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) < IDLE_TIMEOUT && !self.sender.is_closed()
    }
}

impl Idle {
    /// The one that was used last, so that those that are too many get old.
    fn take(&self, host: &Authority) -> Option<SendRequest<RequestBody>> {
        let mut by_host = self.by_host();
        let kept = by_host.get_mut(host)?;
        let now = now();
        while kept.pop_if(|last| !last.is_good(now)).is_some() {}
        // One whose response was given up may still be busy with the rest of it.
        let ready = kept.iter().rposition(|kept| kept.sender.is_ready() && kept.is_good(now))?;
        Some(kept.remove(ready).sender)
    }

    fn put(&self, host: Authority, sender: SendRequest<RequestBody>) {
        let mut by_host = self.by_host();
        let kept = by_host.entry(host).or_default();
        let now = now();
        if kept.len() == MAX_IDLE_PER_HOST {
            // Those of responses that were given up closed only after they had come here.
            kept.retain(|kept| kept.is_good(now));
        }
        if kept.len() < MAX_IDLE_PER_HOST && !sender.is_closed() {
            kept.push(Kept { sender, since: now });
        }
    }

    fn by_host(&self) -> MutexGuard<'_, HashMap<Authority, Vec<Kept>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where a connection is kept.
struct Place {
    idle: Arc<Idle>,
    host: Authority,
}

/// The body of a response. At its end its connection is free for the next request; when it is dropped before, the connection
/// closes, unless the end has already arrived.
pub(crate) struct PooledBody {
    incoming: Incoming,
    connection: Option<(SendRequest<RequestBody>, Place)>,
}

impl PooledBody {
    fn new(incoming: Incoming, sender: SendRequest<RequestBody>, place: Place) -> Self {
        let mut body = Self { incoming, connection: Some((sender, place)) };
        if body.incoming.is_end_stream() {
            body.release();
        }
        body
    }

    fn release(&mut self) {
        if let Some((sender, Place { idle, host })) = self.connection.take() {
            idle.put(host, sender);
        }
    }
}

impl Body for PooledBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let body = self.get_mut();
        let frame = ready!(Pin::new(&mut body.incoming).poll_frame(cx));
        match &frame {
            Some(Ok(_)) if !body.incoming.is_end_stream() => {}
            Some(Ok(_)) | None => body.release(),
            Some(Err(_)) => body.connection = None,
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

impl Drop for PooledBody {
    fn drop(&mut self) {
        self.release();
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "how long a connection is idle is told by tokio's clock, as its timers are"
)]
fn now() -> Instant {
    Instant::now()
}
