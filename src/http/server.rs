//! The accept loop, around the poem application.
//!
//! Our own, because what poem 3.1 ships was measured to miss a client's FIN while nothing is being written (so a provider goes
//! on generating for nobody), to have no deadline for a request's head, to spin when file descriptors run out, and to leave
//! Nagle's algorithm on (40 ms between the chunks of a stream).

use std::{
    convert::Infallible,
    fmt::Write,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ai4free_ports::{
    request::RequestId,
    runtime::{Clock, IdSource},
};
use bytes::BytesMut;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
};
use poem::http::{HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use tokio::{net::TcpListener, sync::Semaphore};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::http::{
    app::App,
    client_io::{ClientIo, FirstHead},
    context::RequestContext,
    error::ApiError,
    reply_body::ReplyBody,
};

/// Head of a request: bytes, and number of lines.
const MOST_HEAD_BYTES: usize = 64 * 1024;
const MOST_HEADERS: usize = 64;
/// Accepting failed, most likely for want of file descriptors.
const ACCEPT_BACK_OFF: Duration = Duration::from_millis(50);
/// `req_` and 32 digits.
const LENGTH_OF_ID: usize = 36;
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// After the drain's deadline, for the cut streams to say so.
const LAST_WORDS: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug)]
pub struct ServerLimits {
    pub connections: usize,
    /// For the head of a connection's first request.
    pub header_timeout: Duration,
    /// A connection without a further request is closed after this.
    pub keep_alive: Duration,
    /// A response that the client does not read is given up after this.
    pub write_timeout: Duration,
    /// How long open responses may go on after the shutdown has begun.
    pub drain: Duration,
}

pub struct Server {
    pub app: Arc<App>,
    pub limits: ServerLimits,
    pub clock: Arc<dyn Clock>,
    pub ids: Arc<dyn IdSource>,
    /// Cancelled here at the end of the drain; open streams end with an error event.
    pub cut: CancellationToken,
}

impl Server {
    /// The same limits for another application.
    #[must_use]
    pub fn alike(&self, app: App) -> Self {
        Self {
            app: Arc::new(app),
            limits: self.limits,
            clock: self.clock.clone(),
            ids: self.ids.clone(),
            cut: self.cut.clone(),
        }
    }

    /// Serves until `stop` is cancelled, then lets open responses end, at most for the drain.
    pub async fn run(self: Arc<Self>, listener: TcpListener, stop: CancellationToken) {
        let permits = Arc::new(Semaphore::new(self.limits.connections));
        let graceful = GracefulShutdown::new();
        let local = listener.local_addr().ok();
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                accepted = accept(&listener, &permits) => accepted,
            };
            match accepted {
                Ok((stream, peer, permit)) => {
                    let connection = graceful.watch(self.connection(stream, local.unwrap_or(peer), peer));
                    #[expect(
                        clippy::disallowed_methods,
                        reason = "one task a connection; the drain below waits for all of them"
                    )]
                    tokio::spawn(async move {
                        if let Err(error) = connection.await {
                            tracing::debug!(%error, %peer, "connection ended");
                        }
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "can't accept connections");
                    tokio::time::sleep(ACCEPT_BACK_OFF).await;
                }
            }
        }
        drop(listener);
        let mut drained = Box::pin(graceful.shutdown());
        if tokio::time::timeout(self.limits.drain, &mut drained).await.is_err() {
            tracing::warn!("open responses are cut: the drain is over");
            self.cut.cancel();
            let _ended = tokio::time::timeout(LAST_WORDS, drained).await;
        }
    }

    fn connection(
        self: &Arc<Self>,
        stream: tokio::net::TcpStream,
        local: SocketAddr,
        peer: SocketAddr,
    ) -> impl hyper_util::server::graceful::GracefulConnection<Error = hyper::Error> + use<> {
        let server = self.clone();
        let begun = Arc::new(AtomicBool::new(false));
        let first_head = FirstHead::within(self.limits.header_timeout, begun.clone());
        let service = service_fn(move |request| {
            begun.store(true, Ordering::Relaxed);
            let server = server.clone();
            async move { Ok::<_, Infallible>(server.serve(request, local, peer).await) }
        });
        let io = ClientIo::new(stream, first_head, self.limits.write_timeout, self.ids.clone());
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.keep_alive)
            .max_buf_size(MOST_HEAD_BYTES)
            .max_headers(MOST_HEADERS)
            .half_close(false)
            .serve_connection(TokioIo::new(io), service)
    }

    async fn serve(
        &self,
        mut request: hyper::Request<Incoming>,
        local: SocketAddr,
        peer: SocketAddr,
    ) -> hyper::Response<ReplyBody> {
        let id = self.ids.request_id();
        let arrived = self.clock.monotonic();
        let mut response = match check_head(&request) {
            Err(error) => hyper::Response::from(poem::IntoResponse::into_response(error)).map(ReplyBody::Framework),
            Ok(()) => {
                encode_model_path(request.uri_mut());
                // Costs nothing while no trace is exported. The query is left out: an old client may put anything there.
                let span = tracing::info_span!(
                    "http_request",
                    otel.kind = "server",
                    http.request.method = %request.method(),
                    url.path = request.uri().path(),
                    request = %id,
                    http.response.status_code = tracing::field::Empty,
                );
                let context = RequestContext { id, arrived, peer: peer.ip() };
                let response = self.app.respond(request, context, local, peer).instrument(span.clone()).await;
                span.record("http.response.status_code", response.status().as_u16());
                response
            }
        };
        response.headers_mut().insert(REQUEST_ID, header_value(id));
        response
    }
}

