//! What the process says of itself: the log on stderr, metrics for a scraper, spans for a collector.
//!
//! Everything here watches and nothing decides. No part of it may delay a request: log lines and spans go through bounded
//! queues that drop and count, metrics are atomic additions. Prompts, answers and secrets are never given to it.

mod collector_client;
mod events;
mod labels;
mod line_writer;
mod logging;
mod metrics;
mod observer;
mod otlp;
mod panics;
mod start;

pub use metrics::{CounterReader, GaugeReader, Metrics, Times, TimesReader};
pub use start::{InvalidSetting, Telemetry, log_to_stderr, start};
