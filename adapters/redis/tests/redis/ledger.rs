//! A ledger of epochs and grants in memory, which can be away.

use std::{
    collections::{BTreeMap, HashMap},
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

#[derive(Default)]
pub(crate) struct Epochs(Mutex<State>);

#[derive(Default)]
struct State {
    epoch: i64,
    run_id: String,
    is_away: bool,
    attestations: u32,
    granted: HashMap<(Scope, Timestamp), HashMap<Holder, i128>>,
    /// What others remembered.
    recovered: Vec<UsageEvent>,
    released: Vec<RequestId>,
    /// Whether the processes of all spools were heard of.
    is_heard: bool,
}

impl Epochs {
    /// From now on it fails, or works again.
    pub(crate) fn set_away(&self, is_away: bool) {
        self.state().is_away = is_away;
    }

    /// How often it was asked.
    pub(crate) fn attestations(&self) -> u32 {
        self.state().attestations
    }

    /// As a database that is restored from a backup.
    pub(crate) fn step_back_to(&self, epoch: Epoch) {
        self.state().epoch = epoch.0;
    }

    /// Every event that it was told of by others, once each: its kind, number of its request, attempt and cost.
    pub(crate) fn recovered(&self) -> Vec<(EventKind, u128, u16, i64)> {
        let told = |event: &UsageEvent| (event.kind, event.request.0.as_u128(), event.attempt, event.cost.0);
        let mut all: Vec<_> = self.state().recovered.iter().map(told).collect();
        all.sort_by_key(|(_, request, attempt, _)| (*request, *attempt));
        all
    }

    /// Requests of which it was told that nothing is held any more.
    pub(crate) fn released(&self) -> Vec<u128> {
        self.state().released.iter().map(|request| request.0.as_u128()).collect()
    }

    /// Requests that it knows to be charged, as their journal told it.
    pub(crate) fn drain(&self, events: &[UsageEvent]) {
        self.state().recovered.extend_from_slice(events);
    }

    /// From now on it has heard of the processes of all spools, or of none.
    pub(crate) fn set_heard(&self, is_heard: bool) {
        self.state().is_heard = is_heard;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    fn available(&self) -> Result<MutexGuard<'_, State>, StoreError> {
        let state = self.state();
        if state.is_away { Err(unavailable()) } else { Ok(state) }
    }
}

#[async_trait]
impl UsageLedger for Epochs {
    async fn attest(&self, run_id: &str, lost: Option<Epoch>) -> Result<Epoch, StoreError> {
        self.state().attestations += 1;
        let mut state = self.available()?;
        if state.run_id != run_id || lost == Some(Epoch(state.epoch)) {
            state.epoch += 1;
            state.run_id = run_id.to_owned();
        }
        Ok(Epoch(state.epoch))
    }

    async fn grant(&self, request: &GrantRequest) -> Result<GrantAnswer, StoreError> {
        let mut state = self.available()?;
        if request.holder != Holder::Shared(Epoch(state.epoch)) {
            return Ok(GrantAnswer::Stale);
        }
        let holders = state.granted.entry((request.scope.clone(), request.window.start)).or_default();
        let before = holders.get(&request.holder).copied().unwrap_or(0);
        let elsewhere = holders.values().sum::<i128>() - before;
        let room = (request.limit.0 - elsewhere - before).max(0);
        let is_lost = before > request.known.0;
        let room = if is_lost { 0 } else { room };
        let more = (room / i128::from(request.share)).max(16 * i128::from(request.claim.0)).min(room);
        holders.insert(request.holder, before + more);
        let [before, granted, elsewhere] = [before, before + more, elsewhere].map(PicoUsdSum);
        Ok(GrantAnswer::Granted { before, granted, elsewhere, settled_elsewhere: PicoUsdSum::default() })
    }

    async fn lower(&self, _: &Scope, _: &MoneyWindow, _: Holder, _: PicoUsdSum) -> Result<(), StoreError> {
        Err(unavailable())
    }

    async fn attach(&self, _: SpoolId) -> Result<Attachment, StoreError> {
        Err(unavailable())
    }

    async fn append(&self, _: &Batch) -> Result<Appended, StoreError> {
        Err(unavailable())
    }

    async fn report(&self, _: &Audience, _: Timestamp, _: Timestamp) -> Result<UsageReport, StoreError> {
        Err(unavailable())
    }

    async fn recent(&self, _: &Audience, _: u16) -> Result<Vec<UsageEvent>, StoreError> {
        Err(unavailable())
    }

    async fn close_holders(&self, _: SpoolId, _: i64) -> Result<(), StoreError> {
        Err(unavailable())
    }

    async fn beat(&self, _: SpoolId, _: i64, _: Epoch) -> Result<(), StoreError> {
        Err(unavailable())
    }

    async fn retire(&self, _: SpoolId, _: i64) -> Result<(), StoreError> {
        Err(unavailable())
    }

    async fn recover(&self, _: SpoolId, remains: &Remains, silence: Duration) -> Result<Recovered, StoreError> {
        let mut state = self.available()?;
        let mut told = Recovered { are_held: !state.is_heard || silence.is_zero(), ..Recovered::default() };
        for hold in &remains.holds {
            let is_charge = |event: &&UsageEvent| event.request == hold.request && event.kind == EventKind::Charge;
            let charges: Vec<UsageEvent> = state.recovered.iter().filter(is_charge).cloned().collect();
            if !charges.is_empty() {
                told.charged.insert(hold.request, charges);
            }
        }
        let holds = remains.holds.iter().filter(|hold| told.are_held && !told.charged.contains_key(&hold.request));
        for event in remains.charges.iter().chain(holds) {
            let is_known = |known: &UsageEvent| {
                (known.request, known.attempt, known.kind) == (event.request, event.attempt, event.kind)
            };
            if !state.recovered.iter().any(is_known) {
                state.recovered.push(event.clone());
            }
        }
        state.released.extend_from_slice(&remains.never_sent);
        Ok(told)
    }

    async fn budget(&self, _: &Scope, _: &MoneyWindow) -> Result<BudgetSum, StoreError> {
        Err(unavailable())
    }

    async fn breakdown(
        &self,
        _: Dimension,
        _: Timestamp,
        _: Timestamp,
    ) -> Result<BTreeMap<String, Counters>, StoreError> {
        Err(unavailable())
    }

    async fn charges(
        &self,
        _: Timestamp,
        _: Timestamp,
        _: Option<(RequestId, u16)>,
    ) -> Result<Vec<UsageEvent>, StoreError> {
        Err(unavailable())
    }

    async fn verify(&self, _: Timestamp, _: Timestamp) -> Result<Verification, StoreError> {
        Err(unavailable())
    }

    async fn shares(&self, _: Holder, _: Timestamp, _: Option<&(Scope, Timestamp)>) -> Result<Vec<Share>, StoreError> {
        Err(unavailable())
    }

    async fn share(&self, _: Holder, _: &Scope, _: Timestamp) -> Result<Option<Share>, StoreError> {
        Err(unavailable())
    }

    async fn silent(&self, _: Duration) -> Result<u64, StoreError> {
        Err(unavailable())
    }
}

fn unavailable() -> StoreError {
    StoreError::Unavailable("away on purpose".into())
}
