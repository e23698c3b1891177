//! What a request holds in the limiter, from the reservation to the settlement.

use std::sync::Arc;

use ai4free_ports::{
    budget::{Holder, Spending},
    money::PicoUsd,
    rate_limiter::{
        Certainty, Claim, Claims, Held, LeaseId, LimitKind, MoneyClaim, Scope, SettledClaim, SettledMoney, Settlement,
    },
    request::{Operation, RequestId},
    usage::TokenUsage,
    usage_ledger::UsageEvent,
};

use futures_util::future::BoxFuture;

use crate::application::{
    failure::Failure,
    policy::{self, ScopeLimits},
    reserver::{NotHeld, Reserver},
    standing::LimitHeaders,
};

/// The most that a request can use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpperBound {
    /// In and out. Not looked at when no scope limits tokens.
    pub tokens: u64,
    /// `None`: the model has no price.
    pub cost: Option<PicoUsd>,
}

/// A top-up that is being asked for. It may be dropped at any time.
pub(super) type ToppingUp = BoxFuture<'static, ToppedUp>;

/// What the limiter said to a top-up.
pub(super) struct ToppedUp {
    id: LeaseId,
    tokens: u64,
    held: Result<Held, NotHeld>,
}

/// Leases that have to be given back. Dropping them voids what was not settled: nothing was sent.
pub(super) struct Leases {
    reserver: Arc<Reserver>,
    request: RequestId,
    /// The request at its bound, once something holds money.
    event: Option<Arc<UsageEvent>>,
    leases: Vec<Lease>,
}

struct Lease {
    id: LeaseId,
    /// Holds more of what an earlier lease counts.
    is_top_up: bool,
    claims: Claims,
    holder: Option<Holder>,
    certainty: Certainty,
}

impl Leases {
    pub(super) fn none(reserver: Arc<Reserver>, request: RequestId) -> Self {
        Self { reserver, request, event: None, leases: Vec::new() }
    }

    /// One more lease, held together with the others: all that these scopes limit, or nothing. `event`: the whole event at what
    /// is held, of which a limiter that outlives this process tells if nobody else can.
    pub(super) async fn reserve(
        &mut self,
        scopes: &[ScopeLimits],
        operation: Operation,
        bound: UpperBound,
        event: &UsageEvent,
    ) -> Result<LimitHeaders, Failure> {
        let number = u16::try_from(self.leases.len()).unwrap_or(u16::MAX);
        let counts = policy::claims(scopes, operation, bound.tokens);
        let money = self.reserver.money(scopes, bound.cost)?;
        let event = (!money.is_empty()).then(|| Arc::new(event.clone()));
        if event.is_some() {
            self.event.clone_from(&event);
        }
        let claims = Claims { counts, money, event };
        if claims.is_empty() {
            return Ok(LimitHeaders::default());
        }
        // Armed before the reservation is awaited: a client that leaves meanwhile leaves no lease behind.
        let id = LeaseId { request: self.request, number };
        let lease = Lease { id, is_top_up: false, claims, holder: None, certainty: Certainty::Unknown };
        let lease = self.leases.push_mut(lease);
        match self.reserver.hold(id, &mut lease.claims, scopes).await {
            Ok(held) => {
                lease.certainty = Certainty::Held;
                lease.holder = held.holder;
                Ok(LimitHeaders::of(&lease.claims.counts, &held))
            }
            Err(NotHeld::Refused(failure)) => {
                self.leases.pop(); // nothing to give back
                Err(failure)
            }
            Err(NotHeld::Unknown(failure)) => Err(failure),
        }
    }

    /// Begins to ask for more tokens, and for what they cost, in all scopes that a request with this credential holds tokens or
    /// money in. `None`: there are none.
    pub(super) fn top_up(&mut self, credential: Option<&str>, tokens: u64, cost: Option<PicoUsd>) -> Option<ToppingUp> {
        let number = u16::try_from(self.leases.len()).unwrap_or(u16::MAX);
        let mut claims = Claims::default();
        for lease in self.leases.iter().filter(|lease| !lease.is_top_up) {
            for claim in &lease.claims.counts {
                let is_new = claims.counts.iter().all(|known| known.scope != claim.scope);
                if claim.kind == LimitKind::Tokens && serves(&claim.scope, credential) && is_new {
                    claims.counts.push(Claim { amount: tokens, ..claim.clone() });
                }
            }
            for claim in &lease.claims.money {
                let is_new = claims.money.iter().all(|known| known.scope != claim.scope);
                if serves(&claim.scope, credential) && is_new {
                    // What has no price holds no money, and what can't be written down is more than any budget.
                    let amount = cost.unwrap_or(PicoUsd(i64::MAX));
                    claims.money.push(MoneyClaim { amount, is_top_up: true, ..claim.clone() });
                }
            }
        }
        if claims.is_empty() {
            return None;
        }
        if let Some(event) = self.event.as_deref().filter(|_| !claims.money.is_empty()) {
            let usage = TokenUsage { output: tokens, ..TokenUsage::default() };
            claims.event = Some(Arc::new(UsageEvent { usage, ..event.clone() }));
        }
        let id = LeaseId { request: self.request, number };
        // Armed now: whether the answer is awaited or not, the lease is given back.
        let lease = Lease { id, is_top_up: true, claims: claims.clone(), holder: None, certainty: Certainty::Unknown };
        self.leases.push(lease);
        let reserver = self.reserver.clone();
        Some(Box::pin(async move {
            // No scopes: its windows are those of the first lease, also when they have ended.
            let held = reserver.hold(id, &mut claims, &[]).await;
            ToppedUp { id, tokens, held }
        }))
    }

