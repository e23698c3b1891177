//! Checking and taking the money claims of one reservation.

use std::time::Duration;

use ai4free_ports::{
    budget::{GrantStanding, Holder},
    rate_limiter::{MoneyClaim, NeededGrant, Reservation},
    runtime::Timestamp,
};

use super::{
    budgets::{Budget, Fit},
    shards::LockedScopes,
};

/// How each claim stands before anything is held.
pub(super) struct Assessment {
    fit: Fit,
    /// `None`: nothing was granted yet.
    standing: Option<GrantStanding>,
}

pub(super) fn assess(scopes: &mut LockedScopes<'_>, claims: &[MoneyClaim], now: Duration) -> Vec<Assessment> {
    let assess = |claim: &MoneyClaim| match budget(scopes, claim) {
        Some(budget) => Assessment { fit: budget.fit(claim, now), standing: Some(budget.standing()) },
        // What costs nothing needs no grant.
        None if claim.amount.0 == 0 => Assessment { fit: Fit::Fits, standing: None },
        None => Assessment { fit: Fit::NeedsGrant, standing: None },
    };
    claims.iter().map(assess).collect()
}

/// What is told rather than that a count is used up.
pub(super) fn refusal(claims: &[MoneyClaim], assessed: &[Assessment], wall_clock: Timestamp) -> Option<Reservation> {
    if claims.iter().any(|claim| !claim.is_top_up && !claim.window.contains(wall_clock)) {
        return Some(Reservation::WrongWindow { now: wall_clock });
    }
    let (claim, exhausted) = assessed.iter().enumerate().find(|(_, claim)| claim.fit == Fit::Exhausted)?;
    Some(Reservation::Exhausted { claim, standing: exhausted.standing.unwrap_or_default() })
}

/// All the grants that are missing, at once.
pub(super) fn missing(holder: Option<Holder>, assessed: &[Assessment]) -> Option<Reservation> {
    let missing = assessed.iter().enumerate().filter(|(_, claim)| claim.fit == Fit::NeedsGrant);
    let needed: Vec<NeededGrant> = missing
        .map(|(claim, Assessment { standing, .. })| NeededGrant {
            claim,
            // Nothing is ever lost here: what is not known was never spent.
            granted: Some(standing.unwrap_or_default().granted),
        })
        .collect();
    if needed.is_empty() { None } else { Some(Reservation::NeedsGrants { holder: holder?, needed }) }
}

/// Reserves claims that were found to fit.
pub(super) fn take(scopes: &mut LockedScopes<'_>, claims: &[MoneyClaim]) -> Vec<GrantStanding> {
    for claim in claims {
        if let Some(budget) = budget(scopes, claim) {
            budget.reserve(claim.amount);
        }
    }
    standings(scopes, claims)
}

pub(super) fn standings(scopes: &mut LockedScopes<'_>, claims: &[MoneyClaim]) -> Vec<GrantStanding> {
    let standing = |claim| budget(scopes, claim).map(|budget| budget.standing()).unwrap_or_default();
    claims.iter().map(standing).collect()
}

pub(super) fn budget<'a>(scopes: &'a mut LockedScopes<'_>, claim: &MoneyClaim) -> Option<&'a mut Budget> {
    scopes.existing_cell(&claim.scope)?.budgets.of_mut(&claim.window)
}
