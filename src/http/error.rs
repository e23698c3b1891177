//! Every error that a client sees, whatever its origin: a status and OpenAI's envelope, decided in one place.

use std::{borrow::Cow, time::Duration};

use ai4free_ports::{
    dialect::WireError,
    error::{ProviderError, ProviderErrorKind, PublicError, RequestError},
    rate_limiter::LimitKind,
};
use poem::{
    IntoResponse, Response,
    error::ResponseError,
    http::{HeaderName, HeaderValue, StatusCode, header},
};
use poem_openapi::{
    ApiResponse,
    registry::{MetaMediaType, MetaResponse, MetaResponses, Registry},
    types::Type,
};

use crate::{
    application::failure::{AuthenticationProblem, BudgetExhausted, Failure, LimitReached},
    http::{
        dto::{error::ErrorEnvelope, moment},
        limit_headers,
    },
};

const INVALID_REQUEST: &str = "invalid_request_error";
const SERVER_ERROR: &str = "server_error";
/// A provider that is switched off comes back when an operator says so.
const DISABLED: Duration = Duration::from_secs(60);

#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(super) struct ApiError {
    pub(super) status: StatusCode,
    kind: &'static str,
    message: Cow<'static, str>,
    param: Option<Cow<'static, str>>,
    code: Option<Cow<'static, str>>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl ApiError {
    pub(super) fn new(status: StatusCode, message: impl Into<Cow<'static, str>>) -> Self {
        let kind = if status.is_server_error() { SERVER_ERROR } else { INVALID_REQUEST };
        Self { status, kind, message: message.into(), param: None, code: None, headers: Vec::new() }
    }

    /// A fault of ours. Says nothing of it: the log does.
    pub(super) fn internal() -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "The server had an error while processing your request.")
    }

    pub(super) fn param(mut self, param: impl Into<Cow<'static, str>>) -> Self {
        self.param = Some(param.into());
        self
    }

    pub(super) fn code(mut self, code: impl Into<Cow<'static, str>>) -> Self {
        self.code = Some(code.into());
        self
    }

    pub(super) fn retry_after(mut self, after: Duration) -> Self {
        // Rounded up: a client that waits exactly so long must not be early.
        let seconds = after.as_secs().saturating_add(u64::from(after.subsec_nanos() > 0));
        self.headers.push((header::RETRY_AFTER, seconds.max(1).into()));
        self
    }

    fn should_not_retry(mut self) -> Self {
        self.headers.push((HeaderName::from_static("x-should-retry"), HeaderValue::from_static("false")));
        self
    }

    /// The same error in the client's own protocol.
    pub(super) fn wire(&self) -> WireError<'_> {
        let error = PublicError {
            message: self.message.as_ref().into(),
            param: self.param.as_deref().map(Into::into),
            code: self.code.as_deref().map(Into::into),
        };
        WireError { kind: self.kind, error }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = serde_json::json!({
            "error": { "message": self.message, "type": self.kind, "param": self.param, "code": self.code }
        });
        let mut response =
            Response::builder().status(self.status).content_type("application/json").body(body.to_string());
        response.headers_mut().extend(self.headers);
        response
    }
}

impl ResponseError for ApiError {
    fn status(&self) -> StatusCode {
        self.status
    }

    fn as_response(&self) -> Response {
        let copy = Self {
            status: self.status,
            kind: self.kind,
            message: self.message.clone(),
            param: self.param.clone(),
            code: self.code.clone(),
            headers: self.headers.clone(),
        };
        copy.into_response()
    }
}

/// Documents the error responses of every operation that returns `Result<_, ApiError>`.
impl ApiResponse for ApiError {
    fn meta() -> MetaResponses {
        let response = |(status, description)| MetaResponse {
            description,
            status: Some(status),
            status_range: None,
            content: vec![MetaMediaType { content_type: "application/json", schema: ErrorEnvelope::schema_ref() }],
            headers: Vec::new(),
        };
        let statuses = [
            (400, "The request is malformed or asks for something that can't be done; `param` names the member."),
            (401, "There is no valid API key or secret."),
            (403, "The key may not use this model."),
            (404, "There is no such model, key or path."),
            (413, "The body is too large."),
            (415, "The content type or encoding is not supported."),
            (429, "A limit is reached; `retry-after` says when to come back."),
            (500, "A fault of the gateway."),
            (502, "The provider failed, or refused the gateway's own credential."),
            (
                503,
                "The gateway can't account or authenticate right now, or the provider is overloaded; see `retry-after`.",
            ),
            (504, "The provider did not answer in time."),
        ];
        MetaResponses { responses: statuses.into_iter().map(response).collect() }
    }

    fn register(registry: &mut Registry) {
        ErrorEnvelope::register(registry);
    }
}

impl From<RequestError> for ApiError {
    fn from(error: RequestError) -> Self {
        Self {
            param: error.param,
            code: error.code.map(Cow::Borrowed),
            ..Self::new(StatusCode::BAD_REQUEST, error.message)
        }
    }
}

