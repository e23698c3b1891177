//! Who is asking, read from the request's head before its body.

use std::marker::PhantomData;

use poem::{
    Request, RequestBody, Result,
    http::{HeaderMap, StatusCode, header},
};
use poem_openapi::{
    ApiExtractor, ApiExtractorType, ExtractParamOptions,
    registry::{MetaSecurityScheme, Registry},
};
use subtle::ConstantTimeEq;

use crate::{
    application::authentication::Principal,
    http::{context::RequestContext, direct, error::ApiError, payload, state::AppState},
};

const KEY_SCHEME: &str = "ApiKey";
const SECRET_SCHEME: &str = "SystemSecret";
const SECRET_HEADER: &str = "X-System-Secret";

/// A valid API key.
pub(super) struct KeyAuth(pub(super) Principal);

/// A valid API key, or none. A present but wrong one is refused.
pub(super) struct OptionalKeyAuth(pub(super) Option<Principal>);

/// The right system secret, in its header.
pub(super) struct SystemAuth(PhantomData<()>);

/// The right system secret in its header, or none: then the body must hold it (the old form of key creation).
pub(super) struct SystemAuthOrBody {
    in_header: bool,
}

impl<'a> ApiExtractor<'a> for KeyAuth {
    type ParamType = ();
    type ParamRawType = ();

    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::SecurityScheme];

    fn register(registry: &mut Registry) {
        register_key_scheme(registry);
    }

    fn security_schemes() -> Vec<&'static str> {
        vec![KEY_SCHEME]
    }

    async fn from_request(request: &'a Request, body: &mut RequestBody, _: ExtractParamOptions<()>) -> Result<Self> {
        let (state, context) = (AppState::of(request)?, RequestContext::of(request)?);
        let operation = direct::operation(request.original_uri().path());
        match state.authenticate(request.headers(), operation, &context).await {
            Ok(principal) => Ok(Self(principal)),
            Err(error) => {
                payload::discard(&state.body_limits, request.headers(), payload::taken(body)).await;
                Err(error.into())
            }
        }
    }
}

impl<'a> ApiExtractor<'a> for OptionalKeyAuth {
    type ParamType = ();
    type ParamRawType = ();

    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::SecurityScheme];

    fn register(registry: &mut Registry) {
        register_key_scheme(registry);
    }

    fn security_schemes() -> Vec<&'static str> {
        vec![KEY_SCHEME]
    }

    fn has_security_fallback() -> bool {
        true
    }

    async fn from_request(request: &'a Request, _: &mut RequestBody, _: ExtractParamOptions<()>) -> Result<Self> {
        if !request.headers().contains_key(header::AUTHORIZATION) {
            return Ok(Self(None));
        }
        Ok(Self(Some(authenticate(request, bearer(request.headers())).await?)))
    }
}

impl<'a> ApiExtractor<'a> for SystemAuth {
    type ParamType = ();
    type ParamRawType = ();

    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::SecurityScheme];

    fn register(registry: &mut Registry) {
        register_secret_scheme(registry);
    }

    fn security_schemes() -> Vec<&'static str> {
        vec![SECRET_SCHEME]
    }

    async fn from_request(request: &'a Request, _: &mut RequestBody, _: ExtractParamOptions<()>) -> Result<Self> {
        check_secret(request, request.header(SECRET_HEADER))?;
        Ok(Self(PhantomData))
    }
}

impl<'a> ApiExtractor<'a> for SystemAuthOrBody {
    type ParamType = ();
    type ParamRawType = ();

    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::SecurityScheme];

    fn register(registry: &mut Registry) {
        register_secret_scheme(registry);
    }

    fn security_schemes() -> Vec<&'static str> {
        vec![SECRET_SCHEME]
    }

    fn has_security_fallback() -> bool {
        true
    }

    async fn from_request(request: &'a Request, _: &mut RequestBody, _: ExtractParamOptions<()>) -> Result<Self> {
        let in_header = request.header(SECRET_HEADER);
        if in_header.is_some() {
            check_secret(request, in_header)?;
        }
        Ok(Self { in_header: in_header.is_some() })
    }
}

impl SystemAuthOrBody {
    /// To be called before the body is believed in anything else.
    pub(super) fn check(&self, request: &Request, in_body: Option<&str>) -> Result<(), ApiError> {
        if self.in_header { Ok(()) } else { check_secret(request, in_body) }
    }
}

/// Checks a key that came in a body (the old form of `/v1/usage`).
pub(super) async fn authenticate(request: &Request, token: Option<&str>) -> Result<Principal, ApiError> {
    Ok(AppState::of(request)?.authentication.authenticate(token).await?)
}

/// The credential of an `Authorization: Bearer` header; the scheme's name in any case.
pub(super) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn check_secret(request: &Request, presented: Option<&str>) -> Result<(), ApiError> {
    let (state, context) = (AppState::of(request)?, RequestContext::of(request)?);
    let (expected, throttle) = (&state.system_secret, &state.throttle);
    if let Err(wait) = throttle.check(context.peer, context.arrived) {
        let message = "Too many attempts with a wrong system secret.";
        return Err(ApiError::new(StatusCode::TOO_MANY_REQUESTS, message)
            .code("rate_limit_exceeded")
            .retry_after(wait));
    }
    let right = presented.is_some_and(|secret| bool::from(secret.as_bytes().ct_eq(expected.expose().as_bytes())));
    if right {
        return Ok(());
    }
    throttle.failed(context.peer, context.arrived);
    let message = "The system secret is missing or wrong. Provide it in the X-System-Secret header.";
    Err(ApiError::new(StatusCode::UNAUTHORIZED, message).code("invalid_system_secret"))
}

fn register_key_scheme(registry: &mut Registry) {
    let description = "A key of this gateway: `Authorization: Bearer sk-a4f-…`.";
    let scheme = scheme("http", description);
    registry.create_security_scheme(KEY_SCHEME, MetaSecurityScheme { scheme: Some("bearer"), ..scheme });
}

fn register_secret_scheme(registry: &mut Registry) {
    let scheme = scheme("apiKey", "The operator's secret (`SYSTEM_SECRET`).");
    let in_header = MetaSecurityScheme { name: Some(SECRET_HEADER), key_in: Some("header"), ..scheme };
    registry.create_security_scheme(SECRET_SCHEME, in_header);
}

fn scheme(ty: &'static str, description: &'static str) -> MetaSecurityScheme {
    MetaSecurityScheme {
        ty,
        description: Some(description),
        name: None,
        key_in: None,
        scheme: None,
        bearer_format: None,
        flows: None,
        openid_connect_url: None,
    }
}
