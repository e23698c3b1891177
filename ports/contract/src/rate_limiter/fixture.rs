//! What clauses reserve and settle.

use ai4free_ports::{
    key::KeyId,
    limits::OutagePolicy,
    rate_limiter::{Certainty, Claim, Claims, LeaseId, LimitKind, Scope, SettledClaim, Settlement},
    request::RequestId,
};
use uuid::Uuid;

/// A lease of its own request.
#[must_use]
pub fn lease(number: u128) -> LeaseId {
    LeaseId { request: RequestId(Uuid::from_u128(number)), number: 0 }
}

#[must_use]
pub fn claim(scope: Scope, kind: LimitKind, limit: u64, amount: u64) -> Claim {
    Claim { scope, kind, limit, amount, on_redis_down: OutagePolicy::LocalShare }
}

/// Claims without money.
#[must_use]
pub fn counts(claims: &[Claim]) -> Claims {
    Claims::from(claims.to_vec())
}

/// The settlement of held claims to what `actual` says of each.
#[must_use]
pub fn settlement(id: LeaseId, claims: &[Claim], actual: &[u64]) -> Settlement {
    let claims =
        claims.iter().zip(actual).map(|(claim, actual)| SettledClaim { claim: claim.clone(), actual: *actual });
    let certainty = Certainty::Held;
    Settlement { lease: id, claims: claims.collect(), money: Vec::new(), holder: None, certainty, events: Vec::new() }
}

/// The settlement of claims of which nobody knows whether they were held.
#[must_use]
pub fn void(id: LeaseId, claims: &[Claim]) -> Settlement {
    let claims = claims.iter().map(|claim| SettledClaim { claim: claim.clone(), actual: claim.amount }).collect();
    let certainty = Certainty::Unknown;
    Settlement { lease: id, claims, money: Vec::new(), holder: None, certainty, events: Vec::new() }
}

pub(super) fn user(id: &str) -> Scope {
    Scope::User(id.into())
}

pub(super) fn key() -> Scope {
    Scope::Key(KeyId::parse("0123456789ab").unwrap())
}
