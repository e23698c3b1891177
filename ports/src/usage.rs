//! What a request consumed.

use serde::{Deserialize, Serialize};

/// Token counts in disjoint buckets: no token is in two of them, so a price can be applied to each and summed.
///
/// OpenAI's `prompt_tokens` is [`input_total`](Self::input_total), its `completion_tokens` is
/// [`output_total`](Self::output_total); dialects that report the parts differently convert in their own file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenUsage {
    /// Prompt tokens that were neither read from nor written to a prompt cache, audio left out.
    pub input: u64,
    /// Prompt tokens read from the provider's prompt cache.
    pub cache_read: u64,
    /// Prompt tokens written to the provider's prompt cache.
    pub cache_write: u64,
    /// Text tokens of the answer, hidden reasoning left out.
    pub output: u64,
    /// Hidden reasoning tokens.
    pub reasoning: u64,
    pub audio_in: u64,
    pub audio_out: u64,
    /// Images made (a count, not tokens).
    pub images: u64,
}

impl TokenUsage {
    #[must_use]
    pub fn input_total(&self) -> u64 {
        self.input.saturating_add(self.cache_read).saturating_add(self.cache_write).saturating_add(self.audio_in)
    }

    #[must_use]
    pub fn output_total(&self) -> u64 {
        self.output.saturating_add(self.reasoning).saturating_add(self.audio_out)
    }

    #[must_use]
    pub fn total(&self) -> u64 {
        self.input_total().saturating_add(self.output_total())
    }
}

/// Where the counts of an event come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UsageSource {
    /// The provider reported them: the truth.
    Provider,
    /// Counted here, with the model's tokenizer.
    Counted,
    /// The provider reported them after the client had gone.
    Drained,
    /// What had been seen when the request was interrupted.
    Estimated,
    /// Nobody could observe the request (the process died): the reserved upper bound.
    Bound,
}

/// Tokenizer of a model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Encoding {
    /// GPT-4, GPT-3.5, and the fallback for models without a public tokenizer.
    #[default]
    Cl100k,
    /// GPT-4o and later.
    O200k,
    /// Bytes divided by four, rounded up: the documented count of `local/echo`, needs no tokenizer.
    BytesPerFour,
}
