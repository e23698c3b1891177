//! OpenAI's protocol, and that of the many vendors who speak it with an accent.
//!
//! Reference: <https://platform.openai.com/docs/api-reference/chat>. What vendors do differently is mended in [`sanitise`]
//! and in [`calls`] (streams), [`usage`] and [`error`]; a vendor needs no code of its own.
//!
//! Two lanes: [`view`], [`splice`] and [`tap`] leave the bytes as they are wherever they can; [`request`], [`reply`],
//! [`reader`] and [`writer`] convert from and to the canonical chat.

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
