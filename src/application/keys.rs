//! Administration of API keys. Reached with the system secret only, or from the command line.

use std::{sync::Arc, time::Duration};

use ai4free_ports::{
    error::{RequestError, StoreError},
    key::{ApiKey, KeyId, StoredKey},
    key_store::{KeyPage, KeyStore},
    limits::Limits,
    runtime::{Calendar, Clock, KeyHasher, SecretSource, Timestamp},
};

use crate::application::{failure::Failure, key_budget::BudgetPatch, policy::PolicySource};

pub struct Keys {
    pub store: Arc<dyn KeyStore>,
    pub hasher: Arc<dyn KeyHasher>,
    pub secrets: Arc<dyn SecretSource>,
    pub clock: Arc<dyn Clock>,
    pub calendar: Arc<dyn Calendar>,
    pub policy: Arc<dyn PolicySource>,
}

/// What the operator says of a new key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewKey {
    pub name: String,
    pub user_id: Option<String>,
    /// `None`: the configured default plan.
    pub plan: Option<String>,
    /// Without a budget.
    pub limits: Limits,
    /// `None`: that of the plan, if it has one.
    pub budget: Option<BudgetPatch>,
    pub models: Vec<String>,
    pub max_output_tokens: Option<u64>,
    pub expires_at: Option<Timestamp>,
}

/// What is to change. The outer `None` leaves a member as it is, the inner one clears it (JSON merge patch).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyPatch {
    pub name: Option<String>,
    pub user_id: Option<Option<String>>,
    pub plan: Option<String>,
    pub requests_per_minute: Option<Option<u64>>,
    pub image_requests_per_minute: Option<Option<u64>>,
    pub tokens_per_minute: Option<Option<u64>>,
    pub max_concurrent_requests: Option<Option<u64>>,
    pub budget: Option<Option<BudgetPatch>>,
    pub models: Option<Vec<String>>,
    pub max_output_tokens: Option<Option<u64>>,
    pub expires_at: Option<Option<Timestamp>>,
}

/// A key with its text, which nobody can be shown again.
pub struct IssuedKey {
    pub key: StoredKey,
    pub text: ApiKey,
}

/// Names and ids of people, not prompts.
const LONGEST_TEXT: usize = 255;
const MOST_MODELS: usize = 1000;
/// A rotated secret works on for at most this long.
const LONGEST_GRACE: Duration = Duration::from_secs(90 * 24 * 3600);
/// A change that lost a race is tried again on what the winner wrote.
const RACES: usize = 5;

impl Keys {
    /// # Errors
    /// [`Failure::Request`] names the member that is wrong.
    pub async fn create(&self, new: NewKey) -> Result<IssuedKey, Failure> {
        check_text("name", &new.name)?;
        if let Some(user_id) = &new.user_id {
            check_text("user_id", user_id)?;
        }
        check_models(&new.models)?;
        let now = self.clock.now();
        check_expiry(new.expires_at, now)?;
        let plan = new.plan.unwrap_or_else(|| self.policy.current().default_plan.clone().into());
        self.check_plan(&plan)?;
        let budget = new.budget.map(|budget| budget.over(None, &*self.calendar)).transpose()?;
        let text = ApiKey::generate(&*self.secrets);
        let key = StoredKey {
            id: text.id(),
            name: new.name.into(),
            user_id: new.user_id.map(Into::into),
            plan: plan.into(),
            limits: Limits { budget, ..new.limits },
            models: new.models.into_iter().map(Into::into).collect(),
            max_output_tokens: new.max_output_tokens,
            expires_at: new.expires_at,
            revoked_at: None,
            created_at: now,
            last_used_at: None,
            prefix: text.prefix().into(),
            last4: text.last4().into(),
            secrets: vec![self.hasher.hash(&text)],
            version: 1,
        };
        self.store.create(&key).await.map_err(|error| store_failed(&error))?;
        Ok(IssuedKey { key, text })
    }

    /// # Errors
    /// [`Failure::NotFound`].
    pub async fn show(&self, id: &str) -> Result<StoredKey, Failure> {
        let id = KeyId::parse(id).ok_or(Failure::NotFound("key"))?;
        let found = self.store.find(&id).await.map_err(|error| store_failed(&error))?;
        found.map(Arc::unwrap_or_clone).ok_or(Failure::NotFound("key"))
    }

    /// # Errors
    /// [`Failure::Request`] for an `after` that is no id.
    pub async fn list(&self, after: Option<&str>, limit: u16) -> Result<KeyPage, Failure> {
        let invalid = || RequestError::new("'after' must be the id of a key.").param("after").code("invalid_value");
        let after = after.map(|after| KeyId::parse(after).ok_or_else(invalid)).transpose()?;
        self.store.list(after.as_ref(), limit).await.map_err(|error| store_failed(&error))
    }

    /// # Errors
    /// [`Failure::NotFound`], [`Failure::Request`], [`Failure::Conflict`] after losing several races.
    pub async fn patch(&self, id: &str, patch: &KeyPatch) -> Result<StoredKey, Failure> {
        self.check_patch(patch)?;
        self.change(id, |key| {
            if let Some(budget) = &patch.budget {
                let budget = budget.as_ref().map(|budget| budget.over(key.limits.budget.as_ref(), &*self.calendar));
                key.limits.budget = budget.transpose()?;
            }
            apply(patch, key);
            Ok(())
        })
        .await
    }

    /// Revoking twice is revoking once.
    ///
    /// # Errors
    /// [`Failure::NotFound`].
    pub async fn revoke(&self, id: &str) -> Result<StoredKey, Failure> {
        let now = self.clock.now();
        self.change(id, |key| {
            key.revoked_at = key.revoked_at.or(Some(now));
            Ok(())
        })
        .await
    }

