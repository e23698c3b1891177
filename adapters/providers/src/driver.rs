//! One attempt at an upstream over HTTP, for every protocol and vendor: what differs is in the dialect and in the settings.

use std::sync::Arc;

use ai4free_ports::{
    dialect::{Dialect, UpstreamError},
    error::{ProviderError, ProviderErrorKind, RequestError},
    llm_provider::{Call, CredentialInfo, Facts, FrameStream, LlmProvider, Reply},
    provider_settings::{Quirks, RotateOn},
    request::Operation,
    runtime::{Clock, Timestamp},
};
use async_trait::async_trait;
use bytes::Bytes;
use http::{
    Method, Request, Response,
    header::{CONTENT_TYPE, RETRY_AFTER},
};
use http_body_util::BodyExt;
use hyper::body::Body;

use crate::{
    aggregate::aggregate,
    credentials::Credentials,
    endpoint::{Endpoint, Heads},
    frames::{BodyStream, ByteLane, CrossingLane, Frames},
    images::Images,
    one_shot,
    outgoing::{Outgoing, refused, wants_audio},
    raw_reply,
    sse::{self, Opened},
    transport::{self, MAX_WHOLE_REPLY, PooledBody, UpstreamClient},
};

/// Of an error's body, what is read: the rest is dropped with the connection.
const MAX_ERROR_BODY: usize = 64 << 10;

/// How a reply gets from the provider's protocol into the client's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LaneChoice {
    /// As it is where both speak the same.
    ByDialect,
    /// Decoded and encoded in any case: the prober's way, which shows that a provider's replies can be understood.
    AlwaysCrossing,
}

pub(crate) struct HttpProvider {
    pub(crate) dialect: Arc<dyn Dialect>,
    pub(crate) lane: LaneChoice,
    pub(crate) endpoint: Endpoint,
    pub(crate) credentials: Credentials,
    /// One for each credential.
    pub(crate) heads: Vec<Heads>,
    pub(crate) quirks: Quirks,
    pub(crate) images: Option<Images>,
    pub(crate) client: UpstreamClient,
    pub(crate) clock: Arc<dyn Clock>,
}

#[async_trait]
impl LlmProvider for HttpProvider {
    fn credentials(&self) -> &[CredentialInfo] {
        self.credentials.infos()
    }

    fn resting_until(&self, credential: usize) -> Option<Timestamp> {
        self.credentials.resting_until(credential)
    }

    async fn call(&self, call: Call) -> Result<Reply, ProviderError> {
        let attempt = match (call.request.operation, &self.images) {
            (Operation::Chat, _) => self.chat(&call).await,
            (Operation::ImageGeneration, Some(images)) => images.generate(self, &call).await,
            (Operation::ImageGeneration, None) => {
                let error = RequestError::new("This model's provider makes no images.");
                Err(refused(error.param("model")))
            }
        };
        match attempt {
            Ok(reply) => {
                self.credentials.succeeded(call.credential);
                Ok(reply)
            }
            Err(mut error) => {
                self.credentials.failed(call.credential, &error);
                error.try_next_credential |= self.is_worth_another_credential(&error);
                Err(error)
            }
        }
    }
}

impl HttpProvider {
    async fn chat(&self, call: &Call) -> Result<Reply, ProviderError> {
        let request = &call.request;
        let outgoing = Outgoing::new(request, &call.edits, &self.dialect, &self.quirks)?;
        match (outgoing.is_stream, request.view.stream) {
            (true, true) if self.is_bytewise(call) => self.forward_stream(call, outgoing).await.map(Reply::Stream),
            (true, true) => self.cross_stream(call, outgoing).await.map(Reply::Stream),
            (true, false) => self.put_together(call, outgoing).await,
            (false, true) => {
                let body = self.whole_body(call, outgoing).await?;
                self.one_shot(call, body).map(Reply::Stream)
            }
            (false, false) => {
                let body = self.whole_body(call, outgoing).await?;
                self.whole_reply(call, body)
            }
        }
    }

    fn is_bytewise(&self, call: &Call) -> bool {
        self.lane == LaneChoice::ByDialect && Arc::ptr_eq(&call.request.dialect, &self.dialect)
    }

    async fn forward_stream(&self, call: &Call, outgoing: Outgoing) -> Result<FrameStream, ProviderError> {
        let response = self.post(call, outgoing).await?;
        if is_json(&response) {
            return self.one_shot(call, transport::collect(response.into_body(), MAX_WHOLE_REPLY).await?);
        }
        Frames::begin(BodyStream(response.into_body()), ByteLane::new(&call.request)).await
    }

    async fn cross_stream(&self, call: &Call, outgoing: Outgoing) -> Result<FrameStream, ProviderError> {
        let lane = CrossingLane::new(&*self.dialect, &call.request);
        let url = self.endpoint.url(Operation::Chat, &call.edits.model)?;
        let headers = self.endpoint.headers(true, self.credentials.header(call.credential));
        let client = self.client.reqwest(&url).await?;
        let response = match sse::open(&client, &url, headers, outgoing.body.into_bytes()).await? {
            Opened::Events(events) => return Frames::begin(events, lane).await,
            Opened::Other(response) => response.map(|body| body.map_err(reqwest::Error::without_url)),
        };
        let response = self.successful(response).await?;
        if is_json(&response) {
            return self.one_shot(call, transport::collect(response.into_body(), MAX_WHOLE_REPLY).await?);
        }
        // Some upstreams stream events under another content type.
        Frames::begin(BodyStream(response.into_body()), lane).await
    }

