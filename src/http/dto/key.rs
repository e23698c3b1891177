use ai4free_ports::{key::StoredKey, limits::Limits as DomainLimits, runtime::Timestamp};
use poem_openapi::{
    Object,
    types::{Any, MaybeUndefined},
};
use serde::Deserialize;
use serde_json::Value;

use crate::{
    application::keys::{KeyPatch, NewKey},
    http::{
        dto::{
            budget::{Budget, NewBudget, PatchBudget},
            moment::Moment,
        },
        error::ApiError,
    },
};

/// A new key. The old form, with the system secret in `secret`, takes `user_id` instead of `name`.
#[derive(Object, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct CreateKey {
    name: Option<String>,
    /// The owner: a string, or a number in the old form.
    user_id: Option<Any<Value>>,
    plan: Option<String>,
    limits: Option<Limits>,
    /// Absent or null: that of the plan, if it has one.
    budget: Option<NewBudget>,
    /// Model ids, and prefixes that end in `*`. Absent or empty: every model.
    models: Option<Vec<String>>,
    /// Cap on the output of one request, in tokens.
    #[oai(validator(minimum(value = "1")))]
    max_output_tokens: Option<u64>,
    /// Unix seconds, or a time in RFC 3339 such as `2030-01-01T00:00:00Z`.
    expires_at: Option<Moment>,
    /// The system secret, if it is not in the header.
    pub(in crate::http) secret: Option<String>,
    /// Old form, ignored.
    telegram_user_link: Option<Any<Value>>,
    /// Old form, ignored.
    email: Option<Any<Value>>,
    /// Old form, ignored.
    first_name: Option<Any<Value>>,
    /// Old form, ignored.
    last_name: Option<Any<Value>>,
    /// Old form, ignored.
    username: Option<Any<Value>>,
    /// Old form, ignored.
    partial_api_key: Option<Any<Value>>,
    /// Old form, ignored.
    id: Option<Any<Value>>,
}

/// Limits that are not set come from the plan.
#[derive(Object, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct Limits {
    requests_per_minute: Option<u64>,
    image_requests_per_minute: Option<u64>,
    tokens_per_minute: Option<u64>,
    max_concurrent_requests: Option<u64>,
}

/// A JSON merge patch: absent members stay, null clears. `name` and `plan` can't be cleared.
#[derive(Object, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct PatchKey {
    #[serde(default)]
    name: MaybeUndefined<String>,
    #[serde(default)]
    user_id: MaybeUndefined<String>,
    #[serde(default)]
    plan: MaybeUndefined<String>,
    #[serde(default)]
    limits: MaybeUndefined<PatchLimits>,
    /// Null: that of the plan, if it has one. What was spent in the window that it is now stays spent.
    #[serde(default)]
    budget: MaybeUndefined<PatchBudget>,
    #[serde(default)]
    models: MaybeUndefined<Vec<String>>,
    #[serde(default)]
    max_output_tokens: MaybeUndefined<u64>,
    /// Unix seconds, or a time in RFC 3339 such as `2030-01-01T00:00:00Z`.
    #[serde(default)]
    expires_at: MaybeUndefined<Moment>,
}

#[derive(Object, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct PatchLimits {
    #[serde(default)]
    requests_per_minute: MaybeUndefined<u64>,
    #[serde(default)]
    image_requests_per_minute: MaybeUndefined<u64>,
    #[serde(default)]
    tokens_per_minute: MaybeUndefined<u64>,
    #[serde(default)]
    max_concurrent_requests: MaybeUndefined<u64>,
}

#[derive(Object, Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct RotateKey {
    /// How long the old secret works on. Default: 86400.
    pub(in crate::http) grace_seconds: Option<u64>,
}

