//! Bodies: read with a limit and a deadline, documented with a schema, kept as the bytes that came.

use std::{borrow::Cow, io, marker::PhantomData, time::Duration};

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, combinators::BoxBody};
use poem::{
    Body, IntoResponse, Request, RequestBody, Response, Result,
    http::{HeaderMap, StatusCode, header},
};
use poem_openapi::{
    ApiExtractor, ApiExtractorType, ExtractParamOptions,
    payload::Payload,
    registry::{MetaMediaType, MetaRequest, MetaSchema, MetaSchemaRef, Registry},
    types::Type,
};
use serde::de::DeserializeOwned;

use crate::http::{
    error::{ApiError, shortened},
    sse,
    state::AppState,
};

/// What the server allows of a body.
#[derive(Clone, Copy, Debug)]
pub struct BodyLimits {
    pub bytes: usize,
    /// For the whole body: a stalled one is not covered by any other deadline.
    pub timeout: Duration,
}

/// A JSON body as its raw bytes. `T` is only its documented schema: parsing into it would drop unknown members and rewrite
/// numbers.
pub(super) struct RawJson<T> {
    pub(super) bytes: Bytes,
    schema: PhantomData<fn() -> T>,
}

impl<T: Type> Payload for RawJson<T> {
    const CONTENT_TYPE: &'static str = "application/json";

    fn schema_ref() -> MetaSchemaRef {
        T::schema_ref()
    }

    fn register(registry: &mut Registry) {
        T::register(registry);
    }
}

impl<'a, T: Type> ApiExtractor<'a> for RawJson<T> {
    type ParamType = ();
    type ParamRawType = ();

    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::RequestObject];

    fn register(registry: &mut Registry) {
        <Self as Payload>::register(registry);
    }

    fn request_meta() -> Option<MetaRequest> {
        let content = MetaMediaType { content_type: Self::CONTENT_TYPE, schema: Self::schema_ref() };
        Some(MetaRequest { description: None, content: vec![content], required: true })
    }

    async fn from_request(request: &'a Request, body: &mut RequestBody, _: ExtractParamOptions<()>) -> Result<Self> {
        let limits = &AppState::of(request)?.body_limits;
        let bytes = read_json(limits, request.headers(), taken(body)).await?;
        Ok(Self { bytes, schema: PhantomData })
    }
}

impl<T: DeserializeOwned> RawJson<T> {
    /// Strictly, for bodies that are read here and not forwarded. An error names the member.
    pub(super) fn parse(&self) -> Result<T, ApiError> {
        parse(&self.bytes)
    }
}

/// Read before anyone is authenticated, and holds a key or a number.
const MOST_OPTIONAL_BYTES: usize = 64 * 1024;

/// A small JSON body that may be absent.
pub(super) struct OptionalJson<T> {
    bytes: Bytes,
    schema: PhantomData<fn() -> T>,
}

impl<'a, T: Type> ApiExtractor<'a> for OptionalJson<T> {
    type ParamType = ();
    type ParamRawType = ();

    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::RequestObject];

    fn register(registry: &mut Registry) {
        T::register(registry);
    }

    fn request_meta() -> Option<MetaRequest> {
        let content = MetaMediaType { content_type: "application/json", schema: T::schema_ref() };
        Some(MetaRequest { description: None, content: vec![content], required: false })
    }

    async fn from_request(request: &'a Request, body: &mut RequestBody, _: ExtractParamOptions<()>) -> Result<Self> {
        let limits = &AppState::of(request)?.body_limits;
        let bytes = read(limits, request.headers(), taken(body), MOST_OPTIONAL_BYTES).await?;
        if !bytes.is_empty() {
            check_content_type(request.headers())?;
        }
        Ok(Self { bytes, schema: PhantomData })
    }
}

impl<T: DeserializeOwned + Default> OptionalJson<T> {
    pub(super) fn parse(&self) -> Result<T, ApiError> {
        if self.bytes.is_empty() { Ok(T::default()) } else { parse(&self.bytes) }
    }
}

