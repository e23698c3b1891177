//! The HTTP client of the span exporter.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use opentelemetry_http::{HttpClient, HttpError, hyper::HyperClient};
use rustls::{ClientConfig, RootCertStore, crypto::ring};
use tokio::runtime::Handle;

/// For one POST, with connecting.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);

/// The SDK exports from a thread without a reactor, on which an asynchronous client panics: it runs on ours.
pub(super) struct CollectorClient {
    runtime: Handle,
    inner: Arc<HyperClient<HttpsConnector<HttpConnector>>>,
}

impl CollectorClient {
    /// Its requests run on the current runtime. Collectors in the cluster are plain http, hosted ones https.
    pub(super) fn new() -> Result<Self, rustls::Error> {
        let connector =
            HttpsConnectorBuilder::new().with_tls_config(tls_config()?).https_or_http().enable_http1().build();
        let inner = Arc::new(HyperClient::new(connector, REQUEST_TIMEOUT, None));
        Ok(Self { runtime: Handle::current(), inner })
    }
}

impl fmt::Debug for CollectorClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CollectorClient").finish_non_exhaustive()
    }
}

#[async_trait]
impl HttpClient for CollectorClient {
    async fn send_bytes(&self, request: http::Request<Bytes>) -> Result<http::Response<Bytes>, HttpError> {
        let client = self.inner.clone();
        self.runtime.spawn(async move { client.send_bytes(request).await }).await?
    }
}

/// The machine's trust roots, or the bundled ones where it has none (images without a distribution).
fn tls_config() -> Result<ClientConfig, rustls::Error> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    Ok(config.with_safe_default_protocol_versions()?.with_root_certificates(roots).with_no_client_auth())
}
