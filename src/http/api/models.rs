#![expect(clippy::unused_async, reason = "the framework wants every operation to be async")]

use poem_openapi::{OpenApi, param::Path, payload::Json};

use crate::{
    application::{failure::AuthenticationProblem, failure::Failure, models::Models},
    http::{
        api::Tag,
        auth::OptionalKeyAuth,
        dto::model::{Model, ModelList},
        error::ApiError,
    },
};

pub(in crate::http) struct ModelsApi {
    pub(in crate::http) models: Models,
    pub(in crate::http) public: bool,
}

#[OpenApi]
impl ModelsApi {
    /// List models
    ///
    /// A key narrows the list to what it may use.
    #[oai(path = "/v1/models", method = "get", operation_id = "listModels", tag = "Tag::Models")]
    async fn list(&self, caller: OptionalKeyAuth) -> Result<Json<ModelList>, ApiError> {
        self.check_public(&caller)?;
        Ok(Json(ModelList::of(&self.models.list(caller.0.as_ref()))))
    }

    /// List models (older form)
    #[oai(path = "/v1/models", method = "post", operation_id = "listModelsByPost", tag = "Tag::Models", deprecated)]
    async fn list_by_post(&self, caller: OptionalKeyAuth) -> Result<Json<ModelList>, ApiError> {
        self.list(caller).await
    }

    /// Show a model
    ///
    /// Ids contain `/` and `:`, which may be written plainly or percent-encoded.
    #[oai(path = "/v1/models/:model", method = "get", operation_id = "retrieveModel", tag = "Tag::Models")]
    async fn show(&self, caller: OptionalKeyAuth, model: Path<String>) -> Result<Json<Model>, ApiError> {
        self.check_public(&caller)?;
        Ok(Json(Model::of(&*self.models.show(caller.0.as_ref(), &model.0)?)))
    }
}

impl ModelsApi {
    fn check_public(&self, caller: &OptionalKeyAuth) -> Result<(), ApiError> {
        if self.public || caller.0.is_some() {
            return Ok(());
        }
        Err(Failure::Unauthenticated(AuthenticationProblem::Missing).into())
    }
}
