//! From settings to a provider: the driver, and the layers around it.

use std::sync::Arc;

use ai4free_ports::{llm_provider::LlmProvider, provider_settings::ProviderSettings, runtime::Clock};

use crate::{
    BuildError, Transport,
    credentials::Credentials,
    dialects,
    driver::{HttpProvider, LaneChoice},
    endpoint::Endpoint,
    images::Images,
    layers::{Timeout, Traced},
    transport::UpstreamClient,
};

/// A provider that serves requests: bytes are forwarded where the client speaks the provider's protocol.
///
/// # Errors
/// When a setting is wrong. The error names it and holds no value of it.
pub fn build(
    settings: &ProviderSettings,
    transport: Arc<Transport>,
    clock: Arc<dyn Clock>,
) -> Result<Arc<dyn LlmProvider>, BuildError> {
    with_lane(settings, transport, clock, LaneChoice::ByDialect)
}

/// The same provider for `/v1/uptime`: every reply is decoded and encoded again, whoever asks, so that a good answer means
/// that the provider's replies were understood and not only forwarded. It has connections and rests of its own.
///
/// # Errors
/// As [`build`].
pub fn build_probe(
    settings: &ProviderSettings,
    transport: Arc<Transport>,
    clock: Arc<dyn Clock>,
) -> Result<Arc<dyn LlmProvider>, BuildError> {
    with_lane(settings, transport, clock, LaneChoice::AlwaysCrossing)
}

fn with_lane(
    settings: &ProviderSettings,
    transport: Arc<Transport>,
    clock: Arc<dyn Clock>,
    lane: LaneChoice,
) -> Result<Arc<dyn LlmProvider>, BuildError> {
    let dialect = dialects::by_name(&settings.dialect)
        .ok_or_else(|| BuildError::new("dialect", "is not the name of a dialect"))?;
    let endpoint = Endpoint::new(settings)?;
    let credentials = Credentials::new(settings, clock.clone())?;
    let provider = HttpProvider {
        dialect,
        lane,
        heads: credentials.headers().iter().map(|header| endpoint.heads(header.as_ref())).collect(),
        endpoint,
        credentials,
        quirks: settings.quirks.clone(),
        images: settings.images.as_ref().map(|style| Images::new(style, settings)).transpose()?,
        client: UpstreamClient::new(transport, settings.timeouts.connect),
        clock,
    };
    // Innermost: a deadline drops the attempt itself, and with it the upstream connection.
    let provider = Timeout::new(provider);
    // Around it, so that a span ends with the attempt's real outcome, a passed deadline too.
    let provider = Traced::new(provider, settings.id.clone());
    Ok(Arc::new(provider))
}
