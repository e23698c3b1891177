//! OpenAI's protocol, and that of the many vendors who speak it with an accent.
//!
//! Reference: <https://platform.openai.com/docs/api-reference/chat>. A vendor needs no code of its own: what vendors do
//! differently is mended in `sanitise.rs` and `calls.rs` (streams), read in `usage.rs` and `error.rs`.
//!
//! Two lanes: `view.rs`, `splice.rs` and `tap.rs` leave the bytes as they are wherever they can; `request.rs`, `reply.rs`,
//! `reader.rs` and `writer.rs` convert from and to the canonical chat.

mod assembly;
mod calls;
mod choices;
mod codec;
mod error;
mod json;
mod members;
mod messages;
mod reader;
mod redact;
mod reply;
mod request;
mod sanitise;
mod splice;
mod tap;
mod usage;
mod verify;
mod view;
mod writer;

pub use codec::{NAME, OpenAi, dialect};

#[cfg(test)]
mod fixtures;
#[cfg(test)]
mod tests;
