//! A stored key as rows, and back.

use std::borrow::Cow;

use ai4free_ports::{
    budget::{Budget, BudgetPeriod},
    key::{KeyId, StoredKey, StoredSecret},
    limits::{Limits, OutagePolicy},
    money::PicoUsdSum,
    runtime::Timestamp,
};

use crate::{
    entity::{api_key, api_key_secret},
    failure::Failure,
    limbs::Limbs,
};

/// The row of a key that was changed last by change number `sequence`; for a new key also the place it has in lists.
pub(crate) fn key_row(key: &StoredKey, sequence: i64) -> Result<api_key::Model, Failure> {
    let budget = key.limits.budget.as_ref();
    let amount = budget.map(|budget| Limbs::of(budget.amount));
    Ok(api_key::Model {
        id: key.id.as_str().to_owned(),
        name: key.name.to_string(),
        user_id: key.user_id.as_deref().map(str::to_owned),
        plan: key.plan.to_string(),
        requests_per_minute: key.limits.requests_per_minute.map(clamped),
        image_requests_per_minute: key.limits.image_requests_per_minute.map(clamped),
        tokens_per_minute: key.limits.tokens_per_minute.map(clamped),
        max_concurrent_requests: key.limits.max_concurrent_requests.map(clamped),
        budget_micro: amount.map(|amount| amount.micro),
        budget_rest: amount.map(|amount| amount.rest),
        budget_period: budget.map(|budget| budget.period.as_str().to_owned()),
        budget_time_zone: budget.map(|budget| budget.time_zone.as_ref().to_owned()),
        budget_on_redis_down: budget.map(|budget| budget.on_redis_down.as_str().to_owned()),
        on_redis_down: key.limits.on_redis_down.map(|policy| policy.as_str().to_owned()),
        models: serde_json::to_string(&key.models).map_err(|_| Failure::Corrupt("list of models".into()))?,
        max_output_tokens: key.max_output_tokens.map(clamped),
        expires_at: key.expires_at.map(|at| at.0),
        revoked_at: key.revoked_at.map(|at| at.0),
        created_at: key.created_at.0,
        last_used_at: key.last_used_at.map(|at| at.0),
        prefix: key.prefix.to_string(),
        last4: key.last4.to_string(),
        version: key.version,
        created_sequence: sequence,
        changed_sequence: sequence,
    })
}

pub(crate) fn secret_rows(key: &StoredKey) -> impl Iterator<Item = api_key_secret::Model> {
    key.secrets.iter().zip(0..).map(|(secret, position)| api_key_secret::Model {
        key_id: key.id.as_str().to_owned(),
        position,
        hmac: secret.hmac.to_vec(),
        pepper_version: i32::from(secret.pepper_version),
        expires_at: secret.expires_at.map(|at| at.0),
    })
}

/// `secrets` in the order of their positions.
pub(crate) fn stored_key(row: api_key::Model, secrets: Vec<api_key_secret::Model>) -> Result<StoredKey, Failure> {
    Ok(StoredKey {
        id: KeyId::parse(&row.id).ok_or_else(|| corrupt("id", &row.id))?,
        limits: Limits {
            requests_per_minute: row.requests_per_minute.map(count),
            image_requests_per_minute: row.image_requests_per_minute.map(count),
            tokens_per_minute: row.tokens_per_minute.map(count),
            max_concurrent_requests: row.max_concurrent_requests.map(count),
            budget: budget(&row)?,
            on_redis_down: row.on_redis_down.as_deref().map(|text| outage_policy(text, &row.id)).transpose()?,
        },
        models: serde_json::from_str(&row.models).map_err(|_| corrupt("list of models", &row.id))?,
        secrets: secrets.into_iter().map(stored_secret).collect::<Result<_, _>>()?,
        name: row.name.into(),
        user_id: row.user_id.map(Into::into),
        plan: row.plan.into(),
        max_output_tokens: row.max_output_tokens.map(count),
        expires_at: row.expires_at.map(Timestamp),
        revoked_at: row.revoked_at.map(Timestamp),
        created_at: Timestamp(row.created_at),
        last_used_at: row.last_used_at.map(Timestamp),
        prefix: row.prefix.into(),
        last4: row.last4.into(),
        version: row.version,
    })
}

fn budget(row: &api_key::Model) -> Result<Option<Budget>, Failure> {
    let Some(micro) = row.budget_micro else { return Ok(None) };
    let missing = || corrupt("budget", &row.id);
    let period = row.budget_period.as_deref().and_then(BudgetPeriod::parse).ok_or_else(missing)?;
    Ok(Some(Budget {
        amount: PicoUsdSum::from_limbs(micro, row.budget_rest.ok_or_else(missing)?),
        period,
        time_zone: row.budget_time_zone.as_deref().ok_or_else(missing)?.into(),
        on_redis_down: outage_policy(row.budget_on_redis_down.as_deref().ok_or_else(missing)?, &row.id)?,
    }))
}

fn outage_policy(text: &str, key: &str) -> Result<OutagePolicy, Failure> {
    OutagePolicy::parse(text).ok_or_else(|| corrupt("outage policy", key))
}

fn stored_secret(row: api_key_secret::Model) -> Result<StoredSecret, Failure> {
    Ok(StoredSecret {
        hmac: row.hmac.try_into().map_err(|_| corrupt("secret", &row.key_id))?,
        pepper_version: row.pepper_version.try_into().map_err(|_| corrupt("pepper version", &row.key_id))?,
        expires_at: row.expires_at.map(Timestamp),
    })
}

/// A limit beyond the column's range is as good as none: 9.2e18.
fn clamped(limit: u64) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

/// A negative limit, which only a hand can have written, lets nothing through.
fn count(column: i64) -> u64 {
    u64::try_from(column).unwrap_or(0)
}

fn corrupt(what: &str, key: &str) -> Failure {
    Failure::Corrupt(Cow::Owned(format!("the {what} of API key {key}")))
}