/// The one table from what went wrong to what the client is told.
impl From<Failure> for ApiError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Unauthenticated(problem) => unauthenticated(problem),
            Failure::ModelNotAllowed { model } => {
                Self::new(StatusCode::FORBIDDEN, format!("This API key may not use the model `{}`.", shortened(&model)))
                    .param("model")
                    .code("model_not_allowed")
            }
            Failure::ModelNotFound { model } => {
                Self::new(StatusCode::NOT_FOUND, format!("The model `{}` does not exist.", shortened(&model)))
                    .param("model")
                    .code("model_not_found")
            }
            Failure::ModelDisabled { model } => {
                let message =
                    format!("No provider of the model `{}` is configured on this gateway.", shortened(&model));
                Self::new(StatusCode::SERVICE_UNAVAILABLE, message)
                    .param("model")
                    .code("provider_disabled")
                    .retry_after(DISABLED)
            }
            Failure::NotFound(what) => Self::new(StatusCode::NOT_FOUND, format!("There is no such {what}.")),
            Failure::Conflict(what) => {
                Self::new(StatusCode::CONFLICT, format!("The {what} was changed by somebody else at the same time."))
            }
            Failure::Request(error) => error.into(),
            Failure::LimitReached(limit) => limit_reached(&limit),
            Failure::BudgetExhausted(budget) => budget_exhausted(&budget),
            Failure::Unpriced => {
                let message =
                    "A budget applies to this request, and the model has no price: its cost can't be bounded.";
                Self::new(StatusCode::BAD_REQUEST, message).param("model").code("model_unpriced")
            }
            Failure::Unavailable { what, retry_after } => {
                let message = format!("Your request can't be served right now: {what} is unavailable.");
                Self::new(StatusCode::SERVICE_UNAVAILABLE, message).code(what.code()).retry_after(retry_after)
            }
            Failure::Provider(error) => provider(error),
        }
    }
}

fn unauthenticated(problem: AuthenticationProblem) -> ApiError {
    let message = match problem {
        AuthenticationProblem::Missing => {
            "You didn't provide an API key. Provide it in an Authorization header, as `Authorization: Bearer YOUR_KEY`."
        }
        // One answer for all: it tells a stranger nothing of which keys there were.
        AuthenticationProblem::Malformed
        | AuthenticationProblem::Unknown
        | AuthenticationProblem::Revoked
        | AuthenticationProblem::Expired => "Incorrect API key provided, or it was revoked or has expired.",
    };
    ApiError::new(StatusCode::UNAUTHORIZED, message).code("invalid_api_key")
}

/// `insufficient_quota` and `x-should-retry: false`: the official clients give up at once instead of asking again.
fn budget_exhausted(budget: &BudgetExhausted) -> ApiError {
    let resets =
        budget.resets_at.map_or_else(|| "never resets".to_owned(), |at| format!("resets at {}", moment::rfc3339(at)));
    let message = format!(
        "The budget of this {} does not cover this request: it may cost ${}, and ${} of ${} remain (settled ${}, reserved ${}, {resets}).",
        budget.scope.name(),
        budget.requested,
        budget.remaining(),
        budget.limit,
        budget.settled,
        budget.reserved,
    );
    let error = ApiError::new(StatusCode::TOO_MANY_REQUESTS, message).code("insufficient_quota").should_not_retry();
    ApiError { kind: "insufficient_quota", ..error }
}

fn limit_reached(limit: &LimitReached) -> ApiError {
    let unit = match limit.kind {
        LimitKind::Requests => "requests per 60 seconds",
        LimitKind::ImageRequests => "image requests per 60 seconds",
        LimitKind::Tokens => "tokens per 60 seconds",
        LimitKind::Concurrency => "concurrent requests",
    };
    if limit.kind == LimitKind::Tokens && limit.requested > limit.limit {
        let message = format!(
            "This request may use {} tokens, more than the {} allows in 60 seconds ({}). Shorten it or set a smaller output cap.",
            limit.requested,
            limit.scope.name(),
            limit.limit,
        );
        let mut error = ApiError::new(StatusCode::BAD_REQUEST, message).code("request_exceeds_limit");
        error.headers = limit_headers::headers(&limit.headers);
        return error;
    }
    let resets = match limit.kind {
        // Nobody knows when.
        LimitKind::Concurrency => "as requests end".to_owned(),
        LimitKind::Requests | LimitKind::ImageRequests | LimitKind::Tokens => {
            format!("in {}", limit_headers::GoDuration(limit.standing.reset))
        }
    };
    let message = format!(
        "Rate limit reached for the {} in {}: limit {} {unit}, settled {}, reserved {}, remaining {}, requested {}, resets {resets}. Try again in {}.",
        limit.scope.name(),
        limit.kind.name(),
        limit.limit,
        limit.settled,
        limit.reserved,
        limit.standing.remaining,
        limit.requested,
        limit_headers::GoDuration(limit.retry_after),
    );
    let mut error = ApiError::new(StatusCode::TOO_MANY_REQUESTS, message).code("rate_limit_exceeded");
    error.kind = if limit.kind == LimitKind::Tokens { "tokens" } else { "requests" };
    error.headers = limit_headers::headers(&limit.headers);
    if limit.requested > limit.limit {
        // It could never be admitted: coming back does not help.
        return error.should_not_retry();
    }
    error.retry_after(limit.retry_after)
}

