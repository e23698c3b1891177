//! The ways in which upstreams make images.

use ai4free_ports::{
    chat::{ChatRequest, Message, Part, Role},
    error::{ProviderError, RequestError},
    llm_provider::{Call, Facts, Reply},
    provider_settings::{ImageStyle, ProviderSettings},
    request::{Operation, RequestId, Rope},
    usage::TokenUsage,
};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, Uri};
use serde::Deserialize;
use serde_json::json;
use url::Url;

use super::{
    image::{Image, MAX_IMAGE, media_type, unusable},
    request::ImageRequest,
};
use crate::{
    BuildError,
    driver::{HttpProvider, whole},
    endpoint::{configured_url, path_segment},
    outgoing::{Outgoing, refused},
    transport::{self, MAX_WHOLE_REPLY},
};

pub(crate) enum Images {
    Forward,
    MarkdownInChat { image_hosts: Vec<Box<str>> },
    GetUrl(ImageUrl),
    JsonDataUrl(ImageUrl),
}

/// An image endpoint of its own.
pub(crate) struct ImageUrl {
    url: Url,
    /// Whether it may have the provider's credential: only a host that has it anyway.
    is_provider_host: bool,
}

impl Images {
    pub(crate) fn new(style: &ImageStyle, settings: &ProviderSettings) -> Result<Self, BuildError> {
        let endpoint = |text: &str| -> Result<ImageUrl, BuildError> {
            let url = configured_url(text, "images.url")?;
            let base = configured_url(&settings.base_url, "base_url")?;
            let is_provider_host = url.origin() == base.origin();
            Ok(ImageUrl { url, is_provider_host })
        };
        Ok(match style {
            ImageStyle::OpenAi => Self::Forward,
            ImageStyle::MarkdownInChat { image_hosts } => Self::MarkdownInChat { image_hosts: image_hosts.clone() },
            ImageStyle::GetUrl { url } => Self::GetUrl(endpoint(url)?),
            ImageStyle::JsonDataUrl { url } => Self::JsonDataUrl(endpoint(url)?),
        })
    }

    pub(crate) async fn generate(&self, provider: &HttpProvider, call: &Call) -> Result<Reply, ProviderError> {
        if matches!(self, Self::Forward) {
            return forward(provider, call).await;
        }
        let request = ImageRequest::parse(&call.request.body).map_err(refused)?;
        let (mut data, mut length) = (Vec::new(), 0_usize);
        for number in 0..request.count {
            let image = self.make_one(provider, call, &request, number).await?;
            length = length.saturating_add(image.length());
            if length > MAX_WHOLE_REPLY {
                return Err(unusable("the images are too large together"));
            }
            data.push(image.into_member(request.wants_bytes));
        }
        let body = json!({ "created": provider.clock.now().seconds(), "data": data }).to_string().into();
        let usage = TokenUsage { images: request.count.into(), ..TokenUsage::default() };
        Ok(whole(body, Facts { usage: Some(usage), ..Facts::default() }))
    }

    async fn make_one(
        &self,
        provider: &HttpProvider,
        call: &Call,
        request: &ImageRequest,
        number: u32,
    ) -> Result<Image, ProviderError> {
        match self {
            Self::Forward => Err(unusable("a forwarded reply is not made here")),
            Self::MarkdownInChat { image_hosts } => {
                let image = ask_chat(provider, call, request).await?;
                if request.wants_bytes { image.fetched(&provider.client, image_hosts).await } else { Ok(image) }
            }
            Self::GetUrl(endpoint) => get(provider, call, request, endpoint, number).await,
            Self::JsonDataUrl(endpoint) => post(provider, call, request, endpoint).await,
        }
    }
}

impl ImageUrl {
    fn credential(&self, provider: &HttpProvider, call: &Call) -> Option<(HeaderName, HeaderValue)> {
        provider.credentials.header(call.credential).filter(|_| self.is_provider_host)
    }
}

async fn forward(provider: &HttpProvider, call: &Call) -> Result<Reply, ProviderError> {
    let request = &call.request;
    if request.view.stream {
        return Err(refused(RequestError::new("Images can't be streamed.").param("stream")));
    }
    let outgoing = Outgoing { body: request.dialect.splice(request, &call.edits), is_stream: false };
    let response = provider.post(call, outgoing).await?;
    let body = transport::collect(response.into_body(), MAX_WHOLE_REPLY).await?;
    let facts = provider.dialect.inspect_reply(Operation::ImageGeneration, &body)?;
    Ok(whole(body, facts))
}