    /// A new secret under the same id; the old one works on for the grace, and an even older one stops now.
    ///
    /// # Errors
    /// [`Failure::NotFound`]; [`Failure::Request`] for a revoked key or too long a grace.
    pub async fn rotate(&self, id: &str, grace: Duration) -> Result<IssuedKey, Failure> {
        if grace > LONGEST_GRACE {
            let message = format!("'grace_seconds' must be at most {}.", LONGEST_GRACE.as_secs());
            return Err(RequestError::new(message).param("grace_seconds").code("invalid_value").into());
        }
        let current = self.show(id).await?;
        if current.revoked_at.is_some() {
            return Err(RequestError::new("A revoked key can't be rotated.").code("key_revoked").into());
        }
        let text = ApiKey::rotate(&current.id, &*self.secrets);
        let fresh = self.hasher.hash(&text);
        let until = self.clock.now().saturating_add(grace);
        let key = self
            .change(id, |key| {
                key.secrets.retain(|secret| secret.expires_at.is_none() && !grace.is_zero());
                for secret in &mut key.secrets {
                    secret.expires_at = Some(until);
                }
                key.secrets.insert(0, fresh.clone());
                key.last4 = text.last4().into();
                Ok(())
            })
            .await?;
        Ok(IssuedKey { key, text })
    }

    async fn change(
        &self,
        id: &str,
        apply: impl Fn(&mut StoredKey) -> Result<(), RequestError> + Send,
    ) -> Result<StoredKey, Failure> {
        for _ in 0..RACES {
            let mut key = self.show(id).await?;
            let before = key.clone();
            apply(&mut key)?;
            if key == before {
                return Ok(key);
            }
            match self.store.update(&key).await {
                Ok(version) => {
                    key.version = version;
                    return Ok(key);
                }
                Err(StoreError::Conflict(_)) => {}
                Err(error) => return Err(store_failed(&error)),
            }
        }
        Err(Failure::Conflict("key"))
    }

    fn check_patch(&self, patch: &KeyPatch) -> Result<(), Failure> {
        if let Some(name) = &patch.name {
            check_text("name", name)?;
        }
        if let Some(Some(user_id)) = &patch.user_id {
            check_text("user_id", user_id)?;
        }
        if let Some(plan) = &patch.plan {
            self.check_plan(plan)?;
        }
        if let Some(models) = &patch.models {
            check_models(models)?;
        }
        check_expiry(patch.expires_at.flatten(), self.clock.now())?;
        Ok(())
    }

    fn check_plan(&self, plan: &str) -> Result<(), RequestError> {
        let policy = self.policy.current();
        if policy.plans.contains_key(plan) {
            return Ok(());
        }
        let mut known: Vec<&str> = policy.plans.keys().map(|name| &**name).collect();
        known.sort_unstable();
        let message = format!("There is no plan '{plan}'; configured are: {}.", known.join(", "));
        Err(RequestError::new(message).param("plan").code("invalid_value"))
    }
}

fn apply(patch: &KeyPatch, key: &mut StoredKey) {
    if let Some(name) = &patch.name {
        key.name = name.as_str().into();
    }
    if let Some(user_id) = &patch.user_id {
        key.user_id = user_id.as_deref().map(Into::into);
    }
    if let Some(plan) = &patch.plan {
        key.plan = plan.as_str().into();
    }
    if let Some(models) = &patch.models {
        key.models = models.iter().map(|model| model.as_str().into()).collect();
    }
    let limits = &mut key.limits;
    for (change, limit) in [
        (patch.requests_per_minute, &mut limits.requests_per_minute),
        (patch.image_requests_per_minute, &mut limits.image_requests_per_minute),
        (patch.tokens_per_minute, &mut limits.tokens_per_minute),
        (patch.max_concurrent_requests, &mut limits.max_concurrent_requests),
        (patch.max_output_tokens, &mut key.max_output_tokens),
    ] {
        *limit = change.unwrap_or(*limit);
    }
    key.expires_at = patch.expires_at.unwrap_or(key.expires_at);
}

fn check_text(param: &'static str, text: &str) -> Result<(), RequestError> {
    let plain = !text.is_empty() && text.len() <= LONGEST_TEXT && !text.chars().any(char::is_control);
    plain.then_some(()).ok_or_else(|| {
        RequestError::new(format!("'{param}' must be 1 to {LONGEST_TEXT} bytes of text without control characters."))
            .param(param)
            .code("invalid_value")
    })
}

fn check_models(models: &[String]) -> Result<(), RequestError> {
    let plain = models.len() <= MOST_MODELS
        && models.iter().all(|model| {
            let name = model.strip_suffix('*').unwrap_or(model);
            model.len() <= LONGEST_TEXT
                && !model.is_empty()
                && !name.contains('*')
                && !name.chars().any(char::is_control)
        });
    plain.then_some(()).ok_or_else(|| {
        RequestError::new("'models' must be model ids, or prefixes that end in '*'.")
            .param("models")
            .code("invalid_value")
    })
}

fn check_expiry(expires_at: Option<Timestamp>, now: Timestamp) -> Result<(), RequestError> {
    if expires_at.is_some_and(|at| at <= now) {
        return Err(RequestError::new("'expires_at' must be in the future.").param("expires_at").code("invalid_value"));
    }
    Ok(())
}

fn store_failed(error: &StoreError) -> Failure {
    tracing::warn!(error = error as &dyn std::error::Error, "key store failed");
    Failure::of_key_store(error)
}
