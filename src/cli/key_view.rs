//! An API key as the command line shows it.

use ai4free_ports::{
    budget::{Budget, BudgetPeriod},
    key::StoredKey,
    runtime::Timestamp,
};
use serde_json::{Value, json};

use super::{moment, output::Report};

/// One line per key.
pub(super) fn list(keys: &[StoredKey], now: Timestamp) -> Report {
    let row = |key: &StoredKey| {
        vec![
            key.id.to_string(),
            key.name.to_string(),
            key.user_id.as_deref().unwrap_or_default().to_owned(),
            key.plan.to_string(),
            key.state(now).as_str().to_owned(),
            format!("{}…{}", key.prefix, key.last4),
            moment::show(key.created_at),
            key.last_used_at.map(moment::show).unwrap_or_default(),
        ]
    };
    let data: Vec<Value> = keys.iter().map(|key| object(key, now)).collect();
    Report {
        headers: vec!["id", "name", "user", "plan", "state", "key", "created", "last used"],
        rows: keys.iter().map(row).collect(),
        json: json!({ "object": "list", "data": data }),
    }
}

/// Everything about one key; `issued` is its text, which is shown once.
pub(super) fn one(key: &StoredKey, now: Timestamp, issued: Option<&str>) -> Report {
    let mut json = object(key, now);
    if let (Some(text), Some(members)) = (issued, json.as_object_mut()) {
        members.insert("api_key".to_owned(), text.into());
    }
    let shown = |value: Option<u64>| value.map_or_else(|| "of the plan".to_owned(), |value| value.to_string());
    let models = key.models.join(", ");
    let mut rows: Vec<Vec<String>> = [
        ("id", key.id.to_string()),
        ("name", key.name.to_string()),
        ("user", key.user_id.as_deref().unwrap_or_default().to_owned()),
        ("plan", key.plan.to_string()),
        ("state", key.state(now).as_str().to_owned()),
        ("models", if models.is_empty() { "all".to_owned() } else { models }),
        ("requests per minute", shown(key.limits.requests_per_minute)),
        ("image requests per minute", shown(key.limits.image_requests_per_minute)),
        ("tokens per minute", shown(key.limits.tokens_per_minute)),
        ("concurrent requests", shown(key.limits.max_concurrent_requests)),
        ("budget", key.limits.budget.as_ref().map_or_else(|| "of the plan".to_owned(), budget)),
        ("output tokens", key.max_output_tokens.map_or_else(|| "any".to_owned(), |most| most.to_string())),
        ("created", moment::show(key.created_at)),
        ("expires", key.expires_at.map_or_else(|| "never".to_owned(), moment::show)),
        ("last used", key.last_used_at.map_or_else(|| "never".to_owned(), moment::show)),
    ]
    .map(|(name, value)| vec![name.to_owned(), value])
    .into();
    if let Some(text) = issued {
        rows.push(vec!["API key (shown only now)".to_owned(), text.to_owned()]);
    }
    Report { headers: Vec::new(), rows, json }
}

/// `5 USD each day (Europe/Berlin)`.
fn budget(budget: &Budget) -> String {
    let amount = budget.amount;
    match budget.period {
        BudgetPeriod::Total => format!("{amount} USD in total"),
        period => format!("{amount} USD each {} ({})", period.as_str(), budget.time_zone),
    }
}

/// The key object of the API.
fn object(key: &StoredKey, now: Timestamp) -> Value {
    json!({
        "id": key.id.as_str(),
        "object": "api_key",
        "name": key.name,
        "user_id": key.user_id.as_deref(),
        "plan": key.plan,
        "limits": {
            "requests_per_minute": key.limits.requests_per_minute,
            "image_requests_per_minute": key.limits.image_requests_per_minute,
            "tokens_per_minute": key.limits.tokens_per_minute,
            "max_concurrent_requests": key.limits.max_concurrent_requests,
        },
        "budget": key.limits.budget.as_ref().map(|budget| json!({
            "amount_usd": budget.amount.to_string(),
            "window": budget.period.as_str(),
            "time_zone": &*budget.time_zone,
        })),
        "models": key.models,
        "max_output_tokens": key.max_output_tokens,
        "state": key.state(now).as_str(),
        "prefix": key.prefix,
        "last4": key.last4,
        "created_at": key.created_at.seconds(),
        "expires_at": key.expires_at.map(Timestamp::seconds),
        "last_used_at": key.last_used_at.map(Timestamp::seconds),
    })
}

#[cfg(test)]
mod tests {
    use ai4free_ports::{
        key::{KeyId, StoredSecret},
        limits::Limits,
    };

    use super::*;

    #[test]
    fn a_key_is_shown_without_its_secret_unless_it_was_just_issued() {
        let key = StoredKey {
            id: KeyId::parse("abcdefghijkl").unwrap(),
            name: "demo".into(),
            user_id: None,
            plan: "standard".into(),
            limits: Limits::NONE,
            models: Vec::new(),
            max_output_tokens: None,
            expires_at: None,
            revoked_at: None,
            created_at: Timestamp::from_seconds(0),
            last_used_at: None,
            prefix: "sk-a4f-abcd".into(),
            last4: "wxyz".into(),
            secrets: vec![StoredSecret { hmac: [7; 32], pepper_version: 1, expires_at: None }],
            version: 1,
        };
        let now = Timestamp::from_seconds(1);
        let shown = one(&key, now, None);
        assert!(shown.json.get("api_key").is_none() && !shown.json.to_string().contains("hmac"));
        let issued = one(&key, now, Some("sk-a4f-once"));
        assert_eq!(issued.json["api_key"], "sk-a4f-once");
        assert_eq!(issued.rows.iter().flatten().filter(|cell| *cell == "sk-a4f-once").count(), 1);
        assert_eq!(
            list(&[key], now).rows[0].join(" "),
            "abcdefghijkl demo  standard active sk-a4f-abcd…wxyz 1970-01-01T00:00:00Z "
        );
    }
}
