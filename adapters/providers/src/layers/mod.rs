//! Decorators: an `LlmProvider` around an `LlmProvider`, each adding one thing.

pub mod attributes;
mod timeout;
mod traced;

pub use timeout::Timeout;
pub use traced::Traced;
