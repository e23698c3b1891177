//! Who is limited to what: configuration turned into the claims of one request.

use std::{collections::HashMap, sync::Arc};

use ai4free_ports::{
    catalogue::Model,
    key::{KeyId, StoredKey},
    limits::Limits,
    llm_provider::CredentialInfo,
    rate_limiter::{Claim, LimitKind, Scope},
    request::Operation,
};

/// The configured limits of every scope that is not a key, a model or a credential itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    pub plans: HashMap<Box<str>, Limits>,
    /// The plan of a key that names none.
    pub default_plan: Box<str>,
    pub gateway: Limits,
    /// Of a user without an entry of their own.
    pub default_user: Limits,
    pub users: HashMap<Box<str>, Limits>,
    /// What is reserved for the answer when nobody caps it and a token limit applies.
    pub default_output_tokens: u64,
    /// What is reserved for a prompt with images, audio or files when the model's context is not known.
    pub default_context_tokens: u64,
}

/// Everyone whose limits a request counts against.
pub struct Party<'a> {
    pub key: &'a StoredKey,
    pub model: &'a Model,
    pub credential: &'a CredentialInfo,
}

/// The limits of one scope that a request touches.
pub type ScopeLimits = (Scope, Limits);

impl Policy {
    /// The limits of all scopes that limit anything, gateway first. `None`: the key's plan is not configured.
    #[must_use]
    pub fn scopes(&self, party: &Party<'_>) -> Option<Vec<ScopeLimits>> {
        // The gateway's own requests have no plan and no owner that limits them.
        let system = party.key.id == KeyId::system();
        let plan = if system { &Limits::NONE } else { self.plans.get(&*party.key.plan)? };
        let user = party.key.user_id.as_ref().filter(|_| !system).map(|user| {
            (
                Scope::User(user.clone()),
                self.users.get(&**user).map_or_else(|| self.default_user.clone(), |own| own.or(&self.default_user)),
            )
        });
        let scopes = [
            Some((Scope::Gateway, self.gateway.clone())),
            user,
            Some((Scope::Key(party.key.id.clone()), party.key.limits.or(plan))),
            Some((Scope::Model(party.model.label.clone()), party.model.limits.clone())),
            Some(credential_scope(party.credential)),
        ];
        Some(scopes.into_iter().flatten().filter(|(_, limits)| *limits != Limits::NONE).collect())
    }
}

#[must_use]
pub fn credential_scope(credential: &CredentialInfo) -> ScopeLimits {
    (Scope::Credential(credential.id.clone()), credential.limits.clone())
}

/// Whether any scope limits tokens: only then has the answer to be capped and the prompt to be bounded.
#[must_use]
pub fn limits_tokens(scopes: &[ScopeLimits]) -> bool {
    scopes.iter().any(|(_, limits)| limits.tokens_per_minute.is_some())
}

/// Whether any scope has a budget: only then has the cost of a request to be bounded.
#[must_use]
pub fn limits_money(scopes: &[ScopeLimits]) -> bool {
    scopes.iter().any(|(_, limits)| limits.budget.is_some())
}

/// What a request of this operation claims in each scope but money, with `tokens` as its upper bound.
#[must_use]
pub fn claims(scopes: &[ScopeLimits], operation: Operation, tokens: u64) -> Vec<Claim> {
    let mut claims = Vec::with_capacity(scopes.len() * 2);
    for (scope, limits) in scopes {
        let requests = match operation {
            Operation::Chat => (LimitKind::Requests, limits.requests_per_minute),
            Operation::ImageGeneration => (LimitKind::ImageRequests, limits.image_requests_per_minute),
        };
        let kinds = [
            (requests.0, requests.1, 1),
            (LimitKind::Tokens, limits.tokens_per_minute, tokens),
            (LimitKind::Concurrency, limits.max_concurrent_requests, 1),
        ];
        for (kind, limit, amount) in kinds {
            if let Some(limit) = limit.filter(|_| amount > 0) {
                let on_redis_down = limits.on_redis_down.unwrap_or_default();
                claims.push(Claim { scope: scope.clone(), kind, limit, amount, on_redis_down });
            }
        }
    }
    claims
}

/// Swapped whole when the configuration is read again; a request keeps the one it began with.
pub trait PolicySource: Send + Sync {
    fn current(&self) -> Arc<Policy>;
}

impl PolicySource for Arc<Policy> {
    fn current(&self) -> Arc<Policy> {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_are_made_only_for_limits_that_are_set_and_of_the_operation() {
        let limits = Limits {
            requests_per_minute: Some(10),
            image_requests_per_minute: Some(50),
            tokens_per_minute: Some(1000),
            ..Limits::NONE
        };
        let scopes = [(Scope::Gateway, limits)];
        let kinds = |operation, tokens| {
            claims(&scopes, operation, tokens).iter().map(|c| (c.kind, c.amount)).collect::<Vec<_>>()
        };
        assert_eq!(kinds(Operation::Chat, 7), [(LimitKind::Requests, 1), (LimitKind::Tokens, 7)]);
        assert_eq!(kinds(Operation::ImageGeneration, 0), [(LimitKind::ImageRequests, 1)]);
    }
}