/// A chat completion whose text is a markdown image; the size is for the model to choose.
async fn ask_chat(provider: &HttpProvider, call: &Call, request: &ImageRequest) -> Result<Image, ProviderError> {
    let message = Message {
        role: Role::User,
        content: vec![Part::Text(request.prompt.clone())],
        name: None,
        tool_calls: vec![],
        tool_call_id: None,
    };
    let chat =
        ChatRequest { model: call.edits.model.as_ref().into(), messages: vec![message], ..ChatRequest::default() };
    let body = provider.dialect.encode_request(&chat, &call.edits).map_err(refused)?;
    let url = provider.endpoint.url(Operation::Chat, &call.edits.model)?;
    let headers = provider.endpoint.headers(false, provider.credentials.header(call.credential));
    let mut upstream = Request::new(Rope::from(body).into());
    *upstream.method_mut() = Method::POST;
    *upstream.uri_mut() = url;
    *upstream.headers_mut() = headers;
    let response = provider.successful(provider.client.send(upstream).await?).await?;
    let reply = provider.dialect.decode_reply(&transport::collect(response.into_body(), MAX_WHOLE_REPLY).await?)?;
    let text = reply.choices.into_iter().next().and_then(|choice| choice.text);
    text.and_then(|text| Image::from_markdown(&text)).ok_or_else(|| unusable("the provider's text holds no image"))
}

/// `GET {url}/{prompt}?…`, as Pollinations has it (<https://github.com/pollinations/pollinations/blob/master/APIDOCS.md>).
async fn get(
    provider: &HttpProvider,
    call: &Call,
    request: &ImageRequest,
    endpoint: &ImageUrl,
    number: u32,
) -> Result<Image, ProviderError> {
    let unusable_prompt = || refused(RequestError::new("The prompt can't be part of a URL.").param("prompt"));
    let prompt = path_segment(&request.prompt).ok_or_else(unusable_prompt)?;
    let base = endpoint.url.as_str().trim_end_matches('/');
    let model = path_segment(&call.edits.model).unwrap_or_default();
    let (width, height, seed) = (request.width, request.height, seed(call.id, number));
    let url: Uri =
        format!("{base}/{prompt}?width={width}&height={height}&model={model}&seed={seed}&nologo=true&nofeed=yes")
            .parse()
            .map_err(|_| unusable_prompt())?;
    let mut upstream = Request::new(Rope::default().into());
    *upstream.uri_mut() = url;
    *upstream.headers_mut() = provider.endpoint.headers_without_body(endpoint.credential(provider, call));
    let response = provider.successful(provider.client.send(upstream).await?).await?;
    let media_type = media_type(&response)?;
    Ok(Image::from_bytes(media_type, &transport::collect(response.into_body(), MAX_IMAGE).await?))
}

/// `POST` of a small JSON, answered with a `data:` URL, as fastflux.co has it.
async fn post(
    provider: &HttpProvider,
    call: &Call,
    request: &ImageRequest,
    endpoint: &ImageUrl,
) -> Result<Image, ProviderError> {
    #[derive(Deserialize)]
    struct Answer {
        result: String,
    }
    let body = json!({
        "prompt": request.prompt,
        "model": &*call.edits.model,
        "size": aspect(request.width, request.height),
        "isPublic": false,
    });
    let mut upstream = Request::new(Rope::from(Bytes::from(body.to_string())).into());
    *upstream.method_mut() = Method::POST;
    *upstream.uri_mut() = endpoint.url.as_str().parse().map_err(|_| unusable("the image URL is not one"))?;
    *upstream.headers_mut() = provider.endpoint.headers(false, endpoint.credential(provider, call));
    let response = provider.successful(provider.client.send(upstream).await?).await?;
    let body = transport::collect(response.into_body(), MAX_WHOLE_REPLY).await?;
    let answer = serde_json::from_slice::<Answer>(&body).ok();
    let image = answer.and_then(|answer| Image::from_url(&answer.result));
    image
        .filter(|image| matches!(image, Image::Here { .. }))
        .ok_or_else(|| unusable("the provider's reply holds no image"))
}

/// The three shapes that such upstreams know.
fn aspect(width: u32, height: u32) -> &'static str {
    match width.cmp(&height) {
        std::cmp::Ordering::Less => "9_16",
        std::cmp::Ordering::Equal => "1_1",
        std::cmp::Ordering::Greater => "16_9",
    }
}

/// Between 1 and 10 000, other for each image of a request, and the same again for the same request.
fn seed(id: RequestId, number: u32) -> u128 {
    id.0.as_u128().wrapping_add(number.into()) % 10_000 + 1
}