    /// Takes note of the answer. The tokens that are held now, unless it was refused.
    pub(super) fn topped_up(&mut self, ToppedUp { id, tokens, held }: ToppedUp) -> Option<u64> {
        let position = self.leases.iter().position(|lease| lease.id == id)?;
        match held {
            Ok(held) => {
                let money_is_elsewhere = self.leases.iter().any(|lease| {
                    !lease.is_top_up && lease.holder.is_some() && held.holder.is_some() && lease.holder != held.holder
                });
                let lease = self.leases.get_mut(position)?;
                lease.certainty = Certainty::Held;
                lease.holder = held.holder;
                if money_is_elsewhere {
                    // One row is charged to one holder: it can't spend what another has granted.
                    let lease = self.leases.remove(position);
                    self.settle_lease(lease, 0, &[], Vec::new());
                    return None;
                }
                Some(tokens)
            }
            Err(NotHeld::Refused(_)) => {
                self.leases.remove(position); // nothing to give back
                None
            }
            Err(NotHeld::Unknown(_)) => None,
        }
    }

    /// The budgets that an attempt with this credential is charged to.
    pub(super) fn spending(&self, credential: Option<&str>) -> Vec<Spending> {
        let mut spending = Vec::new();
        for lease in &self.leases {
            let Some(holder) = lease.holder else { continue };
            for claim in &lease.claims.money {
                let window = claim.window.start;
                let is_known = spending.iter().any(|known: &Spending| known.scope == claim.scope);
                if serves(&claim.scope, credential) && !is_known {
                    spending.push(Spending { scope: claim.scope.clone(), window, holder });
                }
            }
        }
        spending
    }

    /// Settles every lease to what the attempts used. Never blocks.
    ///
    /// `sent` is 0 for a request that never reached a provider: then it does not count. Whether more of a budget was used than
    /// was held.
    pub(super) fn settle(&mut self, sent: u64, attempts: &[UsageEvent]) -> bool {
        let is_exceeded = self.is_exceeded(attempts);
        // Top-ups hold more of what an earlier lease counts: that is settled to all that was used, and they to nothing, after it.
        for lease in std::mem::take(&mut self.leases) {
            let counted = if lease.is_top_up { &[] } else { attempts };
            let events = if lease.is_remembered() { attempts.to_vec() } else { Vec::new() };
            self.settle_lease(lease, sent, counted, events);
        }
        is_exceeded
    }

    fn is_exceeded(&self, attempts: &[UsageEvent]) -> bool {
        let claims = || self.leases.iter().flat_map(|lease| &lease.claims.money);
        claims().any(|claim| {
            let held = claims().filter(|other| other.scope == claim.scope).map(|other| i128::from(other.amount.0));
            let cost = used(attempts, &claim.scope).map(|event| i128::from(event.cost.0));
            cost.sum::<i128>() > held.sum::<i128>()
        })
    }

    fn settle_lease(&self, lease: Lease, sent: u64, counted: &[UsageEvent], events: Vec<UsageEvent>) {
        let actual = |claim: &Claim| match claim.kind {
            LimitKind::Requests | LimitKind::ImageRequests => sent,
            LimitKind::Tokens => {
                used(counted, &claim.scope).map(|event| event.usage.total()).fold(0, u64::saturating_add)
            }
            LimitKind::Concurrency => 0,
        };
        let cost =
            |claim: &MoneyClaim| used(counted, &claim.scope).map(|event| event.cost.0).fold(0, i64::saturating_add);
        let Claims { counts, money, .. } = lease.claims;
        self.reserver.settle(Settlement {
            lease: lease.id,
            claims: counts.into_iter().map(|claim| SettledClaim { actual: actual(&claim), claim }).collect(),
            money: money.into_iter().map(|claim| SettledMoney { actual: PicoUsd(cost(&claim)), claim }).collect(),
            holder: lease.holder,
            certainty: lease.certainty,
            events,
        });
    }
}

impl Lease {
    /// Whether the limiter keeps the request's events until the ledger has them: with its first lease, if that is shared.
    fn is_remembered(&self) -> bool {
        self.id.number == 0 && !self.claims.money.is_empty() && matches!(self.holder, Some(Holder::Shared(_)))
    }
}

impl Drop for Leases {
    fn drop(&mut self) {
        self.settle(0, &[]);
    }
}

/// The attempts that count in a scope.
fn used<'a>(attempts: &'a [UsageEvent], scope: &Scope) -> impl Iterator<Item = &'a UsageEvent> {
    attempts.iter().filter(move |event| serves(scope, event.credential.as_deref()))
}

/// Whether what was used with a credential counts in a scope.
fn serves(scope: &Scope, credential: Option<&str>) -> bool {
    match scope {
        Scope::Credential(id) => credential == Some(&**id),
        Scope::Gateway | Scope::User(_) | Scope::Key(_) | Scope::Model(_) => true,
    }
}
