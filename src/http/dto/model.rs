use ai4free_ports::{
    catalogue::{Model as CatalogueModel, Price, Tier},
    money::PicoUsdSum,
};
use poem_openapi::Object;

/// A page of models.
#[derive(Object)]
pub(in crate::http) struct ModelList {
    /// `list`.
    object: String,
    data: Vec<Model>,
}

#[derive(Object)]
pub(in crate::http) struct Model {
    id: String,
    /// `model`.
    object: String,
    /// Unix seconds.
    created: i64,
    owned_by: String,
    /// `chat`, `audio` or `image`.
    #[oai(rename = "type")]
    kind: String,
    description: Option<String>,
    /// Whether any of its providers is configured.
    available: bool,
    max_input_tokens: Option<u64>,
    max_output_tokens: Option<u64>,
    /// `null`: the model has no price.
    pricing: Option<Pricing>,
    /// What a million tokens cost, in US dollars, where input and output cost the same. For display: `pricing` is exact.
    owner_cost_per_million_tokens: Option<f64>,
}

/// Exact decimals, in US dollars per million tokens, per image, per request. What is `null` costs as input or output do.
#[derive(Object)]
pub(in crate::http) struct Pricing {
    input: String,
    output: String,
    cache_read: Option<String>,
    cache_write: Option<String>,
    reasoning: Option<String>,
    audio_input: Option<String>,
    audio_output: Option<String>,
    image: Option<String>,
    request: Option<String>,
    /// Prices of all tokens of requests with long input, by ascending threshold; `null`: there are none.
    tiers: Option<Vec<PricingTier>>,
}

#[derive(Object)]
pub(in crate::http) struct PricingTier {
    /// It applies to requests with more tokens of input.
    above_input_tokens: u64,
    input: String,
    output: String,
    cache_read: Option<String>,
    cache_write: Option<String>,
    reasoning: Option<String>,
    audio_input: Option<String>,
    audio_output: Option<String>,
}

impl Pricing {
    fn of(price: &Price) -> Self {
        Self {
            input: per_million(price.input),
            output: per_million(price.output),
            cache_read: price.cache_read.map(per_million),
            cache_write: price.cache_write.map(per_million),
            reasoning: price.reasoning.map(per_million),
            audio_input: price.audio_in.map(per_million),
            audio_output: price.audio_out.map(per_million),
            image: (price.per_image.0 > 0).then(|| price.per_image.to_string()),
            request: (price.per_request.0 > 0).then(|| price.per_request.to_string()),
            tiers: (!price.tiers.is_empty()).then(|| price.tiers.iter().map(PricingTier::of).collect()),
        }
    }
}

impl PricingTier {
    fn of(tier: &Tier) -> Self {
        Self {
            above_input_tokens: tier.above,
            input: per_million(tier.input),
            output: per_million(tier.output),
            cache_read: tier.cache_read.map(per_million),
            cache_write: tier.cache_write.map(per_million),
            reasoning: tier.reasoning.map(per_million),
            audio_input: tier.audio_in.map(per_million),
            audio_output: tier.audio_out.map(per_million),
        }
    }
}

impl ModelList {
    pub(in crate::http) fn of(models: &[std::sync::Arc<CatalogueModel>]) -> Self {
        Self { object: "list".to_owned(), data: models.iter().map(|model| Model::of(model)).collect() }
    }
}

impl Model {
    pub(in crate::http) fn of(model: &CatalogueModel) -> Self {
        let price = model.price.as_deref();
        let flat = price.filter(|price| price.input == price.output);
        Self {
            id: model.id.to_string(),
            object: "model".to_owned(),
            created: model.created,
            owned_by: model.owned_by.to_string(),
            kind: model.kind.as_str().to_owned(),
            description: model.description.as_ref().map(ToString::to_string),
            available: model.available,
            max_input_tokens: model.max_input_tokens,
            max_output_tokens: model.max_output_tokens,
            pricing: price.map(Pricing::of),
            owner_cost_per_million_tokens: flat.and_then(|price| per_million(price.input).parse().ok()),
        }
    }
}

/// Micro-USD per million tokens is pico-USD a token: times a million it is the price of a million, in pico-USD.
fn per_million(micro: i64) -> String {
    PicoUsdSum::from_limbs(micro, 0).to_string()
}
