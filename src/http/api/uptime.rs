use std::sync::Arc;

use poem::http::StatusCode;
use poem_openapi::{Object, OpenApi, param::Path, payload::Json};

use crate::{
    application::uptime::Uptime,
    http::{api::Tag, auth::KeyAuth, error::ApiError},
};

pub(in crate::http) struct UptimeApi {
    pub(in crate::http) uptime: Arc<Uptime>,
}

/// The model answered a minimal streamed request.
#[derive(Object)]
struct UptimeReply {
    /// `200 OK`.
    status: String,
    model: String,
    /// Unix seconds.
    checked_at: i64,
    first_token_ms: u64,
    /// Whether this is the result of a check of the last minute.
    cached: bool,
}

#[OpenApi]
impl UptimeApi {
    /// Check a model
    ///
    /// Sends one minimal streamed request, shared by everyone who asks within a minute and charged to the gateway itself. A
    /// model that does not answer is a 503.
    #[oai(path = "/v1/uptime/:model", method = "get", operation_id = "checkUptime", tag = "Tag::Health")]
    async fn check(&self, caller: KeyAuth, model: Path<String>) -> Result<Json<UptimeReply>, ApiError> {
        let name = model.0;
        match self.uptime.check(&caller.0, &name).await? {
            Ok(up) => Ok(Json(UptimeReply {
                status: "200 OK".to_owned(),
                model: name,
                checked_at: up.checked_at.seconds(),
                first_token_ms: u64::try_from(up.first_token.as_millis()).unwrap_or(u64::MAX),
                cached: up.cached,
            })),
            Err(down) => {
                let error = ApiError::new(StatusCode::SERVICE_UNAVAILABLE, down.message);
                Err(error.param("model").code("model_unavailable").retry_after(down.retry_after))
            }
        }
    }
}
