//! What is left of a caller's limits, as clients are told.

use ai4free_ports::rate_limiter::{Claim, Held, LimitKind, Scope, Standing};

/// What is left of one limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitStanding {
    pub scope: Scope,
    pub limit: u64,
    pub standing: Standing,
}

/// The limits with the least left, for the `x-ratelimit-*` headers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LimitHeaders {
    pub requests: Option<LimitStanding>,
    pub tokens: Option<LimitStanding>,
    /// The shared limiter is away: limits are enforced as each one's policy says.
    pub is_degraded: bool,
    /// The journal takes nothing: the request is served, and may have no row.
    pub is_unmetered: bool,
}

impl LimitHeaders {
    /// Of claims that are held, each with its standing.
    pub(super) fn of(claims: &[Claim], held: &Held) -> Self {
        let least = |wanted: fn(LimitKind) -> bool| {
            let of_kind = claims.iter().zip(&held.counts).filter(|(claim, _)| wanted(claim.kind));
            of_kind.min_by_key(|(_, standing)| standing.remaining).map(|(claim, standing)| LimitStanding {
                scope: claim.scope.clone(),
                limit: claim.limit,
                standing: *standing,
            })
        };
        Self {
            requests: least(|kind| matches!(kind, LimitKind::Requests | LimitKind::ImageRequests)),
            tokens: least(|kind| kind == LimitKind::Tokens),
            is_degraded: held.is_degraded,
            is_unmetered: false,
        }
    }
}
