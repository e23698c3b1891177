use std::sync::Arc;

use ai4free_ports::{dialect::Dialect, request::Operation};
use poem::Body;
use poem_openapi::{ApiResponse, OpenApi, ResponseContent, payload::Json};
use tokio_util::sync::CancellationToken;

use crate::{
    application::{attempt::Answer, chat::Chat, inference::Inbound},
    http::{
        api::Tag,
        auth::KeyAuth,
        context::RequestContext,
        dto::chat::{ChatCompletion, ChatCompletionChunk, ChatCompletionRequest},
        error::ApiError,
        limit_headers,
        payload::{RawJson, RawReply, RawSse},
        sse::SseStream,
    },
};

pub(in crate::http) struct ChatApi {
    pub(in crate::http) chat: Chat,
    pub(in crate::http) openai: Arc<dyn Dialect>,
    pub(in crate::http) cut: CancellationToken,
}

/// A completion: one JSON document, or server-sent events when `stream` is true.
#[derive(ResponseContent)]
enum Completion {
    #[oai(actual_type = "Json<ChatCompletion>")]
    Whole(RawReply<ChatCompletion>),
    Stream(RawSse<ChatCompletionChunk>),
}

#[derive(ApiResponse)]
enum ChatReply {
    /// The completion.
    #[oai(status = 200)]
    Completed(Completion),
}

#[OpenApi]
impl ChatApi {
    /// Create a chat completion
    ///
    /// Every field of OpenAI's API, and fields that are not listed here, are passed to providers that speak its protocol as
    /// they are.
    #[oai(path = "/v1/chat/completions", method = "post", operation_id = "createChatCompletion", tag = "Tag::Chat")]
    async fn create(
        &self,
        caller: KeyAuth,
        context: RequestContext,
        body: RawJson<ChatCompletionRequest>,
    ) -> Result<poem_openapi::payload::Response<ChatReply>, ApiError> {
        let inbound = Inbound {
            id: context.id,
            arrived: context.arrived,
            principal: caller.0,
            operation: Operation::Chat,
            dialect: self.openai.clone(),
            body: body.bytes,
        };
        let (completion, limits) = match self.chat.complete(inbound).await? {
            Answer::Whole { body, limits } => (Completion::Whole(RawReply::new(body)), limits),
            Answer::Stream { frames, limits } => {
                let events = SseStream::new(frames, self.openai.clone(), &self.cut);
                (Completion::Stream(RawSse::new(Body::from_bytes_stream(events))), limits)
            }
        };
        let reply = poem_openapi::payload::Response::new(ChatReply::Completed(completion));
        Ok(limit_headers::headers(&limits).into_iter().fold(reply, |reply, (name, value)| reply.header(name, value)))
    }
}