/// An API key. Its text is shown once, in `api_key`, when it is created or rotated.
#[derive(Object)]
#[oai(rename = "ApiKey")]
pub(in crate::http) struct Key {
    id: String,
    /// `api_key`.
    object: String,
    /// The key itself, only in the reply that issues it.
    #[oai(skip_serializing_if_is_none)]
    api_key: Option<String>,
    name: String,
    user_id: Option<String>,
    plan: String,
    /// The key's own limits; those that are null come from the plan.
    limits: Limits,
    /// The key's own budget; null: that of the plan, if it has one.
    budget: Option<Budget>,
    models: Vec<String>,
    max_output_tokens: Option<u64>,
    /// `active`, `revoked` or `expired`.
    state: String,
    prefix: String,
    last4: String,
    created_at: i64,
    expires_at: Option<i64>,
    last_used_at: Option<i64>,
}

#[derive(Object)]
#[oai(rename = "ApiKeyList")]
pub(in crate::http) struct KeyList {
    /// `list`.
    pub(in crate::http) object: String,
    pub(in crate::http) data: Vec<Key>,
    pub(in crate::http) has_more: bool,
    /// For `after` of the next page.
    pub(in crate::http) last_id: Option<String>,
}

impl CreateKey {
    pub(in crate::http) fn into_new_key(self) -> Result<NewKey, ApiError> {
        let old_form = self.secret.is_some();
        let user_id = match self.user_id {
            None | Some(Any(Value::Null)) => None,
            Some(Any(Value::String(id))) => Some(id),
            Some(Any(Value::Number(id))) if old_form => Some(id.to_string()),
            Some(_) => return Err(invalid("user_id", "'user_id' must be a string.")),
        };
        let name = match (self.name, &user_id) {
            (Some(name), _) => name,
            (None, Some(user_id)) if old_form => user_id.clone(),
            (None, _) => return Err(invalid("name", "'name' is missing.")),
        };
        Ok(NewKey {
            name,
            user_id,
            plan: self.plan,
            limits: self.limits.map_or(DomainLimits::NONE, Limits::into_domain),
            budget: self.budget.map(NewBudget::into_patch).transpose()?,
            models: self.models.unwrap_or_default(),
            max_output_tokens: positive("max_output_tokens", self.max_output_tokens)?,
            expires_at: self.expires_at.as_ref().map(expiry).transpose()?,
        })
    }
}

impl PatchKey {
    pub(in crate::http) fn into_patch(self) -> Result<KeyPatch, ApiError> {
        let limits = match self.limits {
            MaybeUndefined::Undefined => PatchLimits::same(),
            MaybeUndefined::Null => PatchLimits::cleared(),
            MaybeUndefined::Value(limits) => limits,
        };
        let max_output_tokens = change(self.max_output_tokens);
        positive("max_output_tokens", max_output_tokens.flatten())?;
        Ok(KeyPatch {
            name: replacement("name", self.name)?,
            user_id: change(self.user_id),
            plan: replacement("plan", self.plan)?,
            requests_per_minute: change(limits.requests_per_minute),
            image_requests_per_minute: change(limits.image_requests_per_minute),
            tokens_per_minute: change(limits.tokens_per_minute),
            max_concurrent_requests: change(limits.max_concurrent_requests),
            budget: change(self.budget).map(|budget| budget.map(PatchBudget::into_patch).transpose()).transpose()?,
            models: change(self.models).map(Option::unwrap_or_default),
            max_output_tokens,
            expires_at: change(self.expires_at).map(|at| at.as_ref().map(expiry).transpose()).transpose()?,
        })
    }
}

impl PatchLimits {
    fn same() -> Self {
        Self::all(MaybeUndefined::Undefined)
    }

    fn cleared() -> Self {
        Self::all(MaybeUndefined::Null)
    }

    fn all(limit: MaybeUndefined<u64>) -> Self {
        Self {
            requests_per_minute: limit,
            image_requests_per_minute: limit,
            tokens_per_minute: limit,
            max_concurrent_requests: limit,
        }
    }
}

impl Limits {
    fn into_domain(self) -> DomainLimits {
        DomainLimits {
            requests_per_minute: self.requests_per_minute,
            image_requests_per_minute: self.image_requests_per_minute,
            tokens_per_minute: self.tokens_per_minute,
            max_concurrent_requests: self.max_concurrent_requests,
            ..DomainLimits::NONE
        }
    }

