//! Budgets as one would keep them without a thought for cost: every use there ever was, in a list of 128-bit integers.

use std::{collections::HashMap, time::Duration};

use ai4free_ports::{
    budget::{Grant, GrantStanding, Holder},
    money::PicoUsdSum,
    rate_limiter::{Certainty, LeaseId, MoneyClaim, NeededGrant, Reservation, Scope, SettledMoney, Settlement},
    runtime::Timestamp,
};

pub(super) struct MoneyModel {
    pub(super) holder: Holder,
    granted_at_first: Option<PicoUsdSum>,
    granted: HashMap<(Scope, Timestamp), Granted>,
    uses: Vec<Use>,
}

struct Granted {
    amount: i128,
    elsewhere: PicoUsdSum,
    settled_elsewhere: PicoUsdSum,
    final_until: Timestamp,
}

struct Use {
    lease: LeaseId,
    scope: Scope,
    window: Timestamp,
    reserved: i128,
    settled: i128,
}

impl MoneyModel {
    pub(super) fn new(holder: Holder, granted_at_first: Option<PicoUsdSum>) -> Self {
        Self { holder, granted_at_first, granted: HashMap::new(), uses: Vec::new() }
    }

    pub(super) fn grant(&mut self, grant: &Grant, now: Timestamp) {
        let at = (grant.scope.clone(), grant.window.start);
        let is_late = self.granted.get(&at).is_some_and(|before| before.amount > grant.granted.0);
        if grant.holder != self.holder || is_late {
            return;
        }
        let final_until = if grant.is_final { now.saturating_add(Duration::from_secs(1)) } else { Timestamp(0) };
        let (amount, elsewhere, settled_elsewhere) = (grant.granted.0, grant.elsewhere, grant.settled_elsewhere);
        self.granted.insert(at, Granted { amount, elsewhere, settled_elsewhere, final_until });
    }

    /// A reason that comes before those of the counts.
    pub(super) fn refusal(&self, claims: &[MoneyClaim], now: Timestamp) -> Option<Reservation> {
        if claims.iter().any(|claim| !claim.is_top_up && !claim.window.contains(now)) {
            return Some(Reservation::WrongWindow { now });
        }
        let exhausted = |claim: &MoneyClaim| {
            let granted = self.granted(claim)?;
            let is_certain = self.after(claim) > claim.limit.0 || granted.final_until > now;
            (!self.fits(claim) && is_certain).then(|| self.standing(claim))
        };
        let (claim, standing) = claims.iter().enumerate().find_map(|(at, claim)| Some((at, exhausted(claim)?)))?;
        Some(Reservation::Exhausted { claim, standing })
    }

    /// The reason that comes after those of the counts.
    pub(super) fn missing(&self, claims: &[MoneyClaim]) -> Option<Reservation> {
        let missing = claims.iter().enumerate().filter(|(_, claim)| !self.fits(claim));
        let needed: Vec<NeededGrant> = missing
            .map(|(at, claim)| {
                let granted = self.granted(claim).map(|granted| PicoUsdSum(granted.amount));
                NeededGrant { claim: at, granted: granted.or(self.granted_at_first) }
            })
            .collect();
        (!needed.is_empty()).then_some(Reservation::NeedsGrants { holder: self.holder, needed })
    }

    pub(super) fn take(&mut self, lease: LeaseId, claims: &[MoneyClaim]) {
        self.uses.extend(claims.iter().map(|claim| Use {
            lease,
            scope: claim.scope.clone(),
            window: claim.window.start,
            reserved: claim.amount.0.into(),
            settled: 0,
        }));
    }

    pub(super) fn settle(&mut self, settlement: &Settlement) {
        for SettledMoney { claim, actual } in &settlement.money {
            let of_claim = |found: &&mut Use| found.lease == settlement.lease && found.scope == claim.scope;
            self.uses.iter_mut().filter(of_claim).for_each(|found| {
                found.reserved = 0;
                found.settled = match settlement.certainty {
                    Certainty::Held => actual.0.into(),
                    Certainty::Unknown => 0,
                };
            });
        }
    }

    pub(super) fn standing(&self, claim: &MoneyClaim) -> GrantStanding {
        let uses = || self.uses.iter().filter(|found| found.scope == claim.scope && found.window == claim.window.start);
        GrantStanding {
            granted: PicoUsdSum(self.granted(claim).map_or(0, |granted| granted.amount)),
            settled: PicoUsdSum(uses().map(|found| found.settled).sum()),
            reserved: PicoUsdSum(uses().map(|found| found.reserved).sum()),
            elsewhere: self.granted(claim).map(|granted| granted.elsewhere).unwrap_or_default(),
            settled_elsewhere: self.granted(claim).map(|granted| granted.settled_elsewhere).unwrap_or_default(),
        }
    }

    fn fits(&self, claim: &MoneyClaim) -> bool {
        let after = self.after(claim);
        match self.granted(claim) {
            Some(granted) => after <= granted.amount && after + granted.elsewhere.0 <= claim.limit.0,
            None => claim.amount.0 == 0,
        }
    }

    fn after(&self, claim: &MoneyClaim) -> i128 {
        self.standing(claim).used().0 + i128::from(claim.amount.0)
    }

    fn granted(&self, claim: &MoneyClaim) -> Option<&Granted> {
        self.granted.get(&(claim.scope.clone(), claim.window.start))
    }
}
