//! A ledger in memory that keeps the port's promises exactly, and fails when a test says so.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    sync::{Mutex, MutexGuard},
};

use ai4free_ports::{
    budget::{Epoch, MoneyWindow},
    error::StoreError,
    rate_limiter::Scope,
    request::RequestId,
    runtime::Timestamp,
    usage_ledger::{
        Appended, Attachment, Audience, Batch, BudgetSum, Counters, Dimension, EventKind, GrantAnswer, GrantRequest,
        Outcome, SpoolId, UsageEvent, UsageLedger, UsageReport, Verification,
    },
};
use async_trait::async_trait;
use tokio::sync::Notify;

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
        Ok(*held)
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
        let hour = |at: Timestamp| at.seconds().div_euclid(3600);
        let hours = hour(from)..hour(Timestamp(to.0 + 3_599_999_999));
        let mut report = UsageReport::default();
        let mut last_charges: BTreeMap<RequestId, UsageEvent> = BTreeMap::new();
        let mut add = |event: &UsageEvent, counters: Counters| {
            let day = i32::try_from(event.admitted_at.seconds().div_euclid(86_400)).unwrap();
            report.by_model.entry(event.model.to_string()).or_default().add(&counters);
            report.by_day.entry(day).or_default().add(&counters);
        };
        for event in self.state().events.iter().filter(|event| concerns(audience, event)) {
            if !hours.contains(&hour(event.admitted_at)) {
                continue;
            }
            let mut counters = Counters {
                input_tokens: event.usage.input_total(),
                output_tokens: event.usage.output_total(),
                ..Counters::default()
            };
            counters.cost += event.cost;
            add(event, counters);
            let last = last_charges.get(&event.request).is_none_or(|last| last.attempt <= event.attempt);
            if event.kind == EventKind::Charge && last {
                last_charges.insert(event.request, event.clone());
            }
        }
        for event in last_charges.values() {
            let successful = u64::from(event.outcome == Outcome::Success);
            let cancelled = u64::from(event.outcome == Outcome::Cancelled);
            add(event, Counters { requests: 1, successful, cancelled, ..Counters::default() });
        }
        Ok(report)
    }

    async fn recent(&self, audience: &Audience, limit: u16) -> Result<Vec<UsageEvent>, StoreError> {
        let state = self.state();
        let newest_first = state.events.iter().rev().filter(|event| concerns(audience, event));
        Ok(newest_first.take(usize::from(limit)).cloned().collect())
    }

    async fn grant(&self, _: &GrantRequest) -> Result<GrantAnswer, StoreError> {
        Err(StoreError::Unavailable("not built".into()))
    }

    async fn attest(&self, _: &str, _: Option<Epoch>) -> Result<Epoch, StoreError> {
        Err(StoreError::Unavailable("not built".into()))
    }

    async fn close_holders(&self, spool: SpoolId, generation: i64) -> Result<(), StoreError> {
        let events = self.state().events.len();
        self.closed_holders.lock().unwrap().push(ClosedHolders { spool, generation, events });
        Ok(())
    }

    async fn budget(&self, _: &Scope, _: &MoneyWindow) -> Result<BudgetSum, StoreError> {
        Err(StoreError::Unavailable("not built".into()))
    }

    async fn breakdown(
        &self,
        _: Dimension,
        _: Timestamp,
        _: Timestamp,
    ) -> Result<BTreeMap<String, Counters>, StoreError> {
        Err(StoreError::Unavailable("not built".into()))
    }

    async fn charges(
        &self,
        _: Timestamp,
        _: Timestamp,
        _: Option<(RequestId, u16)>,
    ) -> Result<Vec<UsageEvent>, StoreError> {
        Err(StoreError::Unavailable("not built".into()))
    }

    async fn verify(&self, _: Timestamp, _: Timestamp) -> Result<Verification, StoreError> {
        Err(StoreError::Unavailable("not built".into()))
    }
}

fn concerns(audience: &Audience, event: &UsageEvent) -> bool {
    match audience {
        Audience::Key(key) => event.key == *key,
        Audience::Operator => true,
    }
}
