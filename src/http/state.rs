//! What the operations of one application share.

use std::sync::Arc;

use ai4free_ports::{provider_settings::Secret, request::Operation};
use poem::{Request, http::HeaderMap};

use crate::{
    application::{
        authentication::{Authentication, Principal},
        observation::Refusals,
    },
    http::{auth, context::RequestContext, error::ApiError, payload::BodyLimits, throttle::Throttle},
};

/// One for all extractors: each further one would cost every request that they read.
pub(super) struct AppState {
    pub(super) authentication: Arc<Authentication>,
    pub(super) refusals: Arc<Refusals>,
    pub(super) system_secret: Secret,
    pub(super) body_limits: BodyLimits,
    pub(super) throttle: Throttle,
}

impl AppState {
    pub(super) fn of(request: &Request) -> Result<&Self, ApiError> {
        request.data::<Arc<Self>>().map(|state| &**state).ok_or_else(ApiError::internal)
    }

    /// The owner of the key in the headers. `operation`: the request log has a line for every request to a model, also for
    /// those that nobody answers for.
    pub(super) async fn authenticate(
        &self,
        headers: &HeaderMap,
        operation: Option<Operation>,
        context: &RequestContext,
    ) -> Result<Principal, ApiError> {
        self.authentication.authenticate(auth::bearer(headers)).await.map_err(|failure| {
            if let Some(operation) = operation {
                self.refusals.observe(context.id, operation, context.arrived, &failure);
            }
            failure.into()
        })
    }
}
