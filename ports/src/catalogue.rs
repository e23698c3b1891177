//! Which models there are, what they cost and who serves them.

mod price;

use std::{collections::HashMap, sync::Arc};

use serde::{Deserialize, Serialize};

pub use self::price::{Price, Tier};
use crate::{limits::Limits, usage::Encoding};

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

/// What becomes of a provider's answer when the client goes away before its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnDisconnect {
    /// The call ends at once; what was received is charged.
    #[default]
    Cancel,
    /// It is read to its end without a client, so that the provider's own count is charged.
    Drain,
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
    pub on_disconnect: OnDisconnect,
    /// Whether it may make output that its stream does not show. What is not known to show all of it may hide some.
    pub hides_reasoning: bool,
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
    pub on_disconnect: OnDisconnect,
}

/// What is known of a vendor's model that is not listed: it counts for names under a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VendorModel {
    pub kind: ModelKind,
    pub price: Option<Arc<Price>>,
    pub max_input_tokens: Option<u64>,
    pub max_output_tokens: Option<u64>,
    pub encoding: Encoding,
    pub hides_reasoning: bool,
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
    /// By full name, as under a pattern: `openai/gpt-4o`.
    pub vendor_models: HashMap<Arc<str>, VendorModel>,
    pub default_image_model: Option<Arc<str>>,
}

impl Snapshot {
    /// The model that a client means by a name: an id, an alias, or a name under a pattern.
    ///
    /// Under a pattern, price and sizes are those of the [vendor's model](VendorModel) of the same full name, else of the
    /// listed model with the rest of the name; a model in neither is served without a price.
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
        let unlisted = Model {
            id: name.into(),
            label: pattern.label.clone(),
            kind: ModelKind::Chat,
            targets: Arc::new([Target { provider: pattern.provider.clone(), upstream_model: rest.into() }]),
            price: None,
            max_input_tokens: None,
            max_output_tokens: None,
            limits: pattern.limits.clone(),
            encoding: Encoding::default(),
            on_disconnect: pattern.on_disconnect,
            hides_reasoning: true,
            description: None,
            owned_by: pattern.owned_by.clone(),
            created: 0,
            available: true,
        };
        if let Some(known) = self.vendor_models.get(name) {
            return Some(Arc::new(Model {
                kind: known.kind,
                price: known.price.clone(),
                max_input_tokens: known.max_input_tokens,
                max_output_tokens: known.max_output_tokens,
                encoding: known.encoding,
                hides_reasoning: known.hides_reasoning,
                ..unlisted
            }));
        }
        let Some(listed) = self.by_name.get(rest).filter(|listed| listed.kind != ModelKind::Image) else {
            return Some(Arc::new(unlisted));
        };
        Some(Arc::new(Model {
            kind: listed.kind,
            price: listed.price.clone(),
            max_input_tokens: listed.max_input_tokens,
            max_output_tokens: listed.max_output_tokens,
            encoding: listed.encoding,
            hides_reasoning: listed.hides_reasoning,
            description: listed.description.clone(),
            created: listed.created,
            ..unlisted
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
