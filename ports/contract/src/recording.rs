//! A ledger in memory that keeps the port's promises exactly, and fails when a test says so.

mod budgets;
mod sums;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use ai4free_ports::{
    budget::{Epoch, Holder, MoneyWindow},
    error::StoreError,
    money::PicoUsdSum,
    rate_limiter::Scope,
    request::RequestId,
    runtime::Timestamp,
    usage_ledger::{
        Appended, Attachment, Audience, Batch, BudgetSum, Counters, Dimension, EventKind, GrantAnswer, GrantRequest,
        Recovered, Remains, Share, SpoolId, UsageEvent, UsageLedger, UsageReport, Verification,
    },
};
use async_trait::async_trait;
use tokio::sync::Notify;

use self::budgets::Budgets;

/// What goes wrong with one append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing: the append works.
    None,
    /// An error, and nothing was committed.
    BeforeCommit,
    /// An error, although everything was committed.
    AfterCommit,
    /// No answer ever, and nothing was committed.
    HangBeforeCommit,
    /// No answer ever, although everything was committed.
    HangAfterCommit,
    /// A panic in the caller, although everything was committed.
    PanicAfterCommit,
}

#[derive(Default)]
pub struct RecordingLedger {
    state: Mutex<State>,
    /// The state before each commit.
    history: Mutex<Vec<State>>,
    faults: Mutex<VecDeque<Fault>>,
    batches: Mutex<Vec<Vec<UsageEvent>>>,
    closed_holders: Mutex<Vec<ClosedHolders>>,
    silent: Mutex<u64>,
    hung: Notify,
}

/// One call of [`UsageLedger::close_holders`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClosedHolders {
    pub spool: SpoolId,
    pub generation: i64,
    /// How many events were committed then.
    pub events: usize,
}

#[derive(Clone, Default)]
struct State {
    spools: HashMap<SpoolId, Attachment>,
    events: Vec<UsageEvent>,
    identities: HashSet<(RequestId, u16, EventKind, u16)>,
    budgets: Budgets,
}

impl RecordingLedger {
    /// What the next appends do, in order; those after them work.
    pub fn fail(&self, faults: impl IntoIterator<Item = Fault>) {
        self.faults.lock().unwrap().extend(faults);
    }

    /// The next appends work, whatever was said before.
    pub fn forgive(&self) {
        self.faults.lock().unwrap().clear();
    }

    /// Every event that was committed, in the order of commits.
    pub fn events(&self) -> Vec<UsageEvent> {
        self.state().events.clone()
    }

    /// Every batch that arrived, committed or not.
    pub fn batches(&self) -> Vec<Vec<UsageEvent>> {
        self.batches.lock().unwrap().clone()
    }

    /// Whose holders were closed, in order.
    pub fn closed_holders(&self) -> Vec<ClosedHolders> {
        self.closed_holders.lock().unwrap().clone()
    }

    /// So many processes say nothing from now on.
    pub fn fall_silent(&self, processes: u64) {
        *self.silent.lock().unwrap() = processes;
    }

    /// How many events of a spool are committed, as the ledger tells who attaches.
    pub fn acknowledged(&self) -> u64 {
        self.state().spools.values().map(|attachment| attachment.acknowledged).sum()
    }

    /// Loses the last commits, as a failover to a replica that lags behind does.
    pub fn lose_commits(&self, count: usize) {
        let mut history = self.history.lock().unwrap();
        for _ in 0..count {
            if let Some(before) = history.pop() {
                let mut state = self.state();
                let generations: Vec<_> = state.spools.iter().map(|(id, held)| (*id, held.generation)).collect();
                *state = before;
                for (id, generation) in generations {
                    let acknowledged = state.spools.get(&id).map_or(0, |held| held.acknowledged);
                    state.spools.insert(id, Attachment { generation, acknowledged });
                }
            }
        }
    }

    /// Forgets everything, as a database that was made anew does.
    pub fn forget_everything(&self) {
        *self.state() = State::default();
    }

    /// Waits until an append hangs.
    pub async fn hung(&self) {
        self.hung.notified().await;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn commit(&self, batch: &Batch) -> Appended {
        let mut state = self.state();
        let held = match state.spools.get(&batch.spool) {
            Some(held) if held.generation == batch.generation => *held,
            _ => return Appended::Fenced,
        };
        if held.acknowledged != batch.from {
            return Appended::StandsAt(held.acknowledged);
        }
        self.history.lock().unwrap().push(state.clone());
        for event in &batch.events {
            if state.identities.insert((event.request, event.attempt, event.kind, event.revision)) {
                state.events.push(event.clone());
                state.budgets.charge(event);
            }
        }
        let acknowledged = batch.from + batch.events.len() as u64;
        state.spools.insert(batch.spool, Attachment { acknowledged, ..held });
        Appended::Acknowledged(acknowledged)
    }
}

#[async_trait]
impl UsageLedger for RecordingLedger {
    async fn attach(&self, spool: SpoolId) -> Result<Attachment, StoreError> {
        let mut state = self.state();
        let held = state.spools.entry(spool).or_insert(Attachment { generation: 0, acknowledged: 0 });
        held.generation += 1;
        let held = *held;
        state.budgets.attach(spool);
        Ok(held)
    }

