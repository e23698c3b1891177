//! Upstream LLMs behind the port [`LlmProvider`].
//!
//! Read in this order: `driver.rs` (one attempt), `frames.rs` (a stream, pulled), `outgoing.rs` (what is asked),
//! `transport.rs` (the only upstream HTTP), `dialects/` (wire protocols), `layers/` (what is wrapped around an attempt).
//!
//! An OpenAI-compatible vendor is a row in `data/providers.json` and no code: what is odd about it is a flag in
//! [`ai4free_ports::provider_settings::Quirks`]. A new wire protocol is a file in `dialects/` and a row in its table.
//!
//! [`LlmProvider`]: ai4free_ports::llm_provider::LlmProvider

pub mod dialects;
pub mod layers;

mod addresses;
mod aggregate;
mod build_error;
mod credentials;
mod driver;
mod echo;
mod endpoint;
mod factory;
mod frames;
mod images;
mod one_shot;
mod outgoing;
mod raw_reply;
mod request_body;
mod sse;
mod transport;

#[cfg(test)]
mod contract_tests;
#[cfg(test)]
mod image_tests;
#[cfg(test)]
mod oddity_tests;

pub use build_error::BuildError;
pub use echo::EchoProvider;
pub use factory::{build, build_probe};
pub use transport::Transport;
