//! Grants, epochs and holders of the recording ledger.

use std::collections::{BTreeMap, HashMap, HashSet};

use ai4free_ports::{
    budget::{Epoch, Holder, MoneyWindow},
    money::PicoUsdSum,
    rate_limiter::Scope,
    runtime::Timestamp,
    usage_ledger::{BudgetSum, GrantAnswer, GrantRequest, Share, SpoolId, UsageEvent},
};

/// All windows, by scope and start.
#[derive(Clone, Default)]
pub(super) struct Budgets {
    windows: BTreeMap<(Scope, i64), Window>,
    /// The current epoch, and the process that it was attested for.
    epoch: Option<(Epoch, String)>,
    /// Of each spool that beats.
    closed_epochs: HashMap<SpoolId, Epoch>,
    retired: HashSet<SpoolId>,
}

#[derive(Clone, Default)]
struct Window {
    end: Option<Timestamp>,
    /// What had been spent before the first grant.
    before: Option<i128>,
    holders: HashMap<Holder, Row>,
}

#[derive(Clone, Copy, Default)]
struct Row {
    granted: i128,
    settled: i128,
    is_closed: bool,
}

impl Row {
    fn committed(&self) -> i128 {
        if self.is_closed { self.settled } else { self.granted.max(self.settled) }
    }
}

impl Budgets {
    /// Adds a new event to what it is charged to.
    pub(super) fn charge(&mut self, event: &UsageEvent) {
        for spending in &event.spending {
            let window = self.windows.entry((spending.scope.clone(), spending.window.0)).or_default();
            window.holders.entry(spending.holder).or_default().settled += i128::from(event.cost.0);
        }
    }

    /// `generation` is that of a process holder's spool.
    pub(super) fn grant(
        &mut self,
        request: &GrantRequest,
        generation: Option<i64>,
        events: &[UsageEvent],
    ) -> GrantAnswer {
        let is_current = match request.holder {
            Holder::Shared(epoch) => self.epoch.as_ref().is_some_and(|(current, _)| *current == epoch),
            Holder::Process { spool, generation: own } => generation == Some(own) && !self.retired.contains(&spool),
        };
        if !is_current {
            return GrantAnswer::Stale;
        }
        let window = self.windows.entry((request.scope.clone(), request.window.start.0)).or_default();
        window.end = Some(request.window.end);
        if window.before.is_none() {
            window.before = Some(spent_before(window, &request.scope, &request.window, events));
        }
        let (mut elsewhere, mut settled_elsewhere) = (window.before.unwrap_or(0), window.before.unwrap_or(0));
        for (_, row) in window.holders.iter().filter(|(holder, _)| **holder != request.holder) {
            elsewhere += row.committed();
            settled_elsewhere += row.settled;
        }
        let row = window.holders.entry(request.holder).or_default();
        let before = row.granted;
        let room = (request.limit.0 - elsewhere - row.committed()).max(0);
        let is_known = before <= request.known.0;
        if room > 0 && is_known {
            let wanted = (room / i128::from(request.share.max(1))).max(16 * i128::from(request.claim.0));
            row.granted = row.committed() + wanted.min(room);
        }
        GrantAnswer::Granted {
            before: PicoUsdSum(before),
            granted: PicoUsdSum(row.granted),
            elsewhere: PicoUsdSum(elsewhere),
            settled_elsewhere: PicoUsdSum(settled_elsewhere),
        }
    }

    pub(super) fn lower(&mut self, scope: &Scope, window: &MoneyWindow, holder: Holder, to: PicoUsdSum) {
        let window = self.windows.get_mut(&(scope.clone(), window.start.0));
        if let Some(row) = window.and_then(|window| window.holders.get_mut(&holder)) {
            row.granted = row.granted.min(to.0);
        }
    }

    pub(super) fn attest(&mut self, run_id: &str, lost: Option<Epoch>) -> Epoch {
        let epoch = match &self.epoch {
            None if lost == Some(Epoch(1)) => Epoch(2),
            None => Epoch(1),
            Some((current, known)) if known == run_id && lost != Some(*current) => *current,
            Some((current, _)) => Epoch(current.0 + 1),
        };
        self.epoch = Some((epoch, run_id.to_owned()));
        epoch
    }

