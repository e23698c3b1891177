//! The form of `data/models.json`.

use ai4free_ports::{
    catalogue::{ModelKind, Price, Target},
    limits::Limits,
    money::{PICO_PER_MICRO, PicoUsd},
    usage::Encoding,
};
use serde::Deserialize;
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

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
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

impl From<TargetEntry> for Target {
    fn from(target: TargetEntry) -> Self {
        Self { provider: target.provider.into(), upstream_model: target.model.into() }
    }
}

/// 32 bits of micro-USD reach 4294 USD, and times a million still fit a [`PicoUsd`].
impl From<PriceEntry> for Price {
    fn from(price: PriceEntry) -> Self {
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
        }
    }
}

pub(super) fn read(files: &[String], reading: &Reading<'_>) -> DataFile {
    let embedded = ("data/models.json", include_str!("../../data/models.json"));
    let members = ["version", "about", "source", "price_version", "default_image_model"];
    data_file::read(embedded, files, ("models", &members), reading, inherit_price_version)
}

/// A price keeps the version of the file that it was written in.
fn inherit_price_version(members: &mut Map<String, Value>, header: &Map<String, Value>) {
    let version = header.get("price_version").cloned();
    if let (Some(Value::Object(price)), Some(version)) = (members.get_mut("price"), version) {
        price.entry("version").or_insert(version);
    }
}

fn first_version() -> u32 {
    1
}
