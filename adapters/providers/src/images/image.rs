//! One image as a provider gave it, and as the client wants it.

use ai4free_ports::error::{ProviderError, ProviderErrorKind, PublicError};
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use url::Url;

use crate::transport::{self, UpstreamClient};

/// Cap on one image, in bytes.
pub(super) const MAX_IMAGE: usize = 20 << 20;

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Image {
    /// On a host of the provider's choice.
    At(Url),
    Here {
        media_type: String,
        base64: String,
    },
}

impl Image {
    pub(super) fn from_bytes(media_type: String, bytes: &Bytes) -> Self {
        Self::Here { media_type, base64: STANDARD.encode(bytes) }
    }

    /// The URL in a markdown image, or in a text that is nothing but a URL.
    pub(super) fn from_markdown(text: &str) -> Option<Self> {
        let url = match text.rsplit_once("](") {
            Some((_, rest)) => rest.split([')', ' ']).next()?,
            None => text.trim(),
        };
        Self::from_url(url)
    }

    pub(super) fn from_url(text: &str) -> Option<Self> {
        if let Some(rest) = text.strip_prefix("data:") {
            let (media_type, base64) = rest.split_once(";base64,")?;
            let is_image = media_type.starts_with("image/") && media_type.len() < 100;
            let is_whole = is_image && STANDARD.decode(base64).is_ok();
            return is_whole.then(|| Self::Here { media_type: media_type.to_owned(), base64: base64.to_owned() });
        }
        Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https")).map(Self::At)
    }

    /// Fetched, if the operator named its host: the gateway goes nowhere just because a provider says so.
    pub(super) async fn fetched(self, client: &UpstreamClient, hosts: &[Box<str>]) -> Result<Self, ProviderError> {
        let Self::At(url) = self else { return Ok(self) };
        if !url.host_str().is_some_and(|host| hosts.iter().any(|allowed| allowed.eq_ignore_ascii_case(host))) {
            let public = PublicError {
                message: "This model's provider gives images as URLs; ask for response_format url.".into(),
                param: Some("response_format".into()),
                code: None,
            };
            return Err(ProviderError { public: Some(public), ..ProviderError::new(ProviderErrorKind::Request) });
        }
        let response = client.download(url).await?;
        if response.status() != http::StatusCode::OK {
            return Err(unusable("the image can't be downloaded"));
        }
        let response = http::Response::from(response).map(|body| body.map_err(reqwest::Error::without_url));
        let media_type = media_type(&response)?;
        Ok(Self::from_bytes(media_type, &transport::collect(response.into_body(), MAX_IMAGE).await?))
    }

    pub(super) fn length(&self) -> usize {
        match self {
            Self::At(url) => url.as_str().len(),
            Self::Here { base64, .. } => base64.len(),
        }
    }

    /// A member of `data`. Bytes that are at no URL make a `data:` URL.
    pub(super) fn into_member(self, wants_bytes: bool) -> Value {
        match self {
            Self::At(url) => json!({ "url": url.as_str() }),
            Self::Here { base64, .. } if wants_bytes => json!({ "b64_json": base64 }),
            Self::Here { media_type, base64 } => json!({ "url": format!("data:{media_type};base64,{base64}") }),
        }
    }
}

pub(super) fn media_type<B>(response: &http::Response<B>) -> Result<String, ProviderError> {
    let content_type = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = content_type.and_then(|text| text.split(';').next()).map(str::trim);
    let image = essence.filter(|essence| essence.starts_with("image/"));
    image.map(str::to_owned).ok_or_else(|| unusable("the provider's reply is not an image"))
}

pub(super) fn unusable(reason: &'static str) -> ProviderError {
    ProviderError::new(ProviderErrorKind::Protocol).caused_by(reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_found_in_what_chat_models_write() {
        let url = |text: &str| Image::from_markdown(text).map(|image| image.into_member(false)["url"].clone());
        assert_eq!(url("Here: ![a (nice) cat](https://h/x.png)\nEnjoy").unwrap(), "https://h/x.png");
        assert_eq!(url("![cat](https://h/x.png \"title\")").unwrap(), "https://h/x.png");
        assert_eq!(url(" https://h/x.png\n").unwrap(), "https://h/x.png");
        assert_eq!(url("![](data:image/png;base64,QUJD)").unwrap(), "data:image/png;base64,QUJD");
        for text in [
            "I can't draw.",
            "![](file:///etc/passwd)",
            "![](data:text/html;base64,QUJD)",
            "![](data:image/png;base64,*)",
        ] {
            assert_eq!(url(text), None, "{text}");
        }
    }
}
