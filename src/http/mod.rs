//! The HTTP surface: a driving adapter. The only place that names poem.
//!
//! A request arrives in [`server`] (limits, deadlines, disconnects), is routed by [`app`], read and authenticated by the
//! extractors of [`payload`] and [`auth`], and handled in `api/`: decode, call the use-case, encode. Every error leaves through
//! [`error`], every stream through [`sse`].

pub mod admin;
mod api;
mod app;
mod auth;
mod client_io;
mod context;
mod cors;
mod dto;
mod error;
mod limit_headers;
mod payload;
mod server;
mod sse;
mod throttle;

pub use api::{ReadinessSource, Standing};
pub use app::{Surface, specification};
pub use cors::Origins;
pub use payload::BodyLimits;
pub use server::{App, Server, ServerLimits};
