#![expect(clippy::unused_async, reason = "the framework wants every operation to be async")]

use std::sync::Arc;

use poem_openapi::{ApiResponse, Object, OpenApi, payload::Json};

use crate::http::api::Tag;

/// What the process knows of itself. Asked on every probe; must not do I/O.
pub trait ReadinessSource: Send + Sync {
    fn standing(&self) -> Standing;
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Why no request should be sent here now: `starting`, `draining`, `migrations`, `spool`. Empty: ready.
    pub blockers: Vec<&'static str>,
    /// What is away while requests are still served: `database`, `redis`, `spool`.
    pub degraded: Vec<&'static str>,
}

pub(in crate::http) struct HealthApi {
    pub(in crate::http) readiness: Arc<dyn ReadinessSource>,
}

#[derive(Object)]
struct Health {
    /// `ok`.
    status: String,
}

#[derive(Object)]
struct ReadinessReport {
    /// `ok` or `unavailable`.
    status: String,
    /// Why requests should go elsewhere.
    #[oai(skip_serializing_if_is_empty)]
    reasons: Vec<String>,
    /// What is away while requests are still served.
    #[oai(skip_serializing_if_is_empty)]
    degraded: Vec<String>,
}

#[derive(ApiResponse)]
enum ReadinessReply {
    /// Send requests.
    #[oai(status = 200)]
    Ready(Json<ReadinessReport>),
    /// Send them elsewhere.
    #[oai(status = 503)]
    NotReady(Json<ReadinessReport>),
}

#[OpenApi]
impl HealthApi {
    /// Health
    #[oai(path = "/health", method = "get", operation_id = "getHealth", tag = "Tag::Health")]
    async fn health(&self) -> Json<Health> {
        Json(Health { status: "ok".to_owned() })
    }

    /// Liveness
    ///
    /// Of the process alone: nothing that it depends on.
    #[oai(path = "/livez", method = "get", operation_id = "getLiveness", tag = "Tag::Health")]
    async fn live(&self) -> Json<Health> {
        Json(Health { status: "ok".to_owned() })
    }

    /// Readiness
    #[oai(path = "/readyz", method = "get", operation_id = "getReadiness", tag = "Tag::Health")]
    async fn ready(&self) -> ReadinessReply {
        let Standing { blockers, degraded } = self.readiness.standing();
        let owned = |names: Vec<&str>| names.into_iter().map(str::to_owned).collect::<Vec<_>>();
        let ready = blockers.is_empty();
        let status = if ready { "ok" } else { "unavailable" }.to_owned();
        let report = ReadinessReport { status, reasons: owned(blockers), degraded: owned(degraded) };
        if ready { ReadinessReply::Ready(Json(report)) } else { ReadinessReply::NotReady(Json(report)) }
    }
}