    pub(super) fn close_holders(&mut self, closed: SpoolId, before: i64) {
        self.close(
            |holder| matches!(holder, Holder::Process { spool, generation } if spool == closed && generation < before),
        );
    }

    pub(super) fn attach(&mut self, spool: SpoolId) {
        self.retired.remove(&spool);
        self.closed_epochs.entry(spool).or_default();
    }

    /// There is no clock here: nobody is silent for a day.
    pub(super) fn beat(&mut self, spool: SpoolId, closed_epoch: Epoch) {
        self.closed_epochs.insert(spool, closed_epoch);
        let living = self.closed_epochs.iter().filter(|(spool, _)| !self.retired.contains(spool));
        let closed = living.map(|(_, epoch)| *epoch).min().unwrap_or_default();
        let current = self.epoch.as_ref().map_or(Epoch(0), |(current, _)| *current);
        self.close(|holder| matches!(holder, Holder::Shared(epoch) if epoch <= closed && epoch < current));
    }

    pub(super) fn retire(&mut self, spool: SpoolId, generation: i64) {
        self.retired.insert(spool);
        self.close_holders(spool, generation + 1);
    }

    pub(super) fn sum(&self, scope: &Scope, span: &MoneyWindow, events: &[UsageEvent]) -> BudgetSum {
        let window = self.windows.get(&(scope.clone(), span.start.0)).cloned().unwrap_or_default();
        let before = window.before.unwrap_or_else(|| spent_before(&window, scope, span, events));
        BudgetSum {
            settled: PicoUsdSum(before + window.holders.values().map(|row| row.settled).sum::<i128>()),
            committed: PicoUsdSum(before + window.holders.values().map(Row::committed).sum::<i128>()),
        }
    }

    pub(super) fn shares(&self, holder: Holder, at: Timestamp, after: Option<&(Scope, Timestamp)>) -> Vec<Share> {
        let place = |scope: &Scope, window: Timestamp| (scope.to_text(), window.0);
        let after = after.map(|(scope, window)| place(scope, *window));
        let mut shares: Vec<Share> = self
            .windows
            .keys()
            .filter_map(|(scope, window)| self.share(holder, scope, Timestamp(*window)))
            .filter(|share| share.end.is_none_or(|end| end > at))
            .filter(|share| after.as_ref().is_none_or(|after| place(&share.scope, share.window) > *after))
            .collect();
        shares.sort_by_key(|share| place(&share.scope, share.window));
        shares.truncate(500);
        shares
    }

    pub(super) fn share(&self, holder: Holder, scope: &Scope, start: Timestamp) -> Option<Share> {
        let window = self.windows.get(&(scope.clone(), start.0))?;
        let row = window.holders.get(&holder)?;
        Some(Share {
            scope: scope.clone(),
            window: start,
            end: window.end,
            granted: PicoUsdSum(row.granted),
            settled: PicoUsdSum(row.settled),
        })
    }

    fn close(&mut self, is_over: impl Fn(Holder) -> bool) {
        for (holder, row) in self.windows.values_mut().flat_map(|window| &mut window.holders) {
            row.is_closed |= is_over(*holder);
        }
    }
}

/// By events that are charged to none of the holders.
fn spent_before(window: &Window, scope: &Scope, span: &MoneyWindow, events: &[UsageEvent]) -> i128 {
    let is_of_scope = |event: &&UsageEvent| match scope {
        Scope::Gateway => true,
        Scope::User(user) => event.user.as_ref() == Some(user),
        Scope::Key(key) => event.key == *key,
        Scope::Model(model) => event.model == *model,
        Scope::Credential(credential) => event.credential.as_ref() == Some(credential),
    };
    let in_window = events.iter().filter(|event| span.contains(event.admitted_at)).filter(is_of_scope);
    let spent: i128 = in_window.map(|event| i128::from(event.cost.0)).sum();
    (spent - window.holders.values().map(|row| row.settled).sum::<i128>()).max(0)
}
