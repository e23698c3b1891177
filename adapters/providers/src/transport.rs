//! The only upstream HTTP of the gateway: no proxies, no redirects, no decompression, one address policy, one TLS set-up.
//!
//! Two clients, because a request that stays in one protocol is most of the traffic: a pool of our own around hyper carries it
//! for less than reqwest costs; reqwest is under the SSE client of the crossing lane and under downloads.

use std::{
    error::Error,
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use ai4free_ports::{
    error::{ProviderError, ProviderErrorKind, Source},
    request::Rope,
};
use bytes::Bytes;
use http::{Request, Response, Uri};
use hyper::body::Body;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use tokio::sync::OnceCell;
use tower_service::Service;

use crate::{
    addresses::{AddressPolicy, PolicyResolver},
    request_body::RequestBody,
};

mod pool;

pub(crate) use self::pool::PooledBody;
use self::pool::{NotAnswered, Pool};

/// Sent as `user-agent`.
pub(crate) const USER_AGENT: &str = concat!("ai4free/", env!("CARGO_PKG_VERSION"));

/// Cap on a reply that is read whole, in bytes.
pub(crate) const MAX_WHOLE_REPLY: usize = 32 << 20;

/// Of reqwest's: as [`Pool`] has them.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(50);
const POOL_MAX_IDLE_PER_HOST: usize = 256;

type Connector = HttpConnector<PolicyResolver>;
type PlainPool = Pool<ConnectTimeout<Connector>>;
type SecurePool = Pool<ConnectTimeout<HttpsConnector<Connector>>>;

/// What all upstreams share: the TLS set-up. Trust roots are loaded when the first https upstream is called.
#[derive(Default)]
pub struct Transport {
    tls: OnceCell<rustls::ClientConfig>,
}

impl Transport {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    async fn tls(&self) -> Result<rustls::ClientConfig, Source> {
        let load = || async { tokio::task::spawn_blocking(|| tls_config(trust_roots())).await? };
        self.tls.get_or_try_init(load).await.cloned()
    }
}

/// The connections to one provider. A pool of its own, so that one provider can't take another's.
pub(crate) struct UpstreamClient {
    transport: Arc<Transport>,
    connect_timeout: Duration,
    plain: PlainPool,
    secure: OnceCell<SecurePool>,
    plain_reqwest: OnceCell<reqwest::Client>,
    secure_reqwest: OnceCell<reqwest::Client>,
    download: OnceCell<reqwest::Client>,
}

impl UpstreamClient {
    pub(crate) fn new(transport: Arc<Transport>, connect_timeout: Duration) -> Self {
        let connector = ConnectTimeout { inner: tcp_connector(), limit: connect_timeout };
        Self {
            transport,
            connect_timeout,
            plain: Pool::new(connector),
            secure: OnceCell::new(),
            plain_reqwest: OnceCell::new(),
            secure_reqwest: OnceCell::new(),
            download: OnceCell::new(),
        }
    }

    /// Sends a request once. Resolves at the response's head; dropping the future or the body closes the connection.
    pub(crate) async fn send(&self, request: Request<RequestBody>) -> Result<Response<PooledBody>, ProviderError> {
        let sent = request.body().sent();
        let response = if is_https(request.uri()) {
            let pool = self.secure.get_or_try_init(|| self.secure_pool()).await;
            pool.map_err(not_connected)?.send(request).await
        } else {
            self.plain.send(request).await
        };
        response.map_err(|NotAnswered { source, is_connected }| transport_error(source, is_connected && sent.get()))
    }

    /// The client under the crossing lane's SSE client.
    pub(crate) async fn reqwest(&self, uri: &Uri) -> Result<reqwest::Client, ProviderError> {
        let build = |tls| self.reqwest_client(tls, AddressPolicy::Configured);
        let client = if is_https(uri) {
            self.secure_reqwest.get_or_try_init(|| async { build(self.transport.tls().await?) }).await
        } else {
            let no_roots = rustls::RootCertStore::empty;
            self.plain_reqwest.get_or_try_init(|| async { build(tls_config(no_roots())?) }).await
        };
        client.cloned().map_err(not_connected)
    }

    /// For URLs that a provider wrote: https to public addresses only.
    pub(crate) async fn download(&self, url: url::Url) -> Result<reqwest::Response, ProviderError> {
        let is_allowed =
            url.scheme() == "https" && url.host_str().is_some_and(|host| AddressPolicy::Public.allows_literal(host));
        if !is_allowed {
            return Err(ProviderError::new(ProviderErrorKind::Protocol).caused_by("not a URL that may be downloaded"));
        }
        let build = || async { self.reqwest_client(self.transport.tls().await?, AddressPolicy::Public) };
        let client = self.download.get_or_try_init(build).await.map_err(not_connected)?;
        client.get(url).send().await.map_err(reqwest_error)
    }

    async fn secure_pool(&self) -> Result<SecurePool, Source> {
        let tls = self.transport.tls().await?;
        let https = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_only()
            .enable_http1()
            .wrap_connector(tcp_connector());
        Ok(Pool::new(ConnectTimeout { inner: https, limit: self.connect_timeout }))
    }

    fn reqwest_client(&self, tls: rustls::ClientConfig, policy: AddressPolicy) -> Result<reqwest::Client, Source> {
        let builder = reqwest::Client::builder()
            .use_preconfigured_tls(tls)
            .dns_resolver(Arc::new(PolicyResolver::new(policy)))
            .connect_timeout(self.connect_timeout)
            .pool_idle_timeout(POOL_IDLE_TIMEOUT)
            .pool_max_idle_per_host(POOL_MAX_IDLE_PER_HOST)
            .tcp_nodelay(true)
            .http1_only()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .user_agent(USER_AGENT);
        Ok(builder.build()?)
    }
}

/// Reads a body to its end, but no more than `cap` bytes of it.
pub(crate) async fn collect<B>(body: B, cap: usize) -> Result<Bytes, ProviderError>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Source>,
{
    let mut body = std::pin::pin!(body);
    let expected = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if expected > cap {
        return Err(too_large());
    }
    let (mut pieces, mut length) = (Rope::default(), 0_usize);
    while let Some(frame) = std::future::poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
        let Ok(data) = frame.map_err(|error| transport_error(error, true))?.into_data() else { continue };
        length = length.saturating_add(data.len());
        if length > cap {
            return Err(too_large());
        }
        pieces.0.push(data);
        if body.is_end_stream() {
            break;
        }
    }
    Ok(pieces.into_bytes())
}

