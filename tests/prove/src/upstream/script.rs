//! What the upstream is told to do with a request, in a member of its body that the gateway passes on untouched.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The member that holds the script.
pub(crate) const SCRIPT: &str = "x_script";
/// The member that tells requests apart.
pub(crate) const PROOF_ID: &str = "x_proof_id";

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Script {
    /// Pieces of the answer's text; a token each.
    pub(crate) chunks: u32,
    /// Between two pieces; before the one piece of an answer that is not a stream.
    #[serde(default)]
    pub(crate) delay_ms: u64,
    /// The `usage` member as it is written; absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) usage: Option<Value>,
    #[serde(default)]
    pub(crate) ending: Ending,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Ending {
    /// As it should be.
    #[default]
    Complete,
    /// An error in place of an answer.
    Status(u16),
    /// An error that repeats the credential and the prompt.
    Echo(u16),
    /// A FIN where there is more to say.
    Cut(Moment),
    /// A RST.
    Reset(Moment),
    /// An error event in the stream.
    ErrorEvent(Moment),
    /// Silence, until the gateway goes.
    Hang(Moment),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Moment {
    BeforeHead,
    /// After the head, before the first piece.
    BeforeFirst,
    AfterChunks(u32),
}

impl Script {
    /// A complete answer that reports this usage.
    pub(crate) fn reporting(chunks: u32, usage: Value) -> Self {
        Self { chunks, delay_ms: 0, usage: Some(usage), ending: Ending::Complete }
    }

    pub(crate) fn delay(mut self, milliseconds: u64) -> Self {
        self.delay_ms = milliseconds;
        self
    }

    pub(crate) fn ending(mut self, ending: Ending) -> Self {
        self.ending = ending;
        self
    }

    pub(crate) fn without_usage(mut self) -> Self {
        self.usage = None;
        self
    }
}

impl Ending {
    pub(crate) fn moment(&self) -> Option<Moment> {
        match self {
            Self::Complete | Self::Status(_) | Self::Echo(_) => None,
            Self::Cut(moment) | Self::Reset(moment) | Self::ErrorEvent(moment) | Self::Hang(moment) => Some(*moment),
        }
    }
}
