//! What the server knows of a request before anyone reads it.

use std::{net::IpAddr, time::Duration};

use ai4free_ports::request::RequestId;
use poem::{FromRequest, Request, RequestBody, Result};

use crate::http::error::ApiError;

/// Put into every request by the server loop.
#[derive(Clone, Copy, Debug)]
pub(super) struct RequestContext {
    pub(super) id: RequestId,
    /// Monotonic time at which the head had been read.
    pub(super) arrived: Duration,
    pub(super) peer: IpAddr,
}

impl RequestContext {
    pub(super) fn of(request: &Request) -> Result<Self, ApiError> {
        request.extensions().get::<Self>().copied().ok_or_else(ApiError::internal)
    }
}

impl<'a> FromRequest<'a> for RequestContext {
    async fn from_request(request: &'a Request, _body: &mut RequestBody) -> Result<Self> {
        Ok(Self::of(request)?)
    }
}