/// A stream of server-sent events, each of which holds a `T`. The bytes go out as they are.
pub(super) struct RawSse<T> {
    body: Body,
    schema: PhantomData<fn() -> T>,
}

impl<T> RawSse<T> {
    pub(super) fn new(body: Body) -> Self {
        Self { body, schema: PhantomData }
    }
}

impl<T: Type> Payload for RawSse<T> {
    const CONTENT_TYPE: &'static str = "text/event-stream";

    fn schema_ref() -> MetaSchemaRef {
        let schema = MetaSchema::new_with_format("array", "event-stream");
        MetaSchemaRef::Inline(Box::new(MetaSchema { items: Some(Box::new(T::schema_ref())), ..schema }))
    }

    fn register(registry: &mut Registry) {
        T::register(registry);
    }
}

impl<T: Send> IntoResponse for RawSse<T> {
    fn into_response(self) -> Response {
        let mut response = Response::builder().content_type("text/event-stream").body(self.body);
        response.headers_mut().extend(sse::headers());
        response
    }
}

/// A whole reply in the provider's own bytes, documented as `T`.
pub(super) struct RawReply<T> {
    bytes: Bytes,
    schema: PhantomData<fn() -> T>,
}

impl<T> RawReply<T> {
    pub(super) fn new(bytes: Bytes) -> Self {
        Self { bytes, schema: PhantomData }
    }
}

impl<T: Type> Payload for RawReply<T> {
    const CONTENT_TYPE: &'static str = "application/json";

    fn schema_ref() -> MetaSchemaRef {
        T::schema_ref()
    }

    fn register(registry: &mut Registry) {
        T::register(registry);
    }
}

impl<T: Send> IntoResponse for RawReply<T> {
    fn into_response(self) -> Response {
        Response::builder().content_type("application/json").body(self.bytes)
    }
}

fn check_content_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let unsupported = |message| Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = value.and_then(|value| value.split(';').next()).map(str::trim);
    match essence {
        Some(essence) if essence.eq_ignore_ascii_case("application/json") => Ok(()),
        Some(_) => unsupported("The content type must be application/json."),
        None => unsupported("A content type is missing: it must be application/json."),
    }
}

/// A whole body that says that it is JSON.
pub(super) async fn read_json<B>(limits: &BodyLimits, headers: &HeaderMap, body: B) -> Result<Bytes, ApiError>
where
    B: hyper::body::Body<Data = Bytes> + Unpin,
{
    if let Err(error) = check_content_type(headers) {
        discard(limits, headers, body).await;
        return Err(error);
    }
    read(limits, headers, body, usize::MAX).await
}

/// The only place that reads a request's body.
async fn read<B>(limits: &BodyLimits, headers: &HeaderMap, body: B, most: usize) -> Result<Bytes, ApiError>
where
    B: hyper::body::Body<Data = Bytes> + Unpin,
{
    let most = most.min(limits.bytes);
    if headers.contains_key(header::CONTENT_ENCODING) {
        return Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "Compressed bodies are not supported."));
    }
    let declared = headers.get(header::CONTENT_LENGTH);
    let declared = declared.and_then(|value| value.to_str().ok()).and_then(|value| value.parse::<usize>().ok());
    let collected = tokio::time::timeout(limits.timeout, collect(body, declared.unwrap_or(0), most)).await;
    match collected {
        Ok(result) => result,
        Err(_) => Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, "The body of the request did not arrive in time.")),
    }
}

async fn collect<B>(mut body: B, declared: usize, most: usize) -> Result<Bytes, ApiError>
where
    B: hyper::body::Body<Data = Bytes> + Unpin,
{
    let broken = |_| ApiError::new(StatusCode::BAD_REQUEST, "The body of the request broke off.");
    if declared > most {
        return Err(too_large(body, most).await);
    }
    let Some(first) = next(&mut body).await.transpose().map_err(broken)? else { return Ok(Bytes::new()) };
    if first.len() == declared && declared > 0 {
        return Ok(first);
    }
    let mut whole = BytesMut::with_capacity(declared.max(first.len()));
    let mut chunk = Some(first);
    while let Some(bytes) = chunk {
        if whole.len() + bytes.len() > most {
            return Err(too_large(body, most).await);
        }
        whole.extend_from_slice(&bytes);
        chunk = next(&mut body).await.transpose().map_err(broken)?;
    }
    Ok(whole.freeze())
}