fn header_value(id: RequestId) -> HeaderValue {
    let mut text = BytesMut::with_capacity(LENGTH_OF_ID);
    // Bytes that grow take any text, and an id is ASCII.
    let _ = write!(text, "{id}");
    HeaderValue::from_maybe_shared(text.freeze()).unwrap_or_else(|_| HeaderValue::from_static(""))
}

async fn accept(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
) -> io::Result<(tokio::net::TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit)> {
    let permit = permits.clone().acquire_owned().await.map_err(io::Error::other)?;
    let (stream, peer) = listener.accept().await?;
    stream.set_nodelay(true)?;
    Ok((stream, peer, permit))
}

/// What hyper lets through and two parties on the way could read differently. (Of `Content-Length` beside
/// `Transfer-Encoding` it drops the former and closes the connection after the answer, as RFC 9112 §6.3 demands.)
fn check_head(request: &hyper::Request<Incoming>) -> Result<(), ApiError> {
    let headers = request.headers();
    let count = |name| headers.get_all(name).iter().count();
    let malformed = |message| Err(ApiError::new(StatusCode::BAD_REQUEST, message));
    let hosts = count(header::HOST);
    if hosts > 1 || (hosts == 0 && request.version() == hyper::Version::HTTP_11) {
        return malformed("The request must have exactly one Host header.");
    }
    if count(header::AUTHORIZATION) > 1 {
        return malformed("The request must have at most one Authorization header.");
    }
    if *request.method() == Method::CONNECT {
        return Err(ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "This method is not allowed on this URL."));
    }
    Ok(())
}

/// Model ids contain `/`, and a path of the specification has no wildcard: the rest of the path becomes one segment.
fn encode_model_path(uri: &mut Uri) {
    let path = uri.path();
    let Some((lead, model)) =
        ["/v1/models/", "/v1/uptime/"].iter().find_map(|lead| Some((lead, path.strip_prefix(lead)?)))
    else {
        return;
    };
    if !model.contains('/') {
        return;
    }
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let encoded = format!("{lead}{}{query}", model.replace('/', "%2F"));
    if let Ok(encoded) = encoded.parse() {
        *uri = encoded;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slashes_of_a_model_id_become_one_segment() {
        let rewritten = |text: &str| {
            let mut uri: Uri = text.parse().unwrap();
            encode_model_path(&mut uri);
            uri.to_string()
        };
        assert_eq!(rewritten("/v1/models/a/b:c?x=1"), "/v1/models/a%2Fb:c?x=1");
        assert_eq!(rewritten("/v1/uptime/Provider-1%2FDeepSeek"), "/v1/uptime/Provider-1%2FDeepSeek");
        assert_eq!(rewritten("/v1/models"), "/v1/models");
    }
}