    async fn append(&self, batch: &Batch) -> Result<Appended, StoreError> {
        assert!(batch.events.len() <= 500, "a batch has at most 500 events");
        assert!(!batch.events.is_empty(), "an empty batch");
        self.batches.lock().unwrap().push(batch.events.clone());
        let fault = self.faults.lock().unwrap().pop_front().unwrap_or(Fault::None);
        let failed = || Err(StoreError::Unavailable("failed on purpose".into()));
        match fault {
            Fault::None => Ok(self.commit(batch)),
            Fault::BeforeCommit => failed(),
            Fault::AfterCommit => {
                self.commit(batch);
                failed()
            }
            Fault::PanicAfterCommit => {
                self.commit(batch);
                panic!("on purpose")
            }
            Fault::HangBeforeCommit | Fault::HangAfterCommit => {
                if fault == Fault::HangAfterCommit {
                    self.commit(batch);
                }
                self.hung.notify_one();
                std::future::pending().await
            }
        }
    }

    async fn report(&self, audience: &Audience, from: Timestamp, to: Timestamp) -> Result<UsageReport, StoreError> {
        let state = self.state();
        let events = state.events.iter().filter(|event| concerns(audience, event));
        let mut report = UsageReport::default();
        sums::count(events, from, to, |event, counters| {
            let day = i32::try_from(event.admitted_at.seconds().div_euclid(86_400)).unwrap();
            report.by_model.entry(event.model.to_string()).or_default().add(counters);
            report.by_day.entry(day).or_default().add(counters);
        });
        Ok(report)
    }

    async fn recent(&self, audience: &Audience, limit: u16) -> Result<Vec<UsageEvent>, StoreError> {
        let state = self.state();
        let newest_first = state.events.iter().rev().filter(|event| concerns(audience, event));
        Ok(newest_first.take(usize::from(limit)).cloned().collect())
    }

    async fn grant(&self, request: &GrantRequest) -> Result<GrantAnswer, StoreError> {
        let State { spools, events, budgets, .. } = &mut *self.state();
        let generation = match request.holder {
            Holder::Process { spool, .. } => spools.get(&spool).map(|held| held.generation),
            Holder::Shared(_) => None,
        };
        Ok(budgets.grant(request, generation, events))
    }

    async fn lower(
        &self,
        scope: &Scope,
        window: &MoneyWindow,
        holder: Holder,
        granted: PicoUsdSum,
    ) -> Result<(), StoreError> {
        self.state().budgets.lower(scope, window, holder, granted);
        Ok(())
    }

    async fn attest(&self, run_id: &str, lost: Option<Epoch>) -> Result<Epoch, StoreError> {
        Ok(self.state().budgets.attest(run_id, lost))
    }

    async fn close_holders(&self, spool: SpoolId, generation: i64) -> Result<(), StoreError> {
        let events = {
            let mut state = self.state();
            state.budgets.close_holders(spool, generation);
            state.events.len()
        };
        self.closed_holders.lock().unwrap().push(ClosedHolders { spool, generation, events });
        Ok(())
    }

    async fn beat(&self, spool: SpoolId, generation: i64, closed_epoch: Epoch) -> Result<(), StoreError> {
        let mut state = self.state();
        if state.spools.get(&spool).is_some_and(|held| held.generation == generation) {
            state.budgets.beat(spool, closed_epoch);
        }
        Ok(())
    }

    async fn recover(&self, _: SpoolId, _: &Remains, _: Duration) -> Result<Recovered, StoreError> {
        Err(StoreError::Unavailable("this ledger recovers nothing".into()))
    }

    async fn retire(&self, spool: SpoolId, generation: i64) -> Result<(), StoreError> {
        let mut state = self.state();
        if state.spools.get(&spool).is_some_and(|held| held.generation == generation) {
            state.budgets.retire(spool, generation);
        }
        Ok(())
    }

    async fn budget(&self, scope: &Scope, window: &MoneyWindow) -> Result<BudgetSum, StoreError> {
        let state = self.state();
        Ok(state.budgets.sum(scope, window, &state.events))
    }

    async fn breakdown(
        &self,
        by: Dimension,
        from: Timestamp,
        to: Timestamp,
    ) -> Result<BTreeMap<String, Counters>, StoreError> {
        Ok(sums::breakdown(&self.state().events, by, from, to))
    }

    async fn charges(
        &self,
        from: Timestamp,
        to: Timestamp,
        after: Option<(RequestId, u16)>,
    ) -> Result<Vec<UsageEvent>, StoreError> {
        Ok(sums::charges(&self.state().events, from, to, after))
    }

    /// The sums are made of the events when they are asked for: they can't differ.
    async fn verify(&self, from: Timestamp, to: Timestamp) -> Result<Verification, StoreError> {
        let days = from.seconds().div_euclid(86_400)..=Timestamp(to.0.saturating_sub(1)).seconds().div_euclid(86_400);
        let state = self.state();
        let events = state.events.iter().filter(|event| days.contains(&event.admitted_at.seconds().div_euclid(86_400)));
        let events = events.count() as u64;
        Ok(Verification { events, sums: events, differences: Vec::new() })
    }

    async fn shares(
        &self,
        holder: Holder,
        at: Timestamp,
        after: Option<&(Scope, Timestamp)>,
    ) -> Result<Vec<Share>, StoreError> {
        Ok(self.state().budgets.shares(holder, at, after))
    }

    async fn share(&self, holder: Holder, scope: &Scope, window: Timestamp) -> Result<Option<Share>, StoreError> {
        Ok(self.state().budgets.share(holder, scope, window))
    }

    /// There is no clock here: a test says it.
    async fn silent(&self, _: Duration) -> Result<u64, StoreError> {
        Ok(*self.silent.lock().unwrap())
    }
}

fn concerns(audience: &Audience, event: &UsageEvent) -> bool {
    match audience {
        Audience::Key(key) => event.key == *key,
        Audience::Operator => true,
    }
}