/// A provider's client errors pass as the client's own; its refusal of our credential and its faults are ours to answer for.
pub(super) fn provider(error: ProviderError) -> ApiError {
    let PublicError { message, param, code } = error.public.unwrap_or_default();
    let told = |status, fallback: &'static str| {
        let message = if message.is_empty() { Cow::Borrowed(fallback) } else { Cow::Owned(message.clone().into()) };
        let mut told = ApiError::new(status, message);
        told.param = param.clone().map(|param| Cow::Owned(param.into()));
        told.code = code.clone().map(|code| Cow::Owned(code.into()));
        told
    };
    let api = match error.kind {
        ProviderErrorKind::Request => {
            let status = match error.status {
                Some(404) => StatusCode::NOT_FOUND,
                Some(413) => StatusCode::PAYLOAD_TOO_LARGE,
                _ => StatusCode::BAD_REQUEST,
            };
            told(status, "The provider refused the request.")
        }
        ProviderErrorKind::RateLimit => {
            let mut told = told(StatusCode::TOO_MANY_REQUESTS, "The provider is limiting requests. Try again later.");
            told.kind = "requests";
            told.code = told.code.or(Some(Cow::Borrowed("rate_limit_exceeded")));
            told
        }
        // Its 429 is a 429, but how its account with us stands is nobody else's business.
        ProviderErrorKind::Quota if error.status == Some(429) => {
            ApiError::new(StatusCode::TOO_MANY_REQUESTS, "The provider's quota for this gateway is used up.")
                .code(error.kind.as_str())
                .should_not_retry()
        }
        ProviderErrorKind::Credential | ProviderErrorKind::Quota => {
            ApiError::new(StatusCode::BAD_GATEWAY, "The provider refused the gateway's credential.")
                .code(error.kind.as_str())
                .should_not_retry() // every credential was tried
        }
        ProviderErrorKind::Overloaded => {
            // Our own 503 means that we can't account or authenticate; of a provider only 529 is one.
            let status =
                if error.status == Some(503) { StatusCode::BAD_GATEWAY } else { StatusCode::SERVICE_UNAVAILABLE };
            ApiError::new(status, "The provider is overloaded. Try again later.").code(error.kind.as_str())
        }
        ProviderErrorKind::Server => {
            ApiError::new(StatusCode::BAD_GATEWAY, "The provider had an error.").code(error.kind.as_str())
        }
        ProviderErrorKind::Timeout => {
            ApiError::new(StatusCode::GATEWAY_TIMEOUT, "The provider did not answer in time.").code(error.kind.as_str())
        }
        ProviderErrorKind::Transport => {
            ApiError::new(StatusCode::BAD_GATEWAY, "The provider can't be reached.").code(error.kind.as_str())
        }
        ProviderErrorKind::Protocol => {
            ApiError::new(StatusCode::BAD_GATEWAY, "The provider's answer was incomplete or malformed.")
                .code(error.kind.as_str())
        }
    };
    match (error.kind, error.retry_after) {
        (_, Some(after)) => api.retry_after(after),
        (ProviderErrorKind::Overloaded, None) => api.retry_after(Duration::from_secs(1)),
        (_, None) => api,
    }
}

/// Errors that the framework made: unknown paths, wrong methods, parameters that don't parse.
pub(super) async fn from_framework(error: poem::Error) -> Response {
    if error.is::<ApiError>() {
        return error.into_response();
    }
    let status = error.status();
    let param = error.downcast_ref::<poem_openapi::error::ParseParamError>().map(|error| error.name);
    let api = match status {
        StatusCode::NOT_FOUND => ApiError::new(status, "Unknown request URL."),
        StatusCode::METHOD_NOT_ALLOWED => ApiError::new(status, "This method is not allowed on this URL."),
        status if status.is_client_error() => {
            let message = param.map_or(Cow::Borrowed("The request is malformed."), |name| {
                Cow::Owned(format!("The parameter '{name}' is malformed."))
            });
            ApiError::new(status, message)
        }
        _ => {
            tracing::error!(error = %error, "request failed in the framework");
            ApiError::internal()
        }
    };
    match param {
        Some(name) => api.param(name).into_response(),
        None => api.into_response(),
    }
}

/// Client strings are quoted back only so far.
pub(super) fn shortened(text: &str) -> Cow<'_, str> {
    const MOST: usize = 100;
    if text.chars().count() <= MOST {
        Cow::Borrowed(text)
    } else {
        Cow::Owned(text.chars().take(MOST).chain(['…']).collect())
    }
}