    async fn put_together(&self, call: &Call, outgoing: Outgoing) -> Result<Reply, ProviderError> {
        let response = self.post(call, outgoing).await?;
        if is_json(&response) {
            let body = transport::collect(response.into_body(), MAX_WHOLE_REPLY).await?;
            return self.whole_reply(call, body);
        }
        let reply = aggregate(BodyStream(response.into_body()), self.dialect.event_reader()).await?;
        let body = call.request.dialect.encode_reply(&reply);
        let facts = call.request.dialect.inspect_reply(Operation::Chat, &body)?;
        Ok(whole(body, Facts { provider_cost: reply.provider_cost, ..facts }))
    }

    async fn whole_body(&self, call: &Call, outgoing: Outgoing) -> Result<Bytes, ProviderError> {
        let response = self.post(call, outgoing).await?;
        transport::collect(response.into_body(), MAX_WHOLE_REPLY).await
    }

    fn whole_reply(&self, call: &Call, body: Bytes) -> Result<Reply, ProviderError> {
        let body = self.completion(call, body)?;
        let facts = self.dialect.inspect_reply(Operation::Chat, &body)?;
        if self.is_bytewise(call) {
            return Ok(whole(body, facts));
        }
        let reply = self.dialect.decode_reply(&body)?;
        Ok(whole(call.request.dialect.encode_reply(&reply), facts))
    }

    /// A whole body for a client that asked for a stream.
    fn one_shot(&self, call: &Call, body: Bytes) -> Result<FrameStream, ProviderError> {
        let request = &call.request;
        let body = self.completion(call, body)?;
        let reply = self.dialect.decode_reply(&body)?;
        if self.quirks.whole_audio && wants_audio(request) {
            return if self.is_bytewise(call) {
                one_shot::stream_completion(&body, ByteLane::new(request))
            } else {
                one_shot::stream_completion(&body, CrossingLane::new(&*self.dialect, request))
            };
        }
        Ok(one_shot::stream_reply(reply, request))
    }

    fn completion(&self, call: &Call, body: Bytes) -> Result<Bytes, ProviderError> {
        if !self.quirks.raw_reply {
            return Ok(body);
        }
        raw_reply::completion(call.id, &call.request, &call.edits.model, self.clock.now(), body)
    }

    pub(crate) async fn post(&self, call: &Call, outgoing: Outgoing) -> Result<Response<PooledBody>, ProviderError> {
        let mut request = Request::new(outgoing.body.into());
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.endpoint.url(call.request.operation, &call.edits.model)?;
        let heads = self.heads.get(call.credential);
        *request.headers_mut() = heads.map(|heads| heads.of(outgoing.is_stream).clone()).unwrap_or_default();
        self.successful(self.client.send(request).await?).await
    }

    /// The response, if it is one: everything but 2xx is an error, a redirect too.
    pub(crate) async fn successful<B>(&self, response: Response<B>) -> Result<Response<B>, ProviderError>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        if status.is_redirection() {
            let error = ProviderError::new(ProviderErrorKind::Protocol).caused_by("the provider redirects");
            return Err(ProviderError { status: Some(status.as_u16()), ..error });
        }
        let (head, body) = response.into_parts();
        let body = read_some(body, MAX_ERROR_BODY).await;
        let retry_after = head.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        Err(self.dialect.classify_error(&UpstreamError { status: status.as_u16(), retry_after, body: &body }))
    }

    fn is_worth_another_credential(&self, error: &ProviderError) -> bool {
        match error.kind {
            ProviderErrorKind::Credential | ProviderErrorKind::Quota | ProviderErrorKind::RateLimit => true,
            // There was nobody to send it to; the model's next provider may be there.
            ProviderErrorKind::Transport if !error.request_was_sent => true,
            kind => match &self.quirks.rotate_on {
                RotateOn::Nothing => false,
                RotateOn::Statuses(statuses) => error.status.is_some_and(|status| statuses.contains(&status)),
                RotateOn::AnyFailure => kind != ProviderErrorKind::Request,
            },
        }
    }
}

/// A reply that came in one piece is its own last piece.
pub(crate) fn whole(body: Bytes, mut facts: Facts) -> Reply {
    facts.finished = true;
    facts.done = true;
    Reply::Whole { body, facts }
}

fn is_json<B>(response: &Response<B>) -> bool {
    const JSON: &[u8] = b"application/json";
    let content_type = response.headers().get(CONTENT_TYPE).map(|value| value.as_bytes().trim_ascii_start());
    content_type.and_then(|text| text.get(..JSON.len())).is_some_and(|text| text.eq_ignore_ascii_case(JSON))
}

/// What can be had of an error's body: that it breaks off must not hide the error itself.
async fn read_some<B>(mut body: B, cap: usize) -> Bytes
where
    B: Body<Data = Bytes> + Unpin,
{
    let mut read = Vec::new();
    while let Some(Ok(frame)) = body.frame().await {
        let room = cap.saturating_sub(read.len());
        let data = frame.into_data().unwrap_or_default();
        read.extend(data.iter().take(room));
        if data.len() >= room {
            break;
        }
    }
    read.into()
}
