//! The HTTP surface: a driving adapter. The only place that names poem.
//!
//! A request arrives in [`server`] (limits, deadlines, disconnects), is routed by [`app`], read and authenticated by the
//! extractors of [`payload`] and [`auth`], and handled in `api/`: decode, call the use-case, encode. Chat and images are short
//! of the framework, in [`direct`]. Every error leaves through [`error`], every stream through [`sse`].

pub mod admin;
mod api;
mod app;
mod auth;
mod client_io;
mod context;
mod cors;
mod direct;
mod dto;
mod error;
mod limit_headers;
mod payload;
mod reply_body;
mod server;
mod sse;
mod state;
mod throttle;

pub use api::{ReadinessSource, Standing};
pub use app::{App, Surface, specification};
pub use cors::Origins;
pub use payload::BodyLimits;
pub use server::{Server, ServerLimits};
