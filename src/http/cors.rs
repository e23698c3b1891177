//! Cross-origin access: `/v1/*` for every configured origin, without credentials; key administration for none.

use poem::{
    Request, Response,
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
};

static EXPOSED: HeaderValue = HeaderValue::from_static(
    "x-request-id, retry-after, x-ai4free-limit-scope, x-ai4free-degraded, \
                       x-ratelimit-limit-requests, x-ratelimit-remaining-requests, x-ratelimit-reset-requests, \
                       x-ratelimit-limit-tokens, x-ratelimit-remaining-tokens, x-ratelimit-reset-tokens",
);

/// Which origins a browser may call from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origins {
    Any,
    /// Exactly these; empty allows none.
    Listed(Vec<String>),
}

/// The answer to a preflight request; `None` if it is none, or not allowed.
pub(super) fn preflight(origins: &Origins, request: &Request) -> Option<Response> {
    let asked = request.header(header::ACCESS_CONTROL_REQUEST_METHOD).is_some();
    if *request.method() != Method::OPTIONS || !asked {
        return None;
    }
    let origin = allowed(origins, request.uri().path(), request.headers())?;
    let mut response = Response::builder().status(StatusCode::NO_CONTENT).finish();
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST, OPTIONS"));
    let asked = request.headers().get(header::ACCESS_CONTROL_REQUEST_HEADERS);
    let allowed = asked.cloned().unwrap_or_else(|| HeaderValue::from_static("authorization, content-type"));
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, allowed);
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("86400"));
    Some(response)
}

/// What an answer has to say, decided before the request is consumed.
pub(super) fn allowed(origins: &Origins, path: &str, headers: &HeaderMap) -> Option<HeaderValue> {
    let public = path.starts_with("/v1/") && path != "/v1/api-keys" && !path.starts_with("/v1/api-keys/");
    if !public {
        return None;
    }
    match origins {
        Origins::Any => Some(HeaderValue::from_static("*")),
        Origins::Listed(listed) => {
            let origin = headers.get(header::ORIGIN)?;
            listed.iter().any(|allowed| allowed.as_bytes() == origin.as_bytes()).then(|| origin.clone())
        }
    }
}

pub(super) fn mark(headers: &mut HeaderMap, origin: Option<HeaderValue>) {
    let Some(origin) = origin else { return };
    if origin != "*" {
        headers.append(header::VARY, HeaderValue::from_static("origin"));
    }
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED.clone());
}