/// Reads, and drops, the body of a request that is refused for its head.
pub(super) async fn discard<B>(limits: &BodyLimits, headers: &HeaderMap, body: B)
where
    B: hyper::body::Body<Data = Bytes> + Unpin,
{
    // A client that asks before it sends is told no.
    if headers.contains_key(header::EXPECT) {
        return;
    }
    let _in_time = tokio::time::timeout(limits.timeout, read_on(body, limits.bytes)).await;
}

async fn too_large<B: hyper::body::Body<Data = Bytes> + Unpin>(body: B, most: usize) -> ApiError {
    read_on(body, most.saturating_mul(4)).await;
    ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, format!("The body of the request is larger than {most} bytes."))
}

/// A client that is still sending would meet a reset instead of the answer.
async fn read_on<B: hyper::body::Body<Data = Bytes> + Unpin>(mut body: B, most: usize) {
    let mut left = most;
    while let Some(Ok(chunk)) = next(&mut body).await {
        let Some(rest) = left.checked_sub(chunk.len()) else { break };
        left = rest;
    }
}

/// The next bytes. Trailers are none.
async fn next<B: hyper::body::Body<Data = Bytes> + Unpin>(body: &mut B) -> Option<Result<Bytes, B::Error>> {
    let frame = body.frame().await?;
    Some(frame.map(|frame| frame.into_data().unwrap_or_default()))
}

/// Nothing, if it was read before.
pub(super) fn taken(body: &mut RequestBody) -> BoxBody<Bytes, io::Error> {
    body.take().unwrap_or_default().into()
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let parsed = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        let reason = error.into_inner().to_string();
        let told = whole_words(&reason);
        let api = ApiError::new(StatusCode::BAD_REQUEST, format!("The body of the request is not valid: {told}"));
        // A missing member is named in the reason, the path is its parent's.
        let missing = reason.split_once("missing field `").and_then(|(_, rest)| rest.split_once('`'));
        match missing {
            Some((member, _)) if path == "." => api.param(shortened(member).into_owned()),
            Some((member, _)) => api.param(shortened(&format!("{path}.{member}")).into_owned()),
            None if path != "." => api.param(shortened(&path).into_owned()),
            None => api,
        }
    })?;
    json.end()
        .map_err(|_| ApiError::new(StatusCode::BAD_REQUEST, "The body of the request goes on after its JSON value."))?;
    Ok(parsed)
}

/// As a sentence's end. What is cut ends after a whole word: the reason may list every member that there is.
fn whole_words(reason: &str) -> String {
    match shortened(reason) {
        Cow::Borrowed(whole) => format!("{whole}."),
        Cow::Owned(cut) => {
            let words = cut.rsplit_once(' ').map_or(&*cut, |(words, _)| words.trim_end_matches(','));
            format!("{words} …")
        }
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only their names matter")]
    struct ManyMembers {
        requests_per_minute: Option<u64>,
        image_requests_per_minute: Option<u64>,
        tokens_per_minute: Option<u64>,
        max_concurrent_requests: Option<u64>,
    }

    fn refusal(body: &str) -> String {
        parse::<ManyMembers>(body.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn a_long_refusal_ends_after_a_whole_word() {
        assert_eq!(
            refusal(r#"{"requests": 1}"#),
            "The body of the request is not valid: unknown field `requests`, expected one of `requests_per_minute`, \
             `image_requests_per_minute` …"
        );
        assert!(refusal(r#"{"tokens_per_minute": "x"}"#).ends_with(" at line 1 column 25."));
        let endless = refusal(&format!(r#"{{"{}": 1}}"#, "x".repeat(1000)));
        assert_eq!(endless, "The body of the request is not valid: unknown field …");
    }
}
