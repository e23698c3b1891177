use std::sync::Arc;

use ai4free_ports::{dialect::Dialect, request::Operation};
use poem_openapi::{OpenApi, payload::Response};

use crate::{
    application::{attempt::Answer, images::Images, inference::Inbound},
    http::{
        api::Tag,
        auth::KeyAuth,
        context::RequestContext,
        dto::image::{ImageRequest, Images as ImageReply},
        error::ApiError,
        limit_headers,
        payload::{RawJson, RawReply},
    },
};

pub(in crate::http) struct ImagesApi {
    pub(in crate::http) images: Images,
    pub(in crate::http) openai: Arc<dyn Dialect>,
}

#[derive(poem_openapi::ApiResponse)]
enum ImagesReply {
    /// The images.
    #[oai(status = 200, actual_type = "poem_openapi::payload::Json<ImageReply>")]
    Made(RawReply<ImageReply>),
}

#[OpenApi]
impl ImagesApi {
    /// Generate images
    #[oai(path = "/v1/images/generations", method = "post", operation_id = "createImage", tag = "Tag::Images")]
    async fn create(
        &self,
        caller: KeyAuth,
        context: RequestContext,
        body: RawJson<ImageRequest>,
    ) -> Result<Response<ImagesReply>, ApiError> {
        let inbound = Inbound {
            id: context.id,
            arrived: context.arrived,
            principal: caller.0,
            operation: Operation::ImageGeneration,
            dialect: self.openai.clone(),
            body: body.bytes,
        };
        let Answer::Whole { body, limits } = self.images.generate(inbound).await? else {
            return Err(ApiError::internal()); // no image provider streams
        };
        let reply = Response::new(ImagesReply::Made(RawReply::new(body)));
        Ok(limit_headers::headers(&limits).into_iter().fold(reply, |reply, (name, value)| reply.header(name, value)))
    }
}
