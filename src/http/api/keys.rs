use std::time::Duration;

use poem::Request;
use poem_openapi::{
    ApiResponse, OpenApi,
    param::{Path, Query},
    payload::Json,
};

use crate::{
    application::keys::Keys,
    http::{
        api::Tag,
        auth::{SystemAuth, SystemAuthOrBody},
        dto::key::{CreateKey, Key, KeyList, PatchKey, RotateKey},
        error::ApiError,
        payload::{OptionalJson, RawJson},
    },
};

const DEFAULT_GRACE: Duration = Duration::from_secs(24 * 3600);
const DEFAULT_PAGE: u16 = 20;
const LARGEST_PAGE: u16 = 100;

pub(in crate::http) struct KeysApi {
    pub(in crate::http) keys: Keys,
}

#[derive(ApiResponse)]
enum CreatedKey {
    /// The key, with its text: it can't be shown again.
    #[oai(status = 201)]
    Created(Json<Key>),
}

#[OpenApi]
impl KeysApi {
    /// Create an API key
    #[oai(path = "/v1/api-keys", method = "post", operation_id = "createApiKey", tag = "Tag::Keys")]
    async fn create(
        &self,
        request: &Request,
        operator: SystemAuthOrBody,
        body: RawJson<CreateKey>,
    ) -> Result<CreatedKey, ApiError> {
        let parsed = body.parse();
        operator.check(request, parsed.as_ref().ok().and_then(|body| body.secret.as_deref()))?;
        let issued = self.keys.create(parsed?.into_new_key()?).await?;
        Ok(CreatedKey::Created(Json(Key::of(&issued.key, self.keys.clock.now(), Some(issued.text.reveal())))))
    }

    /// List API keys
    #[oai(path = "/v1/api-keys", method = "get", operation_id = "listApiKeys", tag = "Tag::Keys")]
    async fn list(
        &self,
        _operator: SystemAuth,
        /// How many, 1 to 100; 20 by default.
        limit: Query<Option<u16>>,
        /// The id after which the page begins.
        after: Query<Option<String>>,
    ) -> Result<Json<KeyList>, ApiError> {
        let limit = limit.0.unwrap_or(DEFAULT_PAGE).clamp(1, LARGEST_PAGE);
        let page = self.keys.list(after.0.as_deref(), limit).await?;
        let now = self.keys.clock.now();
        Ok(Json(KeyList {
            object: "list".to_owned(),
            last_id: page.keys.last().map(|key| key.id.to_string()),
            data: page.keys.iter().map(|key| Key::of(key, now, None)).collect(),
            has_more: page.has_more,
        }))
    }

    /// Show an API key
    #[oai(path = "/v1/api-keys/:id", method = "get", operation_id = "retrieveApiKey", tag = "Tag::Keys")]
    async fn show(&self, _operator: SystemAuth, id: Path<String>) -> Result<Json<Key>, ApiError> {
        let key = self.keys.show(&id.0).await?;
        Ok(Json(Key::of(&key, self.keys.clock.now(), None)))
    }

    /// Change an API key
    ///
    /// A JSON merge patch: absent members stay, null clears.
    #[oai(path = "/v1/api-keys/:id", method = "patch", operation_id = "updateApiKey", tag = "Tag::Keys")]
    async fn patch(
        &self,
        _operator: SystemAuth,
        id: Path<String>,
        body: RawJson<PatchKey>,
    ) -> Result<Json<Key>, ApiError> {
        let key = self.keys.patch(&id.0, &body.parse()?.into_patch()?).await?;
        Ok(Json(Key::of(&key, self.keys.clock.now(), None)))
    }

    /// Revoke an API key
    ///
    /// Effective on every replica within a second. Revoking twice is revoking once.
    #[oai(path = "/v1/api-keys/:id", method = "delete", operation_id = "revokeApiKey", tag = "Tag::Keys")]
    async fn revoke(&self, _operator: SystemAuth, id: Path<String>) -> Result<Json<Key>, ApiError> {
        let key = self.keys.revoke(&id.0).await?;
        Ok(Json(Key::of(&key, self.keys.clock.now(), None)))
    }

    /// Rotate an API key
    ///
    /// Issues a new secret under the same id. The old one works on for the grace.
    #[oai(path = "/v1/api-keys/:id/rotate", method = "post", operation_id = "rotateApiKey", tag = "Tag::Keys")]
    async fn rotate(
        &self,
        _operator: SystemAuth,
        id: Path<String>,
        body: OptionalJson<RotateKey>,
    ) -> Result<Json<Key>, ApiError> {
        let grace = body.parse()?.grace_seconds.map_or(DEFAULT_GRACE, Duration::from_secs);
        let issued = self.keys.rotate(&id.0, grace).await?;
        Ok(Json(Key::of(&issued.key, self.keys.clock.now(), Some(issued.text.reveal()))))
    }
}
