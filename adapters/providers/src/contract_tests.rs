//! The port's contract, against every provider of this crate.

use std::{sync::Arc, time::Duration};

use ai4free_contract::llm_provider::{Harness, SECRET};
use ai4free_ports::{
    dialect::Dialect,
    limits::Limits,
    llm_provider::LlmProvider,
    provider_settings::{AuthStyle, Credential, EndpointStyle, ProviderSettings, Quirks, Secret, Timeouts},
    runtime::{Clock, Timestamp},
};

use crate::{BuildError, EchoProvider, Transport, build, build_probe, dialects};

/// Stands still at one second.
pub(crate) struct StoppedClock;

impl Clock for StoppedClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_seconds(1_700_000_000)
    }

    fn monotonic(&self) -> Duration {
        Duration::ZERO
    }
}

pub(crate) fn settings(base_url: &str) -> ProviderSettings {
    ProviderSettings {
        id: "test".into(),
        dialect: "openai".into(),
        base_url: base_url.into(),
        endpoint: EndpointStyle::Paths,
        auth: AuthStyle::Bearer,
        credentials: vec![Credential {
            id: "test#1".into(),
            secret: Some(Secret::new(SECRET.to_owned())),
            limits: Limits::NONE,
        }],
        headers: vec![],
        quirks: Quirks::default(),
        images: None,
        timeouts: Timeouts::default(),
    }
}

pub(crate) fn openai() -> Arc<dyn Dialect> {
    dialects::by_name("openai").unwrap()
}

pub(crate) type Build =
    fn(&ProviderSettings, Arc<Transport>, Arc<dyn Clock>) -> Result<Arc<dyn LlmProvider>, BuildError>;

pub(crate) const BOTH_LANES: [Build; 2] = [build, build_probe];

/// A provider over HTTP, in one of its two lanes.
pub(crate) struct OverHttp(pub(crate) Build, pub(crate) Quirks);

impl Harness for OverHttp {
    fn dialect(&self) -> Arc<dyn Dialect> {
        openai()
    }

    fn provider(&self, base_url: &str) -> Arc<dyn LlmProvider> {
        let settings = ProviderSettings { quirks: self.1.clone(), ..settings(base_url) };
        (self.0)(&settings, Arc::new(Transport::new()), Arc::new(StoppedClock)).unwrap()
    }
}

struct Echo;

impl Harness for Echo {
    fn dialect(&self) -> Arc<dyn Dialect> {
        openai()
    }

    fn provider(&self, _: &str) -> Arc<dyn LlmProvider> {
        Arc::new(EchoProvider::new(Arc::new(StoppedClock)))
    }
}

fn byte_lane() -> OverHttp {
    OverHttp(build, Quirks::default())
}

fn crossing_lane() -> OverHttp {
    OverHttp(build_probe, Quirks::default())
}

mod in_the_byte_lane {
    ai4free_contract::llm_provider_reply_contract!(super::byte_lane());
    ai4free_contract::llm_provider_upstream_contract!(super::byte_lane());
    ai4free_contract::llm_provider_byte_lane_contract!(super::byte_lane());
}

mod in_the_crossing_lane {
    ai4free_contract::llm_provider_reply_contract!(super::crossing_lane());
    ai4free_contract::llm_provider_upstream_contract!(super::crossing_lane());
}

mod from_the_echo {
    ai4free_contract::llm_provider_reply_contract!(super::Echo);
}
