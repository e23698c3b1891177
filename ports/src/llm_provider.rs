//! Calling an LLM.

use std::{pin::Pin, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures_core::Stream;

use crate::{
    error::ProviderError,
    limits::Limits,
    money::PicoUsd,
    request::{Edits, InboundRequest, RequestId},
    runtime::Timestamp,
    usage::TokenUsage,
};

/// What a piece of a reply said. Nothing after the driver parses a reply again.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    /// The provider's own count; the last one of a reply counts.
    pub usage: Option<TokenUsage>,
    /// What the provider says the request cost, where it says so.
    pub provider_cost: Option<PicoUsd>,
    /// Bytes of text, reasoning and tool arguments in this piece: bounds the tokens of a reply that was cut.
    pub output_bytes: u64,
    /// Every choice so far has its finish reason.
    pub finished: bool,
    /// The reply is complete; this is its last piece.
    pub done: bool,
}

impl Facts {
    /// Adds what a later piece said.
    pub fn absorb(&mut self, later: &Self) {
        self.usage = later.usage.or(self.usage);
        self.provider_cost = later.provider_cost.or(self.provider_cost);
        self.output_bytes = self.output_bytes.saturating_add(later.output_bytes);
        self.finished |= later.finished;
        self.done |= later.done;
    }
}

/// One or more whole events, in the client's dialect, ready to be sent.
#[derive(Clone, Debug, PartialEq)]
pub struct Frame {
    pub bytes: Bytes,
    pub facts: Facts,
}

/// Pulled: nothing is read from the provider until the client's side asks for more. Dropping it closes the upstream call.
/// After an `Err` or a frame that is `done`, it ends.
pub type FrameStream = Pin<Box<dyn Stream<Item = Result<Frame, ProviderError>> + Send>>;

pub enum Reply {
    Whole { body: Bytes, facts: Facts },
    Stream(FrameStream),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// Until the first event of a stream. A whole reply has only the total.
    pub first_byte: Duration,
    /// Between two reads of a stream.
    pub idle: Duration,
    /// From start to end.
    pub total: Duration,
}

/// One attempt. Cloning counts references, so that a layer can call again with the same bytes.
#[derive(Clone)]
pub struct Call {
    pub id: RequestId,
    pub request: InboundRequest,
    pub edits: Arc<Edits>,
    /// Index into [`LlmProvider::credentials`].
    pub credential: usize,
    pub deadlines: Deadlines,
}

/// One of a provider's credentials. The secret itself never leaves the adapter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CredentialInfo {
    /// `PROVIDER#NUMBER` or its configured name: a scope of limits and a label in the ledger.
    pub id: Arc<str>,
    pub limits: Limits,
}

/// One configured upstream with its credentials.
#[async_trait]
pub trait LlmProvider: Send + Sync {
    /// At least one; fixed for the life of the object.
    fn credentials(&self) -> &[CredentialInfo];

    /// Until when a credential should rest, because the provider refused it or said that it is exhausted; `None`: serve.
    /// Never does I/O.
    fn resting_until(&self, _credential: usize) -> Option<Timestamp> {
        None
    }

    /// Sends the request once and never again by itself.
    ///
    /// Resolves after the first good event of a stream: an error before it is an `Err`, so that the caller can still try
    /// elsewhere and the client gets an HTTP status. Cancel-safe: dropping the future closes the upstream connection.
    ///
    /// # Errors
    /// MUST be classified ([`crate::error::ProviderErrorKind`]) and MUST NOT carry a secret, in any of its texts.
    async fn call(&self, call: Call) -> Result<Reply, ProviderError>;
}
