use ai4free_ports::runtime::Timestamp;
use poem::{Request, http::StatusCode};
use poem_openapi::{OpenApi, param::Query, payload::Json};
use time::{Date, OffsetDateTime, format_description::well_known::Rfc3339, macros::format_description};

use crate::{
    application::{authentication::Principal, usage::Usage},
    http::{
        api::Tag,
        auth::{self, OptionalKeyAuth},
        dto::usage::{Usage as UsageReply, UsageQuery},
        error::ApiError,
        payload::OptionalJson,
    },
};

pub(in crate::http) struct UsageApi {
    pub(in crate::http) usage: Usage,
}

#[OpenApi]
impl UsageApi {
    /// Report usage
    ///
    /// What the calling key has used: all of it, or from `from` to `to` in whole hours. Complete a second after an answer ended.
    #[oai(path = "/v1/usage", method = "get", operation_id = "getUsage", tag = "Tag::Usage")]
    async fn get(
        &self,
        request: &Request,
        caller: OptionalKeyAuth,
        /// Unix seconds, RFC 3339, or `YYYY-MM-DD` (UTC).
        from: Query<Option<String>>,
        /// Unix seconds, RFC 3339, or `YYYY-MM-DD` (UTC); exclusive.
        to: Query<Option<String>>,
    ) -> Result<Json<UsageReply>, ApiError> {
        let principal = self.principal(request, caller, None).await?;
        self.report(&principal, from.0.as_deref(), to.0.as_deref()).await
    }

    /// Report usage (older form)
    ///
    /// Takes the key from the body if it is not in the header.
    #[oai(path = "/v1/usage", method = "post", operation_id = "queryUsage", tag = "Tag::Usage", deprecated)]
    async fn post(
        &self,
        request: &Request,
        caller: OptionalKeyAuth,
        body: OptionalJson<UsageQuery>,
        from: Query<Option<String>>,
        to: Query<Option<String>>,
    ) -> Result<Json<UsageReply>, ApiError> {
        let query = body.parse()?;
        let principal = self.principal(request, caller, query.api_key.as_deref()).await?;
        self.report(&principal, from.0.as_deref(), to.0.as_deref()).await
    }

    /// Report usage (alias)
    #[oai(path = "/usage", method = "get", operation_id = "getUsageAlias", tag = "Tag::Usage", deprecated)]
    async fn get_alias(
        &self,
        request: &Request,
        caller: OptionalKeyAuth,
        from: Query<Option<String>>,
        to: Query<Option<String>>,
    ) -> Result<Json<UsageReply>, ApiError> {
        self.get(request, caller, from, to).await
    }

    /// Report usage (alias, older form)
    #[oai(path = "/usage", method = "post", operation_id = "queryUsageAlias", tag = "Tag::Usage", deprecated)]
    async fn post_alias(
        &self,
        request: &Request,
        caller: OptionalKeyAuth,
        body: OptionalJson<UsageQuery>,
        from: Query<Option<String>>,
        to: Query<Option<String>>,
    ) -> Result<Json<UsageReply>, ApiError> {
        self.post(request, caller, body, from, to).await
    }
}

impl UsageApi {
    async fn principal(
        &self,
        request: &Request,
        caller: OptionalKeyAuth,
        in_body: Option<&str>,
    ) -> Result<Principal, ApiError> {
        match caller.0 {
            Some(principal) => Ok(principal),
            None => auth::authenticate(request, in_body).await,
        }
    }

    async fn report(
        &self,
        principal: &Principal,
        from: Option<&str>,
        to: Option<&str>,
    ) -> Result<Json<UsageReply>, ApiError> {
        let from = from.map(|text| instant("from", text)).transpose()?;
        let to = to.map(|text| instant("to", text)).transpose()?;
        let report = self.usage.report(principal, from, to).await?;
        let budget = self.usage.budget(principal).await?;
        Ok(Json(UsageReply::of(&principal.key().id, &report, budget.as_ref())))
    }
}

fn instant(param: &'static str, text: &str) -> Result<Timestamp, ApiError> {
    let day = format_description!("[year]-[month]-[day]");
    let seconds = text
        .parse::<i64>()
        .ok()
        .or_else(|| OffsetDateTime::parse(text, &Rfc3339).ok().map(OffsetDateTime::unix_timestamp))
        .or_else(|| Date::parse(text, day).ok().map(|date| date.midnight().assume_utc().unix_timestamp()));
    seconds.map(Timestamp::from_seconds).ok_or_else(|| {
        let message = format!("'{param}' must be Unix seconds, an RFC 3339 date and time, or a date.");
        ApiError::new(StatusCode::BAD_REQUEST, message).param(param).code("invalid_value")
    })
}