    fn of(limits: &DomainLimits) -> Self {
        Self {
            requests_per_minute: limits.requests_per_minute,
            image_requests_per_minute: limits.image_requests_per_minute,
            tokens_per_minute: limits.tokens_per_minute,
            max_concurrent_requests: limits.max_concurrent_requests,
        }
    }
}

impl Key {
    pub(in crate::http) fn of(key: &StoredKey, now: Timestamp, issued: Option<&str>) -> Self {
        Self {
            id: key.id.to_string(),
            object: "api_key".to_owned(),
            api_key: issued.map(str::to_owned),
            name: key.name.to_string(),
            user_id: key.user_id.as_ref().map(ToString::to_string),
            plan: key.plan.to_string(),
            limits: Limits::of(&key.limits),
            budget: key.limits.budget.as_ref().map(Budget::of),
            models: key.models.iter().map(ToString::to_string).collect(),
            max_output_tokens: key.max_output_tokens,
            state: key.state(now).as_str().to_owned(),
            prefix: key.prefix.to_string(),
            last4: key.last4.to_string(),
            created_at: key.created_at.seconds(),
            expires_at: key.expires_at.map(Timestamp::seconds),
            last_used_at: key.last_used_at.map(Timestamp::seconds),
        }
    }
}

fn change<T>(member: MaybeUndefined<T>) -> Option<Option<T>> {
    match member {
        MaybeUndefined::Undefined => None,
        MaybeUndefined::Null => Some(None),
        MaybeUndefined::Value(value) => Some(Some(value)),
    }
}

/// The new value of a member that every key has.
fn replacement<T>(param: &'static str, member: MaybeUndefined<T>) -> Result<Option<T>, ApiError> {
    match member {
        MaybeUndefined::Undefined => Ok(None),
        MaybeUndefined::Null => Err(invalid(param, format!("'{param}' can't be null: every key has one."))),
        MaybeUndefined::Value(value) => Ok(Some(value)),
    }
}

fn expiry(moment: &Moment) -> Result<Timestamp, ApiError> {
    let form = "'expires_at' must be Unix seconds or a time in RFC 3339 such as 2030-01-01T00:00:00Z.";
    moment.timestamp().ok_or_else(|| invalid("expires_at", form))
}

fn positive(param: &'static str, number: Option<u64>) -> Result<Option<u64>, ApiError> {
    if number == Some(0) { Err(invalid(param, format!("'{param}' must be at least 1."))) } else { Ok(number) }
}

pub(super) fn invalid(param: &'static str, message: impl Into<std::borrow::Cow<'static, str>>) -> ApiError {
    ApiError::new(poem::http::StatusCode::BAD_REQUEST, message).param(param).code("invalid_value")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn new_key(expires_at: &Value) -> Result<NewKey, ApiError> {
        let body: CreateKey = serde_json::from_value(json!({ "name": "demo", "expires_at": expires_at })).unwrap();
        body.into_new_key()
    }

    fn patch(expires_at: &Value) -> Result<KeyPatch, ApiError> {
        let body: PatchKey = serde_json::from_value(json!({ "expires_at": expires_at })).unwrap();
        body.into_patch()
    }

    #[test]
    fn an_expiry_is_unix_seconds_or_rfc_3339() {
        let at = Some(Timestamp::from_seconds(1_893_456_000));
        for written in [json!(1_893_456_000), json!("2030-01-01T00:00:00Z"), json!("2030-01-01T01:00:00+01:00")] {
            assert_eq!(new_key(&written).ok().map(|key| key.expires_at), Some(at), "{written}");
            assert_eq!(patch(&written).ok().map(|patch| patch.expires_at), Some(Some(at)), "{written}");
        }
        assert_eq!(patch(&Value::Null).ok().map(|patch| patch.expires_at), Some(Some(None)));
        for error in [new_key(&json!("tomorrow")).err(), patch(&json!("2030-01-01")).err()] {
            assert!(error.unwrap().to_string().contains("'expires_at' must be Unix seconds or a time in RFC 3339"));
        }
    }
}
