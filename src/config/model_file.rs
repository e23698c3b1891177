//! The form of `data/models.json`.

use std::sync::Arc;

use ai4free_ports::{
    catalogue::{ModelKind, OnDisconnect, Price, Target, Tier, VendorModel},
    limits::Limits,
    money::{PICO_PER_MICRO, PicoUsd},
    usage::Encoding,
};
use serde::{Deserialize, Deserializer, de::Error};
use serde_json::{Map, Value};

use super::{
    data_file::{self, DataFile},
    section::Reading,
};

/// One model as clients name it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ModelEntry {
    pub(super) id: String,
    /// Other names of it.
    #[serde(default)]
    pub(super) aliases: Vec<String>,
    pub(super) kind: Kind,
    /// In order of preference.
    pub(super) targets: Vec<TargetEntry>,
    /// Its tokenizer.
    #[serde(default)]
    pub(super) encoding: Encoding,
    #[serde(default)]
    pub(super) on_disconnect: OnDisconnect,
    /// `false`: its stream shows all that it makes.
    #[serde(default = "may_hide")]
    pub(super) hides_reasoning: bool,
    /// Absent: unpriced.
    pub(super) price: Option<PriceEntry>,
    pub(super) max_input_tokens: Option<u64>,
    pub(super) max_output_tokens: Option<u64>,
    /// For everybody together.
    #[serde(default)]
    pub(super) limits: LimitsEntry,
    /// Absent: the provider of the first target.
    pub(super) owned_by: Option<String>,
    /// Unix seconds; 0 when unknown.
    #[serde(default)]
    pub(super) created: i64,
    pub(super) description: Option<String>,
}

/// What a vendor's model costs and takes when it is reached by its full name, under the pattern of its provider.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct VendorModelEntry {
    /// `openai/gpt-4o`.
    pub(super) id: String,
    #[serde(default)]
    kind: Kind,
    #[serde(default)]
    encoding: Encoding,
    price: Option<PriceEntry>,
    max_input_tokens: Option<u64>,
    max_output_tokens: Option<u64>,
    #[serde(default = "may_hide")]
    hides_reasoning: bool,
}

/// Limits of a model for everybody together. Budgets are set in the configuration.
#[derive(Clone, Copy, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct LimitsEntry {
    requests_per_minute: Option<u64>,
    image_requests_per_minute: Option<u64>,
    tokens_per_minute: Option<u64>,
    max_concurrent_requests: Option<u64>,
}

impl LimitsEntry {
    pub(super) fn limits(self) -> Limits {
        Limits {
            requests_per_minute: self.requests_per_minute,
            image_requests_per_minute: self.image_requests_per_minute,
            tokens_per_minute: self.tokens_per_minute,
            max_concurrent_requests: self.max_concurrent_requests,
            ..Limits::NONE
        }
    }
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    #[default]
    Chat,
    Audio,
    Image,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TargetEntry {
    /// Id of a provider.
    pub(super) provider: String,
    /// The provider's own name of the model.
    pub(super) model: String,
}

/// In micro-USD: per million tokens, per image, per request.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PriceEntry {
    /// Absent: the `price_version` of the file.
    #[serde(default = "first_version")]
    version: u32,
    input: u32,
    output: u32,
    cache_read: Option<u32>,
    cache_write: Option<u32>,
    reasoning: Option<u32>,
    audio_in: Option<u32>,
    audio_out: Option<u32>,
    #[serde(default)]
    per_image: u32,
    #[serde(default)]
    per_request: u32,
    /// By ascending threshold.
    #[serde(default, deserialize_with = "ascending")]
    tiers: Vec<TierEntry>,
}

/// What changes for a whole request with more tokens of input than `above`. What is absent is as without tiers.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TierEntry {
    above: u64,
    input: Option<u32>,
    output: Option<u32>,
    cache_read: Option<u32>,
    cache_write: Option<u32>,
    reasoning: Option<u32>,
    audio_in: Option<u32>,
    audio_out: Option<u32>,
}

impl From<Kind> for ModelKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Chat => Self::Chat,
            Kind::Audio => Self::Audio,
            Kind::Image => Self::Image,
        }
    }
}

impl From<VendorModelEntry> for VendorModel {
    fn from(entry: VendorModelEntry) -> Self {
        Self {
            kind: entry.kind.into(),
            price: entry.price.map(|price| Arc::new(price.into())),
            max_input_tokens: entry.max_input_tokens,
            max_output_tokens: entry.max_output_tokens,
            encoding: entry.encoding,
            hides_reasoning: entry.hides_reasoning,
        }
    }
}

impl From<TargetEntry> for Target {
    fn from(target: TargetEntry) -> Self {
        Self { provider: target.provider.into(), upstream_model: target.model.into() }
    }
}

/// 32 bits of micro-USD reach 4294 USD, and times a million still fit a [`PicoUsd`].
impl From<PriceEntry> for Price {
    fn from(price: PriceEntry) -> Self {
        let tiers = price.tiers.iter().map(|tier| tier.over(&price)).collect();
        Self {
            version: price.version,
            input: price.input.into(),
            output: price.output.into(),
            cache_read: price.cache_read.map(i64::from),
            cache_write: price.cache_write.map(i64::from),
            reasoning: price.reasoning.map(i64::from),
            audio_in: price.audio_in.map(i64::from),
            audio_out: price.audio_out.map(i64::from),
            per_image: PicoUsd(i64::from(price.per_image) * PICO_PER_MICRO),
            per_request: PicoUsd(i64::from(price.per_request) * PICO_PER_MICRO),
            tiers,
        }
    }
}

impl TierEntry {
    fn over(&self, price: &PriceEntry) -> Tier {
        Tier {
            above: self.above,
            input: self.input.unwrap_or(price.input).into(),
            output: self.output.unwrap_or(price.output).into(),
            cache_read: self.cache_read.or(price.cache_read).map(i64::from),
            cache_write: self.cache_write.or(price.cache_write).map(i64::from),
            reasoning: self.reasoning.or(price.reasoning).map(i64::from),
            audio_in: self.audio_in.or(price.audio_in).map(i64::from),
            audio_out: self.audio_out.or(price.audio_out).map(i64::from),
        }
    }
}

/// The lists `models` and `prices`.
pub(super) fn read(files: &[String], reading: &Reading<'_>) -> DataFile<2> {
    let embedded = ("data/models.json", include_str!("../../data/models.json"));
    let members = ["version", "about", "source", "price_version", "default_image_model"];
    data_file::read(embedded, files, (["models", "prices"], &members), reading, inherit_price_version)
}

/// A price keeps the version of the file that it was written in.
fn inherit_price_version(members: &mut Map<String, Value>, header: &Map<String, Value>) {
    let version = header.get("price_version").cloned();
    if let (Some(Value::Object(price)), Some(version)) = (members.get_mut("price"), version) {
        price.entry("version").or_insert(version);
    }
}

fn may_hide() -> bool {
    true
}

fn first_version() -> u32 {
    1
}

fn ascending<'de, D: Deserializer<'de>>(tiers: D) -> Result<Vec<TierEntry>, D::Error> {
    let tiers: Vec<TierEntry> = Deserialize::deserialize(tiers)?;
    if tiers.is_sorted_by(|lower, higher| lower.above < higher.above) {
        Ok(tiers)
    } else {
        Err(D::Error::custom("tiers must have ascending thresholds"))
    }
}
