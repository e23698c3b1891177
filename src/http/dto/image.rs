//! Documentation of image generation; forwarded as it is.

use poem_openapi::{Enum, Object, types::Any};
use serde_json::Value;

/// An image generation request. Members that are not listed are passed to the provider untouched.
#[derive(Object)]
pub(in crate::http) struct ImageRequest {
    prompt: String,
    /// Id of an image model; the catalogue's default if absent.
    model: Option<String>,
    #[oai(validator(minimum(value = "1"), maximum(value = "10")))]
    n: Option<u32>,
    /// `1024x1024`, …
    size: Option<String>,
    response_format: Option<ImageFormat>,
    quality: Option<String>,
    style: Option<String>,
}

#[derive(Enum)]
#[oai(rename_all = "snake_case")]
enum ImageFormat {
    Url,
    #[oai(rename = "b64_json")]
    B64Json,
}

#[derive(Object)]
pub(in crate::http) struct Images {
    /// Unix seconds.
    created: i64,
    data: Vec<Image>,
    usage: Option<Any<Value>>,
}

#[derive(Object)]
pub(in crate::http) struct Image {
    /// An address, or a `data:` URL where the provider gives only bytes.
    url: Option<String>,
    b64_json: Option<String>,
    revised_prompt: Option<String>,
}
