use ai4free_ports::{catalogue::Model as CatalogueModel, money::PicoUsdSum};
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

/// Exact decimals, in US dollars per million tokens, per image, per request.
#[derive(Object)]
pub(in crate::http) struct Pricing {
    input: String,
    output: String,
    cache_read: Option<String>,
    cache_write: Option<String>,
    image: Option<String>,
    request: Option<String>,
}

impl ModelList {
    pub(in crate::http) fn of(models: &[std::sync::Arc<CatalogueModel>]) -> Self {
        Self { object: "list".to_owned(), data: models.iter().map(|model| Model::of(model)).collect() }
    }
}

impl Model {
    pub(in crate::http) fn of(model: &CatalogueModel) -> Self {
        // Micro-USD per million tokens is pico-USD a token: times a million it is the price of a million, in pico-USD.
        let per_million = |micro: i64| PicoUsdSum::from_limbs(micro, 0).to_string();
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
            pricing: price.map(|price| Pricing {
                input: per_million(price.input),
                output: per_million(price.output),
                cache_read: price.cache_read.map(per_million),
                cache_write: price.cache_write.map(per_million),
                image: (price.per_image.0 > 0).then(|| price.per_image.to_string()),
                request: (price.per_request.0 > 0).then(|| price.per_request.to_string()),
            }),
            owner_cost_per_million_tokens: flat.and_then(|price| per_million(price.input).parse().ok()),
        }
    }
}
