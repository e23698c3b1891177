//! The operations on models, found by their path alone.
//!
//! They are nearly all of the traffic. To find a handler, the framework formats patterns, parses the URL and looks for cookies,
//! which costs more than all that the gateway itself does with most requests. Written in any other way than here (`%63hat`),
//! the path still leads there, to the same use-cases.

use std::{panic::AssertUnwindSafe, sync::Arc};

use ai4free_ports::{dialect::Dialect, request::Operation};
use futures_util::FutureExt;
use http_body_util::Full;
use hyper::{body::Incoming, http::request::Parts};
use poem::{
    IntoResponse,
    http::{HeaderValue, Method, header},
};
use tokio_util::sync::CancellationToken;

use crate::{
    application::{attempt::Answer, chat::Chat, images::Images, inference::Inbound, standing::LimitHeaders},
    http::{
        context::RequestContext,
        cors::{self, Origins},
        error::ApiError,
        limit_headers, payload,
        reply_body::ReplyBody,
        sse::{self, SseStream},
        state::AppState,
    },
};

type Request = hyper::Request<Incoming>;
type Response = hyper::Response<ReplyBody>;

/// Of limits, of CORS, and those that every response has.
const USUAL_HEADERS: usize = 12;

pub(super) struct Direct {
    pub(super) state: Arc<AppState>,
    pub(super) chat: Chat,
    pub(super) images: Images,
    pub(super) openai: Arc<dyn Dialect>,
    pub(super) cors: Origins,
    pub(super) cut: CancellationToken,
}

/// The operation behind a path.
pub(super) fn operation(path: &str) -> Option<Operation> {
    match path {
        "/v1/chat/completions" => Some(Operation::Chat),
        "/v1/images/generations" => Some(Operation::ImageGeneration),
        _ => None,
    }
}

impl Direct {
    /// `None`: the framework knows what to do with it.
    pub(super) fn operation(request: &Request) -> Option<Operation> {
        operation(request.uri().path()).filter(|_| *request.method() == Method::POST)
    }

    pub(super) async fn serve(&self, operation: Operation, request: Request, context: RequestContext) -> Response {
        let (head, body) = request.into_parts();
        let origin = cors::allowed(&self.cors, head.uri.path(), &head.headers);
        let answered = AssertUnwindSafe(self.answer(operation, &head, body, context)).catch_unwind().await;
        let answered = answered.unwrap_or_else(|_| Err(ApiError::internal()));
        let mut response =
            answered.unwrap_or_else(|error| hyper::Response::from(error.into_response()).map(ReplyBody::Framework));
        cors::mark(response.headers_mut(), origin);
        response
    }

    async fn answer(
        &self,
        operation: Operation,
        head: &Parts,
        body: Incoming,
        context: RequestContext,
    ) -> Result<Response, ApiError> {
        let limits = &self.state.body_limits;
        let principal = match self.state.authenticate(&head.headers, Some(operation), &context).await {
            Ok(principal) => principal,
            Err(error) => {
                payload::discard(limits, &head.headers, body).await;
                return Err(error);
            }
        };
        let inbound = Inbound {
            id: context.id,
            arrived: context.arrived,
            principal,
            operation,
            dialect: self.openai.clone(),
            body: payload::read_json(limits, &head.headers, body).await?,
        };
        let answer = match operation {
            Operation::Chat => self.chat.complete(inbound).await?,
            Operation::ImageGeneration => self.images.generate(inbound).await?,
        };
        match answer {
            Answer::Whole { body, limits } => {
                Ok(response(ReplyBody::Whole(Full::new(body)), "application/json; charset=utf-8", &limits))
            }
            Answer::Stream { frames, limits } if operation == Operation::Chat => {
                let events = SseStream::new(frames, self.openai.clone(), &self.cut);
                let mut response = response(ReplyBody::Events(events), "text/event-stream", &limits);
                response.headers_mut().extend(sse::headers());
                Ok(response)
            }
            Answer::Stream { .. } => Err(ApiError::internal()), // no image provider streams
        }
    }
}

fn response(body: ReplyBody, content_type: &'static str, limits: &LimitHeaders) -> Response {
    let mut response = hyper::Response::new(body);
    let headers = response.headers_mut();
    headers.reserve(USUAL_HEADERS);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.extend(limit_headers::headers(limits));
    response
}