/// A connection failed or broke.
pub(crate) fn transport_error(source: impl Into<Source>, request_was_sent: bool) -> ProviderError {
    let source = source.into();
    let kind = if is_timeout(&*source) { ProviderErrorKind::Timeout } else { ProviderErrorKind::Transport };
    ProviderError { request_was_sent, ..ProviderError::new(kind) }.caused_by(source)
}

/// The same for reqwest, which has an error type of its own for timeouts, and would otherwise print the URL.
pub(crate) fn reqwest_error(error: reqwest::Error) -> ProviderError {
    let request_was_sent = !error.is_connect() && !error.is_builder();
    let kind = if error.is_timeout() { ProviderErrorKind::Timeout } else { ProviderErrorKind::Transport };
    ProviderError { request_was_sent, ..ProviderError::new(kind) }.caused_by(error.without_url())
}

fn not_connected(source: Source) -> ProviderError {
    transport_error(source, false)
}

fn too_large() -> ProviderError {
    ProviderError::new(ProviderErrorKind::Protocol).caused_by("the provider's reply is too large")
}

fn is_https(uri: &Uri) -> bool {
    uri.scheme() == Some(&http::uri::Scheme::HTTPS)
}

fn is_timeout(error: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::TimedOut) {
            return true;
        }
        cause = error.source();
    }
    false
}

fn tcp_connector() -> Connector {
    let mut connector = HttpConnector::new_with_resolver(PolicyResolver::new(AddressPolicy::Configured));
    connector.set_nodelay(true);
    connector.enforce_http(false);
    connector
}

/// The machine's trust roots; Mozilla's where it has none (an image built from nothing).
fn trust_roots() -> rustls::RootCertStore {
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    roots
}

fn tls_config(roots: rustls::RootCertStore) -> Result<rustls::ClientConfig, Source> {
    // Named, not taken from the process: a second crypto provider in the build would make the default ambiguous.
    let ring = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(ring).with_safe_default_protocol_versions()?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

/// Bounds look-up, TCP and TLS together.
#[derive(Clone)]
struct ConnectTimeout<C> {
    inner: C,
    limit: Duration,
}

impl<C> Service<Uri> for ConnectTimeout<C>
where
    C: Service<Uri>,
    C::Future: Send + 'static,
    C::Error: Into<Source>,
{
    type Response = C::Response;
    type Error = Source;
    type Future = Pin<Box<dyn Future<Output = Result<C::Response, Source>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Source>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connected = tokio::time::timeout(self.limit, self.inner.call(uri));
        Box::pin(async move {
            match connected.await {
                Ok(result) => result.map_err(Into::into),
                Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "connecting took too long").into()),
            }
        })
    }
}

#[cfg(test)]
mod tests;
