//! Which models there are, what they cost and who serves them.

use std::{collections::HashMap, sync::Arc};

use crate::{
    limits::Limits,
    money::PicoUsd,
    usage::{Encoding, TokenUsage},
};

/// What one unit costs, in micro-USD per million tokens: tokens × price is exactly [`PicoUsd`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Price {
    /// Recorded with each event, so that an old charge can be explained.
    pub version: u32,
    pub input: i64,
    pub output: i64,
    /// `None`: as input.
    pub cache_read: Option<i64>,
    /// `None`: as input.
    pub cache_write: Option<i64>,
    /// `None`: as output.
    pub reasoning: Option<i64>,
    /// `None`: as input.
    pub audio_in: Option<i64>,
    /// `None`: as output.
    pub audio_out: Option<i64>,
    pub per_image: PicoUsd,
    pub per_request: PicoUsd,
}

impl Price {
    /// `None` on overflow: the caller refuses, never wraps.
    #[must_use]
    pub fn cost(&self, usage: &TokenUsage) -> Option<PicoUsd> {
        let parts = [
            (usage.input, self.input),
            (usage.cache_read, self.cache_read.unwrap_or(self.input)),
            (usage.cache_write, self.cache_write.unwrap_or(self.input)),
            (usage.audio_in, self.audio_in.unwrap_or(self.input)),
            (usage.output, self.output),
            (usage.reasoning, self.reasoning.unwrap_or(self.output)),
            (usage.audio_out, self.audio_out.unwrap_or(self.output)),
            (usage.images, self.per_image.0),
        ];
        parts.into_iter().try_fold(self.per_request, |sum, (count, price)| {
            let part = i64::try_from(count).ok()?.checked_mul(price)?;
            sum.checked_add(PicoUsd(part))
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ModelKind {
    Chat,
    /// Chat with an audio answer (`modalities`).
    Audio,
    Image,
}

impl ModelKind {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Audio => "audio",
            Self::Image => "image",
        }
    }
}

/// One upstream that serves a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Id of a provider.
    pub provider: Arc<str>,
    /// The provider's own name of the model.
    pub upstream_model: Arc<str>,
}

#[derive(Clone, Debug)]
pub struct Model {
    /// As clients name it.
    pub id: Arc<str>,
    /// The name in the ledger and in metrics: the id of a catalogue entry, or the pattern that matched. Bounded in number.
    pub label: Arc<str>,
    pub kind: ModelKind,
    /// In order of preference; at least one.
    pub targets: Arc<[Target]>,
    pub price: Option<Arc<Price>>,
    /// The most that one request may send and receive, in tokens.
    pub max_input_tokens: Option<u64>,
    pub max_output_tokens: Option<u64>,
    pub limits: Limits,
    pub encoding: Encoding,
    pub description: Option<Arc<str>>,
    pub owned_by: Arc<str>,
    /// Unix seconds.
    pub created: i64,
    /// Whether any of its providers has a credential.
    pub available: bool,
}

/// `openai/*`: every name with this prefix, served by one provider under the rest of the name.
#[derive(Clone, Debug)]
pub struct Pattern {
    /// `openai/`.
    pub prefix: Arc<str>,
    /// `openai/*`.
    pub label: Arc<str>,
    pub provider: Arc<str>,
    pub owned_by: Arc<str>,
    /// Of all names under it together.
    pub limits: Limits,
}

/// Models as they stood at one moment. A request keeps the snapshot that it began with.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// In the order of the file.
    pub models: Vec<Arc<Model>>,
    /// By id and by alias.
    pub by_name: HashMap<Arc<str>, Arc<Model>>,
    /// Only of providers that have a credential.
    pub patterns: Vec<Pattern>,
    pub default_image_model: Option<Arc<str>>,
}

impl Snapshot {
    /// The model that a client means by a name: an id, an alias, or a name under a pattern.
    ///
    /// Under a pattern, price and limits come from the catalogue entry of the same full name, else of the bare name; a model
    /// in neither is served without a price.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<Arc<Model>> {
        if let Some(model) = self.by_name.get(name) {
            return Some(model.clone());
        }
        let (pattern, rest) = self
            .patterns
            .iter()
            .find_map(|pattern| Some((pattern, name.strip_prefix(&*pattern.prefix)?)))
            .filter(|(_, rest)| is_plausible_model_name(rest))?;
        let known = self.by_name.get(rest).filter(|known| known.kind != ModelKind::Image);
        Some(Arc::new(Model {
            id: name.into(),
            label: pattern.label.clone(),
            kind: known.map_or(ModelKind::Chat, |known| known.kind),
            targets: Arc::new([Target { provider: pattern.provider.clone(), upstream_model: rest.into() }]),
            price: known.and_then(|known| known.price.clone()),
            max_input_tokens: known.and_then(|known| known.max_input_tokens),
            max_output_tokens: known.and_then(|known| known.max_output_tokens),
            limits: pattern.limits,
            encoding: known.map_or(Encoding::default(), |known| known.encoding),
            description: known.and_then(|known| known.description.clone()),
            owned_by: pattern.owned_by.clone(),
            created: known.map_or(0, |known| known.created),
            available: true,
        }))
    }
}

/// Printable ASCII without spaces, at most 200 bytes: it goes into URLs of providers and into logs.
fn is_plausible_model_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= 200 && name.bytes().all(|b| b.is_ascii_graphic() && b != b'"' && b != b'\\')
}

/// Swapped whole when the configuration is read again.
pub trait Catalogue: Send + Sync {
    fn current(&self) -> Arc<Snapshot>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cost_is_exact_in_every_bucket_and_refuses_to_overflow() {
        let price = Price {
            version: 1,
            input: 2_500_000,
            output: 10_000_000,
            cache_read: Some(1_250_000),
            per_request: PicoUsd(7),
            ..Price::default()
        };
        let usage = TokenUsage { input: 10, cache_read: 4, output: 3, reasoning: 2, ..TokenUsage::default() };
        assert_eq!(price.cost(&usage), Some(PicoUsd(10 * 2_500_000 + 4 * 1_250_000 + 5 * 10_000_000 + 7)));
        assert_eq!(price.cost(&TokenUsage { input: u64::MAX, ..usage }), None);
        assert_eq!(price.cost(&TokenUsage { output: 1 << 50, ..usage }), None);
    }
}
